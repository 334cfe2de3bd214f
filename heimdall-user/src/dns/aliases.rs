//! The aliases of an answer: their targets, and where they lead out of it.

use super::{
    AnswerRef, QUESTION_FIXED,
    compose::Octets,
    header::rcode,
    name::{MAX_NAME, eq_ignore_case},
    record::{Record, Section},
    rrtype, u16_at,
};

/// Aliases of one answer that are looked at. Resolvers follow fewer.
const MAX_ALIASES: usize = 32;

/// A name in wire form, not compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FullName {
    octets: [u8; MAX_NAME],
    len: usize,
}

impl Default for FullName {
    /// Without a label, not even the root's.
    fn default() -> Self {
        Self {
            octets: [0; MAX_NAME],
            len: 0,
        }
    }
}

impl FullName {
    /// Appends a label, its length before it. What is longer than a name is left out.
    pub(super) fn push(&mut self, label: &[u8]) {
        if let Some(octets) = self.octets.get_mut(self.len..self.len + label.len()) {
            octets.copy_from_slice(label);
            self.len += label.len();
        }
    }

    /// Its octets.
    pub(crate) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// The CNAME records of an answer section.
fn records<'a>(answer: AnswerRef<'a>, octets: Octets<'a>) -> impl Iterator<Item = Record<'a>> {
    answer
        .records(octets.start())
        .map_while(|record| record.filter(|record| record.section == Section::Answer))
        .filter(|record| record.rtype == rrtype::CNAME)
        .take(MAX_ALIASES)
}

/// Gives `take` the targets of the CNAME records in the answer section of `answer` to `question` (wire
/// form), in wire form and their own name case, until it gives something; the first 32.
pub(crate) fn find_target<T>(
    question: &[u8],
    answer: AnswerRef<'_>,
    mut take: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    let octets = Octets::new(question, answer);
    records(answer, octets).find_map(|record| {
        let target = octets.name(octets.start() + record.rdata.at())?;
        take(target.octets())
    })
}

/// Gives `take` owner and target of each alias in `answer`, from the queried name on, until it gives something.
pub(crate) fn follow<T>(
    question: &[u8],
    answer: AnswerRef<'_>,
    mut take: impl FnMut(&FullName, &FullName) -> Option<T>,
) -> Option<T> {
    let octets = Octets::new(question, answer);
    let mut owner = FullName::default();
    owner.push(question.get(..question.len().checked_sub(QUESTION_FIXED)?)?);
    // An answer has no loops; one in memory that was damaged ends here.
    for _ in 0..MAX_ALIASES {
        let target = records(answer, octets).find_map(|record| {
            let name = octets.name(octets.start() + record.owner)?;
            eq_ignore_case(name.octets(), owner.octets())
                .then(|| octets.name(octets.start() + record.rdata.at()))
        })??;
        if let Some(taken) = take(&owner, &target) {
            return Some(taken);
        }
        owner = target;
    }
    None
}

/// The target of an alias that has to be asked for, because `answer`, to `question`, does not tell about it: the
/// first that `is_elsewhere`, as another upstream is to be believed about it, or with `follow` the last one if the
/// answer has neither data nor a denial for it.
pub(crate) fn open_target(
    question: &[u8],
    answer: AnswerRef<'_>,
    follow_last: bool,
    mut is_elsewhere: impl FnMut(&[u8]) -> bool,
) -> Option<FullName> {
    let qtype = u16_at(question, question.len().checked_sub(QUESTION_FIXED)?)?;
    if qtype == rrtype::CNAME || !matches!(answer.rcode(), rcode::NOERROR | rcode::NXDOMAIN) {
        return None;
    }
    let mut last = None;
    let elsewhere = follow(question, answer, |_, target| {
        last = Some(*target);
        last.filter(|target| is_elsewhere(target.octets()))
    });
    if elsewhere.is_some() || !follow_last || answer.rcode() != rcode::NOERROR {
        return elsewhere;
    }
    let octets = Octets::new(question, answer);
    let mut records = answer.records(octets.start());
    let tells = records.any(|record| {
        record.is_none_or(|record| match record.section {
            Section::Answer => record.rtype == qtype,
            Section::Authority => record.rtype == rrtype::SOA,
            Section::Additional => false,
        })
    });
    last.filter(|_| !tells)
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

    #[test]
    fn what_an_answer_does_not_tell_is_asked_for() {
        let record = |owner: &[u8], rtype: u8, data: &[u8]| {
            [
                owner,
                &[0, rtype, 0, 1, 0, 0, 0, 9, 0, data.len() as u8],
                data,
            ]
            .concat()
        };
        let soa = record(b"\x02ok\0", 6, &[0; 22]);
        let ns = record(b"\x02ok\0", 2, b"\x02ns\0");
        let address = record(b"\x01c\0", 1, &[192, 0, 2, 1]);
        // In an order that is not that of the chain.
        let chain = [
            alias(b"\x01B\0", b"\x01c\0"),
            alias(b"\xc0\x0c", b"\x01b\0"),
        ]
        .concat();
        let open = |counts, body: &[&[u8]], follow, elsewhere: &[u8]| {
            let answer = answer(counts, &body.concat());
            open_target(QUESTION, answer.as_ref(), follow, |name| name == elsewhere)
                .map(|name| name.octets().to_vec())
        };
        let b = Some(b"\x01b\0".to_vec());
        let c = Some(b"\x01c\0".to_vec());
        for follow in [false, true] {
            let dangling = if follow { c.clone() } else { None };
            assert_eq!(open([2, 0, 0], &[&chain], follow, b""), dangling);
            assert_eq!(
                open([2, 1, 0], &[&chain, &ns], follow, b""),
                dangling,
                "a referral"
            );
            assert_eq!(
                open([2, 1, 0], &[&chain, &soa], follow, b""),
                None,
                "a denial"
            );
            assert_eq!(
                open([3, 0, 0], &[&chain, &address], follow, b""),
                None,
                "data"
            );
            // What follows is not believed.
            assert_eq!(open([3, 0, 0], &[&chain, &address], follow, b"\x01b\0"), b);
            assert_eq!(open([2, 1, 0], &[&chain, &soa], follow, b"\x01c\0"), c);
            assert_eq!(open([0, 1, 0], &[&ns], follow, b""), None, "no alias");
        }
        let of_type = b"\x01a\x02ok\0\0\x05\0\x01";
        let alone = answer([2, 0, 0], &chain);
        assert!(open_target(of_type, alone.as_ref(), true, |_| true).is_none());
    }

    proptest! {
        #[test]
        fn nothing_panics(counts: [u16; 3], body: Vec<u8>) {
            let answer = answer(counts, &body);
            let _ = targets(QUESTION, answer.as_ref());
            let _ = open_target(QUESTION, answer.as_ref(), true, |_| false);
        }
    }
}
