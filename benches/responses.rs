//! Responses of upstreams, of the kinds that resolvers see most: what the benches of taking them in read.
#![allow(clippy::unwrap_used)]

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
    serialize::binary::{BinDecodable, BinEncodable},
};

/// A response, and the question that it answers.
#[derive(Debug)]
pub struct Response {
    /// A name for tables.
    pub kind: &'static str,
    /// The whole message, names compressed as by most servers, with an OPT record.
    pub msg: Vec<u8>,
    /// The question in wire form.
    pub question: Vec<u8>,
    /// DO and CD, as in a query's key.
    pub flags: u8,
}

const DNSSEC_OK: u8 = 1;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, last: u8) -> Record {
    Record::from_rdata(name(owner), 300, RData::A(rdata::A::new(203, 0, 113, last)))
}

fn aaaa(owner: &str, last: u16) -> Record {
    let address = rdata::AAAA::new(0x2001, 0xdb8, 0x40, 0, 0, 0xc0de, 0xff, last);
    Record::from_rdata(name(owner), 300, RData::AAAA(address))
}

fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(rdata::CNAME(name(target))))
}

fn ns(owner: &str, host: &str) -> Record {
    Record::from_rdata(name(owner), 172_800, RData::NS(rdata::NS(name(host))))
}

fn mx(owner: &str, preference: u16, host: &str) -> Record {
    let data = rdata::MX::new(preference, name(host));
    Record::from_rdata(name(owner), 3_600, RData::MX(data))
}

fn soa(owner: &str) -> Record {
    let (mname, rname) = (name("ns1.example.com."), name("hostmaster.example.com."));
    let data = rdata::SOA::new(mname, rname, 2_026_010_101, 7_200, 900, 1_209_600, 300);
    Record::from_rdata(name(owner), 900, RData::SOA(data))
}

fn txt(owner: &str, strings: &[&str]) -> Record {
    let strings = strings.iter().map(|&text| text.to_owned()).collect();
    Record::from_rdata(name(owner), 3_600, RData::TXT(rdata::TXT::new(strings)))
}

/// A record of any type. Signatures and keys are octets in which nothing can be compressed: from a
/// generator, as octets of all values occur in them.
fn raw(owner: &str, rtype: u16, data: &[u8]) -> Record {
    let data = RData::Unknown {
        code: RecordType::from(rtype),
        rdata: rdata::NULL::with(data.to_vec()),
    };
    Record::from_rdata(name(owner), 300, data)
}

fn random(len: usize) -> impl Iterator<Item = u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(1), next)
        .map(|state| (state >> 24) as u8)
        .take(len)
}

/// A signature (ECDSA P-256) of records of a type.
fn rrsig(owner: &str, covers: u16) -> Record {
    let [high, low] = covers.to_be_bytes();
    let mut data = vec![
        high, low, 13, 3, 0, 0, 1, 44, 0x69, 0x60, 0, 0, 0x69, 0x50, 0, 0, 0x9a, 0xe1,
    ];
    data.extend_from_slice(b"\x07example\x03com\0");
    data.extend(random(64));
    raw(owner, 46, &data)
}

fn nsec(owner: &str, next: &[u8]) -> Record {
    let bitmap = [0, 7, 0x62, 0x01, 0x80, 0x08, 0, 0x03, 0x80];
    raw(owner, 47, &[next, &bitmap].concat())
}

fn https(owner: &str) -> Record {
    let params = b"\0\x01\0\x06\x02h3\x02h2\0\x04\0\x08\xcb\0\x71\x01\xcb\0\x71\x02";
    raw(owner, 65, &[b"\0\x01\0", &params[..]].concat())
}

