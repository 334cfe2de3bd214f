//! Queries and responses over the connections to upstreams.

use std::{io, mem, time::Instant};

use mio::Events;

use super::{
    Shard,
    attempts::{limits, sample_response},
    connection_number, connection_token,
};
use crate::{
    dns::{header::field, options, u16_at},
    forward::{
        exchange::{Destination, ExchangeStatus, Expected, Sent},
        inflight::Lookup,
        tcp::{Framing, Lost, Pending, Received},
        udp::Outstanding,
        upstreams::Reason,
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
            if let Err(error) = self.tcp.flush(number) {
                // Responses may have arrived before.
                self.read_connection(number, Some(error), now);
            }
        }
    }

    /// Writes what a connection could not take before, and reads what has arrived.
    pub(super) fn connection_ready(&mut self, number: usize, now: Instant) {
        let failed = self.tcp.flush(number).err();
        self.read_connection(number, failed, now);
    }

    /// Acknowledges what has arrived on the connections that had these events, where more is awaited. Queries that were sent
    /// meanwhile have done so.
    pub(super) fn acknowledge(&mut self, events: &Events) {
        for number in events
            .iter()
            .filter_map(|event| connection_number(event.token()))
        {
            self.tcp.acknowledge(number);
        }
    }

    /// Reads what has arrived on a connection, to which writing may have failed. That is bounded: a response that belongs to
    /// no query ends the connection.
    fn read_connection(&mut self, number: usize, failed: Option<io::Error>, now: Instant) {
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
                Ok(Received::Nothing) => break failed.map_or(Ok(()), |error| Err(Some(error))),
                // The kernel reports a cause once: after a refused connection, only that it is closed.
                Err(error) => break Err(Some(failed.unwrap_or(error))),
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
        let Some(lookup @ Lookup { request, route, .. }) = self.in_flight.get(slot) else {
            return;
        };
        let expected = Expected {
            question: lookup.question(),
            flags: request.flags,
            subnet: self.subnet.as_ref(),
            limits: &limits(self.routes.limits(*route), &exchange.sent, request),
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
        let opened = self.tcp.opened(number);
        let Lost {
            upstream,
            problem,
            awaited,
            was_established,
            was_alone,
        } = self.tcp.lose(number, error, now);
        // Others may have been accepted meanwhile.
        let others_work = opened.is_some_and(|then| self.upstreams.heard_since(upstream, then));
        let reason = match problem {
            Some(problem) => Reason::Tls(problem),
            None => error.map_or(Reason::Unreachable, Reason::from),
        };
        // Also if no look-up waits for it any more.
        if !was_established && !others_work && self.upstreams.is_stream(upstream) {
            self.set_aside(upstream, reason.clone(), now);
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
                let status = ExchangeStatus::Unreachable(reason.clone());
                self.handle_status(slot, now, sent, status);
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
        let address = self.upstreams.address(upstream);
        let apart = address.and_then(|address| {
            let to = Destination {
                registry: self.poll.registry(),
                token: connection_token,
                upstream,
                address,
                now,
            };
            self.tcp.open_apart(to).ok()
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
