//! The answers that one thread has learnt, in memory of a fixed size.
//!
//! An index of 64-byte buckets points into a circular log of entries. A look-up touches one line
//! of the index, then the entry. New entries go to the log's head; when the log is full, the
//! oldest entry leaves, unless it was asked for since it was last looked at: then it goes round
//! once more (FIFO with reinsertion, a CLOCK). A hit so writes one bit, in a line it has read
//! anyway.
//!
//! All memory is reserved when the cache is made. The room does no I/O, knows no thread and has
//! no clock: callers pass the time in whole seconds.

mod index;
mod log;
mod prefetch;
mod record;

use std::io;

use crate::dns::{Answer, AnswerRef, answer::same_question};
use index::{Index, Slot};
use log::{Entry, Log};
pub use record::Record;

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

/// A cached answer.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// The answer, as it was learnt.
    pub answer: AnswerRef<'a>,
    /// Whole seconds since it was learnt.
    pub age: u32,
}

/// Smallest budget: room for two entries of the largest size and an index.
pub const MIN_BYTES: usize = 1 << 18;

/// The cache.
#[derive(Debug)]
pub struct Cache {
    index: Index,
    log: Log,
    /// Seconds for which an entry is still of use after its end of life.
    grace: u32,
    entries: u64,
    insertions: u64,
    evictions: u64,
    /// What was learnt before this second is forgotten.
    since: u32,
}

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
        let log = Log::new(bytes - index.bytes())?;
        Ok(Self {
            index,
            log,
            grace,
            entries: 0,
            insertions: 0,
            evictions: 0,
            since: 0,
        })
    }

    /// Starts to fetch the index line that a look-up for `hash` will need.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Finds the answer kept under `key`, if it is still good at `now`.
    #[inline]
    pub fn get(&mut self, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        let (slot, entry) = find(&self.index, &self.log, key)?;
        if now >= entry.expires || entry.stored < self.since {
            return None;
        }
        self.index.mark(slot);
        Some(Hit {
            answer: entry.answer()?,
            age: now.saturating_sub(entry.stored),
        })
    }

    /// Forgets all that was learnt until `now`, that second included. What is forgotten leaves as
    /// room is needed.
    pub fn forget(&mut self, now: u32) {
        self.since = now.saturating_add(1);
    }

    /// Finds the answer kept under `key`, also one whose life ended less than the grace ago:
    /// then the hit's age is not below the answer's life.
    pub fn get_stale(&mut self, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        let (slot, entry) = find(&self.index, &self.log, key)?;
        if now >= entry.expires && now - entry.expires >= self.grace {
            return None;
        }
        self.index.mark(slot);
        Some(Hit {
            answer: entry.answer()?,
            age: now.saturating_sub(entry.stored),
        })
    }

    /// Forgets what is kept under `key`.
    pub fn remove(&mut self, key: &Key<'_>) {
        if let Some((slot, _)) = find(&self.index, &self.log, key) {
            self.index.clear(slot);
            self.entries -= 1;
        }
    }

    /// Keeps `answer` under `key`. An answer without a life, or too large for the log, is not
    /// kept.
    pub fn insert(&mut self, key: &Key<'_>, answer: &Answer, now: u32) {
        let life = answer.as_ref().life();
        let Some(len) = Log::entry_len(key.question.len(), answer.as_bytes().len()) else {
            return;
        };
        if life == 0 || !self.make_room(len, now) {
            return;
        }
        let old = find(&self.index, &self.log, key).map(|(slot, _)| slot);
        let Some(offset) = self
            .log
            .append(key, answer.as_bytes(), now, now.saturating_add(life))
        else {
            return;
        };
        self.insertions += 1;
        if let Some(slot) = old {
            self.index.set(slot, offset);
        } else if self.index.insert(key.hash, offset) {
            self.evictions += 1;
        } else {
            self.entries += 1;
        }
    }

    /// Frees `len` octets at the log's head.
    fn make_room(&mut self, len: usize, now: u32) -> bool {
        /// Entries that may go round again for one insertion: bounds its cost.
        const MAX_REINSERTIONS: u32 = 64;
        let mut reinsertions = 0;
        while !self.log.has_room(len) {
            let Some((offset, entry)) = self.log.oldest() else {
                return false;
            };
            let expired = now >= entry.expires.saturating_add(self.grace);
            let Some(slot) = self.index.find_offset(entry.hash, offset) else {
                self.log.pop();
                continue;
            };
            if !expired && reinsertions < MAX_REINSERTIONS && self.index.unmark(slot) {
                reinsertions += 1;
                if let Some(moved) = self.log.rotate() {
                    self.index.set(slot, moved);
                    continue;
                }
            } else {
                self.log.pop();
            }
            self.index.clear(slot);
            self.entries -= 1;
            if !expired {
                self.evictions += 1;
            }
        }
        true
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

#[inline]
fn find<'a>(index: &Index, log: &'a Log, key: &Key<'_>) -> Option<(Slot, Entry<'a>)> {
    index.candidates(key.hash).find_map(|(slot, offset)| {
        let entry = log.entry(offset)?;
        (entry.hash == key.hash
            && entry.flags == key.flags
            && same_question(entry.question, key.question))
        .then_some((slot, entry))
    })
}

#[cfg(test)]
mod tests;
