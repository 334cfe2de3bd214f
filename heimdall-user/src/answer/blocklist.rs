//! Blocklists: names that get the action of their list instead of an upstream's answer.
//!
//! All lists are one finite state transducer (crate `fst`), which [`crate::blocklist`] builds; here it
//! is only searched. Its keys are names with their labels from the root down, each after its
//! length, so that the key of a name's parent is a prefix of its own: one walk finds the most
//! specific entry. Its values are packed `Rule`s.

use fst::{Map, raw::Output};
use memmap2::Mmap;

use super::body::{Body, NEGATIVE_TTL, QUESTION};
use crate::dns::{Answer, CLASS_IN, edns::ede, header::rcode, name::MAX_NAME, rrtype};

/// The answer to names on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockAction {
    /// NXDOMAIN.
    NxDomain,
    /// The address 0.0.0.0 or ::, no data for other types.
    NullAddress,
    /// REFUSED.
    Refused,
    /// The answer that they would have without lists.
    Allow,
}

impl BlockAction {
    /// All actions.
    pub(crate) const ALL: [Self; 4] = [
        Self::NxDomain,
        Self::NullAddress,
        Self::Refused,
        Self::Allow,
    ];
}

/// The actions that the lists have for a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// For the name itself.
    pub(crate) own: Option<BlockAction>,
    /// For the names below it.
    pub(crate) below: Option<BlockAction>,
}

impl Rule {
    /// The rule as a value of the transducer: three bits for each action, 0 for none.
    pub(crate) fn pack(self) -> u64 {
        let code = |action: Option<BlockAction>| action.map_or(0, |action| 1 + action as u64);
        code(self.own) | code(self.below) << 3
    }

    fn unpack(value: u64) -> Self {
        let action = |code: u64| {
            BlockAction::ALL
                .get((code & 7).checked_sub(1)? as usize)
                .copied()
        };
        Self {
            own: action(value),
            below: action(value >> 3),
        }
    }
}

/// All lists, and the answers to blocked names.
#[derive(Debug)]
pub struct Blocklists {
    rules: Option<Map<Mmap>>,
    answers: Answers,
}

/// The answers to blocked questions, whatever the name.
#[derive(Debug)]
struct Answers {
    nxdomain: Answer,
    null_v4: Answer,
    null_v6: Answer,
    no_data: Answer,
    refused: Answer,
}

impl Default for Blocklists {
    /// No lists.
    fn default() -> Self {
        Self {
            rules: None,
            answers: Answers::new(),
        }
    }
}

impl Blocklists {
    /// The lists of which `memory` is the transducer, as [`crate::blocklist::build`] makes it.
    ///
    /// # Errors
    /// The memory holds none.
    pub(crate) fn new(memory: Mmap) -> Result<Self, fst::Error> {
        Ok(Self {
            rules: Some(Map::new(memory)?),
            answers: Answers::new(),
        })
    }

    /// Whether no name is on any list.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_none()
    }

    /// Octets of memory that the transducer takes.
    pub fn bytes(&self) -> usize {
        self.rules
            .as_ref()
            .map_or(0, |rules| rules.as_fst().as_bytes().len())
    }

    /// The action for a name (wire form, any case), if it is on a list.
    pub fn lookup(&self, qname: &[u8]) -> Option<BlockAction> {
        self.find(qname).map(|(action, _)| action)
    }

    /// As [`lookup`](Self::lookup), with the number of labels that the name has before that of the entry.
    pub(crate) fn find(&self, qname: &[u8]) -> Option<(BlockAction, usize)> {
        let fst = self.rules.as_ref()?.as_fst();
        let mut starts = [0u8; MAX_NAME];
        let labels = label_starts(qname, &mut starts)?;
        let mut node = fst.root();
        let mut output = Output::zero();
        let mut found = None;
        for (labels_left, start) in (0..labels.len()).rev().zip(labels.iter().rev()) {
            let (len, rest) = qname.get(usize::from(*start)..)?.split_first()?;
            let label = rest.get(..usize::from(*len))?;
            for octet in std::iter::once(*len).chain(label.iter().map(u8::to_ascii_lowercase)) {
                let Some(next) = node.find_input(octet) else {
                    return found;
                };
                let transition = node.transition(next);
                output = output.cat(transition.out);
                node = fst.node(transition.addr);
            }
            if node.is_final() {
                let rule = Rule::unpack(output.cat(node.final_output()).value());
                let action = if labels_left == 0 {
                    rule.own
                } else {
                    rule.below
                };
                found = action.map(|action| (action, labels_left)).or(found);
            }
        }
        found
    }

    /// The answer to a question of this type whose name the lists give `action`; `None` for
    /// [`BlockAction::Allow`].
    pub(super) fn answer(&self, action: BlockAction, qtype: u16) -> Option<&Answer> {
        let answers = &self.answers;
        match (action, qtype) {
            (BlockAction::NxDomain, _) => Some(&answers.nxdomain),
            (BlockAction::NullAddress, rrtype::A) => Some(&answers.null_v4),
            (BlockAction::NullAddress, rrtype::AAAA) => Some(&answers.null_v6),
            (BlockAction::NullAddress, _) => Some(&answers.no_data),
            (BlockAction::Refused, _) => Some(&answers.refused),
            (BlockAction::Allow, _) => None,
        }
    }
}

