//! A cached answer, stage by stage and as a whole: `cargo bench -p benches --bench hit`.
//!
//! `whole/N names` is a worker's processing of a batch of 64 packets, checksums of the query verified
//! and those of the reply computed, TTLs lowered; names are queried in random order, and the queries
//! are in the processor's cache, as they do when the same core has just received them. The short names
//! without EDNS are those that the rig's clients ask for.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::{
    batch::BATCH,
    fixture::{CLIENT, core, frame, name},
    worker::Worker,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use heimdall_user::{
    dns::{DnsPacketView, NameHasher, Query},
    packet::{Layout, SourceFilter},
};

fn stages(c: &mut Criterion) {
    let mut group = c.benchmark_group("stage");
    let sources = SourceFilter::new(["10.0.0.1".parse().unwrap()]);
    let frame = frame(&name(7), true);
    let len = frame.len() - frame.iter().rev().take_while(|octet| **octet == 0).count() + 6;
    let layout = Layout::read(&frame[..len], &sources, true).unwrap();
    let hasher = NameHasher::default();
    group.bench_function("packet view, checksums verified", |b| {
        b.iter(|| Layout::read(black_box(&frame), &sources, true));
    });
    group.bench_function("packet view", |b| {
        b.iter(|| Layout::read(black_box(&frame), &sources, false))
    });
    group.bench_function("DNS view", |b| {
        b.iter(|| DnsPacketView::parse_plain(black_box(layout.query(&frame))).is_some())
    });
    let view = DnsPacketView::parse(layout.query(&frame)).unwrap();
    group.bench_function("hash", |b| b.iter(|| Query::new(black_box(&view), &hasher)));
    let mut core = core(1000);
    let query = core.read(layout.query(&frame)).unwrap();
    let hint = core.prefetch_entry(&query);
    group.bench_function("look-up and reply", |b| {
        let mut frame = frame.clone();
        let packet = layout.open(&mut frame, 1500).unwrap();
        b.iter(|| core.answer_at(hint, &query, packet.buf, CLIENT));
    });
    group.bench_function("reply headers", |b| {
        let mut frame = frame.clone();
        b.iter(|| {
            let packet = layout.open(black_box(&mut frame), 1500);
            packet.unwrap().into_reply(black_box(80), black_box(4711))
        });
    });
}

fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("whole");
    group
        .throughput(Throughput::Elements(BATCH as u64))
        .measurement_time(Duration::from_secs(4));
    let short: fn(usize) -> String = |number| format!("n{number}.example.com");
    let loads = [
        ("names", 1_000, name as fn(usize) -> String, true),
        ("names", 10_000, name, true),
        ("names", 100_000, name, true),
        ("names", 1_000_000, name, true),
        ("short names without EDNS", 10_000, short, false),
    ];
    for (what, names, name, edns) in loads {
        let mut worker = Worker::new(names, name, edns);
        let mut random = Rng::with_seed(1);
        let mut fastest = Duration::MAX;
        group.bench_function(format!("{names} {what}"), |b| {
            b.iter_custom(|batches| {
                let mut spent = Duration::ZERO;
                for _ in 0..batches {
                    worker.receive(|| random.usize(..names));
                    let start = Instant::now();
                    black_box(worker.answer());
                    let batch = start.elapsed();
                    spent += batch;
                    fastest = fastest.min(batch);
                }
                spent
            });
        });
        // What others do on the machine is in the estimate, and hardly in this; what it takes to read
        // the clock is in that, and not in this.
        let clock = (0..1000).map(|_| Instant::now().elapsed()).min().unwrap();
        let fastest = fastest.saturating_sub(clock).as_nanos() as f64 / BATCH as f64;
        println!("fastest batch of {names} {what}: {fastest:.1} ns a hit");
    }
}

criterion_group!(benches, stages, whole);
criterion_main!(benches);
