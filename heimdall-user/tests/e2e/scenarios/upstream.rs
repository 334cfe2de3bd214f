//! An upstream whose answer depends on nothing but the question: the first label says which.

const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const DNAME: u16 = 39;
const DS: u16 = 43;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const HTTPS: u16 = 65;

/// A response under way.
struct Response {
    msg: Vec<u8>,
    flags: u16,
    counts: [u16; 3],
}

impl Response {
    fn add(&mut self, section: usize, owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) {
        self.counts[section] += 1;
        self.msg.extend_from_slice(owner);
        self.msg.extend_from_slice(&rtype.to_be_bytes());
        self.msg.extend_from_slice(&[0, 1]);
        self.msg.extend_from_slice(&ttl.to_be_bytes());
        self.msg
            .extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.msg.extend_from_slice(data);
    }

    /// A record of the question's name.
    fn answer(&mut self, rtype: u16, ttl: u32, data: &[u8]) {
        self.add(0, &[0xc0, 12], rtype, ttl, data);
    }

    /// A pointer to the name above the question's.
    fn zone(&self) -> [u8; 2] {
        [0xc0, 13 + self.msg[12]]
    }

    fn soa(&mut self, ttl: u32, minimum: u32) {
        let mut data = b"\x02ns\x03soa\0\x04mail\x03soa\0".to_vec();
        for number in [1, 3600, 600, 86_400, minimum] {
            data.extend_from_slice(&u32::to_be_bytes(number));
        }
        self.add(1, &self.zone(), SOA, ttl, &data);
    }

