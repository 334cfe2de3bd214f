//! Ownership of threads: an owner stops and joins its thread when it is dropped (`OwnedThread`), and
//! a thread that ends before that reports it ([`OnExit`]).
//!
//! Every long-lived thread of the server is started here, except those of control clients and of the
//! log. This module must not know what a thread does.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, ThreadId},
};

/// Calls a function when the thread that owns it ends.
///
/// It does so when it is dropped, whether the thread's function returned or panicked: unwinding
/// drops it, too ([`std::thread::panicking`] distinguishes the two). Dropped on the thread that
/// created it, because the other thread could not be started, it calls nothing.
#[derive(Default)]
pub struct OnExit(Option<(ThreadId, Box<dyn FnOnce() + Send>)>);

impl OnExit {
    /// Calls `report` on the thread that drops the value, unless that is the calling one.
    pub(crate) fn new(report: impl FnOnce() + Send + 'static) -> Self {
        Self(Some((thread::current().id(), Box::new(report))))
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        if let Some((creator, report)) = self.0.take()
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

/// A thread that ends no later than its owner: dropping this stops and joins it.
pub(crate) struct OwnedThread<T = ()> {
    stopping: Arc<AtomicBool>,
    stop: Box<dyn Fn() + Send + Sync>,
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
        let stopping = Arc::new(AtomicBool::new(false));
        let exit = UnlessStopping {
            stopping: Arc::clone(&stopping),
            on_exit,
        };
        let body = move || {
            let _exit = exit;
            body()
        };
        let thread = thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(Self {
            stopping,
            stop: Box::new(stop),
            thread: Some(thread),
        })
    }

    /// Stops the thread and joins it.
    ///
    /// # Errors
    /// It panicked, which the panic hook has logged.
    pub(crate) fn join(mut self) -> thread::Result<T> {
        self.stop();
        match self.thread.take() {
            Some(thread) => thread.join(),
            None => unreachable!("only this and dropping take it"),
        }
    }
}

impl<T> OwnedThread<T> {
    /// Tells the thread to end, without waiting for it.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        (self.stop)();
    }
}

impl<T> Drop for OwnedThread<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop();
            // The panic hook has logged the panic, if it panicked.
            let _ = thread.join();
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
            self.on_exit.0 = None;
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
}
