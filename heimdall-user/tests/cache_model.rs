//! The cache against a plain map with a clock, over millions of random operations.
//!
//! The cache may evict entries, and counts that; a hit is always the last answer that was inserted,
//! and only while it is fresh, or stale within its grace.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;

use fastrand::Rng;
use heimdall_user::{
    cache::{Cache, Key, Record, Visit, Walk},
    dns::{Answer, NameHasher, answer::AnswerFields},
};

const GRACE: u32 = 40;

/// Random numbers, the same every time.
struct Chance(Rng);

impl Chance {
    fn next(&mut self, below: u32) -> u32 {
        self.0.u32(..below)
    }

    /// A name's number: the lower, the more probable.
    fn name(&mut self, names: u32) -> u32 {
        let below = self.next(names) + 1;
        self.next(below)
    }
}

/// The map's entry of a name.
struct Known {
    received: u32,
    ttl: u32,
    body: Vec<u8>,
}

impl Known {
    fn is_fresh(&self, now: u32) -> bool {
        now < self.received + self.ttl
    }

    fn is_usable(&self, now: u32) -> bool {
        now < self.received + self.ttl + GRACE
    }
}

struct Model {
    cache: Cache,
    hasher: NameHasher,
    known: HashMap<u32, Known>,
    chance: Chance,
    names: u32,
    now: u32,
    hits: u64,
}

fn question(name: u32) -> Vec<u8> {
    let label = format!("Name-{name}");
    let mut question = vec![label.len() as u8];
    question.extend_from_slice(label.as_bytes());
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    question
}

fn flags(name: u32) -> u8 {
    (name % 4) as u8
}

impl Model {
    fn new(bytes: usize, names: u32, seed: u64) -> Self {
        Self {
            cache: Cache::with_grace(bytes, GRACE).unwrap(),
            hasher: NameHasher::default(),
            known: HashMap::new(),
            chance: Chance(Rng::with_seed(seed)),
            names,
            now: 1000,
            hits: 0,
        }
    }

    fn insert(&mut self) {
        let name = self.chance.name(self.names);
        let ttl = self.chance.next(100);
        // Most answers are as long as those that they replace; a few are very long.
        let len = match self.chance.next(1000) {
            0 => self.chance.next(65_000),
            1..200 => self.chance.next(400),
            _ => 16 * (1 + name % 5),
        };
        let octet = self.chance.next(256) as u8;
        let body = vec![octet; len as usize];
        let answer = Answer::new(&AnswerFields {
            body: &body,
            ttl,
            ..AnswerFields::default()
        });
        let question = question(name);
        let key = Key::new(&self.hasher, &question, flags(name));
        self.cache.insert(&key, &answer, self.now);
        // An answer with a TTL of 0 is not cached, and does not replace one.
        if ttl > 0 {
            let received = self.now;
            self.known.insert(
                name,
                Known {
                    received,
                    ttl,
                    body,
                },
            );
            assert!(self.cache.get(&key, self.now).is_some(), "just inserted");
        }
    }

    /// Looks a name up in both. Returns whether the cache has the map's entry.
    fn look_up(&mut self, name: u32) -> bool {
        let question = question(name).to_ascii_uppercase();
        let key = Key {
            // The type's octets are no letters.
            question: &question,
            ..Key::new(&self.hasher, &question, flags(name))
        };
        let known = self.known.get(&name);
        let fresh = known.filter(|known| known.is_fresh(self.now));
        match (self.cache.get(&key, self.now), fresh) {
            (Some(hit), Some(known)) => {
                self.hits += 1;
                assert_eq!(hit.answer.body(), known.body);
                assert_eq!(hit.age, self.now - known.received);
                let left = known.ttl - hit.age;
                assert_eq!(hit.refresh_due, left <= known.ttl / 10);
            }
            (Some(_), None) => panic!("{name} has expired"),
            (None, _) => {}
        }
        let usable = known.filter(|known| known.is_usable(self.now));
        match (self.cache.get_stale(&key, self.now), usable) {
            (Some(hit), Some(known)) => {
                assert_eq!(hit.answer.body(), known.body);
                assert_eq!(hit.age, self.now - known.received);
                true
            }
            (Some(_), None) => panic!("the grace of {name} is over"),
            (None, Some(_)) => false,
            (None, None) => true,
        }
    }

    fn remove(&mut self) {
        let name = self.chance.name(self.names);
        let question = question(name);
        let key = Key::new(&self.hasher, &question, flags(name));
        self.cache.remove(&key);
        self.known.remove(&name);
    }

    /// Removes entries of a certain length, in small steps.
    fn flush(&mut self) {
        let len = 16 * (1 + self.chance.next(5) as usize);
        let doomed = |record: &Record<'_>| record.answer.body().len() == len;
        let steps = 1 + self.chance.next(200) as usize;
        let mut walk = Walk::default();
        while self.cache.walk(&mut walk, steps, self.now, |record| {
            if doomed(record) {
                Visit::Remove
            } else {
                Visit::Keep
            }
        }) {}
        self.known.retain(|_, known| known.body.len() != len);
    }

    /// Copies the cache to a new one, with other hashes and another clock.
    fn restart(&mut self, bytes: usize) {
        let hasher = NameHasher::default();
        let mut cache = Cache::with_grace(bytes, GRACE).unwrap();
        let now = self.now + 5000;
        let mut walk = Walk::default();
        while self.cache.walk(&mut walk, 100, self.now, |record| {
            let key = Key::new(&hasher, record.question, record.flags);
            cache.restore(&key, record.answer, record.age, now);
            Visit::Keep
        }) {}
        for known in self.known.values_mut() {
            known.received += 5000;
        }
        (self.cache, self.hasher, self.now) = (cache, hasher, now);
    }

    /// How many names are in the map and not in the cache.
    fn missing(&mut self) -> u64 {
        (0..self.names).filter(|name| !self.look_up(*name)).count() as u64
    }

    fn run(&mut self, operations: u32) {
        for _ in 0..operations {
            match self.chance.next(1_000_000) {
                0..300_000 => self.insert(),
                300_000..320_000 => self.remove(),
                320_000..330_000 => self.now += self.chance.next(3),
                330_000..330_020 => self.flush(),
                330_020..330_025 => {
                    self.cache.invalidate(self.now);
                    self.known.clear();
                }
                _ => {
                    let name = self.chance.name(self.names);
                    self.look_up(name);
                }
            }
        }
    }
}

#[test]
fn a_large_cache_evicts_nothing() {
    let bytes = 128 << 20;
    let mut model = Model::new(bytes, 3000, 1);
    for _ in 0..5 {
        model.run(200_000);
        assert_eq!(model.cache.evictions(), 0);
        assert_eq!(model.missing(), 0);
        model.restart(bytes);
        assert_eq!(model.missing(), 0);
    }
    assert!(model.hits > 300_000, "{}", model.hits);
}

#[test]
fn a_small_cache_counts_every_eviction() {
    let mut model = Model::new(1 << 18, 6000, 2);
    for _ in 0..10 {
        let before = model.cache.evictions();
        model.run(100_000);
        let missing = model.missing();
        let evicted = model.cache.evictions() - before;
        assert!(evicted > 0);
        // Names that were evicted in an earlier round may still be missing.
        assert!(missing <= model.cache.evictions(), "{missing}");
        assert!(model.cache.entries() <= u64::from(model.names));
    }
    assert!(model.hits > 150_000, "{}", model.hits);
}
