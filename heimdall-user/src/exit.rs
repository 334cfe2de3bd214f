//! Ownership of threads: an owner stops and joins its thread when it is dropped (`OwnedThread`), and
//! a thread that ends before that reports it ([`OnExit`]). Each has a counter of its progress (`heartbeat`).
//! A thread that is stuck would keep its owner waiting for ever, so it is left behind.
//!
//! Every long-lived thread of the server is started here, except those of control clients and of the
//! log. This module must not know what a thread does.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle, ThreadId},
    time::Duration,
};

use thiserror::Error;
use tracing::error;

use crate::heartbeat::{self, Heartbeat};

/// The time between two looks at whether a thread that was told to end is stuck.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a thread has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Unfinished {
    /// The panic hook has logged it.
    #[error("the thread panicked, which is a bug")]
    Panicked,
    /// It runs on, without an owner.
    #[error("the thread makes no progress, and was left behind")]
    Stuck,
}

/// Calls a function when the thread that owns it ends.
///
/// It does so when it is dropped, whether the thread's function returned or panicked: unwinding
/// drops it, too ([`std::thread::panicking`] distinguishes the two). Dropped on the thread that
/// created it, because the other thread could not be started, it calls nothing.
#[derive(Default)]
pub struct OnExit {
    report: Option<(ThreadId, Box<dyn FnOnce() + Send>)>,
    essential: bool,
}

impl OnExit {
    /// Calls `report` on the thread that drops the value, unless that is the calling one.
    pub(crate) fn new(report: impl FnOnce() + Send + 'static) -> Self {
        Self {
            report: Some((thread::current().id(), Box::new(report))),
            essential: false,
        }
    }

    /// The same, for a thread without which queries are not answered.
    pub(crate) fn essential(report: impl FnOnce() + Send + 'static) -> Self {
        let mut on_exit = Self::new(report);
        on_exit.essential = true;
        on_exit
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        if let Some((creator, report)) = self.report.take()
            && creator != thread::current().id()
        {
            report();
        }
    }
}

impl fmt::Debug for OnExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnExit")
    }
}

/// A thread that ends no later than its owner, unless it is stuck: dropping this stops and joins it.
pub(crate) struct OwnedThread<T = ()> {
    stopping: Arc<AtomicBool>,
    stop: Box<dyn Fn() + Send + Sync>,
    heartbeat: Arc<Heartbeat>,
    /// Disconnected when the thread ends.
    ended: Mutex<Receiver<()>>,
    /// `None` once it was joined.
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> OwnedThread<T> {
    /// Starts a thread that runs `body`. `stop` makes `body` return, from any thread. `on_exit` is
    /// called when the thread ends without having been stopped, after `body` and what it owns were
    /// dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        name: impl Into<String>,
        on_exit: OnExit,
        stop: impl Fn() + Send + Sync + 'static,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let name = name.into();
        let heartbeat = Heartbeat::new(&name, on_exit.essential);
        let own = Arc::clone(&heartbeat);
        let stopping = Arc::new(AtomicBool::new(false));
        let exit = UnlessStopping {
            stopping: Arc::clone(&stopping),
            on_exit,
        };
        let (ends, ended) = channel();
        let body = move || {
            // Dropped last.
            let _ends: std::sync::mpsc::Sender<()> = ends;
            let _exit = exit;
            own.begin();
            body()
        };
        let thread = thread::Builder::new().name(name).spawn(body)?;
        Ok(Self {
            stopping,
            stop: Box::new(stop),
            heartbeat,
            ended: Mutex::new(ended),
            thread: Some(thread),
        })
    }

    /// Stops the thread and joins it.
    ///
    /// # Errors
    /// It panicked, or is stuck and was left behind. The log says so.
    pub(crate) fn join(mut self) -> Result<T, Unfinished> {
        self.end()
    }
}

impl<T> OwnedThread<T> {
    /// The turns of the thread's loop so far (see `heartbeat`).
    pub(crate) fn beats(&self) -> u64 {
        self.heartbeat.turns()
    }

