//! The attempts of a look-up to get an answer from upstreams.
//!
//! An attempt is a query over UDP to one upstream, and what its response asks for: the same query
//! without EDNS, or over TCP. The exchange that was begun last is the current one, which has a
//! deadline. Then the next attempt begins, but a late response is accepted until the look-up ends.

use std::time::Instant;

use super::{Shard, connection_token, socket_token};
use crate::{
    dns::{KEY_FLAG_DO, TtlLimits, UpstreamQuery},
    forward::{
        Request,
        exchange::{
            Exchange, ExchangeStatus, Expected, SendError, Sent, Stream, Target, Transport,
        },
        shed::Scarce,
        upstreams::Upstreams,
    },
    tap::Tap,
};

/// Seconds for which an answer without EDNS may be cached, at most, if DNSSEC's records were asked
/// for: it has none, and the upstream may have failed to read this one query only.
const WITHOUT_DNSSEC: u32 = 60;

impl Shard {
    /// Starts the next attempt.
    ///
    /// A look-up has failed once as many attempts ended with an error as there are upstreams, or
    /// `attempts` others are used up.
    pub(super) fn start_attempt(&mut self, slot: usize, now: Instant) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let attempts = self.options.attempts;
        if lookup.attempts >= attempts || lookup.errors >= self.upstreams.len() {
            return self.fail(slot, now);
        }
        lookup.attempts += 1;
        let upstream = lookup.upstream;
        let edns = Target {
            upstream,
            plain: false,
            tcp: false,
        };
        // DNSSEC records, which a client with DO wants, need EDNS, so it is always tried first.
        let wants_dnssec = lookup.request.flags & KEY_FLAG_DO != 0;
        let mut plain = !wants_dnssec && self.upstreams.is_plain(upstream, now);
        // Some networks drop queries with EDNS, or the responses to them.
        let was_silent = lookup.exchanges.iter().any(|e| e.sent.target == edns);
        let is_last = lookup.attempts == attempts;
        if !plain && is_last && was_silent && !self.upstreams.answers_edns(upstream) {
            self.counters.retried_plain.add(1);
            plain = true;
        }
        self.send(slot, now, Target { plain, ..edns });
    }

    /// Sends the query. The exchange becomes the current one.
    pub(super) fn send(&mut self, slot: usize, now: Instant, target: Target) {
        self.serial += 1;
        let mut sent = Sent {
            target,
            serial: self.serial,
            id: 0,
            at: now,
        };
        let mut opened = self.open(slot, &mut sent);
        if opened == Err(SendError::Resources) {
            self.counters.socket_errors.add(1);
            // The connections of this look-up's earlier attempts are closed first, then a socket that only waits for
            // late responses, then other look-ups' connections.
            let freed = self.in_flight.close_connections(slot)
                || self.udp.close_oldest()
                || self.shed(Scarce::Descriptors, Some(slot), now);
            if freed {
                opened = self.open(slot, &mut sent);
            }
        }
        match opened {
            Ok(()) => {
                if let Some(counters) = self.upstreams.counters(target.upstream) {
                    counters.queries.add(1);
                }
                let mut timeout = self.upstreams.timeout(target.upstream);
                if target.tcp {
                    self.counters.sent_tcp.add(1);
                    // A round trip for the connection, one for the query.
                    timeout *= 2;
                } else {
                    self.counters.sent_udp.add(1);
                }
                self.attempt_deadlines.set(slot, sent.serial, now + timeout);
            }
            Err(error) => self.send_failed(slot, now, sent, error),
        }
    }

    /// Continues after an exchange whose query could not be sent. For lack of resources the current one is not
    /// repeated, and no failure of the question.
    pub(super) fn send_failed(&mut self, slot: usize, now: Instant, sent: Sent, error: SendError) {
        let lookup = self.in_flight.get(slot);
        let is_current = lookup.is_some_and(|lookup| lookup.current == sent.serial);
        match error {
            SendError::Resources if is_current => self.abandon(slot),
            SendError::Resources => {}
            SendError::Address => {
                self.counters.socket_errors.add(1);
                if let Some(address) = self.upstreams.address(sent.target.upstream) {
                    self.log.no_port(address, now);
                }
                self.attempt_failed(slot, now, sent);
            }
            SendError::Upstream => self.unreachable(slot, now, sent),
        }
    }

    /// Begins an exchange, and chooses its ID. The query is sent at the end of the turn, or once a connection is
    /// established.
    fn open(&mut self, slot: usize, sent: &mut Sent) -> Result<(), SendError> {
        let Target { upstream, tcp, .. } = sent.target;
        let lookup = self.in_flight.get_mut(slot).ok_or(SendError::Resources)?;
        lookup.current = sent.serial;
        let address = self.upstreams.address(upstream);
        let address = address.ok_or(SendError::Resources)?;
        let registry = self.poll.registry();
        let outstanding = if tcp {
            None
        } else {
            let udp = &mut self.udp;
            let socket = udp.choose(registry, socket_token, upstream, address, sent.at)?;
            let outstanding = udp.assign(socket, slot, sent.serial);
            Some((socket, outstanding.ok_or(SendError::Resources)?))
        };
        sent.id = outstanding.map_or_else(rand::random, |(_, outstanding)| outstanding.id);
        let query = UpstreamQuery {
            id: sent.id,
            question: lookup.request.question(),
            key_flags: lookup.request.flags,
            want_ad: self.options.trust_ad,
            edns: !sent.target.plain,
            subnet: self.subnet.as_ref(),
        };
        query.write_to(&mut self.query);
        let sampled =
            self.tap.is_due() && self.tap.forwarder_query(&self.query, address, tcp, sent.at);
        let transport = match outstanding {
            Some((socket, outstanding)) => {
                self.udp.queue(socket, outstanding, &self.query);
                Transport::Udp(socket)
            }
            None => {
                let token = connection_token(slot);
                Transport::Tcp(Stream::open(registry, token, address, &self.query)?)
            }
        };
        let sent = *sent;
        lookup.exchanges.push(Exchange {
            sent,
            transport,
            rejected: 0,
            sampled,
        });
        Ok(())
    }

    /// A connection of a look-up is ready, or was when the event was made.
    pub(super) fn connection_ready(&mut self, slot: usize, now: Instant) {
        // Another one may be ready as well, and its event lost with one that is closed here. Each
        // exchange ends once, so this is bounded as they are.
        while let Some((sent, status)) = self.take_ended(slot, now) {
            self.handle_status(slot, now, sent, status);
        }
    }

    /// Removes an exchange over TCP that has ended from the look-up.
    fn take_ended(&mut self, slot: usize, now: Instant) -> Option<(Sent, ExchangeStatus)> {
        let lookup = self.in_flight.get_mut(slot)?;
        let request = &lookup.request;
        let mut exchanges = lookup.exchanges.iter_mut().enumerate();
        let (index, status) = exchanges.find_map(|(index, exchange)| {
            let expected = Expected {
                question: request.question(),
                flags: request.flags,
                subnet: self.subnet.as_ref(),
                limits: &limits(self.options.limits, &exchange.sent, request),
            };
            let answers = &mut self.answers;
            match exchange.poll(&mut self.scratch, &expected, answers, &self.counters) {
                ExchangeStatus::Waiting => None,
                status => Some((index, status)),
            }
        })?;
        let ended = lookup.exchanges.swap_remove(index);
        if ended.sampled
            && let Some(response) = ended.received()
        {
            sample_response(&self.tap, &self.upstreams, &ended.sent, response, now);
        }
        Some((ended.sent, status))
    }

    /// Continues after an exchange that has ended and was removed from the look-up.
    pub(super) fn handle_status(
        &mut self,
        slot: usize,
        now: Instant,
        sent: Sent,
        status: ExchangeStatus,
    ) {
        let Target {
            upstream,
            plain,
            tcp,
        } = sent.target;
        let responded = matches!(
            status,
            ExchangeStatus::Answer(_) | ExchangeStatus::Truncated(_) | ExchangeStatus::Error(_)
        );
        if responded {
            self.heard(upstream, now);
            let took = now.saturating_duration_since(sent.at);
            self.upstreams.responded(upstream, took);
            if !tcp {
                self.upstreams.measured(upstream, took);
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
        match status {
            ExchangeStatus::Waiting => {}
            ExchangeStatus::Answer(answer) => {
                self.counters.answers.add(1);
                if plain {
                    let question = lookup.request.hash;
                    self.upstreams.answered_plain(upstream, question, sent.at);
                } else {
                    self.upstreams.answered_edns(upstream);
                }
                self.finish(slot, answer);
            }
            ExchangeStatus::Truncated(code) => {
                lookup.truncated = Some(code);
                self.repeat(slot, now, sent, over_tcp);
            }
            // An attacker who does not see the packets cannot forge responses over TCP.
            ExchangeStatus::Forged if lookup.current == sent.serial => {
                self.send(slot, now, over_tcp)
            }
            ExchangeStatus::Forged => {}
            ExchangeStatus::Error(error) => {
                lookup.explain(error.ede);
                if error.no_edns && !plain {
                    let target = Target {
                        plain: true,
                        ..sent.target
                    };
                    return self.repeat(slot, now, sent, target);
                }
                self.count_error(upstream);
                self.attempt_failed(slot, now, sent);
            }
            ExchangeStatus::Unreachable => self.unreachable(slot, now, sent),
        }
    }

    /// Repeats a query in another way at the same upstream, unless an earlier attempt has done so
    /// already.
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

    /// Continues after an exchange whose upstream could not be reached.
    fn unreachable(&mut self, slot: usize, now: Instant, sent: Sent) {
        // An upstream with UDP and without TCP is good for most questions.
        if !sent.target.tcp {
            self.upstreams.unreachable(sent.target.upstream, now);
        }
        self.count_error(sent.target.upstream);
        self.attempt_failed(slot, now, sent);
    }

    /// Counts an error of an upstream.
    fn count_error(&self, upstream: usize) {
        self.counters.upstream_errors.add(1);
        if let Some(counters) = self.upstreams.counters(upstream) {
            counters.errors.add(1);
        }
    }

    /// Continues after an exchange that ended with an error, of the upstream or of this host.
    pub(super) fn attempt_failed(&mut self, slot: usize, now: Instant, sent: Sent) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let is_current = lookup.current == sent.serial;
        if sent.target.tcp && !is_current {
            // It was counted when it timed out.
            return;
        }
        lookup.note_error(sent);
        if lookup.errors >= self.upstreams.len() {
            self.fail(slot, now);
        } else if is_current {
            if !sent.target.tcp {
                // An error costs little time, so it does not count: more upstreams than `attempts`
                // can be asked.
                lookup.attempts = lookup.attempts.saturating_sub(1);
            }
            lookup.upstream = self.upstreams.after(sent.target.upstream, now);
            self.start_attempt(slot, now);
        }
    }

    /// Starts the next attempt of look-ups whose current exchange has timed out.
    pub(super) fn time_out_attempts(&mut self, now: Instant) {
        while let Some(due) = self.attempt_deadlines.take_due(now) {
            let Some(lookup) = self.in_flight.get_mut(due.slot) else {
                continue;
            };
            let Some(sent) = lookup.sent(due.serial) else {
                continue;
            };
            self.counters.timeouts.add(1);
            lookup.heard = true;
            let upstream = sent.target.upstream;
            if let Some(counters) = self.upstreams.counters(upstream) {
                counters.timeouts.add(1);
            }
            if sent.target.tcp {
                lookup.note_error(sent);
            } else {
                let question = lookup.request.hash;
                let mut exchanges = lookup.exchanges.iter();
                let exchange = exchanges.find(|exchange| exchange.sent.serial == sent.serial);
                if let Some(number) = exchange.and_then(Exchange::socket) {
                    self.udp.timed_out(number, sent.at);
                }
                if !self.upstreams.heard_since(upstream, sent.at) {
                    self.udp.renew(upstream, sent.at);
                }
                self.upstreams.timed_out(upstream, question, sent.at, now);
            }
            lookup.upstream = self.upstreams.after(upstream, now);
            self.start_attempt(due.slot, now);
        }
    }
}

/// Samples the response to a query that was sampled.
#[cold]
pub(super) fn sample_response(
    tap: &Tap,
    upstreams: &Upstreams,
    sent: &Sent,
    response: &[u8],
    now: Instant,
) {
    if let Some(upstream) = upstreams.address(sent.target.upstream) {
        tap.forwarder_response(response, upstream, sent.target.tcp, [sent.at, now]);
    }
}

/// Bounds on the TTL of the answer to a query.
pub(super) fn limits(limits: TtlLimits, sent: &Sent, request: &Request) -> TtlLimits {
    if !sent.target.plain || request.flags & KEY_FLAG_DO == 0 {
        return limits;
    }
    TtlLimits {
        min: limits.min.min(WITHOUT_DNSSEC),
        max: limits.max.min(WITHOUT_DNSSEC),
        ..limits
    }
}
