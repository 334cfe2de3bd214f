//! The rates of the last minutes.

use std::collections::VecDeque;

/// Rates that are kept; the oldest go first.
const KEPT: usize = 900;

/// One rate of each reading.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    rates: VecDeque<f64>,
    /// How many were pushed so far.
    pushed: usize,
}

impl History {
    pub(super) fn push(&mut self, rate: f64) {
        if self.rates.len() == KEPT {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        self.pushed += 1;
    }

    /// The means of `each` rates at a time, the newest first. Groups are counted from the first rate of all, so that a
    /// rate stays in its group.
    pub(super) fn means(&self, each: usize) -> Vec<u64> {
        let each = each.max(1);
        let mut groups: Vec<(usize, f64, u32)> = Vec::new();
        for (age, rate) in self.rates.iter().rev().enumerate() {
            let group = (self.pushed - 1 - age) / each;
            match groups.last_mut() {
                Some((last, sum, count)) if *last == group => {
                    *sum += rate;
                    *count += 1;
                }
                _ => groups.push((group, *rate, 1)),
            }
        }
        let mean = |(_, sum, count): (usize, f64, u32)| (sum / f64::from(count)).round() as u64;
        groups.into_iter().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_stay_in_their_group_while_time_passes() {
        let mut history = History::default();
        assert!(history.means(3).is_empty());
        for rate in [3.0, 6.0, 9.0, 30.0] {
            history.push(rate);
        }
        assert_eq!(history.means(3), [30, 6]);
        assert_eq!(history.means(0), [30, 9, 6, 3]);
        history.push(50.0);
        assert_eq!(history.means(3), [40, 6]);
        for _ in 0..2 * KEPT {
            history.push(1.0);
        }
        assert_eq!(history.means(1), vec![1; KEPT]);
    }
}
