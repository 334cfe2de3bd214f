//! The clock that caches and fronts share.

use std::{
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

/// The time of one batch of a front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Whole seconds on a clock of the process's own. Monotonic: setting the system's time does not
    /// age an answer.
    pub seconds: u32,
    /// Whole seconds since 1970, modulo 2³², which cookies carry (RFC 9018 section 4.3).
    pub unix: u32,
}

/// The clock's value when it is started: eight years, so that times before the process began, which
/// entries of a snapshot have, are positive.
const START: u32 = 1 << 28;

/// Counts seconds, equal in every thread that has a copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts the clock. Once a process.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The clock's seconds. No system call (vDSO).
    #[inline]
    pub(crate) fn seconds(&self) -> u32 {
        START + self.0.elapsed().as_secs() as u32
    }

    /// The time, on both scales. No system call (vDSO).
    #[inline]
    pub fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// When the clock was started, in nanoseconds of CLOCK_MONOTONIC, and its value then: with these the XDP
    /// program counts the same seconds.
    ///
    /// # Errors
    /// Those of clock_gettime(2).
    pub(crate) fn base(&self) -> io::Result<(u64, u32)> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        let base = now.saturating_sub(self.0.elapsed());
        Ok((base.as_nanos() as u64, START))
    }

    /// The time, on both scales, for a caller that has just read the monotonic clock, which so is read
    /// once. No system call (vDSO).
    #[inline]
    pub(crate) fn at(&self, now: Instant) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let elapsed = now.saturating_duration_since(self.0);
        Now {
            seconds: START + elapsed.as_secs() as u32,
            unix: unix.unwrap_or_default().as_secs() as u32,
        }
    }
}
