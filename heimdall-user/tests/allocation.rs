//! The engine allocates nothing: for a hit, for a miss, for a query that is refused or dropped, for an
//! outcome; and neither does an insertion, be the cache full or not, nor a response that is taken in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{net::UdpSocket, sync::Arc};

use counting::of_this_thread as allocations;
use frames::Worker;
use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::Cache,
    clock::Clock,
    dns::{Answer, NameHasher, ResponseReader, TtlLimits, reply::ReplySettings},
    forward::{ForwardOptions, ForwarderBuilder, Mailbox},
    front::BATCH,
    stats::{AnswerCounters, DropCounters},
    tap::{Rate, Rates, Taps},
    tier::{Nominations, Nominator},
};

mod counting;

#[path = "../../benches/frames.rs"]
#[expect(unreachable_pub, reason = "it is public in the benches")]
mod frames;

#[path = "../../benches/responses.rs"]
#[expect(unreachable_pub, reason = "it is public in the benches")]
mod responses;

/// Offset of the DNS message in a frame.
const DNS: usize = 42;

/// A query for `name.` type A with EDNS, in a UDP packet over IPv4, without a UDP checksum.
fn frame(name: &[u8]) -> Vec<u8> {
    let mut dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
    dns.push(name.len() as u8);
    dns.extend_from_slice(name);
    dns.extend_from_slice(b"\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0");
    let udp_len = (8 + dns.len()) as u16;
    let ip_len = (20 + udp_len).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend_from_slice(&[
        0x45, 0, ip_len[0], ip_len[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ]);
    frame.extend_from_slice(&[0x9c, 0x40, 0, 53]);
    frame.extend_from_slice(&udp_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&dns);
    frame.resize(256, 0);
    frame
}

fn core(bytes: usize) -> (Core, Arc<AnswerCounters>) {
    let counters = Arc::new(AnswerCounters::default());
    let core = Core::new(
        Cache::new(bytes).unwrap(),
        NameHasher::default(),
        ReplySettings::new(1232, true),
        Arc::default(),
        counters.clone(),
        Arc::new(DropCounters::default()),
    );
    (core, counters)
}

fn names(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| format!("Name{i}").into_bytes())
        .collect()
}

/// Inserts an answer to the query in `frame`. Making one allocates, inserting it must not.
fn insert(core: &mut Core, frame: &[u8]) {
    let query = core.read(&frame[DNS..]).unwrap();
    let mut response = frame[DNS..DNS + usize::from(query.question_end)].to_vec();
    response[2] = 0x81;
    response[7] = 1;
    response[11] = 0;
    let question = response[12..].to_vec();
    response.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x01\x02\x03");
    let answer = Answer::from_response(&response, &question, 0, &TtlLimits::default()).unwrap();
    assert_eq!(allocations(|| core.insert(&query, &response, &answer)), 0);
}

/// Puts packets into the worker's frames, from `first` on, and answers them. Returns the allocations of that.
fn answer<'a>(
    worker: &mut Worker,
    first: usize,
    packets: impl IntoIterator<Item = &'a Vec<u8>>,
) -> u64 {
    let mut end = first;
    for (frame, packet) in worker.memory.frames[first..].iter_mut().zip(packets) {
        frame.octets[..packet.len()].copy_from_slice(packet);
        frame.len = packet.len();
        end += 1;
    }
    worker.begin();
    allocations(|| worker.answer(first..end))
}

/// Samples every query, for all that samples are for.
fn every_query() -> Taps {
    let all = Some(Rate::one_in(1));
    Taps::new(Rates {
        popular: all,
        dnstap: all,
        log: all,
        forwarder: None,
    })
}

#[test]
fn hits_do_not_allocate() {
    hits(&Taps::default(), None);
}

#[test]
fn hits_that_are_sampled_do_not_allocate() {
    let taps = every_query();
    hits(&taps, None);
    let mut samples = 0;
    let copied = allocations(|| {
        taps.drain(|_| samples += 1);
    });
    // The list of the rings is copied.
    assert!(copied <= 1, "{copied}");
    // Nothing took any meanwhile: the ring is full, and what did not fit was dropped.
    assert_eq!(samples, 512);
    assert_eq!(taps.drain(|_| ()), 0);
}

#[test]
fn hits_that_are_nominated_do_not_allocate() {
    let nominations = Arc::<Nominations>::default();
    nominations.open();
    hits(&Taps::default(), Some(nominations.nominator()));
    let mut count = 0;
    assert_eq!(
        allocations(|| {
            nominations.drain(|_| count += 1);
        }),
        0
    );
    // Nothing took any meanwhile: the ring is full, and what did not fit was dropped.
    assert_eq!(count, 256);
}

