//! Questions that were nominated while the tier was full, with how often.
//!
//! A table of fixed size, one place for each hash. Of two questions that share a place, the one that is nominated
//! more often stays (the majority vote of Boyer and Moore, in which each nomination of another question takes one
//! away), so that a flood of questions that are nominated once forgets none that are nominated often.

/// Seconds for which nominations count, and over which hits of entries are counted.
pub(super) const WINDOW: u32 = 16;

/// Places for each entry of the tier.
const PLACES: usize = 8;

#[derive(Debug)]
pub(super) struct Candidates {
    /// A power of two.
    places: Box<[Candidate]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    hash: u64,
    /// The second of the first nomination.
    since: u32,
    /// Nominations less those of other questions; 0: the place is free.
    count: u32,
}

impl Candidates {
    /// For a tier of so many entries.
    pub(super) fn new(entries: u32) -> Self {
        let places = (PLACES * entries as usize).next_power_of_two();
        Self {
            places: vec![Candidate::default(); places].into(),
        }
    }

    /// Counts a nomination. Returns how often the question was nominated in the last [`WINDOW`], as far as it is
    /// known.
    pub(super) fn count(&mut self, hash: u64, now: u32) -> u32 {
        let place = hash as usize & (self.places.len() - 1);
        let Some(candidate) = self.places.get_mut(place) else {
            return 0;
        };
        let is_over = now.wrapping_sub(candidate.since) >= WINDOW;
        if candidate.count == 0 || is_over {
            *candidate = Candidate {
                hash,
                since: now,
                count: 0,
            };
        }
        if candidate.hash == hash {
            candidate.count = candidate.count.saturating_add(1);
            return candidate.count;
        }
        candidate.count -= 1;
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nominations_count_within_a_window() {
        let mut candidates = Candidates::new(4);
        assert_eq!(candidates.count(5, 100), 1);
        assert_eq!(candidates.count(5, 100 + WINDOW - 1), 2);
        assert_eq!(candidates.count(5, 100 + WINDOW), 1);
        // Another place.
        assert_eq!(candidates.count(6, 100 + WINDOW), 1);
        assert_eq!(candidates.count(5, 100 + WINDOW), 2);
    }

    #[test]
    fn a_flood_of_others_forgets_no_question_that_is_nominated_more_often() {
        let mut candidates = Candidates::new(1);
        let mut most = 0;
        for flood in 0..1000 {
            // All share a place with it.
            let other = (flood + 1) << 32 | 1;
            assert!(candidates.count(other, 100) <= 1);
            most = candidates.count(1, 100).max(most);
            most = candidates.count(1, 100).max(most);
        }
        assert!(most > 900, "{most}");
    }
}
