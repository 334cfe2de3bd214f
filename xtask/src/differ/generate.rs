//! The queries: four in five are such as clients send, the fifth is unusual or malformed. A third
//! of them all were sent before, so that caches are met cold and warm.

use fastrand::Rng;
use hickory_proto::rr::RecordType;
use lab::{
    message::rtype,
    rich::{self, OWNERS},
};

use super::query::{AD, CD, DO, Defect, Opt, QR, Query, RD, TC, Z, name};

/// Types that clients ask for, whatever the name.
const COMMON: &[&str] = &[
    "A", "AAAA", "A", "AAAA", "MX", "TXT", "NS", "SOA", "PTR", "SRV", "HTTPS", "CAA", "DS",
    "DNSKEY", "CNAME", "NAPTR", "TLSA",
];

/// Types that ask for no record of that type (RFC 6895 section 3.1), and numbers at the edges.
const META: &[u16] = &[0, 41, 249, 250, 251, 252, 253, 254, 255, 65535];

const ZONES: &[&str] = &[
    "rich.example",
    "signed.example",
    "signed3.example",
    "example.com",
];

/// So many queries; the ID of each is its number.
pub(super) fn queries(count: usize, seed: u64) -> Vec<Query> {
    let random = &mut Rng::with_seed(seed);
    let mut queries: Vec<Query> = Vec::with_capacity(count);
    for number in 0..count {
        let repeat = !queries.is_empty() && percent(random, 33);
        let mut query = if repeat {
            let earlier = random.usize(..queries.len());
            queries[earlier].clone()
        } else if percent(random, 80) {
            plain(random)
        } else {
            unusual(random)
        };
        query.id = number as u16;
        queries.push(query);
    }
    queries
}

fn plain(random: &mut Rng) -> Query {
    let (text, qtype) = question(random);
    let mut query = Query::new(name(&text), qtype);
    if percent(random, 30) {
        flip_case(random, &mut query.name);
    }
    if percent(random, 8) {
        query.flags &= !RD;
    }
    for (flag, share) in [(AD, 15), (CD, 15)] {
        if percent(random, share) {
            query.flags |= flag;
        }
    }
    if percent(random, 60) {
        query.opt = Some(Opt {
            size: pick(random, &[512, 1232, 1232, 1232, 1400, 4096, 65535]),
            flags: if percent(random, 45) { DO } else { 0 },
            ..Opt::default()
        });
    }
    query
}

/// A name and a type. Names that do not exist come from small sets, so that some come again.
fn question(random: &mut Rng) -> (String, RecordType) {
    let common = rtype(pick(random, COMMON));
    let zone = pick(random, ZONES);
    match random.usize(..100) {
        0..50 => {
            let (name, types) = pick(random, OWNERS);
            let qtype = if percent(random, 75) {
                rtype(pick(random, &types.split(' ').collect::<Vec<_>>()))
            } else {
                common
            };
            (name.to_owned(), qtype)
        }
        50..65 => (
            format!("n{}.example.com", random.usize(..300)),
            RecordType::A,
        ),
        65..78 => (format!("no{}.{zone}", random.usize(..200)), common),
        78..86 => {
            let (name, _) = pick(random, OWNERS);
            (format!("below{}.{name}", random.usize(..20)), common)
        }
        86..90 => {
            let name = pick(random, &[rich::longest_name(), rich::long_label()]);
            (name, pick(random, &[RecordType::A, RecordType::AAAA]))
        }
        90..95 => {
            let count = 1 + random.usize(..8);
            let label = octets(random, count).into_iter();
            let label: String = label.map(|octet| format!("\\{octet:03}")).collect();
            (format!("{label}.{zone}"), common)
        }
        95..98 => (
            format!("out{}.elsewhere.example", random.usize(..20)),
            common,
        ),
        _ => (
            ".".to_owned(),
            pick(random, &[RecordType::A, RecordType::NS, RecordType::SOA]),
        ),
    }
}

fn flip_case(random: &mut Rng, name: &mut [u8]) {
    // A length octet is at most 63, and so is no letter.
    for octet in name.iter_mut().filter(|octet| octet.is_ascii_alphabetic()) {
        if percent(random, 50) {
            *octet ^= 0x20;
        }
    }
}

