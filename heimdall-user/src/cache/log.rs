//! The log: entries one after another, in two circular queues that share one memory.
//!
//! ```text
//!  0  hash      u64
//!  8  len       u16   the entry's length in units of 16 octets; for padding, of the whole rest of
//!                     the circle's end
//! 10  sum       u16   of the question, folded, as it stands in a checksum field (RFC 1071)
//! 12  refresh   u32   seconds; the largest: a refresh has been asked for
//! 16  expires   u32   seconds
//! 20  question  u16   octets of the question; 0: padding
//! 22  flags     u8    of the key
//! 23  epoch     u8
//! 24  question, its name in lower case, then the answer in its flat form
//! ```

use std::io;

use super::{
    Key,
    memory::{self, Array},
};
use crate::{
    checksum,
    dns::{AnswerRef, MAX_QUESTION, QUESTION_FIXED, name::eq_exactly, same_question},
};

/// Entries start at multiples of this.
const ALIGN: usize = 16;
/// Octets before the question.
const FIXED: usize = 24;
/// Place of the time of its refresh in an entry.
const REFRESH: usize = 12;

/// One of this many parts of the log is the small queue.
const SMALL_PART: usize = 10;

/// Larger entries than one in so many of the small queue's octets go past it.
const SMALL_ENTRIES: usize = 8;

/// Which queue an entry stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// What is new.
    Small,
    /// What was asked for again.
    Main,
}

/// Until when an answer is good, in seconds of the caller's clock, and in which epoch it was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) expires: u32,
    pub(super) epoch: u8,
}

/// An entry, as it stands in the log. Its fixed part is kept as the words in which it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    words: [u64; 3],
    question: &'a [u8],
    answer: &'a [u8],
}

impl<'a> Entry<'a> {
    #[inline(always)]
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let words = words(fixed);
        let [_, _, last] = words;
        let (question, answer) = rest.split_at_checked(usize::from((last >> 32) as u16))?;
        Some(Self {
            words,
            question,
            answer,
        })
    }

    /// Reads what is kept under `key`, if it is that, and the name case of the key.
    #[inline(always)]
    fn read_for(bytes: &'a [u8], key: Key<'_>) -> Option<(Self, NameCase)> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let words = words(fixed);
        let [hash, _, last] = words;
        // The question's length and the flags, in one comparison.
        let expected = key.question.len() as u64 | u64::from(key.flags) << 16;
        if hash != key.hash || last >> 32 & 0xff_ffff != expected {
            return None;
        }
        let (question, answer) = rest.split_at_checked(key.question.len())?;
        let name_case = match eq_exactly(question, key.question) {
            true => NameCase::Lower,
            false if same_question(question, key.question) => NameCase::Mixed,
            false => return None,
        };
        let entry = Self {
            words,
            question,
            answer,
        };
        Some((entry, name_case))
    }

    fn is_padding(&self) -> bool {
        self.question.is_empty()
    }

    /// The hash of its key.
    #[inline(always)]
    pub(super) fn hash(&self) -> u64 {
        let [hash, _, _] = self.words;
        hash
    }

    /// Octets in the log.
    pub(super) fn len(&self) -> usize {
        let [_, second, _] = self.words;
        usize::from(second as u16) * ALIGN
    }

    /// From when on the answer is to be got anew, before its life is over.
    #[inline(always)]
    pub(super) fn refresh(&self) -> u32 {
        let [_, second, _] = self.words;
        (second >> 32) as u32
    }

    /// When its life is over.
    #[inline(always)]
    pub(super) fn expires(&self) -> u32 {
        let [_, _, last] = self.words;
        last as u32
    }

    /// The key's flags.
    pub(super) fn flags(&self) -> u8 {
        let [_, _, last] = self.words;
        (last >> 48) as u8
    }

    #[inline(always)]
    pub(super) fn epoch(&self) -> u8 {
        let [_, _, last] = self.words;
        (last >> 56) as u8
    }

    /// The question that it answers.
    pub(super) fn question(&self) -> &'a [u8] {
        self.question
    }

    /// The sum of the question as it is asked, if that is in lower case.
    #[inline(always)]
    pub(super) fn question_sum(&self, name_case: NameCase) -> Option<u64> {
        let [_, second, _] = self.words;
        let sum = u16::from_ne_bytes(((second >> 16) as u16).to_le_bytes());
        (name_case == NameCase::Lower).then(|| sum.into())
    }

    /// The cached answer.
    #[inline(always)]
    pub(super) fn answer(&self) -> Option<AnswerRef<'a>> {
        AnswerRef::read(self.answer)
    }
}

/// The name case of a question (RFC 4343).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameCase {
    /// Lower case, as in the entry.
    Lower,
    /// Any other.
    Mixed,
}

/// The fixed part as three words: reading it octet by octet takes longer.
#[inline(always)]
fn words(fixed: &[u8; FIXED]) -> [u64; 3] {
    let (words, _) = fixed.as_chunks::<8>();
    let word = |at| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
    [word(0), word(1), word(2)]
}

