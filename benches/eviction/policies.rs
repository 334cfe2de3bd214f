//! The contenders, over names that are small numbers: what a policy knows of a name stands in a
//! table, so that no hash map hides in the figures' cost.

use std::collections::VecDeque;

/// A name, as its place in the table of all of them.
pub(crate) type Name = u32;

/// A cache of so many entries that keeps every name asked for, for as long as it sees fit.
pub(crate) trait Policy {
    /// Asks for a name and keeps it. Tells whether it was there.
    fn access(&mut self, name: Name) -> bool;
}

/// Least recently used leaves first.
pub(crate) struct Lru {
    capacity: usize,
    len: usize,
    now: u32,
    /// Every request and its time, the oldest in front; those not the last for their name are
    /// skipped.
    queue: VecDeque<(Name, u32)>,
    /// When a name that is kept was last asked for; 0: not kept.
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

/// What a queue's policy knows of a name.
#[derive(Clone, Copy, Default)]
struct Note {
    kept: bool,
    /// Requests since it was kept or last looked at, up to the policy's cap.
    asked: u8,
}

impl Note {
    const FRESH: Self = Self {
        kept: true,
        asked: 0,
    };

    /// Notes a request for a name that is kept.
    fn ask(&mut self, cap: u8) {
        // As in a real cache, a hit on a popular name writes nothing.
        if self.asked < cap {
            self.asked += 1;
        }
    }
}

/// The oldest leaves first, unless it was asked for: then it goes round again and its count goes
/// down. With a cap of 0 a plain FIFO, with a cap of 1 a CLOCK.
pub(crate) struct Fifo {
    capacity: usize,
    cap: u8,
    queue: VecDeque<Name>,
    notes: Vec<Note>,
}

impl Fifo {
    pub(crate) fn new(capacity: usize, names: usize, cap: u8) -> Self {
        Self {
            capacity,
            cap,
            queue: VecDeque::with_capacity(capacity),
            notes: vec![Note::default(); names],
        }
    }

    fn evict(&mut self) {
        while let Some(name) = self.queue.pop_front() {
            let note = &mut self.notes[name as usize];
            if note.asked == 0 {
                note.kept = false;
                return;
            }
            note.asked -= 1;
            self.queue.push_back(name);
        }
    }
}

impl Policy for Fifo {
    fn access(&mut self, name: Name) -> bool {
        let note = &mut self.notes[name as usize];
        if note.kept {
            note.ask(self.cap);
            return true;
        }
        *note = Note::FRESH;
        if self.queue.len() == self.capacity {
            self.evict();
        }
        self.queue.push_back(name);
        false
    }
}

/// SIEVE (Zhang et al., NSDI 2024): a hand walks from the oldest to the newest, evicts what was
/// not asked for and forgives the rest where it stands.
///
/// The queue is cut at the hand: what it has passed is older than all that lies ahead.
pub(crate) struct Sieve {
    capacity: usize,
    passed: VecDeque<Name>,
    ahead: VecDeque<Name>,
    notes: Vec<Note>,
}

impl Sieve {
    pub(crate) fn new(capacity: usize, names: usize) -> Self {
        Self {
            capacity,
            passed: VecDeque::with_capacity(capacity),
            ahead: VecDeque::with_capacity(capacity),
            notes: vec![Note::default(); names],
        }
    }

    fn evict(&mut self) {
        loop {
            let Some(name) = self.ahead.pop_front() else {
                std::mem::swap(&mut self.ahead, &mut self.passed);
                continue;
            };
            let note = &mut self.notes[name as usize];
            if note.asked == 0 {
                note.kept = false;
                return;
            }
            note.asked = 0;
            self.passed.push_back(name);
        }
    }
}

impl Policy for Sieve {
    fn access(&mut self, name: Name) -> bool {
        let note = &mut self.notes[name as usize];
        if note.kept {
            note.ask(1);
            return true;
        }
        *note = Note::FRESH;
        if self.passed.len() + self.ahead.len() == self.capacity {
            self.evict();
        }
        self.ahead.push_back(name);
        false
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue on probation, a main queue for those that
/// passed, and the memory of those that did not.
pub(crate) struct S3Fifo {
    capacity: usize,
    /// Entries that the small queue may have when the cache is full.
    small_capacity: usize,
    /// Requests in the small queue that open the main one.
    promotion: u8,
    small: VecDeque<Name>,
    main: VecDeque<Name>,
    notes: Vec<Note>,
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
            notes: vec![Note::default(); names],
            ghosts: vec![0; names],
            evicted: 0,
        }
    }

    /// Forgets a ghost, and tells whether it was one. It still fills its place, as it does in a
    /// ring of fingerprints.
    fn lay(&mut self, name: Name) -> bool {
        let ordinal = std::mem::take(&mut self.ghosts[name as usize]);
        let room = self.capacity - self.small_capacity;
        ordinal != 0 && ((self.evicted - ordinal) as usize) < room
    }

    /// Takes one name from the small queue, out of the cache or into the main queue.
    fn demote(&mut self) {
        let Some(name) = self.small.pop_front() else {
            return;
        };
        let note = &mut self.notes[name as usize];
        if note.asked >= self.promotion {
            *note = Note::FRESH;
            self.main.push_back(name);
        } else {
            note.kept = false;
            self.evicted += 1;
            self.ghosts[name as usize] = self.evicted;
        }
    }

    /// Takes one name from the main queue, out of the cache or round again.
    fn turn(&mut self) {
        let Some(name) = self.main.pop_front() else {
            return;
        };
        let note = &mut self.notes[name as usize];
        if note.asked == 0 {
            note.kept = false;
        } else {
            note.asked -= 1;
            self.main.push_back(name);
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, name: Name) -> bool {
        let note = &mut self.notes[name as usize];
        if note.kept {
            note.ask(Self::CAP);
            return true;
        }
        *note = Note::FRESH;
        let known = self.lay(name);
        while self.small.len() + self.main.len() >= self.capacity {
            if self.small.len() >= self.small_capacity {
                self.demote();
            } else {
                self.turn();
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
