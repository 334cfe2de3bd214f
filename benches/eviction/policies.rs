//! The policies, over names that are small numbers: the state of each name is in a table, so that no
//! hash map is measured.

use std::collections::VecDeque;

/// A name: its index in the table of all.
pub(crate) type Name = u32;

/// A cache with a fixed number of entries, which inserts every name that is missed.
pub(crate) trait Policy {
    /// Looks a name up, and inserts it after a miss. Returns whether it was a hit.
    fn access(&mut self, name: Name) -> bool;
}

/// Evicts the least recently used entry.
pub(crate) struct Lru {
    capacity: usize,
    len: usize,
    now: u32,
    /// Every request and its time, the oldest in front; those not the last for their name are
    /// skipped.
    queue: VecDeque<(Name, u32)>,
    /// When a cached name was last requested; 0: not cached.
    last: Vec<u32>,
}

impl Lru {
    pub(crate) fn new(capacity: usize, names: usize) -> Self {
        Self {
            capacity,
            len: 0,
            now: 0,
            queue: VecDeque::new(),
            last: vec![0; names],
        }
    }

    fn evict(&mut self) {
        while let Some((name, time)) = self.queue.pop_front() {
            let last = &mut self.last[name as usize];
            if *last == time {
                *last = 0;
                self.len -= 1;
                return;
            }
        }
    }
}

impl Policy for Lru {
    fn access(&mut self, name: Name) -> bool {
        let hit = self.last[name as usize] != 0;
        if !hit {
            if self.len == self.capacity {
                self.evict();
            }
            self.len += 1;
        }
        self.now += 1;
        self.last[name as usize] = self.now;
        self.queue.push_back((name, self.now));
        hit
    }
}

/// The state of a name, for policies with queues.
#[derive(Clone, Copy, Default)]
struct State {
    cached: bool,
    /// Hits since it was inserted or last visited, up to the policy's cap.
    hits: u8,
}

impl State {
    const FRESH: Self = Self {
        cached: true,
        hits: 0,
    };

    /// Counts a hit.
    fn hit(&mut self, cap: u8) {
        // As in a real cache, a hit on a popular name writes nothing.
        if self.hits < cap {
            self.hits += 1;
        }
    }
}

/// Evicts the oldest entry, unless it was hit: then it is reinserted, with one hit less. With a cap of 0 a plain FIFO, with a cap of 1 a CLOCK.
pub(crate) struct Fifo {
    capacity: usize,
    cap: u8,
    queue: VecDeque<Name>,
    states: Vec<State>,
}

impl Fifo {
    pub(crate) fn new(capacity: usize, names: usize, cap: u8) -> Self {
        Self {
            capacity,
            cap,
            queue: VecDeque::with_capacity(capacity),
            states: vec![State::default(); names],
        }
    }

    fn evict(&mut self) {
        while let Some(name) = self.queue.pop_front() {
            let state = &mut self.states[name as usize];
            if state.hits == 0 {
                state.cached = false;
                return;
            }
            state.hits -= 1;
            self.queue.push_back(name);
        }
    }
}

impl Policy for Fifo {
    fn access(&mut self, name: Name) -> bool {
        let state = &mut self.states[name as usize];
        if state.cached {
            state.hit(self.cap);
            return true;
        }
        *state = State::FRESH;
        if self.queue.len() == self.capacity {
            self.evict();
        }
        self.queue.push_back(name);
        false
    }
}

/// SIEVE (Zhang et al., NSDI 2024): a hand walks from the oldest to the newest, evicts entries
/// without a hit, and resets the others where they are.
///
/// The queue is split at the hand: all entries that it has passed are older than those ahead.
pub(crate) struct Sieve {
    capacity: usize,
    passed: VecDeque<Name>,
    ahead: VecDeque<Name>,
    states: Vec<State>,
}

impl Sieve {
    pub(crate) fn new(capacity: usize, names: usize) -> Self {
        Self {
            capacity,
            passed: VecDeque::with_capacity(capacity),
            ahead: VecDeque::with_capacity(capacity),
            states: vec![State::default(); names],
        }
    }

    fn evict(&mut self) {
        loop {
            let Some(name) = self.ahead.pop_front() else {
                std::mem::swap(&mut self.ahead, &mut self.passed);
                continue;
            };
            let state = &mut self.states[name as usize];
            if state.hits == 0 {
                state.cached = false;
                return;
            }
            state.hits = 0;
            self.passed.push_back(name);
        }
    }
}

impl Policy for Sieve {
    fn access(&mut self, name: Name) -> bool {
        let state = &mut self.states[name as usize];
        if state.cached {
            state.hit(1);
            return true;
        }
        *state = State::FRESH;
        if self.passed.len() + self.ahead.len() == self.capacity {
            self.evict();
        }
        self.ahead.push_back(name);
        false
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue for new entries, a main queue for those that were
/// hit there, and ghosts of the others.
pub(crate) struct S3Fifo {
    capacity: usize,
    /// Entries that the small queue may have when the cache is full.
    small_capacity: usize,
    /// Hits in the small queue after which an entry is promoted.
    promotion: u8,
    small: VecDeque<Name>,
    main: VecDeque<Name>,
    states: Vec<State>,
    /// The ordinal of a name's last eviction from the small queue; 0: none. The ghost is the
    /// latest of them.
    ghosts: Vec<u32>,
    evicted: u32,
}

impl S3Fifo {
    /// The most that two bits can count.
    const CAP: u8 = 3;

    pub(crate) fn new(capacity: usize, names: usize, small_percent: usize, promotion: u8) -> Self {
        Self {
            capacity,
            small_capacity: (capacity * small_percent / 100).max(1),
            promotion,
            small: VecDeque::with_capacity(capacity),
            main: VecDeque::with_capacity(capacity),
            states: vec![State::default(); names],
            ghosts: vec![0; names],
            evicted: 0,
        }
    }

    /// Removes a ghost, and returns whether there was one. Its slot stays in use, as in a ring of
    /// fingerprints.
    fn take_ghost(&mut self, name: Name) -> bool {
        let ordinal = std::mem::take(&mut self.ghosts[name as usize]);
        let room = self.capacity - self.small_capacity;
        ordinal != 0 && ((self.evicted - ordinal) as usize) < room
    }

    /// Takes one entry from the small queue: it is promoted or evicted.
    fn advance_small(&mut self) {
        let Some(name) = self.small.pop_front() else {
            return;
        };
        let state = &mut self.states[name as usize];
        if state.hits >= self.promotion {
            *state = State::FRESH;
            self.main.push_back(name);
        } else {
            state.cached = false;
            self.evicted += 1;
            self.ghosts[name as usize] = self.evicted;
        }
    }

    /// Takes one entry from the main queue: it is reinserted or evicted.
    fn advance_main(&mut self) {
        let Some(name) = self.main.pop_front() else {
            return;
        };
        let state = &mut self.states[name as usize];
        if state.hits == 0 {
            state.cached = false;
        } else {
            state.hits -= 1;
            self.main.push_back(name);
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, name: Name) -> bool {
        let state = &mut self.states[name as usize];
        if state.cached {
            state.hit(Self::CAP);
            return true;
        }
        *state = State::FRESH;
        let known = self.take_ghost(name);
        while self.small.len() + self.main.len() >= self.capacity {
            if self.small.len() >= self.small_capacity {
                self.advance_small();
            } else {
                self.advance_main();
            }
        }
        let queue = if known {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push_back(name);
        false
    }
}
