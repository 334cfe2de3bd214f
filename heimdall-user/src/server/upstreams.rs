//! What the report says of the upstreams.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};

use crate::{config::Zoned, forward::UpstreamCounters};

/// An upstream.
pub(super) struct UpstreamReport {
    pub(super) address: SocketAddr,
    /// One set for each thread.
    pub(super) counters: Vec<Arc<UpstreamCounters>>,
}

/// What the forwarder knows of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamState {
    /// No query was sent to it.
    Unused,
    /// Some thread has not set it aside.
    Up,
    /// All threads that have queried it have set it aside, and it has not responded since.
    Failed,
}

impl UpstreamState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Up => "up",
            Self::Failed => "failed",
        }
    }
}

impl UpstreamReport {
    /// One for each upstream. `counters`: each thread's, in the same order.
    pub(super) fn all(
        addresses: &[SocketAddr],
        counters: &[Vec<Arc<UpstreamCounters>>],
    ) -> Vec<Self> {
        let reports = addresses.iter().enumerate().map(|(index, address)| Self {
            address: *address,
            counters: counters
                .iter()
                .filter_map(|thread| thread.get(index).cloned())
                .collect(),
        });
        reports.collect()
    }

    pub(super) fn state(&self) -> UpstreamState {
        let used = || {
            self.counters
                .iter()
                .filter(|thread| thread.queries.get() > 0)
        };
        match used().next() {
            None => UpstreamState::Unused,
            Some(_) if used().all(|thread| thread.failed.get() != 0) => UpstreamState::Failed,
            Some(_) => UpstreamState::Up,
        }
    }

    /// The mean of the threads' round-trip times, in microseconds.
    pub(super) fn rtt_us(&self) -> Option<u64> {
        let times = self.counters.iter().map(|thread| thread.rtt_us.get());
        let times: Vec<u64> = times.filter(|time| *time > 0).collect();
        times.iter().sum::<u64>().checked_div(times.len() as u64)
    }

    pub(super) fn json(&self) -> Value {
        let sum = |count: fn(&UpstreamCounters) -> u64| -> u64 {
            self.counters.iter().map(|thread| count(thread)).sum()
        };
        json!({
            "address": Zoned(self.address).to_string(),
            "state": self.state().name(),
            "rtt_us": self.rtt_us(),
            "in_flight": sum(|thread| thread.in_flight.get()),
            "queries": sum(|thread| thread.queries.get()),
            "timeouts": sum(|thread| thread.timeouts.get()),
            "errors": sum(|thread| thread.errors.get()),
        })
    }
}
