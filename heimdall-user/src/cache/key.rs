//! The keys of answers.

use crate::dns::{NameHasher, QUESTION_FIXED, name_hash, question_hash};

/// The key of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Hash of the other fields, [`Query::hash`](crate::dns::Query::hash).
    pub hash: u64,
    /// The question in wire form, its name in any case.
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

    /// The hash of the name alone. The name is not hashed again.
    pub(crate) fn name_hash(&self, hasher: &NameHasher) -> u64 {
        name_hash(hasher, self.hash, self.question, self.flags)
    }

    /// The name in the question.
    pub(crate) fn name(&self) -> &'a [u8] {
        let end = self.question.len().saturating_sub(QUESTION_FIXED);
        self.question.get(..end).unwrap_or_default()
    }
}
