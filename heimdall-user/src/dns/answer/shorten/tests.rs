#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use hickory_proto::{
    op::{Edns as OracleEdns, Message, MessageType, OpCode, Query as OracleQuery, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
    serialize::binary::BinDecodable,
};
use proptest::prelude::*;

use crate::{
    checksum,
    dns::{
        Answer, DnsPacketView, NameHasher, Options, Query,
        answer::AnswerFields,
        cursor::Cursor,
        header,
        record::Records,
        reply::{self, Content, Reply, ReplySettings},
        u16_at,
    },
};

/// What an authority section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    Servers,
    Proof,
    Soa,
}

/// A response, by section.
#[derive(Clone, Debug)]
struct Response {
    rcode: ResponseCode,
    sections: [Vec<Record>; 3],
    /// Its authority section can be left out.
    extra: bool,
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn unknown(owner: &str, code: u16, data: &[u8]) -> Record {
    let rdata = rdata::NULL::with(data.to_vec());
    let code = RecordType::from(code);
    Record::from_rdata(name(owner), 300, RData::Unknown { code, rdata })
}

/// An RRSIG record for records of type `covered`, with `octets` octets of signature.
fn signature(owner: &str, covered: u8, octets: usize) -> Record {
    let data = [&[0, covered][..], &[8; 16], &[0], &vec![7; octets]].concat();
    unknown(owner, 46, &data)
}

fn address(owner: &str, last: u8) -> Record {
    let data = RData::A(rdata::A::new(192, 0, 2, last));
    Record::from_rdata(name(owner), 300, data)
}

const QNAME: &str = "www.zone.example.";

prop_compose! {
    fn response()(
        kind in 0..5u8, addresses in 0..40u8, servers in 1..14u8, glue in 0..30u8,
        signed: bool, authority in prop::sample::select(vec![None, Some(Authority::Servers), Some(Authority::Proof), Some(Authority::Soa)]),
    ) -> Response {
        let mut sections: [Vec<Record>; 3] = Default::default();
        let [answers, authorities, additional] = &mut sections;
        let target = "host.other.example.";
        let (owner, rcode) = match kind {
            0 => (QNAME, ResponseCode::NXDomain),
            // An alias, and what it leads to, or nothing.
            1 | 2 => {
                let cname = RData::CNAME(rdata::CNAME(name(target)));
                answers.push(Record::from_rdata(name(QNAME), 300, cname));
                (target, ResponseCode::NoError)
            }
            _ => (QNAME, ResponseCode::NoError),
        };
        let answered = kind > 1 && addresses > 0;
        if answered {
            answers.extend((0..addresses).map(|last| address(owner, last)));
            answers.extend(signed.then(|| signature(owner, 1, 64)));
        }
        match authority {
            None => {}
            Some(Authority::Servers) => {
                authorities.extend((0..servers).map(|i| {
                    let data = RData::NS(rdata::NS(name(&format!("ns{i}.zone.example."))));
                    Record::from_rdata(name("zone.example."), 300, data)
                }));
                authorities.extend(signed.then(|| signature("zone.example.", 2, 64)));
            }
            Some(Authority::Proof) => {
                let nsec = if signed { 47 } else { 50 };
                authorities.push(unknown("zone.example.", nsec, &[1; 40]));
                authorities.push(signature("zone.example.", nsec as u8, 64));
            }
            Some(Authority::Soa) => {
                let soa = rdata::SOA::new(name("zone.example."), name("mail.zone.example."), 1, 2, 3, 4, 5);
                authorities.push(Record::from_rdata(name("zone.example."), 300, RData::SOA(soa)));
            }
        }
        for i in 0..glue {
            let owner = format!("ns{i}.zone.example.");
            additional.push(address(&owner, i));
            additional.extend(signed.then(|| signature(&owner, 1, 32)));
        }
        let extra = answered && authority != Some(Authority::Proof);
        Response { rcode, sections, extra }
    }
}

impl Response {
    /// The message with its first `kept` sections, without OPT.
    fn message(&self, kept: usize) -> Vec<u8> {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = self.rcode;
        message.add_query(OracleQuery::query(name(QNAME), RecordType::A));
        let [answers, authorities, additional] = &self.sections;
        message.add_answers(answers.clone());
        if kept > 1 {
            message.add_authorities(authorities.clone());
        }
        if kept > 2 {
            message.add_additionals(additional.clone());
        }
        message.to_vec().unwrap()
    }

