//! The sampler of a thread, and the rings of all.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    rate::{CONSUMERS, DNSTAP, LOG, NOMINATOR, POPULAR, Rate, Schedule},
    ring::{Ring, SAMPLES},
    sample::{HEAD, Kind, MESSAGES, Origin, Protocol, Sample},
};
use crate::dns::options::response_code;

/// How much is sampled. `None`: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Of clients' queries, for the popular names and clients.
    pub popular: Option<Rate>,
    /// Of clients' queries, for dnstap.
    pub dnstap: Option<Rate>,
    /// Of clients' queries, for the query log.
    pub log: Option<Rate>,
    /// Of queries to upstreams, for dnstap.
    pub forwarder: Option<Rate>,
}

/// The rings of all threads that sample.
#[derive(Debug, Default)]
pub struct Taps {
    rates: Rates,
    rings: Mutex<Rings>,
}

#[derive(Debug, Default)]
struct Rings {
    rings: Vec<Arc<Ring>>,
    /// What the rings dropped that were removed, by consumer.
    removed: [u64; CONSUMERS],
}

impl Taps {
    /// Without any threads yet.
    pub fn new(rates: Rates) -> Self {
        Self {
            rates,
            ..Self::default()
        }
    }

    /// The sampler of a front, with a ring of its own.
    pub fn front(&self) -> Tap {
        let Rates {
            popular,
            dnstap,
            log,
            ..
        } = self.rates;
        self.tap([popular, dnstap, log, None])
    }

    /// The sampler of a forwarder thread.
    pub(crate) fn forwarder(&self) -> Tap {
        self.tap([None, self.rates.forwarder, None, None])
    }

    fn tap(&self, rates: [Option<Rate>; CONSUMERS]) -> Tap {
        let [_, dnstap, ..] = rates;
        if rates.iter().all(Option::is_none) {
            return Tap::default();
        }
        let ring = Arc::new(Ring::new(match dnstap {
            Some(_) => MESSAGES,
            None => HEAD,
        }));
        self.rings().rings.push(Arc::clone(&ring));
        Tap::new(Some(ring), rates)
    }

    /// Gives `take` all samples that wait. Returns the most that waited in one ring.
    pub fn drain(&self, mut take: impl FnMut(&Sample)) -> usize {
        let mut most = 0;
        // A copy: the statistics wait for the lock, and `take` may be slow.
        let rings = self.rings().rings.clone();
        let mut ended = false;
        for ring in rings {
            // The list, its copy, and the thread.
            let is_live = Arc::strong_count(&ring) > 2;
            let mut taken = 0;
            // Bounded: the thread goes on meanwhile.
            while taken < SAMPLES
                && let Some(sample) = ring.pop()
            {
                take(&sample);
                ring.give_back(sample);
                taken += 1;
            }
            most = most.max(taken);
            ended |= !is_live && taken == 0;
        }
        if ended {
            self.rings().remove_ended();
        }
        most
    }

    /// Samples that a consumer did not get.
    pub(super) fn dropped(&self, consumer: u8) -> u64 {
        let rings = self.rings();
        let all = rings.rings.iter().map(|ring| ring.dropped());
        let count = |dropped: [u64; CONSUMERS]| {
            let dropped = dropped.get(consumer.trailing_zeros() as usize);
            dropped.copied().unwrap_or_default()
        };
        count(rings.removed) + all.map(count).sum::<u64>()
    }

