//! The answers that one thread has learnt, in memory of a fixed size.
//!
//! An index of 64-byte buckets points into a log of entries. A look-up touches one line of the
//! index, then the entry.
//!
//! What leaves when memory is full is decided as in S3-FIFO (Yang et al., SOSP 2023). The log is
//! two queues. What is new goes to the small one, a tenth of the memory. What was asked for again
//! by the time that it reaches the end of that goes on to the main queue; all else leaves, and only
//! a fingerprint stays, a ghost: if it comes back, it goes to the main queue at once. At the main
//! queue's end an entry goes round again once for each time that it was asked for, three at most.
//! So a flood of names that nobody asks for twice passes through the small queue and leaves the
//! main one alone. A hit writes at most two bits, in a line it has read anyway.
//!
//! All memory is reserved when the cache is made. The room does no I/O, knows no thread and has
//! no clock: callers pass the time in whole seconds.

mod ghost;
mod index;
mod log;
mod memory;
mod prefetch;
mod record;
mod walk;

use std::io;

use crate::dns::{Answer, AnswerRef, NameHasher, QUESTION_FIXED, question_hash};
use ghost::Ghosts;
use index::{Index, Slot, Way};
use log::{Entry, Log, NameCase, Queue, Times};
pub use record::Record;
pub use walk::{Visit, Walk};

/// What an answer is kept under.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Hash of all the rest, [`Query::hash`](crate::dns::Query::hash).
    pub hash: u64,
    /// The question in wire form, in any letter case.
    pub question: &'a [u8],
    /// DO and CD, [`Query::key_flags`](crate::dns::Query::key_flags).
    pub flags: u8,
}

impl<'a> Key<'a> {
    /// The key of a question, in wire form.
    pub fn new(hasher: &NameHasher, question: &'a [u8], flags: u8) -> Self {
        Self {
            hash: question_hash(hasher, question, flags),
            question,
            flags,
        }
    }

    /// The name in the question.
    pub fn name(&self) -> &'a [u8] {
        let end = self.question.len().saturating_sub(QUESTION_FIXED);
        self.question.get(..end).unwrap_or_default()
    }
}

/// A cached answer.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// The answer, as it was learnt.
    pub answer: AnswerRef<'a>,
    /// Whole seconds since it was learnt.
    pub age: u32,
    /// The answer is in the last tenth of its life.
    pub late: bool,
    /// It was asked for before.
    pub popular: bool,
    /// Where it is kept, for [`Cache::ask_refresh`].
    pub place: Place,
    /// The question's sum ([`checksum::add`](crate::checksum::add)), if it is asked in lower case.
    pub question_sum: Option<u64>,
}

/// Where a look-up is to begin: where [`Cache::prefetch_entry`] has seen what may be the answer.
/// Wherever it leads, no wrong answer is found.
#[derive(Clone, Copy, Debug)]
pub struct Hint(u32);

impl Default for Hint {
    /// Nowhere.
    fn default() -> Self {
        Self(u32::MAX)
    }
}

/// Where an answer is kept, until something else is.
#[derive(Clone, Copy, Debug)]
pub struct Place(u32);

/// Smallest budget: room for an entry of the largest size and an index.
pub const MIN_BYTES: usize = 1 << 18;

/// Times that an entry has to be asked for in the small queue to go on to the main one.
const PROMOTION: u8 = 2;

/// Entries that may be moved for one insertion: bounds its cost.
const MAX_MOVES: u32 = 64;

/// The cache.
#[derive(Debug)]
pub struct Cache {
    index: Index,
    log: Log,
    ghosts: Ghosts,
    /// Seconds for which an entry is still of use after its end of life.
    grace: u32,
    oblivion: Oblivion,
    entries: u64,
    insertions: u64,
    evictions: u64,
}

/// What is forgotten, without a look at the entries.
#[derive(Debug, Default)]
struct Oblivion {
    /// All that was learnt before this second.
    since: u32,
    /// All of other epochs than this; their numbers come again.
    epoch: u8,
}

