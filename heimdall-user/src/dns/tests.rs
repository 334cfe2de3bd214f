//! The wire format against an independent implementation, hickory-proto.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as OracleQuery, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata, rdata::opt::EdnsCode},
    serialize::binary::BinDecodable,
};
use proptest::prelude::*;

use super::{
    edns::{Cookie, ServerCookie},
    reply::{Content, Reply, ReplySettings},
    *,
};
use crate::checksum;

fn server() -> ReplySettings {
    ReplySettings::new(1232, true)
}

fn arb_name() -> impl Strategy<Value = Name> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..6)
        .prop_map(|labels| Name::from_labels(labels).unwrap())
}

/// An EDNS option: of any code, NSID, or a cookie of a length that cookies have.
fn arb_option() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let octets = |len| prop::collection::vec(any::<u8>(), len);
    let cookie = prop_oneof![octets(8..=8), octets(16..=40)];
    prop_oneof![
        (11..200u16, octets(0..=20)),
        Just((3, vec![])),
        cookie.prop_map(|data| (10, data)),
    ]
}

prop_compose! {
    fn arb_query()(
        name in arb_name(),
        rtype in prop_oneof![Just(1u16), Just(28), Just(16), Just(255), 256..60_000u16],
        class in prop_oneof![Just(1u16), Just(3)],
        id: u16, rd: bool, cd: bool, ad: bool,
        edns in prop::option::of((any::<u16>(), any::<bool>(), 0..2u8, prop::collection::vec(arb_option(), 0..4))),
    ) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = rd;
        message.metadata.checking_disabled = cd;
        message.metadata.authentic_data = ad;
        let mut query = OracleQuery::query(name, RecordType::from(rtype));
        query.set_query_class(DNSClass::from(class));
        message.add_query(query);
        let mut bytes = message.to_vec().unwrap();
        if let Some((size, dnssec_ok, version, options)) = edns {
            bytes[11] = 1;
            bytes.extend_from_slice(&[0, 0, 41]);
            bytes.extend_from_slice(&size.to_be_bytes());
            bytes.extend_from_slice(&[0, version, if dnssec_ok { 0x80 } else { 0 }, 0]);
            let rdata: Vec<u8> = options.iter().flat_map(|(code, data)| {
                [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
            }).collect();
            bytes.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&rdata);
        }
        bytes
    }
}

prop_compose! {
    /// A response to a question for TXT records of `name`, of records that the oracle encodes with compression.
    fn arb_response(name: Name)(
        count in 0..30usize, ttls in prop::collection::vec(any::<u32>(), 5), opt: bool, soa: bool, nx: bool, ad: bool,
    ) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let code = if nx { ResponseCode::NXDomain } else { ResponseCode::NoError };
        message.metadata.response_code = code;
        message.metadata.recursion_available = true;
        message.metadata.authentic_data = ad;
        message.add_query(OracleQuery::query(name.clone(), RecordType::TXT));
        for i in 0..if nx { 0 } else { count } {
            let text = rdata::TXT::new(vec!["x".repeat(i * 8)]);
            message.add_answer(Record::from_rdata(name.clone(), ttls[0], RData::TXT(text)));
        }
        if soa {
            let soa = rdata::SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, ttls[1] >> 8);
            message.add_authority(Record::from_rdata(name.clone(), ttls[2], RData::SOA(soa)));
        }
        message.add_authority(Record::from_rdata(name.clone(), ttls[3], RData::NS(rdata::NS(name.clone()))));
        message.add_additional(Record::from_rdata(name.clone(), ttls[4], RData::A(rdata::A::new(192, 0, 2, 1))));
        if opt {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(1232);
            message.set_edns(edns);
        }
        message
    }
}

fn view_query(bytes: &[u8]) -> Query {
    Query::new(
        &DnsPacketView::parse(bytes).unwrap(),
        &NameHasher::default(),
    )
}

/// The labels of a name in wire form.
fn labels(mut name: &[u8]) -> Vec<&[u8]> {
    let mut labels = vec![];
    while let [len @ 1..=63, rest @ ..] = name {
        let (label, rest) = rest.split_at(usize::from(*len));
        labels.push(label);
        name = rest;
    }
    labels
}

/// The oracle rejects, and we accept:
fn why_we_accept(view: &DnsPacketView<'_>, msg: &[u8]) -> bool {
    let count = |at| u16_at(msg, at).unwrap();
    // records beside the OPT record, whose data do not matter in a query;
    let records = count(6) + count(8) > 0 || count(10) > u16::from(view.edns().is_some());
    // options, which we do not look into unless they are our own (RFC 6891 section 6.1.2).
    records || view.edns().is_some()
}

