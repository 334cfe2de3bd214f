#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod believed;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
    serialize::binary::{BinDecodable, BinEncodable},
};
use proptest::{prelude::*, sample::select};

use super::*;
use crate::dns::{
    AnswerRef, QUESTION_FIXED,
    testing::{self, address, alias, name, raw, soa},
};

const LIMITS: TtlLimits = TtlLimits {
    min: 0,
    max: 86_400,
    max_negative: 3_600,
};

fn ns(owner: &str, host: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::NS(rdata::NS(name(host))))
}

/// A signature of records of a type.
fn signature(owner: &str, covers: u8) -> Record {
    testing::signature(owner, covers, b"\x02ok\0")
}

fn response(qname: &str, qtype: u16, sections: [&[Record]; 3]) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(name(qname), RecordType::from(qtype)));
    let [answers, authorities, additionals] = sections;
    message.add_answers(answers.to_vec());
    message.add_authorities(authorities.to_vec());
    message.add_additionals(additionals.to_vec());
    message
}

fn question(msg: &[u8]) -> &[u8] {
    let end = crate::dns::name::end_of_question_name(msg, header::LEN).unwrap();
    &msg[header::LEN..end + QUESTION_FIXED]
}

fn take(msg: &[u8], flags: u8, limits: &TtlLimits) -> Result<Answer, BadResponse> {
    Answer::from_response(msg, question(msg), flags, limits)
}

fn taken(message: &Message, flags: u8) -> Answer {
    take(&message.to_vec().unwrap(), flags, &LIMITS).unwrap()
}

/// The answer as the oracle reads the reply to `msg`'s question.
fn read(answer: AnswerRef<'_>, msg: &[u8]) -> Message {
    let head = [0, 1, 0x81, 0x80 | answer.rcode(), 0, 1];
    let reply = [&head[..], &answer.counts(), question(msg), answer.body()].concat();
    Message::from_bytes(&reply).unwrap()
}

fn sections(message: &Message) -> [Vec<Record>; 3] {
    [
        message.answers.clone(),
        message.authorities.clone(),
        message.additionals.clone(),
    ]
}

/// The records that are kept of a response.
fn left(message: &Message, flags: u8) -> [Vec<Record>; 3] {
    let msg = message.to_vec().unwrap();
    sections(&read(taken(message, flags).as_ref(), &msg))
}

const A: u16 = 1;
const MX: u16 = 15;
const AAAA: u16 = 28;

#[test]
fn dangling_aliases_are_not_cached() {
    let dname = || {
        Record::from_rdata(
            name("ok."),
            900,
            RData::Unknown {
                code: RecordType::from(rrtype::DNAME),
                rdata: rdata::NULL::with(b"\x03new\0".to_vec()),
            },
        )
    };
    for qtype in [A, AAAA, MX, rrtype::TXT, rrtype::HTTPS, rrtype::SVCB] {
        for steps in 1..=8 {
            let names: Vec<String> = (0..=steps).map(|i| format!("a{i}.ok.")).collect();
            let mut aliases: Vec<Record> = names.windows(2).map(|n| alias(&n[0], &n[1])).collect();
            for order in ["forwards", "backwards"] {
                let message = response("a0.ok.", qtype, [&aliases, &[], &[]]);
                let answer = taken(&message, 0);
                assert_eq!(answer.as_ref().ttl(), 0, "{qtype} {steps} {order}");
                assert_eq!(left(&message, 0)[0], aliases);
                let denial = [soa("ok.")];
                let message = response("a0.ok.", qtype, [&aliases, &denial, &[]]);
                assert_eq!(taken(&message, 0).as_ref().ttl(), 60);
                if qtype == A {
                    // Data of another name of the chain do not belong to the question.
                    for (owner, ttl) in [(&names[steps], 300), (&names[0], 0)] {
                        let records = [aliases.clone(), vec![address(owner, 1)]].concat();
                        let message = response("a0.ok.", qtype, [&records, &[], &[]]);
                        assert_eq!(taken(&message, 0).as_ref().ttl(), ttl, "{owner}");
                    }
                }
                aliases.reverse();
            }
        }
        let records = [dname(), alias("a.ok.", "a.new.")];
        let message = response("a.ok.", qtype, [&records, &[], &[]]);
        assert_eq!(taken(&message, 0).as_ref().ttl(), 0);
        assert_eq!(left(&message, 0)[0].len(), 2);
    }
    // An alias is the type of the question.
    let records = [alias("a.ok.", "b.ok."), alias("b.ok.", "c.ok.")];
    let message = response("a.ok.", rrtype::CNAME, [&records, &[], &[]]);
    assert_eq!(taken(&message, 0).as_ref().ttl(), 900);
    assert_eq!(left(&message, 0)[0], records[..1]);
    let message = response("a.ok.", rrtype::RRSIG, [&[signature("a.ok.", 5)], &[], &[]]);
    assert_eq!(taken(&message, 0).as_ref().ttl(), 300);
}

