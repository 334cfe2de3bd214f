//! The log: entries one after another in a circle of memory.
//!
//! ```text
//!  0  hash      u64
//!  8  len       u32   octets of the entry, a multiple of 16; the whole rest of the circle's end
//!                     for padding
//! 12  stored    u32   seconds
//! 16  expires   u32   seconds
//! 20  question  u16   octets of the question; 0: padding
//! 22  flags     u8    DO and CD
//! 23  unused    u8
//! 24  question, then the answer in its flat form
//! ```

use std::io;

use memmap2::MmapMut;

use super::Key;
use crate::dns::{AnswerRef, MAX_QUESTION};

/// Entries start at multiples of this.
const ALIGN: usize = 16;
/// Octets before the question.
const FIXED: usize = 24;

/// An entry, as it stands in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) hash: u64,
    pub(super) stored: u32,
    pub(super) expires: u32,
    pub(super) flags: u8,
    pub(super) question: &'a [u8],
    answer: &'a [u8],
    len: usize,
}

impl<'a> Entry<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let [
            h0,
            h1,
            h2,
            h3,
            h4,
            h5,
            h6,
            h7,
            l0,
            l1,
            l2,
            l3,
            s0,
            s1,
            s2,
            s3,
            e0,
            e1,
            e2,
            e3,
            q0,
            q1,
            flags,
            _,
        ] = *fixed;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (question, answer) =
            rest.split_at_checked(usize::from(u16::from_le_bytes([q0, q1])))?;
        Some(Self {
            hash: u64::from_le_bytes([h0, h1, h2, h3, h4, h5, h6, h7]),
            stored: u32::from_le_bytes([s0, s1, s2, s3]),
            expires: u32::from_le_bytes([e0, e1, e2, e3]),
            flags,
            question,
            answer,
            len,
        })
    }

    fn is_padding(&self) -> bool {
        self.question.is_empty()
    }

    /// The cached answer.
    #[inline]
    pub(super) fn answer(&self) -> Option<AnswerRef<'a>> {
        AnswerRef::read(self.answer)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    memory: MmapMut,
    /// Octets ever written, and ever freed; their difference is in use. Both are multiples of
    /// [`ALIGN`], as the capacity is, and so are the places that they stand for.
    head: u64,
    tail: u64,
}

impl Log {
    /// Reserves `bytes` octets, rounded down.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes / ALIGN * ALIGN)?;
        Ok(Self {
            memory,
            head: 0,
            tail: 0,
        })
    }

    /// Octets that an entry takes, or `None` if it is larger than an entry may be.
    pub(super) fn entry_len(question: usize, answer: usize) -> Option<usize> {
        /// An answer of 64 KiB with the longest question, and the list of its TTLs.
        const MAX: usize = 2 * 65_536;
        let len = (FIXED + question + answer).next_multiple_of(ALIGN);
        (question <= MAX_QUESTION && len <= MAX).then_some(len)
    }

    fn capacity(&self) -> usize {
        self.memory.len()
    }

    fn place(&self, position: u64) -> usize {
        (position % self.capacity() as u64) as usize
    }

    fn in_use(&self) -> usize {
        (self.head - self.tail) as usize
    }

    /// Octets to skip at the head so that an entry of `len` does not wrap.
    fn padding(&self, len: usize) -> usize {
        let to_end = self.capacity() - self.place(self.head);
        if to_end < len { to_end } else { 0 }
    }

    /// Whether an entry of `len` octets can be appended.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.in_use() + self.padding(len) + len <= self.capacity()
    }

    /// The entry at an offset that the index gave.
    #[inline]
    pub(super) fn entry(&self, offset: u32) -> Option<Entry<'_>> {
        Entry::read(self.memory.get(offset as usize * ALIGN..)?)
    }

    /// The oldest entry and its offset; padding before it is freed.
    pub(super) fn oldest(&mut self) -> Option<(u32, Entry<'_>)> {
        while self.tail < self.head {
            let at = self.place(self.tail);
            // An end too short for an entry's fixed part is padding, too.
            let padding = match Entry::read(self.memory.get(at..)?) {
                None => Some(self.capacity() - at),
                Some(entry) if entry.is_padding() => Some(entry.len),
                Some(_) => None,
            };
            match padding {
                Some(len) => self.tail += len as u64,
                None => return Some(((at / ALIGN) as u32, Entry::read(self.memory.get(at..)?)?)),
            }
        }
        None
    }

    /// Frees the oldest entry.
    pub(super) fn pop(&mut self) {
        if let Some(len) = self.oldest().map(|(_, entry)| entry.len) {
            self.tail += len as u64;
        }
    }

    /// Moves the oldest entry to the head. Returns its new offset, or `None` if it had to be
    /// freed because padding left no room for it.
    pub(super) fn rotate(&mut self) -> Option<u32> {
        let (offset, len) = self.oldest().map(|(offset, entry)| (offset, entry.len))?;
        self.pop();
        if !self.has_room(len) {
            return None;
        }
        let from = offset as usize * ALIGN;
        let to = self.reserve(len)?;
        // The two may overlap; nothing is written in between.
        self.memory.copy_within(from..from + len, to);
        Some((to / ALIGN) as u32)
    }

    /// Advances the head over padding and an entry of `len`; returns the entry's place.
    fn reserve(&mut self, len: usize) -> Option<usize> {
        let padding = self.padding(len);
        if padding > 0 {
            let at = self.place(self.head);
            if let Some(fixed) = self
                .memory
                .get_mut(at..)
                .and_then(|rest| rest.first_chunk_mut::<FIXED>())
            {
                let [l0, l1, l2, l3] = (padding as u32).to_le_bytes();
                *fixed = [
                    0, 0, 0, 0, 0, 0, 0, 0, l0, l1, l2, l3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ];
            }
            self.head += padding as u64;
        }
        let at = self.place(self.head);
        self.head += len as u64;
        Some(at)
    }

    /// Writes an entry at the head. The caller has made room.
    pub(super) fn append(
        &mut self,
        key: &Key<'_>,
        answer: &[u8],
        stored: u32,
        expires: u32,
    ) -> Option<u32> {
        let len = Self::entry_len(key.question.len(), answer.len())?;
        if !self.has_room(len) {
            return None;
        }
        let at = self.reserve(len)?;
        let entry = self.memory.get_mut(at..at + len)?;
        let (fixed, rest) = entry.split_first_chunk_mut::<FIXED>()?;
        let (question, rest) = rest.split_at_mut_checked(key.question.len())?;
        let [h0, h1, h2, h3, h4, h5, h6, h7] = key.hash.to_le_bytes();
        let [l0, l1, l2, l3] = (len as u32).to_le_bytes();
        let [s0, s1, s2, s3] = stored.to_le_bytes();
        let [e0, e1, e2, e3] = expires.to_le_bytes();
        let [q0, q1] = (key.question.len() as u16).to_le_bytes();
        *fixed = [
            h0, h1, h2, h3, h4, h5, h6, h7, l0, l1, l2, l3, s0, s1, s2, s3, e0, e1, e2, e3, q0, q1,
            key.flags, 0,
        ];
        question.copy_from_slice(key.question);
        rest.get_mut(..answer.len())?.copy_from_slice(answer);
        Some((at / ALIGN) as u32)
    }
}