    /// Tells the thread to end, without waiting for it.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        (self.stop)();
    }

    /// Stops the thread, and waits for its end unless it is stuck.
    fn end(&mut self) -> Result<T, Unfinished> {
        let Some(thread) = self.thread.take() else {
            unreachable!("only joining and dropping call this, once");
        };
        self.stop();
        let ended = self.ended.get_mut();
        let ended = ended.unwrap_or_else(PoisonError::into_inner);
        while ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            // The calling thread is not stuck: this wait has an end.
            heartbeat::beat();
            if self.heartbeat.is_stuck() {
                let name = thread.thread().name().unwrap_or_default();
                error!("the {name} thread makes no progress, and does not end; it is left behind");
                return Err(Unfinished::Stuck);
            }
        }
        thread.join().map_err(|_| Unfinished::Panicked)
    }
}

impl<T> Drop for OwnedThread<T> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // The log says what went wrong.
            let _ = self.end();
        }
    }
}

/// Drops `on_exit` without a call if the thread was told to end.
struct UnlessStopping {
    stopping: Arc<AtomicBool>,
    on_exit: OnExit,
}

impl Drop for UnlessStopping {
    fn drop(&mut self) {
        if self.stopping.load(Ordering::SeqCst) {
            self.on_exit.report = None;
        }
    }
}

impl<T> fmt::Debug for OwnedThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.thread.as_ref().and_then(|join| join.thread().name());
        f.debug_tuple("OwnedThread").field(&name).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::heartbeat::{self, Census};

    fn counting() -> (Arc<AtomicU32>, OnExit) {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let on_exit = OnExit::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        (count, on_exit)
    }

    #[test]
    fn a_thread_that_was_not_started_reports_no_end() {
        let (count, on_exit) = counting();
        drop(on_exit);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn dropping_the_owner_stops_and_joins_the_thread_and_reports_nothing() {
        let (count, on_exit) = counting();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&ended);
        let thread = OwnedThread::start(
            "owned",
            on_exit,
            move || stop.store(true, Ordering::SeqCst),
            move || {
                while !stopped.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                ends.store(true, Ordering::SeqCst);
            },
        )
        .unwrap();
        drop(thread);
        assert!(ended.load(Ordering::SeqCst));
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn joining_returns_the_result_of_the_thread() {
        let (count, on_exit) = counting();
        let thread = OwnedThread::start("owned", on_exit, || {}, || 7);
        // It may have ended before it was stopped: then it has reported that.
        assert_eq!(thread.unwrap().join().unwrap(), 7);
        assert!(count.load(Ordering::SeqCst) <= 1);
    }

    #[test]
    fn a_thread_that_ends_by_itself_reports_it() {
        for panic in [false, true] {
            let (count, on_exit) = counting();
            let body = move || {
                // Without the hook's message, which would look like a failed test.
                if panic {
                    std::panic::resume_unwind(Box::new(()));
                }
            };
            let thread = OwnedThread::start("owned", on_exit, || {}, body).unwrap();
            while count.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            drop(thread);
            assert_eq!(count.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn a_thread_that_is_stuck_is_left_behind() {
        const NAME: &str = "exit::tests::a_thread_that_is_stuck_is_left_behind";
        // The threads of other tests would be stuck by this one's count, too.
        if !lab::in_own_process(NAME).unwrap() {
            return;
        }
        let (begin, has_begun) = channel();
        let (release, released) = channel::<()>();
        let body = move || {
            heartbeat::beat();
            begin.send(()).unwrap();
            released.recv()
        };
        let name = "left behind";
        let thread = OwnedThread::start(name, OnExit::default(), || {}, body).unwrap();
        has_begun.recv().unwrap();
        let mut census = Census::new(1);
        while !heartbeat::stuck().iter().any(|stuck| stuck.name == name) {
            census.count();
        }
        assert_eq!(thread.join(), Err(Unfinished::Stuck));
        // It runs on by itself.
        drop(release);
    }

    #[test]
    fn a_thread_that_waits_for_the_end_of_another_makes_progress() {
        let (done, is_done) = channel();
        let body = move || {
            heartbeat::beat();
            let slow = || thread::sleep(PATIENCE + PATIENCE / 2);
            let slow = OwnedThread::start("slow", OnExit::default(), || {}, slow);
            slow.unwrap().join().unwrap();
            done.send(()).unwrap();
        };
        let owner = OwnedThread::start("owner", OnExit::default(), || {}, body).unwrap();
        is_done.recv().unwrap();
        assert!(owner.beats() > 1);
    }

    #[test]
    fn a_thread_that_takes_its_time_is_waited_for() {
        let body = || thread::sleep(PATIENCE + PATIENCE / 2);
        let thread = OwnedThread::start("slow", OnExit::default(), || {}, body);
        assert_eq!(thread.unwrap().join(), Ok(()));
    }
}
