//! The time of day at which something happened.

use std::time::{Instant, SystemTime};

/// What relates the monotonic clock, which samples are taken by, to the time of day. Read by the observer, so that
/// who samples reads one clock; and a time of day that is set meanwhile changes no duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallClock {
    monotonic: Instant,
    day: SystemTime,
}

impl WallClock {
    /// The relation at this moment.
    pub(super) fn read() -> Self {
        Self::new(Instant::now(), SystemTime::now())
    }

    pub(super) fn new(monotonic: Instant, day: SystemTime) -> Self {
        Self { monotonic, day }
    }

    /// The time of day at an instant.
    pub(super) fn at(&self, instant: Instant) -> SystemTime {
        let day = match self.monotonic.checked_duration_since(instant) {
            Some(ago) => self.day.checked_sub(ago),
            None => self.day.checked_add(instant - self.monotonic),
        };
        // Times of day begin long before any process.
        day.unwrap_or(self.day)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn instants_before_and_after_have_their_time_of_day() {
        let clock = WallClock::read();
        let second = Duration::from_secs(1);
        let (now, day) = (clock.monotonic, clock.day);
        assert_eq!(clock.at(now), day);
        assert_eq!(clock.at(now + second), day + second);
        assert_eq!(
            now.checked_sub(second).map(|ago| clock.at(ago)),
            Some(day - second)
        );
    }
}
