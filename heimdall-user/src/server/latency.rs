//! The latency of replies in the report, summed over the fronts.

use serde_json::Value;

use super::report::Report;
use crate::latency::Distribution;

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

    pub(super) fn latency_json(&self) -> Value {
        let parts = self.latency().into_iter();
        let parts = parts.map(|(name, latency)| (name.to_owned(), latency.json()));
        Value::Object(parts.collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        server::{
            cores::CoreCounters,
            report::{SocketReport, Start},
        },
        tap::{Observations, TapOptions},
    };

    #[test]
    fn fronts_are_summed() {
        let millis = Duration::from_millis;
        let cores: [CoreCounters; 2] = Default::default();
        for core in &cores {
            core.latency.hits.record(millis(1), 3);
        }
        cores[1].latency.misses.record(millis(20), 1);
        let report = Report {
            start: Start::now(),
            policy: Arc::default(),
            observations: Arc::new(Observations::new(&TapOptions::default())),
            xdp: None,
            tier: None,
            path_mtus: None,
            tls: None,
            sockets: cores
                .map(|core| SocketReport {
                    counters: Arc::default(),
                    core,
                })
                .into(),
            forwarder: Vec::new(),
            upstreams: Box::new(Vec::new),
            anycast: std::sync::OnceLock::new(),
        };
        let document = report.json();
        let latency = &document["latency"];
        assert_eq!(latency["hits"]["count"], 6);
        assert_eq!(latency["hits"]["p99_us"], 1e3);
        assert_eq!(latency["misses"]["count"], 1);
    }
}
