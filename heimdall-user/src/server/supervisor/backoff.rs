//! The pauses after failures, and the log lines about them.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

/// Pause before the second attempt to start something; each further one is twice as long.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A worker or program that has run for this long counts as healthy: the next pause is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// The time of the next attempt, and the pause after that one.
pub(super) struct Backoff {
    pause: Duration,
    /// When to attempt it next. `None`: when something has changed.
    pub(super) due: Option<Instant>,
}

impl Backoff {
    /// The first attempt is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pause: FIRST_PAUSE,
            due: Some(now),
        }
    }

    /// Records that an attempt failed, or that a worker or program failed after it `ran` for some time.
    /// Returns the pause before the next attempt.
    pub(super) fn failed(&mut self, now: Instant, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.due = Some(now + pause);
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

/// Logs a failure, as a warning only if it differs from the one `before`. Without a `pause` the next attempt is after a change.
pub(super) fn log_failure(before: &str, why: &str, what: &str, pause: Option<Duration>) {
    let next = match pause {
        Some(pause) => format!("in {} s", pause.as_secs()),
        None => "when the interface is set up or its MTU changes".to_owned(),
    };
    if before == why {
        debug!("{what}: {why}; next attempt {next}");
    } else {
        warn!("{what} failed: {why}; its queries go to the sockets, next attempt {next}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_start_over_after_a_healthy_minute() {
        let now = Instant::now();
        let mut backoff = Backoff::new(now);
        let pauses: Vec<u64> = (0..8)
            .map(|_| backoff.failed(now, Duration::from_secs(59)).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.due, Some(now + MAX_PAUSE));
        assert_eq!(backoff.failed(now, HEALTHY), FIRST_PAUSE);
        assert_eq!(backoff.due, Some(now + FIRST_PAUSE));
    }
}
