//! Zipf's law: the popularity of names, as resolvers see it.

use fastrand::Rng;

/// Ranks from 0, drawn with probabilities in proportion to 1, 1/2, 1/3 …
#[derive(Debug)]
pub(crate) struct Zipf {
    /// Sums of the weights up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(ranks: usize) -> Self {
        let add = |sum: &mut f64, rank: usize| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        };
        Self {
            sums: (1..=ranks).scan(0.0, add).collect(),
        }
    }

    /// The part of all draws that gives one of the first so many ranks, 0 to 1.
    pub(crate) fn share(&self, ranks: usize) -> f64 {
        let last = self.sums.len() - 1;
        let first = ranks
            .checked_sub(1)
            .map_or(0.0, |rank| self.sums[rank.min(last)]);
        first / self.sums[last]
    }

    pub(crate) fn draw(&self, random: &mut Rng) -> usize {
        let last = self.sums.len() - 1;
        let point = self.sums[last] * random.f64();
        self.sums.partition_point(|sum| *sum <= point).min(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_the_first_twice_as_often_as_the_second() {
        let mut random = Rng::with_seed(7);
        let zipf = Zipf::new(100);
        let mut counts = [0.0; 100];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random)] += 1.0;
        }
        assert!((1.9..2.1).contains(&(counts[0] / counts[1])));
        assert!((80.0..120.0).contains(&(counts[0] / counts[99])));
        let share = counts[..10].iter().sum::<f64>() / 100_000.0;
        assert!((zipf.share(10) - share).abs() < 0.01, "{share}");
        assert_eq!((zipf.share(0), zipf.share(100)), (0.0, 1.0));
    }
}
