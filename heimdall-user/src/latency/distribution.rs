//! What histograms hold at a moment, for those who show it.

use serde_json::{Value, json};

use super::{
    Histogram,
    histogram::{BOUNDS, BUCKETS},
};

/// The counts of one or more histograms, summed.
///
/// The histograms may be recorded into meanwhile: no count is ever less than in an earlier
/// distribution of the same ones, and sum and maximum may lack a record that the counts have, or have
/// one that these lack.
#[derive(Clone, Debug)]
pub struct Distribution {
    counts: [u64; BUCKETS],
    /// In nanoseconds.
    sum: u64,
    /// In nanoseconds.
    max: u64,
}

impl Distribution {
    /// What these histograms hold now.
    pub(crate) fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Self {
        let mut merged = Self {
            counts: [0; BUCKETS],
            sum: 0,
            max: 0,
        };
        for histogram in histograms {
            for (count, bucket) in merged.counts.iter_mut().zip(&histogram.buckets) {
                *count += bucket.get();
            }
            merged.sum = merged.sum.wrapping_add(histogram.sum.get());
            merged.max = merged.max.max(histogram.max.get());
        }
        merged
    }

    /// How many durations were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all durations, in seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum as f64 / 1e9
    }

    /// Cumulative buckets, for Prometheus: upper bounds in seconds, inclusive, and the count of durations
    /// up to each. The bounds are 1, 2 and 5 times the powers of ten from 1 µs to 10 s;
    /// [`count`](Self::count) is that of the bucket `+Inf`.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut up_to = 0;
        let cumulative = BOUNDS.iter().zip(self.counts).map(move |(bound, count)| {
            up_to += count;
            (*bound, up_to)
        });
        cumulative
            .filter(|(bound, _)| is_coarse(*bound))
            .map(|(bound, count)| (bound as f64 / 1e9, count))
    }

    /// The time, in nanoseconds, that the share `quantile` of all durations do not exceed: the upper bound of
    /// the bucket in which that share is reached, or the longest duration, if that is less. `None` before the first one.
    pub(super) fn percentile(&self, quantile: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut up_to = 0;
        let at = self.counts.iter().position(|count| {
            up_to += count;
            up_to >= rank
        })?;
        let Some(bound) = BOUNDS.get(at) else {
            return Some(self.max);
        };
        let below = at.checked_sub(1).and_then(|below| BOUNDS.get(below));
        // Else the longest duration has been counted and not been written yet.
        let known = below.is_none_or(|below| self.max > *below);
        Some(if known { self.max.min(*bound) } else { *bound })
    }

    /// Count, mean, percentiles and longest duration in microseconds, which are `null` before the first one; and the
    /// buckets that are not empty: upper bound in microseconds, inclusive (`null`: longer than 10 s), and count. The
    /// difference of the buckets at two times gives the percentiles of the time between.
    pub(crate) fn json(&self) -> Value {
        let count = self.count();
        let mean = (count > 0).then(|| (self.sum as f64 / count as f64).round() / 1e3);
        let percentile = |quantile| self.percentile(quantile).map(micros);
        let bounds = BOUNDS
            .iter()
            .map(|bound| Some(micros(*bound)))
            .chain([None]);
        let filled = bounds.zip(self.counts).filter(|(_, count)| *count > 0);
        json!({
            "count": count,
            "mean_us": mean,
            "p50_us": percentile(0.5),
            "p90_us": percentile(0.9),
            "p99_us": percentile(0.99),
            "p999_us": percentile(0.999),
            "max_us": (count > 0).then(|| micros(self.max)),
            "buckets": filled.collect::<Vec<_>>(),
        })
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Whether a bound is 1, 2 or 5 times a power of ten, and a microsecond at least.
fn is_coarse(bound: u64) -> bool {
    let mut digits = bound;
    while digits.is_multiple_of(10) && digits > 0 {
        digits /= 10;
    }
    bound >= 1_000 && matches!(digits, 1 | 2 | 5)
}
