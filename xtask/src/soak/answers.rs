//! What is right: an answer is a function of the name and the type alone, so that any client can
//! know it.
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

use fastrand::Rng;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{CNAME, TXT},
    },
};
use lab::{Received, message};

/// Popular names.
pub(super) const POPULAR: usize = 1000;
/// The largest UDP response. What Heimdall offers is a little more; it has to come back over TCP.
const UDP_SIZE: usize = 1200;
/// Octets of a header, and of a question's type and class.
const HEADER: usize = 12;
const TYPE_AND_CLASS: usize = 4;

/// What clients ask.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// In lower case, without the dot at the end.
    pub(super) name: String,
    pub(super) qtype: RecordType,
}

impl Question {
    /// The question for a name; the type is the name's own.
    pub(super) fn new(name: String) -> Self {
        let types = [
            RecordType::A,
            RecordType::A,
            RecordType::A,
            RecordType::AAAA,
            RecordType::TXT,
        ];
        let qtype = types[random(&name).usize(..types.len())];
        Self { name, qtype }
    }

    /// The rank of a popular name.
    pub(super) fn rank(&self) -> Option<usize> {
        let (label, zone) = self.name.split_once('.')?;
        let rank = label.strip_prefix('w')?.parse().ok()?;
        (zone == "popular.soak.example" && rank < POPULAR).then_some(rank)
    }

    /// The whole right answer, as a response without ID.
    fn answer(&self) -> Message {
        let mut random = random(&self.name);
        let query = message::query(0, &self.name, self.qtype);
        let mut response = message::response(&query);
        let mut owner = query.queries[0].name().clone();
        let ttl = random.u32(1..=30);
        let kind = random.u32(..100);
        let negative = |response: &mut Message, minimum| {
            let zone = message::name("soak.example");
            response.add_authority(message::soa(&zone, minimum, minimum));
        };
        match kind {
            _ if self.name.ends_with(".flood.soak.example") => {
                negative(&mut response, 60);
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            _ if self.qtype == RecordType::TXT => {
                let letters = vec![0; random.usize(100..4100)];
                let letters = letters.iter().map(|_| random.lowercase() as u8);
                let strings = letters.collect::<Vec<_>>();
                let strings = strings
                    .chunks(255)
                    .map(|string| String::from_utf8_lossy(string).into());
                let data = RData::TXT(TXT::new(strings.collect()));
                response.add_answer(Record::from_rdata(owner, ttl, data));
            }
            0..20 => {
                negative(&mut response, ttl.min(8));
                if kind < 12 {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
            }
            _ => {
                // One in four is at the end of a chain.
                let links = if kind.is_multiple_of(4) {
                    random.usize(1..=4)
                } else {
                    0
                };
                for link in 0..links {
                    let target = message::name(&format!("c{link}.{}", message::lower_case(&owner)));
                    let data = RData::CNAME(CNAME(target.clone()));
                    response.add_answer(Record::from_rdata(owner, random.u32(1..=30), data));
                    owner = target;
                }
                for _ in 0..random.usize(1..=8) {
                    let mut data = [0; 16];
                    random.fill(&mut data);
                    let len = if self.qtype == RecordType::A { 4 } else { 16 };
                    response.add_answer(message::record(&owner, self.qtype, ttl, &data[..len]));
                }
            }
        }
        response
    }

    /// `response` on the wire with the ID and the question of `query`, whose letters may be of
    /// either case.
    fn reply(&self, query: &[u8], response: &Message) -> Vec<u8> {
        let mut octets = message::octets(response);
        let end = HEADER + self.name.len() + 2 + TYPE_AND_CLASS;
        octets[..2].copy_from_slice(&query[..2]);
        octets[HEADER..end].copy_from_slice(&query[HEADER..end]);
        octets
    }

    /// The whole right reply to `query`, which asks this question.
    pub(super) fn right_reply(&self, query: &[u8]) -> Vec<u8> {
        self.reply(query, &self.answer())
    }
}

/// What is known of the popular names, in milliseconds since the start.
#[derive(Debug)]
pub(super) struct Ledger {
    start: Instant,
    asked: Vec<AtomicU64>,
    flushed: Vec<AtomicU64>,
    /// Flushes before this do not count.
    forgotten: AtomicU64,
    /// Questions that clients asked.
    pub(super) sent: AtomicU64,
    /// Those that came to the upstream.
    pub(super) missed: AtomicU64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let times = || (0..POPULAR).map(|_| AtomicU64::new(0)).collect();
        Self {
            start: Instant::now(),
            asked: times(),
            flushed: times(),
            forgotten: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            missed: AtomicU64::new(0),
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
        let flushed = self.flushed[rank].load(Relaxed);
        match flushed > self.forgotten.load(Relaxed) {
            true => Duration::from_millis(flushed),
            false => Duration::ZERO,
        }
    }

    /// Notes that the answers for a name were flushed at this time, or a little later.
    pub(super) fn note_flush(&self, rank: usize, time: Duration) {
        self.flushed[rank].store(time.as_millis() as u64, Relaxed);
    }

    /// Has flushes up to now not count: the server begins with an older cache.
    pub(super) fn forget_flushes(&self) {
        let now = self.now().as_millis() as u64;
        self.forgotten.store(now, Relaxed);
    }

    /// The upstream's script.
    pub(super) fn responses(&self, query: &Received) -> Vec<Vec<u8>> {
        let (Some(asked), Some(name)) = (query.message(), query.name()) else {
            return vec![];
        };
        let qtype = asked.queries[0].query_type();
        let question = Question { name, qtype };
        if let Some(rank) = question.rank() {
            self.asked[rank].store(self.now().as_millis() as u64, Relaxed);
            self.missed.fetch_add(1, Relaxed);
        }
        if question.name.ends_with(".flaky.soak.example") {
            let period = self.now().as_secs() / 4;
            match random(&format!("{period} {}", question.name)).u8(..3) {
                0 => {
                    let mut failure = message::response(&asked);
                    failure.metadata.response_code = ResponseCode::ServFail;
                    return vec![message::octets(&failure)];
                }
                1 => return vec![],
                _ => {}
            }
        }
        let whole = question.right_reply(&query.msg);
        if query.tcp || whole.len() <= UDP_SIZE {
            return vec![whole];
        }
        vec![message::truncated(&asked)]
    }
}

/// Random numbers that are a name's own.
fn random(name: &str) -> Rng {
    let seed = |sum: u64, octet: u8| sum.wrapping_mul(31).wrapping_add(octet.into());
    Rng::with_seed(name.bytes().fold(1, seed))
}
