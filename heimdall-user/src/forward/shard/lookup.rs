//! A look-up, from the request to the outcome.
//!
//! 1. The thread's cache answers at once, with an answer or with a failure that has not expired.
//! 2. A question that is in flight already gets one more waiter.
//! 3. The upstreams are asked one after another ([`attempts`](super::attempts)). If that takes longer
//!    than a client waits, and there is a stale answer, the waiters get that, and the look-up continues
//!    without them.
//! 4. An answer is cached and delivered. A truncated one that no upstream completed over TCP is
//!    delivered, but not cached. A failure is cached; the waiters get a stale answer, if there is one
//!    (RFC 8767), or else SERVFAIL.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Shard, is_awaited};
use crate::{
    dns::{Answer, answer::STALE_TTL, edns::ede, header::rcode},
    forward::{
        Outcome, Request,
        inflight::{Lookup, Waiter},
        routes::RouteId,
        shared_cache::{Found, Shared},
    },
};

/// Seconds for which a question is not asked again, at least, after its stale answer was served
/// (RFC 8767 section 5, failure recheck timer). The fronts cache it as long; as they count whole
/// seconds, that can be one less.
const RECHECK: u32 = STALE_TTL - 1;

/// Seconds for which a front caches a stale answer whose look-up is still in flight: later queries get
/// the look-up's outcome. Also a failure that ends with its cause, and the stale answer in its place.
const PROVISIONAL_TTL: u32 = 1;

/// From the request to the first attempt.
impl Shard {
    pub(super) fn begin(&mut self, mut request: Request, now: Instant) {
        self.counters.requests.add(1);
        request.generation = self.routes.generation();
        if let Some(waiting) = self.waiting.get_mut(usize::from(request.front)) {
            *waiting += 1;
        }
        if request.is_refresh() {
            self.counters.refreshes.add(1);
        }
        let waiters = [request.waiter()];
        let route = self.routes.find(request.name(), request.qtype());
        let local = self.routes.get(route).and_then(|route| route.local.clone());
        if let Some(answer) = local {
            return self.deliver(&request, &waiters, answer);
        }
        if let Some((found, answer)) = self.cached(&request, route) {
            match found {
                Found::Question => self.counters.cache_hits.add(1),
                Found::Name => self.counters.nxdomain_hits.add(1),
                Found::Ancestor => self.counters.nxdomain_cut_hits.add(1),
            }
            request.generation = self.cached_generation();
            return self.deliver(&request, &waiters, answer);
        }
        if let Some(left) = self.failures.time_left(&request, now) {
            self.counters.failure_hits.add(1);
            return self.answer_put_off(&request, route, left);
        }
        self.make_room_at_front(&request, now);
        if let Some(slot) = self.in_flight.find(&request) {
            return self.join(slot, &request);
        }
        // A name that was answered before does not share the failures of its zone.
        let known = self.has_stale(&request);
        if !known && let Err(left) = self.zones.admit(&request, now) {
            self.counters.zone_failure_hits.add(1);
            return self.answer_put_off(&request, route, left);
        }
        self.make_room(now);
        self.serial += 1;
        let Some(slot) = self.in_flight.begin(request, route, self.serial, now) else {
            return self.reject(&request);
        };
        if known {
            let at = now + self.options.client_response_timeout;
            self.client_deadlines.set(slot, self.serial, at);
        }
        self.next_attempt(slot, now);
    }

    /// Adds a request to a look-up.
    fn join(&mut self, slot: usize, request: &Request) {
        let in_flight = self.in_flight.get(slot);
        let stale_served = in_flight.is_some_and(|lookup| lookup.stale_served);
        if stale_served && let Some(answer) = self.stale(request) {
            let answer = answer.for_at_most(PROVISIONAL_TTL);
            return self.deliver(request, &[request.waiter()], answer);
        }
        // One name holds at most half of the queries that the front may have waiting.
        let mailbox = self.inbox.mailboxes.get(usize::from(request.front));
        let most = mailbox.map_or(0, |mailbox| mailbox.capacity() / 2);
        if self.in_flight.join(slot, request.waiter(), most) {
            self.counters.coalesced.add(1);
        } else {
            self.reject(request);
        }
    }

