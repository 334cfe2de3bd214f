#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as OracleQuery, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
    serialize::binary::BinDecodable,
};
use proptest::prelude::*;

use super::*;
use crate::dns::{KEY_FLAG_DO, TtlLimits};

const LIMITS: TtlLimits = TtlLimits {
    min: 0,
    max: u32::MAX,
    max_negative: u32::MAX,
};

fn question(name: &Name) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(OracleQuery::query(name.clone(), RecordType::A));
    message.to_vec().unwrap()[header::LEN..].to_vec()
}

/// The answer as the reply to `question`.
fn reply(answer: AnswerRef<'_>, question: &[u8]) -> Vec<u8> {
    let head = [0, 1, 0x81, 0x80 | answer.rcode(), 0, 1];
    [&head[..], &answer.counts(), question, answer.body()].concat()
}

fn arb_label() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..20)
}

prop_compose! {
    /// A denial of a name, by the oracle, with its names compressed: the name, the message.
    fn arb_denial()(
        labels in prop::collection::vec(arb_label(), 1..5),
        zone_at in 0..5usize,
        owners in prop::collection::vec((0..3usize, prop::option::of(arb_label()), any::<u16>()), 0..6),
        in_zone: bool,
    ) -> (Name, Message) {
        let name = Name::from_labels(labels.clone()).unwrap();
        let zone = Name::from_labels(labels[zone_at.min(labels.len())..].to_vec()).unwrap();
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        message.add_query(OracleQuery::query(name.clone(), RecordType::A));
        let master = if in_zone { zone.prepend_label("ns").unwrap() } else { name.clone() };
        let soa = rdata::SOA::new(master, zone.clone(), 1, 2, 3, 4, 5);
        message.add_authority(Record::from_rdata(zone.clone(), 60, RData::SOA(soa)));
        for (kind, label, ttl) in owners {
            let owner = label.map_or(zone.clone(), |label| {
                zone.prepend_label(label.as_slice()).unwrap_or(zone.clone())
            });
            let (code, data): (u16, &[u8]) = match kind {
                0 => (rrtype::NSEC, b"\x04next\0\0\x01\x40"),
                1 => (rrtype::NSEC3, b"\x01\0\0\x01\0\x01x\0\x01\x40"),
                _ => (rrtype::RRSIG, b"\0\x2f\x0d\x01\0\0\0\x3c\0\0\0\0\0\0\0\0\0\0\x01z\0sig"),
            };
            let data = rdata::NULL::with(data.to_vec());
            let data = RData::Unknown { code: RecordType::from(code), rdata: data };
            message.add_authority(Record::from_rdata(owner, ttl.into(), data));
        }
        (name, message)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn holds_the_same_records_for_a_longer_question((name, message) in arb_denial(), below in prop::collection::vec(arb_label(), 0..4)) {
        let msg = message.to_vec().unwrap();
        let asked = question(&name);
        let longer = Name::from_labels(below.into_iter().chain(name.iter().map(<[u8]>::to_vec)));
        let longer = question(&longer.unwrap());
        let answer = Answer::from_response(&msg, &asked, KEY_FLAG_DO, &LIMITS).unwrap();
        let answer = answer.as_ref();
        let moved = for_descendant(answer, asked.len(), longer.len()).unwrap();
        let moved = moved.as_ref();
        let before = Message::from_bytes(&reply(answer, &asked)).unwrap();
        let after = Message::from_bytes(&reply(moved, &longer)).unwrap();
        prop_assert_eq!(before.authorities, after.authorities);
        prop_assert_eq!(after.metadata.response_code, ResponseCode::NXDomain);
        prop_assert_eq!(moved.ttl(), answer.ttl());
        // The TTLs are still found.
        let [mut aged, mut moved_aged] = [answer.aged(7), moved.aged(7)];
        if longer.len() == asked.len() {
            prop_assert_eq!(&aged, &moved_aged);
        }
        aged = for_descendant(aged.as_ref(), asked.len(), longer.len()).unwrap();
        prop_assert_eq!(&aged, &moved_aged);
        moved_aged = moved.aged(0);
        prop_assert_eq!(moved_aged.as_ref().body(), moved.body());
    }

    /// Whatever the body: no panic, and never another length.
    #[test]
    fn never_panics_nor_changes_the_length(
        (name, message) in arb_denial(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: prop::sample::Index,
        counts: [u16; 3],
        keep_counts: bool,
    ) {
        let asked = question(&name);
        let msg = message.to_vec().unwrap();
        let mut body = msg[header::LEN + asked.len()..].to_vec();
        for (at, octet) in edits {
            let at = at.index(body.len());
            body[at] = octet;
        }
        if !keep_counts {
            body.truncate(cut.index(body.len() + 1));
        }
        let counts = if keep_counts { [0, message.authorities.len() as u16, 0] } else { counts };
        let parts = AnswerFields { rcode: 3, counts, body: &body, ..AnswerFields::default() };
        let answer = Answer::new(&parts);
        if let Some(moved) = for_descendant(answer.as_ref(), asked.len(), asked.len() + 9) {
            prop_assert_eq!(moved.as_ref().body().len(), body.len());
        }
    }
}

/// An answer of one record in the authority section, owned by the question's name.
fn one(rtype: u16, data: &[u8]) -> Answer {
    let [_, low] = rtype.to_be_bytes();
    let mut body = vec![0xc0, 12, 0, low, 0, 1, 0, 0, 0, 9, 0, data.len() as u8];
    body.extend_from_slice(data);
    Answer::new(&AnswerFields {
        rcode: 3,
        counts: [0, 1, 0],
        body: &body,
        ttl_offsets: &[6],
        ttl: 9,
        ..AnswerFields::default()
    })
}

#[test]
fn names_move_where_they_may_be_compressed() {
    // Octets of an RRSIG record's data before the signer's name (RFC 4034 section 3.1).
    const RRSIG_FIXED: usize = 18;
    let moved = |rtype, data: &[u8]| {
        let moved = for_descendant(one(rtype, data).as_ref(), 10, 15)?;
        Some(moved.as_ref().body()[12..].to_vec())
    };
    let soa = |at: u8| [&[1, b'm', 0xc0, at, 0xc0, at][..], &[0; 20]].concat();
    assert_eq!(moved(rrtype::SOA, &soa(12)), Some(soa(17)));
    let signature = [&[0; RRSIG_FIXED][..], b"\x01z\0\xc0\x0c"].concat();
    assert_eq!(moved(rrtype::RRSIG, &signature), Some(signature), "octets");
    let signature = [&[0; RRSIG_FIXED][..], &[0xc0, 12, 0xc0, 12]].concat();
    assert_eq!(moved(rrtype::RRSIG, &signature), None, "compressed");
    assert_eq!(moved(1, &[192, 0, 2, 1]), None, "no part of a denial");
    assert_eq!(moved(rrtype::SOA, &[0, 0]), None, "too short");
    assert_eq!(moved(rrtype::SOA, &soa(99)), None, "points forward");
    assert_eq!(moved(rrtype::NSEC, &[0x40, 0]), None);
}

#[test]
fn pointers_that_would_not_reach_are_refused() {
    // A record that fills the message up, and one that points to its data.
    let far = 0x3ff0_usize;
    let start = header::LEN + 10;
    let fill = far - start - 11;
    let mut body = vec![0, 0, 46, 0, 1, 0, 0, 0, 9];
    body.extend_from_slice(&(fill as u16).to_be_bytes());
    body.resize(far - start, 0);
    body.extend_from_slice(&[0xff, 0xf0 - 1, 0, 46, 0, 1, 0, 0, 0, 9, 0, 20]);
    body.extend_from_slice(&[0; 20]);
    let answer = Answer::new(&AnswerFields {
        rcode: 3,
        counts: [0, 2, 0],
        body: &body,
        ..AnswerFields::default()
    });
    assert!(for_descendant(answer.as_ref(), 10, 10 + 16).is_some());
    assert!(for_descendant(answer.as_ref(), 10, 10 + 17).is_none());
    assert!(
        for_descendant(answer.as_ref(), 10, 9).is_none(),
        "not upwards"
    );
}