impl Oblivion {
    /// Whether it holds what an entry has, which was learnt in this second.
    #[inline(always)]
    fn holds(&self, entry: &Entry<'_>, stored: u32) -> bool {
        entry.epoch() != self.epoch || stored < self.since
    }
}

/// Creation.
impl Cache {
    /// Reserves a cache of `bytes` octets, index included, at least [`MIN_BYTES`].
    ///
    /// # Errors
    /// The memory cannot be reserved.
    pub fn new(bytes: usize) -> io::Result<Self> {
        Self::with_grace(bytes, 0)
    }

    /// As [`new`](Self::new); answers whose lives are over are not the first to leave during
    /// `grace` seconds more, in which [`get_stale`](Self::get_stale) finds them.
    ///
    /// # Errors
    /// The memory cannot be reserved.
    pub fn with_grace(bytes: usize, grace: u32) -> io::Result<Self> {
        let bytes = bytes.max(MIN_BYTES);
        let index = Index::for_budget(bytes)?;
        let ghosts = Ghosts::for_budget(bytes)?;
        let log = Log::new(bytes - index.bytes() - ghosts.bytes())?;
        Ok(Self {
            index,
            log,
            ghosts,
            grace,
            oblivion: Oblivion::default(),
            entries: 0,
            insertions: 0,
            evictions: 0,
        })
    }

    /// Has the kernel find the memory now, on the caller's NUMA node. It takes a moment; without
    /// it, memory is found as it is used.
    pub fn populate(&self) {
        self.index.populate();
        self.log.populate();
        self.ghosts.populate();
    }
}

/// Look-ups.
impl Cache {
    /// Starts to fetch the index line that a look-up for `hash` will need.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Starts to fetch the entry that a look-up for `hash` will need, from the index line that is
    /// there by now. Returns where the look-up may find it.
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) -> Hint {
        let Some((slot, offset)) = self.index.candidates(hash).next() else {
            return Hint::default();
        };
        self.log.prefetch(offset);
        Hint(slot.pack())
    }

    /// Finds the answer kept under `key`, if it is still good at `now`.
    pub fn get(&mut self, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        self.get_at(Hint::default(), *key, now)
    }

    /// As [`get`](Self::get), and looks first where `hint` says.
    #[inline(always)]
    pub fn get_at(&mut self, hint: Hint, key: Key<'_>, now: u32) -> Option<Hit<'_>> {
        let slot = Slot::unpack(hint.0);
        let (way, offset, entry, name_case) = match found_at(&mut self.index, &self.log, slot, key)
        {
            Some(found) => found,
            None => {
                // Looked at once more, so that what is handed on is the slot alone, in a register.
                let slot = self.search(key)?;
                found_at(&mut self.index, &self.log, slot, key)?
            }
        };
        let answer = entry.answer()?;
        if now >= entry.expires() {
            return None;
        }
        let left = entry.expires() - now;
        let age = answer.ttl().wrapping_sub(left);
        if self.oblivion.holds(&entry, now.wrapping_sub(age)) {
            return None;
        }
        Some(Hit {
            answer,
            age,
            late: now >= entry.refresh(),
            popular: way.touch() > 0,
            place: Place(offset),
            question_sum: entry.question_sum(name_case),
        })
    }

    /// Where the key is, if it is not where it was expected.
    #[inline(never)]
    fn search(&self, key: Key<'_>) -> Option<Slot> {
        find(&self.index, &self.log, key).map(|(slot, ..)| slot)
    }

    /// Notes that the answer which was just found at `place` is to be got anew, before anybody has to
    /// wait for it. Whether this is the first time that somebody says so.
    #[cold]
    pub fn ask_refresh(&mut self, place: Place) -> bool {
        let Place(offset) = place;
        self.log.ask_refresh(offset)
    }

    /// Finds the answer kept under `key`, also one whose life ended less than the grace ago:
    /// then the hit's age is not below the answer's life.
    pub fn get_stale(&mut self, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        let (slot, _, entry) = find(&self.index, &self.log, *key)?;
        if self.is_dead(&entry, now) {
            return None;
        }
        let (way, offset, entry, name_case) = found_at(&mut self.index, &self.log, slot, *key)?;
        let answer = entry.answer()?;
        Some(Hit {
            answer,
            age: now.saturating_sub(learnt(&entry, answer)),
            late: true,
            popular: way.touch() > 0,
            place: Place(offset),
            question_sum: entry.question_sum(name_case),
        })
    }

    /// Whether an entry is of no use any more.
    fn is_dead(&self, entry: &Entry<'_>, now: u32) -> bool {
        let is_forgotten = |answer| self.oblivion.holds(entry, learnt(entry, answer));
        let is_over = now >= entry.expires().saturating_add(self.grace);
        is_over || entry.answer().is_none_or(is_forgotten)
    }
}

