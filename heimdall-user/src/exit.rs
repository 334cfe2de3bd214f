//! How threads end: a thread reports its own end, and its owner ends it.

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
/// drops it, too. ([`std::thread::panicking`] tells the two apart.) The thread that made it only
/// hands it over: dropped there, because the other thread could not be started, it reports nothing.
#[derive(Default)]
pub struct OnExit(Option<(ThreadId, Box<dyn FnOnce() + Send>)>);

impl OnExit {
    /// Calls `report` on the thread that drops the value, unless that is the calling one.
    pub fn new(report: impl FnOnce() + Send + 'static) -> Self {
        Self(Some((thread::current().id(), Box::new(report))))
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        if let Some((maker, report)) = self.0.take()
            && maker != thread::current().id()
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
pub(crate) struct OwnedThread {
    stopping: Arc<AtomicBool>,
    stop: Box<dyn Fn() + Send + Sync>,
    thread: Option<JoinHandle<()>>,
}

impl OwnedThread {
    /// Starts a thread that runs `body`. `stop` makes `body` return, from any thread. `on_exit` is
    /// called when the thread ends without having been told to.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        name: impl Into<String>,
        on_exit: OnExit,
        stop: impl Fn() + Send + Sync + 'static,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let exit = UnlessStopping {
            stopping: Arc::clone(&stopping),
            on_exit,
        };
        let body = move || {
            let _exit = exit;
            body();
        };
        let thread = thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(Self {
            stopping,
            stop: Box::new(stop),
            thread: Some(thread),
        })
    }

    /// Tells the thread to end, without waiting for it.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        (self.stop)();
    }
}

impl Drop for OwnedThread {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // The hook has logged the panic, if it panicked.
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

impl fmt::Debug for OwnedThread {
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
