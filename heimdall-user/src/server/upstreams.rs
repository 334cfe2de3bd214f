//! What the forwarder knows of an upstream.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    config::Upstream,
    forward::{Condition, Plan, UpstreamAddress, UpstreamCounters, UpstreamMetrics},
    latency::Distribution,
    maintenance::presentation,
};

/// An upstream.
pub(super) struct UpstreamReport {
    pub(super) address: UpstreamAddress,
    /// As each thread sees it.
    pub(super) threads: Box<[Arc<UpstreamMetrics>]>,
    /// The zones of its routes, in wire form.
    pub(super) zones: Vec<Box<[u8]>>,
}

/// Whether queries go to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamState {
    /// No query was sent to it.
    Unused,
    /// Some thread has not set it aside.
    Up,
    /// All threads that have queried it have set it aside.
    Failed,
}

impl UpstreamState {
    fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Up => "up",
            Self::Failed => "failed",
        }
    }
}

impl UpstreamReport {
    /// One for each upstream of a plan, however many routes it has.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let reports = plan.upstreams.iter().map(|upstream| Self {
            address: upstream.address.clone(),
            threads: upstream.threads.clone(),
            zones: upstream.zones.clone(),
        });
        reports.collect()
    }

    fn counters(&self) -> impl Iterator<Item = &UpstreamCounters> {
        self.threads.iter().map(|thread| &thread.counters)
    }

    pub(super) fn state(&self) -> UpstreamState {
        let threads = self.threads.iter();
        let any = |condition| {
            threads
                .clone()
                .any(|thread| thread.condition() == condition)
        };
        if any(Condition::Works) {
            UpstreamState::Up
        } else if any(Condition::Failed) {
            UpstreamState::Failed
        } else {
            UpstreamState::Unused
        }
    }

    /// Whether it has sent a response, to a query or a probe.
    pub(super) fn has_responded(&self) -> bool {
        self.latency().count() > 0
    }

    /// The mean of the threads' round-trip times, in microseconds.
    pub(super) fn rtt_us(&self) -> Option<u64> {
        let times = self.counters().map(|thread| thread.rtt_us.get());
        let times: Vec<u64> = times.filter(|time| *time > 0).collect();
        times.iter().sum::<u64>().checked_div(times.len() as u64)
    }

    /// Why it has failed.
    fn problem(&self) -> Option<Arc<String>> {
        let has_failed = self.state() == UpstreamState::Failed;
        let mut threads = self.threads.iter().filter(|_| has_failed);
        threads.find_map(|thread| thread.problem())
    }

    /// How long its responses took, to all threads together.
    pub(super) fn latency(&self) -> Distribution {
        Distribution::of(self.threads.iter().map(|thread| &thread.latency))
    }

    pub(super) fn json(&self) -> Value {
        let sum = |count: fn(&UpstreamCounters) -> u64| self.counters().map(count).sum::<u64>();
        json!({
            "address": Upstream(&self.address).to_string(),
            "routes": self.zones.iter().map(|zone| presentation(zone)).collect::<Vec<_>>(),
            "state": self.state().name(),
            "problem": self.problem().as_deref(),
            "rtt_us": self.rtt_us(),
            "in_flight": sum(|thread| thread.in_flight.get()),
            "queries": sum(|thread| thread.queries.get()),
            "timeouts": sum(|thread| thread.timeouts.get()),
            "errors": sum(|thread| thread.errors.get()),
            "error_kinds": {
                "unreachable": sum(|thread| thread.unreachable.get()),
                "tls": sum(|thread| thread.tls_failures.get()),
                "closed": sum(|thread| thread.closed.get()),
                "servfail": sum(|thread| thread.servfail.get()),
                "refused": sum(|thread| thread.refused.get()),
                "formerr": sum(|thread| thread.formerr.get()),
                "notimp": sum(|thread| thread.notimp.get()),
                "other_rcodes": sum(|thread| thread.other_rcodes.get()),
                "malformed": sum(|thread| thread.malformed.get()),
            },
            "forged": sum(|thread| thread.forged.get()),
            "probes": sum(|thread| thread.probes.get()),
            "latency": self.latency().json(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use std::time::Duration;

    use super::*;

    #[test]
    fn threads_are_summed_and_upstreams_are_not() {
        let millis = Duration::from_millis;
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port)).into();
        let threads: [Vec<Arc<UpstreamMetrics>>; 2] =
            [(); 2].map(|()| vec![Arc::default(), Arc::default()]);
        let zones = [&[0][..], b"\x04corp\0"];
        let times = [[10, 20], [30, 20]];
        for (thread, times) in threads.iter().zip(times) {
            for (upstream, time) in thread.iter().zip(times) {
                upstream.latency.record(millis(time), 1);
            }
        }
        let reports = [(0, 1), (1, 2)].map(|(index, port)| UpstreamReport {
            address: address(port),
            threads: threads
                .iter()
                .map(|thread| Arc::clone(&thread[index]))
                .collect(),
            zones: zones[..=index].iter().map(|zone| (*zone).into()).collect(),
        });
        assert_eq!(reports[1].json()["routes"], json!([".", "corp."]));
        for (report, address) in reports.iter().zip(["127.0.0.1:1", "127.0.0.1:2"]) {
            let json = report.json();
            assert_eq!(json["address"], address);
            assert_eq!(json["state"], "unused");
            assert_eq!(json["rtt_us"], Value::Null);
            assert_eq!(json["problem"], Value::Null);
            assert_eq!(json["latency"]["count"], 2);
            assert_eq!(json["latency"]["mean_us"], 2e4);
        }
        let counters = &threads[1][0].counters;
        counters.queries.add(3);
        counters.rtt_us.set(1500);
        assert_eq!(reports[0].json()["state"], "up");
        assert_eq!(reports[0].json()["rtt_us"], 1500);
        assert_eq!(reports[0].json()["problem"], Value::Null);
        assert_eq!(reports[0].json()["queries"], 3);
        threads[1][0].set_problem(Some("it expired".to_owned()));
        assert_eq!(reports[0].json()["state"], "failed");
        assert_eq!(reports[0].json()["problem"], "it expired");
        threads[0][0].counters.queries.add(1);
        assert_eq!(reports[0].state(), UpstreamState::Up, "for a thread");
        assert_eq!(reports[0].json()["problem"], Value::Null);
        threads[0][0].counters.refused.add(2);
        threads[1][0].counters.refused.add(1);
        assert_eq!(reports[0].json()["error_kinds"]["refused"], 3);
    }
}
