#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    iter,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use proptest::prelude::*;
use serde_json::json;

use super::{Distribution, Histogram, histogram::BOUNDS};

#[test]
fn bounds_rise_by_at_most_15_percent() {
    assert_eq!((BOUNDS[0], BOUNDS[BOUNDS.len() - 1]), (100, 10_000_000_000));
    for pair in BOUNDS.windows(2) {
        assert!(
            pair[0] < pair[1] && pair[1] * 100 <= pair[0] * 115,
            "{pair:?}"
        );
    }
}

/// Times of all magnitudes, in nanoseconds, beyond the bounds too; and exactly those of the bounds.
fn nanos() -> impl Strategy<Value = u64> {
    let any = (0..37u32, any::<u64>()).prop_map(|(bits, random)| random & ((1 << bits) - 1));
    let bound = (0..BOUNDS.len()).prop_map(|at| BOUNDS[at]);
    prop_oneof![4 => any, 1 => bound]
}

proptest! {
    #[test]
    fn percentiles_and_buckets_are_those_of_the_sorted_times(
        recorded in proptest::collection::vec((nanos(), 1..5u64), 1..200),
    ) {
        let histograms = [(); 3].map(|()| Histogram::default());
        for ((time, count), histogram) in recorded.iter().zip(histograms.iter().cycle()) {
            histogram.record(Duration::from_nanos(*time), *count);
        }
        let merged = Distribution::of(&histograms);
        let repeated = recorded.iter().map(|(time, count)| iter::repeat_n(*time, *count as usize));
        let mut sorted: Vec<u64> = repeated.flatten().collect();
        sorted.sort_unstable();
        let max = sorted[sorted.len() - 1];
        prop_assert_eq!(merged.count(), sorted.len() as u64);
        prop_assert_eq!(merged.sum(), sorted.iter().sum::<u64>() as f64 / 1e9);
        for quantile in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = (sorted.len() as f64 * quantile).ceil() as usize;
            let exact = sorted[rank.max(1) - 1];
            let got = merged.percentile(quantile).unwrap();
            let most = if exact > 10_000_000_000 { max } else { max.min((exact * 115 / 100).max(100)) };
            prop_assert!((exact..=most).contains(&got), "{quantile}: {got}, exactly {exact}");
        }
        let buckets: Vec<_> = merged.buckets().collect();
        prop_assert_eq!(buckets.len(), 22);
        for (bound, count) in buckets {
            let within = sorted.iter().filter(|time| **time as f64 / 1e9 <= bound);
            prop_assert_eq!(count, within.count() as u64, "up to {} s", bound);
        }
    }
}

#[test]
fn buckets_for_prometheus_have_decimal_bounds() {
    let none = Distribution::of([]);
    let bounds: Vec<f64> = none.buckets().map(|(bound, _)| bound).collect();
    assert_eq!(bounds[..5], [1e-6, 2e-6, 5e-6, 1e-5, 2e-5]);
    assert_eq!(bounds[18..], [1.0, 2.0, 5.0, 10.0]);
}

#[test]
fn the_document_has_microseconds() {
    assert_eq!(
        Distribution::of([]).json(),
        json!({
            "count": 0, "mean_us": null, "p50_us": null, "p90_us": null, "p99_us": null,
            "p999_us": null, "max_us": null, "buckets": [],
        })
    );
    let histogram = Histogram::default();
    histogram.record(Duration::from_nanos(1_050), 90);
    histogram.record(Duration::from_millis(49), 9);
    histogram.record(Duration::from_secs(12), 1);
    assert_eq!(
        Distribution::of([&histogram]).json(),
        json!({
            "count": 100, "mean_us": 124_410.945, "p50_us": 1.12, "p90_us": 1.12, "p99_us": 5e4,
            "p999_us": 12e6, "max_us": 12e6, "buckets": [[1.12, 90], [5e4, 9], [null, 1]],
        })
    );
}

#[test]
fn a_reader_sees_whole_records_while_one_writes() {
    const RECORDS: u64 = 100_000;
    let time = Duration::from_millis(1);
    let (histogram, done) = (Histogram::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..RECORDS).for_each(|_| histogram.record(time, 3));
            done.store(true, Ordering::Release);
        });
        let (mut count, mut sum) = (0, 0.0);
        while !done.load(Ordering::Acquire) {
            let read = Distribution::of([&histogram]);
            assert!(read.count() >= count && read.count().is_multiple_of(3));
            assert!(read.sum() >= sum && read.count() <= 3 * RECORDS);
            (count, sum) = (read.count(), read.sum());
        }
    });
    let read = Distribution::of([&histogram]);
    assert_eq!(
        (read.count(), read.sum()),
        (3 * RECORDS, 3.0 * RECORDS as f64 / 1e3)
    );
}
