//! The log: lines on stderr, written by a thread of its own.
//!
//! The reader of stderr may stall, close the pipe or run out of disk space. None of that may block or
//! end a thread of the server, so a thread that logs only appends to a bounded queue; lines that do
//! not fit, or that cannot be written, are counted, and the count is logged as soon as lines can be
//! written again. [`start`] installs the subscriber and the panic hook; dropping the value that it
//! returns waits up to a second for queued lines to be written.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{error, warn};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Octets that may wait to be written.
const MAX_QUEUED: usize = 1 << 20;

/// How long the exit of the process waits for lines to be written.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// The process has one log.
static LOG: Log = Log::new();

/// Lines lost since the start: the queue was full, or a write to stderr failed.
pub(crate) fn lost() -> u64 {
    LOG.queue().lost
}

/// Logs to stderr what passes `filter`, and the panics of all threads. Call it once.
///
/// # Errors
/// The thread cannot be started.
pub fn start(filter: EnvFilter, timestamps: bool) -> io::Result<LogGuard> {
    let thread = thread::Builder::new()
        .name("log".to_owned())
        .spawn(|| LOG.write_to(&mut Stderr))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(&LOG)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    if timestamps {
        subscriber.init();
    } else {
        subscriber.without_time().init();
    }
    panic::set_hook(Box::new(log_panic));
    Ok(LogGuard(thread))
}

/// Writes a line to stderr directly, for commands without a log. It is lost if stderr is not
/// writable within a second.
pub(crate) fn print_error(line: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let wait = u16::try_from(EXIT_WAIT.as_millis()).unwrap_or(u16::MAX);
    // A pipe that is writable has room for a page, so a line does not block.
    if poll(&mut fds, wait).is_ok_and(|ready| ready > 0) {
        let _ = stderr.lock().write_all(format!("{line}\n").as_bytes());
    }
}

/// The owner of the log's thread, dropped at the end of the process: waits until the queued lines
/// are written, or a second has passed, and ends the thread. One that stderr blocks ends with the
/// process.
#[must_use]
#[derive(Debug)]
pub struct LogGuard(JoinHandle<()>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        let deadline = Instant::now() + EXIT_WAIT;
        LOG.close();
        while !self.0.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Logs a panic; what follows from it is up to the thread's owner.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    error!("thread {name} panicked at {location}: {message}; this is a bug, please report it");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        error!("{backtrace}");
    }
}

/// The queue between the threads that log and the one that writes.
struct Log {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Sum of the lines' lengths.
    octets: usize,
    /// The thread is writing a line.
    writing: bool,
    /// The thread ends when all lines are written.
    closed: bool,
    lost: u64,
}

impl Log {
    const fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                lines: VecDeque::new(),
                octets: 0,
                writing: false,
                closed: false,
                lost: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// The lock is held briefly, never during a write.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.queue();
        if queue.octets + line.len() > MAX_QUEUED {
            queue.lost += 1;
            return;
        }
        queue.octets += line.len();
        queue.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Waits for a line. `None`: the log is closed, and there are no more.
    fn pop(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.octets -= line.len();
                queue.writing = true;
                return Some(line);
            }
            if queue.closed {
                return None;
            }
            let changed = self.changed.wait(queue);
            queue = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records whether the popped line was written. Returns the number of lost lines.
    fn popped(&self, written: bool) -> u64 {
        let mut queue = self.queue();
        queue.writing = false;
        queue.lost += u64::from(!written);
        self.changed.notify_all();
        queue.lost
    }

    /// Writes lines as they come, until the log is closed.
    fn write_to(&self, out: &mut impl Write) {
        let mut reported = 0;
        while let Some(line) = self.pop() {
            let written = out.write_all(&line).is_ok();
            let lost = self.popped(written);
            if written && lost > reported {
                warn!("{} lines could not be logged", lost - reported);
                reported = lost;
            }
        }
    }

    /// Has the thread end when all lines are written.
    fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_all();
    }

    /// Whether all lines are written, after `wait` at most.
    #[cfg(test)]
    fn flush(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut queue = self.queue();
        while queue.writing || !queue.lines.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let changed = self.changed.wait_timeout(queue, left);
            queue = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// The subscriber's writer: each call is one line.
#[derive(Debug)]
struct Line(&'static Log);

impl<'a> MakeWriter<'a> for &'static Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The standard error stream, which another process may have made non-blocking.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match stderr.lock().write(octets) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::NONE)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A destination that takes the outcome of each line from a channel.
    struct Scripted {
        outcomes: Receiver<bool>,
        lines: Sender<Vec<u8>>,
    }

    impl Write for Scripted {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.outcomes.recv() {
                Ok(true) => {}
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            let _ = self.lines.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() -> (&'static Log, Sender<bool>, Receiver<Vec<u8>>) {
        let log: &'static Log = Box::leak(Box::new(Log::new()));
        let (to_outcomes, outcomes) = channel();
        let (lines, written) = channel();
        thread::spawn(move || log.write_to(&mut Scripted { outcomes, lines }));
        (log, to_outcomes, written)
    }

    #[test]
    fn a_closed_log_writes_what_is_queued_and_ends() {
        let (log, to_outcomes, written) = log();
        log.push(b"a");
        log.close();
        to_outcomes.send(true).unwrap();
        // The sender goes with the thread.
        assert_eq!(written.iter().collect::<Vec<_>>(), [b"a"]);
    }

    #[test]
    fn a_blocked_destination_blocks_no_thread_that_logs() {
        let (log, to_outcomes, written) = log();
        let line = vec![b'x'; 1000];
        let lines = 2 * MAX_QUEUED / line.len();
        for _ in 0..lines {
            Line(log).write_all(&line).unwrap();
        }
        let lost = log.queue().lost;
        assert!(lost > 0 && lost < lines as u64, "{lost}");
        let begin = Instant::now();
        assert!(!log.flush(Duration::from_millis(50)));
        assert!(begin.elapsed() >= Duration::from_millis(50), "it waits");
        // The destination is unblocked: all queued lines are written.
        for _ in 0..lines {
            to_outcomes.send(true).unwrap();
        }
        assert!(log.flush(Duration::from_secs(60)));
        let lines_written = written.try_iter().inspect(|got| assert_eq!(*got, line));
        assert_eq!(lines_written.count() as u64 + lost, lines as u64);
        assert_eq!(log.queue().octets, 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (log, to_outcomes, written) = log();
        for (text, outcome) in [("a", true), ("b", false), ("c", false), ("d", true)] {
            log.push(text.as_bytes());
            to_outcomes.send(outcome).unwrap();
        }
        assert!(log.flush(Duration::from_secs(60)));
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [b"a", b"d"]);
        assert_eq!(log.queue().lost, 2);
    }
}