    #[cfg(test)]
    pub(super) fn rings_len(&self) -> usize {
        self.rings().rings.len()
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rings {
    /// Removes the empty rings whose threads have ended: they have no other owner, and get no more samples.
    fn remove_ended(&mut self) {
        let removed = &mut self.removed;
        self.rings.retain_mut(|ring| {
            let Some(ring) = Arc::get_mut(ring) else {
                return true;
            };
            if !ring.is_empty() {
                return true;
            }
            for (sum, dropped) in removed.iter_mut().zip(ring.dropped()) {
                *sum += dropped;
            }
            false
        });
    }
}

/// The sampler of one thread. The default one samples nothing.
#[derive(Debug)]
pub struct Tap {
    /// Queries to the next sample.
    countdown: u32,
    schedule: Schedule,
    /// For whom the last query that was counted is a sample, if it is one.
    due: u8,
    ring: Option<Arc<Ring>>,
    /// The sample of the query that is being answered.
    current: Option<Box<Sample>>,
}

impl Default for Tap {
    fn default() -> Self {
        Self::new(None, [None; CONSUMERS])
    }
}

impl Tap {
    fn new(ring: Option<Arc<Ring>>, rates: [Option<Rate>; CONSUMERS]) -> Self {
        let schedule = Schedule::new(rates, rand::random());
        Self {
            countdown: schedule.next(),
            schedule,
            due: 0,
            ring,
            current: None,
        }
    }

    /// Chooses queries to nominate, too: one of so many. To be called before queries are counted.
    pub(crate) fn nominate(&mut self, rate: Rate) {
        self.schedule.add(NOMINATOR, rate);
        self.countdown = self.schedule.next();
    }

    /// Whether the query that was sampled last, be it for others or not, is one to nominate.
    pub(crate) fn nominates(&self) -> bool {
        self.due & NOMINATOR != 0
    }

    /// Counts a query. Whether it is to be sampled: [`begin_client`](Self::begin_client) or
    /// [`forwarder_query`](Self::forwarder_query) is called then.
    #[inline(always)]
    pub(crate) fn is_due(&mut self) -> bool {
        // It is never 0 here.
        self.countdown = self.countdown.wrapping_sub(1);
        self.countdown == 0 && self.restart()
    }

    /// Begins the next interval. Whether the last one ended with a sample, and not because it was as long as can be counted.
    #[cold]
    #[inline(never)]
    fn restart(&mut self) -> bool {
        self.due = self.schedule.pass();
        self.countdown = self.schedule.next();
        self.due != 0
    }

    /// Memory for a sample for these consumers, or `None`, which is counted.
    fn unused(&self, consumers: u8) -> Option<Box<Sample>> {
        let ring = self.ring.as_ref()?;
        let sample = ring.take_unused();
        if sample.is_none() {
            ring.count_dropped(consumers);
        }
        sample
    }

    #[cfg(test)]
    pub(super) fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    fn push(&self, sample: Box<Sample>) {
        if let Some(ring) = &self.ring {
            ring.push(sample);
        }
    }
}

/// A front's queries.
impl Tap {
    /// Samples a client's query, received at this moment. An IPv4 address is mapped (RFC 4291 section 2.5.5.2). The
    /// port is known over UDP. Whether it matters what the reply comes from.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin_client(
        &mut self,
        query: &[u8],
        client: Ipv6Addr,
        (protocol, port): (Protocol, Option<u16>),
        received: Instant,
    ) -> bool {
        let consumers = self.due & !NOMINATOR;
        if consumers == 0 {
            return false;
        }
        let Some(mut sample) = self.unused(consumers) else {
            return false;
        };
        sample.begin(consumers, query, received);
        sample.peer = client;
        sample.port = port;
        sample.protocol = protocol;
        if consumers == POPULAR {
            // Only who asked what matters.
            self.push(sample);
            return false;
        }
        self.current = Some(sample);
        consumers & LOG != 0
    }

    /// Adds the reply to the query that was sampled last, if there is one.
    pub(crate) fn end_client(&mut self, reply: Option<&[u8]>, origin: Origin) {
        if let Some(sample) = self.current.take() {
            self.end_parked(sample, reply, origin);
        }
    }

    /// The sample of a query that has to wait for its reply, if it was sampled: for
    /// [`end_parked`](Self::end_parked).
    #[inline]
    pub(crate) fn park(&mut self) -> Option<Box<Sample>> {
        self.current.take()
    }

    /// Adds the reply to a query that has waited.
    #[cold]
    pub(crate) fn end_parked(&self, mut sample: Box<Sample>, reply: Option<&[u8]>, origin: Origin) {
        sample.origin = origin;
        if let Some(reply) = reply {
            sample.replied = Some(Instant::now());
            if sample.consumers & LOG != 0 {
                sample.rcode = response_code(reply);
            }
            if sample.consumers & DNSTAP != 0 {
                sample.set_reply(reply);
            }
        }
        self.push(sample);
    }
}

/// A forwarder thread's queries.
impl Tap {
    /// Samples a query to an upstream, sent at `sent`. Whether its response is to be given to
    /// [`forwarder_response`](Self::forwarder_response).
    #[cold]
    #[inline(never)]
    pub(crate) fn forwarder_query(
        &mut self,
        query: &[u8],
        upstream: SocketAddr,
        protocol: Protocol,
        sent: Instant,
    ) -> bool {
        let Some(mut sample) = self.unused(self.due) else {
            return false;
        };
        sample.begin(self.due, query, sent);
        sample.kind = Kind::ForwarderQuery;
        sample.set_upstream(upstream, protocol);
        self.push(sample);
        true
    }

    /// Samples the response to a query that was sampled: when that was sent, and the response received.
    #[cold]
    #[inline(never)]
    pub(crate) fn forwarder_response(
        &self,
        response: &[u8],
        upstream: SocketAddr,
        protocol: Protocol,
        [sent, received]: [Instant; 2],
    ) {
        let Some(mut sample) = self.unused(DNSTAP) else {
            return;
        };
        sample.begin(DNSTAP, &[], sent);
        sample.kind = Kind::ForwarderResponse;
        sample.set_upstream(upstream, protocol);
        sample.replied = Some(received);
        sample.set_reply(response);
        self.push(sample);
    }
}

impl Sample {
    fn set_upstream(&mut self, upstream: SocketAddr, protocol: Protocol) {
        self.peer = match upstream.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        self.port = Some(upstream.port());
        self.protocol = protocol;
    }
}
