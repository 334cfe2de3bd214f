//! The heaviest keys of a stream, in bounded memory: the Space-Saving algorithm of Metwally, Agrawal and El
//! Abbadi ("Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005), with weights.

use std::{borrow::Borrow, collections::BTreeSet, hash::Hash};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// The heaviest keys.
///
/// When all counters are in use, a new key takes over the one with the least count. So of `n` counters and a
/// total weight of `w`, every key that is heavier than `w / n` has one, and no count is too high by more than that.
#[derive(Debug)]
pub(super) struct Sketch<K> {
    counters: Vec<Counter<K>>,
    /// The counter of each key.
    index: HashMap<K, usize, RandomState>,
    /// All counters by count: bits of a positive number are ordered as it is.
    order: BTreeSet<(u64, usize)>,
    capacity: usize,
}

#[derive(Debug)]
struct Counter<K> {
    key: K,
    count: f64,
    /// The count that it took over: it may be too high by that.
    error: f64,
}

impl<K: Clone + Eq + Hash> Sketch<K> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            counters: Vec::new(),
            index: HashMap::default(),
            order: BTreeSet::new(),
            capacity,
        }
    }

    /// Adds a positive weight to a key.
    pub(super) fn add<Q>(&mut self, key: &Q, weight: f64)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let slot = match self.index.get(key) {
            Some(slot) => *slot,
            None => self.counter_for(key.to_owned()),
        };
        if let Some(counter) = self.counters.get_mut(slot) {
            self.order.remove(&(counter.count.to_bits(), slot));
            counter.count += weight;
            self.order.insert((counter.count.to_bits(), slot));
        }
    }

    /// Gives a new key a counter: another one, or that with the least count.
    fn counter_for(&mut self, key: K) -> usize {
        let slot = if self.counters.len() < self.capacity {
            self.counters.push(Counter {
                key: key.clone(),
                count: 0.0,
                error: 0.0,
            });
            self.counters.len() - 1
        } else {
            self.order.first().map_or(0, |(_, slot)| *slot)
        };
        if let Some(counter) = self.counters.get_mut(slot)
            && counter.key != key
        {
            self.index.remove(&counter.key);
            counter.key = key.clone();
            counter.error = counter.count;
        }
        self.index.insert(key, slot);
        slot
    }

    /// Divides all counts.
    pub(super) fn divide(&mut self, by: f64) {
        self.order.clear();
        for (slot, counter) in self.counters.iter_mut().enumerate() {
            counter.count /= by;
            counter.error /= by;
            self.order.insert((counter.count.to_bits(), slot));
        }
    }

    /// The keys with the highest counts, highest first, each with the weight that it has at least.
    pub(super) fn top(&self, most: usize) -> Vec<(&K, f64)> {
        let least = |counter: &Counter<K>| counter.count - counter.error;
        let mut keys: Vec<_> = self
            .counters
            .iter()
            .map(|counter| (&counter.key, least(counter)))
            .collect();
        keys.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        keys.truncate(most);
        keys
    }

    #[cfg(test)]
    pub(super) fn bounds(&self, key: &K) -> Option<(f64, f64)> {
        let counter = self.counters.get(*self.index.get(key)?)?;
        Some((counter.count - counter.error, counter.count))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.counters.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the stream: the bound on memory holds, each count brackets the truth, and each key above
        /// the guarantee's share is there.
        #[test]
        fn heavy_keys_are_found(
            stream in prop::collection::vec((0..60u16, 1..9u8), 0..600),
            capacity in 1..40usize,
            halve_at in 0..600usize,
        ) {
            let mut sketch = Sketch::<u16>::new(capacity);
            let mut truth = HashMap::<u16, f64>::new();
            for (at, (key, weight)) in stream.iter().enumerate() {
                if at == halve_at {
                    sketch.divide(2.0);
                    truth.values_mut().for_each(|weight| *weight /= 2.0);
                }
                sketch.add(key, f64::from(*weight));
                *truth.entry(*key).or_default() += f64::from(*weight);
                prop_assert!(sketch.len() <= capacity);
            }
            let total: f64 = truth.values().sum();
            let guarantee = total / capacity as f64;
            for (key, weight) in &truth {
                match sketch.bounds(key) {
                    Some((least, most)) => {
                        prop_assert!(least <= *weight && *weight <= most, "{key}: {least} {weight} {most}");
                        prop_assert!(most - least <= guarantee, "{key}");
                    }
                    None => prop_assert!(*weight <= guarantee, "{key}: {weight} of {total}"),
                }
            }
            let top = sketch.top(5);
            prop_assert!(top.len() <= 5);
            prop_assert!(top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            if truth.len() <= capacity {
                let heaviest = truth.values().copied().fold(0.0, f64::max);
                prop_assert_eq!(top.first().map_or(0.0, |(_, weight)| *weight), heaviest);
            }
        }
    }

    /// A flood of names that occur once hides none that occurs often, and none of the flood seems popular.
    #[test]
    fn a_flood_of_single_keys_hides_nothing() {
        let mut sketch = Sketch::<Vec<u8>>::new(64);
        for number in 0..10_000u32 {
            sketch.add(&number.to_be_bytes()[..], 1.0);
            if number % 20 == 0 {
                sketch.add(&b"popular"[..], 1.0);
            }
        }
        let top = sketch.top(3);
        assert_eq!(
            top.first().map(|(key, _)| key.as_slice()),
            Some(&b"popular"[..])
        );
        assert!(top.first().is_some_and(|(_, least)| *least > 300.0));
        assert!(top.get(1).is_some_and(|(_, least)| *least < 10.0));
    }
}
