//! The course of a look-up, from the request to the outcome.
//!
//! 1. What the thread remembers answers at once: an answer, or a failure whose time is not up.
//! 2. A question that is with an upstream already gets one more waiter.
//! 3. The upstreams are tried one after another. If that takes longer than a client waits, and
//!    there is an answer whose life is over, the waiters get that, and the look-up goes on alone.
//! 4. An answer is kept and delivered. A failure is remembered; the waiters get an answer whose
//!    life is over, if there is one (RFC 8767), or else SERVFAIL.

use std::{mem, sync::Arc, time::Instant};

use mio::Token;

use super::{Shard, is_awaited, is_try};
use crate::{
    dns::{Answer, answer::STALE_TTL, edns::ede, header::rcode, view::KEY_FLAG_DO},
    forward::{
        Outcome, Request,
        exchange::{Asked, ErrorResponse, Exchange, Open, Progress, Trouble},
        inflight::Waiter,
        memory::Found,
        message,
    },
};

/// Seconds for which a question is put off, at least, when an answer is served whose life is over
/// (RFC 8767 section 5, failure recheck timer). The fronts keep such an answer for its TTL; as
/// they count whole seconds, that can be one less.
const RECHECK: u32 = STALE_TTL - 1;

/// From the request to the first try.
impl Shard {
    pub(super) fn begin(&mut self, request: Request, now: Instant) {
        self.counters.requests.add(1);
        if request.is_refresh() {
            self.counters.refreshes.add(1);
        }
        let waiters = [request.waiter()];
        if let Some((found, answer)) = self.memory.recall(&request, self.clock.seconds()) {
            match found {
                Found::Question => self.counters.cache_hits.add(1),
                Found::Name => self.counters.nxdomain_hits.add(1),
                Found::Ancestor => self.counters.nxdomain_cut_hits.add(1),
            }
            return self.deliver(&request, &waiters, answer);
        }
        if let Some(left) = self.failures.time_left(&request, now) {
            self.counters.failure_hits.add(1);
            let life = left.as_secs() as u32;
            let answer = self.stale(&request);
            let failure = || Answer::failure(rcode::SERVFAIL, Some(ede::CACHED_ERROR), life);
            return self.deliver(&request, &waiters, answer.unwrap_or_else(failure));
        }
        if let Some(slot) = self.in_flight.find(&request) {
            return self.join(slot, &request);
        }
        self.serial += 1;
        let Some(slot) = self.in_flight.begin(request, self.serial) else {
            return self.turn_down(&request);
        };
        if self.memory.has_stale(&request, self.clock.seconds()) {
            self.patience.set(slot, self.serial, now);
        }
        let first = self.upstreams.first(now);
        if let Some(lookup) = self.in_flight.get_mut(slot) {
            lookup.upstream = first;
        }
        self.try_udp(slot, now);
    }

    /// Adds a request to a look-up.
    fn join(&mut self, slot: usize, request: &Request) {
        let is_late = self.in_flight.get(slot).is_some_and(|lookup| lookup.late);
        if is_late && let Some(answer) = self.stale(request) {
            return self.deliver(request, &[request.waiter()], answer);
        }
        if self.in_flight.join(slot, request.waiter()) {
            self.counters.coalesced.add(1);
        } else {
            self.turn_down(request);
        }
    }

    fn stale(&mut self, request: &Request) -> Option<Answer> {
        self.memory.stale(request, self.clock.seconds())
    }
}

/// The tries.
impl Shard {
    /// Tries the look-up's upstream, and if that cannot be reached, those after it.
    ///
    /// A look-up has failed once as many tries ended with an error as there are upstreams, or
    /// all its tries are used up.
    fn try_udp(&mut self, slot: usize, now: Instant) {
        while let Some(lookup) = self.in_flight.get_mut(slot) {
            if lookup.tries >= self.settings.attempts || lookup.errors >= self.upstreams.len() {
                return self.fail(slot, now);
            }
            lookup.tries += 1;
            lookup.plain = false;
            if self.send_udp(slot, now) {
                return;
            }
        }
    }

    /// Repeats the query to the same upstream without EDNS (RFC 6891 section 7).
    fn try_plain(&mut self, slot: usize, now: Instant) {
        self.counters.retried_plain.add(1);
        if let Some(lookup) = self.in_flight.get_mut(slot) {
            lookup.plain = true;
        }
        if !self.send_udp(slot, now) {
            self.try_udp(slot, now);
        }
    }

    /// Sends the query to the look-up's upstream. `false`: that could not be reached, and has
    /// been left.
    fn send_udp(&mut self, slot: usize, now: Instant) -> bool {
        match self.send(slot, now, Exchange::udp) {
            Ok(()) => self.counters.sent_udp.add(1),
            Err(Trouble::Local) => self.give_up(slot),
            Err(Trouble::Upstream) => {
                self.move_on(slot, now, true);
                return false;
            }
        }
        true
    }