/// Writes what [words] reads.
fn put_words(fixed: &mut [u8; FIXED], words: [u64; 3]) {
    let (places, _) = fixed.as_chunks_mut::<8>();
    for (place, word) in places.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
}

/// A circle in the log's memory.
#[derive(Debug)]
struct Ring {
    start: usize,
    capacity: usize,
    /// Octets ever written, and ever freed; their difference is in use. Both are multiples of
    /// [`ALIGN`], as start and capacity are, and so are the places that they stand for.
    head: u64,
    tail: u64,
}

impl Ring {
    fn place(&self, position: u64) -> usize {
        self.start + (position % self.capacity as u64) as usize
    }

    fn in_use(&self) -> usize {
        (self.head - self.tail) as usize
    }

    /// Octets to skip at the head so that an entry of `len` does not wrap.
    fn padding(&self, len: usize) -> usize {
        let to_end = self.start + self.capacity - self.place(self.head);
        if to_end < len { to_end } else { 0 }
    }

    fn has_room(&self, len: usize) -> bool {
        self.in_use() + self.padding(len) + len <= self.capacity
    }
}

#[derive(Debug)]
pub(super) struct Log {
    memory: Array<u8>,
    small: Ring,
    main: Ring,
}

/// Creation, and what it holds.
impl Log {
    /// Reserves `bytes` octets, or a little less.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let bytes = memory::whole_pages(bytes) / ALIGN * ALIGN;
        if u32::try_from(bytes / ALIGN).is_err() {
            return Err(io::Error::other("a cache has 64 GiB at most"));
        }
        let small = bytes / SMALL_PART / ALIGN * ALIGN;
        let ring = |start, capacity| Ring {
            start,
            capacity,
            head: 0,
            tail: 0,
        };
        Ok(Self {
            memory: Array::new(bytes)?,
            small: ring(0, small),
            main: ring(small, bytes - small),
        })
    }

    pub(super) fn populate(&self) {
        self.memory.populate();
    }

    pub(super) fn is_in_reserved_pages(&self) -> bool {
        self.memory.is_reserved()
    }

    /// Octets that an entry takes, or `None` if it is larger than an entry may be.
    pub(super) fn entry_len(question: usize, answer: usize) -> Option<usize> {
        /// An answer of 64 KiB with the longest question, and the list of its TTLs.
        const MAX: usize = 2 * 65_536;
        let len = (FIXED + question + answer).next_multiple_of(ALIGN);
        (question <= MAX_QUESTION && len <= MAX).then_some(len)
    }

    /// Whether an entry of `len` octets may go through the small queue.
    pub(super) fn is_small(&self, len: usize) -> bool {
        len <= self.small.capacity / SMALL_ENTRIES
    }

    /// The queue in which `offset` lies.
    pub(super) fn queue_of(&self, offset: u32) -> Queue {
        if offset as usize * ALIGN < self.main.start {
            Queue::Small
        } else {
            Queue::Main
        }
    }

    fn ring(&self, queue: Queue) -> &Ring {
        match queue {
            Queue::Small => &self.small,
            Queue::Main => &self.main,
        }
    }

    fn ring_mut(&mut self, queue: Queue) -> &mut Ring {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }

    /// Whether an entry of `len` octets can be appended.
    pub(super) fn has_room(&self, queue: Queue, len: usize) -> bool {
        self.ring(queue).has_room(len)
    }

    /// Asks the processor for the first lines of an entry.
    #[inline(always)]
    pub(super) fn prefetch(&self, offset: u32) {
        let at = offset as usize * ALIGN;
        if let Some(lines) = self.memory.get(at..).and_then(<[u8]>::first_chunk::<128>) {
            super::prefetch::two_lines(lines);
        }
    }

    /// The entry at an offset that the index gave.
    #[inline(always)]
    pub(super) fn entry(&self, offset: u32) -> Option<Entry<'_>> {
        Entry::read(self.memory.get(offset as usize * ALIGN..)?)
    }

    /// The entry at an offset that the index gave, if it is what is kept under `key`, and in which
    /// letters that asks.
    #[inline(always)]
    pub(super) fn entry_for(&self, offset: u32, key: Key<'_>) -> Option<(Entry<'_>, NameCase)> {
        Entry::read_for(self.memory.get(offset as usize * ALIGN..)?, key)
    }

    /// Notes that a refresh of the entry has been asked for. Whether it is the first.
    pub(super) fn ask_refresh(&mut self, offset: u32) -> bool {
        const ASKED: [u8; 4] = [0xff; 4];
        let at = offset as usize * ALIGN + REFRESH;
        let field = self.memory.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
        field.is_some_and(|field| std::mem::replace(field, ASKED) != ASKED)
    }
}

