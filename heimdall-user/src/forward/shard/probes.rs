//! Upstreams that are set aside, and the probes that find out whether they work again.
//!
//! A probe is a query over the upstream's own transport, for the root's name servers, which every resolver has, if the upstream
//! has the default route, or else for the SOA record of the zone of one of its routes: a server that has that zone only may drop
//! other queries. It is a look-up with one attempt for which no request waits. When it is due, and that any response ends it, is decided by
//! [`Upstreams`](crate::forward::upstreams::Upstreams).

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::Shard;
use crate::{
    dns::{DnsPacketView, NameHasher, Query, header, rrtype},
    forward::{
        Request,
        exchange::{SendError, Sent, Target},
        routes::ROOT,
        upstreams::Reason,
    },
};

/// RFC 1035 section 4.1.1: RD, one question.
const HEADER: [u8; header::LEN] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// RFC 1035 section 3.2.4.
const CLASS_IN: u16 = 1;

/// What probes of an upstream ask that has a route for this zone, in wire form.
fn request(zone: &[u8], hasher: &NameHasher) -> Option<Request> {
    let qtype = if zone == ROOT {
        rrtype::NS
    } else {
        rrtype::SOA
    };
    let fixed = [qtype.to_be_bytes(), CLASS_IN.to_be_bytes()].concat();
    let msg = [&HEADER, zone, &fixed].concat();
    let view = DnsPacketView::parse(&msg).ok()?;
    let query = Query::new(&view, hasher);
    Request::new(&query, &msg, Ipv4Addr::UNSPECIFIED.into(), 0, 0)
}

/// An upstream that was set aside for so long may be why zones were found dead.
const FORGET_ZONES: Duration = Duration::from_secs(1);

/// What is known of an upstream.
impl Shard {
    /// An upstream responded, to a probe or a look-up, whatever its response.
    pub(super) fn heard(&mut self, upstream: usize, to_probe: bool, now: Instant) {
        self.failures.heard(upstream, now);
        if let Some((address, after)) = self.upstreams.heard(upstream, to_probe, now) {
            self.log.works_again(address, after, now);
            // It may resolve what the others cannot.
            if after >= FORGET_ZONES {
                self.zones.clear();
            }
        }
    }

    /// An upstream cannot be reached, or a probe failed.
    #[cold]
    pub(super) fn set_aside(&mut self, upstream: usize, reason: Reason, now: Instant) {
        if let Some((address, reason)) = self.upstreams.set_aside(upstream, reason, now) {
            self.log.set_aside(address, reason, now);
        }
    }
}

/// Probes.
impl Shard {
    /// Sends the probes that are due.
    pub(super) fn send_probes(&mut self, now: Instant) {
        while let Some(upstream) = self.upstreams.due_probe(now) {
            self.send_probe(upstream, now);
        }
    }

    #[cold]
    fn send_probe(&mut self, upstream: usize, now: Instant) {
        if let Some(address) = self.upstreams.certainly_aside(upstream) {
            self.log.still_aside(address, now);
        }
        // One that was never seen to answer with EDNS may drop such queries: every other probe goes without.
        let counters = self.upstreams.counters(upstream);
        let is_second = counters.is_some_and(|counters| counters.probes.get() % 2 == 1);
        let plain = is_second && !self.upstreams.answers_edns(upstream);
        let tcp = self.upstreams.is_stream(upstream);
        let plain = plain || self.upstreams.is_plain(upstream, now);
        self.probe_over(upstream, plain, tcp, now);
    }

    /// Finds out whether an upstream that is asked over UDP answers over TCP.
    #[cold]
    pub(super) fn probe_tcp(&mut self, upstream: usize, now: Instant) {
        let plain = self.upstreams.is_plain(upstream, now);
        self.probe_over(upstream, plain, true, now);
    }

    /// Finds out whether an upstream reads EDNS.
    #[cold]
    pub(super) fn probe_edns(&mut self, upstream: usize, now: Instant) {
        self.probe_over(upstream, false, self.upstreams.is_stream(upstream), now);
    }

    fn probe_over(&mut self, upstream: usize, plain: bool, tcp: bool, now: Instant) {
        let zone = self.upstreams.probe_zone(upstream);
        let Some(request) = request(zone, &self.hasher) else {
            return;
        };
        self.serial += 1;
        let slot = self.in_flight.begin_probe(request, self.serial, now);
        let mut sent = Sent {
            target: Target {
                upstream,
                plain,
                // An upstream that was restarted may know cookies no more.
                bare: true,
                tcp,
            },
            serial: self.serial,
            id: 0,
            at: now,
            waited: false,
            letters: None,
            cookie: None,
        };
        match self.open(slot, &mut sent, false, None) {
            Ok(()) => {
                self.counters.probes.add(1);
                if let Some(counters) = self.upstreams.counters(upstream) {
                    counters.probes.add(1);
                }
                // The next one is due then at the earliest.
                let time = self.upstreams.probe_time(upstream) - Duration::from_millis(1);
                self.attempt_deadlines.set(slot, sent.serial, now + time);
            }
            Err(error) => self.end_probe(slot, now, sent, reason(error)),
        }
    }

    /// Ends a probe, which has failed if there is a reason.
    #[cold]
    pub(super) fn end_probe(
        &mut self,
        slot: usize,
        now: Instant,
        sent: Sent,
        reason: Option<Reason>,
    ) {
        // Another query's response may have come meanwhile.
        let upstream = sent.target.upstream;
        if let Some(reason) = reason
            && !self.is_in_place_of_udp(sent)
            && !self.upstreams.heard_since(upstream, sent.at)
        {
            self.set_aside(upstream, reason, now);
        }
        self.upstreams.probe_ended(upstream);
        if let Some(lookup) = self.end(slot) {
            self.in_flight.recycle(lookup);
        }
    }
}

/// What it says about an upstream that a query to it could not be sent.
pub(super) fn reason(error: SendError) -> Option<Reason> {
    match error {
        SendError::Route => Some(Reason::NoRoute),
        SendError::Refused => Some(Reason::Refused),
        SendError::Upstream => Some(Reason::Unreachable),
        // Nothing.
        SendError::Resources | SendError::Address => None,
    }
}
