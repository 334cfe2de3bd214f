//! A hit allocates nothing, and neither does any query that is refused or dropped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    alloc::{GlobalAlloc, Layout as AllocLayout, System},
    cell::Cell,
    sync::Arc,
};

use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::Cache,
    dns::{Answer, NameHasher, TtlLimits, reply::Server},
    packet::{Layout, SourceFilter},
    stats::{AnswerCounters, DropCounters},
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
    let client = Client {
        address: layout.source(frame),
        transport: Transport::Udp {
            source_port: layout.source_port(),
        },
    };
    let query = core.read(layout.query(frame));
    let room = layout.reply_room(frame, 1500);
    let verdict = match &query {
        Ok(query) => {
            core.prefetch(query);
            core.answer(query, room, &client)
        }
        Err(malformed) => core.reject(*malformed, room, &client),
    };
    if let Verdict::Reply(len) = verdict {
        layout.turn_round(frame, len).unwrap();
    }
    verdict
}

#[test]
fn the_hot_path_does_not_allocate() {
    let mut core = Core::new(
        Cache::new(1 << 20).unwrap(),
        NameHasher::default(),
        Server {
            udp_size: 1232,
            trust_ad: true,
        },
        Arc::default(),
        Arc::new(AnswerCounters::default()),
        Arc::new(DropCounters::default()),
    );
    let sources = SourceFilter::new(["10.0.0.1".parse().unwrap()]);
    let names: Vec<Vec<u8>> = (0..100).map(|i| format!("Name{i}").into_bytes()).collect();
    for name in &names {
        let bytes = frame(name);
        let dns = Layout::read(&bytes, &sources, false).unwrap();
        let query = core.read(dns.query(&bytes)).unwrap();
        let mut response = dns.query(&bytes)[..usize::from(query.question_end)].to_vec();
        response[2] = 0x81;
        response[7] = 1;
        response[11] = 0;
        let question = response[12..].to_vec();
        response.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x01\x02\x03");
        let answer = Answer::from_response(&response, &question, 0, &TtlLimits::default()).unwrap();
        // The answer is made when it is learnt; to keep it allocates nothing more.
        assert_eq!(allocations(|| core.learn(&query, &response, &answer)), 0);
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
            Verdict::Reply(12)
        ))
    });
    assert_eq!(count, 0, "FORMERR");
    assert!(
        allocations(|| drop(std::hint::black_box(vec![1]))) > 0,
        "the count counts"
    );
}