#[test]
fn a_denial_without_a_soa_is_not_cached() {
    for (authority, ttl) in [
        (soa("ok."), 60),
        (soa("b.ok."), 60),
        (soa("."), 60),
        (soa("a.ok."), 0),
        (soa("other."), 0),
        (ns("ok.", "ns.ok."), 0),
    ] {
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            let mut message = response(
                "a.ok.",
                A,
                [
                    &[alias("a.ok.", "b.ok.")],
                    std::slice::from_ref(&authority),
                    &[],
                ],
            );
            message.metadata.response_code = code;
            assert_eq!(taken(&message, 0).as_ref().ttl(), ttl, "{authority} {code}");
        }
    }
}

#[test]
fn alias_loops_are_malformed() {
    let aliases = |count: usize, last: usize| -> Vec<Record> {
        let target = |i| if i + 1 == count { last } else { i + 1 };
        (0..count)
            .map(|i| alias(&format!("a{i}.ok."), &format!("A{}.ok.", target(i))))
            .collect()
    };
    let take = |aliases: &[Record]| {
        let message = response("a0.ok.", A, [aliases, &[], &[]]);
        take(&message.to_vec().unwrap(), 0, &LIMITS).map(|answer| answer.as_ref().ttl())
    };
    assert_eq!(take(&aliases(1, 0)), Err(BadResponse::InvalidAnswer));
    assert_eq!(take(&aliases(3, 0)), Err(BadResponse::InvalidAnswer));
    assert_eq!(take(&aliases(3, 2)), Err(BadResponse::InvalidAnswer));
    assert_eq!(take(&aliases(16, 99)), Ok(0));
    assert_eq!(
        take(&aliases(17, 99)),
        Err(BadResponse::InvalidAnswer),
        "too many"
    );
    let elsewhere = [
        alias("b.ok.", "c.ok."),
        alias("c.ok.", "b.ok."),
        address("a0.ok.", 1),
    ];
    assert_eq!(
        take(&elsewhere),
        Ok(300),
        "a loop that the chain does not reach"
    );
}