    /// Repeats the query to the same upstream over TCP.
    fn try_tcp(&mut self, slot: usize, now: Instant) {
        match self.send(slot, now, Exchange::tcp) {
            Ok(()) => self.counters.sent_tcp.add(1),
            Err(Trouble::Local) => self.give_up(slot),
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
        let options = self.subnet.as_ref().map_or(&[][..], |s| s.option());
        message::write(
            &mut self.query,
            id,
            lookup.request.question(),
            lookup.request.flags,
            self.settings.trust_ad,
            (!lookup.plain).then_some(options),
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
        self.tries.set(slot, self.serial, now);
        Ok(())
    }

    /// The socket of a look-up is ready, or was when the event was made.
    pub(super) fn ready(&mut self, slot: usize, now: Instant) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let Some(exchange) = &mut lookup.exchange else {
            return;
        };
        let asked = Asked {
            question: lookup.request.question(),
            flags: lookup.request.flags,
            subnet: self.subnet.as_ref(),
            limits: &self.settings.limits,
        };
        match exchange.progress(&mut self.scratch, &asked, &self.counters) {
            Progress::Waiting => {}
            Progress::Answer(answer) => {
                self.counters.answers.add(1);
                self.upstreams.worked(lookup.upstream);
                self.finish(slot, answer);
            }
            Progress::UseTcp => self.try_tcp(slot, now),
            Progress::Error(error) => self.take_error(slot, now, error),
            Progress::Unreachable => {
                self.move_on(slot, now, true);
                self.try_udp(slot, now);
            }
        }
    }

    fn take_error(&mut self, slot: usize, now: Instant, error: ErrorResponse) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        lookup.heard = true;
        lookup.ede = error.ede.or(lookup.ede);
        // A client that wants DNSSEC records cannot do without EDNS.
        let needs_edns = lookup.request.flags & KEY_FLAG_DO != 0;
        if error.formerr && !lookup.plain && !needs_edns {
            return self.try_plain(slot, now);
        }
        self.move_on(slot, now, false);
        self.try_udp(slot, now);
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
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(due) = self.tries.take_due(now) {
            if !is_try(&self.in_flight, due) {
                continue;
            }
            self.counters.timeouts.add(1);
            if let Some(lookup) = self.in_flight.get_mut(due.slot) {
                lookup.heard = true;
                self.upstreams.failed(lookup.upstream, now);
                lookup.upstream = self.upstreams.after(lookup.upstream);
            }
            self.try_udp(due.slot, now);
        }
    }
}

/// The outcome.
impl Shard {
    /// Gives those who have waited long enough an answer whose life is over.
    pub(super) fn lose_patience(&mut self, now: Instant) {
        while let Some(due) = self.patience.take_due(now) {
            if !is_awaited(&self.in_flight, due) {
                continue;
            }
            if let Some(lookup) = self.in_flight.get_mut(due.slot)
                && let Some(answer) = self.memory.stale(&lookup.request, self.clock.seconds())
            {
                lookup.late = true;
                let request = lookup.request;
                let waiters = mem::take(&mut lookup.waiters);
                self.deliver(&request, &waiters, answer);
            }
        }
    }

    /// Ends a look-up with an upstream's answer.
    fn finish(&mut self, slot: usize, answer: Answer) {
        if let Some(lookup) = self.in_flight.end(slot) {
            self.failures.clear(&lookup.request);
            self.memory
                .keep(&lookup.request, &answer, self.clock.seconds());
            self.deliver(&lookup.request, &lookup.waiters, answer);
        }
    }

    /// Ends a look-up that no upstream answered.
    fn fail(&mut self, slot: usize, now: Instant) {
        if let Some(lookup) = self.in_flight.end(slot) {
            let stale = self.stale(&lookup.request);
            let least = if stale.is_some() { RECHECK } else { 0 };
            let life = self.failures.record(&lookup.request, now, least);
            let failure = || Answer::failure(rcode::SERVFAIL, Some(lookup.failure()), life);
            self.deliver(
                &lookup.request,
                &lookup.waiters,
                stale.unwrap_or_else(failure),
            );
        }
    }

    /// Ends a look-up for want of something on this host, which says nothing of the question.
    fn give_up(&mut self, slot: usize) {
        self.counters.socket_errors.add(1);
        if let Some(lookup) = self.in_flight.end(slot) {
            let answer = self.last_resort(&lookup.request);
            self.deliver(&lookup.request, &lookup.waiters, answer);
        }
    }

    /// Does not take a request: too many are under way.
    fn turn_down(&mut self, request: &Request) {
        let answer = self.last_resort(request);
        self.deliver(request, &[request.waiter()], answer);
    }

    fn last_resort(&mut self, request: &Request) -> Answer {
        self.stale(request)
            .unwrap_or_else(|| Answer::failure(rcode::SERVFAIL, None, 0))
    }

    /// Gives everybody who waits for the request's question its answer.
    pub(super) fn deliver(&mut self, request: &Request, waiters: &[Waiter], answer: Answer) {
        let count = waiters.len() as u64;
        if answer.as_ref().is_stale() {
            self.counters.stale.add(count);
        } else if answer.as_ref().rcode() == rcode::SERVFAIL {
            self.counters.servfail.add(count);
        }
        let answer = Arc::new(answer);
        for waiter in waiters {
            self.tell(*waiter, Outcome::new(request, *waiter, Arc::clone(&answer)));
        }
    }

    fn tell(&mut self, waiter: Waiter, outcome: Outcome) {
        let front = usize::from(waiter.front);
        if let Some(mailbox) = self.inbox.mailboxes.get(front)
            && !mailbox.put(outcome)
        {
            // Only a front with more requests under way than its mailbox holds gets here.
            tracing::error!(front, "a mailbox is full");
        }
        if let Some(delivered) = self.delivered.get_mut(front) {
            *delivered = true;
        }
    }
}
