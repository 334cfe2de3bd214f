//! A forwarder thread: what it owns, and its loop.

mod course;
mod overload;

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};

use super::{
    ForwardCounters, Mailbox, Settings,
    deadlines::{Deadline, Deadlines},
    failures::Failures,
    handle::Inbox,
    inflight::InFlight,
    memory::Memory,
    notices::Notices,
    subnet::Subnet,
    upstreams::Upstreams,
    zones::Zones,
};
use crate::{
    cache::{Key, Record},
    clock::Clock,
    dns::{Answer, NameHasher, edns::ede, header::rcode},
    maintenance::{CommandQueue, Maintenance, Scope, Status},
};

/// Not a look-up's slot.
const WAKE: Token = Token(usize::MAX);

/// Requests taken at one go, so that responses are not kept waiting.
const INTAKE: usize = 256;

/// Largest message, over UDP or TCP.
const MAX_MESSAGE: usize = u16::MAX as usize;

pub(super) struct Shard {
    poll: Poll,
    inbox: Arc<Inbox>,
    settings: Settings,
    counters: Arc<ForwardCounters>,
    in_flight: InFlight,
    upstreams: Upstreams,
    memory: Memory,
    failures: Failures,
    zones: Zones,
    notices: Notices,
    hasher: NameHasher,
    subnet: Option<Subnet>,
    /// The clock of the memory.
    clock: Clock,
    /// Of the memory's cache.
    maintenance: Maintenance,
    /// When the tries under way end.
    tries: Deadlines,
    /// When the clients of look-ups under way get what the memory has.
    patience: Deadlines,
    /// Of the last exchange or look-up.
    serial: u64,
    query: Vec<u8>,
    scratch: Box<[u8]>,
    /// Which fronts got an outcome since they were last rung.
    delivered: Box<[bool]>,
    /// Requests of each front that wait for this thread's look-ups.
    waiting: Box<[usize]>,
}

/// Creation.
impl Shard {
    pub(super) fn new(
        settings: Settings,
        mailboxes: Arc<[Arc<Mailbox>]>,
        hasher: NameHasher,
        clock: Clock,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let delivered = vec![false; mailboxes.len()].into();
        let waiting = vec![0; mailboxes.len()].into();
        let probe = settings.attempt_timeout * settings.attempts;
        let inbox = Arc::new(Inbox::new(settings.queue, waker, mailboxes));
        let maintenance = Maintenance::new({
            let inbox = Arc::clone(&inbox);
            move || inbox.wake()
        });
        Ok(Self {
            poll,
            delivered,
            waiting,
            inbox,
            maintenance,
            counters: Arc::default(),
            in_flight: InFlight::new(settings.max_in_flight),
            upstreams: Upstreams::new(&settings.upstreams, settings.attempt_timeout),
            memory: Memory::new(&settings, hasher.clone())?,
            zones: Zones::new(settings.failure_max, probe, hasher.clone()),
            notices: Notices::default(),
            hasher,
            failures: Failures::new(settings.failure_min, settings.failure_max),
            subnet: settings
                .client_subnet
                .map(|(address, prefix)| Subnet::new(address, prefix)),
            clock,
            tries: Deadlines::default(),
            patience: Deadlines::default(),
            serial: 0,
            query: Vec::new(),
            scratch: vec![0; MAX_MESSAGE].into(),
            settings,
        })
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    pub(super) fn command_queue(&self) -> Arc<CommandQueue> {
        self.maintenance.queue()
    }

    /// Gets ready to keep something under `key`.
    pub(super) fn expect(&self, key: &Key<'_>) {
        self.memory.prefetch(key);
    }

    /// Keeps what another process had.
    pub(super) fn restore(&mut self, key: &Key<'_>, record: &Record<'_>, age: u32, now: u32) {
        self.memory.restore(key, record, age, now);
    }

    pub(super) fn counters(&self) -> Arc<ForwardCounters> {
        self.counters.clone()
    }
}

/// The loop.
impl Shard {
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut more = false;
        let mut maintenance = Status::Idle;
        self.memory.populate();
        while !self.inbox.is_closed() {
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                let timeout = maintenance.timeout();
                timeout.into_iter().chain(self.time_left()).min()
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the forwarder cannot wait for events");
                break;
            }
            let now = Instant::now();
            for event in &events {
                if event.token() != WAKE {
                    self.ready(event.token().0, now);
                }
            }
            self.expire(now);
            self.lose_patience(now);
            more = self.take_in(now);
            self.ring();
            maintenance = self.maintain();
            self.notice_full_queue(now);
            self.publish();
        }
        self.inbox.close();
        for lookup in self.in_flight.end_all() {
            self.deliver(
                &lookup.request,
                &lookup.waiters,
                Answer::failure(rcode::SERVFAIL, Some(ede::NOT_READY), 0),
            );
        }
        self.ring();
        self.inbox.turn_away();
        self.publish();
    }

    /// Time until the next deadline that still matters.
    fn time_left(&mut self) -> Option<Duration> {
        let in_flight = &self.in_flight;
        let next_try = self.tries.next(|next| is_try(in_flight, next));
        let next_patience = self.patience.next(|next| is_awaited(in_flight, next));
        let next = next_try.into_iter().chain(next_patience).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Takes requests from the fronts. Whether there may be more.
    fn take_in(&mut self, now: Instant) -> bool {
        for _ in 0..INTAKE {
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
        let (failures, zones) = (&mut self.failures, &mut self.zones);
        let flushing = |scope: &Scope| {
            failures.forget(|question| scope.holds(question));
            zones.clear();
        };
        self.memory
            .maintain(&mut self.maintenance, self.clock.seconds(), flushing)
    }

    fn ring(&mut self) {
        for (mailbox, delivered) in self.inbox.mailboxes.iter().zip(&mut self.delivered) {
            if std::mem::take(delivered) {
                mailbox.ring();
            }
        }
    }

    fn publish(&self) {
        self.counters.in_flight.set(self.in_flight.len() as u64);
        self.counters
            .queue_full
            .set(self.inbox.turned_away.load(Ordering::Relaxed));
        let [entries, insertions, evictions] = self.memory.counts();
        self.counters.cache_entries.set(entries);
        self.counters.cache_insertions.set(insertions);
        self.counters.cache_evictions.set(evictions);
    }
}

/// Whether the deadline is that of a try under way.
fn is_try(in_flight: &InFlight, deadline: Deadline) -> bool {
    in_flight
        .get(deadline.slot)
        .is_some_and(|lookup| lookup.current == deadline.serial)
}

/// Whether the deadline is that of a look-up that somebody waits for.
fn is_awaited(in_flight: &InFlight, deadline: Deadline) -> bool {
    in_flight
        .get(deadline.slot)
        .is_some_and(|lookup| lookup.serial == deadline.serial && !lookup.late)
}
