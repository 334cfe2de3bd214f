//! What the server does when one of its threads ends by itself.
//!
//! Without the socket front, the forwarder or the supervisor of AF_XDP, queries go unanswered or
//! AF_XDP unattended, and nothing here could put that right: the server says so and asks to be
//! stopped, and the process ends with an error, for its service manager to start it again. Other
//! threads are missed less: the server says what no longer works, and goes on.
//!
//! Queue workers are not among these. The supervisor starts them again.

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

/// The owner of the threads' ends.
pub(super) struct Threads {
    /// Threads end because they were told to.
    stopping: AtomicBool,
    /// The first thread that ended and cannot be done without.
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
    /// Calls `on_failure` when a thread has ended that cannot be done without.
    pub(super) fn new(on_failure: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            stopping: AtomicBool::new(false),
            failed: OnceLock::new(),
            on_failure: Box::new(on_failure),
        })
    }

    /// For a thread that cannot be done without.
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

    /// For a thread without which queries are answered; `lost` says what is not done any more.
    pub(super) fn auxiliary(self: &Arc<Self>, name: &'static str, lost: &'static str) -> OnExit {
        let threads = Arc::clone(self);
        OnExit::new(move || {
            if !threads.is_stopping() {
                error!("the {name} thread {}; until a restart, {lost}", how());
            }
        })
    }

    /// From now on threads are expected to end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// The thread that cannot be done without and has ended, if one has.
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
    fn threads_that_were_told_to_end_fail_nothing() {
        let (threads, failures) = threads();
        threads.stop();
        end(threads.essential("sockets"), false);
        assert_eq!(
            (threads.failed(), failures.load(Ordering::SeqCst)),
            (None, 0)
        );
    }
}
