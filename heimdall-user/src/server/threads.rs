//! What the server does when one of its threads ends by itself.
//!
//! The socket front, the forwarder and the supervisor of AF_XDP are essential: when one of them ends,
//! the server logs that and asks to be stopped, and the process ends with an error, so that its
//! service manager starts it again. When another thread ends, the server logs what no longer works,
//! and goes on.
//!
//! Workers are not among these: the supervisor starts them again.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tracing::error;

use crate::exit::OnExit;

/// Takes note of threads that end.
pub(super) struct Threads {
    /// The server stops: threads are expected to end.
    stopping: AtomicBool,
    /// The first essential thread that ended.
    failed: OnceLock<&'static str>,
    on_failure: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Threads {
    /// Calls `on_failure` when an essential thread has ended.
    pub(super) fn new(on_failure: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            stopping: AtomicBool::new(false),
            failed: OnceLock::new(),
            on_failure: Box::new(on_failure),
        })
    }

    /// For an essential thread.
    pub(super) fn essential(self: &Arc<Self>, name: &'static str) -> OnExit {
        let threads = Arc::clone(self);
        OnExit::new(move || {
            if threads.is_stopping() {
                return;
            }
            error!("the {name} thread {}; stopping the server", how());
            if threads.failed.set(name).is_ok() {
                (threads.on_failure)();
            }
        })
    }

    /// For a thread without which queries are still answered; `lost` says what no longer works.
    pub(super) fn auxiliary(self: &Arc<Self>, name: &'static str, lost: &'static str) -> OnExit {
        let threads = Arc::clone(self);
        OnExit::new(move || {
            if !threads.is_stopping() {
                error!("the {name} thread {}; until a restart, {lost}", how());
            }
        })
    }

    /// Threads are expected to end from now on.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// The first essential thread that has ended, if one has.
    pub(super) fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// How the calling thread ends.
fn how() -> &'static str {
    if thread::panicking() {
        "panicked, which is a bug"
    } else {
        "ended unexpectedly"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn threads() -> (Arc<Threads>, Arc<AtomicU32>) {
        let failures = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&failures);
        let threads = Threads::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        (threads, failures)
    }

    /// Ends a thread that owns `on_exit`.
    fn end(on_exit: OnExit, panic: bool) {
        let ended = thread::spawn(move || {
            let _on_exit = on_exit;
            // Without the hook's message, which would look like a failed test.
            if panic {
                std::panic::resume_unwind(Box::new(()));
            }
        });
        assert_eq!(ended.join().is_err(), panic);
    }

    #[test]
    fn the_first_essential_thread_that_ends_fails_the_server() {
        for panic in [true, false] {
            let (threads, failures) = threads();
            end(threads.auxiliary("control", "nothing"), panic);
            assert_eq!(threads.failed(), None);
            end(threads.essential("sockets"), panic);
            end(threads.essential("forwarder"), panic);
            assert_eq!(threads.failed(), Some("sockets"));
            assert_eq!(failures.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn threads_that_end_while_the_server_stops_are_no_failure() {
        let (threads, failures) = threads();
        threads.stop();
        end(threads.essential("sockets"), false);
        assert_eq!(
            (threads.failed(), failures.load(Ordering::SeqCst)),
            (None, 0)
        );
    }
}
