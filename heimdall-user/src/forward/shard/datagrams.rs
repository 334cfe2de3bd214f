//! Queries and responses over the pooled UDP sockets.

use std::{mem, time::Instant};

use nix::errno::Errno;

use super::{Shard, attempts::limits};
use crate::forward::{
    exchange::{ExchangeStatus, Expected, SendError},
    inflight::Lookup,
    udp::{Batch, Datagram, Match, Outstanding, Unsent},
};

impl Shard {
    /// Sends the queries that wait.
    pub(super) fn send_queries(&mut self, batch: &mut Batch, now: Instant) {
        // A look-up whose query could not be sent may ask the next upstream. Its attempts are bounded.
        while self.udp.has_queued() {
            let mut unsent = mem::take(&mut self.unsent);
            self.udp.send(batch, &mut unsent);
            for what in unsent.drain(..) {
                match what {
                    Unsent::Query(query, error) => self.not_sent(query, error, now),
                    Unsent::Socket(number) => self.close_socket(number, Loss::Error, now),
                }
            }
            self.unsent = unsent;
        }
    }

    /// Continues after a query that could not be sent, unless its exchange has ended.
    #[cold]
    fn not_sent(&mut self, query: Outstanding, error: SendError, now: Instant) {
        let Outstanding { slot, serial, .. } = query;
        if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
            self.udp.end(&exchange);
            if error == SendError::Resources {
                self.counters.socket_errors.add(1);
            }
            self.send_failed(slot, now, exchange.sent, error);
        }
    }

    /// Reads what has arrived on a socket. That is bounded: by its queries, as many late datagrams, and those that
    /// may be rejected for each query and for the socket.
    pub(super) fn receive(&mut self, number: usize, batch: &mut Batch, now: Instant) {
        while let Some(socket) = self.udp.socket(number) {
            let received = match batch.receive(socket) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => continue,
                Err(_) => return self.close_socket(number, Loss::Error, now),
            };
            for at in 0..received {
                if let Some(datagram) = batch.datagram(at) {
                    self.handle_datagram(number, &datagram, now);
                }
            }
            if received < Batch::LEN {
                return;
            }
        }
    }

    fn handle_datagram(&mut self, number: usize, datagram: &Datagram<'_>, now: Instant) {
        // An earlier datagram may have closed it.
        let Some(socket) = self.udp.socket(number) else {
            return;
        };
        match socket.find(datagram) {
            Match::Query(query) => return self.handle_response(query, datagram.message, now),
            Match::Late => return,
            Match::WrongSource => self.counters.rejected_source.add(1),
            Match::WrongId => self.counters.rejected_id.add(1),
            Match::TooShort => self.counters.rejected_malformed.add(1),
        }
        let socket = self.udp.socket(number);
        if socket.is_some_and(|socket| socket.reject()) {
            self.close_socket(number, Loss::Forged, now);
        }
    }

    /// Takes a message that has a query's ID.
    fn handle_response(&mut self, query: Outstanding, message: &[u8], now: Instant) {
        let Outstanding { slot, serial, .. } = query;
        let Some(lookup) = self.in_flight.get_mut(slot) else {
            return;
        };
        let Lookup {
            request, exchanges, ..
        } = lookup;
        let mut exchanges = exchanges.iter_mut();
        let Some(exchange) = exchanges.find(|exchange| exchange.sent.serial == serial) else {
            return;
        };
        let expected = Expected {
            question: request.question(),
            flags: request.flags,
            subnet: self.subnet.as_ref(),
            limits: &limits(self.options.limits, &exchange.sent, request),
        };
        let Some(status) =
            exchange.check_datagram(message, &expected, &mut self.answers, &self.counters)
        else {
            return;
        };
        if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
            self.udp.end(&exchange);
            self.handle_status(slot, now, exchange.sent, status);
        }
    }

    /// Closes a socket. All that was outstanding on it ends.
    #[cold]
    fn close_socket(&mut self, number: usize, loss: Loss, now: Instant) {
        for Outstanding { slot, serial, .. } in self.udp.close(number) {
            if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
                let status = match loss {
                    Loss::Error => ExchangeStatus::Unreachable,
                    Loss::Forged => ExchangeStatus::Forged,
                };
                self.handle_status(slot, now, exchange.sent, status);
            }
        }
    }
}

