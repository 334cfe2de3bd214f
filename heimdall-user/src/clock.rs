//! The clock that answers age by.

use std::time::Instant;

/// Whole seconds since the process started: monotonic, the same in every thread, and 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts the clock; once a process.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start.
    #[inline]
    pub fn seconds(&self) -> u32 {
        self.0.elapsed().as_secs() as u32
    }
}
