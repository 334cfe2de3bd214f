//! The upstreams of one thread: their state, and the choice of the next one to query.
//!
//! Each upstream has one state, whatever group it is chosen from: its health (`health`), its round-trip times (`rtt`),
//! and what it can do: read EDNS (`edns`), repeat letters (`case`), give cookies (`cookies`), answer over TCP
//! (`streams`). A [`Group`] says which upstreams a look-up may ask, and in which order (`choice`).
//! Nothing here sends or waits: the thread tells what came of its queries, and asks which probes are due.

mod case;
mod choice;
mod cookies;
mod edns;
mod health;
mod lapses;
mod rtt;
mod streams;

use std::{
    hash::BuildHasher as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;
use slab::Slab;

use super::{UpstreamAddress, UpstreamCounters, UpstreamMetrics, UpstreamTransport, routes::ROOT};
use crate::maintenance::UpstreamState;
pub use choice::Policy;
pub(super) use choice::{Group, Tried};
use health::Health;
pub(super) use health::{Missing, Reason, bit};
use rtt::{MAX_TIMEOUT, Rtt};
pub(super) use streams::TryTcp;

/// Upstreams of one route: a look-up remembers which of them it has asked.
pub(crate) const MAX_MEMBERS: usize = Tried::CAPACITY;

/// Different names in a row whose queries have to end alike before that is evidence about the upstream.
const IN_A_ROW: usize = 3;

/// The upstreams of one thread. An upstream's index never changes; that of one that was removed is used again.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    list: Slab<Upstream>,
    /// How many are set aside.
    aside: usize,
    /// No probe is due before that. `None`: no upstream is set aside.
    next_probe: Option<Instant>,
}

#[derive(Debug)]
struct Upstream {
    address: UpstreamAddress,
    /// Its part in the choice by name: the same in every process.
    key: u64,
    least: Duration,
    /// The zone that probes ask for.
    probe_zone: Box<[u8]>,
    metrics: Arc<UpstreamMetrics>,
    health: Health,
    rtt: Option<Rtt>,
    edns: edns::Edns,
    case: case::Case,
    cookies: cookies::Cookies,
    streams: streams::Streams,
}

/// Hashes of different names in a row whose queries ended alike.
#[derive(Debug, Default)]
struct Row {
    names: [u64; IN_A_ROW],
    len: usize,
}

impl Row {
    /// Adds a name. Whether there are enough of them.
    fn add(&mut self, name: u64) -> bool {
        let known = self.names.get(..self.len).unwrap_or_default();
        if !known.contains(&name)
            && let Some(free) = self.names.get_mut(self.len)
        {
            *free = name;
            self.len += 1;
        }
        self.is_full()
    }

    fn is_full(&self) -> bool {
        self.len == IN_A_ROW
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

impl Upstreams {
    /// Adds an upstream. Returns its index.
    pub(super) fn insert(
        &mut self,
        address: UpstreamAddress,
        metrics: Arc<UpstreamMetrics>,
    ) -> usize {
        self.list.insert(Upstream {
            key: FixedState::default().hash_one(address.to_string()),
            address,
            least: Duration::ZERO,
            probe_zone: ROOT.into(),
            metrics,
            health: Health::default(),
            rtt: None,
            edns: edns::Edns::default(),
            case: case::Case::default(),
            cookies: cookies::Cookies::default(),
            streams: streams::Streams::default(),
        })
    }

    /// Says what an upstream counts in, the time that it has to respond, at least, by the most patient of its routes, and
    /// the zone that probes ask for, in wire form.
    pub(super) fn update(
        &mut self,
        index: usize,
        metrics: Arc<UpstreamMetrics>,
        least: Duration,
        probe_zone: &[u8],
    ) {
        if let Some(upstream) = self.list.get_mut(index) {
            // They are others if it was taken out and put back before its last look-up ended.
            let problem = upstream.metrics.problem();
            metrics.set_problem(problem.map(|problem| problem.to_string()));
            upstream.metrics = metrics;
            upstream.least = least;
            upstream.probe_zone = probe_zone.into();
        }
    }

    /// Removes an upstream, which no route and no exchange refers to. Gives its address if it was set aside for certain.
    pub(super) fn remove(&mut self, index: usize) -> Option<UpstreamAddress> {
        let upstream = self.list.try_remove(index)?;
        self.aside -= usize::from(upstream.health.is_aside());
        if self.aside == 0 {
            self.next_probe = None;
        }
        (upstream.health.is_confirmed()).then_some(upstream.address)
    }

    /// The index of an upstream.
    pub(super) fn find(&self, address: &UpstreamAddress) -> Option<usize> {
        let mut all = self.list.iter();
        let found = all.find(|(_, upstream)| upstream.address == *address);
        found.map(|(index, _)| index)
    }

    /// The indices of all.
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        self.list.iter().map(|(index, _)| index)
    }

    /// Time that it has to respond at least, by the most patient of its routes.
    fn least(&self, index: usize) -> Duration {
        let upstream = self.list.get(index);
        upstream.map_or(Duration::ZERO, |upstream| upstream.least)
    }

    /// The zone that probes ask for.
    pub(super) fn probe_zone(&self, index: usize) -> &[u8] {
        let upstream = self.list.get(index);
        upstream.map_or(ROOT, |upstream| &upstream.probe_zone)
    }

    pub(super) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.list
            .get(index)
            .map(|upstream| upstream.address.address)
    }

    fn transport(&self, index: usize) -> Option<&UpstreamTransport> {
        let upstream = self.list.get(index);
        upstream.map(|upstream| &upstream.address.transport)
    }

    /// Whether the upstream is asked over TLS.
    pub(super) fn is_tls(&self, index: usize) -> bool {
        matches!(self.transport(index), Some(UpstreamTransport::Tls(_)))
    }

    /// Whether the upstream is asked over connections only.
    pub(super) fn is_stream(&self, index: usize) -> bool {
        let transport = self.transport(index);
        transport.is_some_and(|transport| *transport != UpstreamTransport::Udp)
    }

    /// The round trips until the first response: if the connection is new, one for that, one for TLS, and one for the query.
    pub(super) fn round_trips(&self, index: usize) -> u32 {
        match self.transport(index) {
            Some(UpstreamTransport::Tls(_)) => 3,
            Some(UpstreamTransport::Tcp) => 2,
            Some(UpstreamTransport::Udp) | None => 1,
        }
    }

    pub(super) fn counters(&self, index: usize) -> Option<&UpstreamCounters> {
        let upstream = self.list.get(index);
        upstream.map(|upstream| &upstream.metrics.counters)
    }

    /// The state of one of a group, which has `least` time to respond at least.
    pub(super) fn state(
        &self,
        group: &Group,
        index: usize,
        least: Duration,
        now: Instant,
    ) -> Option<UpstreamState> {
        let upstream = self.list.get(index)?;
        Some(UpstreamState {
            address: upstream.address.address,
            transport: upstream.address.transport.name(),
            prefix: upstream.address.transport.to_string(),
            suffix: upstream.address.transport.pins().to_string(),
            set_aside: upstream.health.set_aside(now),
            rtt: upstream.rtt.map(Rtt::smoothed),
            timeout: self.try_timeout(group, index, self.is_stream(index), least),
            plain: self.is_plain(index, now),
        })
    }
}

#[cfg(test)]
mod tests;
