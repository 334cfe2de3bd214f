//! The clock that caches and fronts share.

use std::time::Instant;

/// Whole seconds since the process started, the same in every thread that was given a copy.
/// Monotonic: setting the system's time does not age an answer.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts the clock, at 0. Once a process.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start. No system call (vDSO).
    #[inline]
    pub fn seconds(&self) -> u32 {
        self.0.elapsed().as_secs() as u32
    }
}
