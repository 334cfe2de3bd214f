//! No reply is made of two entries, however often entries are rewritten meanwhile: through the real program, with
//! the real maps.

use std::{
    env,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use aya::{
    TestRunOptions,
    programs::{TestRun as _, Xdp},
};
use etherparse::PacketBuilder;
use heimdall_ebpf::PROGRAM;

use super::*;
use crate::{checksum, xdp::load_for_tests};

/// Replies that are checked, unless this environment variable says another number.
const REPLIES: u64 = 100_000;
const VARIABLE: &str = "HEIMDALL_TORN_REPLIES";

/// Questions that are asked. Each has a few entries in the maps, of which one is live.
const QUESTIONS: u8 = 48;
/// The TTLs of all answers.
const TTL: u32 = 1 << 30;
/// The second in which version 0 of an answer was received; each version is a second younger.
const FIRST: u32 = BEGIN - (1 << 27);

const XDP_TX: u32 = 3;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER: [u8; 4] = [192, 0, 2, 1];
/// Offsets in a frame: of the IPv4 header, of its addresses, of the UDP header and of the message.
const IP: usize = 14;
const ADDRESSES: usize = IP + 12;
const UDP: usize = IP + 20;
const MESSAGE: usize = UDP + 8;
/// Octets of the message in front of the question; of the body in front of the TTL.
const HEADER: usize = 12;
const TTL_AT: usize = 6;

/// A question of its own length.
fn question_of(number: u8) -> Vec<u8> {
    let padding = "x".repeat(usize::from(number) % 40);
    question(&format!("q{number:02}{padding}"))
}

/// Octets that the data of versions consist of, each beginning at another place.
static PATTERN: [u8; 1024] = {
    let mut pattern = [0; 1024];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = at as u8;
        at += 1;
    }
    pattern
};

/// What follows the version and the question's number in the data of a version: length and octets follow from
/// it.
fn pattern(version: u32) -> &'static [u8] {
    &PATTERN[version as usize % 256..][..version as usize % 340]
}

/// The record of a version of an answer.
fn body(number: u8, version: u32) -> Vec<u8> {
    let mut body = b"\xc0\x0c\0\x01\0\x01".to_vec();
    body.extend(TTL.to_be_bytes());
    body.extend((5 + pattern(version).len() as u16).to_be_bytes());
    body.extend(version.to_be_bytes());
    body.push(number);
    body.extend(pattern(version));
    body
}

/// ANCOUNT and the response code of a version.
fn header(version: u32) -> (u8, u8) {
    (1 + (version % 7) as u8, 3 * (version % 2) as u8)
}

fn answer_of(number: u8, version: u32) -> Answer {
    let (count, rcode) = header(version);
    Answer::new(&AnswerFields {
        rcode,
        counts: [count.into(), 0, 0],
        body: &body(number, version),
        ttl_offsets: &[TTL_AT as u16],
        ttl: TTL,
        ..AnswerFields::default()
    })
}

/// A query for a question, in a frame.
fn query(number: u8) -> Vec<u8> {
    let mut message = vec![number, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(question_of(number));
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC)
        .ipv4([10, 0, 0, 9], SERVER, 64)
        .udp(40_000, 53)
        .write(&mut frame, &message)
        .unwrap();
    frame
}

/// What is expected of replies to a query.
struct Query {
    number: u8,
    frame: Vec<u8>,
    question: Vec<u8>,
}

impl Query {
    fn new(number: u8) -> Self {
        Self {
            number,
            frame: query(number),
            question: question_of(number),
        }
    }

    /// Checks every octet of a reply but those of addresses and ports. The clock was between these two seconds.
    fn check(&self, reply: &[u8], seconds: [u32; 2]) -> Result<(), String> {
        let (headers, message) = reply.split_at(MESSAGE);
        let body = HEADER + self.question.len();
        let [start, data] = [body + TTL_AT, body + TTL_AT + 6];
        if message.len() < data + 5 {
            return Err(format!("{} octets", message.len()));
        }
        let u32_at = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        let (ttl, version) = (u32_at(start), u32_at(data));
        let (count, rcode) = header(version);
        let [n0, n1] = (5 + pattern(version).len() as u16).to_be_bytes();
        let is_right = message[..HEADER]
            == [
                self.number,
                1,
                0x81,
                0x80 | rcode,
                0,
                1,
                0,
                count,
                0,
                0,
                0,
                0,
            ]
            && message[HEADER..body] == self.question
            && message[body..start] == *b"\xc0\x0c\0\x01\0\x01"
            && message[data - 2..data] == [n0, n1]
            && message[data + 4] == self.number
            && message[data + 5..] == *pattern(version);
        if !is_right {
            return Err(format!("version {version}: {message:02x?}"));
        }
        let received = FIRST + version;
        let [most, least] = seconds.map(|now| TTL - (now - received));
        if !(least..=most + 1).contains(&ttl) {
            return Err(format!("version {version}: TTL {ttl}"));
        }
        if checksum::fold(checksum::add(0, &headers[IP..UDP])) != [0xff; 2] {
            return Err(format!("version {version}: IPv4 checksum"));
        }
        let sum = checksum::add(0, &headers[ADDRESSES..]);
        let sum = checksum::add(checksum::add_u16(sum, 17), message);
        let sum = checksum::add_u16(sum, (reply.len() - UDP) as u16);
        if checksum::fold(sum) != [0xff; 2] {
            return Err(format!("version {version}: UDP checksum"));
        }
        Ok(())
    }
}

