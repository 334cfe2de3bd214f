//! Sampling of queries, with what became of them.

use std::time::Instant;

use crate::{
    answer::{Client, Core, Transport, Verdict},
    dns::Query,
    tap::{Origin, Protocol, Rate, Sample, Tap},
    tier::{Nominator, Offer},
};

/// The sampler of an engine.
#[derive(Debug)]
pub(super) struct Sampler {
    tap: Tap,
    /// The core's counts before the query that is being answered, if it matters what its reply comes from: that is what
    /// they tell.
    before: Option<Counts>,
    /// Takes popular answers for the hot tier.
    nominator: Option<Nominator>,
}

/// Hits, misses, and answers of local data and of blocklists.
type Counts = [u64; 4];

impl Sampler {
    pub(super) fn new(tap: Tap) -> Self {
        Self {
            tap,
            before: None,
            nominator: None,
        }
    }

    /// Nominates popular answers, too. To be called before queries are counted.
    pub(super) fn nominate_to(&mut self, nominator: Nominator) {
        self.tap.nominate(Rate::one_in(Nominator::ONE_IN));
        self.nominator = Some(nominator);
    }

    /// Counts a query. Whether it is sampled.
    #[inline(always)]
    pub(super) fn is_due(&mut self) -> bool {
        self.tap.is_due()
    }

    /// Samples a query that was received at this moment.
    pub(super) fn begin(&mut self, core: &Core, query: &[u8], client: Client, received: Instant) {
        let over = match client.transport() {
            Transport::Udp { source_port } => (Protocol::Udp, Some(source_port)),
            Transport::Tcp => (Protocol::Tcp, None),
            Transport::Tls => (Protocol::Tls, None),
        };
        let address = client.mapped_address();
        let origin_matters = self.tap.begin_client(query, address, over, received);
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

    /// Nominates the answer of the query that was sampled last and was replied to, if it is one to nominate, the hot
    /// tier answers such queries, and the answer is from the cache.
    pub(super) fn nominate(&self, core: &Core, query: &Query, room: &[u8]) {
        if let Some(nominator) = self.nominator.as_ref().filter(|_| self.tap.nominates())
            && query.is_plain()
        {
            nominator.nominate(core.seconds(), || {
                let (key, popular) = core.popular(query, room)?;
                Some(Offer {
                    question: key.question,
                    flags: key.flags,
                    answer: popular.answer,
                    received: popular.received,
                    refresh: popular.refresh,
                })
            });
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
