//! The queries of attempts.

use std::time::{Duration, Instant};

use super::{
    super::{Shard, chain::asked, connection_token, probes::reason, socket_token},
    protocol,
};
use crate::{
    dns::{Letters, UpstreamQuery},
    forward::{
        exchange::{Destination, Exchange, SendError, Sent, SentCookie, Target, Transport},
        inflight::Hedge,
        routes::Route,
    },
};

/// Attempts.
impl Shard {
    /// Chooses an upstream, the first or another one, and starts an attempt there.
    ///
    /// A look-up has failed once as many attempts ended with an error as there are upstreams, or
    /// `attempts` others are used up.
    pub(in crate::forward::shard) fn next_attempt(&mut self, slot: usize, now: Instant) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let route = self.routes.get(lookup.route);
        let may_go_on = route.is_some_and(|route| {
            lookup.attempts < route.options.attempts
                && lookup.errors < route.group.len()
                && lookup.has_time(now)
        });
        if !may_go_on {
            return self.fail(slot, now);
        }
        lookup.attempts += 1;
        lookup.hedge = Hedge::No;
        if let Some(target) = self.choose(slot, now) {
            self.send(slot, now, target);
        }
    }

    /// Asks a second upstream although the first one may still respond, which times out at `until`.
    #[cold]
    pub(super) fn hedge(&mut self, slot: usize, now: Instant, until: Instant) {
        if let Some(target) = self.choose(slot, now) {
            self.counters.hedged.add(1);
            if let Some(lookup) = self.in_flight.get_mut(slot) {
                lookup.hedge = Hedge::Sent {
                    first: lookup.current,
                    until,
                    second: self.serial + 1,
                };
            }
            self.send(slot, now, target);
        }
    }

    /// Waits for the first query again if this one was the second and has failed. Whether there is one.
    pub(super) fn back_to_first(&mut self, slot: usize, failed: Sent) -> bool {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return false;
        };
        let Hedge::Sent {
            first,
            until,
            second,
        } = lookup.hedge
        else {
            return false;
        };
        let mut exchanges = lookup.exchanges.iter();
        let is_waiting = exchanges.any(|exchange| exchange.sent.serial == first);
        // Or one that repeated it in another way.
        if !is_waiting || failed.serial < second || failed.serial != lookup.current {
            return false;
        }
        (lookup.current, lookup.hedge) = (first, Hedge::No);
        self.attempt_deadlines.set(slot, first, until);
        true
    }

    /// Chooses the upstream that a look-up asks next, and how.
    fn choose(&mut self, slot: usize, now: Instant) -> Option<Target> {
        let lookup = self.in_flight.get_mut(slot)?;
        let Route { options, group, .. } = self.routes.get_mut(lookup.route)?;
        let name = asked(&lookup.request, lookup.chain.as_deref()).name();
        let upstream = (self.upstreams).choose(group, name, &mut lookup.tried, now);
        let tcp = self.upstreams.is_stream(upstream);
        let mut plain = self.upstreams.is_plain(upstream, now);
        // Some networks drop queries with EDNS, or the responses to them; some servers, those with an option that they do
        // not know.
        let silent = lookup.exchanges.iter().map(|exchange| &exchange.sent);
        let mut silent = silent.filter(|sent| {
            let target = sent.target;
            target.upstream == upstream && target.tcp == tcp && !target.plain
        });
        let was_silent = silent.clone().next().is_some();
        let bare = silent.any(|sent| sent.cookie.is_some_and(|cookie| !cookie.expected));
        let is_last = lookup.attempts == options.attempts;
        if !plain && is_last && was_silent && !self.upstreams.answers_edns(upstream) {
            self.counters.retried_plain.add(1);
            plain = true;
        }
        Some(Target {
            upstream,
            plain,
            bare,
            tcp,
        })
    }
}

