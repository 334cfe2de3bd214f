//! The failure cache: questions that no upstream answered lately (RFC 9520).
//!
//! Such a question is not forwarded again before its back-off is over, and each further failure in a row
//! doubles that. During an outage, when no upstream can be reached or responds to anything, the
//! back-off stays at its minimum.
//!
//! A failure ends with its cause. It is [noted](Missing) which upstreams sent nothing at that time, or only errors for
//! whatever name: with the next response of one of the former, or answer of one of the latter, the question may be forwarded again.
//! So nothing that failed in an outage waits for a back-off once it is over, and nothing that one upstream would have
//! answered, while it was down. The back-off of questions that work upstreams do not answer is not affected.
//!
//! The table is bounded: a new failure replaces the oldest.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use hashbrown::{HashTable, hash_table::Entry};

use super::{
    Request,
    upstreams::{Missing, bit},
};
use crate::dns::same_question;

/// Failures that one thread caches: a few megabytes at most.
const CAPACITY: usize = 16_384;

/// Bounds on the back-off in seconds (RFC 9520 section 3.2).
pub(super) const BOUNDS: (u32, u32) = (1, 300);

#[derive(Debug)]
struct Failure {
    hash: u64,
    flags: u8,
    question: Box<[u8]>,
    /// When the question may be forwarded again.
    until: Instant,
    /// The last back-off in seconds; 0: it has failed in outages only.
    back_off: u32,
    missing: Missing,
    /// Distinguishes this failure's entry in the queue from older ones of the question.
    serial: u64,
}

impl Failure {
    fn is_of(&self, request: &Request) -> bool {
        self.hash == request.hash
            && self.flags == request.flags
            && same_question(&self.question, request.question())
    }
}

/// The failure cache of a thread.
#[derive(Debug)]
pub(super) struct Failures {
    table: HashTable<Failure>,
    /// Hash and serial number of each failure, oldest first, also of those that were removed or
    /// renewed since.
    queue: VecDeque<(u64, u64)>,
    capacity: usize,
    serial: u64,
    min: u32,
    max: u32,
    /// Of all failures together.
    missing: Missing,
}

impl Failures {
    /// An empty cache with back-offs of `min` seconds at first, and at most `max`.
    pub(super) fn new(min: u32, max: u32) -> Self {
        let min = min.clamp(BOUNDS.0, BOUNDS.1);
        Self {
            table: HashTable::new(),
            queue: VecDeque::new(),
            capacity: CAPACITY,
            serial: 0,
            min,
            max: max.clamp(min, BOUNDS.1),
            missing: Missing::default(),
        }
    }

