//! Sampling of queries, with what became of them.

use std::time::Instant;

use crate::{
    answer::{Client, Core, Transport, Verdict},
    tap::{Origin, Sample, Tap},
};

/// The sampler of an engine.
#[derive(Debug)]
pub(super) struct Sampler {
    tap: Tap,
    /// The core's counts before the query that is being answered, if it matters what its reply comes from: that is what
    /// they tell.
    before: Option<Counts>,
}

/// Hits, misses, and answers of local data and of blocklists.
type Counts = [u64; 4];

impl Sampler {
    pub(super) fn new(tap: Tap) -> Self {
        Self { tap, before: None }
    }

    /// Counts a query. Whether it is sampled.
    #[inline(always)]
    pub(super) fn is_due(&mut self) -> bool {
        self.tap.is_due()
    }

    /// Samples a query that was received at this moment.
    pub(super) fn begin(&mut self, core: &Core, query: &[u8], client: Client, received: Instant) {
        let port = match client.transport() {
            Transport::Udp { source_port } => Some(source_port),
            Transport::Tcp => None,
        };
        let address = client.mapped_address();
        let origin_matters = self.tap.begin_client(query, address, port, received);
        self.before = origin_matters.then(|| counts(core));
    }

    /// Adds what became of it; one that is handed to the forwarder waits for that.
    pub(super) fn end(&mut self, core: &Core, room: &[u8], verdict: Verdict) {
        if verdict != Verdict::Miss {
            let origin = |before| origin(before, counts(core));
            let origin = self.before.map(origin).unwrap_or_default();
            self.tap.end_client(reply(room, verdict), origin);
        }
    }

    /// The sample of a query that was handed over, if it has one.
    pub(super) fn park(&mut self) -> Option<Box<Sample>> {
        self.tap.park()
    }

    /// Adds what became of a query that has waited.
    #[cold]
    pub(super) fn complete(&mut self, sample: Box<Sample>, room: &[u8], verdict: Verdict) {
        self.tap
            .end_parked(sample, reply(room, verdict), Origin::Miss);
    }
}

fn reply(room: &[u8], verdict: Verdict) -> Option<&[u8]> {
    match verdict {
        Verdict::Reply { reply, .. } => room.get(..reply.len),
        Verdict::Drop | Verdict::Miss => None,
    }
}

fn counts(core: &Core) -> Counts {
    let counters = core.counters();
    [
        &counters.hits,
        &counters.misses,
        &counters.local,
        &counters.blocked,
    ]
    .map(|counter| counter.get())
}

fn origin(before: Counts, after: Counts) -> Origin {
    const ORIGINS: [Origin; 4] = [Origin::Hit, Origin::Miss, Origin::Local, Origin::Blocklist];
    let counts = before.into_iter().zip(after).zip(ORIGINS);
    let mut counted = counts.filter(|((before, after), _)| before != after);
    counted.next().map_or(Origin::Server, |(_, origin)| origin)
}