/// Queries.
impl Shard {
    /// Sends the query. The exchange becomes the current one.
    pub(in crate::forward::shard) fn send(&mut self, slot: usize, now: Instant, target: Target) {
        self.serial += 1;
        let mut sent = Sent {
            target,
            serial: self.serial,
            id: 0,
            at: now,
            waited: false,
            letters: None,
            cookie: None,
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
                if target.tcp {
                    self.counters.sent_tcp.add(1);
                } else {
                    self.counters.sent_udp.add(1);
                }
                let timeout = self.timeout(slot, target);
                let due = now + self.hedge_after(slot, &sent, timeout).unwrap_or(timeout);
                self.attempt_deadlines.set(slot, sent.serial, due);
            }
            Err(error) => self.send_failed(slot, now, sent, error),
        }
    }

    /// Time after which the next attempt begins if a look-up's query has no response.
    fn timeout(&self, slot: usize, target: Target) -> Duration {
        let Target { upstream, tcp, .. } = target;
        let lookup = self.in_flight.get(slot);
        let Some(route) = lookup.and_then(|lookup| self.routes.get(lookup.route)) else {
            return Duration::ZERO;
        };
        let least = route.options.attempt_timeout;
        self.upstreams
            .try_timeout(&route.group, upstream, tcp, least)
    }

    /// Time after which a look-up asks a second upstream, if it is to: then that is its deadline at first.
    fn hedge_after(&mut self, slot: usize, sent: &Sent, timeout: Duration) -> Option<Duration> {
        let lookup = self.in_flight.get_mut(slot)?;
        let group = &self.routes.get(lookup.route)?.group;
        if !group.hedges() {
            return None;
        }
        let Target { upstream, tcp, .. } = sent.target;
        // A round trip is less than what these take.
        if sent.waited || tcp && !self.upstreams.is_stream(upstream) {
            return None;
        }
        let after = self.upstreams.hedge_after(upstream)?;
        let is_first = lookup.attempts == 1 && !matches!(lookup.hedge, Hedge::Sent { .. });
        if !is_first || after >= timeout || !self.upstreams.others_work(group, upstream) {
            return None;
        }
        lookup.hedge = Hedge::Due {
            exchange: sent.serial,
            until: sent.at + timeout,
        };
        Some(after)
    }

    /// Continues after an exchange whose query could not be sent. For lack of resources the current one is not
    /// repeated, and no failure of the question.
    pub(in crate::forward::shard) fn send_failed(
        &mut self,
        slot: usize,
        now: Instant,
        sent: Sent,
        error: SendError,
    ) {
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        if lookup.is_probe {
            return self.end_probe(slot, now, sent, reason(error));
        }
        let is_current = lookup.current == sent.serial;
        lookup.not_sent |= matches!(error, SendError::Address | SendError::Route);
        match (error, reason(error)) {
            (_, Some(reason)) => self.unreachable(slot, now, sent, reason),
            (SendError::Resources, None) if self.back_to_first(slot, sent) => {}
            (SendError::Resources, None) if is_current => self.abandon(slot),
            (SendError::Resources, None) => {}
            (_, None) => {
                self.counters.socket_errors.add(1);
                if let Some(address) = self.upstreams.address(sent.target.upstream) {
                    self.log.no_port(address, now);
                }
                self.attempt_failed(slot, now, sent);
            }
        }
    }

    /// Begins an exchange, and chooses its ID. The query is sent at the end of the turn, or once a connection is
    /// established. `moved`: it was sent before, on a connection that broke. `connection`: the one that it goes over.
    pub(in crate::forward::shard) fn open(
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
        let to = Destination {
            registry: self.poll.registry(),
            token: if tcp { connection_token } else { socket_token },
            upstream,
            address,
            now: sent.at,
        };
        let (number, outstanding) = if tcp {
            let tcp = &mut self.tcp;
            let number = connection.map_or_else(|| tcp.choose(to), Ok)?;
            (number, tcp.assign(number, slot, sent.serial, to.now))
        } else {
            let number = self.udp.choose(to)?;
            (number, self.udp.assign(number, slot, sent.serial))
        };
        let outstanding = outstanding.ok_or(SendError::Resources)?;
        sent.id = outstanding.id;
        sent.waited = tcp && !self.tcp.is_established(number);
        let mut cookie = None;
        if !tcp && !sent.target.bare {
            if self.options.randomize_case && self.upstreams.keeps_case(upstream, to.now) {
                sent.letters = Some(Letters::new(rand::random()));
            }
            if self.options.cookies
                && !sent.target.plain
                && let Some(own) = self.udp.own_address(number)
            {
                cookie = self.upstreams.cookie(upstream, own, to.now);
            }
        }
        sent.cookie = cookie.map(|cookie| SentCookie {
            client: cookie.client(),
            expected: cookie.has_server(),
        });
        let query = UpstreamQuery {
            id: sent.id,
            question: lookup.question(),
            key_flags: lookup.request.flags,
            letters: sent.letters,
            want_ad: self.options.trust_ad,
            edns: !sent.target.plain,
            subnet: self.subnet.as_ref(),
            cookie: cookie.as_ref(),
            keepalive: tcp,
            padding: self.upstreams.is_tls(upstream),
        };
        query.write_to(&mut self.query);
        let sampled = self.tap.is_due() && {
            let protocol = protocol(&self.upstreams, sent.target);
            let query = &self.query;
            self.tap.forwarder_query(query, address, protocol, sent.at)
        };
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
}
