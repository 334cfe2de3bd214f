//! Stages that are too small to be seen in `hit`: `cargo bench -p benches --bench stages`.
//!
//! Checksums over as many octets as an IPv4 header, a small query, a small reply, and the largest
//! replies of old and with EDNS have; TTLs lowered in a copied answer.
#![allow(missing_docs)]

use std::hint::black_box;

use benches::fixture::answer;
use criterion::{Criterion, criterion_group, criterion_main};
use heimdall_user::checksum;

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for octets in [20, 64, 100, 512, 1232] {
        let data = vec![0xa5; octets];
        group.bench_function(format!("add, {octets} octets"), |b| {
            b.iter(|| checksum::add(0, black_box(&data)))
        });
    }
    let sum = checksum::add(0, &[0xa5; 1232]);
    group.bench_function("fold", |b| b.iter(|| checksum::fold(black_box(sum))));
    group.bench_function("finish, UDP", |b| {
        b.iter(|| checksum::finish_udp(black_box(sum)))
    });
}

fn ttls(c: &mut Criterion) {
    let mut group = c.benchmark_group("TTLs lowered");
    for records in [1, 8] {
        let answer = answer(records);
        let answer = answer.as_ref();
        let mut body = answer.body().to_vec();
        group.bench_function(format!("{records} records"), |b| {
            b.iter(|| black_box(answer).age_ttls(black_box(&mut body), 1))
        });
    }
}

criterion_group!(benches, checksums, ttls);
criterion_main!(benches);
