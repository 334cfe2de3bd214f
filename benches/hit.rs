//! A cached answer, stage by stage and as a whole: `cargo bench -p benches --bench hit`.
//!
//! `whole/N names` is what a worker does to a batch of 64 packets, checksums of the query verified
//! and those of the reply computed, reported a packet; names are asked for in random order.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::Cache,
    dns::{Answer, DnsPacketView, NameHasher, Query, TtlLimits, reply::Server},
    packet::{Layout, SourceFilter, checksum},
    stats::{AnswerCounters, DropCounters},
};

const BATCH: usize = 64;
const CLIENT: Client = Client {
    address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    transport: Transport::Udp {
        source_port: 40_000,
    },
};

fn query(name: &str) -> Vec<u8> {
    let mut dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
    for label in name.split('.') {
        dns.push(label.len() as u8);
        dns.extend_from_slice(label.as_bytes());
    }
    dns.extend_from_slice(b"\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0");
    dns
}

fn frame(name: &str) -> Vec<u8> {
    let dns = query(name);
    let udp_len = ((8 + dns.len()) as u16).to_be_bytes();
    let ip_len = ((28 + dns.len()) as u16).to_be_bytes();
    let mut ip = [
        0x45, 0, ip_len[0], ip_len[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ];
    [ip[10], ip[11]] = checksum::finish(checksum::add(0, &ip));
    let mut udp = [&[0x9c, 0x40, 0, 53], &udp_len[..], &[0, 0], &dns].concat();
    let pseudo = checksum::add(checksum::add_u16(checksum::add(0, &ip[12..]), 17), &udp_len);
    [udp[6], udp[7]] = checksum::finish_udp(checksum::add(pseudo, &udp));
    let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0], &ip[..], &udp].concat();
    frame.resize(1792, 0);
    frame
}

fn name(i: usize) -> String {
    format!("host-{i}.some.example.com")
}

fn core(names: usize) -> Core {
    let mut core = Core::new(
        Cache::new((names * 256).max(1 << 20)).unwrap(),
        NameHasher::default(),
        Server {
            udp_size: 1232,
            trust_ad: false,
        },
        Arc::default(),
        Arc::new(AnswerCounters::default()),
        Arc::new(DropCounters::default()),
    );
    for i in 0..names {
        let mut message = query(&name(i));
        let query = core.read(&message).unwrap();
        message.truncate(usize::from(query.question_end));
        let question = message[12..].to_vec();
        message[2] = 0x81;
        message[7] = 1;
        message[11] = 0;
        message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\x01\x02\x03");
        let answer = Answer::from_response(&message, &question, 0, &TtlLimits::default()).unwrap();
        core.learn(&query, &message, &answer);
    }
    core
}

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
        let mut next = 1u64;
        let mut staged = Vec::with_capacity(BATCH);
        group.bench_function(format!("{names} names"), |b| {
            b.iter_batched_ref(
                || {
                    let batch: Vec<Vec<u8>> = (0..BATCH)
                        .map(|_| {
                            next = next
                                .wrapping_mul(6_364_136_223_846_793_005)
                                .wrapping_add(1_442_695_040_888_963_407);
                            frame(&name((next >> 33) as usize % names))
                        })
                        .collect();
                    batch
                },
                |batch| {
                    for (i, frame) in batch.iter().enumerate() {
                        let layout = Layout::read(frame, &sources, true).unwrap();
                        let query = core.read(layout.query(frame)).unwrap();
                        core.prefetch(&query);
                        staged.push((i, layout, query));
                    }
                    for (_, _, query) in &staged {
                        core.prefetch_entry(query);
                    }
                    for (i, layout, query) in staged.drain(..) {
                        let frame = &mut batch[i];
                        let verdict = core.answer(&query, layout.reply_room(frame, 1500), &CLIENT);
                        // One name in some thousands has lost its place in a full bucket.
                        if let Verdict::Reply(len) = verdict {
                            black_box(layout.turn_round(frame, len));
                        }
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, stages, whole);
criterion_main!(benches);
