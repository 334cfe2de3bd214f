//! Upper and lower case letters at random in the question of a query, which its response has to repeat octet for octet:
//! "0x20" ([draft-vixie-dnsext-dns0x20](https://datatracker.ietf.org/doc/html/draft-vixie-dnsext-dns0x20-00)). A forger
//! who does not see the query has to guess each letter's case.

use super::{
    QUESTION_FIXED,
    cursor::Cursor,
    header::{self, Header},
    record::Records,
};

/// The bit in which the cases of an ASCII letter differ.
const CASE: u8 = 0x20;

/// A case for each letter of a question: a bit for each of 64 octets, used again for those behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Letters(u64);

impl Letters {
    /// From random bits.
    pub(crate) fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The octets of a question in wire form, the letters of its name in these cases.
    pub(super) fn apply(self, question: &[u8]) -> impl Iterator<Item = u8> {
        // Type and class are no letters, whatever their values; nor are length octets, at most 63.
        let name = question.len().saturating_sub(QUESTION_FIXED);
        question.iter().enumerate().map(move |(place, octet)| {
            let is_upper = self.0.rotate_right(place as u32) & 1 != 0;
            match octet.is_ascii_alphabetic() && place < name {
                false => *octet,
                true if is_upper => octet & !CASE,
                true => octet | CASE,
            }
        })
    }

    /// Whether a response repeats the question as it was asked.
    pub(crate) fn are_in(self, response: &[u8], question: &[u8]) -> bool {
        response.len() == question.len() && self.apply(question).eq(response.iter().copied())
    }

    /// Makes `restored` the response with the question's own letters in place of these: in its question, which names may
    /// point to, and in owners that repeat it, or the end of it, in full. Names in data stay as they are.
    pub(crate) fn restore(self, response: &[u8], question: &[u8], restored: &mut Vec<u8>) {
        restored.clear();
        restored.extend_from_slice(response);
        let start = header::LEN + question.len();
        let (Some(header), Some(echoed)) =
            (Header::read(response), response.get(header::LEN..start))
        else {
            return;
        };
        let [_, counts @ ..] = header.counts;
        let Some((name, _)) = question.split_last_chunk::<QUESTION_FIXED>() else {
            return;
        };
        if !self.are_in(echoed, question) {
            return;
        }
        let mut put = |at: usize, octets: &[u8]| {
            if let Some(place) = restored.get_mut(at..at + octets.len()) {
                place.copy_from_slice(octets);
            }
        };
        put(header::LEN, question);
        let asked = echoed.get(..name.len()).unwrap_or_default();
        for record in Records::new(Cursor::new(response, start), counts).map_while(|record| record)
        {
            let owner = response.get(record.owner..record.fixed).unwrap_or_default();
            // Wherever it begins, the letters alone are changed, to the other case.
            if asked.ends_with(owner) {
                put(
                    record.owner,
                    name.get(name.len() - owner.len()..).unwrap_or_default(),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::same_question;

    /// `0aB.` and so on, of type 65 (`A`) and class 97 (`a`).
    const QUESTION: &[u8] = b"\x03\x30aB\x04-Zz9\0\0\x41\0\x61";

    #[test]
    fn each_letter_of_the_name_has_a_bit() {
        let apply = |bits| Letters::new(bits).apply(QUESTION).collect::<Vec<_>>();
        assert_eq!(apply(0), b"\x03\x30ab\x04-zz9\0\0\x41\0\x61");
        assert_eq!(apply(u64::MAX), b"\x03\x30AB\x04-ZZ9\0\0\x41\0\x61");
        assert_eq!(apply(1 << 2), b"\x03\x30Ab\x04-zz9\0\0\x41\0\x61");
        assert_eq!(apply(1 << 7), b"\x03\x30ab\x04-zZ9\0\0\x41\0\x61");
    }

    proptest! {
        /// The question stays the same, and any other case of any of its letters is told apart.
        #[test]
        fn other_letters_are_told_apart(
            bits: u64, label in "[a-zA-Z0-9-]{1,63}", labels in 1..4usize, changed: prop::sample::Index,
        ) {
            let label = [&[label.len() as u8], label.as_bytes()].concat();
            let mut question = label.repeat(labels);
            question.extend_from_slice(&[0, 0, 65, 0, 1]);
            let letters = Letters::new(bits);
            let mut asked: Vec<_> = letters.apply(&question).collect();
            prop_assert!(same_question(&asked, &question));
            prop_assert!(letters.are_in(&asked, &question));
            let changed = changed.index(asked.len() - QUESTION_FIXED);
            if let Some(octet) = asked.get_mut(changed).filter(|octet| octet.is_ascii_alphabetic()) {
                *octet ^= CASE;
                prop_assert!(!letters.are_in(&asked, &question));
            }
            asked.pop();
            prop_assert!(!letters.are_in(&asked, &question));
        }
    }
}
