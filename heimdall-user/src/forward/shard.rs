//! A forwarder thread: its loop, and the course of a look-up.
//!
//! Deadlines need no timer of the kernel's and no heap: every try gets the same time, so they
//! fall due in the order in which the tries began, and a queue holds them sorted.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};

use super::{
    ForwardCounters, Mailbox, Outcome, Request, Settings,
    exchange::{Exchange, Open, Progress, Trouble},
    handle::Inbox,
    inflight::{InFlight, Lookup, Waiter},
    message,
    upstreams::Upstreams,
};
use crate::dns::{Answer, edns::ede, header::rcode};

/// Not a look-up's slot.
const WAKE: Token = Token(usize::MAX);

/// Requests taken at one go, so that responses are not kept waiting.
const INTAKE: usize = 256;

/// Largest message, over UDP or TCP.
const MAX_MESSAGE: usize = u16::MAX as usize;

#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    slot: usize,
    serial: u64,
}

pub(super) struct Shard {
    poll: Poll,
    inbox: Arc<Inbox>,
    settings: Settings,
    counters: Arc<ForwardCounters>,
    in_flight: InFlight,
    upstreams: Upstreams,
    deadlines: VecDeque<Deadline>,
    /// Of the last exchange.
    serial: u64,
    query: Vec<u8>,
    scratch: Box<[u8]>,
    /// Which fronts got an outcome since they were last rung.
    delivered: Box<[bool]>,
}

/// Creation.
impl Shard {
    pub(super) fn new(settings: Settings, mailboxes: Arc<[Arc<Mailbox>]>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok(Self {
            poll,
            delivered: vec![false; mailboxes.len()].into(),
            inbox: Arc::new(Inbox::new(settings.queue, waker, mailboxes)),
            counters: Arc::default(),
            in_flight: InFlight::new(settings.max_in_flight),
            upstreams: Upstreams::new(&settings.upstreams),
            deadlines: VecDeque::new(),
            serial: 0,
            query: Vec::new(),
            scratch: vec![0; MAX_MESSAGE].into(),
            settings,
        })
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
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
        while !self.inbox.is_closed() {
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                self.time_left()
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
            more = self.take_in(now);
            self.ring();
            self.publish();
        }
        self.inbox.close();
        for lookup in self.in_flight.end_all() {
            self.deliver(lookup, None);
        }
        self.ring();
        self.inbox.turn_away();
        self.publish();
    }

    /// Time until the next deadline that still matters.
    fn time_left(&mut self) -> Option<Duration> {
        while let Some(next) = self.deadlines.front() {
            if self.is_current(next.slot, next.serial) {
                return Some(next.at.saturating_duration_since(Instant::now()));
            }
            self.deadlines.pop_front();
        }
        None
    }

    fn is_current(&self, slot: usize, serial: u64) -> bool {
        self.in_flight
            .get(slot)
            .and_then(|lookup| lookup.exchange.as_ref())
            .is_some_and(|exchange| exchange.serial == serial)
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
    }
}

/// The course of a look-up.
impl Shard {
    fn begin(&mut self, request: Request, now: Instant) {
        self.counters.requests.add(1);
        match self.in_flight.join(&request) {
            Some(true) => return self.counters.coalesced.add(1),
            Some(false) => return self.turn_down(request.waiter()),
            None => {}
        }
        let waiter = request.waiter();
        match self.in_flight.begin(request) {
            Some(slot) => {
                let first = self.upstreams.first(now);
                if let Some(lookup) = self.in_flight.get_mut(slot) {
                    lookup.upstream = first;
                }
                self.try_udp(slot, now);
            }
            None => self.turn_down(waiter),
        }
    }

    /// Tries the look-up's upstream, and if that cannot be reached, those after it.
    ///
    /// A look-up has failed once as many tries ended with an error as there are upstreams, or
    /// all its tries are used up.
    fn try_udp(&mut self, slot: usize, now: Instant) {
        while let Some(lookup) = self.in_flight.get_mut(slot) {
            if lookup.tries >= self.settings.attempts || lookup.errors >= self.upstreams.len() {
                return self.finish(slot, None);
            }
            lookup.tries += 1;
            match self.send(slot, now, Exchange::udp) {
                Ok(()) => return self.counters.sent_udp.add(1),
                Err(Trouble::Local) => {
                    self.counters.socket_errors.add(1);
                    return self.finish(slot, None);
                }
                Err(Trouble::Upstream) => self.move_on(slot, now, true),
            }
        }
    }

