//! An upstream's responses to the scenarios' queries: the first label of the name selects one.

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RecordType,
        RecordType::{A, AAAA, CNAME, DNAME, DS, HTTPS, NS, NSEC, RRSIG, TXT},
        rdata::opt::EdnsOption,
    },
    serialize::binary::BinEncodable as _,
};
use lab::message::{self, edns, name, record};

/// A response that is being built.
struct Response(Message);

impl Response {
    /// The queried name.
    fn name(&self) -> Name {
        self.0.queries[0].name().clone()
    }

    /// The name above it.
    fn zone(&self) -> Name {
        self.name().base_name()
    }

    fn code(&mut self, code: u16) {
        self.0.metadata.response_code = ResponseCode::from(0, code as u8);
    }

    /// A record of the question's name.
    fn answer(&mut self, rtype: RecordType, ttl: u32, data: &[u8]) {
        let record = record(&self.name(), rtype, ttl, data);
        self.0.add_answer(record);
    }

    fn authority(&mut self, owner: &Name, rtype: RecordType, ttl: u32, data: &[u8]) {
        self.0.add_authority(record(owner, rtype, ttl, data));
    }

    fn soa(&mut self, ttl: u32, minimum: u32) {
        let record = message::soa(&self.zone(), ttl, minimum);
        self.0.add_authority(record);
    }

    fn option(&mut self, code: u16, data: &[u8]) {
        let edns = self.0.edns.get_or_insert_with(|| edns(1232));
        let option = EdnsOption::Unknown(code, data.to_vec());
        edns.options_mut().insert(option);
    }

    /// An alias, or a chain of them, and the address of the last name.
    fn chain(&mut self, targets: &[&str]) {
        let mut owner = self.name();
        for target in targets {
            let target = name(target);
            self.0
                .add_answer(record(&owner, CNAME, 300, &wire(&target)));
            owner = target;
        }
        self.0.add_answer(record(&owner, A, 200, &[192, 0, 2, 7]));
    }

