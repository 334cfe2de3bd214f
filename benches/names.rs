//! Folding, hashing and comparison of names: `cargo bench -p benches --bench names`.
//!
//! The names are taken in random order. Where their lengths differ, branches on the length cannot be
//! predicted, as with the names that clients ask for.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{hint::black_box, ops::RangeInclusive, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use fastrand::Rng;
use heimdall_user::dns::{NameHasher, name::eq_ignore_case};

const LENGTHS: [usize; 15] = [1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 255];
const NAMES: usize = 256;

fn names(lengths: RangeInclusive<usize>) -> Vec<Vec<u8>> {
    let mut random = Rng::with_seed(1);
    (0..NAMES)
        .map(|_| {
            let len = random.usize(lengths.clone());
            (0..len).map(|_| random.u8(b'A'..b'A' + 58)).collect()
        })
        .collect()
}

fn benches(c: &mut Criterion) {
    let one_length = LENGTHS.map(|len| (format!("{len} octets"), len..=len));
    let lengths = one_length
        .into_iter()
        .chain([("10 to 30 octets".into(), 10..=30)]);
    let hasher = NameHasher::default();
    for (label, lengths) in lengths {
        let names = names(lengths);
        let others: Vec<Vec<u8>> = names.iter().map(|name| name.to_ascii_uppercase()).collect();
        bench(c, &format!("hash/{label}"), |i| {
            hasher.hash(black_box(&names[i]), 1)
        });
        bench(c, &format!("same except for case/{label}"), |i| {
            eq_ignore_case(black_box(&names[i]), black_box(&others[i]))
        });
    }
}

fn bench<T>(c: &mut Criterion, id: &str, work: impl Fn(usize) -> T) {
    let mut random = Rng::with_seed(1);
    c.bench_function(id, |b| b.iter(|| work(random.usize(..NAMES))));
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = benches
}
criterion_main!(all);