fn hits(taps: &Taps, nominator: Option<Nominator>) {
    const BATCHES: usize = 2000;
    let (mut core, counters) = core(4 << 20);
    let frames: Vec<Vec<u8>> = names(10_000).iter().map(|name| frame(name)).collect();
    core.begin(Clock::start().now());
    for frame in &frames {
        insert(&mut core, frame);
    }
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        &frames[(state >> 33) as usize % frames.len()]
    };
    let tap = taps.front();
    let mut worker = Worker::disconnected(core, BATCH, false, tap);
    if let Some(nominator) = nominator {
        worker.nominate_to(nominator);
    }
    let mut replies = 0;
    for size in [1, BATCH] {
        for _ in 0..BATCHES {
            let batch: Vec<_> = (0..size).map(|_| next()).collect();
            assert_eq!(answer(&mut worker, 0, batch), 0, "a batch of {size}");
            replies += worker.memory.replied.len();
        }
    }
    assert_eq!(replies, BATCHES * (1 + BATCH));
    assert_eq!(counters.hits.get(), replies as u64);
}

#[test]
fn inserting_into_a_full_cache_does_not_allocate() {
    let (mut core, counters) = core(1 << 18);
    let client = Client::new(
        [10, 0, 0, 2].into(),
        Transport::Udp {
            source_port: 40_000,
        },
    );
    for name in names(20_000) {
        let mut frame = frame(&name);
        insert(&mut core, &frame);
        // Every other name is queried again, so that some are reinserted in the main queue.
        if name.last().is_some_and(|digit| digit % 2 == 0) {
            let query = core.read(&frame[DNS..]).unwrap();
            let hint = core.prefetch_entry(&query);
            let verdict = core.answer_at(hint, &query, &mut frame[DNS..], client);
            assert!(matches!(verdict, Verdict::Reply { .. }));
        }
    }
    assert!(counters.cache_evictions.get() > 10_000);
    assert_eq!(counters.cache_insertions.get(), 20_000);
}

#[test]
fn taking_responses_in_does_not_allocate() {
    let responses = responses::all();
    let (mut reader, mut answer) = (ResponseReader::default(), Answer::default());
    let mut read = |number: usize, msg: &[u8]| {
        let response = &responses[number];
        let limits = TtlLimits::default();
        reader.read(
            msg,
            &response.question,
            response.flags,
            &limits,
            &mut answer,
        )
    };
    // Names that are left out at the front, so that the others are rewritten.
    let rewritten: Vec<_> = responses
        .iter()
        .map(responses::with_a_record_to_leave_out)
        .collect();
    for round in 0..3 {
        for (number, response) in responses.iter().enumerate() {
            let mut results = [Ok(()); 2];
            let allocated = allocations(|| {
                results = [&response.msg, &rewritten[number]].map(|msg| read(number, msg));
            });
            assert_eq!(results, [Ok(()); 2], "{}", response.kind);
            // The first round makes room.
            assert!(
                round == 0 || allocated == 0,
                "{}: {allocated}",
                response.kind
            );
        }
    }
    let alone = allocations(|| read(0, &responses[0].msg).unwrap());
    assert_eq!(alone, 0);
    let whole = allocations(|| {
        let response = &responses[0];
        let limits = TtlLimits::default();
        Answer::from_response(&response.msg, &response.question, 0, &limits).unwrap();
    });
    assert!(whole > 0, "the count counts");
}

#[test]
fn misses_and_what_is_refused_do_not_allocate() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = ForwardOptions {
        upstreams: vec![silent.local_addr().unwrap().into()],
        ..ForwardOptions::default()
    };
    let (core, counters) = core(1 << 20);
    let mailbox = Arc::new(Mailbox::new(8).unwrap());
    let hasher = NameHasher::default();
    let forwarder = ForwarderBuilder::new(&settings, vec![Arc::clone(&mailbox)], hasher).unwrap();
    let forwarder = forwarder.start().unwrap();
    let taps = every_query();
    let tap = taps.front();
    let mut worker = Worker::new(core, forwarder.handle(), mailbox, 16, false, tap);

    let missing: Vec<_> = names(8).iter().map(|name| frame(name)).collect();
    assert_eq!(answer(&mut worker, 0, &missing), 0, "misses");
    assert_eq!((worker.waiting(), counters.misses.get()), (8, 8));
    assert_eq!(answer(&mut worker, 8, [&frame(b"ninth")]), 0, "overflow");
    assert_eq!((worker.waiting(), counters.servfail.get()), (8, 1));
    let mut malformed = frame(b"malformed");
    malformed[DNS + 12] = 0xc0;
    let mut runt = frame(b"runt");
    runt.truncate(20);
    assert_eq!(answer(&mut worker, 8, [&malformed, &runt]), 0, "refused");
    assert_eq!(worker.memory.replied, [8], "FORMERR");
    assert_eq!(worker.memory.discarded, [9]);
    // SERVFAIL for those that wait.
    drop(forwarder);
    worker.begin();
    let mut completed = 0;
    // The answers, which the forwarder has allocated, are freed here.
    assert_eq!(allocations(|| completed = worker.complete()), 0, "outcomes");
    assert_eq!((completed, worker.waiting()), (8, 0));
    assert_eq!(worker.memory.replied.len(), 8);
    let mut samples = 0;
    let copied = allocations(|| {
        taps.drain(|_| samples += 1);
    });
    // The list of the rings is copied.
    assert!(copied <= 1, "{copied}");
    assert_eq!(
        samples,
        8 + 1 + 1,
        "the runt is no DNS message that is read"
    );
    assert!(
        allocations(|| drop(std::hint::black_box(vec![1]))) > 0,
        "the count counts"
    );
}
