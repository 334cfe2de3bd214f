//! A cached answer, stage by stage and as a whole: `cargo bench -p benches --bench hit`.
//!
//! `whole/N names` is what a worker does to a batch of 64 packets, checksums of the query verified
//! and those of the reply computed; names are asked for in random order, and the queries lie in the
//! processor's cache, as they do when the same core has just received them.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::fixture::{CLIENT, core, frame, name};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heimdall_user::{
    answer::{AHEAD, Verdict},
    dns::{DnsPacketView, NameHasher, Query},
    packet::{Layout, SourceFilter},
};

const BATCH: usize = 64;

/// Octets of a frame that a query takes, at most.
const QUERY: usize = 128;

fn stages(c: &mut Criterion) {
    let mut group = c.benchmark_group("stage");
    let sources = SourceFilter::new(["10.0.0.1".parse().unwrap()]);
    let frame = frame(&name(7));
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
        b.iter(|| DnsPacketView::parse(black_box(layout.query(&frame))).is_ok())
    });
    let view = DnsPacketView::parse(layout.query(&frame)).unwrap();
    group.bench_function("hash", |b| b.iter(|| Query::new(black_box(&view), &hasher)));
    let mut core = core(1000);
    let query = core.read(layout.query(&frame)).unwrap();
    group.bench_function("look-up and reply", |b| {
        let mut frame = frame.clone();
        b.iter(|| core.answer(&query, layout.reply_room(&mut frame, 1500), &CLIENT));
    });
    group.bench_function("turn round", |b| {
        let mut frame = frame.clone();
        b.iter(|| layout.turn_round(&mut frame, black_box(80)));
    });
}

fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("whole");
    group
        .throughput(Throughput::Elements(BATCH as u64))
        .measurement_time(Duration::from_secs(4));
    let sources = SourceFilter::new(["10.0.0.1".parse().unwrap()]);
    for names in [1_000, 10_000, 100_000, 1_000_000] {
        let mut core = core(names);
        let queries: Vec<[u8; QUERY]> = (0..names)
            .map(|number| *frame(&name(number)).first_chunk().unwrap())
            .collect();
        let mut random = 1u64;
        let mut frames: Vec<Vec<u8>> = vec![vec![0; 1792]; BATCH];
        let mut staged = Vec::with_capacity(BATCH);
        group.bench_function(format!("{names} names"), |b| {
            b.iter_custom(|batches| {
                let mut spent = Duration::ZERO;
                for _ in 0..batches {
                    // As the kernel does it, on the same core at best.
                    for frame in &mut frames {
                        random = random
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let query = &queries[(random >> 33) as usize % names];
                        frame[..QUERY].copy_from_slice(query);
                    }
                    let start = Instant::now();
                    for (i, frame) in frames.iter().enumerate() {
                        let layout = Layout::read(frame, &sources, true).unwrap();
                        let query = core.read(layout.query(frame)).unwrap();
                        core.prefetch(&query);
                        staged.push((i, layout, query));
                    }
                    for step in 0..BATCH + AHEAD {
                        if let Some((_, _, query)) = staged.get(step) {
                            core.prefetch_entry(query);
                        }
                        let at = step.checked_sub(AHEAD);
                        let Some((i, layout, query)) = at.and_then(|at| staged.get(at)) else {
                            continue;
                        };
                        let frame = &mut frames[*i];
                        let verdict = core.answer(query, layout.reply_room(frame, 1500), &CLIENT);
                        // One name in some thousands has lost its place in a full bucket.
                        if let Verdict::Reply(len) = verdict {
                            black_box(layout.turn_round(frame, len));
                        }
                    }
                    staged.clear();
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
}

criterion_group!(benches, stages, whole);
criterion_main!(benches);