    /// Repeats the query to the same upstream over TCP.
    fn try_tcp(&mut self, slot: usize, now: Instant) {
        match self.send(slot, now, Exchange::tcp) {
            Ok(()) => self.counters.sent_tcp.add(1),
            Err(Trouble::Local) => {
                self.counters.socket_errors.add(1);
                self.finish(slot, None);
            }
            Err(Trouble::Upstream) => {
                self.move_on(slot, now, true);
                self.try_udp(slot, now);
            }
        }
    }

    fn send(&mut self, slot: usize, now: Instant, open: Open) -> Result<(), Trouble> {
        let lookup = self.in_flight.get_mut(slot).ok_or(Trouble::Local)?;
        let upstream = self.upstreams.address(lookup.upstream);
        // The thread's generator is a CSPRNG: IDs cannot be foretold from earlier ones.
        let id = rand::random();
        message::write(
            &mut self.query,
            id,
            lookup.request.question(),
            lookup.request.flags,
            self.settings.trust_ad,
        );
        self.serial += 1;
        lookup.exchange = None;
        lookup.exchange = Some(open(
            self.poll.registry(),
            Token(slot),
            upstream.ok_or(Trouble::Local)?,
            self.serial,
            id,
            &self.query,
        )?);
        self.deadlines.push_back(Deadline {
            at: now + self.settings.attempt_timeout,
            slot,
            serial: self.serial,
        });
        Ok(())
    }

    /// The socket of a look-up is ready, or was when the event was made.
    fn ready(&mut self, slot: usize, now: Instant) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let Some(exchange) = &mut lookup.exchange else {
            return;
        };
        let progress = exchange.progress(
            &mut self.scratch,
            lookup.request.question(),
            lookup.request.flags,
            &self.settings.limits,
            &self.counters,
        );
        match progress {
            Progress::Waiting => {}
            Progress::Answer(answer) => {
                self.counters.answers.add(1);
                self.upstreams.worked(lookup.upstream);
                self.finish(slot, Some(Arc::new(answer)));
            }
            Progress::UseTcp => self.try_tcp(slot, now),
            Progress::Error => {
                self.move_on(slot, now, false);
                self.try_udp(slot, now);
            }
            Progress::Unreachable => {
                self.move_on(slot, now, true);
                self.try_udp(slot, now);
            }
        }
    }

    /// Leaves the look-up's upstream, which ended the try with an error.
    fn move_on(&mut self, slot: usize, now: Instant, unreachable: bool) {
        self.counters.upstream_errors.add(1);
        if let Some(lookup) = self.in_flight.get_mut(slot) {
            if unreachable {
                self.upstreams.failed(lookup.upstream, now);
            }
            lookup.errors += 1;
            lookup.upstream = self.upstreams.after(lookup.upstream);
        }
    }

    /// Ends the tries whose time is up.
    fn expire(&mut self, now: Instant) {
        while let Some(&deadline) = self.deadlines.front().filter(|next| next.at <= now) {
            self.deadlines.pop_front();
            if !self.is_current(deadline.slot, deadline.serial) {
                continue;
            }
            self.counters.timeouts.add(1);
            if let Some(lookup) = self.in_flight.get_mut(deadline.slot) {
                self.upstreams.failed(lookup.upstream, now);
                lookup.upstream = self.upstreams.after(lookup.upstream);
            }
            self.try_udp(deadline.slot, now);
        }
    }

    fn finish(&mut self, slot: usize, answer: Option<Arc<Answer>>) {
        if let Some(lookup) = self.in_flight.end(slot) {
            self.deliver(lookup, answer);
        }
    }

    fn deliver(&mut self, lookup: Lookup, answer: Option<Arc<Answer>>) {
        let answer = answer.unwrap_or_else(|| {
            self.counters.servfail.add(lookup.waiters.len() as u64);
            Arc::new(Answer::failure(
                rcode::SERVFAIL,
                Some(ede::NO_REACHABLE_AUTHORITY),
                0,
            ))
        });
        for waiter in lookup.waiters {
            self.tell(waiter, Arc::clone(&answer));
        }
    }

    fn turn_down(&mut self, waiter: Waiter) {
        self.counters.servfail.add(1);
        self.tell(waiter, Arc::new(Answer::failure(rcode::SERVFAIL, None, 0)));
    }

    fn tell(&mut self, waiter: Waiter, answer: Arc<Answer>) {
        let front = usize::from(waiter.front);
        if let Some(mailbox) = self.inbox.mailboxes.get(front)
            && !mailbox.put(Outcome {
                token: waiter.token,
                answer,
            })
        {
            // Only a front with more requests under way than its mailbox holds gets here.
            tracing::error!(front, "a mailbox is full");
        }
        if let Some(delivered) = self.delivered.get_mut(front) {
            *delivered = true;
        }
    }
}
