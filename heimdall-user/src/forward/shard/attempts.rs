//! The attempts of a look-up to get an answer from upstreams.
//!
//! An attempt is a query to one upstream, over UDP or the upstream's own transport, and what its response asks for: the
//! same query without EDNS, or over TCP. The exchange that was begun last is the current one, which has a
//! deadline. Then the next attempt begins, but a late response is accepted until the look-up ends.

use std::time::Instant;

use super::{Shard, connection_token, socket_token};
use crate::{
    dns::{KEY_FLAG_DO, TtlLimits, UpstreamQuery},
    forward::{
        Request,
        exchange::{Exchange, ExchangeStatus, SendError, Sent, Target, Transport},
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
            tcp: self.upstreams.is_stream(upstream),
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
            waited: false,
        };
        let mut opened = self.open(slot, &mut sent, false, None);
        if opened == Err(SendError::Resources) {
            self.counters.socket_errors.add(1);
            // A socket that only waits for late responses is closed first, or else an unused connection.
            if self.udp.close_oldest() || self.tcp.close_unused() {
                opened = self.open(slot, &mut sent, false, None);
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
                    // If the connection is new, a round trip for that, one for TLS, and one for the query.
                    timeout *= if self.upstreams.is_tls(target.upstream) {
                        3
                    } else {
                        2
                    };
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
    /// established. `moved`: it was sent before, on a connection that broke. `connection`: the one that it goes over.
    pub(super) fn open(
        &mut self,
        slot: usize,
        sent: &mut Sent,
        moved: bool,
        connection: Option<usize>,
    ) -> Result<(), SendError> {
        let Target { upstream, tcp, .. } = sent.target;
        let lookup = self.in_flight.get_mut(slot).ok_or(SendError::Resources)?;
        lookup.current = sent.serial;
        let address = self.upstreams.address(upstream);
        let address = address.ok_or(SendError::Resources)?;
        let (registry, now) = (self.poll.registry(), sent.at);
        let (number, outstanding) = if tcp {
            let tcp = &mut self.tcp;
            let number = match connection {
                Some(number) => number,
                None => tcp.choose(registry, connection_token, upstream, address, now)?,
            };
            (number, tcp.assign(number, slot, sent.serial, now))
        } else {
            let udp = &mut self.udp;
            let number = udp.choose(registry, socket_token, upstream, address, now)?;
            (number, udp.assign(number, slot, sent.serial))
        };
        let outstanding = outstanding.ok_or(SendError::Resources)?;
        sent.id = outstanding.id;
        sent.waited = tcp && !self.tcp.is_established(number);
        let query = UpstreamQuery {
            id: sent.id,
            question: lookup.request.question(),
            key_flags: lookup.request.flags,
            want_ad: self.options.trust_ad,
            edns: !sent.target.plain,
            subnet: self.subnet.as_ref(),
            keepalive: tcp,
            padding: self.upstreams.is_tls(upstream),
        };
        query.write_to(&mut self.query);
        let sampled =
            self.tap.is_due() && self.tap.forwarder_query(&self.query, address, tcp, sent.at);
        let transport = if tcp {
            self.tcp.queue(number, &self.query);
            Transport::Tcp(number)
        } else {
            self.udp.queue(number, outstanding, &self.query);
            Transport::Udp(number)
        };
        lookup.exchanges.push(Exchange {
            sent: *sent,
            transport,
            rejected: 0,
            moved,
            sampled,
        });
        Ok(())
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
            upstream, plain, ..
        } = sent.target;
        let responded = matches!(
            status,
            ExchangeStatus::Answer(_) | ExchangeStatus::Truncated(_) | ExchangeStatus::Error(_)
        );
        if responded {
            self.heard(upstream, now);
            let took = now.saturating_duration_since(sent.at);
            self.upstreams.responded(upstream, took);
            if !self.is_in_place_of_udp(sent) && !sent.waited {
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
            ExchangeStatus::Broken => {
                lookup.heard = true;
                let question = lookup.request.hash;
                if !self.is_in_place_of_udp(sent) {
                    // It says as little about the upstream as a timeout: the cause may be the question.
                    self.upstreams
                        .gave_nothing(upstream, question, sent.at, now);
                }
                self.count_error(upstream);
                self.attempt_failed(slot, now, sent);
            }
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
        if !self.is_in_place_of_udp(sent) {
            self.upstreams.unreachable(sent.target.upstream, now);
        }
        self.count_error(sent.target.upstream);
        self.attempt_failed(slot, now, sent);
    }

    /// Whether a query went over TCP because UDP does not bring the answer.
    fn is_in_place_of_udp(&self, sent: Sent) -> bool {
        sent.target.tcp && !self.upstreams.is_stream(sent.target.upstream)
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
        let in_place_of_udp = self.is_in_place_of_udp(sent);
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let is_current = lookup.current == sent.serial;
        if in_place_of_udp && !is_current {
            // It was counted when it timed out.
            return;
        }
        lookup.note_error(in_place_of_udp);
        if lookup.errors >= self.upstreams.len() {
            self.fail(slot, now);
        } else if is_current {
            if !in_place_of_udp {
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
            let in_place_of_udp = sent.target.tcp && !self.upstreams.is_stream(upstream);
            let question = lookup.request.hash;
            let mut exchanges = lookup.exchanges.iter();
            let exchange = exchanges.find(|exchange| exchange.sent.serial == sent.serial);
            match exchange.map(|exchange| exchange.transport) {
                Some(Transport::Udp(number)) => self.udp.timed_out(number, sent.at),
                Some(Transport::Tcp(number)) => self.tcp.timed_out(upstream, number, sent.at),
                None => {}
            }
            if in_place_of_udp {
                lookup.note_error(true);
            } else {
                if !self.upstreams.heard_since(upstream, sent.at) {
                    self.udp.renew(upstream, sent.at);
                }
                self.upstreams
                    .gave_nothing(upstream, question, sent.at, now);
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
