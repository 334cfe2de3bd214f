//! What is asked: four queries in five are such as clients send, the fifth is odd. A third of
//! them all were asked before, so that caches are met cold and warm.

use lab::rich::{self, OWNERS};

use super::wire::{self, AD, CD, DO, Oddity, Opt, QR, Query, RD, TC, Z};
use crate::random::Random;

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
    let mut random = Random::new(seed);
    let mut queries: Vec<Query> = Vec::with_capacity(count);
    for number in 0..count {
        let repeat = !queries.is_empty() && random.percent(33);
        let mut query = if repeat {
            let earlier = random.below(queries.len());
            queries[earlier].clone()
        } else if random.percent(80) {
            sane(&mut random)
        } else {
            odd(&mut random)
        };
        query.id = number as u16;
        queries.push(query);
    }
    queries
}

fn sane(random: &mut Random) -> Query {
    let (name, qtype) = question(random);
    let mut query = Query::new(wire::name(&name), qtype);
    if random.percent(30) {
        flip_case(random, &mut query.name);
    }
    if random.percent(8) {
        query.flags &= !RD;
    }
    for (flag, share) in [(AD, 15), (CD, 15)] {
        if random.percent(share) {
            query.flags |= flag;
        }
    }
    if random.percent(60) {
        query.opt = Some(Opt {
            size: random.pick(&[512, 1232, 1232, 1232, 1400, 4096, 65535]),
            version: 0,
            flags: if random.percent(45) { DO } else { 0 },
            options: Vec::new(),
        });
    }
    query
}

/// A name and a type. Names that are not there come from small sets, so that some come again.
fn question(random: &mut Random) -> (String, u16) {
    let common = wire::rrtype(random.pick(COMMON));
    let zone = random.pick(ZONES);
    match random.below(100) {
        0..50 => {
            let (name, types) = random.pick(OWNERS);
            let qtype = if random.percent(75) {
                wire::rrtype(random.pick(types))
            } else {
                common
            };
            (name.to_owned(), qtype)
        }
        50..65 => (format!("n{}.example.com", random.below(300)), 1),
        65..78 => (format!("no{}.{zone}", random.below(200)), common),
        78..86 => {
            let (name, _) = random.pick(OWNERS);
            (format!("below{}.{name}", random.below(20)), common)
        }
        86..90 => {
            let name = random.pick(&[rich::longest_name(), rich::long_label()]);
            (name, random.pick(&[1, 28]))
        }
        90..95 => {
            let count = 1 + random.below(8);
            let label: String = random
                .octets(count)
                .iter()
                .map(|octet| format!("\\{octet:03}"))
                .collect();
            (format!("{label}.{zone}"), common)
        }
        95..98 => (format!("out{}.elsewhere.example", random.below(20)), common),
        _ => (".".to_owned(), random.pick(&[1, 2, 6])),
    }
}

fn flip_case(random: &mut Random, name: &mut [u8]) {
    // A length octet is at most 63, and so is no letter.
    for octet in name.iter_mut().filter(|octet| octet.is_ascii_alphabetic()) {
        if random.percent(50) {
            *octet ^= 0x20;
        }
    }
}

fn odd(random: &mut Random) -> Query {
    let mut query = sane(random);
    match random.below(13) {
        0 => {
            query.qclass = random.pick(&[0, 2, 3, 4, 254, 255, 65280]);
        }
        1 => {
            query.qclass = 3;
            query.qtype = random.pick(&[16, 16, 255, 1]);
            query.name = wire::name(random.pick(&[
                "version.bind",
                "version.server",
                "id.server",
                "hostname.bind",
                "other.bind",
            ]));
        }
        2 => query.qtype = random.pick(META),
        3 => query.qtype = random.pick(&[3, 62, 128, 1000, 32768, 65280, 65534]),
        4 => query.flags |= random.pick(&[Z, TC, 0x0400, 0x0080, 0x0003, Z | AD | CD]),
        5 => {
            let opcode = 1 + random.below(15);
            query.flags |= (opcode as u16) << 11;
        }
        6 => query.flags |= QR,
        7 => opt(&mut query).size = random.next() as u16 >> random.below(12),
        8 => opt(&mut query).version = 1 + random.below(255) as u8,
        9 => opt(&mut query).flags |= 1 << random.below(15),
        10 | 11 => options(random, &mut query),
        _ => malform(random, &mut query),
    }
    query
}

/// The query's OPT, given to it if it has none.
fn opt(query: &mut Query) -> &mut Opt {
    query.opt.get_or_insert(Opt {
        size: 1232,
        version: 0,
        flags: 0,
        options: Vec::new(),
    })
}

fn options(random: &mut Random, query: &mut Query) {
    let option = match random.below(8) {
        0 => (3, Vec::new()),
        1 => (10, random.octets(8)),
        2 => {
            let len = random.pick(&[16, 24, 40]);
            (10, random.octets(len))
        }
        3 => {
            let len = random.pick(&[0, 7, 9, 15, 41]);
            (10, random.octets(len))
        }
        4 => {
            let len = random.below(200);
            (12, vec![0; len])
        }
        5 => (
            8,
            random.pick(&[
                vec![0, 1, 24, 0, 198, 51, 100],
                vec![0, 2, 32, 0, 0x20, 1, 0x0d, 0xb8],
                vec![0, 1, 0, 0],
                vec![0, 1, 40, 0, 1, 2, 3, 4, 5],
                vec![0],
            ]),
        ),
        6 => (11, Vec::new()),
        _ => {
            let len = random.below(40);
            (65001 + random.below(500) as u16, random.octets(len))
        }
    };
    opt(query).options.push(option);
}

fn malform(random: &mut Random, query: &mut Query) {
    query.oddity = match random.below(16) {
        0 => Oddity::NoQuestion,
        1 => Oddity::TwoQuestions,
        2 => Oddity::PointerToItself,
        3 => Oddity::PointerToHeader,
        4 => Oddity::ExtendedLabel,
        5 => Oddity::NameTooLong,
        6 => Oddity::Cut(12 + random.below(query.name.len() + 4)),
        7 => Oddity::Cut(random.below(12)),
        8 => Oddity::Trailing(1 + random.below(60)),
        9 => Oddity::TwoOpts,
        10 => Oddity::OwnedOpt,
        11 => Oddity::MisplacedOpt,
        12 => Oddity::OptionPastEnd,
        13 => Oddity::ExtraRecord,
        14 => Oddity::AnswerRecord,
        _ => Oddity::MissingRecord,
    };
    match query.oddity {
        Oddity::TwoOpts | Oddity::OwnedOpt | Oddity::MisplacedOpt | Oddity::OptionPastEnd => {
            opt(query);
        }
        // The record is not there only if none follows the question.
        Oddity::MissingRecord => query.opt = None,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_queries() {
        assert_eq!(queries(500, 7), queries(500, 7));
        assert_ne!(queries(500, 7), queries(500, 8));
    }

    #[test]
    fn most_are_sane_and_some_come_again() {
        let queries = queries(10_000, 1);
        let plain = queries.iter().filter(|query| {
            query.oddity == Oddity::None && query.qclass == 1 && query.opcode() == 0
        });
        assert!(plain.count() > 8_500);
        let mut wires: Vec<_> = queries
            .iter()
            .map(|query| query.wire()[2.min(query.wire().len())..].to_vec())
            .collect();
        wires.sort();
        wires.dedup();
        assert!((3_000..7_000).contains(&wires.len()), "{}", wires.len());
    }
}
