#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    answer::{Core, Transport},
    cache::Cache,
    clock::Clock,
    dns::{NameHasher, reply::ReplySettings},
    forward::{
        ForwardOptions, Forwarder, ForwarderBuilder, Mailbox,
        testing::{Upstream, query, response},
    },
    latency::{Distribution, FrontLatency},
    maintenance::{Caches, Maintenance, Scope, Status},
    stats::{AnswerCounters, Counter},
    tap::{Origin, Rate, Rates, Tap, Taps},
    tier::Nominations,
};

/// Messages in memory.
#[derive(Default)]
struct Buffers {
    replies: Vec<Vec<u8>>,
    discarded: usize,
    overflow: Counter,
    /// The next message cannot be edited.
    unusable: bool,
}

impl Messages for Buffers {
    type Message = Vec<u8>;
    type Parked = Vec<u8>;

    fn received_len(&self, message: &Vec<u8>) -> usize {
        message.len()
    }

    fn edit(
        &mut self,
        message: &mut Vec<u8>,
        write: impl FnOnce(&mut [u8], Client) -> Verdict,
    ) -> Verdict {
        if std::mem::take(&mut self.unusable) {
            return Verdict::Drop;
        }
        let transport = Transport::Udp { source_port: 4000 };
        message.resize(1232, 0);
        let verdict = write(message, Client::new([10, 0, 0, 2].into(), transport));
        if let Verdict::Reply { reply, .. } = verdict {
            message.truncate(reply.len);
        }
        verdict
    }

    fn reply(&mut self, message: Vec<u8>, _: Option<&Query>) {
        self.replies.push(message);
    }

    fn discard(&mut self, _: Vec<u8>) {
        self.discarded += 1;
    }

    fn park(&mut self, message: Vec<u8>, query: &Query) -> Vec<u8> {
        message[..query.needed()].to_vec()
    }

    fn resume(&mut self, parked: Vec<u8>) -> Vec<u8> {
        parked
    }

    fn count_overflow(&self) {
        self.overflow.add(1);
    }
}

/// An engine with a forwarder behind it.
struct Front {
    engine: Engine<Vec<u8>>,
    batch: Batch<Vec<u8>>,
    buffers: Buffers,
    forwarder: Forwarder,
    answers: Arc<AnswerCounters>,
    latency: Arc<FrontLatency>,
    caches: Caches,
}

impl Front {
    fn new(upstream: &Upstream, max_waiting: usize) -> Self {
        Self::with_tap(upstream, max_waiting, Tap::default())
    }

    /// One that samples queries.
    fn with_tap(upstream: &Upstream, max_waiting: usize, tap: Tap) -> Self {
        let mailbox = Arc::new(Mailbox::new(max_waiting).unwrap());
        let settings = ForwardOptions {
            upstreams: vec![upstream.address.into()],
            ..ForwardOptions::default()
        };
        let hasher = NameHasher::default();
        let prepared = ForwarderBuilder::new(&settings, vec![Arc::clone(&mailbox)], hasher.clone());
        let forwarder = prepared.unwrap().start().unwrap();
        let answers = Arc::<AnswerCounters>::default();
        let core = Core::new(
            Cache::new(8 << 20).unwrap(),
            hasher,
            ReplySettings::new(1232, false),
            Arc::default(),
            Arc::clone(&answers),
            Arc::default(),
        );
        let maintenance = Maintenance::new(|| {});
        let caches = Caches {
            forwarder: Vec::new(),
            fronts: vec![("front".to_owned(), maintenance.queue())],
        };
        let latency = Arc::<FrontLatency>::default();
        let engine = Engine::new(Resources {
            core,
            maintenance,
            forwarder: forwarder.handle(),
            mailbox,
            front: 0,
            clock: Clock::start(),
            latency: Arc::clone(&latency),
            tap,
        });
        Self {
            engine,
            batch: Batch::new(),
            buffers: Buffers::default(),
            forwarder,
            answers,
            latency,
            caches,
        }
    }

    /// Answers a batch of these messages.
    fn ask(&mut self, messages: impl IntoIterator<Item = Vec<u8>>) {
        self.engine.begin();
        for message in messages {
            let query = self.engine.read(&message);
            self.batch.push(message, query);
        }
        self.engine.answer(&mut self.batch, &mut self.buffers);
        self.engine.end();
    }

