//! Names whose responses lacked what their upstream had given before: a cookie, or the letters' case.
//!
//! One of them may be forged, so it is not believed. [`IN_A_ROW`](super::IN_A_ROW) different names within [`WITHIN`] are the
//! upstream's: a forger would have to guess port and ID for each. They need not be in a row: at one address there may be
//! several servers, of which some give it.

use std::time::{Duration, Instant};

use super::Row;

/// Time in which there have to be different names.
const WITHIN: Duration = Duration::from_secs(60);

/// For how long nothing is expected of the upstream the first time. Each time it is twice as long, up to a day.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(300);
const MAX_PAUSE: Duration = Duration::from_secs(86_400);

/// The names of one upstream.
#[derive(Debug, Default)]
pub(super) struct Lapses {
    names: Row,
    /// When the first of them came.
    since: Option<Instant>,
    /// How often there were enough.
    times: u32,
}

impl Lapses {
    /// Adds a name. If there are enough, gives the time until which nothing is to be expected.
    pub(super) fn add(&mut self, name: u64, now: Instant) -> Option<Instant> {
        if self.since.is_none_or(|since| now >= since + WITHIN) {
            self.names.clear();
            self.since = Some(now);
        }
        if !self.names.add(name) {
            return None;
        }
        self.since = None;
        let pause = FIRST_PAUSE * (1 << self.times.min(16));
        self.times = self.times.saturating_add(1);
        Some(now + pause.min(MAX_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_names_within_a_minute_are_enough_and_each_time_for_longer() {
        let mut lapses = Lapses::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([1, 1, 1, 2].map(|name| lapses.add(name, start)), [None; 4]);
        assert_eq!(lapses.add(3, at(60)), None, "the others are too old");
        assert_eq!(lapses.add(4, at(90)), None);
        assert_eq!(lapses.add(5, at(119)), Some(at(119) + FIRST_PAUSE));
        assert_eq!([6, 7].map(|name| lapses.add(name, at(500))), [None; 2]);
        assert_eq!(lapses.add(8, at(500)), Some(at(500) + 2 * FIRST_PAUSE));
        for times in 0..40 {
            let last = [6, 7, 8].map(|name| lapses.add(name, at(600)));
            let pause = (4 * FIRST_PAUSE * (1 << times.min(10))).min(MAX_PAUSE);
            assert_eq!(last, [None, None, Some(at(600) + pause)]);
        }
    }
}