    /// The same as an answer in its flat form.
    fn answer(&self, question_end: usize) -> Answer {
        let msg = self.message(3);
        let counts = self.sections.each_ref().map(|section| section.len() as u16);
        let records = Records::new(Cursor::new(&msg, question_end), counts);
        let ttl_offsets: Vec<u16> = records
            .map(|record| (record.unwrap().ttl_at() - question_end) as u16)
            .collect();
        Answer::new(&AnswerFields {
            rcode: u16::from(self.rcode) as u8,
            counts,
            body: &msg[question_end..],
            ttl_offsets: &ttl_offsets,
            ttl: 300,
            ..AnswerFields::default()
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// As many sections are sent as fit, to the octet, and TC is set if one is missing that the client
    /// needs.
    #[test]
    fn as_many_sections_are_sent_as_fit(
        response in response(), edns: bool, dnssec_ok: bool, nsid in prop::option::of(1..20usize), cookie: bool, ede: bool,
        age in 0..400u32, sections in 1..=3usize, off in -1..=1isize,
    ) {
        let mut query = Message::new(77, MessageType::Query, OpCode::Query);
        query.add_query(OracleQuery::query(name(QNAME), RecordType::A));
        if edns {
            let mut edns = OracleEdns::new();
            edns.set_dnssec_ok(dnssec_ok);
            query.set_edns(edns);
        }
        let mut buf = query.to_vec().unwrap();
        let query = Query::new(&DnsPacketView::parse(&buf).unwrap(), &NameHasher::default());
        let question_end = usize::from(query.question_end);
        let (nsid, cookie) = (nsid.map(|len| vec![b'n'; len]), cookie.then_some([9; 24]));
        let options = Options { ede: ede.then_some(3), nsid: nsid.as_deref(), cookie: cookie.as_ref(), ..Options::default() };
        let options = (edns && !options.is_empty()).then_some(&options);
        let others = if edns { 11 + options.map_or(0, Options::len) } else { 0 };
        let sizes = [1, 2, 3].map(|kept| response.message(kept).len() + others);
        let limit = sizes[sections - 1].checked_add_signed(off).unwrap();

        let answer = response.answer(question_end);
        let content = Content { answer: answer.as_ref(), age, question_sum: None };
        buf.resize(65_535, 0xee);
        let server = ReplySettings::new(1232, true);
        let Reply { len, sum } = reply::answer(&mut buf, &query, content, limit, &server, options).unwrap();
        let expected = checksum::add(0, &buf[..len]);
        prop_assert_eq!(checksum::finish_udp(sum), checksum::finish_udp(expected));

        let fits = |kept: usize| sizes[kept - 1] <= limit;
        let least = if response.extra { 1 } else { 2 };
        let kept = (least..=3).rev().find(|kept| fits(*kept));
        let read = Message::from_bytes(&buf[..len]).unwrap();
        prop_assert_eq!(read.metadata.response_code, response.rcode);
        prop_assert_eq!(read.metadata.truncation, kept.is_none());
        prop_assert_eq!(read.edns.is_some(), edns);
        prop_assert_eq!(read.edns.is_some_and(|edns| edns.flags().dnssec_ok), edns && dnssec_ok);
        match kept {
            Some(kept) => prop_assert_eq!(len, sizes[kept - 1]),
            None => prop_assert_eq!(len, question_end + others),
        }
        let got = [read.answers, read.authorities, read.additionals];
        for (at, (got, all)) in got.iter().zip(&response.sections).enumerate() {
            let all = if at < kept.unwrap_or(0) { &all[..] } else { &[] };
            prop_assert_eq!(got.len(), all.len(), "section {}", at);
            for (got, all) in got.iter().zip(all) {
                prop_assert_eq!((&got.name, &got.data, got.ttl), (&all.name, &all.data, all.ttl.saturating_sub(age)));
            }
        }
        prop_assert_eq!(u16_at(&buf, header::field::QDCOUNT), Some(1));
    }

    /// Whatever the counts and the octets say, nothing panics.
    #[test]
    fn damage_is_refused(body: Vec<u8>, counts: [u16; 3], ttl_offsets: Vec<u16>, room in 0..600usize) {
        let answer = Answer::new(&AnswerFields { counts, body: &body, ttl_offsets: &ttl_offsets, ..AnswerFields::default() });
        if let Some(shortened) = answer.as_ref().shortened(19, 1, room) {
            prop_assert!(shortened.as_ref().body().len() <= room);
        }
    }
}
