//! The server's reaction to a thread that ends without having been stopped.
//!
//! The socket front, the forwarder and the supervisor of AF_XDP are essential: when one of them ends,
//! the server logs that and asks to be stopped, and the process ends with an error, so that its
//! service manager starts it again. When another thread ends, the server logs which
//! functions are lost, and continues.
//!
//! Workers are not among these: the supervisor starts them again.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    thread,
};

use tracing::error;

use crate::exit::OnExit;

/// Records which essential thread has ended, and reacts to it.
pub(super) struct Threads {
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
            failed: OnceLock::new(),
            on_failure: Box::new(on_failure),
        })
    }

    /// For an essential thread.
    pub(super) fn essential(self: &Arc<Self>, name: &'static str) -> OnExit {
        let threads = Arc::clone(self);
        OnExit::essential(move || {
            error!("the {name} thread {}; stopping the server", how());
            if threads.failed.set(name).is_ok() {
                (threads.on_failure)();
            }
        })
    }

    /// For a thread without which queries are still answered; `lost` names the functions that are lost.
    pub(super) fn auxiliary(name: &'static str, lost: &'static str) -> OnExit {
        OnExit::new(move || error!("the {name} thread {}; until a restart, {lost}", how()))
    }

    /// The first essential thread that has ended, if one has.
    pub(super) fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
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
    use std::sync::atomic::{AtomicU32, Ordering};

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
            end(Threads::auxiliary("control", "nothing"), panic);
            assert_eq!(threads.failed(), None);
            end(threads.essential("sockets"), panic);
            end(threads.essential("forwarder"), panic);
            assert_eq!(threads.failed(), Some("sockets"));
            assert_eq!(failures.load(Ordering::SeqCst), 1);
        }
    }
}
