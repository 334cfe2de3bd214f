//! Queries and responses over the connections to upstreams.

use std::{mem, time::Instant};

use super::{
    Shard,
    attempts::{limits, sample_response},
};
use crate::{
    dns::{header::field, options, u16_at},
    forward::{
        exchange::{ExchangeStatus, Expected},
        inflight::Lookup,
        tcp::{Framing, Lost, Pending, Received},
        udp::Outstanding,
    },
};

/// A connection brought what is no response to a query on it.
struct BadStream;

impl Shard {
    /// Sends the queries that wait, those of a connection with one system call.
    pub(super) fn send_on_connections(&mut self, now: Instant) {
        while let Some(number) = self.tcp.next_queued() {
            if self.tcp.flush(number).is_err() {
                self.lose_connection(number, now);
            }
        }
    }

    /// Reads what has arrived on a connection, and writes what it could not take before. That is bounded: a response
    /// that belongs to no query ends the connection.
    pub(super) fn connection_ready(&mut self, number: usize, now: Instant) {
        if self.tcp.flush(number).is_err() {
            return self.lose_connection(number, now);
        }
        let mut scratch = mem::take(&mut self.scratch);
        let is_open = loop {
            match self.tcp.read(number, &mut scratch) {
                Ok(Received::More) => {}
                Ok(Received::Nothing) => break true,
                Err(_) => break false,
            }
            let mut input = self.tcp.take_input(number);
            let handled = self.handle_messages(number, &mut input, now);
            self.tcp.put_back(number, input);
            if handled.is_err() {
                break false;
            }
        };
        self.scratch = scratch;
        if !is_open {
            self.lose_connection(number, now);
        }
    }

    /// Takes the messages that have arrived whole.
    fn handle_messages(
        &mut self,
        number: usize,
        input: &mut Framing,
        now: Instant,
    ) -> Result<(), BadStream> {
        while self.tcp.is_open(number)
            && let Some(message) = input.next()
        {
            let Some(id) = u16_at(message, field::ID) else {
                self.counters.rejected_malformed.add(1);
                return Err(BadStream);
            };
            let Some(pending) = self.tcp.take(number, id, now) else {
                self.counters.rejected_id.add(1);
                return Err(BadStream);
            };
            if let Some(time) = options::tcp_keepalive(message) {
                self.tcp.keep_for(number, time);
            }
            if let Pending::Awaited(query) = pending {
                self.handle_message(query, message, now);
            }
        }
        Ok(())
    }

    /// Takes a response that has a query's ID.
    fn handle_message(&mut self, query: Outstanding, message: &[u8], now: Instant) {
        let Outstanding { slot, serial, .. } = query;
        let Some(exchange) = self.in_flight.take_exchange(slot, serial) else {
            return;
        };
        let Some(Lookup { request, .. }) = self.in_flight.get(slot) else {
            return;
        };
        let expected = Expected {
            question: request.question(),
            flags: request.flags,
            subnet: self.subnet.as_ref(),
            limits: &limits(self.options.limits, &exchange.sent, request),
        };
        let status = exchange.check_message(message, &expected, &mut self.answers, &self.counters);
        if exchange.sampled {
            sample_response(&self.tap, &self.upstreams, &exchange.sent, message, now);
        }
        self.handle_status(slot, now, exchange.sent, status);
    }

    /// Closes a connection that has failed. The current queries that were outstanding on it are sent on another one,
    /// once each.
    #[cold]
    fn lose_connection(&mut self, number: usize, now: Instant) {
        let Lost {
            upstream,
            problem,
            awaited,
            was_established,
        } = self.tcp.lose(number, now);
        if let Some(problem) = problem
            && let Some((address, problem)) = self.upstreams.tls_failed(upstream, problem)
        {
            self.log.tls(upstream, address, problem, now);
        }
        for Outstanding { slot, serial, .. } in awaited {
            let Some(exchange) = self.in_flight.take_exchange(slot, serial) else {
                continue;
            };
            let mut sent = exchange.sent;
            let lookup = self.in_flight.get(slot);
            let is_current = lookup.is_some_and(|lookup| lookup.current == serial);
            if was_established && is_current && !exchange.moved {
                self.counters.moved.add(1);
                // Its deadline stays.
                sent.at = now;
                if let Err(error) = self.open(slot, &mut sent, true) {
                    self.send_failed(slot, now, sent, error);
                }
            } else {
                self.handle_status(slot, now, sent, ExchangeStatus::Unreachable);
            }
        }
    }
}
