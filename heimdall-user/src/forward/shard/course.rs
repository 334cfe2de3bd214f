//! The course of a look-up, from the request to the outcome.
//!
//! 1. What the thread remembers answers at once: an answer, or a failure whose time is not up.
//! 2. A question that is with an upstream already gets one more waiter.
//! 3. The upstreams are tried one after another. If that takes longer than a client waits, and
//!    there is an answer whose life is over, the waiters get that, and the look-up goes on alone.
//! 4. An answer is kept and delivered. A truncated one that no upstream completed over TCP is
//!    delivered, but not kept. A failure is remembered; the waiters get an answer whose
//!    life is over, if there is one (RFC 8767), or else SERVFAIL.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::Token;

use super::{Shard, is_awaited};
use crate::{
    dns::{
        Answer, KEY_FLAG_DO, TtlLimits, UpstreamQuery, answer::STALE_TTL, edns::ede, header::rcode,
    },
    forward::{
        Outcome, Request,
        exchange::{Asked, Exchange, Progress, Sent, Target, Trouble},
        inflight::Waiter,
        memory::Found,
        shed::Scarce,
    },
};

/// Seconds for which a question is put off, at least, when an answer is served whose life is over
/// (RFC 8767 section 5, failure recheck timer). The fronts keep it as long; as they count whole
/// seconds, that can be one less.
const RECHECK: u32 = STALE_TTL - 1;

/// Seconds for which a front keeps a stale answer while its look-up goes on: whoever asks after that gets
/// what has come of it.
const MEANWHILE: u32 = 1;

/// Seconds for which an answer without EDNS may be kept, at most, if DNSSEC's records were asked
/// for: it has none, and the upstream may have stumbled over this one query.
const WITHOUT_DNSSEC: u32 = 60;

/// From the request to the first try.
impl Shard {
    pub(super) fn begin(&mut self, request: Request, now: Instant) {
        self.counters.requests.add(1);
        if let Some(waiting) = self.waiting.get_mut(usize::from(request.front)) {
            *waiting += 1;
        }
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
            return self.put_off(&request, left);
        }
        self.relieve_front(&request, now);
        if let Some(slot) = self.in_flight.find(&request) {
            return self.join(slot, &request);
        }
        // A name that was answered before is not one of the many that fail with a zone.
        let known = self.memory.has_stale(&request, self.clock.seconds());
        if !known && let Err(left) = self.zones.admit(&request, now) {
            self.counters.zone_failure_hits.add(1);
            return self.put_off(&request, left);
        }
        self.make_room(now);
        self.serial += 1;
        let Some(slot) = self.in_flight.begin(request, self.serial, now) else {
            return self.turn_down(&request);
        };
        if known {
            let at = now + self.settings.client_response_timeout;
            self.patience.set(slot, self.serial, at);
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
            let answer = answer.for_at_most(MEANWHILE);
            return self.deliver(request, &[request.waiter()], answer);
        }
        // One name holds no more than half of what the front may have under way.
        let mailbox = self.inbox.mailboxes.get(usize::from(request.front));
        let most = mailbox.map_or(0, |mailbox| mailbox.capacity() / 2);
        if self.in_flight.join(slot, request.waiter(), most) {
            self.counters.coalesced.add(1);
        } else {
            self.turn_down(request);
        }
    }

    /// Answers a request whose question must not be asked for the time `left`.
    fn put_off(&mut self, request: &Request, left: Duration) {
        let life = left.as_secs() as u32;
        let failure = || Answer::failure(rcode::SERVFAIL, Some(ede::CACHED_ERROR), life);
        let stale = self.stale(request).map(|answer| answer.for_at_most(life));
        let answer = stale.unwrap_or_else(failure);
        self.deliver(request, &[request.waiter()], answer);
    }

    fn stale(&mut self, request: &Request) -> Option<Answer> {
        self.memory.stale(request, self.clock.seconds())
    }
}

