//! Any number of names and answers that resemble real ones, the same in every run.

/// Largest number of names: combinations of four syllables.
const NAMES: u64 = SYLLABLES.pow(4);
const SYLLABLES: u64 = (CONSONANTS.len() * VOWELS.len()) as u64;
const CONSONANTS: &[u8] = b"bdfghklmnprstv";
const VOWELS: &[u8] = b"aeiou";

/// Suffixes of the four syllables of a domain's own label.
const ENDINGS: [&str; 8] = ["", "", "", "shop", "media", "cloud", "online", "-services"];

/// Labels before and after a domain's own label.
const SHAPES: [(&str, &str); 16] = [
    ("", ".com"),
    ("", ".net"),
    ("", ".de"),
    ("www.", ".com"),
    ("www.", ".com"),
    ("www.", ".org"),
    ("www.", ".co.uk"),
    ("mail.", ".com"),
    ("api.", ".io"),
    ("api.", ".com"),
    ("cdn.", ".net"),
    ("static.", ".com"),
    ("images-eu.", ".com.br"),
    ("ns1.", ".net"),
    ("s3.eu-west-1.", ".com"),
    ("telemetry.app.", ".com"),
];

const TYPE_A: u8 = 1;
const TYPE_AAAA: u8 = 28;
/// TTL of all records, in seconds.
const TTL: [u8; 4] = 3600u32.to_be_bytes();

/// Numbers without a pattern, one for each `i` (the finish of SplitMix64).
pub(crate) fn mix(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The type that a name is queried for, and the form of the answer.
#[derive(Clone, Copy)]
enum Kind {
    A,
    Aaaa,
    AliasA,
    FourA,
    NoSuchName,
}

impl Kind {
    /// Of twenty names twelve have an A record, four an AAAA record, two a CNAME and an A record,
    /// one has four A records and one does not exist.
    fn of(random: u64) -> Self {
        match random % 20 {
            0..12 => Self::A,
            12..16 => Self::Aaaa,
            16..18 => Self::AliasA,
            18 => Self::FourA,
            _ => Self::NoSuchName,
        }
    }
}

/// One name, with its question and answer.
pub(crate) struct Item {
    random: u64,
    kind: Kind,
    /// The name begins with the host, if there is one: octets of it.
    host: usize,
    /// In wire form.
    pub(crate) question: Vec<u8>,
}

impl Item {
    /// The name of number `i`; no two are the same.
    pub(crate) fn new(i: usize) -> Self {
        let random = mix(i as u64);
        let (host, top) = SHAPES[random as usize % SHAPES.len()];
        let ending = ENDINGS[(random >> 8) as usize % ENDINGS.len()];
        let kind = Kind::of(random >> 16);
        // A multiplier that has no factor in common with the number of names: neighbours differ.
        let mut label = i as u64 * 7_368_787 % NAMES;
        let mut name = host.to_owned();
        for _ in 0..4 {
            let syllable = (label % SYLLABLES) as usize;
            name.push(CONSONANTS[syllable / VOWELS.len()].into());
            name.push(VOWELS[syllable % VOWELS.len()].into());
            label /= SYLLABLES;
        }
        name.push_str(ending);
        name.push_str(top);
        let qtype = match kind {
            Kind::Aaaa => TYPE_AAAA,
            _ => TYPE_A,
        };
        let mut question = wire(&name);
        question.extend_from_slice(&[0, qtype, 0, 1]);
        Self {
            random,
            kind,
            host: host.len(),
            question,
        }
    }

    /// A query with EDNS.
    pub(crate) fn query(&self) -> Vec<u8> {
        let header = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01";
        let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
        [&header[..], &self.question, opt].concat()
    }

    /// An upstream's response.
    pub(crate) fn response(&self) -> Vec<u8> {
        let (rcode, answers, authorities) = match self.kind {
            Kind::A | Kind::Aaaa => (0, 1, 0),
            Kind::AliasA => (0, 2, 0),
            Kind::FourA => (0, 4, 0),
            Kind::NoSuchName => (3, 0, 1),
        };
        let header = [
            0x12,
            0x34,
            0x81,
            0x80 | rcode,
            0,
            1,
            0,
            answers,
            0,
            authorities,
            0,
            0,
        ];
        let mut msg = [&header[..], &self.question].concat();
        let address = self.random.to_be_bytes();
        match self.kind {
            Kind::A => record(&mut msg, 12, TYPE_A, &address[..4]),
            Kind::Aaaa => record(&mut msg, 12, TYPE_AAAA, &[address, address].concat()),
            Kind::AliasA => {
                let target = msg.len() + 12;
                let alias = wire(&format!("e{:06}.edge-cache.net", self.random % 1_000_000));
                record(&mut msg, 12, 5, &alias);
                record(&mut msg, target, TYPE_A, &address[..4]);
            }
            Kind::FourA => {
                for last in 0..4 {
                    let address = [address[0], address[1], address[2], last];
                    record(&mut msg, 12, TYPE_A, &address);
                }
            }
            Kind::NoSuchName => {
                let zone = 12 + self.host;
                let pointer = [0xc0, zone as u8];
                let mut soa = [b"\x03ns1", &pointer[..], b"\x0ahostmaster", &pointer].concat();
                for field in [self.random as u32, 7200, 3600, 1_209_600, 3600] {
                    soa.extend_from_slice(&field.to_be_bytes());
                }
                record(&mut msg, zone, 6, &soa);
            }
        }
        msg
    }
}

/// A name in wire form.
fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 6);
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// Appends a record of the name at offset `owner`.
fn record(msg: &mut Vec<u8>, owner: usize, rtype: u8, data: &[u8]) {
    msg.extend_from_slice(&[0xc0, owner as u8, 0, rtype, 0, 1]);
    msg.extend_from_slice(&TTL);
    msg.extend_from_slice(&[0, data.len() as u8]);
    msg.extend_from_slice(data);
}
