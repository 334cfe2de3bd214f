//! A histogram with one writer and any number of readers.

use std::{array, time::Duration};

use crate::stats::Counter;

/// Bounds in each decade, in hundredths: the preferred numbers R20 (ISO 3), which rise by 10 to 15 %
/// and have 1, 2 and 5 among them.
const STEPS: [u64; 20] = [
    100, 112, 125, 140, 160, 180, 200, 224, 250, 280, 315, 355, 400, 450, 500, 560, 630, 710, 800,
    900,
];

/// From 100 ns to 10 s.
const DECADES: usize = 8;

/// The buckets' upper bounds, inclusive, in nanoseconds. One more bucket has what took longer.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of range is an error"
)]
pub(super) static BOUNDS: [u64; STEPS.len() * DECADES + 1] = {
    let mut bounds = [0; STEPS.len() * DECADES + 1];
    let mut unit = 1;
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = STEPS[at % STEPS.len()] * unit;
        at += 1;
        if at.is_multiple_of(STEPS.len()) {
            unit *= 10;
        }
    }
    bounds
};

pub(super) const BUCKETS: usize = STEPS.len() * DECADES + 2;

/// Counts of durations by length: 162 buckets, 1.3 KiB.
///
/// A bucket's bounds are at most 15 % apart from 100 ns to 10 s; what is shorter, or longer, has one bucket each.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Histogram {
    pub(super) buckets: [Counter; BUCKETS],
    /// Of all durations, in nanoseconds.
    pub(super) sum: Counter,
    /// The longest, in nanoseconds.
    pub(super) max: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
            max: Counter::default(),
        }
    }
}

impl Histogram {
    /// Records that something took `time`, `count` times. Only the owning thread may call this.
    #[inline]
    pub(crate) fn record(&self, time: Duration, count: u64) {
        // 2⁶⁴ ns are 584 years.
        let nanos = time.as_nanos() as u64;
        let at = BOUNDS.partition_point(|bound| *bound < nanos);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(count);
        }
        self.sum.add(nanos.wrapping_mul(count));
        if nanos > self.max.get() {
            self.max.set(nanos);
        }
    }
}
