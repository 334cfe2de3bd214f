//! Resource records, [RFC 1035 section 3.2.1](https://www.rfc-editor.org/rfc/rfc1035#section-3.2.1):
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! /                     NAME                      /  its owner, 1 to 255 octets
//! |                     TYPE                      |  0, counted from the end of NAME
//! |                     CLASS                     |  2
//! |                      TTL                      |  4
//! |                                               |
//! |                   RDLENGTH                    |  8
//! /                     RDATA                     / 10
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use super::{cursor::Cursor, u16_at, u32_at};

/// The fields behind the owner name, by their octets.
pub(super) mod field {
    use core::ops::Range;

    pub(in crate::dns) const TYPE: Range<usize> = 0..2;
    pub(in crate::dns) const CLASS: Range<usize> = 2..4;
    /// Seconds.
    pub(in crate::dns) const TTL: Range<usize> = 4..8;
    /// Octets of the data.
    pub(in crate::dns) const RDLENGTH: Range<usize> = 8..10;
    /// Where the data begin.
    pub(in crate::dns) const RDATA: usize = 10;
}

/// A section of records, in the order of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

impl Section {
    pub(super) const ALL: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];
}

/// A record. All its octets are within those that it was read from; names in its data have not been
/// looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) section: Section,
    /// Offset of the owner name.
    pub(super) owner: usize,
    /// Offset of what follows the owner name: where [`field`] counts from.
    pub(super) fixed: usize,
    pub(super) rtype: u16,
    pub(super) class: u16,
    /// Seconds; in an OPT record other things.
    pub(super) ttl: u32,
    /// The data: a cursor at their start that ends with them.
    pub(super) rdata: Cursor<'a>,
}

impl<'a> Record<'a> {
    fn read(cursor: &mut Cursor<'a>, section: Section) -> Option<Self> {
        let owner = cursor.at();
        cursor.name()?;
        let fixed = cursor.at();
        let fields = cursor.take(field::RDATA)?;
        Some(Self {
            section,
            owner,
            fixed,
            rtype: u16_at(fields, field::TYPE.start)?,
            class: u16_at(fields, field::CLASS.start)?,
            ttl: u32_at(fields, field::TTL.start)?,
            rdata: cursor.take_cursor(u16_at(fields, field::RDLENGTH.start)?.into())?,
        })
    }

    /// Offset of the TTL field.
    pub(super) fn ttl_at(&self) -> usize {
        self.fixed + field::TTL.start
    }

    /// Offset of what follows the record.
    pub(super) fn end(&self) -> usize {
        self.rdata.at() + self.rdata.rest().len()
    }

    /// Whether the owner is the root, uncompressed: one octet.
    pub(super) fn has_root_owner(&self) -> bool {
        self.fixed == self.owner + 1
    }
}

/// The records of a message or of an answer's body, section by section.
///
/// Gives `None` in place of a record that cannot be read, and ends there. A record takes at least 11
/// octets, so their number is bounded by the octets, not by the counts.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    cursor: Cursor<'a>,
    /// How many are left in each section.
    left: [(Section, u16); 3],
}

impl<'a> Records<'a> {
    /// The records from `cursor` on; `counts` are ANCOUNT, NSCOUNT and ARCOUNT.
    pub(super) fn new(cursor: Cursor<'a>, counts: [u16; 3]) -> Self {
        let [answers, authorities, additionals] = counts;
        let left = [
            (Section::Answer, answers),
            (Section::Authority, authorities),
            (Section::Additional, additionals),
        ];
        Self { cursor, left }
    }

