//! Queries and responses over the connections to upstreams.

use std::{io, mem, time::Instant};

use super::{
    Shard,
    attempts::{limits, sample_response},
    connection_token,
};
use crate::{
    dns::{header::field, options, u16_at},
    forward::{
        exchange::{ExchangeStatus, Expected, Sent},
        inflight::Lookup,
        tcp::{Framing, Lost, Pending, Received},
        udp::Outstanding,
    },
};

/// A connection brought what is no response to a query on it.
struct BadStream;

/// Reads in a row that bring no whole message before a connection is closed. The longest message takes 17 of TLS
/// records; records without content would never end.
const MAX_EMPTY_READS: u32 = 256;

impl Shard {
    /// Sends the queries that wait, those of a connection with one system call.
    pub(super) fn send_on_connections(&mut self, now: Instant) {
        while let Some(number) = self.tcp.next_queued() {
            if self.tcp.flush(number).is_err() {
                // Which fails again. Responses may have arrived before.
                self.connection_ready(number, now);
            }
        }
    }

    /// Writes what a connection could not take before, and reads what has arrived. That is bounded: a response that
    /// belongs to no query ends the connection.
    pub(super) fn connection_ready(&mut self, number: usize, now: Instant) {
        let written = self.tcp.flush(number);
        let mut scratch = mem::take(&mut self.scratch);
        let mut empty = 0;
        let end = loop {
            let received = self.tcp.read(number, &mut scratch);
            // Also if it has failed: responses may have come before.
            let mut input = self.tcp.take_input(number);
            let handled = self.handle_messages(number, &mut input, now);
            self.tcp.put_back(number, input);
            empty = match handled {
                Ok(0) => empty + 1,
                Ok(_) => 0,
                Err(BadStream) => break Err(None),
            };
            match received {
                Ok(Received::More) if empty >= MAX_EMPTY_READS => break Err(None),
                Ok(Received::More) => {}
                Ok(Received::Nothing) => break written.map_err(Some),
                Err(error) => break Err(Some(error)),
            }
        };
        self.scratch = scratch;
        if let Err(error) = end {
            self.lose_connection(number, error.as_ref(), now);
        }
    }

    /// Takes the messages that have arrived whole. Gives their number.
    fn handle_messages(
        &mut self,
        number: usize,
        input: &mut Framing,
        now: Instant,
    ) -> Result<usize, BadStream> {
        let mut messages = 0;
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
            messages += 1;
        }
        Ok(messages)
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

    /// Closes a connection that has failed, with an error if that is not for what it brought. The current queries that
    /// were outstanding on it are sent again, apart from others, half of them on each of two new connections: one may be
    /// the cause. A query that was alone on its second connection is.
    #[cold]
    fn lose_connection(&mut self, number: usize, error: Option<&io::Error>, now: Instant) {
        let Lost {
            upstream,
            problem,
            awaited,
            was_established,
            was_alone,
        } = self.tcp.lose(number, error, now);
        if let Some(problem) = problem
            && let Some((address, problem)) = self.upstreams.tls_failed(upstream, problem)
        {
            self.log.tls(upstream, address, problem, now);
        }
        let mut again = Vec::new();
        for Outstanding { slot, serial, .. } in awaited {
            let Some(exchange) = self.in_flight.take_exchange(slot, serial) else {
                continue;
            };
            let sent = exchange.sent;
            let lookup = self.in_flight.get(slot);
            let is_current = lookup.is_some_and(|lookup| lookup.current == serial);
            if !was_established {
                self.handle_status(slot, now, sent, ExchangeStatus::Unreachable);
            } else if !is_current {
                // It was counted when it timed out; that an old connection ends says nothing more.
            } else if exchange.moved && was_alone {
                self.handle_status(slot, now, sent, ExchangeStatus::Broken);
            } else {
                again.push((slot, sent));
            }
        }
        for group in again.chunks(self.tcp.group(upstream, again.len(), now)) {
            self.send_again(upstream, group, now);
        }
    }

    /// Sends queries again on a new connection, or on any one if there may be no more. Their deadlines stay.
    fn send_again(&mut self, upstream: usize, queries: &[(usize, Sent)], now: Instant) {
        let registry = self.poll.registry();
        let address = self.upstreams.address(upstream);
        let apart = address.and_then(|address| {
            let opened = self
                .tcp
                .open_apart(registry, connection_token, upstream, address, now);
            opened.ok()
        });
        for (slot, sent) in queries {
            self.counters.moved.add(1);
            let mut sent = Sent { at: now, ..*sent };
            if let Err(error) = self.open(*slot, &mut sent, true, apart) {
                self.send_failed(*slot, now, sent, error);
            }
        }
    }
}
