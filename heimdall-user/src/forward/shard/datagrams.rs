//! Queries and responses over the pooled UDP sockets.

use std::{mem, time::Instant};

use nix::errno::Errno;

use super::{
    Shard,
    attempts::{limits, sample_response},
    chain::asked,
};
use crate::forward::{
    exchange::{ExchangeStatus, Expected, SendError},
    inflight::Lookup,
    udp::{Batch, Datagram, Match, Outstanding, Unsent},
    upstreams::Reason,
};

impl Shard {
    /// Sends the queries that wait, over UDP and on connections.
    pub(super) fn send_queries(&mut self, batch: &mut Batch, now: Instant) {
        // A look-up whose query could not be sent may ask the next upstream. Its attempts are bounded.
        while self.udp.has_queued() || self.tcp.has_queued() {
            self.send_on_connections(now);
            let mut unsent = mem::take(&mut self.unsent);
            self.udp.send(batch, &mut unsent);
            for what in unsent.drain(..) {
                match what {
                    Unsent::Query(query, error) => self.not_sent(query, error, now),
                    Unsent::Socket(number) => {
                        self.close_socket(number, Loss::Error(Reason::Refused), now)
                    }
                }
            }
            self.unsent = unsent;
        }
    }

    /// Continues after a query that could not be sent, unless its exchange has ended.
    #[cold]
    pub(super) fn not_sent(&mut self, query: Outstanding, error: SendError, now: Instant) {
        let Outstanding { slot, serial, .. } = query;
        if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
            let was_open = exchange
                .socket()
                .is_some_and(|number| self.udp.was_open(number, now));
            self.udp.end(&exchange);
            let sent = exchange.sent;
            if error == SendError::Resources {
                self.counters.socket_errors.add(1);
            } else if was_open {
                // Its source address may be gone. A new socket tells.
                self.udp.renew(sent.target.upstream, now);
                let lookup = self.in_flight.get(slot);
                let goes_on = |lookup: &Lookup| lookup.current == serial && !lookup.is_probe;
                if lookup.is_some_and(goes_on) {
                    return self.send(slot, now, sent.target);
                }
            }
            self.send_failed(slot, now, sent, error);
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
                Err(errno) => {
                    let reason = Reason::from(&errno.into());
                    return self.close_socket(number, Loss::Error(reason), now);
                }
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
            Match::Query(query) => {
                socket.note_response(now);
                return self.handle_response(query, datagram.message, now);
            }
            Match::Late => return socket.note_response(now),
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
            request,
            chain,
            route,
            exchanges,
            ..
        } = lookup;
        let mut exchanges = exchanges.iter_mut();
        let Some(exchange) = exchanges.find(|exchange| exchange.sent.serial == serial) else {
            return;
        };
        let expected = Expected {
            question: asked(request, chain.as_deref()).question(),
            flags: request.flags,
            subnet: self.subnet.as_ref(),
            limits: &limits(self.routes.limits(*route), &exchange.sent, request),
        };
        let echo = exchange.cookie_echo(message);
        let (answers, counters) = (&mut self.answers, &self.counters);
        let Some(status) = exchange.check_datagram(message, echo, &expected, answers, counters)
        else {
            return;
        };
        if exchange.sampled {
            sample_response(&self.tap, &self.upstreams, &exchange.sent, message, now);
        }
        if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
            if let (ExchangeStatus::Forged, Some(number)) = (&status, exchange.socket()) {
                // Its port may be known.
                self.udp.retire(number);
            }
            self.udp.end(&exchange);
            self.note_proofs(&exchange.sent, &status, echo, now);
            self.handle_status(slot, now, exchange.sent, status);
        }
    }

    /// Closes a socket. All that was outstanding on it ends.
    #[cold]
    fn close_socket(&mut self, number: usize, loss: Loss, now: Instant) {
        for Outstanding { slot, serial, .. } in self.udp.close(number) {
            if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
                let status = match &loss {
                    Loss::Error(reason) => ExchangeStatus::Unreachable(reason.clone()),
                    Loss::Forged => ExchangeStatus::Forged,
                };
                self.handle_status(slot, now, exchange.sent, status);
            }
        }
    }
}

/// Why a socket is closed although queries are outstanding.
enum Loss {
    /// It got an ICMP error, which says this.
    Error(Reason),
    /// Too many datagrams were rejected.
    Forged,
}
