//! What becomes of attempts.

use std::time::Instant;

use super::super::Shard;
use crate::{
    dns::header::rcode,
    forward::{
        UpstreamCounters,
        exchange::{ErrorResponse, ExchangeStatus, Sent, Target, Transport},
        inflight::Hedge,
        routes::Route,
        upstreams::Reason,
    },
    stats::Counter,
};

impl Shard {
    /// Continues after an exchange that has ended and was removed from the look-up.
    pub(in crate::forward::shard) fn handle_status(
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
            ExchangeStatus::Answer(_)
                | ExchangeStatus::Truncated(_)
                | ExchangeStatus::Error(_)
                | ExchangeStatus::BadCookie
        );
        if responded {
            let lookup = self.in_flight.get(slot);
            let to_probe = lookup.is_some_and(|lookup| lookup.is_probe);
            self.heard(upstream, to_probe, now);
            let took = now.saturating_duration_since(sent.at);
            self.upstreams.responded(upstream, took);
            if self.is_in_place_of_udp(sent) {
                self.upstreams.tcp_works(upstream, now);
            } else if !sent.waited {
                self.upstreams.measured(upstream, took);
            }
        }
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        if lookup.is_probe {
            match &status {
                ExchangeStatus::Answer(_) if !plain => self.upstreams.answered_edns(upstream),
                ExchangeStatus::Error(error) if !plain && error.no_edns => {
                    self.upstreams.reads_no_edns(upstream, now);
                }
                _ => {}
            }
            let reason = match status {
                ExchangeStatus::Unreachable(reason) => Some(reason),
                ExchangeStatus::Broken => Some(Reason::Silent),
                // Forged responses say nothing about the upstream.
                _ => None,
            };
            return self.end_probe(slot, now, sent, reason);
        }
        lookup.heard |= responded;
        match status {
            ExchangeStatus::Answer(answer) => {
                self.counters.answers.add(1);
                if plain {
                    let name = lookup.name_hash(&self.hasher);
                    if self.upstreams.answered_plain(upstream, name, sent.at) {
                        self.probe_edns(upstream, now);
                    }
                } else {
                    self.upstreams.answered_edns(upstream);
                    if sent.target.bare {
                        self.upstreams.reads_no_cookie(upstream, now);
                    }
                }
                self.note_answer(slot, now, sent);
                self.answered(slot, answer, now);
            }
            ExchangeStatus::Truncated(code) => self.truncated(slot, now, sent, code),
            ExchangeStatus::Forged => self.forged(slot, now, sent),
            ExchangeStatus::Unproven(doubt) => self.unproven(slot, now, sent, doubt),
            ExchangeStatus::BadCookie => self.bad_cookie(slot, now, sent),
            ExchangeStatus::Error(error) => self.error(slot, now, sent, error),
            ExchangeStatus::Unreachable(reason) => self.unreachable(slot, now, sent, reason),
            ExchangeStatus::Broken => {
                lookup.heard = true;
                let name = lookup.name_hash(&self.hasher);
                if self.is_in_place_of_udp(sent) {
                    if self.upstreams.tcp_failed(upstream, name, true, now) {
                        self.probe_tcp(upstream, now);
                    }
                } else {
                    // It says as little about the upstream as a timeout: the cause may be the question.
                    self.upstreams.gave_nothing(upstream, name, sent.at, now);
                }
                self.count_error(upstream, |counters| &counters.closed);
                self.attempt_failed(slot, now, sent);
            }
        }
    }

    /// Notes what it says about the upstreams that one of them answered a question.
    fn note_answer(&mut self, slot: usize, now: Instant, sent: Sent) {
        let upstream = sent.target.upstream;
        self.upstreams.answered(upstream);
        self.failures.answered(upstream, now);
        let Some(lookup) = self.in_flight.get(slot) else {
            return;
        };
        if matches!(lookup.hedge, Hedge::Sent { second, .. } if sent.serial >= second) {
            self.counters.hedges_won.add(1);
        }
        for other in &lookup.exchanges {
            let asked = other.sent;
            if asked.target.upstream != upstream {
                let waited = now.saturating_duration_since(asked.at);
                self.upstreams.was_slower(asked.target.upstream, waited);
            }
        }
    }

    /// Continues after an exchange whose upstream could not be reached.
    #[cold]
    pub(super) fn unreachable(&mut self, slot: usize, now: Instant, sent: Sent, reason: Reason) {
        let upstream = sent.target.upstream;
        let kind: Kind = match &reason {
            Reason::Tls(_) => |counters| &counters.tls_failures,
            _ => |counters| &counters.unreachable,
        };
        self.count_error(upstream, kind);
        // An upstream with UDP and without TCP is good for most questions.
        if !self.is_in_place_of_udp(sent) {
            // It may refuse some queries only.
            if !self.upstreams.heard_since(upstream, sent.at) {
                self.set_aside(upstream, reason, now);
            }
        } else if let Some(lookup) = self.in_flight.get(slot) {
            let name = lookup.name_hash(&self.hasher);
            self.upstreams.tcp_failed(upstream, name, false, now);
        }
        self.attempt_failed(slot, now, sent);
    }

    /// Whether a query went over TCP because UDP does not bring the answer.
    pub(in crate::forward::shard) fn is_in_place_of_udp(&self, sent: Sent) -> bool {
        sent.target.tcp && !self.upstreams.is_stream(sent.target.upstream)
    }

    /// Counts an error of an upstream.
    pub(super) fn count_error(&self, upstream: usize, kind: Kind) {
        self.counters.upstream_errors.add(1);
        self.count(upstream, |counters| &counters.errors);
        self.count(upstream, kind);
    }

    pub(super) fn count(&self, upstream: usize, what: Kind) {
        if let Some(counters) = self.upstreams.counters(upstream) {
            what(counters).add(1);
        }
    }

    /// Continues after an exchange that ended with an error, of the upstream or of this host.
    pub(in crate::forward::shard) fn attempt_failed(
        &mut self,
        slot: usize,
        now: Instant,
        sent: Sent,
    ) {
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
        if lookup.errors >= self.routes.upstreams(lookup.route) {
            return self.fail(slot, now);
        }
        if self.back_to_first(slot, sent) {
            return;
        }
        if is_current {
            if !in_place_of_udp && let Some(lookup) = self.in_flight.get_mut(slot) {
                // An error costs little time, so it does not count: more upstreams than `attempts`
                // can be asked.
                lookup.attempts = lookup.attempts.saturating_sub(1);
            }
            self.next_attempt(slot, now);
        }
    }

    /// Starts the next attempt of look-ups whose current exchange has timed out.
    pub(in crate::forward::shard) fn time_out_attempts(&mut self, now: Instant) {
        while let Some(due) = self.attempt_deadlines.take_due(now) {
            let Some(lookup) = self.in_flight.get_mut(due.slot) else {
                continue;
            };
            let Some(sent) = lookup.sent(due.serial) else {
                continue;
            };
            match lookup.hedge {
                Hedge::Due { exchange, until } if exchange == sent.serial => {
                    lookup.hedge = Hedge::No;
                    if now < until {
                        self.hedge_or_wait(due.slot, now, sent, until);
                        continue;
                    }
                }
                Hedge::Sent { first, second, .. } if sent.serial >= second => {
                    let mut exchanges = lookup.exchanges.iter();
                    let first = exchanges.find(|exchange| exchange.sent.serial == first);
                    if let Some(first) = first.map(|exchange| exchange.sent) {
                        self.timed_out(due.slot, now, first);
                    }
                }
                Hedge::Due { .. } | Hedge::Sent { .. } | Hedge::No => {}
            }
            if self.timed_out(due.slot, now, sent) {
                self.next_attempt(due.slot, now);
            }
        }
    }

    /// A query takes longer than usual: asks a second upstream if the group may, or else waits until it times out.
    #[cold]
    fn hedge_or_wait(&mut self, slot: usize, now: Instant, sent: Sent, until: Instant) {
        let route = self.in_flight.get(slot).map(|lookup| lookup.route);
        let route = route.and_then(|route| self.routes.get_mut(route));
        let may_hedge = route.is_some_and(|Route { group, .. }| {
            self.upstreams.others_work(group, sent.target.upstream) && group.take_hedge()
        });
        if may_hedge {
            self.hedge(slot, now, until);
        } else {
            self.attempt_deadlines.set(slot, sent.serial, until);
        }
    }

    /// Notes that an exchange has timed out. Whether its look-up goes on.
    fn timed_out(&mut self, slot: usize, now: Instant, sent: Sent) -> bool {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return false;
        };
        let upstream = sent.target.upstream;
        let in_place_of_udp = sent.target.tcp && !self.upstreams.is_stream(upstream);
        let name = lookup.name_hash(&self.hasher);
        let is_probe = lookup.is_probe;
        if !is_probe {
            self.counters.timeouts.add(1);
            if let Some(counters) = self.upstreams.counters(upstream) {
                counters.timeouts.add(1);
            }
            lookup.heard = true;
            if in_place_of_udp {
                lookup.note_error(true);
            }
        }
        let mut exchanges = lookup.exchanges.iter();
        let exchange = exchanges.find(|exchange| exchange.sent.serial == sent.serial);
        let transport = exchange.map(|exchange| exchange.transport);
        let mut reason = Some(Reason::Silent);
        let mut probe_tcp = false;
        match transport {
            Some(Transport::Udp(number)) => self.udp.timed_out(number, sent.at),
            Some(Transport::Tcp(number)) => {
                let accepted = self.tcp.is_established(number);
                if in_place_of_udp {
                    probe_tcp = self.upstreams.tcp_failed(upstream, name, accepted, now);
                } else if !accepted {
                    let full = self.upstreams.connection_time(upstream);
                    let opened = self.tcp.opened(number);
                    let is_over = opened.is_none_or(|opened| now >= opened + full);
                    reason = is_over.then_some(Reason::NoConnection);
                }
                if reason.is_some() {
                    self.tcp.timed_out(upstream, number, sent.at);
                }
            }
            None => {}
        }
        if is_probe {
            self.udp.renew(upstream, sent.at);
            self.end_probe(slot, now, sent, reason);
            return false;
        }
        if probe_tcp {
            self.probe_tcp(upstream, now);
        }
        match reason {
            // Queries wait there, and no other connection was opened meanwhile.
            Some(Reason::NoConnection) if !self.upstreams.heard_since(upstream, sent.at) => {
                self.set_aside(upstream, Reason::NoConnection, now);
            }
            Some(_) if !in_place_of_udp => {
                if !self.upstreams.heard_since(upstream, sent.at) {
                    self.udp.renew(upstream, sent.at);
                }
                self.upstreams.gave_nothing(upstream, name, sent.at, now);
            }
            // It may still be established.
            Some(_) | None => {}
        }
        true
    }
}

/// A counter of an upstream.
pub(super) type Kind = fn(&UpstreamCounters) -> &Counter;

/// What counts a response that is no answer.
pub(super) fn kind(error: ErrorResponse) -> Kind {
    let Ok(code) = u8::try_from(error.code) else {
        return |counters| &counters.other_rcodes;
    };
    match code {
        rcode::NOERROR | rcode::NXDOMAIN => |counters| &counters.malformed,
        rcode::SERVFAIL => |counters| &counters.servfail,
        rcode::REFUSED => |counters| &counters.refused,
        rcode::FORMERR => |counters| &counters.formerr,
        rcode::NOTIMP => |counters| &counters.notimp,
        _ => |counters| &counters.other_rcodes,
    }
}