    /// The records of a type, at a name that has all types.
    fn everything(&mut self, qtype: RecordType, ttl: u32) {
        match qtype {
            A => self.answer(A, ttl, &[192, 0, 2, 1]),
            AAAA => self.answer(
                AAAA,
                ttl,
                &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ),
            TXT => self.answer(TXT, ttl, b"\x04text"),
            // Priority 1, the name itself, alpn=h2.
            HTTPS => self.answer(HTTPS, ttl, &[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2']),
            // Key tag, algorithm 8, digest type 1 (RFC 4034 section 5.1).
            DS => self.answer(DS, ttl, &[&[0xca, 0xfe, 8, 1][..], &[7; 20]].concat()),
            RRSIG => self.answer(RRSIG, ttl, SIGNATURE),
            NSEC => self.answer(NSEC, ttl, &[0, 0, 1, 0x40]),
            other => self.answer(other, ttl, &[0xca, 0xfe]),
        }
    }
}

/// Of an A record, by algorithm 8, with three labels.
const SIGNATURE: &[u8] = &[
    0, 1, 8, 3, 0, 0, 1, 44, 0x7f, 0, 0, 0, 0x60, 0, 0, 0, 0, 1, 0, 9, 9, 9, 9,
];

/// A name in wire form, without compression.
fn wire(name: &Name) -> Vec<u8> {
    name.to_bytes().unwrap()
}

/// The response to a query, which holds a question and an OPT record as Heimdall sends them.
/// `None`: silence.
pub(super) fn respond(query: &Message, over_tcp: bool) -> Option<Vec<u8>> {
    let question = &query.queries[0];
    let qtype = question.query_type();
    let first = question.name().iter().next().unwrap_or_default();
    let first = String::from_utf8_lossy(first).to_lowercase();
    let dnssec_ok = query
        .edns
        .as_ref()
        .is_some_and(|edns| edns.flags().dnssec_ok);
    let mut response = Response(message::response(query));
    let (kind, number) = first.split_once('-').unwrap_or((&first, "0"));
    let number: u32 = number.parse().unwrap_or_default();
    match kind {
        "silent" => return None,
        "nx" => {
            response.code(3);
            response.soa(600, 60);
        }
        // Proof of absence, more than fits without EDNS.
        "nxlong" => {
            response.code(3);
            response.soa(600, 60);
            for i in 0..40 {
                response.authority(&response.zone(), NS, 60, &wire(&name(&format!("n{i:02}"))));
            }
        }
        "nxnosoa" => response.code(3),
        "nodata" => response.soa(60, 600),
        "nodatanosoa" => {}
        "ttl" => response.everything(qtype, number),
        "msb" => response.everything(qtype, 0x8000_0001),
        // Signed, for queries with and without DO.
        "signed" => {
            response.everything(qtype, 300);
            if qtype != RRSIG {
                response.answer(RRSIG, 300, SIGNATURE);
            }
            if dnssec_ok {
                response.0.metadata.authentic_data = true;
            }
        }
        "ad" => {
            response.0.metadata.authentic_data = true;
            response.everything(qtype, 300);
        }
        // Data that fails validation, and is sent to clients that validate themselves.
        "bogus" if query.checking_disabled => response.everything(qtype, 300),
        "bogus" => {
            response.code(2);
            // EDE 6, DNSSEC Bogus.
            response.option(15, &[0, 6]);
        }
        "big" if over_tcp || number < 1200 => {
            response.answer(TXT, 300, &message::text(number as usize));
        }
        "big" => response.0.metadata.truncation = true,
        "alias" => response.chain(&["target.ok"]),
        // Aliases of names on the lists.
        "cloaked" => response.chain(&["CDN.ads.ok"]),
        "compressed" => {
            // To the zone in the question.
            let zone = 12 + 1 + first.len() as u8;
            response.answer(CNAME, 300, &[3, b'a', b'd', b's', 0xc0, zone]);
            let target = record(&name("ads.ok"), A, 200, &[192, 0, 2, 7]);
            response.0.add_answer(target);
        }
        "chained" => response.chain(&["mid.ok", "malware.ok"]),
        "tracked" => response.chain(&["tracker.ok"]),
        "excepted" => response.chain(&["fine.ads.ok"]),
        // Additional records, servers, or records that prove a wildcard: as many as the name says.
        "extra" => {
            response.everything(qtype, 300);
            response.authority(&response.name(), NS, 300, b"\x02ns\x02ok\0");
            for last in 0..number {
                let server = record(&name("ns.ok"), A, 300, &[192, 0, 2, last as u8]);
                response.0.add_additional(server);
            }
        }
        "servers" | "proof" => {
            response.everything(qtype, 300);
            for last in 0..number {
                let server = name(&format!("n{}.ok", char::from(b'a' + last as u8)));
                match kind {
                    "servers" => response.authority(&response.name(), NS, 300, &wire(&server)),
                    _ => {
                        response.authority(&server, NSEC, 300, &[0, 0, 1, 0x40]);
                        let signature = [&[0, 47], &SIGNATURE[2..]].concat();
                        response.authority(&server, RRSIG, 300, &signature);
                    }
                }
            }
        }
        // An alias, and nothing at its end.
        "dangling" => response.answer(CNAME, 300, b"\x06target\x02ok\0"),
        "circle" => response.answer(CNAME, 300, &[0xc0, 12]),
        // An answer with records that do not belong to the question.
        "foreign" => {
            let forged = record(&name("bank"), qtype, 300, &[192, 0, 2, 66]);
            response.0.add_answer(forged);
            response.everything(qtype, 300);
            response.answer(TXT, 300, b"\x04text");
            response.authority(&name("bank"), NS, 300, b"\x04evil\0");
            let forged = record(&name("evil"), A, 300, &[192, 0, 2, 66]);
            response.0.add_additional(forged);
        }
        // The data are too short for their type.
        "short" => response.answer(qtype, 300, &[192, 0, 2]),
        "twice" => {
            response.everything(qtype, 300);
            response.everything(qtype, 200);
        }
        // Code 9, NOTAUTH; code 6, YXDOMAIN, with the alias that is too long.
        "notauth" => response.code(9),
        "yx" => {
            response.code(6);
            let alias = record(&response.zone(), DNAME, 300, b"\x04long\0");
            response.0.add_answer(alias);
        }
        // EDE 3: the upstream's answer is a stale one.
        "explained" => {
            response.everything(qtype, 300);
            response.option(15, &[0, 3]);
        }
        "nxexplained" => {
            response.code(3);
            response.soa(600, 60);
            response.option(15, &[0, 17, b'n', b'o']);
        }
        // An OPT record with a client subnet, a cookie and padding, which are between us two.
        "chatty" => {
            response.everything(qtype, 300);
            response.option(8, &[0, 1, 24, 24, 192, 0, 2]);
            response.option(10, &[1, 2, 3, 4, 5, 6, 7, 8]);
            response.option(12, &[0]);
        }
        "servfail" => response.code(2),
        "refused" => response.code(5),
        _ => response.everything(qtype, 300),
    }
    Some(message::octets(&response.0))
}