/// Leaving.
impl Log {
    /// The oldest entry of a queue and its offset; padding before it is freed.
    pub(super) fn oldest(&mut self, queue: Queue) -> Option<(u32, Entry<'_>)> {
        let tail = self.ring(queue).tail;
        let (position, _) = self.next(queue, tail)?;
        self.ring_mut(queue).tail = position;
        let offset = self.offset(queue, position);
        Some((offset, self.entry(offset)?))
    }

    /// The first entry at or behind `position`, with its own position. Positions count the octets
    /// that ever went through the queue.
    pub(super) fn next(&self, queue: Queue, position: u64) -> Option<(u64, Entry<'_>)> {
        let ring = self.ring(queue);
        let mut position = position.max(ring.tail);
        while position < ring.head {
            let place = ring.place(position);
            let end = ring.start + ring.capacity;
            match Entry::read(self.memory.get(place..end)?) {
                // An end too short for an entry's fixed part is padding, too.
                None => position += (end - place) as u64,
                Some(entry) if entry.is_padding() => position += entry.len() as u64,
                Some(entry) => return Some((position, entry)),
            }
        }
        None
    }

    /// The offset of a position in the queue.
    pub(super) fn offset(&self, queue: Queue, position: u64) -> u32 {
        (self.ring(queue).place(position) / ALIGN) as u32
    }

    /// Frees the oldest entry.
    pub(super) fn pop(&mut self, queue: Queue) {
        if let Some(len) = self.oldest(queue).map(|(_, entry)| entry.len()) {
            self.ring_mut(queue).tail += len as u64;
        }
    }

    /// Moves the oldest entry of a queue to the main queue's head. Returns its new offset, or
    /// `None` if it had to be freed because there is no room for it.
    pub(super) fn promote(&mut self, queue: Queue) -> Option<u32> {
        let (offset, len) = self
            .oldest(queue)
            .map(|(offset, entry)| (offset, entry.len()))?;
        self.pop(queue);
        if !self.main.has_room(len) {
            return None;
        }
        let from = offset as usize * ALIGN;
        let to = self.reserve(Queue::Main, len);
        // The two may overlap; nothing is written in between.
        self.memory.copy_within(from..from + len, to);
        Some((to / ALIGN) as u32)
    }
}

/// Coming.
impl Log {
    /// Advances the head over padding and an entry of `len`; returns the entry's place.
    fn reserve(&mut self, queue: Queue, len: usize) -> usize {
        let ring = self.ring(queue);
        let (padding, at) = (ring.padding(len), ring.place(ring.head));
        if padding > 0 {
            if let Some(fixed) = self
                .memory
                .get_mut(at..at + padding)
                .and_then(|rest| rest.first_chunk_mut::<FIXED>())
            {
                put_words(fixed, [0, u64::from((padding / ALIGN) as u16), 0]);
            }
            self.ring_mut(queue).head += padding as u64;
        }
        let ring = self.ring_mut(queue);
        let at = ring.place(ring.head);
        ring.head += len as u64;
        at
    }

    /// Writes an entry at the head. The caller has made room.
    pub(super) fn append(
        &mut self,
        queue: Queue,
        key: &Key<'_>,
        answer: AnswerRef<'_>,
        times: Times,
    ) -> Option<u32> {
        let len = Self::entry_len(key.question.len(), answer.flat_len())?;
        if !self.has_room(queue, len) {
            return None;
        }
        let offset = (self.reserve(queue, len) / ALIGN) as u32;
        self.write(offset, key, answer, times)?;
        Some(offset)
    }

    /// Writes an entry over one that takes as many octets.
    pub(super) fn write(
        &mut self,
        offset: u32,
        key: &Key<'_>,
        answer: AnswerRef<'_>,
        times: Times,
    ) -> Option<()> {
        let len = Self::entry_len(key.question.len(), answer.flat_len())?;
        let at = offset as usize * ALIGN;
        let entry = self.memory.get_mut(at..at + len)?;
        let (fixed, rest) = entry.split_first_chunk_mut::<FIXED>()?;
        let (question, rest) = rest.split_at_mut_checked(key.question.len())?;
        question.copy_from_slice(key.question);
        if let Some((name, _)) = question.split_last_chunk_mut::<QUESTION_FIXED>() {
            name.make_ascii_lowercase();
        }
        let sum = u16::from_le_bytes(checksum::fold(checksum::add(0, question)));
        // The last tenth of its life; one below ten seconds has none.
        let refresh = times.expires - answer.ttl() / 10;
        let second = (len / ALIGN) as u64 | u64::from(sum) << 16 | u64::from(refresh) << 32;
        let kind = key.question.len() as u64 | u64::from(key.flags) << 16;
        let last = u64::from(times.expires) | kind << 32 | u64::from(times.epoch) << 56;
        put_words(fixed, [key.hash, second, last]);
        answer.copy_to(rest.get_mut(..answer.flat_len())?)
    }
}
