//! An upstream without a zone: what it says is a function of the name and the type alone, so that
//! whoever asks can know what is right.
//!
//! | name | what it is |
//! |---|---|
//! | `wN.popular.soak.example` | N is its rank; the ledger notes when it was asked |
//! | `tN.tail.soak.example` | asked once |
//! | `fN.flaky.soak.example` | now and then SERVFAIL, or silence |
//! | `….flood.soak.example` | does not exist, and may be known for a minute |

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::random::Random;

/// Popular names.
pub(super) const POPULAR: usize = 1000;

pub(super) const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
pub(super) const TXT: u16 = 16;
pub(super) const AAAA: u16 = 28;

pub(super) const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;

const HEADER: usize = 12;

/// The largest UDP reply. What Heimdall offers is a little more; it has to come back over TCP.
const UDP_SIZE: usize = 1200;

/// What clients ask.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Without the dot at the end.
    pub(super) name: String,
    pub(super) qtype: u16,
}

impl Question {
    /// The question for a name; the type is the name's own.
    pub(super) fn new(name: String) -> Self {
        let qtype = Random::new(hash(&name)).pick(&[A, A, A, AAAA, TXT]);
        Self { name, qtype }
    }

    /// The rank of a popular name.
    pub(super) fn rank(&self) -> Option<usize> {
        let (label, zone) = self.name.split_once('.')?;
        let rank = label.strip_prefix('w')?.parse().ok()?;
        (zone == "popular.soak.example" && rank < POPULAR).then_some(rank)
    }

    /// Reads a query; the length of header and question besides.
    fn read(message: &[u8]) -> Option<(Self, usize)> {
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let len = usize::from(*message.get(at)?);
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + len)?).to_lowercase());
            at += 1 + len;
        }
        let qtype = u16::from_be_bytes(*message.get(at + 1..)?.first_chunk()?);
        let name = labels.join(".");
        (message.len() >= at + 5).then_some((Self { name, qtype }, at + 5))
    }
}