#[test]
fn no_reply_is_torn_while_entries_are_rewritten() {
    if !lab::available("no_reply_is_torn_while_entries_are_rewritten") {
        return;
    }
    let wanted = env::var(VARIABLE).map_or(REPLIES, |text| text.parse().unwrap());
    let settings = TierSettings {
        entries: u32::from(QUESTIONS),
    };
    let (ebpf, maps) = load_for_tests(settings.size(), MAC, (SERVER, 53).into());
    let program: &Xdp = ebpf.program(PROGRAM).unwrap().try_into().unwrap();
    let clock = Clock::start();
    let (monotonic, seconds) = clock.base().unwrap();
    let fixed = Config {
        seed: SEED,
        clock_zero: Config::clock_zero(monotonic, seconds),
        ..Config::default()
    };
    let shared = Shared::new(settings, fixed, clock, Box::new(|_, _| {}));
    shared.state().set_rules(rules());
    shared.state().attach("test", 1500, maps);
    let (version, answered, over) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (shared, version, answered, over) = (&shared, &version, &answered, &over);

    /// Ends the other threads, too, when one panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    thread::scope(|scope| {
        // Two workers, and promoters of their own: all questions get new answers again and again.
        for _ in 0..2 {
            scope.spawn(move || {
                let _end = End(over);
                let nominator = shared.nominations.nominator();
                while !over.load(Relaxed) {
                    for number in 0..QUESTIONS {
                        let version = version.fetch_add(1, Relaxed);
                        let answer = answer_of(number, version);
                        let question = question_of(number);
                        nominator.nominate(clock.seconds(), || {
                            Some(Offer {
                                refresh: BEGIN + (1 << 20),
                                ..offer(&question, &answer, FIRST + version)
                            })
                        });
                    }
                    promoter::round(shared, clock.seconds());
                }
            });
        }
        // Flushes, and now and then another policy.
        scope.spawn(move || {
            let _end = End(over);
            for turn in (0..=u8::MAX).cycle() {
                if over.load(Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
                if turn.is_multiple_of(16) {
                    shared.state().suspend();
                    shared.state().resume();
                } else {
                    let third = |question: &[u8]| question[3] % 3 == turn % 3;
                    shared.state().begin_forgetting(third);
                    shared.state().end_forgetting();
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(move || {
                let _end = End(over);
                let queries: Vec<Query> = (0..QUESTIONS).map(Query::new).collect();
                let mut reply = vec![0; 4096];
                let (mut last, mut progress) = (0, Instant::now());
                while answered.load(Relaxed) < wanted && !over.load(Relaxed) {
                    for query in &queries {
                        let before = clock.seconds();
                        let run = program
                            .test_run(TestRunOptions {
                                data_in: Some(&query.frame),
                                data_out: Some(&mut reply),
                                ..TestRunOptions::default()
                            })
                            .unwrap();
                        if run.return_value != XDP_TX {
                            continue;
                        }
                        let reply = &reply[..run.data_size_out as usize];
                        let seconds = [before, clock.seconds()];
                        if let Err(error) = query.check(reply, seconds) {
                            panic!("question {}: {error}", query.number);
                        }
                        last = answered.fetch_add(1, Relaxed);
                        progress = Instant::now();
                    }
                    assert!(progress.elapsed() < Duration::from_secs(20), "after {last}");
                }
            });
        }
    });
    let rewritten = version.load(Relaxed);
    assert!(rewritten > 1000, "{rewritten}");
    let counter = |name: &str| {
        let counters = shared.state().counters.list();
        counters.iter().find(|(found, _)| *found == name).unwrap().1
    };
    let (promotions, replacements) = (counter("promotions"), counter("replacements"));
    let answered = answered.load(Relaxed);
    println!("{answered} replies, {promotions} promotions, {replacements} replacements");
    assert!(replacements > 100, "{replacements}");
}
