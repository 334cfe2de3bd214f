//! The answers that one thread has cached, in memory of a fixed size.
//!
//! An index of 64-byte buckets points into a log of entries. A look-up reads one cache line of the
//! index, then the entry.
//!
//! Eviction is S3-FIFO's (Yang et al., SOSP 2023). The log is two queues. A new entry goes to the
//! small one, a tenth of the memory. If it was hit by the time that it reaches the end of that, it
//! is promoted to the main queue; else it is evicted, and only a fingerprint stays, a ghost: if the
//! name comes back, it goes to the main queue at once. At the main queue's end an entry is
//! reinserted once for each hit, three times at most. So a flood of names that are queried
//! once passes through the small queue and leaves the main one alone. A hit writes at most two
//! bits, in a line that it has read anyway.
//!
//! All memory is reserved when the cache is made. The module does no I/O, knows no thread and has no
//! clock: callers pass the time in whole seconds.

mod cpu;
mod ghost;
mod index;
mod key;
mod log;
mod memory;
mod record;
mod walk;

use std::io;

use crate::dns::{Answer, AnswerRef};
use ghost::Ghosts;
use index::{Index, Slot, SlotMut};
pub use key::Key;
use log::{Entry, Log, NameCase, Queue, Times};
pub use record::Record;
pub use walk::{Visit, Walk};

/// A cached answer.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// The answer, its TTLs as received.
    pub answer: AnswerRef<'a>,
    /// Whole seconds since it was received.
    pub age: u32,
    /// A refresh is due: the answer is in the last tenth of its TTL, or stale.
    pub refresh_due: bool,
    /// It was hit before.
    pub popular: bool,
    /// Its entry, for `Cache::request_refresh`.
    pub offset: Offset,
    /// The question's sum ([`checksum::add`](crate::checksum::add)), if the client sent its name in
    /// lower case.
    pub question_sum: Option<u64>,
}

/// An answer that is fresh and popular, and of which no refresh was requested yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Popular<'a> {
    /// The answer, its TTLs as received.
    pub(crate) answer: AnswerRef<'a>,
    /// The second in which it was received.
    pub(crate) received: u32,
    /// The second from which on a refresh is due.
    pub(crate) refresh: u32,
}

/// The slot in which [`Cache::prefetch_entry`] has found what may be the entry: a look-up begins
/// there. A wrong or outdated hint costs time, never a wrong answer.
#[derive(Clone, Copy, Debug)]
pub struct Hint(u32);

impl Default for Hint {
    /// No slot.
    fn default() -> Self {
        Self(u32::MAX)
    }
}

/// An entry's offset in the log. Valid until the cache is changed.
#[derive(Clone, Copy, Debug)]
pub struct Offset(u32);

/// Smallest size of a cache, in octets: an entry of the largest size and an index fit. (What Miri
/// takes for an access grows with the memory, so its caches are smaller.)
pub const MIN_BYTES: usize = if cfg!(miri) { 1 << 14 } else { 1 << 18 };

/// Hits that an entry needs in the small queue to be promoted to the main one.
const PROMOTION: u8 = 2;

/// Entries that one insertion may move, at most: it bounds the cost.
const MAX_MOVES: u32 = 64;

/// The cache.
#[derive(Debug)]
pub struct Cache {
    index: Index,
    log: Log,
    ghosts: Ghosts,
    /// Seconds for which an expired entry may still be served, stale.
    grace: u32,
    invalidation: Invalidation,
    entries: u64,
    insertions: u64,
    evictions: u64,
}

/// Which entries were invalidated, without a walk over them: those that were received before a time,
/// and, as several invalidations may share a second, those that were inserted in another epoch.
#[derive(Debug, Default)]
struct Invalidation {
    /// Seconds of the caller's clock.
    before: u32,
    /// Counts invalidations. It wraps; entries of 256 epochs ago are excluded by their time.
    epoch: u8,
}

impl Invalidation {
    /// Whether an entry that was received at this second is invalid.
    #[inline(always)]
    fn covers(&self, entry: &Entry<'_>, received: u32) -> bool {
        entry.epoch() != self.epoch || received < self.before
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

    /// As [`new`](Self::new); expired answers are kept for `grace` seconds more, in which
    /// [`get_stale`](Self::get_stale) finds them.
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
            invalidation: Invalidation::default(),
            entries: 0,
            insertions: 0,
            evictions: 0,
        })
    }

    /// Populates all memory, on the caller's NUMA node, as far as the kernel does that.
    pub fn populate(&mut self) {
        while self.populate_step().is_ok_and(|more| more) {}
    }

    /// Populates the next 2 MiB of the memory at most, on the caller's NUMA node. Returns whether there
    /// were any that had not been. Entries stay.
    ///
    /// # Errors
    /// Memory is short, or the kernel is older than 5.14: pages are then allocated as they are used.
    pub(crate) fn populate_step(&mut self) -> io::Result<bool> {
        // The index first: look-ups read all of it from the start.
        Ok(self.index.populate_step()?
            || self.ghosts.populate_step()?
            || self.log.populate_step()?)
    }

    /// Octets of its memory.
    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + self.ghosts.bytes() + self.log.bytes()
    }
}

