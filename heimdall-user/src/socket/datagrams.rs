//! The datagrams of the socket front: received, answered and sent in batches.

use mio::{Interest, net::UdpSocket};
use nix::errno::Errno;

use super::{
    SocketCounters,
    batch::DatagramBatch,
    front::Loop,
    origin::{Message, Origin, Parked},
    path::Path,
    sockets::udp_token,
};
use crate::{
    dns::Query,
    front::{BATCH, Engine},
};

/// Batches taken from one socket before the next one is served.
const ROUNDS: usize = 4;

/// A batch of datagrams, and the queries that its replies belong to.
pub(super) struct Datagrams {
    pub(super) batch: DatagramBatch,
    /// By slot of the batch.
    queries: Box<[Option<Query>]>,
}

impl Datagrams {
    pub(super) fn new() -> Self {
        Self {
            batch: DatagramBatch::new(),
            queries: vec![None; BATCH].into(),
        }
    }

    /// The octets of the datagram in a slot, and the space for its reply.
    pub(super) fn buffer(&mut self, slot: usize) -> &mut [u8] {
        self.batch.buffer(slot)
    }

    /// Takes a slot for the reply to a query that has waited.
    pub(super) fn resume(&mut self, listener: usize, path: &Path) -> usize {
        self.batch.compose(listener, path.peer)
    }

    /// Queues the reply in a slot, of `len` octets.
    pub(super) fn reply(&mut self, slot: usize, len: usize, path: &Path, query: Option<&Query>) {
        if let Some(slot_query) = self.queries.get_mut(slot) {
            *slot_query = query.copied();
        }
        self.batch.reply(slot, len, path);
    }

    /// Sends the replies. One that is larger than its path's MTU is truncated, and the client asks
    /// again over TCP.
    pub(super) fn send(
        &mut self,
        sockets: &[UdpSocket],
        engine: &mut Engine<Parked>,
        counters: &SocketCounters,
    ) {
        let queries = &self.queries;
        let result = self.batch.send(sockets, |slot, buffer| {
            let query = queries.get(slot)?.as_ref()?;
            engine.truncate(query, buffer)
        });
        counters.udp_answered.add(result.sent as u64);
        counters.udp_send_failed.add(result.failed as u64);
    }
}

impl Loop {
    /// Answers the datagrams that a listener has.
    pub(super) fn datagrams(&mut self, listener: usize) {
        if self.take_datagrams(listener, ROUNDS) {
            return;
        }
        let sockets = &mut self.sockets;
        if let Some(socket) = sockets.udp.get_mut(listener)
            && let Err(error) =
                sockets
                    .registry
                    .reregister(socket, udp_token(listener), Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a UDP socket again");
        }
    }

    /// Answers what a listener has, up to so many batches. Whether that is all: epoll reports what comes later.
    pub(super) fn take_datagrams(&mut self, listener: usize, batches: usize) -> bool {
        for _ in 0..batches {
            let sockets = &mut self.sockets;
            let Some(socket) = sockets.udp.get(listener) else {
                return true;
            };
            match sockets.datagrams.batch.receive(socket, listener) {
                Ok(received) => {
                    sockets.counters.udp_received.add(received as u64);
                    self.answer_datagrams(listener);
                    if received < BATCH {
                        return true;
                    }
                }
                Err(Errno::EAGAIN) => return true,
                // An error concerns one datagram; the next may be fine.
                Err(_) => {}
            }
        }
        false
    }

    fn answer_datagrams(&mut self, listener: usize) {
        self.engine.begin_batch();
        let received = self.sockets.datagrams.batch.received().enumerate();
        for (slot, (path, octets)) in received {
            // A sender without an address cannot be replied to.
            let Some(path) = path else { continue };
            let origin = Origin::Udp { listener, path };
            let query = self.engine.read(octets);
            let len = octets.len();
            self.batch.push(Message { origin, slot, len }, query);
        }
        self.engine.answer(&mut self.batch, &mut self.sockets);
        self.send_datagrams();
        self.engine.sent();
    }

    /// Sends the datagrams that are replies.
    pub(super) fn send_datagrams(&mut self) {
        let sockets = &mut self.sockets;
        sockets
            .datagrams
            .send(&sockets.udp, &mut self.engine, &sockets.counters);
    }
}
