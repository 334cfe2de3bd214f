//! Costs of the operator's policy for a query, part by part.
//!
//! `cargo bench -p benches --bench policy`
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fmt::Write as _,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use criterion::{Criterion, criterion_group, criterion_main};
use fastrand::Rng;
use heimdall_user::{
    answer::{
        access::Access,
        blocklist::BlockAction,
        cookie::{CookieMaker, Secrets},
        limit::{LimitSettings, Limiter},
        local::LocalData,
        prefix::Prefix,
    },
    blocklist,
};

fn access(c: &mut Criterion) {
    let mut group = c.benchmark_group("access");
    let mut random = Rng::with_seed(1);
    let thousand: Vec<Prefix> = (0..1000)
        .map(|_| Prefix::of(Ipv4Addr::from(random.u32(..)).into(), 20))
        .collect();
    for (name, access) in [
        ("private prefixes", Access::default()),
        ("1000 prefixes", Access::new(&thousand, &[], &[])),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| access.decide(Ipv4Addr::from(random.u32(..)).into()))
        });
    }
}

fn limit(c: &mut Criterion) {
    let mut group = c.benchmark_group("rate limit");
    let settings = LimitSettings {
        per_second: 1000,
        burst: 2000,
        ..LimitSettings::default()
    };
    let mut limiter = Limiter::new(&settings);
    let mut random = Rng::with_seed(1);
    let one = IpAddr::from([192, 0, 2, 1]);
    group.bench_function("one prefix", |b| {
        b.iter(|| limiter.check(black_box(one), 1))
    });
    group.bench_function("100,000 prefixes", |b| {
        b.iter(|| limiter.check(Ipv4Addr::from(random.u32(..100_000) << 8).into(), 1))
    });
    group.bench_function("any prefix", |b| {
        b.iter(|| limiter.check(Ipv4Addr::from(random.u32(..)).into(), 1))
    });
}

fn cookies(c: &mut Criterion) {
    let mut group = c.benchmark_group("cookie");
    let (client, address) = ([7; 8], IpAddr::from([192, 0, 2, 1]));
    for (name, secrets) in [
        ("one secret", Secrets::configured(&[[1; 16]])),
        ("secret of the day", Secrets::random()),
    ] {
        let maker = CookieMaker::new(secrets);
        let cookie = maker.make(&client, address, 1_800_000_000);
        group.bench_function(format!("make, {name}"), |b| {
            b.iter(|| maker.make(black_box(&client), address, 1_800_000_000))
        });
        group.bench_function(format!("check, {name}"), |b| {
            b.iter(|| maker.check(black_box(&client), &cookie, address, 1_800_000_001))
        });
    }
}

/// A name in wire form.
fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// Names that look as those of real lists do.
fn blocked(number: u32) -> String {
    let word = Rng::with_seed(number.into()).u32(..100_000);
    format!("ads-{number}.track{word}.example{}.com", number % 1000)
}

fn names(c: &mut Criterion) {
    let mut group = c.benchmark_group("names");
    group.sample_size(20);
    let mut local = LocalData::builder();
    for i in 0..1000 {
        local.record(&format!("host-{i}.lan. A 10.0.0.1")).unwrap();
    }
    let local = local.build().unwrap();
    let (here, elsewhere) = (wire("host-7.lan"), wire("www.example.com"));
    group.bench_function("local, 1000 names, hit", |b| {
        b.iter(|| local.lookup(black_box(&here), 1))
    });
    group.bench_function("local, 1000 names, miss", |b| {
        b.iter(|| local.lookup(black_box(&elsewhere), 1))
    });
    const NAMES: u32 = 1_000_000;
    let mut text = String::new();
    for number in 0..NAMES {
        let _ = writeln!(text, "{}", blocked(number));
    }
    let start = std::time::Instant::now();
    let (lists, _) = blocklist::build([(text.as_bytes(), BlockAction::NxDomain)]).unwrap();
    println!(
        "a blocklist of {NAMES} names: {} octets of text, {} octets mapped, built in {:.1} s",
        text.len(),
        lists.bytes(),
        start.elapsed().as_secs_f32()
    );
    let mut random = Rng::with_seed(1);
    let hits: Vec<_> = (0..10_000)
        .map(|_| wire(&blocked(random.u32(..NAMES))))
        .collect();
    let misses: Vec<_> = (0..10_000)
        .map(|i| wire(&format!("www.host{i}.example{}.com", i % 1000)))
        .collect();
    for (name, names) in [("hit", hits), ("miss", misses)] {
        group.bench_function(format!("blocklist, 1,000,000 names, {name}"), |b| {
            b.iter(|| {
                let name = &names[random.usize(..names.len())];
                lists.lookup(black_box(name))
            })
        });
    }
}

criterion_group!(benches, access, limit, cookies, names);
criterion_main!(benches);
