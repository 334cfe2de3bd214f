//! The targets of an answer's aliases.

use super::{
    AnswerRef, header,
    name::{LabelOrPointer, MAX_NAME, for_each_label_of},
    record::Section,
    rrtype,
};

/// Aliases of one answer that are looked at. Resolvers follow fewer.
const MAX_ALIASES: usize = 32;

/// Gives `take` the targets of the CNAME records in the answer section of `answer` to `question` (wire
/// form), in wire form and their own name case, until it gives something; the first 32.
pub(crate) fn find_target<T>(
    question: &[u8],
    answer: AnswerRef<'_>,
    mut take: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    let start = header::LEN + question.len();
    // The question and the body are not in one piece.
    let element = |at: usize| match at.checked_sub(start) {
        Some(at) => LabelOrPointer::read(answer.body(), at),
        None => LabelOrPointer::read(question, at.checked_sub(header::LEN)?),
    };
    answer
        .records(start)
        .map_while(|record| record.filter(|record| record.section == Section::Answer))
        .filter(|record| record.rtype == rrtype::CNAME)
        .take(MAX_ALIASES)
        .find_map(|record| {
            let (mut name, mut len) = ([0; MAX_NAME], 0);
            for_each_label_of(element, start + record.rdata.at(), |_, label| {
                if let Some(octets) = name.get_mut(len..len + label.len()) {
                    octets.copy_from_slice(label);
                }
                len += label.len();
            })?;
            take(name.get(..len)?)
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::dns::{Answer, answer::AnswerFields};

    const QUESTION: &[u8] = b"\x01a\x02ok\0\0\x01\0\x01";

    fn answer(counts: [u16; 3], body: &[u8]) -> Answer {
        Answer::new(&AnswerFields {
            counts,
            body,
            ..AnswerFields::default()
        })
    }

    fn targets(question: &[u8], answer: AnswerRef<'_>) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        find_target(question, answer, |target| {
            found.push(target.to_vec());
            None::<()>
        });
        found
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