    /// Answers a request whose question must not be asked for the time `left`, from the cache.
    fn answer_put_off(&mut self, request: &Request, route: RouteId, left: Duration) {
        let mut life = left.as_secs() as u32;
        let group = self.routes.get(route).map(|route| &route.group);
        let any_aside = group.is_some_and(|group| self.upstreams.any_aside(group));
        if any_aside || self.failures.may_end_early(request) {
            life = life.min(PROVISIONAL_TTL);
        }
        let failure = || Answer::failure(rcode::SERVFAIL, Some(ede::CACHED_ERROR), life);
        let stale = self.stale(request).map(|answer| answer.for_at_most(life));
        let answer = stale.unwrap_or_else(failure);
        self.deliver(request, &[request.waiter()], answer);
    }

    /// The fresh answer in the cache.
    pub(super) fn cached(
        &mut self,
        request: &Request,
        route: RouteId,
    ) -> Option<(Found, Arc<Answer>)> {
        if self.is_outdated(request) {
            return None;
        }
        let (shared, now) = (self.shared(request, route), self.clock.seconds());
        self.cache.lookup(request, shared, now, &mut self.answers)
    }

    /// Which other questions a denial of the request's name is for.
    fn shared(&self, request: &Request, route: RouteId) -> Shared {
        match self.routes.get(route) {
            Some(route) if !self.routes.is_apart(request.name(), request.qtype()) => {
                Shared::Within(route.options.zone.len())
            }
            _ => Shared::No,
        }
    }

    fn stale(&mut self, request: &Request) -> Option<Answer> {
        if self.is_outdated(request) {
            return None;
        }
        let shared = self.shared_of(request);
        self.cache.stale(request, shared, self.clock.seconds())
    }

    /// Whether [`stale`](Self::stale) has an answer.
    pub(super) fn has_stale(&mut self, request: &Request) -> bool {
        let (shared, now) = (self.shared_of(request), self.clock.seconds());
        !self.is_outdated(request) && self.cache.has_stale(request, shared, now)
    }

    fn shared_of(&self, request: &Request) -> Shared {
        self.shared(request, self.routes.find(request.name(), request.qtype()))
    }
}

/// The outcome.
impl Shard {
    /// Removes a look-up that has ended.
    pub(super) fn end(&mut self, slot: usize) -> Option<Lookup> {
        let lookup = self.in_flight.remove(slot)?;
        for exchange in &lookup.exchanges {
            self.udp.end(exchange);
            self.tcp.end(exchange);
        }
        Some(lookup)
    }

    /// Gives the waiters whose client response timeout has passed a stale answer (RFC 8767).
    pub(super) fn serve_stale_on_timeout(&mut self, now: Instant) {
        while let Some(due) = self.client_deadlines.take_due(now) {
            if !is_awaited(&self.in_flight, due) {
                continue;
            }
            let Some(request) = self.in_flight.get(due.slot).map(|lookup| lookup.request) else {
                continue;
            };
            if let Some(answer) = self.stale(&request)
                && let Some(lookup) = self.in_flight.get_mut(due.slot)
            {
                lookup.stale_served = true;
                let waiters = mem::take(&mut lookup.waiters);
                self.deliver(&request, &waiters, answer.for_at_most(PROVISIONAL_TTL));
            }
        }
    }

    /// Ends a look-up with an upstream's answer.
    pub(super) fn finish(&mut self, slot: usize, answer: Arc<Answer>) {
        if let Some(lookup) = self.end(slot) {
            if lookup.request.generation == self.routes.generation() {
                self.keep(&lookup.request, lookup.route, &answer);
            }
            self.deliver(&lookup.request, &lookup.waiters, answer);
            self.in_flight.recycle(lookup);
        }
    }