/// Changes.
impl Cache {
    /// Keeps `answer` under `key`. An answer without a life, or too large for the log, is not
    /// kept.
    pub fn insert(&mut self, key: &Key<'_>, answer: &Answer, now: u32) {
        let answer = answer.as_ref();
        if answer.ttl() > 0 {
            self.put(key, answer, now, now, Queue::Small);
        }
    }

    /// Keeps what another process had, unless it is of no use any more at `now`.
    pub fn restore(&mut self, key: &Key<'_>, answer: AnswerRef<'_>, age: u32, now: u32) {
        let stored = now.saturating_sub(age);
        let expires = stored.saturating_add(answer.ttl());
        if answer.ttl() > 0 && now < expires.saturating_add(self.grace) {
            // It has proved its worth.
            self.put(key, answer, stored, now, Queue::Main);
        }
    }

    /// Keeps an answer; `queue` is where one goes that nothing is known of, if there is room.
    fn put(&mut self, key: &Key<'_>, answer: AnswerRef<'_>, stored: u32, now: u32, queue: Queue) {
        let times = Times {
            expires: stored.saturating_add(answer.ttl()),
            epoch: self.oblivion.epoch,
        };
        let Some(len) = Log::entry_len(key.question.len(), answer.flat_len()) else {
            return;
        };
        let old = find(&self.index, &self.log, *key);
        let old = old.map(|(slot, offset, entry)| (slot, offset, entry.len()));
        let queue = match old {
            Some((slot, offset, old_len)) if old_len == len => {
                // Most answers are as long as the ones before them.
                if self.log.write(offset, key, answer, times).is_some() {
                    self.index.touch(slot);
                    self.insertions += 1;
                }
                return;
            }
            _ if !self.log.is_small(len) => Queue::Main,
            Some((_, offset, _)) => self.log.queue_of(offset),
            None if self.ghosts.take(key.hash) => Queue::Main,
            None if self.log.has_room(queue, len) => queue,
            None => Queue::Small,
        };
        let mut moves = MAX_MOVES;
        if !self.make_room(queue, len, now, &mut moves) {
            return;
        }
        // Making room may have moved it, or thrown it out.
        let old = find(&self.index, &self.log, *key).map(|(slot, ..)| slot);
        let Some(offset) = self.log.append(queue, key, answer, times) else {
            return;
        };
        self.insertions += 1;
        if let Some(slot) = old {
            self.index.set(slot, offset);
            self.index.touch(slot);
            return;
        }
        let log = &self.log;
        let worth = |offset, uses| (log.queue_of(offset) == Queue::Main, uses);
        if self.index.insert(key.hash, offset, worth) {
            self.evictions += 1;
        } else {
            self.entries += 1;
        }
    }

    /// Forgets what is kept under `key`.
    pub fn remove(&mut self, key: &Key<'_>) {
        if let Some((slot, ..)) = find(&self.index, &self.log, *key) {
            self.drop_entry(slot);
        }
    }

