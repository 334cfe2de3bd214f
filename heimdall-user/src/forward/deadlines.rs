//! Deadlines that all lie equally far ahead when they are set.
//!
//! They fall due in the order in which they were set, so a queue holds them sorted: no timer of
//! the kernel's and no heap.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A deadline of something in a look-up's slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    pub(super) slot: usize,
    /// Tells it from what was in the slot before.
    pub(super) serial: u64,
}

#[derive(Debug)]
pub(super) struct Deadlines {
    queue: VecDeque<Deadline>,
    ahead: Duration,
}

impl Deadlines {
    pub(super) fn new(ahead: Duration) -> Self {
        Self {
            queue: VecDeque::new(),
            ahead,
        }
    }

    pub(super) fn set(&mut self, slot: usize, serial: u64, now: Instant) {
        let at = now + self.ahead;
        self.queue.push_back(Deadline { at, slot, serial });
    }

    /// The next one that still matters.
    pub(super) fn next(&mut self, matters: impl Fn(Deadline) -> bool) -> Option<Instant> {
        while let Some(&next) = self.queue.front() {
            if matters(next) {
                return Some(next.at);
            }
            self.queue.pop_front();
        }
        None
    }

    /// Takes one that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Deadline> {
        let due = self.queue.front().is_some_and(|next| next.at <= now);
        due.then(|| self.queue.pop_front()).flatten()
    }
}
