//! The latency in the report: of replies, summed over the fronts, and of each upstream's responses.

use serde_json::{Value, json};

use super::report::Report;
use crate::{config::Zoned, latency::Distribution};

impl Report {
    /// The latency of hits and of misses, of all fronts together.
    pub(super) fn latency(&self) -> [(&'static str, Distribution); 2] {
        let xdp = self.xdp.as_ref().map(|xdp| xdp.load_full());
        let workers = xdp.iter().flat_map(|xdp| &xdp.workers);
        let workers = workers.map(|worker| &worker.core);
        let sockets = self.sockets.iter().map(|thread| &thread.core);
        let fronts = workers.chain(sockets).map(|core| &core.latency);
        let fronts: Vec<_> = fronts.collect();
        let hits = fronts.iter().map(|front| &front.hits);
        let misses = fronts.iter().map(|front| &front.misses);
        [
            ("hits", Distribution::of(hits)),
            ("misses", Distribution::of(misses)),
        ]
    }

    /// The latency of each upstream's responses, of all threads of the forwarder together.
    pub(super) fn upstream_latency(&self) -> Vec<(Zoned, Distribution)> {
        let mut addresses = Vec::new();
        for (address, _) in &self.upstreams {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let latency = |address| {
            let of_it = self.upstreams.iter().filter(|(of, _)| *of == address);
            let histograms = of_it.map(|(_, histogram)| &**histogram);
            (Zoned(address), Distribution::of(histograms))
        };
        addresses.into_iter().map(latency).collect()
    }

    pub(super) fn latency_json(&self) -> Value {
        let parts = self.latency().into_iter();
        let parts = parts.map(|(name, latency)| (name.to_owned(), latency.json()));
        Value::Object(parts.collect())
    }

    pub(super) fn upstreams_json(&self) -> Value {
        let upstreams = self.upstream_latency().into_iter();
        let upstreams = upstreams.map(|(address, latency)| {
            json!({ "address": address.to_string(), "latency": latency.json() })
        });
        Value::Array(upstreams.collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use std::{net::SocketAddr, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        latency::Histogram,
        server::{cores::CoreCounters, report::SocketReport},
    };

    #[test]
    fn fronts_and_threads_are_summed_and_upstreams_are_not() {
        let millis = Duration::from_millis;
        let cores: [CoreCounters; 2] = Default::default();
        for core in &cores {
            core.latency.hits.record(millis(1), 3);
        }
        cores[1].latency.misses.record(millis(20), 1);
        let upstreams: Vec<(SocketAddr, Arc<Histogram>)> = [1, 2, 1, 2]
            .map(|port| (([127, 0, 0, 1], port).into(), Arc::default()))
            .into();
        for (time, (_, histogram)) in [10, 20, 30, 20].into_iter().zip(&upstreams) {
            histogram.record(millis(time), 1);
        }
        let report = Report {
            xdp: None,
            sockets: cores
                .map(|core| SocketReport {
                    counters: Arc::default(),
                    core,
                })
                .into(),
            forwarder: Vec::new(),
            upstreams,
        };
        let document = report.json();
        let latency = &document["latency"];
        assert_eq!(latency["hits"]["count"], 6);
        assert_eq!(latency["hits"]["p99_us"], 1e3);
        assert_eq!(latency["misses"]["count"], 1);
        let upstreams = &document["forwarder"]["upstreams"];
        let shown = [0, 1].map(|number| {
            let upstream = &upstreams[number];
            let latency = &upstream["latency"];
            (&upstream["address"], &latency["count"], &latency["mean_us"])
        });
        let expected = [
            json!("127.0.0.1:1"),
            json!("127.0.0.1:2"),
            json!(2),
            json!(2e4),
        ];
        let [first, second, two, mean] = &expected;
        assert_eq!(shown, [(first, two, mean), (second, two, mean)]);
        assert_eq!(upstreams[2], Value::Null);
    }
}
