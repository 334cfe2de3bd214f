//! Folding, hashing and comparison of names: `cargo bench -p benches --bench names`.
//!
//! The names are taken in random order. Where their lengths differ, branches on the length cannot be
//! predicted, as with the names that clients ask for.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{hint::black_box, ops::RangeInclusive, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use heimdall_user::dns::{NameHasher, name::eq_ignore_case};

const LENGTHS: [usize; 15] = [1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 255];
const NAMES: usize = 256;

fn numbers() -> impl Iterator<Item = usize> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    })
}

fn names(lengths: RangeInclusive<usize>) -> Vec<Vec<u8>> {
    let mut numbers = numbers();
    let mut next = |n| numbers.next().unwrap() % n;
    (0..NAMES)
        .map(|_| {
            let len = lengths.start() + next(lengths.clone().count());
            (0..len).map(|_| b'A' + next(58) as u8).collect()
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
        bench(c, &format!("same but for case/{label}"), |i| {
            eq_ignore_case(black_box(&names[i]), black_box(&others[i]))
        });
    }
}

fn bench<T>(c: &mut Criterion, id: &str, work: impl Fn(usize) -> T) {
    let mut numbers = numbers();
    c.bench_function(id, |b| b.iter(|| work(numbers.next().unwrap() % NAMES)));
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = benches
}
criterion_main!(all);
