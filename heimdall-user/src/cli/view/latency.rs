//! Latencies: distributions of times, and what was added to one in a period.

use serde_json::{Value, json};

use super::{float, items};

/// The field that only distributions have.
const MARK: &str = "p50_us";

/// A distribution of times, in microseconds. What nothing was measured for is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::cli) struct Latency {
    pub(in crate::cli) mean: Option<f64>,
    pub(in crate::cli) p50: Option<f64>,
    pub(in crate::cli) p90: Option<f64>,
    pub(in crate::cli) p99: Option<f64>,
    pub(in crate::cli) p999: Option<f64>,
    pub(in crate::cli) max: Option<f64>,
}

impl Latency {
    /// Reads it; `None` if the server does not measure it.
    pub(super) fn new(value: Option<&Value>) -> Option<Self> {
        let value = value.filter(|value| is_distribution(value))?;
        let of = |name: &str| float(value, &format!("/{name}_us"));
        Some(Self {
            mean: of("mean"),
            p50: of("p50"),
            p90: of("p90"),
            p99: of("p99"),
            p999: of("p999"),
            max: of("max"),
        })
    }

    /// Its values with their names.
    pub(in crate::cli) fn list(&self) -> [(&'static str, Option<f64>); 6] {
        [
            ("mean", self.mean),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("max", self.max),
        ]
    }
}

pub(super) fn is_distribution(value: &Value) -> bool {
    value.get(MARK).is_some()
}

/// The distribution of what was added since an earlier one, as precise as the buckets are; without them the later one.
pub(super) fn difference(now: &Value, before: &Value) -> Value {
    if now.get("buckets").is_none() {
        return now.clone();
    }
    let earlier: Vec<(f64, u64)> = buckets(before).collect();
    let added = |(bound, count): (f64, u64)| {
        let same = earlier.iter().find(|(of, _)| *of == bound);
        let count = count.saturating_sub(same.map_or(0, |(_, count)| *count));
        (bound, count)
    };
    let added: Vec<(f64, u64)> = buckets(now).map(added).collect();
    let count: u64 = added.iter().map(|(_, count)| count).sum();
    let longest = float(now, "/max_us").unwrap_or(f64::INFINITY);
    let percentile = |quantile: f64| {
        let rank = ((count as f64 * quantile).ceil() as u64).max(1);
        let mut up_to = 0;
        let reached = added.iter().find(|(_, count)| {
            up_to += count;
            up_to >= rank
        });
        reached.map(|(bound, _)| bound.min(longest))
    };
    let sum = |of: &Value| Some(float(of, "/count")? * float(of, "/mean_us").unwrap_or_default());
    let sum = sum(now).zip(sum(before)).map(|(now, before)| now - before);
    let mean = sum
        .filter(|_| count > 0)
        .map(|sum| (sum / count as f64).max(0.0));
    json!({
        "count": count,
        "mean_us": mean,
        MARK: percentile(0.5),
        "p90_us": percentile(0.9),
        "p99_us": percentile(0.99),
        "p999_us": percentile(0.999),
        "max_us": percentile(1.0),
    })
}

/// The upper bounds, in ascending order, the last one infinite, and the counts of the buckets.
fn buckets(value: &Value) -> impl Iterator<Item = (f64, u64)> {
    items(value, "/buckets").filter_map(|bucket| {
        let [bound, count] = bucket.as_array()?.as_slice() else {
            return None;
        };
        Some((bound.as_f64().unwrap_or(f64::INFINITY), count.as_u64()?))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_period_has_its_own_percentiles() {
        let before = json!({
            "count": 1_000, "mean_us": 10.0, "p50_us": 10, "max_us": 15_000_000,
            "buckets": [[10.0, 999], [null, 1]],
        });
        let now = json!({
            "count": 1_100, "mean_us": 20.0, "p50_us": 10, "max_us": 15_000_000,
            "buckets": [[10.0, 999], [50.0, 60], [200.0, 39], [null, 2]],
        });
        let latency = Latency::new(Some(&difference(&now, &before))).unwrap();
        let expected = Latency {
            mean: Some(120.0),
            p50: Some(50.0),
            p90: Some(200.0),
            p99: Some(200.0),
            p999: Some(15e6),
            max: Some(15e6),
        };
        assert_eq!(latency, expected);
        let nothing = Latency::new(Some(&difference(&now, &now))).unwrap();
        assert_eq!(nothing, Latency::default());
        // Without buckets: those since the start.
        let old = json!({ "count": 5, "p50_us": 7 });
        let latency = Latency::new(Some(&difference(&old, &before))).unwrap();
        assert_eq!(latency.p50, Some(7.0));
        assert_eq!(Latency::new(Some(&json!({}))), None);
    }
}
