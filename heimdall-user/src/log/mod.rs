//! The log: lines on stderr, or entries of systemd's journal, written by a thread of its own.
//!
//! The reader of stderr may stall, close the pipe or run out of disk space. None of that may block or
//! end a thread of the server, so a thread that logs only appends to a bounded queue; lines that do
//! not fit, or that cannot be written, are counted, and the count is logged as soon as lines can be
//! written again (`queue`). Of warnings and errors that packets can cause again and again, only some are
//! logged, and how many were left out (`limit`). Where stderr is the journal, an entry has the journal's
//! fields (`journal`). [`start`] installs the subscriber and the panic hook; dropping the value that it
//! returns waits up to a second for queued lines to be written.

mod journal;
mod limit;
mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{Builder, LevelFilter},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use journal::{Journal, JournalLayer};
use limit::LimitLayer;
use queue::Log;

/// How long the exit of the process waits for lines to be written.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// The process has one log.
static LOG: Log = Log::new();

/// Replaces its filter.
static FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Its level and its text, for somebody who waits for it.
    Brief,
    /// The same after the time. If stderr is the journal, an entry of that.
    Text,
    /// A JSON object.
    Json,
}

/// Lines lost since the start: the queue was full, or a write to stderr failed.
pub(crate) fn lost() -> u64 {
    LOG.lost()
}

/// Logs to stderr what passes `filter`, and the panics of all threads. Call it once.
///
/// # Errors
/// The thread cannot be started.
pub fn start(filter: EnvFilter, format: LogFormat) -> io::Result<LogGuard> {
    let journal = match format {
        LogFormat::Text => Journal::of_stderr(),
        LogFormat::Brief | LogFormat::Json => None,
    };
    let lines = lines(format, journal.is_some());
    let write = move || match journal {
        Some(mut journal) => LOG.write_to(&mut journal),
        None => LOG.write_to(&mut Stderr),
    };
    let thread = thread::Builder::new().name("log".to_owned()).spawn(write)?;
    let (filter, handle) = reload::Layer::new(filter);
    // It fails only once the subscriber is gone, which stays as long as the process.
    let replace = move |filter| handle.reload(filter).unwrap_or_default();
    let _ = FILTER.set(Box::new(replace));
    let subscriber = tracing_subscriber::registry().with(lines).with(filter);
    subscriber.with(LimitLayer(&LOG)).init();
    panic::set_hook(Box::new(log_panic));
    Ok(LogGuard(thread))
}

/// Logs what passes this filter from now on, if the process has a log.
pub(crate) fn set_filter(filter: EnvFilter) {
    if let Some(replace) = FILTER.get() {
        replace(filter);
    }
}

/// The filter that the setting `log.level` stands for; without it, the one of the environment, or else `info`.
pub(crate) fn filter(level: Option<&str>) -> EnvFilter {
    let filter = match level {
        Some(level) => parse(level),
        None => of_environment(),
    };
    filter.unwrap_or_else(|_| builder().parse_lossy(""))
}

/// The filter of the environment variable `RUST_LOG`, or `info` if that is not set.
///
/// # Errors
/// It is no filter.
pub(crate) fn of_environment() -> Result<EnvFilter, String> {
    let text = env::var_os(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    parse(&text.to_string_lossy())
}

/// Reads a filter, `info` if it is empty.
///
/// # Errors
/// It is none, or has a word that is no level. `EnvFilter` takes a word for a module, so a misspelt level would silence all others.
pub(crate) fn parse(text: &str) -> Result<EnvFilter, String> {
    let is_word = |part: &str| !part.contains(['=', '[']) && !part.contains("::");
    let is_known = |part: &str| part.starts_with("heimdall") || part.parse::<LevelFilter>().is_ok();
    let mut parts = text.split(',');
    match parts.find(|part| is_word(part) && !is_known(part)) {
        Some(part) => Err(format!("{part:?} is no level")),
        None => builder().parse(text).map_err(|error| error.to_string()),
    }
}

fn builder() -> Builder {
    EnvFilter::builder().with_default_directive(LevelFilter::INFO.into())
}

/// The layer that appends an event to the queue.
fn lines(format: LogFormat, to_journal: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let plain = fmt::layer()
        .with_writer(&LOG)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    match format {
        _ if to_journal => JournalLayer(&LOG).boxed(),
        LogFormat::Brief => plain.without_time().boxed(),
        LogFormat::Text => plain.boxed(),
        LogFormat::Json => plain
            .json()
            .flatten_event(true)
            .with_target(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    }
}

/// Writes a line to stderr directly, for commands without a log. It is lost if stderr is not
/// writable within a second.
pub(crate) fn print_error(line: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let wait = u16::try_from(EXIT_WAIT.as_millis()).unwrap_or(u16::MAX);
    // A pipe that is writable has room for a page, so a line does not block.
    if poll(&mut fds, wait).is_ok_and(|ready| ready > 0) {
        let prefix = journal::error_prefix();
        let line = format!("{prefix}{line}\n");
        let _ = stderr.lock().write_all(line.as_bytes());
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
    use super::*;

    #[test]
    fn a_misspelt_level_is_no_filter() {
        for good in [
            "",
            "info",
            "WARN",
            "off",
            "0",
            "heimdall_user",
            "warn,heimdall_user::forward=debug",
            "hickory_proto=error,info",
            "rustls::client",
            "info,[query]=debug",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("verbose", "verbose"),
            ("inof", "inof"),
            ("warn,inof", "inof"),
            ("inof,heimdall_user=debug", "inof"),
        ] {
            let why = parse(bad).err();
            assert_eq!(why, Some(format!("{word:?} is no level")), "{bad}");
        }
        assert_eq!(filter(Some("inof")).to_string(), "info");
        assert_eq!(filter(Some("")).to_string(), "info");
    }
}
