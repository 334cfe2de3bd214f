//! What a message gets, and what becomes of it when that takes time.

use std::sync::Arc;

use super::{
    SocketCounters,
    pending::{Client, Pending, Waiting},
};
use crate::{
    answer::{Core, Transport, Verdict},
    clock::Clock,
    dns::{Answer, Query, header::rcode},
    forward::{Handle, Mailbox, Outcome, Request},
};

/// The answer core, the way to the forwarder and back, and the queries in between.
pub(super) struct Service {
    core: Core,
    forwarder: Handle,
    pub(super) mailbox: Arc<Mailbox>,
    front: u16,
    clock: Clock,
    /// The time of this round of the loop, in seconds.
    now: u32,
    pending: Pending,
    counters: Arc<SocketCounters>,
    /// The answer that was learnt last. The requests that shared an upstream query come back one
    /// behind the other; it is kept once.
    learnt: Option<Arc<Answer>>,
}

impl Service {
    pub(super) fn new(
        core: Core,
        forwarder: Handle,
        mailbox: Arc<Mailbox>,
        front: u16,
        max_pending: usize,
        clock: Clock,
        counters: Arc<SocketCounters>,
    ) -> Self {
        Self {
            core,
            forwarder,
            mailbox,
            front,
            now: clock.seconds(),
            clock,
            pending: Pending::new(max_pending),
            counters,
            learnt: None,
        }
    }

    /// Begins a round of the loop.
    pub(super) fn begin(&mut self) {
        self.now = self.clock.seconds();
    }

    /// Ends a round of the loop: what was asked in it goes out.
    pub(super) fn end(&mut self) {
        self.forwarder.flush();
        self.learnt = None;
        self.counters.pending.set(self.pending.len() as u64);
    }

    /// Answers the message in the first `len` octets of `buf`, over it. After a
    /// [`Verdict::Miss`] the reply comes from [`outcome`](Self::outcome).
    pub(super) fn ask(
        &mut self,
        buf: &mut [u8],
        len: usize,
        transport: Transport,
        client: Client,
    ) -> Verdict {
        let query = match self.core.read(buf.get(..len).unwrap_or_default()) {
            Ok(query) => query,
            Err(malformed) => return self.core.reject(malformed, buf, transport),
        };
        match self.core.answer(&query, buf, transport, self.now) {
            Verdict::Miss if self.forward(&query, buf, client) => Verdict::Miss,
            Verdict::Miss => self.core.error(&query, buf, transport, rcode::SERVFAIL),
            verdict => verdict,
        }
    }

    /// Hands a query to the forwarder, if there is room for it here and there.
    fn forward(&mut self, query: &Query, msg: &[u8], client: Client) -> bool {
        let Some(token) = self.pending.next_token() else {
            self.counters.overflow.add(1);
            return false;
        };
        let Some(request) = Request::new(query, msg, self.front, token) else {
            return false;
        };
        let taken = self.forwarder.submit(request).is_ok();
        if taken {
            self.pending.add(Waiting::new(query, msg, client));
        }
        taken
    }

    /// Writes the reply to a query that waited into `buf`: whom it goes to, and its length, 0 if
    /// there is none to send.
    pub(super) fn outcome(&mut self, outcome: Outcome, buf: &mut [u8]) -> Option<(Client, usize)> {
        let waiting = self.pending.remove(outcome.token)?;
        waiting.restore(buf);
        let transport = match waiting.client {
            Client::Udp { path, .. } => Transport::Udp {
                source_port: path.peer.port(),
            },
            Client::Tcp { .. } => Transport::Tcp,
        };
        let query = &waiting.query;
        let verdict = self.core.complete(query, buf, transport, &outcome.answer);
        let known = self.learnt.as_ref();
        if !known.is_some_and(|last| Arc::ptr_eq(last, &outcome.answer)) {
            self.core.learn(query, buf, &outcome.answer, self.now);
            self.learnt = Some(outcome.answer);
        }
        match verdict {
            Verdict::Reply(len) => Some((waiting.client, len)),
            Verdict::Drop | Verdict::Miss => Some((waiting.client, 0)),
        }
    }
}