#[test]
fn unrelated_records_are_left_out() {
    let answers = [
        address("bank.", 66),
        alias("www.ok.", "host.ok."),
        raw("www.ok.", MX, 300, b"\0\x0a\x04evil\0"),
        alias("www.ok.", "evil."),
        address("www.ok.", 66),
        address("Host.ok.", 1),
        signature("host.ok.", 1),
        signature("host.ok.", 28),
        address("evil.", 66),
    ];
    let authorities = [
        ns("bank.", "ns.evil."),
        ns("ok.", "ns.other."),
        address("ok.", 66),
        signature("ok.", 2),
        signature("ok.", 6),
    ];
    let additionals = [
        address("ns.evil.", 66),
        address("ns.other.", 2),
        raw("ns.other.", rrtype::TXT, 300, b"\x04evil"),
        address("bank.", 66),
        signature("ns.other.", 1),
        raw(
            "key.",
            250,
            0,
            b"\x04hmac\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
    ];
    let message = response("WWW.ok.", A, [&answers, &authorities, &additionals]);
    let pick = |records: &[Record], places: &[usize]| -> Vec<Record> {
        places.iter().map(|place| records[*place].clone()).collect()
    };
    assert_eq!(
        left(&message, KEY_FLAG_DO),
        [
            pick(&answers, &[1, 5, 6]),
            pick(&authorities, &[1, 3]),
            pick(&additionals, &[1, 4])
        ]
    );
    assert_eq!(
        left(&message, 0),
        [
            pick(&answers, &[1, 5]),
            pick(&authorities, &[1]),
            pick(&additionals, &[1])
        ]
    );
    let mut other_class = address("www.ok.", 1);
    other_class.dns_class = hickory_proto::rr::DNSClass::CH;
    let message = response(
        "www.ok.",
        A,
        [&[other_class, address("www.ok.", 2)], &[], &[]],
    );
    assert_eq!(left(&message, 0)[0], [address("www.ok.", 2)]);
}

/// Octets that follow each other in the response are copied, whatever is cut off behind them.
#[test]
fn an_ordinary_response_is_copied() {
    let answers = [
        alias("www.ok.", "host.ok."),
        address("host.ok.", 1),
        address("host.ok.", 2),
    ];
    let message = response(
        "www.ok.",
        A,
        [&answers, &[ns("ok.", "ns.ok.")], &[address("ns.ok.", 3)]],
    );
    let msg = message.to_vec().unwrap();
    let body = &msg[header::LEN + question(&msg).len()..];
    for tail in [
        &b""[..],
        b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
        b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\0",
        b"\0\0\x29\x04\xd0\0\0\0\0\0\0\x03key\0\0\xfa\0\xff\0\0\0\0\0\0",
    ] {
        let mut msg = [&msg, tail].concat();
        msg[11] += u8::from(!tail.is_empty()) + u8::from(tail.len() > 20);
        assert_eq!(take(&msg, 0, &LIMITS).unwrap().as_ref().body(), body);
    }
    // An OPT record in the middle: what follows stays.
    let mut msg = msg.clone();
    let opt_at = msg.len() - 16;
    msg.splice(opt_at..opt_at, *b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    msg[11] += 1;
    let answer = take(&msg, 0, &LIMITS).unwrap();
    assert_eq!(sections(&read(answer.as_ref(), &msg)), sections(&message));
}

/// Data of each type that has a form, and whether more octets may follow.
#[rustfmt::skip] // a line a type
const DATA: &[(u16, &[u8], bool)] = &[
    (1, &[192, 0, 2, 1], false),
    (2, b"\x02ns\0", false),
    (5, b"\x02ns\x02ok\0", false),
    (6, b"\x02ns\0\x01m\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05", false),
    (12, b"\x01p\0", false),
    (13, b"\x03cpu\0", false),
    (15, b"\0\x0a\x02mx\0", false),
    (16, b"\x01a\0\x02bc", false),
    (17, b"\x01m\0\x01t\0", false),
    (28, &[7; 16], false),
    (24, b"\0\x01\x08\x02\0\0\0\x3c\0\0\0\0\0\0\0\0\0\0\x01z\0s", true),
    (25, b"\x01\0\x03\x08", true),
    (27, b"\x011\x012\x013", false),
    (29, &[0; 16], false),
    (30, b"\x01n\0", true),
    (33, b"\0\0\0\0\0\x35\x01s\0", false),
    (35, b"\0\0\0\0\x01u\x01s\0\x01r\0", false),
    (36, b"\0\x01\x01k\0", false),
    (37, b"\0\x01\0\0\x08c", true),
    (39, b"\x01d\0", false),
    (43, b"\0\x01\x08\x02d", true),
    (44, b"\x01\x01f", true),
    (46, b"\0\x01\x08\x02\0\0\0\x3c\0\0\0\0\0\0\0\0\0\0\x01z\0s", true),
    (47, b"\x01n\0\0\x01\x40\x01\x01\x40", false),
    (48, b"\x01\0\x03\x08k", true),
    (50, b"\x01\0\0\0\x02ss\x01h\0\x01\x40", false),
    (51, b"\x01\0\0\0\x01s", false),
    (52, b"\x03\x01\x01d", true),
    (59, b"\0\0\0\0\0", true),
    (61, b"k", true),
    (62, b"\0\0\0\x01\0\x03\0\x01\x40", false),
    (64, b"\0\x01\x01t\0\0\x01\0\x03\x02h2\0\x03\0\x02\0\x35", false),
    (65, b"\0\0\x01t\0", false),
    (66, b"\0\x3b\x01\0\x35\x01d\0", false),
    (99, b"\x01a", false),
    (104, &[1; 10], false),
    (105, &[1; 6], false),
    (106, &[1; 10], false),
    (107, b"\0\x01\x01l\0", false),
    (108, &[1; 6], false),
    (109, &[1; 8], false),
    (256, b"\0\x01\0\x01u", true),
    (257, b"\0\x05issueca", true),
    (258, b"\x01a", false),
    (261, b"\x01a", false),
    (262, b"\x01a", false),
    (32_768, b"\0\x01\x08\x02d", true),
    (32_769, b"\0\x01\x08\x02d", true),
];

/// The answer in a response with one record of this type and data.
fn take_data(rtype: u16, data: &[u8]) -> Result<Answer, BadResponse> {
    let mut msg = vec![0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'a', 0];
    msg.extend_from_slice(&[&rtype.to_be_bytes()[..], &[0, 1, 0xc0, 12]].concat());
    msg.extend_from_slice(&[&rtype.to_be_bytes()[..], &[0, 1, 0, 0, 0, 9]].concat());
    msg.extend_from_slice(&(data.len() as u16).to_be_bytes());
    msg.extend_from_slice(data);
    take(&msg, KEY_FLAG_DO, &LIMITS)
}

#[test]
fn data_have_the_form_of_their_type() {
    for (rtype, data, open) in DATA {
        let body = take_data(*rtype, data).map(|answer| answer.as_ref().body().to_vec());
        assert_eq!(&body.unwrap()[12..], *data, "{rtype}");
        let longer = take_data(*rtype, &[data, &b"x"[..]].concat());
        assert_eq!(longer.is_ok(), *open, "{rtype}: an octet behind");
        assert!(take_data(*rtype, &[]).is_err(), "{rtype}: none");
        for len in 1..data.len() {
            // Forms that end in a list are whole with a part of it.
            let list = matches!(
                (*rtype, len),
                (16, 2 | 3) | (47, 3 | 6) | (50, 9) | (62, 6) | (64, 5 | 12)
            );
            let alias = *rtype == 257 && len >= 7;
            let alias = alias || (*rtype == 25 && len >= 4);
            assert_eq!(
                take_data(*rtype, &data[..len]).is_ok(),
                list || alias,
                "{rtype}: {len} octets"
            );
        }
    }
    for (rtype, data) in [
        (16, &b""[..]),
        (47, b"\x01n\0\0\0"),
        (47, b"\x01n\0\0\x21"),
        (47, b"\x01n\0\x01\x01\x40\0\x01\x40"),
        (64, b"\0\x01\xc0\x0c"),
        (65, b"\0\x01\0\0\x03\0\0\0\x01\0\0"),
        (65, b"\0\x01\0\0\x03\0\0\0\x03\0\0"),
        (257, b"\0\0"),
        (5, b"\xc0\x0c\0"),
        (5, b"\x40"),
    ] {
        assert_eq!(
            take_data(rtype, data),
            Err(BadResponse::InvalidAnswer),
            "{rtype} {data:?}"
        );
    }
    // Types that are not known have no form (RFC 3597).
    for len in 0..40 {
        assert!(take_data(65_280, &vec![0xc0; len]).is_ok());
    }
}

#[test]
fn left_out_records_are_checked_too() {
    let message = response(
        "a.ok.",
        A,
        [
            &[address("a.ok.", 1), raw("b.ok.", AAAA, 60, &[1, 2, 3])],
            &[],
            &[],
        ],
    );
    assert_eq!(
        take(&message.to_vec().unwrap(), 0, &LIMITS),
        Err(BadResponse::InvalidAnswer)
    );
}

/// A response to `a.` with records of an unknown type and these owners and data.
fn with_owners(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut msg = vec![
        0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0xff, 0, 0, 1,
    ];
    msg[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (owner, data) in records {
        msg.extend_from_slice(owner);
        msg.extend_from_slice(&[0xff, 0, 0, 1, 0, 0, 0, 9]);
        msg.extend_from_slice(&(data.len() as u16).to_be_bytes());
        msg.extend_from_slice(data);
    }
    msg
}

#[test]
fn pointers_in_a_name_are_limited() {
    for pointers in [1usize, 2, 15, 16, 17, 200] {
        // Each points to the one before; the owner to the last of them.
        let first = 19 + 12;
        let mut row = vec![0xc0, 12];
        for i in 1..pointers.saturating_sub(1) {
            row.extend_from_slice(&(0xc000 | (first + 2 * (i - 1)) as u16).to_be_bytes());
        }
        let last = (0xc000 | (first + row.len() - 2) as u16)
            .to_be_bytes()
            .to_vec();
        let owner = if pointers == 1 { vec![0xc0, 12] } else { last };
        let msg = with_owners(&[(vec![0xc0, 12], row), (owner, vec![])]);
        let is_ok = take(&msg, 0, &LIMITS).is_ok();
        assert_eq!(is_ok, pointers <= 16, "{pointers}");
    }
}

#[test]
fn pointers_are_limited_across_records() {
    // Each owner points to the one before.
    for (records, good) in [
        (15, true),
        (16, true),
        (17, false),
        (18, false),
        (300, false),
    ] {
        let owner = |i: usize| match i.checked_sub(1) {
            Some(before) => 19 + 12 * before,
            None => 12,
        };
        let owners = (0..records).map(|i| (0xc000 | owner(i) as u16).to_be_bytes().to_vec());
        let records: Vec<_> = owners.map(|owner| (owner, vec![])).collect();
        let is_ok = take(&with_owners(&records), 0, &LIMITS).is_ok();
        assert_eq!(is_ok, good, "{}", records.len());
    }
}

#[test]
fn names_do_not_reach_from_the_question_into_the_answer() {
    // A label of one octet: from the last octet of the class to the length of the first owner's label.
    let msg = with_owners(&[(vec![1, 0, 0], vec![]), (vec![0xc0, 18], vec![])]);
    assert_eq!(take(&msg, 0, &LIMITS), Err(BadResponse::InvalidAnswer));
}

#[test]
fn names_do_not_overlap_ttls() {
    // Where the second owner leads: to the question, its type and class, to the first record's type, class, TTL
    // and data.
    for (at, good) in [
        (12, true),
        (14, true),
        (16, false),
        (17, false),
        (22, true),
        (23, true),
        (24, false),
        (25, false),
        (28, false),
        (31, true),
        (32, false),
        (33, true),
    ] {
        let owner = (0xc000u16 | at).to_be_bytes().to_vec();
        let msg = with_owners(&[(vec![0xc0, 12], vec![1, b'x', 0]), (owner, vec![0])]);
        assert_eq!(take(&msg, 0, &LIMITS).is_ok(), good, "{at}");
    }
    // A label before the pointer that leads to it, in the data of a SRV record, and that goes on behind it: into
    // the next record's TTL.
    let data = vec![0, 0, 0, 0, 0, 20, 0xc0, 36];
    let mut msg = with_owners(&[(vec![0xc0, 12], data), (vec![0xc0, 12], vec![0; 30])]);
    msg[21..23].copy_from_slice(&[0, 33]);
    assert_eq!(take(&msg, 0, &LIMITS), Err(BadResponse::InvalidAnswer));
    msg[38] = 12;
    assert!(take(&msg, 0, &LIMITS).is_ok());
}

#[test]
fn duplicates_are_dropped_and_an_rrset_has_one_ttl() {
    let with_ttl = |mut record: Record, ttl| {
        record.ttl = ttl;
        record
    };
    let answers = [
        with_ttl(address("a.ok.", 1), 300),
        with_ttl(address("A.ok.", 2), 200),
        with_ttl(address("a.ok.", 1), 100),
        with_ttl(address("a.ok.", 3), 0x8000_0000),
    ];
    let message = response("a.ok.", A, [&answers[..3], &[], &[]]);
    let ttls = |answers: &[Record]| -> Vec<(String, u32)> {
        answers
            .iter()
            .map(|record| (record.data.to_string(), record.ttl))
            .collect()
    };
    let [kept, ..] = left(&message, 0);
    assert_eq!(
        ttls(&kept),
        [("192.0.2.1".into(), 100), ("192.0.2.2".into(), 100)]
    );
    assert_eq!(taken(&message, 0).as_ref().ttl(), 100);
    let message = response("a.ok.", A, [&answers, &[], &[]]);
    assert_eq!(taken(&message, 0).as_ref().ttl(), 0);
    // The same host: in part a pointer, a pointer alone, in full and in capitals. And another.
    let mut msg = b"\0\x07\x81\x80\0\x01\0\x04\0\0\0\0\x02ok\0\0\x02\0\x01".to_vec();
    for data in [
        &b"\x02ns\xc0\x0c"[..],
        b"\xc0\x20",
        b"\x02NS\x02OK\0",
        b"\x02nt\xc0\x0c",
    ] {
        msg.extend_from_slice(b"\xc0\x0c\0\x02\0\x01\0\0\0\x09\0");
        msg.push(data.len() as u8);
        msg.extend_from_slice(data);
    }
    let read = read(take(&msg, 0, &LIMITS).unwrap().as_ref(), &msg);
    assert_eq!(
        read.answers,
        [ns("ok.", "ns.ok."), ns("ok.", "nt.ok.")].map(|ns| with_ttl(ns, 9))
    );
}

#[test]
fn ttls_are_as_long_as_the_answer_is_cached() {
    let limits = TtlLimits {
        min: 120,
        max: 600,
        max_negative: 300,
    };
    let with_ttl = |ttl| {
        let mut record = address("a.ok.", 1);
        record.ttl = ttl;
        let msg = response("a.ok.", A, [&[record], &[], &[]])
            .to_vec()
            .unwrap();
        let answer = take(&msg, 0, &limits).unwrap();
        (answer.as_ref().first_ttl().unwrap(), answer.as_ref().ttl())
    };
    assert_eq!(with_ttl(0), (0, 0));
    assert_eq!(with_ttl(1), (120, 120));
    assert_eq!(with_ttl(119), (120, 120));
    assert_eq!(with_ttl(121), (121, 121));
    assert_eq!(with_ttl(601), (600, 600));
    let denial = response("a.ok.", A, [&[], &[soa("ok.")], &[]])
        .to_vec()
        .unwrap();
    let answer = take(&denial, 0, &limits).unwrap();
    assert_eq!(
        (answer.as_ref().first_ttl(), answer.as_ref().ttl()),
        (Some(120), 120)
    );
}

/// A response code that is neither an answer nor a failure of the upstream's.
#[test]
fn other_codes_are_passed_on() {
    let dname = raw("ok.", rrtype::DNAME, 300, b"\x03new\0");
    let answers = [dname, alias("a.ok.", "a.new."), address("bank.", 66)];
    let message = response(
        "a.ok.",
        A,
        [&answers, &[soa("new.")], &[address("ns.ok.", 1)]],
    );
    let mut msg = message.to_vec().unwrap();
    for code in 0..16u8 {
        msg[3] = 0x80 | code;
        let answer = take(&msg, 0, &LIMITS);
        let counts = match code {
            0 | 3 => [0, 2, 0, 1, 0, 0],
            1 | 2 | 4 | 5 => {
                assert_eq!(answer, Err(BadResponse::Rcode(code.into())));
                continue;
            }
            6 => [0, 2, 0, 0, 0, 0],
            _ => [0; 6],
        };
        let answer = answer.unwrap();
        let answer = answer.as_ref();
        assert_eq!((answer.rcode(), answer.counts()), (code, counts));
        assert_eq!(answer.ttl(), if matches!(code, 0 | 3) { 60 } else { 0 });
    }
    // BADVERS, and 22.
    for (code, extended) in [(0, 16), (6, 22)] {
        let mut msg = [&msg[..], b"\0\0\x29\x04\xd0\x01\0\0\0\0\0"].concat();
        msg[3] = 0x80 | code;
        msg[11] += 1;
        assert_eq!(take(&msg, 0, &LIMITS), Err(BadResponse::Rcode(extended)));
    }
}

#[test]
fn an_extended_error_goes_with_any_answer() {
    for code in [0, 3, 6, 9] {
        let message = response("a.ok.", A, [&[], &[soa("ok.")], &[]]);
        let mut msg = message.to_vec().unwrap();
        msg[3] = 0x80 | code;
        msg[11] += 1;
        let option = b"\0\0\x29\x04\xd0\0\0\0\0\0\x0e\0\x0a\0\x02ab\0\x0f\0\x04\0\x03no";
        msg.extend_from_slice(option);
        let answer = take(&msg, 0, &LIMITS).unwrap();
        assert_eq!(answer.as_ref().ede(), Some(3), "{code}");
        assert!(!answer.as_ref().is_stale(), "the upstream's, not ours");
        let stale = answer.as_ref().stale();
        assert!(stale.as_ref().is_stale());
    }
}

/// Names of a zone and of others, in two name cases.
const NAMES: [&str; 8] = [
    "a.b.ok.", "A.B.ok.", "b.ok.", "ok.", "a.ok.", "other.", "a.other.", ".",
];

fn arb_data() -> impl Strategy<Value = RData> {
    let host = || select(&NAMES[..]).prop_map(name);
    let unknown = |code: u16, data: Vec<u8>| RData::Unknown {
        code: RecordType::from(code),
        rdata: rdata::NULL::with(data),
    };
    prop_oneof![
        3 => host().prop_map(|host| RData::CNAME(rdata::CNAME(host))),
        3 => (0..3u8).prop_map(|last| RData::A(rdata::A::new(192, 0, 2, last))),
        1 => host().prop_map(|host| RData::NS(rdata::NS(host))),
        1 => host().prop_map(|host| RData::MX(rdata::MX::new(1, host))),
        1 => host().prop_map(|host| RData::SRV(rdata::SRV::new(1, 2, 3, host))),
        1 => host().prop_map(|host| RData::HTTPS(rdata::HTTPS(rdata::SVCB::new(1, host, vec![])))),
        1 => (host(), 0..100u32).prop_map(|(host, minimum)| {
            RData::SOA(rdata::SOA::new(host.clone(), host, 1, 2, 3, 4, minimum))
        }),
        1 => Just(RData::TXT(rdata::TXT::new(vec!["text".into()]))),
        2 => Just(unknown(rrtype::DNAME, b"\x05other\0".to_vec())),
        1 => Just(unknown(rrtype::NSEC3, b"\x01\0\0\x01\0\x01x\0\x01\x40".to_vec())),
        1 => Just(unknown(rrtype::DS, vec![0, 1, 8, 2, 9])),
        1 => Just(unknown(rrtype::NSEC, b"\x01n\0\0\x01\x40".to_vec())),
        1 => Just(unknown(250, vec![7; 9])),
        1 => select(&[1u8, 2, 5, 6, 15, 39, 46, 47, 47, 50][..]).prop_map(move |covers| {
            let data = [&[0, covers][..], &[0; 16], b"\x02ok\0sig"].concat();
            unknown(rrtype::RRSIG, data)
        }),
    ]
}

/// Whether two records are the same, except for their TTLs.
fn same(a: &Record, b: &Record) -> bool {
    a.name == b.name && a.record_type() == b.record_type() && a.data == b.data
}

fn distinct(records: Vec<Record>) -> Vec<Record> {
    let mut distinct: Vec<Record> = Vec::new();
    for record in records {
        if !distinct.iter().any(|other| same(other, &record)) {
            distinct.push(record);
        }
    }
    distinct
}

fn arb_records() -> impl Strategy<Value = Vec<Record>> {
    let record = (
        select(&NAMES[..]),
        arb_data(),
        select(&[0u32, 5, 300, 400, 1 << 31][..]),
    )
        .prop_map(|(owner, data, ttl)| Record::from_rdata(name(owner), ttl, data));
    prop::collection::vec(record, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Of any records in any section those are kept that the oracle keeps, in their order.
    #[test]
    fn kept_records_belong_to_the_question(
        answers in arb_records(), authorities in arb_records(), additionals in arb_records(),
        qtype in select(&[A, rrtype::CNAME, rrtype::NS, MX, rrtype::HTTPS, rrtype::DNAME, rrtype::RRSIG, rrtype::NSEC][..]),
        qname in select(&NAMES[..]),
        code in select(&[0u8, 0, 3, 6, 9][..]),
        flags in 0..2u8,
    ) {
        let mut message = response(qname, qtype, [&answers, &authorities, &additionals]);
        message.metadata.response_code = ResponseCode::from(0, code);
        let msg = message.to_vec().unwrap();
        let expected = oracle::belonging(&message, qtype, flags & KEY_FLAG_DO != 0);
        let answer = match (take(&msg, flags, &LIMITS), expected.is_some()) {
            (Err(error), false) => {
                prop_assert_eq!(error, BadResponse::InvalidAnswer);
                return Ok(());
            }
            (answer, is_whole) => {
                prop_assert!(is_whole, "a loop");
                answer.unwrap()
            }
        };
        let expected = expected.unwrap_or_default().map(distinct);
        let read = sections(&read(answer.as_ref(), &msg));
        let answered = expected[0].iter().any(|record| u16::from(record.record_type()) == qtype);
        let minimum = expected[1].iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.minimum),
            _ => None,
        });
        let denied = code == 3 || !answered;
        let mut least = u32::MAX;
        for (section, ((read, expected), all)) in read.iter().zip(&expected).zip(sections(&message)).enumerate() {
            prop_assert_eq!(read.len(), expected.len());
            for (read, expected_record) in read.iter().zip(expected) {
                prop_assert!(same(read, expected_record));
                let in_rrset = |record: &&Record| {
                    let octets = |record: &Record| record.data.to_bytes().unwrap();
                    record.name == read.name && record.record_type() == read.record_type()
                        && (record.record_type() != RecordType::RRSIG || octets(record) == octets(read))
                };
                // Of several aliases of a name only one is kept.
                let is_alias = read.record_type() == RecordType::CNAME;
                let candidates = if is_alias { expected } else { &all };
                let ttl = candidates.iter().filter(in_rrset).map(|record| record.ttl & i32::MAX as u32).min().unwrap();
                let cap = if denied && section > 0 { minimum.unwrap_or(3600) } else { 86_400 };
                prop_assert_eq!(read.ttl, ttl.min(cap));
                least = least.min(read.ttl);
            }
        }
        let kept = (code == 0 || code == 3) && least < u32::MAX && (!denied || minimum.is_some());
        prop_assert_eq!(answer.as_ref().ttl(), if kept { least } else { 0 });
    }
}