/// The oracle accepts, and we reject:
fn why_we_reject(malformed: Malformed, bytes: &[u8]) -> bool {
    match malformed {
        // what is a response,
        Malformed::Response => bytes[2] & 0x80 != 0,
        // or of another opcode;
        Malformed::Opcode => bytes[2] & 0x78 != 0,
        // any number of questions but one (RFC 9619), or a compressed name in the question;
        Malformed::Question => {
            bytes[4..6] != [0, 1] || bytes[12..].iter().any(|octet| octet & 0xc0 == 0xc0)
        }
        // a second OPT record, one in another section, one with an owner (RFC 6891 section 6.1.1),
        // or a cookie of a length that no cookie has (RFC 7873 section 5.2.2).
        Malformed::Records(_) => bytes[6..12].iter().any(|count| *count != 0),
        Malformed::Runt => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn reads_what_the_oracle_reads(bytes in arb_query()) {
        let view = DnsPacketView::parse(&bytes).unwrap();
        let has_no_options = bytes[11] == 0 || (bytes.ends_with(&[0, 0]) && view.edns().is_some_and(|edns| edns.version() == 0));
        match DnsPacketView::parse_plain(&bytes) {
            Some(plain) => prop_assert_eq!(plain, view),
            None => prop_assert!(!has_no_options || bytes.len() > 12 + view.question().len() + 11),
        }
        let oracle = Message::from_bytes(&bytes).unwrap();
        let question = &oracle.queries[0];
        prop_assert_eq!(view.qtype(), u16::from(question.query_type()));
        prop_assert_eq!(view.qclass(), u16::from(question.query_class()));
        let mut labels = vec![];
        let mut rest = view.qname();
        while let Some((len, tail)) = rest.split_first() {
            let (label, tail) = tail.split_at(usize::from(*len));
            if !label.is_empty() { labels.push(label.to_vec()); }
            rest = tail;
        }
        let expected: Vec<Vec<u8>> = question.name().iter().map(<[u8]>::to_vec).collect();
        prop_assert_eq!(labels, expected);
        match (view.edns(), &oracle.edns) {
            (None, None) => {}
            (Some(ours), Some(theirs)) => {
                prop_assert_eq!(ours.udp_size(), theirs.max_payload().max(512));
                prop_assert_eq!(ours.version(), theirs.version());
                prop_assert_eq!(ours.dnssec_ok(), theirs.flags().dnssec_ok);
                let known = ours.version() == 0;
                prop_assert_eq!(ours.nsid(), known && theirs.option(EdnsCode::NSID).is_some());
                let cookie = theirs.option(EdnsCode::Cookie).filter(|_| known);
                let cookie = cookie.map(|cookie| Vec::<u8>::try_from(cookie).unwrap());
                prop_assert_eq!(ours.cookie(&bytes).map(|cookie| cookie.client.to_vec()), cookie.map(|data| data[..8].to_vec()));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// Arbitrary and damaged messages: nothing panics, and what is accepted is within bounds.
    #[test]
    fn damage_is_refused_or_read_within_bounds(mut bytes in arb_query(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>()) {
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let parsed = DnsPacketView::parse(&bytes);
        prop_assert!(DnsPacketView::parse_plain(&bytes).is_none_or(|plain| parsed == Ok(plain)));
        if let Ok(view) = parsed {
            prop_assert!(view.question().len() <= MAX_QUESTION);
            prop_assert_eq!(view.qname().len() + QUESTION_FIXED, view.question().len());
        }
        let _ = Answer::from_response(&bytes, b"\0\0\x01\0\x01", 0, &TtlLimits::default());
    }

    /// What we accept, the oracle reads as the same question and EDNS, and what it rejects, we
    /// reject; except for the exceptions that [`why_we_accept`] and [`why_we_reject`] list.
    #[test]
    fn agrees_with_the_oracle_on_what_is_a_query(
        mut bytes in arb_query(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        match (DnsPacketView::parse(&bytes), Message::from_bytes(&bytes)) {
            (Ok(view), Ok(oracle)) if !view.question().is_empty() => {
                prop_assert_eq!(oracle.queries.len(), 1);
                prop_assert_eq!(view.qtype(), u16::from(oracle.queries[0].query_type()));
                prop_assert_eq!(view.qclass(), u16::from(oracle.queries[0].query_class()));
                let labels: Vec<&[u8]> = oracle.queries[0].name().iter().collect();
                prop_assert_eq!(self::labels(view.qname()), labels);
                let edns = oracle.edns.map(|edns| (edns.max_payload().max(512), edns.version(), edns.flags().dnssec_ok));
                prop_assert_eq!(view.edns().map(|edns| (edns.udp_size(), edns.version(), edns.dnssec_ok())), edns);
            }
            (Ok(_), Ok(_)) => {}
            (Ok(view), Err(error)) => prop_assert!(why_we_accept(&view, &bytes), "{error}: {bytes:02x?}"),
            (Err(malformed), Ok(_)) => prop_assert!(why_we_reject(malformed, &bytes), "{malformed:?}: {bytes:02x?}"),
            (Err(_), Err(_)) => {}
        }
    }

    /// An upstream's response, made an answer and sent as a reply, has the same records to the oracle.
    #[test]
    fn replies_hold_the_upstreams_records(
        (name, message) in arb_name().prop_flat_map(|name| (Just(name.clone()), arb_response(name))),
        age in 0..100_000u32, edns: bool, ede: Option<u8>, nsid in prop::option::of(prop::collection::vec(any::<u8>(), 1..20)), cookie: Option<[u8; 24]>, padding: bool, limit in prop_oneof![Just(65_535usize), 512..2000usize],
    ) {
        // Only replies over a stream are padded.
        let padding = padding && limit == 65_535;
        let upstream = message.to_vec().unwrap();
        let mut query = Message::new(77, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(OracleQuery::query(name, RecordType::TXT));
        if edns {
            query.set_edns(hickory_proto::op::Edns::new());
        }
        let mut buf = query.to_vec().unwrap();
        let query = view_query(&buf);
        let limits = TtlLimits { min: 0, max: 86_400, max_negative: 3600 };
        let question = buf[12..usize::from(query.question_end)].to_vec();
        let answer = Answer::from_response(&upstream, &question, 0, &limits).unwrap();
        buf.resize(65_535, 0xee);
        let options = Options { ede: ede.map(u16::from), nsid: nsid.as_deref(), cookie: cookie.as_ref(), padding, ..Options::default() };
        let content = Content {
            answer: answer.as_ref(),
            age,
            question_sum: age.is_multiple_of(2).then(|| checksum::add(0, &question)),
        };
        let options = (!options.is_empty()).then_some(&options);
        let opt = if edns { 11 + options.map_or(0, Options::len) } else { 0 };
        let whole = usize::from(query.question_end) + answer.as_ref().body().len() + opt;
        let Reply { len, sum } = reply::answer(&mut buf, &query, content, limit, &server(), options).unwrap();
        prop_assert!(len <= limit);
        prop_assert_eq!(checksum::finish_udp(sum), checksum::finish_udp(checksum::add(0, &buf[..len])), "put together from parts");
        let reply = Message::from_bytes(&buf[..len]).unwrap();
        prop_assert_eq!(reply.metadata.id, 77);
        prop_assert_eq!(reply.metadata.response_code, message.metadata.response_code);
        prop_assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        prop_assert!(!reply.metadata.authoritative);
        prop_assert!(!reply.metadata.authentic_data, "nobody asked for AD");
        prop_assert_eq!(reply.edns.is_some(), edns);
        if let Some(edns) = &reply.edns {
            let data = |code: u16| edns.option(code.into()).map(|option| Vec::<u8>::try_from(option).unwrap());
            prop_assert_eq!(data(15), ede.map(|code| vec![0, code]));
            prop_assert_eq!(data(3), nsid);
            prop_assert_eq!(data(10), cookie.map(|cookie| cookie.to_vec()));
            prop_assert_eq!(data(12).map(|data| data.iter().all(|octet| *octet == 0)), padding.then_some(true));
            prop_assert!(!padding || len % 468 == 0 || len == 65_535);
        }
        prop_assert_eq!(&reply.queries[0].name().to_lowercase(), &message.queries[0].name().to_lowercase());
        if reply.metadata.truncation {
            prop_assert!(reply.answers.is_empty() && reply.authorities.is_empty());
            return Ok(());
        }
        prop_assert_eq!(whole > limit, reply.additionals.is_empty(), "only if not all fits");
        let negative = message.answers.is_empty();
        let minimum = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) if negative => Some(soa.minimum),
            _ => None,
        });
        let cap = if negative { minimum.unwrap_or(3600).min(3600) } else { 86_400 };
        for (ours, theirs) in [(&reply.answers, &message.answers), (&reply.authorities, &message.authorities), (&reply.additionals, &message.additionals)] {
            if whole <= limit || !ours.is_empty() {
                prop_assert_eq!(ours.len(), theirs.len());
            }
            for (ours, theirs) in ours.iter().zip(theirs) {
                prop_assert_eq!(&ours.name, &theirs.name);
                prop_assert_eq!(&ours.data, &theirs.data);
                let sane = if theirs.ttl > i32::MAX as u32 { 0 } else { theirs.ttl };
                prop_assert_eq!(ours.ttl, sane.min(cap).saturating_sub(age));

            }
        }
    }

    #[test]
    fn an_answer_has_the_least_ttl((name, message) in arb_name().prop_flat_map(|name| (Just(name.clone()), arb_response(name)))) {
        let upstream = message.to_vec().unwrap();
        let question = {
            let mut query = Message::new(1, MessageType::Query, OpCode::Query);
            query.add_query(OracleQuery::query(name, RecordType::TXT));
            query.to_vec().unwrap()[12..].to_vec()
        };
        let limits = TtlLimits { min: 0, max: 86_400, max_negative: 3600 };
        let answer = Answer::from_response(&upstream, &question, 0, &limits).unwrap();
        let sane = |ttl: u32| if ttl > i32::MAX as u32 { 0 } else { ttl };
        let least = message.answers.iter().chain(&message.authorities).chain(&message.additionals).map(|record| sane(record.ttl)).min().unwrap();
        let negative = message.answers.is_empty();
        let expected = match (negative, message.authorities.first().map(|soa| &soa.data)) {
            (true, Some(RData::SOA(soa))) => least.min(soa.minimum).min(3600),
            (true, _) => 0,
            _ => least.min(86_400),
        };
        prop_assert_eq!(answer.as_ref().ttl(), expected);
    }
}

#[test]
fn malformed_queries_are_classified() {
    let good = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        DnsPacketView::parse(&bytes).map(|view| view.edns())
    };
    const OPT: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0];
    assert_eq!(with(&|_| {}), Ok(None));
    assert_eq!(with(&|m| m.truncate(11)), Err(Malformed::Runt));
    assert_eq!(with(&|m| m[2] |= 0x80), Err(Malformed::Response));
    assert_eq!(with(&|m| m[2] |= 0x28), Err(Malformed::Opcode));
    assert_eq!(with(&|m| m[5] = 0), Err(Malformed::Question));
    assert_eq!(with(&|m| m[5] = 2), Err(Malformed::Question));
    assert_eq!(with(&|m| m.truncate(18)), Err(Malformed::Question));
    assert_eq!(with(&|m| m[12] = 0xc0), Err(Malformed::Question));
    assert_eq!(with(&|m| m[12] = 0x41), Err(Malformed::Question));
    assert_eq!(
        with(&|m| m[11] = 1),
        Err(Malformed::Records(19)),
        "count without record"
    );
    assert_eq!(
        with(&|m| m.extend_from_slice(b"padding")),
        Ok(None),
        "trailing octets"
    );
    let edns = Edns::new(1232, 0, true);
    assert_eq!(
        with(&|m| {
            m[11] = 1;
            m.extend_from_slice(&OPT);
        }),
        Ok(edns)
    );
    assert_eq!(
        with(&|m| {
            m[11] = 2;
            m.extend_from_slice(&[OPT, OPT].concat());
        }),
        Err(Malformed::Records(19)),
        "two OPT"
    );
    assert_eq!(
        with(&|m| {
            m[7] = 1;
            m.extend_from_slice(&OPT);
        }),
        Err(Malformed::Records(19)),
        "OPT as answer"
    );
    assert_eq!(
        with(&|m| {
            m[11] = 1;
            m.extend_from_slice(&[1, b'a']);
            m.extend_from_slice(&OPT);
        }),
        Err(Malformed::Records(19)),
        "OPT with an owner"
    );
    assert_eq!(
        with(&|m| {
            m[11] = 1;
            m.extend_from_slice(&OPT);
            let at = m.len() - 1;
            m[at] = 4;
            m.extend_from_slice(&[0, 3, 0, 9]);
        }),
        Err(Malformed::Records(19)),
        "option past the record"
    );
}

/// An OPT record with these octets of options.
fn opt(version: u8, options: &[u8]) -> Vec<u8> {
    let mut opt = vec![0, 0, 41, 4, 0xd0, 0, version, 0, 0];
    opt.extend_from_slice(&(options.len() as u16).to_be_bytes());
    opt.extend_from_slice(options);
    opt
}

#[test]
fn cookie_lengths_are_checked() {
    for len in 0..=48usize {
        let options = [&[0, 10, 0, len as u8][..], &vec![7; len]].concat();
        let mut msg = b"\0\x01\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01".to_vec();
        msg.extend(opt(0, &options));
        let server = match len {
            8 => Some(ServerCookie::Absent),
            24 => Some(ServerCookie::Sixteen([7; 16])),
            16..=40 => Some(ServerCookie::Foreign),
            _ => None,
        };
        match DnsPacketView::parse(&msg) {
            Ok(view) => assert_eq!(
                view.edns().unwrap().cookie(&msg),
                Some(Cookie {
                    client: [7; 8],
                    server: server.expect("a length that no cookie has"),
                }),
                "{len}"
            ),
            Err(malformed) => {
                assert_eq!((malformed, server), (Malformed::Records(19), None), "{len}");
            }
        }
        let at = msg.len() - options.len() - 5;
        msg[at] = 1;
        assert!(
            DnsPacketView::parse(&msg).is_ok(),
            "options of another version are not checked"
        );
    }
}

#[test]
fn only_a_cookie_makes_a_query_without_question_valid() {
    let bare = |count: u8, rest: Vec<u8>| {
        let mut msg = vec![0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, count];
        msg.extend(rest);
        DnsPacketView::parse(&msg).map(|view| (view.question().len(), view.edns().is_some()))
    };
    let cookie = [&[0, 10, 0, 8][..], &[7; 8]].concat();
    assert_eq!(bare(1, opt(0, &cookie)), Ok((0, true)));
    assert_eq!(bare(1, opt(0, &[])), Err(Malformed::Question));
    assert_eq!(bare(1, opt(0, &[0, 3, 0, 0])), Err(Malformed::Question));
    assert_eq!(bare(2, opt(0, &cookie)), Err(Malformed::Question));
    assert_eq!(bare(0, vec![]), Err(Malformed::Question));
}

/// Names have to be names wherever they point: the header, which is not the client's, holds none.
#[test]
fn pointers_lead_to_names() {
    let response = |records: &[u8]| {
        let mut msg = vec![
            0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1,
        ];
        msg.extend_from_slice(records);
        Answer::from_response(&msg, &msg[12..19], 0, &TtlLimits::default()).is_ok()
    };
    let address = |owner: &[u8]| [owner, &[0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1]].concat();
    let alias = |target: &[u8]| {
        let fixed = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, target.len() as u8];
        [&fixed[..], target].concat()
    };
    assert!(response(&address(&[0xc0, 12])));
    assert!(!response(&address(&[0xc0, 1])), "into the header");
    assert!(!response(&address(&[0xc0, 19])), "to itself");
    assert!(
        !response(&address(&[1, b'b', 0xc0, 19])),
        "to its own beginning"
    );
    assert!(response(&alias(&[1, b'b', 0xc0, 12])));
    assert!(!response(&alias(&[1, b'b', 0xc0, 2])), "into the header");
    assert!(!response(&alias(&[1, b'b'])), "past the record");
    assert!(
        !response(&alias(&[1, b'b', 0xc0, 26])),
        "into the record's own TTL"
    );
}

/// Aliases without records at their end: the SOA record says how long that is cached, and the aliases'
/// own TTLs stay as they are (RFC 2308 sections 2.1 and 2.2). Without one nothing is cached.
#[test]
fn dangling_aliases_are_cached_as_long_as_the_soa_says() {
    for (code, soa, ttl) in [(3u8, true, 60), (0, true, 60), (0, false, 0), (3, false, 0)] {
        let mut msg = vec![0, 7, 0x81, 0x80 | code, 0, 1, 0, 1, 0, u8::from(soa), 0, 0];
        msg.extend_from_slice(&[1, b'a', 0, 0, 1, 0, 1]);
        msg.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 3, 132, 0, 3, 1, b'b', 0]);
        if soa {
            msg.extend_from_slice(&[0, 0, 6, 0, 1, 0, 0, 2, 88, 0, 22, 0, 0]);
            msg.extend_from_slice(&[0; 19]);
            msg.push(60);
        }
        let answer = Answer::from_response(&msg, &msg[12..19], 0, &TtlLimits::default()).unwrap();
        assert_eq!(answer.as_ref().ttl(), ttl, "{code} {soa}");
        assert_eq!(answer.as_ref().first_ttl(), Some(900), "{code} {soa}");
    }
}
