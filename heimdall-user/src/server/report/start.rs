//! When the server started, and since when.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The start of the server, by the two clocks.
pub(in crate::server) struct Start {
    at: Instant,
    unix: f64,
}

impl Start {
    pub(in crate::server) fn now() -> Self {
        Self {
            at: Instant::now(),
            unix: unix_now(),
        }
    }

    /// Seconds since 1970. They stay the same when the system's time is set, and so tell servers apart.
    pub(super) fn unix(&self) -> f64 {
        self.unix
    }

    /// Seconds since then, on a clock that nobody sets.
    pub(super) fn uptime(&self) -> f64 {
        milliseconds(self.at.elapsed().as_secs_f64())
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(now.unwrap_or_default().as_secs_f64())
}

/// Seconds, in whole milliseconds.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