    /// Caches an answer that upstreams gave for a request.
    pub(super) fn keep(&mut self, request: &Request, route: RouteId, answer: &Answer) {
        self.failures.clear(request);
        self.zones.answered(request, self.serial);
        let (shared, now) = (self.shared(request, route), self.clock.seconds());
        self.cache.store(request, shared, answer, now);
    }

    /// Ends a look-up that no upstream answered.
    pub(super) fn fail(&mut self, slot: usize, now: Instant) {
        if let Some(lookup) = self.end(slot) {
            let stale = self.stale(&lookup.request);
            if let (None, Some(code)) = (&stale, lookup.truncated) {
                // The upstreams have an answer: this is no failure of the question.
                let answer = Answer::truncated(code, lookup.ede.unwrap_or(ede::NETWORK_ERROR));
                self.counters.truncated.add(1);
                return self.deliver(&lookup.request, &lookup.waiters, answer);
            }
            let is_former = lookup.request.generation != self.routes.generation();
            if is_former || lookup.not_sent && !lookup.heard {
                // Neither the failure of former upstreams nor this host's trouble is one of the question.
                let failure = || Answer::failure(rcode::SERVFAIL, Some(lookup.failure()), 0);
                let stale = stale.map(|answer| answer.for_at_most(PROVISIONAL_TTL));
                let answer = stale.unwrap_or_else(failure);
                return self.deliver(&lookup.request, &lookup.waiters, answer);
            }
            let missing = self.record_failure(&lookup, now);
            if let Some(target) = lookup.failed_target() {
                self.failures.record(target, now, 0, missing);
            }
            let least = if stale.is_some() { RECHECK } else { 0 };
            let mut life = self.failures.record(&lookup.request, now, least, missing);
            let mut stale = stale;
            if missing.is_any() {
                life = life.min(PROVISIONAL_TTL);
                stale = stale.map(|answer| answer.for_at_most(PROVISIONAL_TTL));
            }
            let failure = || Answer::failure(rcode::SERVFAIL, Some(lookup.failure()), life);
            self.deliver(
                &lookup.request,
                &lookup.waiters,
                stale.unwrap_or_else(failure),
            );
        }
    }

    /// Ends a look-up because this host lacks a resource, which is no failure of the question.
    pub(super) fn abandon(&mut self, slot: usize) {
        if let Some(lookup) = self.end(slot) {
            let answer = self.stale_or_servfail(&lookup.request);
            self.deliver(&lookup.request, &lookup.waiters, answer);
        }
    }

    /// Rejects a request: too many are in flight.
    fn reject(&mut self, request: &Request) {
        let answer = self.stale_or_servfail(request);
        self.deliver(request, &[request.waiter()], answer);
    }

    pub(super) fn stale_or_servfail(&mut self, request: &Request) -> Answer {
        self.stale(request)
            .unwrap_or_else(|| Answer::failure(rcode::SERVFAIL, Some(ede::NOT_READY), 0))
    }

    /// Delivers an answer to all waiters of the request's question.
    pub(super) fn deliver(
        &mut self,
        request: &Request,
        waiters: &[Waiter],
        answer: impl Into<Arc<Answer>>,
    ) {
        let answer = answer.into();
        let count = waiters.len() as u64;
        if Answer::as_ref(&answer).is_stale() {
            self.counters.stale.add(count);
        } else if Answer::as_ref(&answer).rcode() == rcode::SERVFAIL {
            self.counters.servfail.add(count);
        }
        for waiter in waiters {
            self.deliver_to(*waiter, Outcome::new(request, *waiter, Arc::clone(&answer)));
        }
    }

    fn deliver_to(&mut self, waiter: Waiter, outcome: Outcome) {
        let front = usize::from(waiter.front);
        if let Some(waiting) = self.waiting.get_mut(front) {
            *waiting -= 1;
        }
        if let Some(mailbox) = self.inbox.mailboxes.get(front)
            && !mailbox.push(outcome)
        {
            // Only if a front has submitted more requests than its mailbox holds.
            tracing::error!(front, "a mailbox is full");
        }
        if let Some(delivered) = self.delivered.get_mut(front) {
            *delivered = true;
        }
    }
}
