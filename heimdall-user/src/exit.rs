//! Lets a thread report its own end.

use std::fmt;

/// Calls a function when it is dropped.
///
/// A thread that owns one reports that it has ended, whether its function returned or panicked:
/// unwinding drops it, too. ([`std::thread::panicking`] tells the two apart.)
#[derive(Default)]
pub struct OnExit(Option<Box<dyn FnOnce() + Send>>);

impl OnExit {
    /// Calls `report` on the thread that drops the value.
    pub fn new(report: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(report)))
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report();
        }
    }
}

impl fmt::Debug for OnExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnExit")
    }
}
