//! What the forwarder knows of an upstream.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};

use crate::{
    config::Upstream,
    forward::{Condition, UpstreamAddress, UpstreamCounters, UpstreamMetrics},
    latency::Distribution,
};

/// An upstream.
pub(super) struct UpstreamReport {
    pub(super) address: UpstreamAddress,
    /// As each thread sees it.
    pub(super) threads: Vec<Arc<UpstreamMetrics>>,
}

/// Whether queries go to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamState {
    /// No query was sent to it, or none for long after it failed.
    Unused,
    /// Some thread has not set it aside.
    Up,
    /// All threads that have queried it lately have set it aside, and it has not responded since.
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
    /// One for each upstream. `threads`: what each thread has of them, in the same order.
    pub(super) fn all(
        addresses: &[UpstreamAddress],
        threads: &[Vec<Arc<UpstreamMetrics>>],
    ) -> Vec<Self> {
        let reports = addresses.iter().enumerate().map(|(index, address)| Self {
            address: address.clone(),
            threads: threads
                .iter()
                .filter_map(|thread| thread.get(index).cloned())
                .collect(),
        });
        reports.collect()
    }

    fn counters(&self) -> impl Iterator<Item = &UpstreamCounters> {
        self.threads.iter().map(|thread| &thread.counters)
    }

    pub(super) fn state(&self, now: Instant) -> UpstreamState {
        let any = |condition| {
            self.threads
                .iter()
                .any(|thread| thread.condition(now) == condition)
        };
        if any(Condition::Works) {
            UpstreamState::Up
        } else if any(Condition::Failed) {
            UpstreamState::Failed
        } else {
            UpstreamState::Unused
        }
    }

    /// The mean of the threads' round-trip times, in microseconds.
    pub(super) fn rtt_us(&self) -> Option<u64> {
        let times = self.counters().map(|thread| thread.rtt_us.get());
        let times: Vec<u64> = times.filter(|time| *time > 0).collect();
        times.iter().sum::<u64>().checked_div(times.len() as u64)
    }

    /// Why TLS with it fails.
    pub(super) fn problem(&self) -> Option<Arc<String>> {
        self.threads.iter().find_map(|thread| thread.problem())
    }

    /// How long its responses took, to all threads together.
    pub(super) fn latency(&self) -> Distribution {
        Distribution::of(self.threads.iter().map(|thread| &thread.latency))
    }

    pub(super) fn json(&self) -> Value {
        let sum = |count: fn(&UpstreamCounters) -> u64| self.counters().map(count).sum::<u64>();
        let state = self.state(Instant::now());
        // Without queries for long it may be over, and of no consequence if another thread has answers.
        let problem = self.problem().filter(|_| state == UpstreamState::Failed);
        json!({
            "address": Upstream(&self.address).to_string(),
            "state": state.name(),
            "problem": problem.as_deref(),
            "rtt_us": self.rtt_us(),
            "in_flight": sum(|thread| thread.in_flight.get()),
            "queries": sum(|thread| thread.queries.get()),
            "timeouts": sum(|thread| thread.timeouts.get()),
            "errors": sum(|thread| thread.errors.get()),
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
        let addresses =
            [1, 2].map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)).into());
        let threads: [Vec<Arc<UpstreamMetrics>>; 2] =
            [(); 2].map(|()| vec![Arc::default(), Arc::default()]);
        let times = [[10, 20], [30, 20]];
        for (thread, times) in threads.iter().zip(times) {
            for (upstream, time) in thread.iter().zip(times) {
                upstream.latency.record(millis(time), 1);
            }
        }
        let reports = UpstreamReport::all(&addresses, &threads);
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
        threads[1][0].set_problem(Some("it expired".to_owned()));
        assert_eq!(reports[0].json()["problem"], Value::Null);
        assert_eq!(reports[0].json()["queries"], 3);
        let now = Instant::now();
        threads[1][0].set_failed(now);
        assert_eq!(reports[0].json()["state"], "failed");
        assert_eq!(reports[0].json()["problem"], "it expired");
        let later = now + Duration::from_secs(60);
        assert_eq!(reports[0].state(later), UpstreamState::Unused);
        threads[0][0].counters.queries.add(1);
        assert_eq!(reports[0].state(now), UpstreamState::Up, "for a thread");
    }
}
