//! Responses that lead to another query at the same upstream: those that are truncated or may be forged, and the errors
//! of servers that cannot read the query.

use std::time::Instant;

use super::{super::Shard, outcome::kind};
use crate::{
    dns::{CookieEcho, NameHasher},
    forward::{
        exchange::{Doubt, ErrorResponse, ExchangeStatus, Sent, Target},
        inflight::Lookup,
        upstreams::TryTcp,
    },
};

impl Lookup {
    /// Hash of the name that upstreams are asked for now. What they do with it is evidence about them only together with
    /// other such names, whatever names of clients lead there.
    pub(super) fn name_hash(&self, hasher: &NameHasher) -> u64 {
        self.asked().key().name_hash(hasher)
    }
}

impl Shard {
    /// Notes what a datagram shows of its upstream by the cookie of its query.
    pub(in crate::forward::shard) fn note_proofs(
        &mut self,
        sent: &Sent,
        status: &ExchangeStatus,
        echo: CookieEcho,
        now: Instant,
    ) {
        if matches!(status, ExchangeStatus::Forged | ExchangeStatus::Unproven(_)) {
            return;
        }
        let upstream = sent.target.upstream;
        if let Some(cookie) = sent.cookie {
            self.upstreams.cookie_echoed(upstream, cookie, echo, now);
        }
    }

    /// Continues after a truncated answer.
    pub(super) fn truncated(&mut self, slot: usize, now: Instant, sent: Sent, code: u8) {
        if let Some(lookup) = self.in_flight.get_mut(slot) {
            lookup.truncated = Some(code);
            self.repeat_over_tcp(slot, now, sent);
        }
    }

    /// Continues after a flood of wrong datagrams: first over another port, then over TCP, whose responses an attacker who
    /// does not see the packets cannot forge.
    pub(super) fn forged(&mut self, slot: usize, now: Instant, sent: Sent) {
        self.count(sent.target.upstream, |counters| &counters.forged);
        let lookup = self.in_flight.get_mut(slot);
        let Some(lookup) = lookup.filter(|lookup| lookup.current == sent.serial) else {
            return;
        };
        if lookup.may_repeat() {
            self.send(slot, now, sent.target);
        } else {
            self.repeat_over_tcp(slot, now, sent);
        }
    }

    /// Continues after a response that may be forged: over TCP, where it needs no proof; if that does not work, without the
    /// proof over another port. Notes that the upstream may not give it.
    pub(super) fn unproven(&mut self, slot: usize, now: Instant, sent: Sent, doubt: Doubt) {
        let Some(lookup) = self.in_flight.get(slot) else {
            return;
        };
        let upstream = sent.target.upstream;
        let name = lookup.name_hash(&self.hasher);
        match doubt {
            Doubt::Letters => self.upstreams.changed_case(upstream, name, now),
            Doubt::Cookie => self.upstreams.cookie_missing(upstream, name, now),
        }
        self.repeat_without(slot, now, sent);
    }

    /// Continues after BADCOOKIE: once with the cookie that came with it, then over TCP (RFC 7873 section 5.3), or without
    /// a cookie if that does not work. Servers with different secrets at one address are never content.
    pub(super) fn bad_cookie(&mut self, slot: usize, now: Instant, sent: Sent) {
        let lookup = self.in_flight.get_mut(slot);
        let Some(lookup) = lookup.filter(|lookup| lookup.current == sent.serial) else {
            return;
        };
        if lookup.may_repeat() {
            self.counters.retried_cookie.add(1);
            self.send(slot, now, sent.target);
        } else if sent.target.bare {
            self.count_error(sent.target.upstream, |counters| &counters.other_rcodes);
            self.attempt_failed(slot, now, sent);
        } else {
            let name = lookup.name_hash(&self.hasher);
            (self.upstreams).cookie_missing(sent.target.upstream, name, now);
            self.repeat_without(slot, now, sent);
        }
    }

    /// Continues after an error response. Servers that do not know the option, or EDNS, are asked without.
    pub(super) fn error(&mut self, slot: usize, now: Instant, sent: Sent, error: ErrorResponse) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        lookup.explain(error.ede);
        let name = lookup.name_hash(&self.hasher);
        let target = sent.target;
        if error.no_edns && sent.cookie.is_some_and(|cookie| !cookie.expected) {
            self.upstreams.reads_no_cookie(target.upstream, now);
            let bare = Target {
                bare: true,
                ..target
            };
            return self.repeat(slot, now, sent, bare);
        }
        let maybe_no_edns = error.maybe_no_edns && !self.upstreams.answers_edns(target.upstream);
        if !target.plain && (error.no_edns || maybe_no_edns) {
            let plain = Target {
                plain: true,
                ..target
            };
            return self.repeat(slot, now, sent, plain);
        }
        self.upstreams.gave_error(target.upstream, name);
        self.count_error(target.upstream, kind(error));
        self.attempt_failed(slot, now, sent);
    }

    /// Repeats a query over TCP. If it is known that this does not work, that has failed at once.
    fn repeat_over_tcp(&mut self, slot: usize, now: Instant, sent: Sent) {
        let target = over_tcp(sent.target);
        if !self.may_send(slot, sent, target) {
            return;
        }
        if self.try_tcp(target.upstream, now) {
            self.send(slot, now, target);
        } else {
            self.attempt_failed(slot, now, Sent { target, ..sent });
        }
    }

    /// Repeats a query over TCP, or without random letters and a cookie if it is known that TCP does not work.
    fn repeat_without(&mut self, slot: usize, now: Instant, sent: Sent) {
        let target = over_tcp(sent.target);
        if !self.may_send(slot, sent, target) {
            return;
        }
        if self.try_tcp(target.upstream, now) {
            self.send(slot, now, target);
        } else {
            let bare = Target {
                bare: true,
                ..sent.target
            };
            self.repeat(slot, now, sent, bare);
        }
    }

    /// Whether a query may go over TCP in place of UDP. Sends the probe that finds out if that is due.
    fn try_tcp(&mut self, upstream: usize, now: Instant) -> bool {
        match self.upstreams.try_tcp(upstream, now) {
            TryTcp::Yes => true,
            TryTcp::No => false,
            TryTcp::Probe => {
                self.probe_tcp(upstream, now);
                false
            }
        }
    }

    /// Repeats a query in another way at the same upstream, unless an earlier attempt has done so
    /// already.
    fn repeat(&mut self, slot: usize, now: Instant, sent: Sent, target: Target) {
        if self.may_send(slot, sent, target) {
            if target.plain != sent.target.plain {
                self.counters.retried_plain.add(1);
            }
            self.send(slot, now, target);
        }
    }

    /// Whether a query is to be repeated in this way: it is the current one, or no earlier attempt has done so.
    fn may_send(&self, slot: usize, sent: Sent, target: Target) -> bool {
        self.in_flight.get(slot).is_some_and(|lookup| {
            let mut exchanges = lookup.exchanges.iter();
            lookup.current == sent.serial || !exchanges.any(|e| e.sent.target == target)
        })
    }
}

fn over_tcp(target: Target) -> Target {
    Target {
        tcp: true,
        ..target
    }
}