/// Why a socket is closed although queries are outstanding.
#[derive(Clone, Copy)]
enum Loss {
    /// It got an ICMP error.
    Error,
    /// Too many datagrams were rejected.
    Forged,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Clock,
        dns::{Answer, DnsPacketView, NameHasher, Query, edns::ede},
        forward::{
            ForwardOptions, Mailbox, Outcome, Request,
            exchange::Transport,
            testing::{Upstream, query},
        },
    };

    struct Bench {
        shard: Shard,
        mailbox: Arc<Mailbox>,
        upstream: Upstream,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let upstream = Upstream::start(|_| Vec::new());
            let options = ForwardOptions {
                upstreams: vec![upstream.address],
                cache_bytes: 1 << 20,
                ..ForwardOptions::default()
            };
            let mailbox = Arc::new(Mailbox::new(16).unwrap());
            let mailboxes = [Arc::clone(&mailbox)].into();
            let clock = Clock::start();
            Self {
                shard: Shard::new(options, mailboxes, NameHasher::default(), clock).unwrap(),
                mailbox,
                upstream,
                now: Instant::now(),
            }
        }

        /// Begins the look-up of a name. Returns its query, and the number of the socket.
        fn ask(&mut self) -> (Outstanding, usize) {
            let msg = query(9, "name", None);
            let view = DnsPacketView::parse(&msg).unwrap();
            let query = Query::new(&view, &self.shard.hasher);
            let request = Request::new(&query, &msg, [192, 0, 2, 1].into(), 0, 1).unwrap();
            self.shard.begin(request, self.now);
            let (slot, lookup) = self.shard.in_flight.iter().next().unwrap();
            let exchange = &lookup.exchanges[0];
            let Transport::Udp(number) = exchange.transport else {
                unreachable!()
            };
            let (id, serial) = (exchange.sent.id, exchange.sent.serial);
            (Outstanding { id, slot, serial }, number)
        }

        fn outcome(&self) -> Option<(Option<u16>, u32)> {
            let Outcome { answer, .. } = self.mailbox.take()?;
            let answer = Answer::as_ref(&answer);
            Some((answer.ede(), answer.ttl()))
        }
    }

    /// Neither is a failure cached, nor another upstream asked, which would need the same.
    #[test]
    fn a_query_without_room_is_no_failure_of_its_question() {
        let mut bench = Bench::new();
        for round in 1..=2 {
            // Its socket is closed to free a file.
            let (_, number) = bench.ask();
            bench.shard.udp.close(number);
            bench.shard.send_queries(&mut Batch::new(), bench.now);
            assert_eq!(bench.outcome(), Some((Some(ede::NOT_READY), 0)));
            assert_eq!(bench.shard.counters.socket_errors.get(), round);
        }
        assert_eq!(bench.shard.counters.failure_hits.get(), 0);
        assert_eq!(bench.shard.counters.upstream_errors.get(), 0);
        assert!(bench.upstream.seen().is_empty());
    }

    #[test]
    fn only_the_current_query_matters() {
        let mut bench = Bench::new();
        let (first, _) = bench.ask();
        let serial = first.serial;
        bench.shard.send_queries(&mut Batch::new(), bench.now);
        // It times out, and the next attempt begins.
        bench.now += bench.shard.options.attempt_timeout * 2;
        bench.shard.time_out_attempts(bench.now);
        let current = bench.shard.in_flight.get(first.slot).unwrap().current;
        assert_ne!(current, serial);
        bench.shard.not_sent(first, SendError::Resources, bench.now);
        assert_eq!(bench.outcome(), None);
        let current = Outstanding {
            serial: current,
            ..first
        };
        bench
            .shard
            .not_sent(current, SendError::Resources, bench.now);
        assert_eq!(bench.outcome(), Some((Some(ede::NOT_READY), 0)));
    }

    #[test]
    fn an_upstream_without_a_route_is_set_aside() {
        let mut bench = Bench::new();
        let (query, _) = bench.ask();
        bench.shard.not_sent(query, SendError::Upstream, bench.now);
        let (_, ttl) = bench.outcome().unwrap();
        assert!(ttl > 0, "all upstreams failed");
        assert_eq!(bench.shard.counters.socket_errors.get(), 0);
    }
}
