//! Where the aliases of an answer lead.

use super::{AnswerRef, header, name::walk, rrtype};

/// Aliases of one answer that are looked at. Resolvers follow fewer.
const MAX_ALIASES: usize = 32;

/// The targets of the CNAME records in the answer section of `answer` to `question` (wire form), in
/// wire form and their own letter case; the first 32.
///
/// Allocates nothing if there are none.
pub fn targets(question: &[u8], answer: AnswerRef<'_>) -> Vec<Vec<u8>> {
    let places = places(header::LEN + question.len(), answer);
    if places.is_empty() {
        return Vec::new();
    }
    let message = [&[0; header::LEN][..], question, answer.body()].concat();
    let expand = |at| {
        let mut name = Vec::new();
        walk(&message, at, |_, label| name.extend_from_slice(label))?;
        Some(name)
    };
    places.into_iter().filter_map(expand).collect()
}

/// Offsets of the targets in a message whose question ends at `start`.
fn places(start: usize, answer: AnswerRef<'_>) -> Vec<usize> {
    let [a0, a1, ..] = answer.counts();
    let mut places = Vec::new();
    let mut at = 0;
    for _ in 0..u16::from_be_bytes([a0, a1]) {
        let Some(record) = answer.record(at, start) else {
            break;
        };
        if record.rtype == rrtype::CNAME {
            places.push(start + record.rdata);
            if places.len() == MAX_ALIASES {
                break;
            }
        }
        at = record.end;
    }
    places
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::dns::{Answer, answer::Parts};

    const QUESTION: &[u8] = b"\x01a\x02ok\0\0\x01\0\x01";

    fn answer(counts: [u16; 3], body: &[u8]) -> Answer {
        Answer::new(&Parts {
            counts,
            body,
            ..Parts::default()
        })
    }

    fn alias(owner: &[u8], target: &[u8]) -> Vec<u8> {
        let fixed = [0, 5, 0, 1, 0, 0, 0, 9, 0, target.len() as u8];
        [owner, &fixed, target].concat()
    }

    #[test]
    fn targets_are_names_in_full() {
        let body = [
            // Compressed against the question, and against another alias.
            alias(b"\xc0\x0c", b"\x01B\xc0\x0e"),
            alias(b"\xc0\x22", b"\x01c\xc0\x22"),
            alias(b"\x01c\0", b"\0"),
            // Not in the answer section.
            alias(b"\xc0\x0c", b"\x01d\0"),
        ]
        .concat();
        let found = targets(QUESTION, answer([3, 1, 0], &body).as_ref());
        let expected: [&[u8]; 3] = [b"\x01B\x02ok\0", b"\x01c\x01B\x02ok\0", b"\0"];
        assert_eq!(found, expected);
        let many = alias(b"\xc0\x0c", b"\x01b\0").repeat(100);
        let found = targets(QUESTION, answer([100, 0, 0], &many).as_ref());
        assert_eq!(found.len(), MAX_ALIASES);
        let address = [
            &b"\xc0\x0c"[..],
            &[0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4],
        ]
        .concat();
        assert!(targets(QUESTION, answer([1, 0, 0], &address).as_ref()).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_panics(counts: [u16; 3], body: Vec<u8>) {
            let _ = targets(QUESTION, answer(counts, &body).as_ref());
        }
    }
}