    /// Offset of what follows the records that were given.
    pub(super) fn at(&self) -> usize {
        self.cursor.at()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (section, left) = self.left.iter_mut().find(|(_, left)| *left > 0)?;
        *left -= 1;
        let record = Record::read(&mut self.cursor, *section);
        if record.is_none() {
            self.left = Section::ALL.map(|section| (section, 0));
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{DNSClass, Name, RData, Record as OracleRecord, RecordType, rdata},
        serialize::binary::BinDecodable,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::dns::header::{self, Header};

    /// The records of a message with one question.
    fn records(msg: &[u8]) -> Records<'_> {
        let [_, counts @ ..] = Header::read(msg).unwrap().counts;
        let mut cursor = Cursor::new(msg, header::LEN);
        cursor.question().unwrap();
        Records::new(cursor, counts)
    }

    fn arb_record() -> impl Strategy<Value = OracleRecord> {
        let owner =
            prop::collection::vec(prop::sample::select(&["a", "b", "long-label"][..]), 0..4);
        let data = prop::collection::vec(any::<u8>(), 1..40);
        (owner, 256..60_000u16, any::<u16>(), any::<u32>(), data).prop_map(
            |(labels, code, class, ttl, data)| {
                let data = RData::Unknown {
                    code: RecordType::from(code),
                    rdata: rdata::NULL::with(data),
                };
                let owner = Name::from_labels(labels).unwrap();
                let mut record = OracleRecord::from_rdata(owner, ttl, data);
                record.dns_class = DNSClass::from(class);
                record
            },
        )
    }

    fn arb_message() -> impl Strategy<Value = Message> {
        let section = || prop::collection::vec(arb_record(), 0..5);
        (section(), section(), section()).prop_map(|(answers, authorities, additionals)| {
            let mut message = Message::new(1, MessageType::Response, OpCode::Query);
            message.add_query(Query::query(
                Name::from_ascii("a.b.").unwrap(),
                RecordType::A,
            ));
            message.add_answers(answers);
            message.add_authorities(authorities);
            message.add_additionals(additionals);
            message
        })
    }

    proptest! {
        /// The records of a message, and of its body alone, are those that the oracle wrote.
        #[test]
        fn agrees_with_the_oracle(message in arb_message()) {
            let msg = message.to_vec().unwrap();
            let [_, counts @ ..] = Header::read(&msg).unwrap().counts;
            let start = records(&msg).at();
            let sections = [&message.answers, &message.authorities, &message.additionals];
            let expected = Section::ALL.into_iter().zip(sections);
            let expected: Vec<_> = expected.flat_map(|(section, records)| records.iter().map(move |record| (section, record))).collect();
            let in_body = Records::new(Cursor::in_body(&msg[start..], start), counts);
            for (mut records, base) in [(records(&msg), 0), (in_body, start)] {
                for (section, expected) in &expected {
                    let record = records.next().unwrap().unwrap();
                    prop_assert_eq!(record.section, *section);
                    prop_assert_eq!(record.rtype, u16::from(expected.record_type()));
                    prop_assert_eq!(record.class, u16::from(expected.dns_class));
                    prop_assert_eq!(record.ttl, expected.ttl);
                    let field = |range: core::ops::Range<usize>| {
                        let at = base + record.fixed;
                        msg[at + range.start..at + range.end].to_vec()
                    };
                    prop_assert_eq!(field(field::TYPE), record.rtype.to_be_bytes());
                    prop_assert_eq!(field(field::CLASS), record.class.to_be_bytes());
                    prop_assert_eq!(field(field::TTL), record.ttl.to_be_bytes());
                    prop_assert_eq!(base + record.ttl_at(), base + record.fixed + 4);
                    let RData::Unknown { rdata, .. } = &expected.data else { unreachable!() };
                    prop_assert_eq!(record.rdata.rest(), &rdata.anything[..]);
                    prop_assert_eq!(field(field::RDLENGTH), (rdata.anything.len() as u16).to_be_bytes());
                    prop_assert_eq!(record.rdata.at(), record.fixed + field::RDATA);
                    prop_assert_eq!(record.has_root_owner(), expected.name.is_root());
                    prop_assert_eq!(record.end(), records.at());
                }
                prop_assert!(records.next().is_none());
                prop_assert_eq!(base + records.at(), msg.len());
            }
        }

        /// Whatever the octets and the counts, the iterator ends within the octets, at the first
        /// record that cannot be read.
        #[test]
        fn damage_ends_it(message in arb_message(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), len: prop::sample::Index, counts: [u16; 3]) {
            let mut msg = message.to_vec().unwrap();
            for (at, octet) in edits {
                let at = at.index(msg.len());
                msg[at] = octet;
            }
            msg.truncate(len.index(msg.len() + 1));
            let wanted: usize = counts.into_iter().map(usize::from).sum();
            let mut records = Records::new(Cursor::new(&msg, header::LEN), counts);
            let mut count = 0;
            let mut last = header::LEN;
            while let Some(record) = records.next() {
                count += 1;
                let Some(record) = record else {
                    prop_assert!(records.next().is_none());
                    return Ok(());
                };
                prop_assert_eq!(record.owner, last);
                last = record.end();
                prop_assert!(last <= msg.len() && count * 11 <= msg.len());
            }
            prop_assert_eq!(count, wanted);
        }

        /// A damaged message that the oracle reads has no record that cannot be read.
        #[test]
        fn reads_whatever_the_oracle_reads(message in arb_message(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut msg = message.to_vec().unwrap();
            for (at, octet) in edits {
                let at = at.index(msg.len());
                msg[at] = octet;
            }
            if Message::from_bytes(&msg).is_ok_and(|read| read.queries.len() == 1) {
                prop_assert!(records(&msg).all(|record| record.is_some()));
            }
        }
    }
}
