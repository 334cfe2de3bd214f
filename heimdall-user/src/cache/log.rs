//! The log: entries one after another, in two ring buffers that share one memory.
//!
//! ```text
//!  0  hash      u64
//!  8  len       u16   of the entry, in units of 16 octets; padding: up to the ring's end
//! 10  sum       u16   of the question, folded, as in a checksum field (RFC 1071)
//! 12  refresh   u32   from which second on a refresh is due; the largest: it was requested
//! 16  expires   u32   second in which the TTL ends
//! 20  question  u16   octets of the question; 0: padding
//! 22  flags     u8    of the key
//! 23  epoch     u8    in which it was inserted (Invalidation)
//! 24  question, its name in lower case, then the answer in its flat form
//! ```

use std::io;

use super::{
    Key, cpu,
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
/// Octets before the time of refresh.
const REFRESH: usize = 12;

/// The small queue's share of the log: one part in `SMALL_PART`.
const SMALL_PART: usize = 10;

/// Entries larger than one part in `SMALL_ENTRIES` of the small queue bypass it.
const SMALL_ENTRIES: usize = 8;

/// The queue of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// New entries.
    Small,
    /// Entries that were hit in the small queue, or came back.
    Main,
}

/// When an answer expires, in seconds of the caller's clock, and the epoch of its insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) expires: u32,
    pub(super) epoch: u8,
}

/// An entry in the log. Its fixed part is held as the words that were read.
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

    /// Reads the entry if its key is `key`; in which case the key's name is, too.
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

    /// From which second on a refresh is due.
    #[inline(always)]
    pub(super) fn refresh(&self) -> u32 {
        let [_, second, _] = self.words;
        (second >> 32) as u32
    }

    /// The second in which its TTL ends.
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

    /// The question, its name in lower case.
    pub(super) fn question(&self) -> &'a [u8] {
        self.question
    }

    /// The checksum of the question as the client sent it, if that is in lower case.
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

/// The case of a name as the client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameCase {
    /// All lower, as in the entry.
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

/// Writes what [`words`] reads.
fn put_words(fixed: &mut [u8; FIXED], words: [u64; 3]) {
    let (chunks, _) = fixed.as_chunks_mut::<8>();
    for (chunk, word) in chunks.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
}

/// A ring buffer in the log's memory.
#[derive(Debug)]
struct Ring {
    start: usize,
    capacity: usize,
    /// Octets ever written, and ever freed; their difference is in use. Start, capacity, head and
    /// tail are multiples of [`ALIGN`].
    head: u64,
    tail: u64,
}

impl Ring {
    /// The octet in the log of a position, which counts as head and tail do.
    fn octet(&self, position: u64) -> usize {
        self.start + (position % self.capacity as u64) as usize
    }

    fn in_use(&self) -> usize {
        (self.head - self.tail) as usize
    }

    /// Octets to skip at the head so that an entry of `len` does not wrap.
    fn padding(&self, len: usize) -> usize {
        let to_end = self.start + self.capacity - self.octet(self.head);
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

    pub(super) fn populate_step(&mut self) -> io::Result<bool> {
        self.memory.populate_step()
    }

    /// Octets of memory.
    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    pub(super) fn is_in_reserved_pages(&self) -> bool {
        self.memory.is_reserved()
    }

    /// Octets of an entry, or `None` if it is larger than an entry may be.
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

    /// The queue that `offset` belongs to.
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

    /// Prefetches the first cache lines of an entry.
    #[inline(always)]
    pub(super) fn prefetch(&self, offset: u32) {
        let at = offset as usize * ALIGN;
        if let Some(lines) = self.memory.get(at..).and_then(<[u8]>::first_chunk::<128>) {
            cpu::prefetch_two_lines(lines);
        }
    }

    /// The entry at an offset from the index.
    #[inline(always)]
    pub(super) fn entry(&self, offset: u32) -> Option<Entry<'_>> {
        Entry::read(self.memory.get(offset as usize * ALIGN..)?)
    }

    /// The entry at an offset from the index, if its key is `key`; in which case the key's name is,
    /// too.
    #[inline(always)]
    pub(super) fn entry_for(&self, offset: u32, key: Key<'_>) -> Option<(Entry<'_>, NameCase)> {
        Entry::read_for(self.memory.get(offset as usize * ALIGN..)?, key)
    }

    /// Marks an entry's refresh as requested. Returns whether it was not yet.
    pub(super) fn request_refresh(&mut self, offset: u32) -> bool {
        const REQUESTED: [u8; 4] = [0xff; 4];
        let at = offset as usize * ALIGN + REFRESH;
        let field = self.memory.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
        field.is_some_and(|field| std::mem::replace(field, REQUESTED) != REQUESTED)
    }
}

/// Walking and removal.
impl Log {
    /// The oldest entry of a queue and its offset; padding before it is freed.
    pub(super) fn oldest(&mut self, queue: Queue) -> Option<(u32, Entry<'_>)> {
        let tail = self.ring(queue).tail;
        let (position, _) = self.next(queue, tail)?;
        self.ring_mut(queue).tail = position;
        let offset = self.offset(queue, position);
        Some((offset, self.entry(offset)?))
    }

    /// The first entry at or after `position`, with its own position. Positions count the octets ever
    /// written to the queue.
    pub(super) fn next(&self, queue: Queue, position: u64) -> Option<(u64, Entry<'_>)> {
        let ring = self.ring(queue);
        let mut position = position.max(ring.tail);
        while position < ring.head {
            let start = ring.octet(position);
            let end = ring.start + ring.capacity;
            match Entry::read(self.memory.get(start..end)?) {
                // The ring's end is padding, too, if it is shorter than an entry's fixed part.
                None => position += (end - start) as u64,
                Some(entry) if entry.is_padding() => position += entry.len() as u64,
                Some(entry) => return Some((position, entry)),
            }
        }
        None
    }

    /// The offset of a position in the queue.
    pub(super) fn offset(&self, queue: Queue, position: u64) -> u32 {
        (self.ring(queue).octet(position) / ALIGN) as u32
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

/// Writing.
impl Log {
    /// Advances the head over padding and an entry of `len`; returns the entry's first octet.
    fn reserve(&mut self, queue: Queue, len: usize) -> usize {
        let ring = self.ring(queue);
        let (padding, at) = (ring.padding(len), ring.octet(ring.head));
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
        let at = ring.octet(ring.head);
        ring.head += len as u64;
        at
    }

    /// Writes an entry at the head, if there is room; returns its offset.
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

    /// Overwrites an entry of the same length.
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
        // In the last tenth of the TTL; one below ten seconds has none.
        let refresh = times.expires - answer.ttl() / 10;
        let second = (len / ALIGN) as u64 | u64::from(sum) << 16 | u64::from(refresh) << 32;
        let kind = key.question.len() as u64 | u64::from(key.flags) << 16;
        let last = u64::from(times.expires) | kind << 32 | u64::from(times.epoch) << 56;
        put_words(fixed, [key.hash, second, last]);
        answer.copy_to(rest.get_mut(..answer.flat_len())?)
    }
}