    /// Completes outcomes until `replies` messages have been replied to.
    fn complete(&mut self, replies: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.buffers.replies.len() < replies {
            self.engine.begin();
            self.engine.complete(&mut self.buffers);
            self.engine.sent();
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Front {
    /// How many hits and misses have their latency recorded.
    fn recorded(&self) -> [u64; 2] {
        let FrontLatency { hits, misses } = &*self.latency;
        [hits, misses].map(|histogram| Distribution::of([histogram]).count())
    }
}

fn rcode(reply: &[u8]) -> u8 {
    reply[3] & 15
}

#[test]
fn an_answer_that_queries_share_is_inserted_once() {
    // Slow, so that all three wait for one upstream query.
    let upstream = Upstream::start(|seen| {
        thread::sleep(Duration::from_millis(200));
        vec![response(&seen.msg, 20)]
    });
    let mut front = Front::new(&upstream, 8);
    front.ask((1..=3).map(|id| query(id, "name", None)));
    assert_eq!(front.engine.waiting(), 3);
    // Their outcomes arrive together.
    thread::sleep(Duration::from_millis(500));
    front.complete(3);
    assert_eq!(front.engine.outstanding(), 0);
    assert_eq!(front.answers.cache_insertions.get(), 1);
    let mut ids: Vec<u8> = front.buffers.replies.iter().map(|reply| reply[1]).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    front.ask([query(4, "name", None)]);
    assert_eq!(front.answers.hits.get(), 1);
    assert_eq!(front.buffers.replies[3][7], 1, "an answer");
    drop(front.forwarder);
}

#[test]
fn a_message_that_became_unusable_leaves_the_insertion_to_the_next() {
    let upstream = Upstream::start(|seen| {
        thread::sleep(Duration::from_millis(200));
        vec![response(&seen.msg, 20)]
    });
    let mut front = Front::new(&upstream, 8);
    front.ask((1..=2).map(|id| query(id, "name", None)));
    thread::sleep(Duration::from_millis(500));
    front.buffers.unusable = true;
    front.complete(1);
    assert_eq!(front.buffers.discarded, 1);
    assert_eq!(front.recorded(), [0, 1], "only the one that has a reply");
    assert_eq!(front.answers.cache_insertions.get(), 1);
    drop(front.forwarder);
}

#[test]
fn latency_is_recorded_once_for_each_reply_when_it_is_sent() {
    const DELAY: Duration = Duration::from_millis(50);
    let upstream = Upstream::start(|seen| {
        thread::sleep(DELAY);
        vec![response(&seen.msg, 20)]
    });
    let mut front = Front::new(&upstream, 8);
    front.ask((1..=3).map(|id| query(id, "name", None)));
    front.engine.sent();
    assert_eq!(front.recorded(), [0, 0], "they wait");
    front.complete(3);
    assert_eq!(front.recorded(), [0, 3]);
    let misses = Distribution::of([&front.latency.misses]);
    assert!(misses.sum() >= 3.0 * DELAY.as_secs_f64(), "{misses:?}");
    front.ask((4..=5).map(|id| query(id, "name", None)));
    assert_eq!(front.recorded(), [0, 3], "not sent yet");
    for _ in 0..2 {
        front.engine.sent();
        assert_eq!(front.recorded(), [2, 3]);
    }
    drop(front.forwarder);
}

#[test]
fn overflow_counts_every_miss_that_is_not_handed_over() {
    let silent = Upstream::start(|_| Vec::new());
    let mut front = Front::new(&silent, 2);
    front.ask((1..=3).map(|id| query(id, &format!("n{id}"), None)));
    assert_eq!(front.engine.waiting(), 2);
    assert_eq!(front.buffers.overflow.get(), 1, "the table is full");
    // SERVFAIL for those that wait.
    drop(front.forwarder);
    let mut front = Front {
        forwarder: Front::new(&silent, 2).forwarder,
        ..front
    };
    front.complete(3);
    front.ask([query(4, "n4", None)]);
    assert_eq!(front.engine.waiting(), 0);
    assert_eq!(
        front.buffers.overflow.get(),
        2,
        "the forwarder takes nothing"
    );
    assert_eq!(front.buffers.replies.len(), 4);
    assert!(front.buffers.replies.iter().all(|reply| rcode(reply) == 2));
    drop(front.forwarder);
}

#[test]
fn what_is_no_query_is_replied_to_or_discarded() {
    let silent = Upstream::start(|_| Vec::new());
    let mut front = Front::new(&silent, 2);
    let good = query(1, "name", None);
    let mut response = good.clone();
    response[2] |= 0x80;
    let mut two_questions = good.clone();
    two_questions[5] = 2;
    front.ask([response, good[..11].to_vec(), two_questions]);
    assert_eq!(front.buffers.discarded, 2);
    assert_eq!(rcode(&front.buffers.replies[0]), 1, "FORMERR");
    assert_eq!(front.engine.waiting(), 0);
    drop(front.forwarder);
}

#[test]
fn a_blocked_copy_is_no_work_and_a_flush_goes_on_beside_it() {
    let upstream = Upstream::start(|seen| vec![response(&seen.msg, 1000)]);
    let mut front = Front::new(&upstream, 1024);
    const NAMES: u16 = 600;
    for first in (0..NAMES).step_by(BATCH) {
        let last = NAMES.min(first + BATCH as u16);
        front.ask((first..last).map(|id| query(id, &format!("n{id}"), Some(1232))));
        front.complete(last.into());
    }
    let mut maintain_until = |status: Status| {
        let end = Instant::now() + Duration::from_secs(20);
        while front.engine.maintain() != status {
            assert!(Instant::now() < end, "never {status:?}");
        }
    };
    // Populating comes first, in steps that are not due at once.
    maintain_until(Status::Blocked);
    maintain_until(Status::Idle);
    let caches = front.caches.clone();
    let (begin, wait) = std::sync::mpsc::channel::<()>();
    let copy = thread::spawn(move || {
        let mut octets = 0;
        let copied = caches.copy(Scope::All, |_, records| {
            // Blocks at the first chunk until the test is done.
            let _ = wait.recv();
            octets += records.len();
            Ok::<_, ()>(())
        });
        copied.unwrap();
        octets
    });
    maintain_until(Status::Blocked);
    assert_eq!(Status::Blocked.timeout(), Some(Duration::from_millis(1)));
    let caches = front.caches.clone();
    let flush = thread::spawn(move || caches.flush(Scope::name("n7").unwrap()));
    let end = Instant::now() + Duration::from_secs(20);
    while !flush.is_finished() {
        assert!(Instant::now() < end);
        front.engine.maintain();
    }
    flush.join().unwrap();
    drop(begin);
    while !copy.is_finished() {
        front.engine.maintain();
    }
    assert!(copy.join().unwrap() > usize::from(NAMES) * 900);
    drop(front.forwarder);
}

#[test]
fn samples_say_what_became_of_their_queries() {
    let upstream = Upstream::start(|seen| vec![response(&seen.msg, 20)]);
    let taps = Taps::new(Rates {
        dnstap: Some(Rate::one_in(1)),
        log: Some(Rate::one_in(1)),
        ..Rates::default()
    });
    let mut front = Front::with_tap(&upstream, 8, taps.front());
    let asked = query(1, "name", Some(1232));
    front.ask([asked.clone()]);
    let mut samples = Vec::new();
    taps.drain(|_| panic!("its reply has yet to come"));
    front.complete(1);
    let mut response = asked.clone();
    response[2] |= 0x80;
    let mut malformed = query(2, "name", None);
    malformed[5] = 2;
    front.ask([asked.clone(), response.clone(), malformed]);
    taps.drain(|sample| {
        let reply = sample.reply().map(<[u8]>::to_vec);
        samples.push((sample.query().unwrap().to_vec(), reply, sample.origin));
    });
    let replies = &front.buffers.replies;
    let expected = [
        (asked.clone(), Some(replies[0].clone()), Origin::Miss),
        (asked, Some(replies[1].clone()), Origin::Hit),
        (response, None, Origin::Server),
    ];
    assert_eq!(samples[..3], expected);
    assert_eq!(
        (&samples[3].1, samples[3].2),
        (&Some(replies[2].clone()), Origin::Server)
    );
    assert_eq!(samples.len(), 4);
    drop(front.forwarder);
}

#[test]
fn a_message_that_became_unusable_gives_its_sample_back() {
    let upstream = Upstream::start(|seen| vec![response(&seen.msg, 20)]);
    let taps = Taps::new(Rates {
        dnstap: Some(Rate::one_in(1)),
        ..Rates::default()
    });
    let mut front = Front::with_tap(&upstream, 8, taps.front());
    front.ask([query(1, "name", None)]);
    front.buffers.unusable = true;
    let end = Instant::now() + Duration::from_secs(20);
    while front.buffers.discarded == 0 {
        front.engine.begin();
        front.engine.complete(&mut front.buffers);
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
    let mut replies = Vec::new();
    taps.drain(|sample| replies.push(sample.reply().map(<[u8]>::to_vec)));
    assert_eq!(replies, [None]);
    drop(front.forwarder);
}

#[test]
fn popular_answers_are_nominated_one_in_32_while_nominations_are_taken() {
    let upstream = Upstream::start(|seen| vec![response(&seen.msg, 20)]);
    let mut front = Front::new(&upstream, 8);
    let nominations = Arc::<Nominations>::default();
    front.engine.nominate_to(nominations.nominator());
    front.ask([query(1, "name", None)]);
    front.complete(1);
    front.buffers.replies.clear();
    let mut nominated = |asked: &[u8]| {
        for _ in 0..30 {
            front.ask((1..=64).map(|_| asked.to_vec()));
            assert_eq!(front.buffers.replies.drain(..).count(), 64);
        }
        nominations.drain(|_| ())
    };
    let plain = query(1, "name", Some(1232));
    assert_eq!(nominated(&plain), 0);
    nominations.open();
    // 60 on average; four standard deviations are 19.
    let count = nominated(&plain);
    assert!((41..80).contains(&count), "{count}");
    // Workers alone answer those with a client cookie.
    let mut with_cookie = plain[..plain.len() - 2].to_vec();
    with_cookie.extend_from_slice(b"\0\x0c\0\x0a\0\x0812345678");
    assert_eq!(nominated(&with_cookie), 0);
    drop(front.forwarder);
}