    fn opt(&mut self, options: &[u8]) {
        self.counts[2] += 1;
        self.msg.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0]);
        self.msg
            .extend_from_slice(&(options.len() as u16).to_be_bytes());
        self.msg.extend_from_slice(options);
    }

    /// An alias, or a chain of them, and the address of the last name.
    fn chain(&mut self, targets: &[&[u8]]) {
        let mut owner: &[u8] = &[0xc0, 12];
        for target in targets {
            self.add(0, owner, CNAME, 300, target);
            owner = target;
        }
        self.add(0, owner, A, 200, &[192, 0, 2, 7]);
    }

    /// What the upstream has for a type, under a name that has everything.
    fn everything(&mut self, qtype: u16, ttl: u32) {
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

/// The response to a query, which holds a question and an OPT record as Heimdall sends them.
/// `None`: silence.
pub(super) fn respond(query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let first = String::from_utf8_lossy(&query[13..13 + usize::from(query[12])]).to_lowercase();
    let qtype = u16::from_be_bytes([query[end + 1], query[end + 2]]);
    let flags = u16::from_be_bytes([query[2], query[3]]);
    let checking_disabled = flags & 0x0010 != 0;
    let dnssec_ok = query
        .get(end + 5 + 7)
        .is_some_and(|octet| octet & 0x80 != 0);
    let mut response = Response {
        msg: query[..end + 5].to_vec(),
        flags: 0x8080 | flags & 0x0110,
        counts: [0; 3],
    };
    let (kind, number) = first.split_once('-').unwrap_or((&first, "0"));
    let number: u32 = number.parse().unwrap_or_default();
    match kind {
        "silent" => return None,
        "nx" => {
            response.flags |= 3;
            response.soa(600, 60);
        }
        // Proof of absence, more than fits without EDNS.
        "nxlong" => {
            response.flags |= 3;
            response.soa(600, 60);
            for i in 0..40 {
                response.add(1, &response.zone(), NS, 60, &[3, b'n', b's', b'0' + i, 0]);
            }
        }
        "nxnosoa" => response.flags |= 3,
        "nodata" => response.soa(60, 600),
        "nodatanosoa" => {}
        "ttl" => response.everything(qtype, number),
        "msb" => response.everything(qtype, 0x8000_0001),
        // Signed, for those who want it and those who do not.
        "signed" => {
            response.everything(qtype, 300);
            if qtype != RRSIG {
                response.answer(RRSIG, 300, SIGNATURE);
            }
            if dnssec_ok {
                response.flags |= 0x0020;
            }
        }
        "ad" => {
            response.flags |= 0x0020;
            response.everything(qtype, 300);
        }
        // What fails validation, and is given to those who validate themselves.
        "bogus" if checking_disabled => response.everything(qtype, 300),
        "bogus" => {
            response.flags |= 2;
            // EDE 6, DNSSEC Bogus.
            response.opt(&[0, 15, 0, 2, 0, 6]);
        }
        "big" if over_tcp || number < 1200 => {
            let mut text = Vec::new();
            while text.len() < number as usize {
                let len = (number as usize - text.len() - 1).min(255);
                text.push(len as u8);
                text.extend(vec![b'x'; len]);
            }
            response.answer(TXT, 300, &text);
        }
        "big" => response.flags |= 0x0200,
        "alias" => response.chain(&[b"\x06target\x02ok\0"]),
        // Aliases of names on the lists.
        "cloaked" => response.chain(&[b"\x03CDN\x03ads\x02ok\0"]),
        "compressed" => {
            let zone = 12 + 1 + first.len() as u8;
            response.chain(&[&[3, b'a', b'd', b's', 0xc0, zone]]);
        }
        "chained" => response.chain(&[b"\x03mid\x02ok\0", b"\x07malware\x02ok\0"]),
        "tracked" => response.chain(&[b"\x07tracker\x02ok\0"]),
        "excepted" => response.chain(&[b"\x04fine\x03ads\x02ok\0"]),
        // So many additional records, servers, or records that prove a wildcard.
        "extra" => {
            response.everything(qtype, 300);
            response.add(1, &[0xc0, 12], NS, 300, b"\x02ns\x02ok\0");
            for last in 0..number {
                response.add(2, b"\x02ns\x02ok\0", A, 300, &[192, 0, 2, last as u8]);
            }
        }
        "servers" | "proof" => {
            response.everything(qtype, 300);
            for last in 0..number {
                let server = [2, b'n', b'a' + last as u8, 2, b'o', b'k', 0];
                match kind {
                    "servers" => response.add(1, &[0xc0, 12], NS, 300, &server),
                    _ => response.add(1, &server, NSEC, 300, &[0, 0, 1, 0x40]),
                }
            }
        }
        // An alias, and nothing at its end.
        "dangling" => response.answer(CNAME, 300, b"\x06target\x02ok\0"),
        "circle" => response.answer(CNAME, 300, &[0xc0, 12]),
        // An answer, and what nobody asked for.
        "foreign" => {
            response.add(0, b"\x04bank\0", qtype, 300, &[192, 0, 2, 66]);
            response.everything(qtype, 300);
            response.answer(TXT, 300, b"\x04text");
            response.add(1, b"\x04bank\0", NS, 300, b"\x04evil\0");
            response.add(2, b"\x04evil\0", A, 300, &[192, 0, 2, 66]);
        }
        // The data are too short for their type.
        "short" => response.answer(qtype, 300, &[192, 0, 2]),
        "twice" => {
            response.everything(qtype, 300);
            response.everything(qtype, 200);
        }
        // Code 9, NOTAUTH; code 6, YXDOMAIN, with the alias that is too long.
        "notauth" => response.flags |= 9,
        "yx" => {
            response.flags |= 6;
            response.add(0, &response.zone(), DNAME, 300, b"\x04long\0");
        }
        // EDE 3: the upstream's answer is a stale one.
        "explained" => {
            response.everything(qtype, 300);
            response.opt(&[0, 15, 0, 2, 0, 3]);
        }
        "nxexplained" => {
            response.flags |= 3;
            response.soa(600, 60);
            response.opt(&[0, 15, 0, 4, 0, 17, b'n', b'o']);
        }
        // An OPT record with a client subnet, a cookie and padding, which are between us two.
        "chatty" => {
            response.everything(qtype, 300);
            response.opt(&[
                0, 8, 0, 7, 0, 1, 24, 24, 192, 0, 2, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 12, 0,
                1, 0,
            ]);
        }
        "servfail" => response.flags |= 2,
        "refused" => response.flags |= 5,
        _ => response.everything(qtype, 300),
    }
    response.msg[2..4].copy_from_slice(&response.flags.to_be_bytes());
    for (at, count) in [6, 8, 10].into_iter().zip(response.counts) {
        response.msg[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    Some(response.msg)
}
