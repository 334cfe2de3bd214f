//! The queue between the threads that log and the one that writes.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tracing::{Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::limit::{Kinds, WINDOW};

/// Octets that may wait to be written.
const MAX_QUEUED: usize = 1 << 20;

/// The queue, and how much of each kind was logged.
pub(super) struct Log {
    queue: Mutex<Queue>,
    changed: Condvar,
    kinds: Kinds,
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

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Write a line.
    Line(Vec<u8>),
    /// Log how many lines were left out.
    LeftOut,
    /// End.
    Closed,
}

impl Log {
    pub(super) const fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                lines: VecDeque::new(),
                octets: 0,
                writing: false,
                closed: false,
                lost: 0,
            }),
            changed: Condvar::new(),
            kinds: Kinds::new(),
        }
    }

    /// The lock is held briefly, never during a write.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.queue().lost
    }

    /// Whether an event is logged, or left out because there were many of its kind.
    pub(super) fn admits(&self, metadata: &'static Metadata<'static>) -> bool {
        let admitted = self.kinds.admit(metadata, Instant::now());
        if admitted == Err(1) {
            // The thread is to wait no longer than until it logs how many there were. With the lock, so that it
            // has either seen the first, or waits already.
            let _queue = self.queue();
            self.changed.notify_all();
        }
        admitted.is_ok()
    }

    /// Appends a line. It is lost if there are too many.
    pub(super) fn push(&self, line: &[u8]) {
        let mut queue = self.queue();
        if queue.octets + line.len() > MAX_QUEUED {
            queue.lost += 1;
            return;
        }
        queue.octets += line.len();
        queue.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Waits for a line, or until the end of a time in which some were left out.
    fn next(&self) -> Next {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.octets -= line.len();
                queue.writing = true;
                return Next::Line(line);
            }
            let due = self.kinds.due();
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            queue = match left {
                Some(left) if queue.closed || left.is_zero() => return Next::LeftOut,
                None if queue.closed => return Next::Closed,
                Some(left) => {
                    let changed = self.changed.wait_timeout(queue, left);
                    changed.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let changed = self.changed.wait(queue);
                    changed.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Records whether the line was written. Returns the number of lost lines.
    fn written(&self, written: bool) -> u64 {
        let mut queue = self.queue();
        queue.writing = false;
        queue.lost += u64::from(!written);
        self.changed.notify_all();
        queue.lost
    }

    /// Writes lines as they come, until the log is closed.
    pub(super) fn write_to(&self, out: &mut impl Write) {
        let mut reported = 0;
        loop {
            match self.next() {
                Next::Line(line) => {
                    let written = out.write_all(&line).is_ok();
                    let lost = self.written(written);
                    if written && lost > reported {
                        warn!("{} lines could not be logged", lost - reported);
                        reported = lost;
                    }
                }
                Next::LeftOut => self.log_left_out(),
                Next::Closed => return,
            }
        }
    }

    fn log_left_out(&self) {
        let closed = self.queue().closed;
        for (kind, count) in self.kinds.take_left_out(Instant::now(), closed) {
            let (target, line) = (kind.target(), kind.line().unwrap_or_default());
            warn!(
                "{count} more lines like the last of {target} (line {line}) were left out within {} s",
                WINDOW.as_secs()
            );
        }
    }

    /// Has the thread end when all lines are written.
    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_all();
    }

    /// Whether all lines are written, after `wait` at most.
    #[cfg(test)]
    fn flush(&self, wait: std::time::Duration) -> bool {
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
pub(super) struct Line(&'static Log);

impl<'a> MakeWriter<'a> for &'static Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        thread,
        time::Duration,
    };

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
