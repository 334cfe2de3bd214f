//! An entry outside of a cache: in a chunk of a dump, or in a snapshot.
//!
//! ```text
//!  0  len       u32   octets of the record, these included
//!  4  age       u32   seconds since the answer was received
//!  8  question  u16   octets of the question
//! 10  flags     u8    the key's flags
//! 11  unused    u8    0
//! 12  question, then the answer in its flat form
//! ```
//!
//! Little-endian. Nothing in it depends on the process: no seeded hash, no clock's start.

use crate::dns::{AnswerRef, MAX_QUESTION, QUESTION_FIXED, name::end_of_question_name};

/// Octets before the question.
const FIXED: usize = 12;

/// A copy of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The question in wire form, its name in lower case.
    pub question: &'a [u8],
    /// [`Key::flags`](super::Key::flags).
    pub flags: u8,
    /// Whole seconds since the answer was received; beyond its TTL, it is stale.
    pub age: u32,
    /// The answer, its TTLs as received.
    pub answer: AnswerRef<'a>,
}

impl<'a> Record<'a> {
    /// Octets that [`append_to`](Self::append_to) writes.
    pub(crate) fn encoded_len(&self) -> usize {
        FIXED + self.question.len() + self.answer.flat_len()
    }

    /// Appends the record to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.encoded_len() as u32).to_le_bytes());
        out.extend_from_slice(&self.age.to_le_bytes());
        out.extend_from_slice(&(self.question.len() as u16).to_le_bytes());
        out.extend_from_slice(&[self.flags, 0]);
        out.extend_from_slice(self.question);
        self.answer.append_to(out);
    }

    /// Whether a cache may hold it, for records from a file: the question is one name with its type
    /// and class; the answer has as many records as its counts, and its offsets are those of their
    /// TTLs.
    pub fn is_sound(&self) -> bool {
        let name_end = end_of_question_name(self.question, 0);
        name_end.is_some_and(|end| end + QUESTION_FIXED == self.question.len())
            && self.answer.is_sound(self.question.len())
    }

    /// Reads the first record of `bytes`, which then begins after it. `None`: there is none, or it
    /// cannot be read.
    pub fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (&fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let [l0, l1, l2, l3, a0, a1, a2, a3, q0, q1, flags, _] = fixed;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (rest, left) = rest.split_at_checked(len.checked_sub(FIXED)?)?;
        let question_len = usize::from(u16::from_le_bytes([q0, q1]));
        let (question, flat) = rest.split_at_checked(question_len)?;
        let answer = AnswerRef::read(flat)?;
        if question.len() > MAX_QUESTION || answer.flat_len() != flat.len() {
            return None;
        }
        *bytes = left;
        Some(Self {
            question,
            flags,
            age: u32::from_le_bytes([a0, a1, a2, a3]),
            answer,
        })
    }
}
