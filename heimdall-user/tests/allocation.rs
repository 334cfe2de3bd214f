//! A hit allocates nothing, and neither does any query that is refused or dropped, nor what is learnt,
//! be the cache full or not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    alloc::{GlobalAlloc, Layout as AllocLayout, System},
    cell::Cell,
    sync::Arc,
};

use heimdall_user::{
    answer::{Core, Hint, Verdict},
    cache::Cache,
    dns::{
        Answer, NameHasher, TtlLimits,
        reply::{Reply, Server},
    },
    packet::{Layout, SourceFilter},
    stats::{AnswerCounters, DropCounters},
    worker::client,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: AllocLayout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: AllocLayout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

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
    frame.resize(2048, 0);
    frame
}

/// What a worker does with a packet.
fn handle(core: &mut Core, sources: &SourceFilter, frame: &mut [u8]) -> Verdict {
    let layout = Layout::read(frame, sources, false).unwrap();
    let query = core.read(layout.query(frame));
    let packet = layout.open(frame, 1500).unwrap();
    let client = client(&packet);
    let verdict = match &query {
        Ok(query) => {
            core.prefetch(query);
            core.answer(query, packet.room, client)
        }
        Err(malformed) => core.reject(*malformed, packet.room, client),
    };
    if let Verdict::Reply(Reply { len, sum }) = verdict {
        packet.into_reply(len, sum).unwrap();
    }
    verdict
}

fn core(bytes: usize) -> (Core, Arc<AnswerCounters>) {
    let counters = Arc::new(AnswerCounters::default());
    let core = Core::new(
        Cache::new(bytes).unwrap(),
        NameHasher::default(),
        Server::new(1232, true),
        Arc::default(),
        counters.clone(),
        Arc::new(DropCounters::default()),
    );
    (core, counters)
}

fn sources() -> SourceFilter {
    SourceFilter::new(["10.0.0.1".parse().unwrap()])
}

fn names(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| format!("Name{i}").into_bytes())
        .collect()
}

/// Has the core learn an answer to the query in `frame`. To make one allocates, to keep it must not.
fn learn(core: &mut Core, frame: &[u8]) {
    let layout = Layout::read(frame, &sources(), false).unwrap();
    let query = core.read(layout.query(frame)).unwrap();
    let mut response = layout.query(frame)[..usize::from(query.question_end)].to_vec();
    response[2] = 0x81;
    response[7] = 1;
    response[11] = 0;
    let question = response[12..].to_vec();
    response.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x01\x02\x03");
    let answer = Answer::from_response(&response, &question, 0, &TtlLimits::default()).unwrap();
    assert_eq!(allocations(|| core.learn(&query, &response, &answer)), 0);
}

#[test]
fn hits_at_random_do_not_allocate() {
    const HITS: usize = 100_000;
    const BATCH: usize = 64;
    let (mut core, counters) = core(4 << 20);
    let sources = sources();
    let frames: Vec<Vec<u8>> = names(10_000).iter().map(|name| frame(name)).collect();
    for frame in &frames {
        learn(&mut core, frame);
    }
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % frames.len()
    };

    let mut buf = [0; 2048];
    let count = allocations(|| {
        for _ in 0..HITS {
            buf.copy_from_slice(&frames[next()]);
            let verdict = handle(&mut core, &sources, &mut buf);
            assert!(matches!(verdict, Verdict::Reply(_)));
        }
    });
    assert_eq!(count, 0, "one at a time");

    let mut bufs = vec![[0; 2048]; BATCH];
    let mut staged = Vec::with_capacity(BATCH);
    let count = allocations(|| {
        for _ in 0..HITS.div_ceil(BATCH) {
            for buf in &mut bufs {
                buf.copy_from_slice(&frames[next()]);
                let layout = Layout::read(buf, &sources, false).unwrap();
                let query = core.read(layout.query(buf)).unwrap();
                core.prefetch(&query);
                staged.push((layout, query, Hint::default()));
            }
            for (_, query, hint) in &mut staged {
                *hint = core.prefetch_entry(query);
            }
            for ((layout, query, hint), buf) in staged.drain(..).zip(&mut bufs) {
                let packet = layout.open(buf, 1500).unwrap();
                let client = client(&packet);
                let verdict = core.answer_at(hint, &query, packet.room, client);
                assert!(matches!(verdict, Verdict::Reply(_)));
            }
        }
    });
    assert_eq!(count, 0, "in batches");
    assert!(counters.hits.get() >= 2 * HITS as u64);
}

#[test]
fn learning_in_a_full_cache_does_not_allocate() {
    let (mut core, counters) = core(1 << 18);
    let sources = sources();
    for name in names(20_000) {
        let mut frame = frame(&name);
        learn(&mut core, &frame);
        // Every other name is asked for again, so that some go round in the main queue.
        if name.last().is_some_and(|digit| digit % 2 == 0) {
            handle(&mut core, &sources, &mut frame);
        }
    }
    assert!(counters.cache_evictions.get() > 10_000);
    assert_eq!(counters.cache_insertions.get(), 20_000);
}

#[test]
fn the_hot_path_does_not_allocate() {
    let (mut core, _) = core(1 << 20);
    let sources = sources();
    let names = names(100);
    for name in &names {
        learn(&mut core, &frame(name));
    }
    let mut frames: Vec<Vec<u8>> = names.iter().map(|name| frame(name)).collect();
    let count = allocations(|| {
        for frame in &mut frames {
            assert!(matches!(
                handle(&mut core, &sources, frame),
                Verdict::Reply(_)
            ));
        }
    });
    assert_eq!(count, 0, "hits");

    let mut missing = frame(b"missing");
    assert_eq!(
        allocations(|| assert_eq!(handle(&mut core, &sources, &mut missing), Verdict::Miss)),
        0,
        "miss"
    );
    let mut malformed = frame(b"malformed");
    malformed[54] = 0xc0;
    let count = allocations(|| {
        assert!(matches!(
            handle(&mut core, &sources, &mut malformed),
            Verdict::Reply(Reply { len: 12, .. })
        ))
    });
    assert_eq!(count, 0, "FORMERR");
    assert!(
        allocations(|| drop(std::hint::black_box(vec![1]))) > 0,
        "the count counts"
    );
}
