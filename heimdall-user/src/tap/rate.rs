//! How many queries one sample stands for, and when the next one is due.

use std::{fmt, num::NonZeroU32, str::FromStr};

use thiserror::Error;

/// Most queries that a sample may stand for.
const MAX: u32 = 1_000_000;

/// One in so many, 1 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU32);

/// A text that is no [`Rate`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a sampling rate; write 1/N, N from 1 to {MAX}, like 1/100")]
pub struct BadRate(String);

impl Rate {
    /// One in `n`, which is brought into the range.
    pub const fn one_in(n: u32) -> Self {
        let n = if n > MAX { MAX } else { n };
        match NonZeroU32::new(n) {
            Some(n) => Self(n),
            None => Self(NonZeroU32::MIN),
        }
    }

    /// How many queries a sample stands for.
    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let digits = text.strip_prefix("1/");
        let digits = digits.filter(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        number
            .filter(|n| *n <= MAX)
            .and_then(NonZeroU32::new)
            .map(Self)
            .ok_or_else(|| BadRate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1/{}", self.0)
    }
}

/// Who samples are for: the bits of a set.
pub(super) const POPULAR: u8 = 1;
pub(super) const DNSTAP: u8 = 2;
pub(super) const LOG: u8 = 4;
/// Who nominates answers for the hot tier. It gets no samples: the front acts itself.
pub(super) const NOMINATOR: u8 = 8;

/// The consumers, by the number of their bit.
pub(super) const CONSUMERS: usize = 4;

/// When each consumer's next sample is due, in queries.
///
/// The intervals are random, from 1 to 2N-1 and N on average, so that traffic with a period of its own is sampled
/// like any other.
#[derive(Debug)]
pub(super) struct Schedule {
    /// By consumer; `None`: it gets no samples.
    rates: [Option<Rate>; CONSUMERS],
    left: [u32; CONSUMERS],
    /// The least of them.
    next: u32,
    random: fastrand::Rng,
}

impl Schedule {
    pub(super) fn new(rates: [Option<Rate>; CONSUMERS], seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let left = rates.map(|rate| interval(rate, &mut random));
        Self {
            rates,
            left,
            next: left.into_iter().min().unwrap_or(u32::MAX),
            random,
        }
    }

    /// Adds a consumer.
    pub(super) fn add(&mut self, consumer: u8, rate: Rate) {
        let number = consumer.trailing_zeros() as usize;
        if let (Some(of_consumer), Some(left)) =
            (self.rates.get_mut(number), self.left.get_mut(number))
        {
            *of_consumer = Some(rate);
            *left = interval(Some(rate), &mut self.random);
            self.next = self.next.min(*left);
        }
    }

    /// Queries to the next sample of any consumer, 1 at least; without any consumer as many as a number can be.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Passes these queries. Returns for whom the last one is a sample.
    pub(super) fn pass(&mut self) -> u8 {
        let (passed, mut next, mut due) = (self.next, u32::MAX, 0);
        for (consumer, (left, rate)) in self.left.iter_mut().zip(self.rates).enumerate() {
            *left -= passed;
            if *left == 0 {
                due |= u8::from(rate.is_some()) << consumer;
                *left = interval(rate, &mut self.random);
            }
            next = next.min(*left);
        }
        self.next = next;
        due
    }
}

fn interval(rate: Option<Rate>, random: &mut fastrand::Rng) -> u32 {
    rate.map_or(u32::MAX, |rate| random.u32(1..2 * rate.get()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        for text in ["1/1", "1/100", "1/1000000"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "1",
            "100",
            "1/0",
            "1/-1",
            "1/+1",
            "2/3",
            "1/1000001",
            "1/99999999999",
            "1/1.5",
            "1 / 2",
        ] {
            let error = bad.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("write 1/N"), "{error}");
        }
        assert_eq!(Rate::one_in(0).get(), 1);
        assert_eq!(Rate::one_in(u32::MAX).get(), MAX);
    }

    proptest! {
        /// Each consumer gets its share, whatever the others get, and one without a rate nothing.
        #[test]
        fn consumers_get_their_shares(first in 1..50u32, third in 1..200u32, last in 1..200u32, seed: u64) {
            let rates = [Some(Rate::one_in(first)), None, Some(Rate::one_in(third)), None];
            let mut schedule = Schedule::new(rates, seed);
            schedule.add(NOMINATOR, Rate::one_in(last));
            let mut counts = [0u32; CONSUMERS];
            let mut queries = 0u32;
            while queries < 200 * 400 {
                let next = schedule.next();
                prop_assert!((1..2 * first.max(third).max(last)).contains(&next));
                queries += next;
                let due = schedule.pass();
                prop_assert!(due != 0);
                for (consumer, count) in counts.iter_mut().enumerate() {
                    *count += u32::from(due >> consumer & 1);
                }
            }
            for (count, n) in [(counts[0], first), (counts[2], third), (counts[3], last)] {
                let share = f64::from(count) * f64::from(n) / f64::from(queries);
                prop_assert!((0.7..1.3).contains(&share), "1/{n}: {share}");
            }
            prop_assert_eq!(counts[1], 0);
        }

        /// One in one is all.
        #[test]
        fn all_queries(seed: u64) {
            let mut schedule = Schedule::new([None, Some(Rate::one_in(1)), None, None], seed);
            for _ in 0..100 {
                prop_assert_eq!(schedule.next(), 1);
                prop_assert_eq!(schedule.pass(), DNSTAP);
            }
        }
    }
}