    /// Forgets all that was learnt until now. What is forgotten leaves as room is needed.
    pub fn forget(&mut self, now: u32) {
        self.oblivion = Oblivion {
            since: now,
            epoch: self.oblivion.epoch.wrapping_add(1),
        };
    }

    fn drop_entry(&mut self, slot: Slot) {
        self.index.clear(slot);
        self.entries -= 1;
    }

    /// Frees `len` octets at a queue's head.
    fn make_room(&mut self, queue: Queue, len: usize, now: u32, moves: &mut u32) -> bool {
        while !self.log.has_room(queue, len) {
            let Some((offset, entry)) = self.log.oldest(queue) else {
                return false;
            };
            let (hash, entry) = (entry.hash(), entry.len());
            let Some(slot) = self.index.find_offset(hash, offset) else {
                self.log.pop(queue);
                continue;
            };
            let dead = (self.log.entry(offset)).is_none_or(|entry| self.is_dead(&entry, now));
            if !dead && self.stays(queue, slot, entry, now, moves) {
                if let Some(moved) = self.log.promote(queue) {
                    self.index.set(slot, moved);
                    continue;
                }
            } else {
                self.log.pop(queue);
            }
            self.drop_entry(slot);
            if !dead {
                self.evictions += 1;
                if queue == Queue::Small {
                    self.ghosts.insert(hash);
                }
            }
        }
        true
    }

    /// Whether an entry at a queue's end goes on in the main queue. What it was asked for counts
    /// once.
    fn stays(&mut self, queue: Queue, slot: Slot, len: usize, now: u32, moves: &mut u32) -> bool {
        let uses = self.index.uses(slot);
        let Some(left) = moves.checked_sub(1) else {
            return false;
        };
        match queue {
            Queue::Main if uses == 0 => return false,
            Queue::Main => self.index.set_uses(slot, uses - 1),
            // As long as the main queue was never full, there is room for everybody.
            Queue::Small if uses < PROMOTION && !self.log.has_room(Queue::Main, len) => {
                return false;
            }
            Queue::Small => self.index.set_uses(slot, 0),
        }
        *moves = left;
        queue == Queue::Main || self.make_room(Queue::Main, len, now, moves)
    }
}

/// What it holds.
impl Cache {
    /// Whether the memory, but for a small part, is in huge pages that the operator has set aside
    /// (`vm.nr_hugepages`). Else it is in transparent ones, as far as the kernel has them.
    pub fn is_in_reserved_pages(&self) -> bool {
        self.log.is_in_reserved_pages()
    }

    /// Answers kept now, expired ones included that have not been overwritten yet.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Answers kept so far.
    pub fn insertions(&self) -> u64 {
        self.insertions
    }

    /// Answers that made room for others before they expired, and their grace was over.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}

/// Where the key is, and its entry.
fn find<'a>(index: &Index, log: &'a Log, key: Key<'_>) -> Option<(Slot, u32, Entry<'a>)> {
    index.candidates(key.hash).find_map(|(slot, offset)| {
        let (entry, _) = log.entry_for(offset, key)?;
        Some((slot, offset, entry))
    })
}

/// The entry to which a way points, with its place in the log, and the name case in which its question is
/// asked.
type Found<'i, 'l> = (Way<'i>, u32, Entry<'l>, NameCase);

#[inline(always)]
fn found_at<'i, 'l>(
    index: &'i mut Index,
    log: &'l Log,
    slot: Slot,
    key: Key<'_>,
) -> Option<Found<'i, 'l>> {
    let (way, offset) = index.way(slot)?;
    let (entry, name_case) = log.entry_for(offset, key)?;
    Some((way, offset, entry, name_case))
}

/// When an entry's answer was learnt.
fn learnt(entry: &Entry<'_>, answer: AnswerRef<'_>) -> u32 {
    entry.expires().wrapping_sub(answer.ttl())
}

#[cfg(test)]
mod tests;
