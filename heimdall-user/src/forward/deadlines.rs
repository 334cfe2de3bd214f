//! Deadlines of look-ups, soonest first.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

/// A deadline of something in a look-up's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline {
    at: Instant,
    pub(super) slot: usize,
    /// Distinguishes it from earlier look-ups in the slot.
    pub(super) serial: u64,
}

/// A deadline is not removed when its look-up ends, but skipped when it is due. So there are
/// never more than are set within the longest time to one.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<Deadline>>);

impl Deadlines {
    pub(super) fn set(&mut self, slot: usize, serial: u64, at: Instant) {
        self.0.push(Reverse(Deadline { at, slot, serial }));
    }

    /// The next one that still matters.
    pub(super) fn next(&mut self, matters: impl Fn(Deadline) -> bool) -> Option<Instant> {
        while let Some(&Reverse(next)) = self.0.peek() {
            if matters(next) {
                return Some(next.at);
            }
            self.0.pop();
        }
        None
    }

    /// Removes one that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Deadline> {
        let due = self.0.peek().is_some_and(|Reverse(next)| next.at <= now);
        due.then(|| self.0.pop())
            .flatten()
            .map(|Reverse(next)| next)
    }
}