    /// Time for which the question must not be forwarded. `None`: it may be.
    pub(super) fn time_left(&self, request: &Request, now: Instant) -> Option<Duration> {
        let failure = self
            .table
            .find(request.hash, |failure| failure.is_of(request))?;
        let left = failure.until.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// Whether the question's failure may end before its back-off, so that the fronts have to ask again soon.
    pub(super) fn may_end_early(&self, request: &Request) -> bool {
        let failure = self
            .table
            .find(request.hash, |failure| failure.is_of(request));
        failure.is_some_and(|failure| failure.missing.is_any())
    }

    /// Notes that no upstream answered. Returns the seconds for which the question must not be
    /// asked, `least` or more.
    ///
    /// A failure is one in a row if the back-off of the one before it ended at most the longest
    /// back-off ago. One of an outage, in which every name fails, does not count.
    pub(super) fn record(
        &mut self,
        request: &Request,
        now: Instant,
        least: u32,
        missing: Missing,
    ) -> u32 {
        self.missing.add(missing);
        self.serial += 1;
        let (serial, min, max) = (self.serial, self.min, self.max);
        let entry = self.table.entry(
            request.hash,
            |failure| failure.is_of(request),
            |failure| failure.hash,
        );
        let seconds = match entry {
            Entry::Occupied(mut entry) => {
                let failure = entry.get_mut();
                let pause = now.saturating_duration_since(failure.until);
                let is_in_row = pause <= Duration::from_secs(max.into());
                let seconds = if missing.is_outage {
                    min
                } else {
                    let doubled = failure.back_off.saturating_mul(2).clamp(min, max);
                    failure.back_off = if is_in_row { doubled } else { min };
                    failure.back_off
                };
                let seconds = seconds.max(least);
                failure.until = now + Duration::from_secs(seconds.into());
                failure.missing = missing;
                failure.serial = serial;
                seconds
            }
            Entry::Vacant(entry) => {
                let seconds = min.max(least);
                entry.insert(Failure {
                    hash: request.hash,
                    flags: request.flags,
                    question: request.question().into(),
                    until: now + Duration::from_secs(seconds.into()),
                    back_off: if missing.is_outage { 0 } else { min },
                    missing,
                    serial,
                });
                seconds
            }
        };
        self.queue.push_back((request.hash, serial));
        if self.queue.len() > self.capacity {
            self.drop_oldest();
        }
        seconds
    }

    /// Removes the failure of a question that has been answered.
    pub(super) fn clear(&mut self, request: &Request) {
        if let Ok(entry) = self
            .table
            .find_entry(request.hash, |failure| failure.is_of(request))
        {
            entry.remove();
        }
    }

    /// An upstream has sent a response: what failed while it sent nothing may be forwarded again.
    pub(super) fn heard(&mut self, upstream: usize, now: Instant) {
        let bit = bit(upstream);
        if self.missing.silent & bit != 0 {
            self.missing.silent &= !bit;
            self.end(now, |missing| missing.silent & bit != 0);
        }
    }

    /// An upstream has answered a question: what failed while it sent errors only may be forwarded again.
    pub(super) fn answered(&mut self, upstream: usize, now: Instant) {
        let bit = bit(upstream);
        if self.missing.failing & bit != 0 {
            self.missing.failing &= !bit;
            self.end(now, |missing| missing.failing & bit != 0);
        }
    }

    /// Ends the back-off of the failures of which `is_over` holds. The next failure of such a question is one in a row.
    #[cold]
    fn end(&mut self, now: Instant, is_over: impl Fn(&Missing) -> bool) {
        self.table.retain(|failure| {
            let ends = is_over(&failure.missing);
            if ends {
                failure.until = failure.until.min(now);
                failure.missing = Missing::default();
            }
            !ends || failure.back_off > 0
        });
    }

    /// Removes the failures of all questions that match.
    pub(super) fn flush(&mut self, matches: impl Fn(&[u8]) -> bool) {
        self.table.retain(|failure| !matches(&failure.question));
    }

    fn drop_oldest(&mut self) {
        if let Some((hash, serial)) = self.queue.pop_front()
            && let Ok(entry) = self
                .table
                .find_entry(hash, |failure| failure.serial == serial)
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        dns::{DnsPacketView, NameHasher, Query},
        forward::testing::query,
    };

    /// The failure of a question that working upstreams do not answer.
    const NAME: Missing = Missing {
        silent: 0,
        failing: 0,
        is_outage: false,
    };

    /// The only upstream sends nothing.
    const OUTAGE: Missing = Missing {
        silent: 1,
        is_outage: true,
        ..NAME
    };

    fn request(hasher: &NameHasher, label: &str) -> Request {
        let msg = query(1, label, None);
        let query = Query::new(&DnsPacketView::parse(&msg).unwrap(), hasher);
        Request::new(&query, &msg, [127, 0, 0, 1].into(), 0, 0).unwrap()
    }

    #[test]
    fn the_back_off_doubles_up_to_its_bound() {
        let hasher = NameHasher::default();
        let [name, upper, other] = ["name", "NAME", "other"].map(|label| request(&hasher, label));
        let mut failures = Failures::new(1, 300);
        let mut now = Instant::now();
        let mut times = Vec::new();
        for _ in 0..11 {
            assert_eq!(failures.time_left(&name, now), None);
            let seconds = failures.record(&name, now, 0, NAME);
            let time = Duration::from_secs(seconds.into());
            assert_eq!(failures.time_left(&upper, now), Some(time));
            assert_eq!(failures.time_left(&other, now), None);
            now += time;
            times.push(seconds);
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        failures.clear(&upper);
        assert_eq!(
            failures.record(&name, now, 0, NAME),
            1,
            "an answer ends the row"
        );
        assert_eq!(failures.record(&name, now, 0, NAME), 2);
        now += Duration::from_secs(303);
        assert_eq!(
            failures.record(&name, now, 0, NAME),
            1,
            "so does a long pause"
        );
        assert_eq!(failures.record(&name, now, 30, NAME), 30);
        assert_eq!(failures.record(&name, now, 0, NAME), 4);
    }

    #[test]
    fn options_are_clamped_to_the_bounds_of_the_rfc() {
        let request = request(&NameHasher::default(), "name");
        let now = Instant::now();
        assert_eq!(Failures::new(0, 0).record(&request, now, 0, NAME), 1);
        assert_eq!(Failures::new(900, 9).record(&request, now, 0, NAME), 300);
    }

    #[test]
    fn a_new_failure_replaces_the_oldest() {
        let hasher = NameHasher::default();
        let now = Instant::now();
        let mut failures = Failures::new(1, 300);
        failures.capacity = 3;
        let requests: Vec<_> = (0..5).map(|i| request(&hasher, &format!("n{i}"))).collect();
        for request in &requests {
            failures.record(request, now, 0, NAME);
        }
        let known: Vec<_> = requests
            .iter()
            .map(|request| failures.time_left(request, now).is_some())
            .collect();
        assert_eq!(known, [false, false, true, true, true]);
        for request in requests.iter().cycle().take(1000) {
            failures.record(request, now, 0, NAME);
            assert!(failures.queue.len() <= 3 && failures.table.len() <= 3);
        }
    }

    #[test]
    fn the_back_off_of_an_outage_does_not_grow_and_ends() {
        let hasher = NameHasher::default();
        let [name, other] = ["name", "other"].map(|label| request(&hasher, label));
        let now = Instant::now();
        let mut failures = Failures::new(1, 300);
        assert_eq!(failures.record(&other, now, 0, NAME), 1);
        assert_eq!(failures.record(&other, now, 0, NAME), 2);
        for _ in 0..10 {
            assert_eq!(failures.record(&name, now, 0, OUTAGE), 1);
        }
        assert_eq!(failures.record(&name, now, 29, OUTAGE), 29, "stale");
        failures.heard(0, now);
        assert_eq!(failures.time_left(&name, now), None);
        assert!(failures.time_left(&other, now).is_some());
        // The row from before it continues.
        assert_eq!(failures.record(&other, now, 0, OUTAGE), 1);
        assert_eq!(failures.record(&other, now, 0, NAME), 4);
        assert_eq!(failures.record(&name, now, 0, OUTAGE), 1);
        assert_eq!(failures.record(&name, now, 0, NAME), 1);
        failures.heard(0, now);
        assert!(failures.time_left(&name, now).is_some());
    }

    #[test]
    fn only_failures_for_which_an_upstream_is_missing_may_end_early() {
        let hasher = NameHasher::default();
        let [outage, name, other] =
            ["outage", "name", "other"].map(|label| request(&hasher, label));
        let mut failures = Failures::new(1, 300);
        let now = Instant::now();
        failures.record(&outage, now, 0, OUTAGE);
        failures.record(&name, now, 0, NAME);
        assert!(failures.may_end_early(&outage));
        assert!(!failures.may_end_early(&name) && !failures.may_end_early(&other));
    }

    #[test]
    fn a_failure_ends_when_an_upstream_that_was_missing_works_again() {
        let hasher = NameHasher::default();
        let [silent, failing, broken] =
            ["silent", "failing", "broken"].map(|label| request(&hasher, label));
        let now = Instant::now();
        let mut failures = Failures::new(1, 300);
        let without_second = Missing { silent: 2, ..NAME };
        let errors_of_second = Missing { failing: 2, ..NAME };
        for seconds in [1, 2, 4] {
            assert_eq!(failures.record(&silent, now, 0, without_second), seconds);
            assert_eq!(failures.record(&failing, now, 0, errors_of_second), seconds);
            assert_eq!(failures.record(&broken, now, 0, NAME), seconds);
        }
        let waits = |failures: &Failures| {
            [&silent, &failing, &broken].map(|request| failures.time_left(request, now).is_some())
        };
        // The other upstream works all the time.
        failures.heard(0, now);
        failures.answered(0, now);
        assert_eq!(waits(&failures), [true; 3]);
        failures.heard(1, now);
        assert_eq!(waits(&failures), [false, true, true]);
        failures.answered(1, now);
        assert_eq!(waits(&failures), [false, false, true]);
        // Each is one in a row, should the question still fail.
        assert_eq!(failures.record(&silent, now, 0, NAME), 8);
        failures.heard(1, now);
        assert!(failures.time_left(&silent, now).is_some());
    }
}
