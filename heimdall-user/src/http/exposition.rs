//! Metrics in the formats of Prometheus.
//!
//! `prometheus-client` writes OpenMetrics. In the older text format the same metrics have other names where the
//! type is part of the name: a counter's family is called like its samples, `…_total`, and an info metric is a
//! gauge, `…_info`.

use std::{collections::HashMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::accept::Format;

/// Label names and values.
pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

/// The metrics of one moment.
#[derive(Debug, Default)]
pub(crate) struct Families {
    list: Vec<Family>,
    /// Positions in the list, by name.
    index: HashMap<String, usize>,
}

#[derive(Debug)]
struct Family {
    /// With its unit, without a suffix of its type.
    name: String,
    help: String,
    kind: Kind,
    samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Info,
    Histogram,
}

#[derive(Debug)]
enum Value {
    Integer(u64),
    Real(f64),
    Histogram {
        sum: f64,
        count: u64,
        /// Upper bounds, and how many are above the one before.
        buckets: Vec<(f64, u64)>,
    },
}

impl Families {
    /// Adds a count. A family's help is that of its first sample.
    pub(crate) fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, count: u64) {
        self.add(name, help, Kind::Counter, labels, Value::Integer(count));
    }

    /// Adds a count of seconds or the like.
    pub(crate) fn real_counter(&mut self, name: &str, help: &str, labels: Labels<'_>, count: f64) {
        self.add(name, help, Kind::Counter, labels, Value::Real(count));
    }

    /// Adds a value that may fall.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.add(name, help, Kind::Gauge, labels, Value::Integer(value));
    }

    /// The same with a fraction.
    pub(crate) fn real_gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.add(name, help, Kind::Gauge, labels, Value::Real(value));
    }

    /// Adds a metric whose labels are what it says.
    pub(crate) fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) {
        self.add(name, help, Kind::Info, labels, Value::Integer(1));
    }

    /// Adds a histogram. `cumulative` has upper bounds, and how many values are at most as large.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        (sum, count): (f64, u64),
        cumulative: impl Iterator<Item = (f64, u64)>,
    ) {
        let mut below = 0;
        let mut buckets: Vec<_> = cumulative
            .filter(|(bound, _)| bound.is_finite())
            .map(|(bound, up_to)| {
                let bucket = (bound, up_to.saturating_sub(below));
                below = below.max(up_to);
                bucket
            })
            .collect();
        buckets.push((f64::INFINITY, count.saturating_sub(below)));
        let value = Value::Histogram {
            sum,
            // Counted by another thread meanwhile, it may have been read before the last bucket.
            count: count.max(below),
            buckets,
        };
        self.add(name, help, Kind::Histogram, labels, value);
    }

    fn add(&mut self, name: &str, help: &str, kind: Kind, labels: Labels<'_>, value: Value) {
        let labels = labels
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let sample = (labels.collect(), value);
        let known = self.index.get(name).and_then(|at| self.list.get_mut(*at));
        if let Some(family) = known {
            debug_assert_eq!(family.kind, kind, "{name}");
            return family.samples.push(sample);
        }
        self.index.insert(name.to_owned(), self.list.len());
        self.list.push(Family {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            samples: vec![sample],
        });
    }

    /// The text of all metrics.
    ///
    /// # Errors
    /// `prometheus-client` refuses a value.
    pub(super) fn encode(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        let families = self.list;
        registry.register_collector(Box::new(Page { families, format }));
        let mut page = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut page, &registry)?,
            Format::Text => text::encode_registry(&mut page, &registry)?,
        }
        Ok(page)
    }
}

/// The metrics, as `prometheus-client` takes them.
#[derive(Debug)]
struct Page {
    families: Vec<Family>,
    format: Format,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.families
            .iter()
            .try_for_each(|family| family.encode(self.format, &mut encoder))
    }
}

