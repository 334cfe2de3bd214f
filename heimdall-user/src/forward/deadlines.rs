//! Deadlines of look-ups, soonest first.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Instant,
};

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
///
/// Nearly all are as far off as the one before, so they come in order and need no heap.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    in_order: VecDeque<Deadline>,
    others: BinaryHeap<Reverse<Deadline>>,
}

impl Deadlines {
    /// With memory for `capacity` deadlines.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            in_order: VecDeque::with_capacity(capacity),
            others: BinaryHeap::new(),
        }
    }

    pub(super) fn set(&mut self, slot: usize, serial: u64, at: Instant) {
        let deadline = Deadline { at, slot, serial };
        if self.in_order.back().is_none_or(|last| last.at <= at) {
            self.in_order.push_back(deadline);
        } else {
            self.others.push(Reverse(deadline));
        }
    }

    /// The next one that still matters.
    pub(super) fn next(&mut self, matters: impl Fn(Deadline) -> bool) -> Option<Instant> {
        while let Some(next) = self.peek() {
            if matters(next) {
                return Some(next.at);
            }
            self.pop();
        }
        None
    }

    /// Removes one that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Deadline> {
        let due = self.peek().is_some_and(|next| next.at <= now);
        due.then(|| self.pop()).flatten()
    }

    fn peek(&self) -> Option<Deadline> {
        let other = self.others.peek().map(|Reverse(other)| other);
        self.in_order
            .front()
            .into_iter()
            .chain(other)
            .min()
            .copied()
    }

    fn pop(&mut self) -> Option<Deadline> {
        match (self.in_order.front(), self.others.peek()) {
            (Some(first), Some(Reverse(other))) if other < first => {
                self.others.pop().map(|Reverse(other)| other)
            }
            (Some(_), _) => self.in_order.pop_front(),
            (None, _) => self.others.pop().map(|Reverse(other)| other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn they_come_soonest_first_in_whatever_order_they_were_set() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        for seconds in [3, 5, 1, 7, 4, 7, 2, 6] {
            deadlines.set(seconds as usize, 0, at(seconds));
        }
        assert_eq!(deadlines.take_due(at(0)), None);
        assert_eq!(deadlines.next(|next| next.slot > 1), Some(at(2)));
        let due = std::iter::from_fn(|| deadlines.take_due(at(6)));
        assert_eq!(due.map(|due| due.slot).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert_eq!(deadlines.next(|_| true), Some(at(7)));
    }
}
