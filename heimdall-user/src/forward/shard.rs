//! A forwarder thread: its state and its loop.

mod attempts;
mod chain;
mod connections;
mod datagrams;
mod lookup;
mod overload;
mod probes;
mod reload;

pub(super) use chain::Chain;

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};

use super::{
    ForwardCounters, ForwardOptions, Mailbox, Request,
    answers::Answers,
    deadlines::{Deadline, Deadlines},
    failures::Failures,
    handle::Inbox,
    inflight::InFlight,
    overload_log::OverloadLog,
    plan::Plan,
    routes::Routes,
    shared_cache::SharedCache,
    tcp::Tcp,
    udp::{Batch, Udp, Unsent},
    upstreams::Upstreams,
    zones::Zones,
};
use crate::{
    cache::{Key, Record},
    clock::Clock,
    dns::{Answer, ClientSubnet, DnsPacketView, NameHasher, Query, edns::ede, header::rcode},
    heartbeat,
    maintenance::{CommandQueue, ForwarderState, Maintenance, Scope, Status, Subject, ThreadState},
    tap::Tap,
};
use reload::Reloading;

/// Differs from all others.
const WAKE: Token = Token(usize::MAX);

/// The token of the [connection](super::tcp) with this number.
fn connection_token(number: usize) -> Token {
    Token(number << 1)
}

/// The number of the connection that a token is of; `None`: it is that of a UDP socket, or [`WAKE`].
fn connection_number(token: Token) -> Option<usize> {
    (token.0 & 1 == 0).then_some(token.0 >> 1)
}

/// The token of the [UDP socket](super::udp) with this number.
fn socket_token(number: usize) -> Token {
    Token(number << 1 | 1)
}

/// Requests taken at once: as many as are sent with one system call, and few enough that responses need not
/// wait long.
const MAX_REQUESTS: usize = Batch::LEN;

/// Time between two counts of the queries by upstream.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Largest message over TCP.
const MAX_MESSAGE: usize = u16::MAX as usize;

pub(super) struct Shard {
    poll: Poll,
    /// Its number among the threads.
    thread: usize,
    inbox: Arc<Inbox>,
    options: ForwardOptions,
    counters: Arc<ForwardCounters>,
    in_flight: InFlight,
    udp: Udp,
    tcp: Tcp,
    upstreams: Upstreams,
    routes: Routes,
    reloading: Reloading,
    /// What probes ask.
    cache: SharedCache,
    answers: Answers,
    failures: Failures,
    zones: Zones,
    log: OverloadLog,
    hasher: NameHasher,
    subnet: Option<ClientSubnet>,
    /// The clock of the cache.
    clock: Clock,
    /// Of the cache.
    maintenance: Maintenance,
    /// When the current exchanges time out.
    attempt_deadlines: Deadlines,
    /// When waiters get a stale answer.
    client_deadlines: Deadlines,
    /// Of the last exchange or look-up.
    serial: u64,
    query: Vec<u8>,
    unsent: Vec<Unsent>,
    scratch: Box<[u8]>,
    /// Which fronts got an outcome since they were last woken.
    delivered: Box<[bool]>,
    /// Requests of each front that wait for this thread's look-ups.
    waiting: Box<[usize]>,
    /// The queries that wait for each upstream, and when they are counted next.
    by_upstream: Vec<u64>,
    count_due: Instant,
    /// Samples queries to upstreams.
    pub(super) tap: Tap,
}