/// What is known of the popular names, in milliseconds since the start.
#[derive(Debug)]
pub(super) struct Ledger {
    start: Instant,
    asked: Vec<AtomicU64>,
    flushed: Vec<AtomicU64>,
    /// Questions that clients asked, and that came here.
    pub(super) sent: AtomicU64,
    pub(super) came: AtomicU64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let times = || (0..POPULAR).map(|_| AtomicU64::new(0)).collect();
        Self {
            start: Instant::now(),
            asked: times(),
            flushed: times(),
            sent: AtomicU64::new(0),
            came: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// When the upstream was last asked for the name of this rank.
    pub(super) fn asked(&self, rank: usize) -> Duration {
        Duration::from_millis(self.asked[rank].load(Relaxed))
    }

    /// Since when no answer for the name of this rank may be older.
    pub(super) fn flushed(&self, rank: usize) -> Duration {
        Duration::from_millis(self.flushed[rank].load(Relaxed))
    }

    /// Notes that the answers for a name were flushed at this time, or a little later.
    pub(super) fn note_flush(&self, rank: usize, time: Duration) {
        self.flushed[rank].store(time.as_millis() as u64, Relaxed);
    }

    /// The upstream's replies to a message.
    pub(super) fn replies(&self, message: &[u8], over_tcp: bool) -> Vec<Vec<u8>> {
        let Some((question, len)) = Question::read(message) else {
            return Vec::new();
        };
        if let Some(rank) = question.rank() {
            self.asked[rank].store(self.now().as_millis() as u64, Relaxed);
            self.came.fetch_add(1, Relaxed);
        }
        if question.name.ends_with(".flaky.soak.example") {
            match Random::new(hash(&question.name) ^ (self.now().as_secs() / 4)).below(3) {
                0 => return vec![Reply::new(message, len).end(SERVFAIL)],
                1 => return Vec::new(),
                _ => {}
            }
        }
        let whole = right_reply(message).unwrap_or_default();
        if over_tcp || whole.len() <= UDP_SIZE {
            return vec![whole];
        }
        let mut cut = Reply::new(message, len).end(0);
        cut[2] |= 0x02;
        vec![cut]
    }
}

/// The whole right reply to a query.
pub(super) fn right_reply(message: &[u8]) -> Option<Vec<u8>> {
    let (question, len) = Question::read(message)?;
    let mut random = Random::new(hash(&question.name) ^ u64::from(question.qtype) << 32);
    let mut reply = Reply::new(message, len);
    let zone = question.name.split_once('.')?.1;
    if zone == "flood.soak.example" {
        reply.denial(60);
        return Some(reply.end(NXDOMAIN));
    }
    let ttl = 1 + random.below(30) as u32;
    let kind = random.below(100);
    Some(match (question.qtype, kind) {
        (TXT, _) => {
            let len = 100 + random.below(4000);
            reply.record(&question.name, TXT, ttl, &text(&mut random, len));
            reply.end(0)
        }
        (_, 0..12) => {
            reply.denial(ttl.min(8));
            reply.end(NXDOMAIN)
        }
        (_, 12..20) => {
            reply.denial(ttl.min(8));
            reply.end(0)
        }
        (qtype, kind) => {
            let mut owner = question.name;
            // One in four is at the end of a chain.
            for link in 0..(kind % 4 == 0) as usize * (1 + random.below(4)) {
                let target = format!("c{link}.{owner}");
                let ttl = 1 + random.below(30) as u32;
                reply.record(&owner, CNAME, ttl, &wire_name(&target));
                owner = target;
            }
            let octets = if qtype == A { 4 } else { 16 };
            for _ in 0..1 + random.below(8) {
                let address = random.octets(octets);
                reply.record(&owner, qtype, ttl, &address);
            }
            reply.end(0)
        }
    })
}

/// A reply that is being written.
struct Reply {
    octets: Vec<u8>,
    question: String,
    answers: u8,
    authorities: u8,
}

impl Reply {
    /// The reply to a message whose header and question have so many octets.
    fn new(message: &[u8], len: usize) -> Self {
        let mut octets = message[..len].to_vec();
        octets[2] = 0x80 | (octets[2] & 0x01);
        octets[6..HEADER].fill(0);
        Self {
            octets,
            question: Question::read(message).map_or(String::new(), |(question, _)| question.name),
            answers: 0,
            authorities: 0,
        }
    }

    fn record(&mut self, owner: &str, rtype: u16, ttl: u32, data: &[u8]) {
        self.answers += 1;
        self.write(owner, rtype, ttl, data);
    }

    /// The SOA record that a denial comes with; it may be kept for so many seconds.
    fn denial(&mut self, minimum: u32) {
        self.authorities += 1;
        let mut data = [
            wire_name("ns.soak.example"),
            wire_name("admin.soak.example"),
        ]
        .concat();
        for number in [1, 3600, 600, 86_400, minimum] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        self.write("soak.example", SOA, minimum, &data);
    }

    fn write(&mut self, owner: &str, rtype: u16, ttl: u32, data: &[u8]) {
        if owner == self.question {
            self.octets.extend_from_slice(&[0xc0, HEADER as u8]);
        } else {
            self.octets.extend_from_slice(&wire_name(owner));
        }
        self.octets.extend_from_slice(&rtype.to_be_bytes());
        self.octets.extend_from_slice(&[0, 1]);
        self.octets.extend_from_slice(&ttl.to_be_bytes());
        self.octets
            .extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.octets.extend_from_slice(data);
    }

    fn end(mut self, rcode: u16) -> Vec<u8> {
        self.octets[3] = 0x80 | rcode as u8;
        self.octets[7] = self.answers;
        self.octets[9] = self.authorities;
        self.octets
    }
}

/// A name in wire form, without compression.
pub(super) fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// TXT data with so many octets of text.
fn text(random: &mut Random, len: usize) -> Vec<u8> {
    let octets: Vec<u8> = (0..len).map(|_| b'a' + random.below(26) as u8).collect();
    let strings = octets.chunks(255);
    strings
        .flat_map(|string| [&[string.len() as u8][..], string].concat())
        .collect()
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}
