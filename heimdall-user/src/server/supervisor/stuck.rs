//! The check that a worker makes progress. Its packets would wait in its ring, and be lost when that is full.

use std::mem;

/// Checks in a row without a beat of its loop, after which a worker is stuck. It sleeps for a second at most.
const MAX_STILL: u32 = 3;

/// What the last checks have seen of one worker.
#[derive(Debug, Default)]
pub(super) struct ProgressCheck {
    beats: u64,
    /// Checks in a row without a beat.
    still: u32,
}

impl ProgressCheck {
    /// Takes how often the worker's loop has gone round, about once a second. Returns whether the worker is stuck, if that
    /// has changed.
    pub(super) fn observe(&mut self, beats: u64) -> Option<bool> {
        let was_stuck = self.is_stuck();
        if mem::replace(&mut self.beats, beats) == beats {
            self.still = self.still.saturating_add(1);
        } else {
            self.still = 0;
        }
        let is_stuck = self.is_stuck();
        (is_stuck != was_stuck).then_some(is_stuck)
    }

    /// Whether the last check saw a beat.
    pub(super) fn has_moved(&self) -> bool {
        self.still == 0
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.still >= MAX_STILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_after_three_checks_without_a_beat_until_the_next_one() {
        let mut check = ProgressCheck::default();
        let beats = [1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4];
        let changes: Vec<_> = beats
            .into_iter()
            .map(|beats| check.observe(beats))
            .collect();
        let mut expected = [None; 11];
        expected[7] = Some(true);
        expected[9] = Some(false);
        assert_eq!(changes, expected);
        assert!(!check.has_moved() && !check.is_stuck());
    }
}
