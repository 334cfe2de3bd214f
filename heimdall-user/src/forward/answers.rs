//! The answers of a forwarder thread, in memory that is used again.
//!
//! An answer is shared with the fronts whose queries it answers. The thread keeps a reference to it, so
//! no front ever frees one, and writes the next answer in its place once it has the only reference. So in
//! the steady state taking a response in allocates nothing.

use std::{collections::VecDeque, mem, sync::Arc};

use crate::{
    cache::Hit,
    dns::{Answer, BadResponse, Letters, ResponseReader, TtlLimits},
};

/// Answers that are kept. Beyond that many that fronts have not replied with yet, new ones are freed
/// after use.
const KEPT: usize = 1024;

/// Answers that are looked at for one that no front holds any more, the oldest first.
const TRIES: usize = 8;

/// Octets for which a new answer has memory: enough for most.
const USUAL_OCTETS: usize = 512;

/// The same of an answer that is kept, at most: all together take 2 MiB at most.
const MAX_OCTETS: usize = 2048;

/// Makes answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    reader: ResponseReader,
    /// Those first that were made, or found to be held by a front, longest ago.
    kept: VecDeque<Arc<Answer>>,
    /// The response with its question's letters restored.
    restored: Vec<u8>,
}

impl Answers {
    /// The answer in a response: [`ResponseReader::read`].
    pub(super) fn read(
        &mut self,
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
    ) -> Result<Arc<Answer>, BadResponse> {
        self.make(|reader, answer| reader.read(msg, question, key_flags, limits, answer))
    }

    /// The answer in a response to a question that was asked with these letters: it has those of `question`.
    pub(super) fn read_restored(
        &mut self,
        msg: &[u8],
        letters: Letters,
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
    ) -> Result<Arc<Answer>, BadResponse> {
        let mut restored = mem::take(&mut self.restored);
        letters.restore(msg, question, &mut restored);
        let answer = self.read(&restored, question, key_flags, limits);
        self.restored = restored;
        answer
    }

    /// The answer in a message that was made of several: [`ResponseReader::read_composed`].
    pub(super) fn compose(
        &mut self,
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
    ) -> Result<Arc<Answer>, BadResponse> {
        self.make(|reader, answer| reader.read_composed(msg, question, key_flags, answer))
    }

    fn make(
        &mut self,
        write: impl FnOnce(&mut ResponseReader, &mut Answer) -> Result<(), BadResponse>,
    ) -> Result<Arc<Answer>, BadResponse> {
        let mut unused = self.take();
        let mut result = Ok(());
        if let Some(answer) = Arc::get_mut(&mut unused) {
            result = write(&mut self.reader, answer);
        }
        let answer = self.keep(unused);
        result.map(|()| answer)
    }

    /// The answer of a cache, as old as it is.
    pub(super) fn aged(&mut self, hit: Hit<'_>) -> Arc<Answer> {
        let mut unused = self.take();
        if let Some(answer) = Arc::get_mut(&mut unused) {
            hit.answer.aged_into(hit.age, answer);
        }
        self.keep(unused)
    }

    /// An answer with no other reference, to be written over.
    fn take(&mut self) -> Arc<Answer> {
        for _ in 0..self.kept.len().min(TRIES) {
            if let Some(mut oldest) = self.kept.pop_front() {
                if Arc::get_mut(&mut oldest).is_some() {
                    return oldest;
                }
                self.kept.push_back(oldest);
            }
        }
        Arc::new(Answer::with_capacity(USUAL_OCTETS))
    }

    fn keep(&mut self, answer: Arc<Answer>) -> Arc<Answer> {
        if self.kept.len() < KEPT && answer.capacity() <= MAX_OCTETS {
            self.kept.push_back(Arc::clone(&answer));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const QUESTION: &[u8] = b"\x01a\0\0\x10\0\x01";

    /// A response with a TXT record of about `octets` octets.
    fn response(octets: usize) -> Vec<u8> {
        let strings = [&[200][..], &[b'x'; 200]].concat().repeat(octets / 201);
        let len = (strings.len() as u16).to_be_bytes();
        [
            b"\0\x01\x81\x80\0\x01\0\x01\0\0\0\0",
            QUESTION,
            b"\xc0\x0c\0\x10\0\x01\0\0\0\x09",
            &len,
            &strings,
        ]
        .concat()
    }

    fn read(answers: &mut Answers, octets: usize) -> Arc<Answer> {
        let limits = TtlLimits::default();
        answers
            .read(&response(octets), QUESTION, 0, &limits)
            .unwrap()
    }

    #[test]
    fn an_answer_that_nobody_holds_is_written_over() {
        let mut answers = Answers::default();
        let first = read(&mut answers, 402);
        let second = read(&mut answers, 201);
        assert!(!Arc::ptr_eq(&first, &second));
        let (copy, at) = (Answer::clone(&first), Arc::as_ptr(&second));
        drop(second);
        let third = read(&mut answers, 603);
        assert_eq!(Arc::as_ptr(&third), at);
        assert_eq!(*first, copy, "it is held");
        assert_eq!(Answer::as_ref(&third).body().len(), 12 + 603);
        let malformed = answers.read(&[0; 12], QUESTION, 0, &TtlLimits::default());
        assert_eq!(malformed.unwrap_err(), BadResponse::Malformed);
        assert_eq!(*first, copy);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut answers = Answers::default();
        let held: Vec<_> = (0..2 * KEPT).map(|_| read(&mut answers, 201)).collect();
        assert_eq!(answers.kept.len(), KEPT);
        drop(held);
        for _ in 0..2 * KEPT {
            read(&mut answers, 201);
        }
        assert_eq!(answers.kept.len(), KEPT);
        for _ in 0..2 * KEPT {
            read(&mut answers, 60_000);
        }
        let octets: usize = answers.kept.iter().map(|answer| answer.capacity()).sum();
        assert!(octets <= KEPT * MAX_OCTETS);
    }
}