fn response(
    kind: &'static str,
    (qname, qtype): (&str, u16),
    code: ResponseCode,
    sections: [Vec<Record>; 3],
) -> Response {
    let mut message = Message::new(0x1234, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(Query::query(name(qname), RecordType::from(qtype)));
    let [answers, authorities, additionals] = sections;
    let is_signed = |record: &Record| u16::from(record.record_type()) == 46;
    let flags = if answers.iter().chain(&authorities).any(is_signed) {
        DNSSEC_OK
    } else {
        0
    };
    message.add_answers(answers);
    message.add_authorities(authorities);
    message.add_additionals(additionals);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.set_dnssec_ok(flags != 0);
    message.set_edns(edns);
    let msg = message.to_vec().unwrap();
    let end = 12 + name(qname).to_bytes().unwrap().len() + 4;
    let question = msg.get(12..end).unwrap().to_vec();
    Response {
        kind,
        msg,
        question,
        flags,
    }
}

/// The message with one more record, the first of the answer section, that does not belong to the
/// question: the others are rewritten without it.
pub fn with_a_record_to_leave_out(response: &Response) -> Vec<u8> {
    let mut message = Message::from_bytes(&response.msg).unwrap();
    message.answers.insert(0, a("unrelated.example.net.", 99));
    message.to_vec().unwrap()
}

/// The responses.
pub fn all() -> Vec<Response> {
    const WWW: &str = "www.example.com.";
    const ZONE: &str = "example.com.";
    let ok = |kind, asked, answers| {
        response(
            kind,
            asked,
            ResponseCode::NoError,
            [answers, vec![], vec![]],
        )
    };
    let hosts: Vec<String> = ('a'..='m')
        .map(|c| format!("{c}.root-servers.net."))
        .collect();
    let glue = hosts.iter().zip(1..);
    let glue = glue.flat_map(|(host, i)| [a(host, i), aaaa(host, i.into())]);
    let denial = vec![
        soa(ZONE),
        rrsig(ZONE, 6),
        nsec("beta.example.com.", b"\x05gamma\x07example\x03com\0"),
        rrsig("beta.example.com.", 47),
        nsec(ZONE, b"\x05alpha\x07example\x03com\0"),
        rrsig(ZONE, 47),
    ];
    let key: Vec<u8> = [1, 1, 3, 13].into_iter().chain(random(64)).collect();
    let digest: Vec<u8> = [0x9a, 0xe1, 13, 2].into_iter().chain(random(32)).collect();
    let spf = "v=spf1 ip4:203.0.113.0/24 ip6:2001:db8::/32 include:_spf.example.net include:mail.example.org ~all";
    let verification = "site-verification=rXOxyZounnZasA8Z7oaD3c14JdjS9aKSWvsR1EbUSIQ";
    vec![
        ok("A, 1 record", (WWW, 1), vec![a(WWW, 1)]),
        ok(
            "A, 4 records",
            (WWW, 1),
            (0..4).map(|i| a(WWW, i)).collect(),
        ),
        ok(
            "A, 16 records",
            (WWW, 1),
            (0..16).map(|i| a(WWW, i)).collect(),
        ),
        ok("AAAA, 1 record", (WWW, 28), vec![aaaa(WWW, 1)]),
        ok(
            "AAAA, 8 records",
            (WWW, 28),
            (0..8).map(|i| aaaa(WWW, i)).collect(),
        ),
        ok(
            "CNAME chain of 3, 2 A",
            (WWW, 1),
            vec![
                cname(WWW, "www.example.com.edgekey.example.net."),
                cname(
                    "www.example.com.edgekey.example.net.",
                    "e1234.dscb.cdn.example.net.",
                ),
                cname("e1234.dscb.cdn.example.net.", "pop-7.eu.cdn.example.org."),
                a("pop-7.eu.cdn.example.org.", 1),
                a("pop-7.eu.cdn.example.org.", 2),
            ],
        ),
        ok(
            "MX, 5 records",
            (ZONE, 15),
            (1..6)
                .map(|i| mx(ZONE, i * 10, &format!("alt{i}.aspmx.mail.example.net.")))
                .collect(),
        ),
        ok(
            "TXT, SPF and 4 more",
            (ZONE, 16),
            [spf, verification, "a", verification, spf]
                .iter()
                .enumerate()
                .map(|(i, text)| txt(ZONE, &[&format!("{i} {text}")]))
                .collect(),
        ),
        response(
            "NODATA, SOA",
            (WWW, 28),
            ResponseCode::NoError,
            [vec![], vec![soa(ZONE)], vec![]],
        ),
        response(
            "NXDOMAIN, SOA",
            (WWW, 1),
            ResponseCode::NXDomain,
            [vec![], vec![soa(ZONE)], vec![]],
        ),
        ok("A and RRSIG", (WWW, 1), vec![a(WWW, 1), rrsig(WWW, 1)]),
        response(
            "NXDOMAIN, NSEC and RRSIG",
            ("foo.example.com.", 1),
            ResponseCode::NXDomain,
            [vec![], denial, vec![]],
        ),
        ok(
            "DS and RRSIG",
            (ZONE, 43),
            vec![raw(ZONE, 43, &digest), rrsig(ZONE, 43)],
        ),
        ok(
            "DNSKEY, 2 and RRSIG",
            (ZONE, 48),
            vec![
                raw(ZONE, 48, &key),
                raw(ZONE, 48, &[&key[..], b"x"].concat()),
                rrsig(ZONE, 48),
            ],
        ),
        ok("HTTPS", (WWW, 65), vec![https(WWW)]),
        response(
            "NS, 13 and glue",
            (".", 2),
            ResponseCode::NoError,
            [
                hosts.iter().map(|host| ns(".", host)).collect(),
                vec![],
                glue.collect(),
            ],
        ),
        response(
            "A with NS, 2 and glue",
            (WWW, 1),
            ResponseCode::NoError,
            [
                vec![a(WWW, 1)],
                vec![ns(ZONE, "ns1.example.com."), ns(ZONE, "ns2.example.com.")],
                vec![a("ns1.example.com.", 3), a("ns2.example.com.", 4)],
            ],
        ),
    ]
}