/// The tries.
///
/// A try is a query over UDP to one upstream, and what its response asks for: the same query
/// without EDNS, or over TCP. The exchange that was begun last is the current one, which has a
/// deadline. Then the next try begins, but the socket listens on until the look-up ends.
impl Shard {
    /// Begins the next try.
    ///
    /// A look-up has failed once as many tries ended with an error as there are upstreams, or
    /// `attempts` others are used up.
    fn try_udp(&mut self, slot: usize, now: Instant) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let attempts = self.settings.attempts;
        if lookup.tries >= attempts || lookup.errors >= self.upstreams.len() {
            return self.fail(slot, now);
        }
        lookup.tries += 1;
        let upstream = lookup.upstream;
        let edns = Target {
            upstream,
            plain: false,
            tcp: false,
        };
        // What a client with DO wants needs EDNS, so it is always tried first.
        let wants_dnssec = lookup.request.flags & KEY_FLAG_DO != 0;
        let mut plain = !wants_dnssec && self.upstreams.is_plain(upstream, now);
        // Some networks drop queries with EDNS, or the responses to them.
        let was_silent = lookup.exchanges.iter().any(|e| e.sent.target == edns);
        let is_last = lookup.tries == attempts;
        if !plain && is_last && was_silent && !self.upstreams.answers_edns(upstream) {
            self.counters.retried_plain.add(1);
            plain = true;
        }
        self.send(slot, now, Target { plain, ..edns });
    }

    /// Sends the query. The exchange becomes the current one.
    fn send(&mut self, slot: usize, now: Instant, target: Target) {
        self.serial += 1;
        let sent = Sent {
            target,
            serial: self.serial,
            // The thread's generator is a CSPRNG: IDs cannot be foretold from earlier ones.
            id: rand::random(),
            at: now,
        };
        let mut opened = self.open(slot, sent);
        let scarce = match opened {
            Err(Trouble::Local) => Some(Scarce::Descriptors),
            Err(Trouble::Ports) => Some(Scarce::Ports),
            _ => None,
        };
        if let Some(scarce) = scarce {
            self.counters.socket_errors.add(1);
            // The sockets of this look-up's earlier tries go first, then other look-ups.
            let freed = self.in_flight.close_exchanges(slot) || self.shed(scarce, Some(slot), now);
            if freed {
                opened = self.open(slot, sent);
            }
        }
        match opened {
            Ok(()) => {
                let mut timeout = self.upstreams.timeout(target.upstream);
                if target.tcp {
                    self.counters.sent_tcp.add(1);
                    // A round trip for the connection, one for the query.
                    timeout *= 2;
                } else {
                    self.counters.sent_udp.add(1);
                }
                self.tries.set(slot, sent.serial, now + timeout);
            }
            Err(Trouble::Local) => self.give_up(slot),
            Err(Trouble::Ports) => self.lost(slot, now, sent),
            Err(Trouble::Address) => {
                self.counters.socket_errors.add(1);
                self.lost(slot, now, sent);
            }
            Err(Trouble::Upstream) => self.unreachable(slot, now, sent),
        }
    }

    fn open(&mut self, slot: usize, sent: Sent) -> Result<(), Trouble> {
        let lookup = self.in_flight.get_mut(slot).ok_or(Trouble::Local)?;
        let upstream = self.upstreams.address(sent.target.upstream);
        let query = UpstreamQuery {
            id: sent.id,
            question: lookup.request.question(),
            key_flags: lookup.request.flags,
            want_ad: self.settings.trust_ad,
            edns: !sent.target.plain,
            subnet: self.subnet.as_ref(),
        };
        query.write_to(&mut self.query);
        lookup.current = sent.serial;
        lookup.exchanges.push(Exchange::open(
            self.poll.registry(),
            Token(slot),
            upstream.ok_or(Trouble::Local)?,
            sent,
            &self.query,
        )?);
        Ok(())
    }

    /// A socket of a look-up is ready, or was when the event was made.
    pub(super) fn ready(&mut self, slot: usize, now: Instant) {
        // Another socket may be ready as well, and the event for it gone with a socket that is
        // closed here. Each exchange ends once, so this is bounded as they are.
        while let Some((sent, progress)) = self.take_ended(slot) {
            self.settle(slot, now, sent, progress);
        }
    }

    /// Takes an exchange that is over out of the look-up.
    fn take_ended(&mut self, slot: usize) -> Option<(Sent, Progress)> {
        let lookup = self.in_flight.get_mut(slot)?;
        let request = &lookup.request;
        let limits = self.settings.limits;
        let short = TtlLimits {
            min: limits.min.min(WITHOUT_DNSSEC),
            max: limits.max.min(WITHOUT_DNSSEC),
            ..limits
        };
        let mut exchanges = lookup.exchanges.iter_mut().enumerate();
        let (index, progress) = exchanges.find_map(|(index, exchange)| {
            let plain = exchange.sent.target.plain;
            let asked = Asked {
                question: request.question(),
                flags: request.flags,
                subnet: self.subnet.as_ref(),
                limits: match plain && request.flags & KEY_FLAG_DO != 0 {
                    true => &short,
                    false => &limits,
                },
            };
            match exchange.progress(&mut self.scratch, &asked, &self.counters) {
                Progress::Waiting => None,
                progress => Some((index, progress)),
            }
        })?;
        Some((lookup.exchanges.swap_remove(index).sent, progress))
    }

    /// Goes on after an exchange, which is no longer among the look-up's.
    fn settle(&mut self, slot: usize, now: Instant, sent: Sent, progress: Progress) {
        let Target {
            upstream,
            plain,
            tcp,
        } = sent.target;
        let responded = matches!(
            progress,
            Progress::Answer(_) | Progress::Truncated(_) | Progress::Error(_)
        );
        if responded {
            self.heard(upstream, now);
            if !tcp {
                let rtt = now.saturating_duration_since(sent.at);
                self.upstreams.measured(upstream, rtt);
            }
        }
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        lookup.heard |= responded;
        let over_tcp = Target {
            tcp: true,
            ..sent.target
        };
        match progress {
            Progress::Waiting => {}
            Progress::Answer(answer) => {
                self.counters.answers.add(1);
                if plain {
                    let question = lookup.request.hash;
                    self.upstreams.answered_plain(upstream, question, sent.at);
                } else {
                    self.upstreams.answered_edns(upstream);
                }
                self.finish(slot, answer);
            }
            Progress::Truncated(code) => {
                lookup.truncated = Some(code);
                self.repeat(slot, now, sent, over_tcp);
            }
            // Over TCP a forger who does not see the packets has no chance.
            Progress::Forged if lookup.current == sent.serial => self.send(slot, now, over_tcp),
            Progress::Forged => {}
            Progress::Error(error) => {
                lookup.explain(error.ede);
                if error.no_edns && !plain {
                    let target = Target {
                        plain: true,
                        ..sent.target
                    };
                    return self.repeat(slot, now, sent, target);
                }
                self.lost(slot, now, sent);
            }
            Progress::Unreachable => self.unreachable(slot, now, sent),
        }
    }

    /// Repeats a query in another way at the same upstream, unless that is under way already
    /// after another try.
    fn repeat(&mut self, slot: usize, now: Instant, sent: Sent, target: Target) {
        let Some(lookup) = self.in_flight.get(slot) else {
            return;
        };
        let mut exchanges = lookup.exchanges.iter();
        if lookup.current == sent.serial || !exchanges.any(|e| e.sent.target == target) {
            if target.plain != sent.target.plain {
                self.counters.retried_plain.add(1);
            }
            self.send(slot, now, target);
        }
    }

    /// Goes on after an exchange for which the upstream could not be reached.
    fn unreachable(&mut self, slot: usize, now: Instant, sent: Sent) {
        // Where UDP works and TCP does not, the upstream is good for most questions.
        if !sent.target.tcp {
            self.upstreams.unreachable(sent.target.upstream, now);
        }
        self.lost(slot, now, sent);
    }

    /// Goes on after an exchange that ended with an error.
    fn lost(&mut self, slot: usize, now: Instant, sent: Sent) {
        self.counters.upstream_errors.add(1);
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let is_current = lookup.current == sent.serial;
        if sent.target.tcp && !is_current {
            // It was counted when its time was up.
            return;
        }
        lookup.note_error(sent);
        if lookup.errors >= self.upstreams.len() {
            self.fail(slot, now);
        } else if is_current {
            if !sent.target.tcp {
                // It took little time, so that more upstreams than `attempts` can be asked.
                lookup.tries = lookup.tries.saturating_sub(1);
            }
            lookup.upstream = self.upstreams.after(sent.target.upstream, now);
            self.try_udp(slot, now);
        }
    }

    /// Begins the next try of look-ups whose current exchange has had its time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(due) = self.tries.take_due(now) {
            let Some(lookup) = self.in_flight.get_mut(due.slot) else {
                continue;
            };
            let Some(sent) = lookup.sent(due.serial) else {
                continue;
            };
            self.counters.timeouts.add(1);
            lookup.heard = true;
            let upstream = sent.target.upstream;
            if sent.target.tcp {
                lookup.note_error(sent);
            } else {
                let question = lookup.request.hash;
                self.upstreams.timed_out(upstream, question, sent.at, now);
            }
            lookup.upstream = self.upstreams.after(upstream, now);
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
                self.deliver(&request, &waiters, answer.for_at_most(MEANWHILE));
            }
        }
    }

    /// Ends a look-up with an upstream's answer.
    fn finish(&mut self, slot: usize, answer: Answer) {
        if let Some(lookup) = self.in_flight.end(slot) {
            self.failures.clear(&lookup.request);
            self.zones.answered(&lookup.request, self.serial);
            self.memory
                .keep(&lookup.request, &answer, self.clock.seconds());
            self.deliver(&lookup.request, &lookup.waiters, answer);
        }
    }

    /// Ends a look-up that no upstream answered.
    fn fail(&mut self, slot: usize, now: Instant) {
        if let Some(lookup) = self.in_flight.end(slot) {
            let stale = self.stale(&lookup.request);
            if let (None, Some(code)) = (&stale, lookup.truncated) {
                // The upstreams have an answer: this is no failure of the question.
                let answer = Answer::truncated(code, lookup.ede.unwrap_or(ede::NETWORK_ERROR));
                self.counters.truncated.add(1);
                return self.deliver(&lookup.request, &lookup.waiters, answer);
            }
            let cause = self.blame(&lookup, now);
            let least = if stale.is_some() { RECHECK } else { 0 };
            let life = self.failures.record(&lookup.request, now, least, cause);
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

    pub(super) fn last_resort(&mut self, request: &Request) -> Answer {
        self.stale(request)
            .unwrap_or_else(|| Answer::failure(rcode::SERVFAIL, Some(ede::NOT_READY), 0))
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
        if let Some(waiting) = self.waiting.get_mut(front) {
            *waiting -= 1;
        }
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