impl Family {
    fn encode(&self, format: Format, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
        let with_unit = units
            .into_iter()
            .find_map(|(suffix, unit)| Some((self.name.strip_suffix(suffix)?, unit)));
        let older = |suffix| (format!("{}{suffix}", self.name), None);
        let (name, unit) = match (format, self.kind) {
            (Format::Text, Kind::Counter) => older("_total"),
            (Format::Text, Kind::Info) => older("_info"),
            (Format::Text, _) => older(""),
            (Format::OpenMetrics, _) => match with_unit {
                Some((name, unit)) => (name.to_owned(), Some(unit)),
                None => (self.name.clone(), None),
            },
        };
        let kind = match (format, self.kind) {
            (_, Kind::Counter) => MetricType::Counter,
            (Format::OpenMetrics, Kind::Info) => MetricType::Info,
            (_, Kind::Gauge | Kind::Info) => MetricType::Gauge,
            (_, Kind::Histogram) => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(&name, &self.help, unit.as_ref(), kind)?;
        // The labels of an info metric are its value.
        let is_info = (format, self.kind) == (Format::OpenMetrics, Kind::Info);
        for (labels, value) in &self.samples {
            if labels.is_empty() || is_info {
                self.sample(format, &mut metric, labels, value)?;
            } else {
                let mut metric = metric.encode_family(labels)?;
                self.sample(format, &mut metric, labels, value)?;
            }
        }
        Ok(())
    }

    fn sample(
        &self,
        format: Format,
        metric: &mut MetricEncoder<'_>,
        labels: &Vec<(&'static str, String)>,
        value: &Value,
    ) -> fmt::Result {
        match (format, self.kind, value) {
            (Format::OpenMetrics, Kind::Counter, Value::Integer(count)) => {
                metric.encode_counter::<NoLabelSet, _, f64>(count, None)
            }
            (Format::OpenMetrics, Kind::Counter, Value::Real(count)) => {
                metric.encode_counter::<NoLabelSet, _, f64>(count, None)
            }
            (Format::OpenMetrics, Kind::Info, _) => metric.encode_info(labels),
            (_, _, Value::Integer(value)) => metric.encode_gauge(value),
            (_, _, Value::Real(value)) => metric.encode_gauge(value),
            (
                _,
                _,
                Value::Histogram {
                    sum,
                    count,
                    buckets,
                },
            ) => metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn families() -> Families {
        let mut families = Families::default();
        families.counter("a_hits", "Hits.", &[("queue", "0")], 7);
        families.gauge("a_entries", "Entries.", &[], 3);
        families.counter("a_hits", "Not used.", &[("queue", "1")], 8);
        families.real_counter("a_cpu_seconds", "Time.", &[], 1.5);
        families.real_gauge("a_rtt_seconds", "Time.", &[("name", "a\\b\"c\nd")], 0.25);
        families.info("a_build", "Build.", &[("version", "1.0")]);
        let buckets = [(0.001, 2), (0.01, 5), (f64::INFINITY, 6)];
        families.histogram(
            "a_time_seconds",
            "Time.",
            &[],
            (0.5, 6),
            buckets.into_iter(),
        );
        families
    }

    #[test]
    fn open_metrics() {
        let text = "\
# HELP a_hits Hits.
# TYPE a_hits counter
a_hits_total{queue=\"0\"} 7
a_hits_total{queue=\"1\"} 8
# HELP a_entries Entries.
# TYPE a_entries gauge
a_entries 3
# HELP a_cpu_seconds Time.
# TYPE a_cpu_seconds counter
# UNIT a_cpu_seconds seconds
a_cpu_seconds_total 1.5
# HELP a_rtt_seconds Time.
# TYPE a_rtt_seconds gauge
# UNIT a_rtt_seconds seconds
a_rtt_seconds{name=\"a\\\\b\\\"c\\nd\"} 0.25
# HELP a_build Build.
# TYPE a_build info
a_build_info{version=\"1.0\"} 1
# HELP a_time_seconds Time.
# TYPE a_time_seconds histogram
# UNIT a_time_seconds seconds
a_time_seconds_sum 0.5
a_time_seconds_count 6
a_time_seconds_bucket{le=\"0.001\"} 2
a_time_seconds_bucket{le=\"0.01\"} 5
a_time_seconds_bucket{le=\"+Inf\"} 6
# EOF
";
        assert_eq!(families().encode(Format::OpenMetrics).unwrap(), text);
    }

    #[test]
    fn the_older_format() {
        let text = "\
# HELP a_hits_total Hits.
# TYPE a_hits_total counter
a_hits_total{queue=\"0\"} 7
a_hits_total{queue=\"1\"} 8
# HELP a_entries Entries.
# TYPE a_entries gauge
a_entries 3
# HELP a_cpu_seconds_total Time.
# TYPE a_cpu_seconds_total counter
a_cpu_seconds_total 1.5
# HELP a_rtt_seconds Time.
# TYPE a_rtt_seconds gauge
a_rtt_seconds{name=\"a\\\\b\\\"c\\nd\"} 0.25
# HELP a_build_info Build.
# TYPE a_build_info gauge
a_build_info{version=\"1.0\"} 1
# HELP a_time_seconds Time.
# TYPE a_time_seconds histogram
a_time_seconds_sum 0.5
a_time_seconds_count 6
a_time_seconds_bucket{le=\"0.001\"} 2
a_time_seconds_bucket{le=\"0.01\"} 5
a_time_seconds_bucket{le=\"+Inf\"} 6
";
        assert_eq!(families().encode(Format::Text).unwrap(), text);
    }
}
