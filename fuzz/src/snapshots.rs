//! Snapshots: any octets may be in the file.

use std::{cell::RefCell, sync::Arc};

use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::{Cache, Key, MIN_BYTES, Record},
    clock::Now,
    dns::{
        AnswerRef, NameHasher,
        reply::{Reply, ReplySettings},
    },
    snapshot::{Contents, Problem},
};

const HEADER: usize = 64;
const UNIX: u64 = 1_800_000_000;

/// Any octets are refused in one line, or are records that a cache can hold and a client can get.
pub fn snapshot(octets: &[u8]) {
    let octets = &octets[..octets.len().min(1 << 16)];
    read(octets);
    // Past the checksums, which the fuzzer cannot guess.
    assert!(!matches!(
        read(&with_checksums(octets)),
        Some(Problem::Damaged | Problem::Version(_) | Problem::Length { .. })
    ));
    // Whatever the header was.
    let body = octets.get(HEADER..).unwrap_or_default();
    CACHE.with_borrow_mut(|(hasher, cache)| {
        let mut rest = body;
        while let Some(record) = Record::take(&mut rest) {
            if record.is_sound() {
                insert(hasher, cache, &record);
            }
        }
    });
}

thread_local! {
    static CACHE: RefCell<(NameHasher, Cache)> = {
        let cache = Cache::with_grace(MIN_BYTES, 1000).expect("memory");
        RefCell::new((NameHasher::default(), cache))
    };
}

/// The octets with a header that fits them.
fn with_checksums(octets: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    octets.resize(octets.len().max(HEADER), 0);
    let body = crc32fast::hash(&octets[HEADER..]);
    let len = (octets.len() - HEADER) as u64;
    octets[..12].copy_from_slice(b"HEIMDALL\x02\0\0\0");
    octets[32..40].copy_from_slice(&len.to_le_bytes());
    octets[40..44].copy_from_slice(&body.to_le_bytes());
    let header = crc32fast::hash(&octets[..60]);
    octets[60..HEADER].copy_from_slice(&header.to_le_bytes());
    octets
}

fn read(octets: &[u8]) -> Option<Problem> {
    match Contents::read(octets, UNIX) {
        Ok(contents) => {
            assert!(contents.records().all(|record| record.is_sound()));
            None
        }
        Err(problem) => {
            assert_eq!(problem.to_string().lines().count(), 1, "{problem}");
            Some(problem)
        }
    }
}

fn insert(hasher: &NameHasher, cache: &mut Cache, record: &Record<'_>) {
    let key = Key::new(hasher, record.question, record.flags);
    let now = 1 << 28;
    // One that has expired replaces no other.
    cache.remove(&key);
    cache.restore(&key, record.answer, record.age, now);
    if let Some(hit) = cache.get_stale(&key, now) {
        assert_eq!(hit.answer.body(), record.answer.body());
    }
    reply(record.question, record.answer);
}

/// The reply to a client's query for it.
fn reply(question: &[u8], answer: AnswerRef<'_>) {
    let mut core = Core::new(
        Cache::new(MIN_BYTES).expect("memory"),
        NameHasher::default(),
        ReplySettings::new(1232, false),
        Arc::default(),
        Arc::default(),
        Arc::default(),
    );
    core.begin(Now {
        seconds: 1 << 28,
        unix: 0,
    });
    let mut msg = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    msg.extend_from_slice(question);
    let query = core.read(&msg).expect("a sound question");
    let mut buf = msg.clone();
    buf.resize(1 << 16, 0xee);
    let client = Client::new([10, 0, 0, 1].into(), Transport::Tcp);
    match core.complete(&query, &mut buf, client, &answer.aged(3)) {
        Verdict::Reply {
            reply: Reply { len, .. },
            ..
        } => {
            assert_eq!(len, msg.len() + answer.body().len());
            assert_eq!(buf[12..msg.len()], *question);
            assert_eq!(buf[6..12], answer.counts());
        }
        verdict => panic!("{verdict:?}"),
    }
}