impl Answers {
    fn new() -> Self {
        let blocked = Some(ede::BLOCKED);
        let null = |rtype, address: &[u8]| {
            let mut body = Body::default();
            body.answer(QUESTION, rtype, CLASS_IN, NEGATIVE_TTL, address);
            body.into_small_answer(rcode::NOERROR, blocked)
        };
        let negative = |code| {
            let mut body = Body::default();
            body.soa(QUESTION);
            body.into_small_answer(code, blocked)
        };
        Self {
            nxdomain: negative(rcode::NXDOMAIN),
            null_v4: null(rrtype::A, &[0; 4]),
            null_v6: null(rrtype::AAAA, &[0; 16]),
            no_data: negative(rcode::NOERROR),
            refused: Answer::failure(rcode::REFUSED, blocked, NEGATIVE_TTL),
        }
    }
}

/// The offsets of a name's labels, without the root's.
fn label_starts<'a>(name: &[u8], starts: &'a mut [u8; MAX_NAME]) -> Option<&'a [u8]> {
    let (mut at, mut count) = (0, 0);
    loop {
        let len = usize::from(*name.get(at)?);
        if len == 0 {
            return starts.get(..count);
        }
        *starts.get_mut(count)? = u8::try_from(at).ok()?;
        at += 1 + len;
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hickory_proto::{
        op::{Message, ResponseCode},
        serialize::binary::BinDecodable,
    };

    use super::*;

    #[test]
    fn without_lists_nothing_is_blocked() {
        let lists = Blocklists::default();
        assert!(lists.is_empty());
        assert_eq!(lists.bytes(), 0);
        assert_eq!(lists.lookup(b"\x01a\0"), None);
    }

    #[test]
    fn rules_are_packed_and_unpacked() {
        let actions = || BlockAction::ALL.into_iter().map(Some).chain([None]);
        for own in actions() {
            for below in actions() {
                let rule = Rule { own, below };
                assert_eq!(Rule::unpack(rule.pack()), rule);
            }
        }
        let nothing = Rule::default();
        assert_eq!(Rule::unpack(0), nothing);
        assert_eq!(Rule::unpack(0o77), nothing, "no action has these codes");
    }

    #[test]
    fn blocked_questions_get_the_answer_of_their_action() {
        let lists = Blocklists::default();
        for (action, qtype, code, answers, authorities) in [
            (
                BlockAction::NxDomain,
                rrtype::A,
                ResponseCode::NXDomain,
                0,
                1,
            ),
            (
                BlockAction::NullAddress,
                rrtype::A,
                ResponseCode::NoError,
                1,
                0,
            ),
            (
                BlockAction::NullAddress,
                rrtype::AAAA,
                ResponseCode::NoError,
                1,
                0,
            ),
            (BlockAction::NullAddress, 15, ResponseCode::NoError, 0, 1),
            (BlockAction::Refused, rrtype::A, ResponseCode::Refused, 0, 0),
        ] {
            let answer = lists.answer(action, qtype).unwrap().as_ref();
            let mut msg = vec![0, 1, 0x80, answer.rcode(), 0, 1];
            msg.extend_from_slice(&answer.counts());
            msg.extend_from_slice(b"\x03ads\x07example\0");
            msg.extend_from_slice(&qtype.to_be_bytes());
            msg.extend_from_slice(&[0, 1]);
            msg.extend_from_slice(answer.body());
            let read = Message::from_bytes(&msg).unwrap();
            assert_eq!(read.metadata.response_code, code);
            assert_eq!(
                (read.answers.len(), read.authorities.len()),
                (answers, authorities)
            );
            for record in read.answers.iter().chain(&read.authorities) {
                assert_eq!(record.name.to_string(), "ads.example.");
                assert_eq!(record.ttl, 60);
            }
            assert_eq!((answer.ttl(), answer.ede()), (60, Some(ede::BLOCKED)));
        }
        assert!(lists.answer(BlockAction::Allow, rrtype::A).is_none());
    }
}