/// Creation.
impl Shard {
    pub(super) fn new(
        options: ForwardOptions,
        mailboxes: Arc<[Arc<Mailbox>]>,
        hasher: NameHasher,
        clock: Clock,
        log: OverloadLog,
        plan: &Plan,
        thread: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let delivered = vec![false; mailboxes.len()].into();
        let waiting = vec![0; mailboxes.len()].into();
        let inbox = Arc::new(Inbox::new(options.queue, waker, mailboxes));
        let maintenance = Maintenance::new({
            let inbox = Arc::clone(&inbox);
            move || inbox.wake()
        });
        let mut shard = Self {
            poll,
            thread,
            delivered,
            waiting,
            inbox,
            maintenance,
            counters: Arc::default(),
            in_flight: InFlight::new(options.max_in_flight),
            udp: Udp::new(),
            tcp: Tcp::new(),
            upstreams: Upstreams::default(),
            routes: Routes::default(),
            reloading: Reloading::default(),
            cache: SharedCache::new(&options, hasher.clone())?,
            answers: Answers::default(),
            zones: Zones::new(options.failure_max, plan.longest(), hasher.clone()),
            log,
            hasher,
            failures: Failures::new(options.failure_min, options.failure_max),
            subnet: options
                .client_subnet
                .map(|(address, prefix)| ClientSubnet::new(address, prefix)),
            clock,
            attempt_deadlines: Deadlines::with_capacity(options.max_in_flight),
            client_deadlines: Deadlines::default(),
            serial: 0,
            query: Vec::new(),
            unsent: Vec::new(),
            by_upstream: Vec::new(),
            count_due: Instant::now(),
            scratch: vec![0; MAX_MESSAGE].into(),
            tap: Tap::default(),
            options,
        };
        shard.adopt(plan);
        Ok(shard)
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    pub(super) fn command_queue(&self) -> Arc<CommandQueue> {
        self.maintenance.queue()
    }

    /// Prefetches the bucket of `key`.
    pub(super) fn prefetch(&self, key: &Key<'_>) {
        self.cache.prefetch(key);
    }

    /// Inserts an answer of a snapshot, unless its TTLs exceed the present limits.
    pub(super) fn restore(&mut self, key: &Key<'_>, record: &Record<'_>, age: u32, now: u32) {
        let longest = self.routes.limits_of(record.question).max;
        if record.answer.longest_ttl() <= longest {
            self.cache.restore(key, record, age, now);
        }
    }

    pub(super) fn counters(&self) -> Arc<ForwardCounters> {
        self.counters.clone()
    }
}

/// The loop.
impl Shard {
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut batch = Batch::new();
        let mut more = false;
        let mut maintenance = Status::Busy;
        while !self.inbox.is_closed() {
            let timeout = if !more && self.inbox.prepare_to_sleep() {
                let timeout = maintenance.timeout().into_iter().chain(self.time_left());
                timeout.fold(heartbeat::MAX_SLEEP, Duration::min)
            } else {
                Duration::ZERO
            };
            heartbeat::beat();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the forwarder cannot wait for events");
                break;
            }
            self.inbox.awake();
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKE => {}
                    token => match connection_number(token) {
                        Some(number) => self.connection_ready(number, now),
                        None => self.receive(token.0 >> 1, &mut batch, now),
                    },
                }
            }
            self.take_reload(now);
            self.time_out_attempts(now);
            self.serve_stale_on_timeout(now);
            more = self.take_requests(now);
            self.send_probes(now);
            self.send_queries(&mut batch, now);
            self.acknowledge(&events);
            self.tcp.close_idle(now);
            self.wake_fronts();
            maintenance = self.maintain().max(self.flush_outdated());
            self.release(now);
            self.log_full_queue(now);
            self.publish();
            self.count_by_upstream(now);
        }
        self.inbox.close();
        for lookup in self.in_flight.end_all() {
            self.deliver(
                &lookup.request,
                &lookup.waiters,
                Answer::failure(rcode::SERVFAIL, Some(ede::NOT_READY), 0),
            );
        }
        self.wake_fronts();
        self.inbox.reject_all();
        self.publish();
    }

    /// Time until the next deadline that still matters.
    fn time_left(&mut self) -> Option<Duration> {
        let in_flight = &self.in_flight;
        let attempt = self
            .attempt_deadlines
            .next(|next| is_current(in_flight, next));
        let client = self
            .client_deadlines
            .next(|next| is_awaited(in_flight, next));
        let idle = self.tcp.idle_check();
        let probe = self.upstreams.next_probe();
        let next = attempt.into_iter().chain(client).chain(idle).chain(probe);
        let next = next.min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Takes requests from the fronts. Whether there may be more.
    fn take_requests(&mut self, now: Instant) -> bool {
        for _ in 0..MAX_REQUESTS {
            let Some(request) = self.inbox.take() else {
                return false;
            };
            self.begin(request, now);
        }
        true
    }

    fn maintain(&mut self) -> Status {
        if !self.maintenance.has_work() {
            return Status::Idle;
        }
        while let Some(inquiry) = self.maintenance.next_inquiry() {
            let state = self.state(&inquiry.subject, Instant::now());
            inquiry.answer(ThreadState::Forwarder(state));
        }
        let (failures, zones) = (&mut self.failures, &mut self.zones);
        let flushing = |scope: &Scope| {
            failures.flush(|question| scope.holds(question));
            zones.clear();
        };
        self.cache
            .maintain(&mut self.maintenance, self.clock.seconds(), flushing)
    }

    /// What would become of a query. Nothing changes.
    fn state(&self, subject: &Subject, now: Instant) -> ForwarderState {
        let request = DnsPacketView::parse(&subject.query).ok().and_then(|view| {
            let query = Query::new(&view, &self.hasher);
            let client = subject.client.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            Request::new(&query, &subject.query, client, 0, 0)
        });
        let request = request.map(|mut request| {
            request.generation = self.routes.generation();
            request
        });
        let request = request.as_ref();
        let dead_zone = request.and_then(|request| self.zones.dead_zone(request, now));
        ForwarderState {
            failure: request.and_then(|request| self.failures.time_left(request, now)),
            dead_zone: dead_zone.map(|(zone, left)| (zone.into(), left)),
            in_flight: request.is_some_and(|request| self.in_flight.find(request).is_some()),
            route: request.and_then(|request| self.route_state(request, now)),
        }
    }

    fn wake_fronts(&mut self) {
        for (mailbox, delivered) in self.inbox.mailboxes.iter().zip(&mut self.delivered) {
            if std::mem::take(delivered) {
                mailbox.notify();
            }
        }
    }

    /// Counts the queries that wait for each upstream: once a second, as it takes a walk over all slots, and
    /// without a walk once no look-up is left, after which the thread may sleep for long.
    fn count_by_upstream(&mut self, now: Instant) {
        if self.in_flight.len() == 0 {
            if self.by_upstream.iter().all(|count| *count == 0) {
                return;
            }
            self.by_upstream.fill(0);
        } else {
            if now < self.count_due {
                return;
            }
            self.count_due = now + COUNT_INTERVAL;
            self.by_upstream.fill(0);
            let lookups = self.in_flight.iter().map(|(_, lookup)| lookup);
            for exchange in lookups.flat_map(|lookup| &lookup.exchanges) {
                if let Some(count) = self.by_upstream.get_mut(exchange.sent.target.upstream) {
                    *count += 1;
                }
            }
        }
        for (upstream, count) in self.by_upstream.iter().enumerate() {
            if let Some(counters) = self.upstreams.counters(upstream) {
                counters.in_flight.set(*count);
            }
        }
    }

    fn publish(&self) {
        self.counters.in_flight.set(self.in_flight.len() as u64);
        self.counters
            .queue_full
            .set(self.inbox.rejected.load(Ordering::Relaxed));
        let [connections, opened, handshakes, resumed] = self.tcp.counts();
        self.counters.tls_handshakes.set(handshakes);
        self.counters.tls_resumed.set(resumed);
        self.counters.connections.set(connections);
        self.counters.connections_opened.set(opened);
        let [entries, insertions, evictions] = self.cache.counts();
        self.counters.cache_entries.set(entries);
        self.counters.cache_insertions.set(insertions);
        self.counters.cache_evictions.set(evictions);
    }
}

/// Whether the deadline is that of a look-up's current exchange.
fn is_current(in_flight: &InFlight, deadline: Deadline) -> bool {
    in_flight
        .get(deadline.slot)
        .is_some_and(|lookup| lookup.current == deadline.serial)
}

/// Whether the deadline is that of a look-up whose waiters have no answer yet.
fn is_awaited(in_flight: &InFlight, deadline: Deadline) -> bool {
    in_flight
        .get(deadline.slot)
        .is_some_and(|lookup| lookup.serial == deadline.serial && !lookup.stale_served)
}

#[cfg(test)]
mod tests;
