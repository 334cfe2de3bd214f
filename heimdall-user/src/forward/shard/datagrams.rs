//! Queries and responses over the pooled UDP sockets.

use std::{mem, time::Instant};

use nix::errno::Errno;

use super::{Shard, attempts::limits};
use crate::forward::{
    exchange::{ExchangeStatus, Expected},
    udp::{Asked, Batch, Datagram, Match, Unsent},
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
                    Unsent::Query(asked) => self.not_sent(asked, now),
                    Unsent::Socket(number) => self.close_socket(number, Loss::Error, now),
                }
            }
            self.unsent = unsent;
        }
    }

    /// Continues after a query for which this host had no room.
    #[cold]
    fn not_sent(&mut self, asked: Asked, now: Instant) {
        if let Some(exchange) = self.in_flight.take_exchange(asked.slot, asked.serial) {
            self.udp.end(&exchange);
            self.counters.socket_errors.add(1);
            self.attempt_failed(asked.slot, now, exchange.sent);
        }
    }

    /// Reads what has arrived on a socket. That is bounded: by its queries, as many late datagrams, and those that
    /// may be rejected.
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
            Match::Query(asked) => {
                if self.handle_response(asked, datagram.message, now) {
                    return;
                }
            }
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

    /// Checks a message that has a query's ID. Whether it was accepted.
    fn handle_response(&mut self, asked: Asked, message: &[u8], now: Instant) -> bool {
        let Asked { slot, serial, .. } = asked;
        let Some(lookup) = self.in_flight.get(slot) else {
            return false;
        };
        let mut exchanges = lookup.exchanges.iter();
        let Some(exchange) = exchanges.find(|exchange| exchange.sent.serial == serial) else {
            return false;
        };
        let request = &lookup.request;
        let expected = Expected {
            question: request.question(),
            flags: request.flags,
            subnet: self.subnet.as_ref(),
            limits: &limits(self.options.limits, &exchange.sent, request),
        };
        let Some(status) =
            exchange.check_datagram(message, &expected, &mut self.answers, &self.counters)
        else {
            return false;
        };
        if let Some(exchange) = self.in_flight.take_exchange(slot, serial) {
            self.udp.end(&exchange);
            self.handle_status(slot, now, exchange.sent, status);
        }
        true
    }

    /// Closes a socket. All that was outstanding on it ends.
    #[cold]
    fn close_socket(&mut self, number: usize, loss: Loss, now: Instant) {
        for Asked { slot, serial, .. } in self.udp.close(number) {
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
    /// It got an ICMP error, or cannot send.
    Error,
    /// Too many datagrams were rejected.
    Forged,
}
