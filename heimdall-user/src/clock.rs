//! The clock that caches and fronts share.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The time of one round of a front's loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Whole seconds since the process started. Monotonic: setting the system's time does not age
    /// an answer.
    pub seconds: u32,
    /// Whole seconds since 1970, modulo 2³², which cookies carry (RFC 9018 section 4.3).
    pub unix: u32,
}

/// Counts from the process's start, the same in every thread that was given a copy.
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

    /// The time, on both scales. No system call (vDSO).
    #[inline]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            seconds: self.seconds(),
            unix: unix.unwrap_or_default().as_secs() as u32,
        }
    }
}
