//! The sampler of a thread, and the rings of all.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    rate::{CONSUMERS, DNSTAP, LOG, POPULAR, Rate, Schedule},
    ring::{Ring, SAMPLES},
    sample::{HEAD, Kind, MESSAGES, Origin, Sample},
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

/// Samples that were dropped because all of a thread's were in use, by consumer.
type Dropped = [AtomicU64; CONSUMERS];

/// The rings of all threads that sample.
#[derive(Debug, Default)]
pub struct Taps {
    rates: Rates,
    rings: Mutex<Vec<Arc<Ring>>>,
    dropped: Arc<Dropped>,
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
        self.tap([popular, dnstap, log])
    }

    /// The sampler of a forwarder thread.
    pub(crate) fn forwarder(&self) -> Tap {
        self.tap([None, self.rates.forwarder, None])
    }

    fn tap(&self, rates: [Option<Rate>; CONSUMERS]) -> Tap {
        let [_, dnstap, _] = rates;
        if rates.iter().all(Option::is_none) {
            return Tap::default();
        }
        let ring = Arc::new(Ring::new(match dnstap {
            Some(_) => MESSAGES,
            None => HEAD,
        }));
        self.rings().push(Arc::clone(&ring));
        Tap::new(Some(ring), Arc::clone(&self.dropped), rates)
    }

    /// Gives `take` all samples that wait. Returns the most that waited in one ring.
    pub fn drain(&self, mut take: impl FnMut(&Sample)) -> usize {
        let mut most = 0;
        // A ring whose thread has ended has no other owner, and gets no more samples.
        self.rings().retain(|ring| {
            let is_live = Arc::strong_count(ring) > 1;
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
            is_live || taken > 0
        });
        most
    }

    /// Samples that a consumer did not get.
    pub(super) fn dropped(&self, consumer: u8) -> u64 {
        let dropped = self.dropped.get(consumer.trailing_zeros() as usize);
        dropped.map_or(0, |dropped| dropped.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub(super) fn rings_len(&self) -> usize {
        self.rings().len()
    }

    fn rings(&self) -> MutexGuard<'_, Vec<Arc<Ring>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sampler of one thread. The default one samples nothing.
#[derive(Debug)]
pub struct Tap {
    /// Queries to the next sample.
    countdown: u32,
    /// The value that it began with.
    began: u32,
    schedule: Schedule,
    ring: Option<Arc<Ring>>,
    dropped: Arc<Dropped>,
    /// The sample of the query that is being answered.
    current: Option<Box<Sample>>,
}

impl Default for Tap {
    fn default() -> Self {
        Self::new(None, Arc::default(), [None; CONSUMERS])
    }
}

impl Tap {
    fn new(
        ring: Option<Arc<Ring>>,
        dropped: Arc<Dropped>,
        rates: [Option<Rate>; CONSUMERS],
    ) -> Self {
        let schedule = Schedule::new(rates, rand::random());
        let countdown = schedule.next();
        Self {
            countdown,
            began: countdown,
            schedule,
            ring,
            dropped,
            current: None,
        }
    }

    /// Counts a query. Whether it is to be sampled: [`begin_client`](Self::begin_client) or
    /// [`forwarder_query`](Self::forwarder_query) is called then.
    #[inline(always)]
    pub(crate) fn is_due(&mut self) -> bool {
        // It is never 0 here.
        self.countdown = self.countdown.wrapping_sub(1);
        self.countdown == 0
    }

    /// Counts from the last sample on. Returns the memory for this one, and for whom it is.
    fn take(&mut self) -> Option<(Box<Sample>, u8)> {
        let consumers = self.schedule.pass(self.began);
        self.began = self.schedule.next();
        self.countdown = self.began;
        if consumers == 0 {
            // So many queries were counted as the countdown can.
            return None;
        }
        let sample = self.ring.as_ref().and_then(|ring| ring.take_unused());
        if sample.is_none() {
            for (consumer, dropped) in self.dropped.iter().enumerate() {
                dropped.fetch_add(u64::from(consumers >> consumer & 1), Ordering::Relaxed);
            }
        }
        Some((sample?, consumers))
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
    /// Samples a client's query. The client's port is known over UDP, which `None` stands for TCP by. Whether the
    /// reply is wanted, too.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin_client(&mut self, query: &[u8], client: IpAddr, port: Option<u16>) -> bool {
        let Some((mut sample, consumers)) = self.take() else {
            return false;
        };
        sample.begin(consumers, query);
        sample.peer = client;
        sample.port = port;
        sample.tcp = port.is_none();
        if consumers == POPULAR {
            // Only who asked what matters.
            self.push(sample);
            return false;
        }
        sample.queried = SystemTime::now();
        self.current = Some(sample);
        true
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
            sample.replied = Some(SystemTime::now());
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
    /// Samples a query to an upstream. Whether its response is to be given to
    /// [`forwarder_response`](Self::forwarder_response).
    #[cold]
    #[inline(never)]
    pub(crate) fn forwarder_query(
        &mut self,
        query: &[u8],
        upstream: SocketAddr,
        tcp: bool,
    ) -> bool {
        let Some((mut sample, consumers)) = self.take() else {
            return false;
        };
        sample.begin(consumers, query);
        sample.kind = Kind::ForwarderQuery;
        sample.set_upstream(upstream, tcp);
        sample.queried = SystemTime::now();
        self.push(sample);
        true
    }

    /// Samples the response to a query that was sampled, `waited` ago.
    #[cold]
    #[inline(never)]
    pub(crate) fn forwarder_response(
        &self,
        response: &[u8],
        upstream: SocketAddr,
        tcp: bool,
        waited: Duration,
    ) {
        let unused = self.ring.as_ref().and_then(|ring| ring.take_unused());
        let Some(mut sample) = unused else {
            let [_, dropped, _] = &*self.dropped;
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let now = SystemTime::now();
        sample.begin(DNSTAP, &[]);
        sample.kind = Kind::ForwarderResponse;
        sample.set_upstream(upstream, tcp);
        sample.queried = now.checked_sub(waited).unwrap_or(now);
        sample.replied = Some(now);
        sample.set_reply(response);
        self.push(sample);
    }
}

impl Sample {
    fn set_upstream(&mut self, upstream: SocketAddr, tcp: bool) {
        self.peer = upstream.ip();
        self.port = Some(upstream.port());
        self.tcp = tcp;
    }
}