/// Look-ups.
impl Cache {
    /// Prefetches the bucket that a look-up of `hash` will read.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Prefetches the entry that a look-up of `hash` will read; its bucket was prefetched before.
    /// Returns where the look-up may find it.
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) -> Hint {
        let Some((slot, offset)) = self.index.candidates(hash).next() else {
            return Hint::default();
        };
        self.log.prefetch(offset);
        Hint(slot.pack())
    }

    /// The answer of `key`, if it is fresh at `now`.
    pub fn get(&mut self, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        self.get_at(Hint::default(), *key, now)
    }

    /// As [`get`](Self::get), beginning at the slot of `hint`.
    #[inline(always)]
    pub fn get_at(&mut self, hint: Hint, key: Key<'_>, now: u32) -> Option<Hit<'_>> {
        let slot = Slot::unpack(hint.0);
        let (found, offset, entry, case) = match found_at(&mut self.index, &self.log, slot, key) {
            Some(found) => found,
            None => {
                // Read again, so that the slot alone is passed on, in a register.
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
        if self.invalidation.covers(&entry, now.wrapping_sub(age)) {
            return None;
        }
        Some(Hit {
            answer,
            age,
            refresh_due: now >= entry.refresh(),
            popular: found.touch() > 0,
            offset: Offset(offset),
            question_sum: entry.question_sum(case),
        })
    }

    /// The answer of `key`, if it is fresh at `now`, was hit twice or more, and its refresh was not requested. This is no
    /// hit.
    pub(crate) fn get_popular(&self, key: &Key<'_>, now: u32) -> Option<Popular<'_>> {
        let (slot, _, entry) = find(&self.index, &self.log, *key)?;
        let answer = entry.answer()?;
        let received = received_at(&entry, answer);
        let is_usable = now < entry.expires()
            && entry.refresh() <= entry.expires()
            && !self.invalidation.covers(&entry, received);
        (is_usable && self.index.frequency(slot) > 1).then(|| Popular {
            answer,
            received,
            refresh: entry.refresh(),
        })
    }

    /// The slot of the key, if it is not the hint's.
    #[inline(never)]
    fn search(&self, key: Key<'_>) -> Option<Slot> {
        find(&self.index, &self.log, key).map(|(slot, ..)| slot)
    }

    /// Marks the refresh of an entry that was just found as requested. Returns whether it was not
    /// yet, so that one refresh is requested for each time that the answer is received.
    #[cold]
    pub(crate) fn request_refresh(&mut self, offset: Offset) -> bool {
        let Offset(offset) = offset;
        self.log.request_refresh(offset)
    }

    /// The answer of `key`, fresh or stale: expired less than the grace ago. The age of a stale one
    /// is at least its TTL.
    pub fn get_stale(&mut self, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        let (slot, _, entry) = find(&self.index, &self.log, *key)?;
        if self.is_unusable(&entry, now) {
            return None;
        }
        let (found, offset, entry, case) = found_at(&mut self.index, &self.log, slot, *key)?;
        let answer = entry.answer()?;
        Some(Hit {
            answer,
            age: now.saturating_sub(received_at(&entry, answer)),
            refresh_due: true,
            popular: found.touch() > 0,
            offset: Offset(offset),
            question_sum: entry.question_sum(case),
        })
    }

    /// Whether an entry can no longer be served, not even stale.
    fn is_unusable(&self, entry: &Entry<'_>, now: u32) -> bool {
        let is_invalid = |answer| self.invalidation.covers(entry, received_at(entry, answer));
        let is_over = now >= entry.expires().saturating_add(self.grace);
        is_over || entry.answer().is_none_or(is_invalid)
    }
}

/// Changes.
impl Cache {
    /// Inserts or replaces the answer of `key`. An answer with a TTL of 0, or too large for the log,
    /// is ignored.
    pub fn insert(&mut self, key: &Key<'_>, answer: &Answer, now: u32) {
        let answer = answer.as_ref();
        if answer.ttl() > 0 {
            self.store(key, answer, now, now, Queue::Small);
        }
    }

    /// Inserts an answer that another process received `age` seconds ago, unless its grace is over at
    /// `now`.
    pub fn restore(&mut self, key: &Key<'_>, answer: AnswerRef<'_>, age: u32, now: u32) {
        let received = now.saturating_sub(age);
        let expires = received.saturating_add(answer.ttl());
        if answer.ttl() > 0 && now < expires.saturating_add(self.grace) {
            // Most of what a cache holds was hit.
            self.store(key, answer, received, now, Queue::Main);
        }
    }

    /// Inserts or replaces an answer. A new entry of which no ghost is known goes to `queue`, if that
    /// has room.
    fn store(
        &mut self,
        key: &Key<'_>,
        answer: AnswerRef<'_>,
        received: u32,
        now: u32,
        queue: Queue,
    ) {
        let times = Times {
            expires: received.saturating_add(answer.ttl()),
            epoch: self.invalidation.epoch,
        };
        let Some(len) = Log::entry_len(key.question.len(), answer.flat_len()) else {
            return;
        };
        let old = find(&self.index, &self.log, *key);
        let old = old.map(|(slot, offset, entry)| (slot, offset, entry.len()));
        let queue = match old {
            Some((slot, offset, old_len)) if old_len == len => {
                // Most answers are as long as those that they replace.
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
        // Making room may have moved or evicted it.
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
        let worth = |offset, frequency| (log.queue_of(offset) == Queue::Main, frequency);
        if self.index.insert(key.hash, offset, worth) {
            self.evictions += 1;
        } else {
            self.entries += 1;
        }
    }

    /// Removes the answer of `key`.
    pub fn remove(&mut self, key: &Key<'_>) {
        if let Some((slot, ..)) = find(&self.index, &self.log, *key) {
            self.clear_slot(slot);
        }
    }

    /// Invalidates all entries. They are removed as room is needed.
    pub fn invalidate(&mut self, now: u32) {
        self.invalidation = Invalidation {
            before: now,
            epoch: self.invalidation.epoch.wrapping_add(1),
        };
    }

    fn clear_slot(&mut self, slot: Slot) {
        self.index.clear(slot);
        self.entries -= 1;
    }

    /// Frees `len` octets at a queue's head, by at most `moves` moves of entries. Returns whether it
    /// could.
    fn make_room(&mut self, queue: Queue, len: usize, now: u32, moves: &mut u32) -> bool {
        while !self.log.has_room(queue, len) {
            let Some((offset, entry)) = self.log.oldest(queue) else {
                return false;
            };
            let (hash, entry_len) = (entry.hash(), entry.len());
            let Some(slot) = self.index.find_offset(hash, offset) else {
                self.log.pop(queue);
                continue;
            };
            let unusable =
                (self.log.entry(offset)).is_none_or(|entry| self.is_unusable(&entry, now));
            if !unusable && self.is_promoted(queue, slot, entry_len, now, moves) {
                if let Some(moved) = self.log.promote(queue) {
                    self.index.set(slot, moved);
                    continue;
                }
            } else {
                self.log.pop(queue);
            }
            self.clear_slot(slot);
            if !unusable {
                self.evictions += 1;
                if queue == Queue::Small {
                    self.ghosts.insert(hash);
                }
            }
        }
        true
    }

    /// Whether an entry at a queue's end is promoted to the main queue, or reinserted into it. Its
    /// frequency is lowered accordingly, and room is made.
    fn is_promoted(
        &mut self,
        queue: Queue,
        slot: Slot,
        len: usize,
        now: u32,
        moves: &mut u32,
    ) -> bool {
        let frequency = self.index.frequency(slot);
        let Some(left) = moves.checked_sub(1) else {
            return false;
        };
        match queue {
            Queue::Main if frequency == 0 => return false,
            Queue::Main => self.index.set_frequency(slot, frequency - 1),
            // Until the main queue has been full, every entry is promoted.
            Queue::Small if frequency < PROMOTION && !self.log.has_room(Queue::Main, len) => {
                return false;
            }
            Queue::Small => self.index.set_frequency(slot, 0),
        }
        *moves = left;
        queue == Queue::Main || self.make_room(Queue::Main, len, now, moves)
    }
}

/// Counters.
impl Cache {
    /// Whether the log is in huge pages that the operator has set aside (`vm.nr_hugepages`). Else it is
    /// in transparent ones, as far as the kernel has them.
    pub(crate) fn is_in_reserved_pages(&self) -> bool {
        self.log.is_in_reserved_pages()
    }

    /// Entries now, with expired ones that have not been overwritten yet.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Insertions so far.
    pub fn insertions(&self) -> u64 {
        self.insertions
    }

    /// Entries so far that were removed to make room, although they could still be served.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}

/// The slot, the offset and the entry of a key.
fn find<'a>(index: &Index, log: &'a Log, key: Key<'_>) -> Option<(Slot, u32, Entry<'a>)> {
    index.candidates(key.hash).find_map(|(slot, offset)| {
        let (entry, _) = log.entry_for(offset, key)?;
        Some((slot, offset, entry))
    })
}

/// A slot with its entry, that one's offset, and the case of the key's name.
type Found<'i, 'l> = (SlotMut<'i>, u32, Entry<'l>, NameCase);

/// The entry in a slot, if its key is `key`.
#[inline(always)]
fn found_at<'i, 'l>(
    index: &'i mut Index,
    log: &'l Log,
    slot: Slot,
    key: Key<'_>,
) -> Option<Found<'i, 'l>> {
    let (slot, offset) = index.slot_mut(slot)?;
    let (entry, case) = log.entry_for(offset, key)?;
    Some((slot, offset, entry, case))
}

/// The second in which an entry's answer was received.
fn received_at(entry: &Entry<'_>, answer: AnswerRef<'_>) -> u32 {
    entry.expires().wrapping_sub(answer.ttl())
}

#[cfg(test)]
mod tests;
