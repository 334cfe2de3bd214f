//! The cache against a plain map with a clock, over millions of random operations.
//!
//! The cache may forget, and counts it when it does; it never gives anything but the last answer
//! that was put in, and that only while it is good.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;

use heimdall_user::{
    cache::{Cache, Key, Record, Visit, Walk},
    dns::{Answer, NameHasher, answer::AnswerFields},
};

const GRACE: u32 = 40;

/// Numbers that look like chance, the same every time (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 33) % u64::from(below)) as u32
    }

    /// A name's number: the lower, the likelier.
    fn name(&mut self, names: u32) -> u32 {
        let below = self.next(names) + 1;
        self.next(below)
    }
}

/// What the map has of a name.
struct Known {
    stored: u32,
    life: u32,
    body: Vec<u8>,
}

impl Known {
    fn is_good(&self, now: u32) -> bool {
        now < self.stored + self.life
    }

    fn is_of_use(&self, now: u32) -> bool {
        now < self.stored + self.life + GRACE
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
            chance: Chance(seed),
            names,
            now: 1000,
            hits: 0,
        }
    }

    fn insert(&mut self) {
        let name = self.chance.name(self.names);
        let life = self.chance.next(100);
        // Most answers are as long as the ones before them; a few are very long.
        let len = match self.chance.next(1000) {
            0 => self.chance.next(65_000),
            1..200 => self.chance.next(400),
            _ => 16 * (1 + name % 5),
        };
        let octet = self.chance.next(256) as u8;
        let body = vec![octet; len as usize];
        let answer = Answer::new(&AnswerFields {
            body: &body,
            ttl: life,
            ..AnswerFields::default()
        });
        let question = question(name);
        let key = Key::new(&self.hasher, &question, flags(name));
        self.cache.insert(&key, &answer, self.now);
        // An answer without a life is not kept, and the one before it stays.
        if life > 0 {
            let stored = self.now;
            self.known.insert(name, Known { stored, life, body });
            assert!(self.cache.get(&key, self.now).is_some(), "just put in");
        }
    }

    /// Looks a name up in both. Whether the cache has what the map has.
    fn look_up(&mut self, name: u32) -> bool {
        let question = question(name).to_ascii_uppercase();
        let key = Key {
            // The type's octets are no letters.
            question: &question,
            ..Key::new(&self.hasher, &question, flags(name))
        };
        let known = self.known.get(&name);
        let good = known.filter(|known| known.is_good(self.now));
        match (self.cache.get(&key, self.now), good) {
            (Some(hit), Some(known)) => {
                self.hits += 1;
                assert_eq!(hit.answer.body(), known.body);
                assert_eq!(hit.age, self.now - known.stored);
                let left = known.life - hit.age;
                assert_eq!(hit.late, left <= known.life / 10);
            }
            (Some(_), None) => panic!("{name} is not good any more"),
            (None, _) => {}
        }
        let of_use = known.filter(|known| known.is_of_use(self.now));
        match (self.cache.get_stale(&key, self.now), of_use) {
            (Some(hit), Some(known)) => {
                assert_eq!(hit.answer.body(), known.body);
                assert_eq!(hit.age, self.now - known.stored);
                true
            }
            (Some(_), None) => panic!("{name} is of no use any more"),
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

    /// Removes what has a certain length, in small steps.
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
    fn move_house(&mut self, bytes: usize) {
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
            known.stored += 5000;
        }
        (self.cache, self.hasher, self.now) = (cache, hasher, now);
    }

    /// Names that the map has and the cache has not.
    fn forgotten(&mut self) -> u64 {
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
                    self.cache.forget(self.now);
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
fn a_cache_with_room_for_everything_forgets_nothing() {
    let bytes = 128 << 20;
    let mut model = Model::new(bytes, 3000, 1);
    for _ in 0..5 {
        model.run(200_000);
        assert_eq!(model.cache.evictions(), 0);
        assert_eq!(model.forgotten(), 0);
        model.move_house(bytes);
        assert_eq!(model.forgotten(), 0);
    }
    assert!(model.hits > 300_000, "{}", model.hits);
}

#[test]
fn a_small_cache_forgets_only_what_it_counts() {
    let mut model = Model::new(1 << 18, 6000, 2);
    for _ in 0..10 {
        let before = model.cache.evictions();
        model.run(100_000);
        let forgotten = model.forgotten();
        let evicted = model.cache.evictions() - before;
        assert!(evicted > 0);
        // What had been forgotten before may still be so.
        assert!(forgotten <= model.cache.evictions(), "{forgotten}");
        assert!(model.cache.entries() <= u64::from(model.names));
    }
    assert!(model.hits > 150_000, "{}", model.hits);
}