fn unusual(random: &mut Rng) -> Query {
    let mut query = plain(random);
    match random.usize(..13) {
        0 => {
            query.qclass = pick(random, &[0, 2, 3, 4, 254, 255, 65280]);
        }
        1 => {
            query.qclass = 3;
            query.qtype = pick(random, &[16, 16, 255, 1]).into();
            query.name = name(pick(
                random,
                &[
                    "version.bind",
                    "version.server",
                    "id.server",
                    "hostname.bind",
                    "other.bind",
                ],
            ));
        }
        2 => query.qtype = pick(random, META).into(),
        3 => query.qtype = pick(random, &[3, 62, 128, 1000, 32768, 65280, 65534]).into(),
        4 => query.flags |= pick(random, &[Z, TC, 0x0400, 0x0080, 0x0003, Z | AD | CD]),
        5 => {
            let opcode = 1 + random.usize(..15);
            query.flags |= (opcode as u16) << 11;
        }
        6 => query.flags |= QR,
        7 => opt(&mut query).size = random.u16(..) >> random.usize(..12),
        8 => opt(&mut query).version = 1 + random.usize(..255) as u8,
        9 => opt(&mut query).flags |= 1 << random.usize(..15),
        10 | 11 => options(random, &mut query),
        _ => malform(random, &mut query),
    }
    query
}

/// The query's OPT, given to it if it has none.
fn opt(query: &mut Query) -> &mut Opt {
    query.opt.get_or_insert(Opt {
        size: 1232,
        ..Opt::default()
    })
}

fn options(random: &mut Rng, query: &mut Query) {
    let option = match random.usize(..8) {
        0 => (3, Vec::new()),
        1..4 => {
            // Right lengths of a cookie, and wrong ones.
            let len = pick(random, &[8, 8, 8, 16, 24, 40, 0, 7, 9, 15, 41]);
            (10, octets(random, len))
        }
        4 => (12, vec![0; random.usize(..200)]),
        5 => (
            8,
            pick(
                random,
                &[
                    vec![0, 1, 24, 0, 198, 51, 100],
                    vec![0, 2, 32, 0, 0x20, 1, 0x0d, 0xb8],
                    vec![0, 1, 0, 0],
                    vec![0, 1, 40, 0, 1, 2, 3, 4, 5],
                    vec![0],
                ],
            ),
        ),
        6 => (11, Vec::new()),
        _ => {
            let len = random.usize(..40);
            (65001 + random.usize(..500) as u16, octets(random, len))
        }
    };
    opt(query).options.push(option);
}

fn malform(random: &mut Rng, query: &mut Query) {
    query.defect = match random.usize(..16) {
        0 => Defect::NoQuestion,
        1 => Defect::TwoQuestions,
        2 => Defect::PointerToItself,
        3 => Defect::PointerToHeader,
        4 => Defect::ExtendedLabel,
        5 => Defect::NameTooLong,
        6 => Defect::Cut(12 + random.usize(..query.name.len() + 4)),
        7 => Defect::Cut(random.usize(..12)),
        8 => Defect::Trailing(1 + random.usize(..60)),
        9 => Defect::TwoOpts,
        10 => Defect::OwnedOpt,
        11 => Defect::MisplacedOpt,
        12 => Defect::OptionPastEnd,
        13 => Defect::ExtraRecord,
        14 => Defect::AnswerRecord,
        _ => Defect::MissingRecord,
    };
    match query.defect {
        Defect::TwoOpts | Defect::OwnedOpt | Defect::MisplacedOpt | Defect::OptionPastEnd => {
            opt(query);
        }
        // The record is not there only if none follows the question.
        Defect::MissingRecord => query.opt = None,
        _ => {}
    }
}

fn percent(random: &mut Rng, share: u8) -> bool {
    random.u8(..100) < share
}

fn pick<T: Clone>(random: &mut Rng, list: &[T]) -> T {
    list[random.usize(..list.len())].clone()
}

fn octets(random: &mut Rng, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.u8(..)).collect()
}
