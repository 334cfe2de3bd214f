//! What a message gets, and what becomes of it when that takes time.

use std::{net::IpAddr, sync::Arc};

use super::{
    Parts, SocketCounters,
    pending::{Origin, Pending, Waiting},
};
use crate::{
    answer::{Core, Verdict},
    clock::Clock,
    dns::{Answer, Malformed, Query, reply::Reply},
    forward::{Handle, MAX_REFRESHES, Mailbox, Outcome, Request},
    maintenance::{Maintenance, Status},
};

/// The answer core, the way to the forwarder and back, and the queries in between.
pub(super) struct Service {
    core: Core,
    maintenance: Maintenance,
    forwarder: Handle,
    pub(super) mailbox: Arc<Mailbox>,
    front: u16,
    clock: Clock,
    pending: Pending,
    /// Refreshes under way.
    refreshing: usize,
    counters: Arc<SocketCounters>,
    /// The answer that was learnt last. The requests that shared an upstream query come back one
    /// behind the other; it is kept once.
    learnt: Option<Arc<Answer>>,
}

impl Service {
    pub(super) fn new(parts: Parts, clock: Clock, counters: Arc<SocketCounters>) -> Self {
        let Parts {
            core,
            maintenance,
            forwarder,
            mailbox,
            front,
            max_pending,
            on_exit: _,
        } = parts;
        Self {
            core,
            maintenance,
            forwarder,
            mailbox,
            front,
            clock,
            pending: Pending::new(max_pending),
            refreshing: 0,
            counters,
            learnt: None,
        }
    }

    /// Has the kernel find the cache's memory now.
    pub(super) fn populate(&self) {
        self.core.populate();
    }

    /// Begins a round of the loop.
    pub(super) fn begin(&mut self) {
        self.core.begin(self.clock.now());
    }

    /// Executes a step of the cache's maintenance.
    pub(super) fn maintain(&mut self) -> Status {
        if self.maintenance.has_work() {
            let maintenance = &mut self.maintenance;
            self.core
                .maintain(|cache, now| maintenance.step(cache, now, |_| ()))
        } else {
            Status::Idle
        }
    }

    /// Ends a round of the loop: what was asked in it goes out.
    pub(super) fn end(&mut self) {
        self.forwarder.flush();
        self.learnt = None;
        self.counters.pending.set(self.pending.len() as u64);
    }

    /// Reads a message, and starts to fetch what [`answer`](Self::answer) will look at first.
    pub(super) fn read(&self, msg: &[u8]) -> Result<Query, Malformed> {
        let query = self.core.read(msg)?;
        self.core.prefetch(&query);
        Ok(query)
    }

    /// Starts to fetch what [`answer`](Self::answer) will look at next.
    pub(super) fn prefetch_entry(&self, query: &Query) {
        self.core.prefetch_entry(query);
    }

    /// Answers the message in `buf`, as it was read, over it. After a [`Verdict::Miss`] the reply
    /// comes from [`outcome`](Self::outcome).
    pub(super) fn answer(
        &mut self,
        query: &Result<Query, Malformed>,
        buf: &mut [u8],
        origin: Origin,
    ) -> Verdict {
        let client = origin.client();
        let query = match query {
            Ok(query) => query,
            Err(malformed) => return self.core.reject(*malformed, buf, client),
        };
        let verdict = self.core.answer(query, buf, client);
        if self.core.take_refresh(query, buf) {
            self.refresh(query, buf, client.address());
        }
        match verdict {
            Verdict::Miss if self.forward(query, buf, origin) => Verdict::Miss,
            Verdict::Miss => self.core.overload(query, buf, client),
            verdict => verdict,
        }
    }

    /// Has the forwarder get an answer anew, if it has not too much to do.
    #[cold]
    fn refresh(&mut self, query: &Query, msg: &[u8], client: IpAddr) {
        if self.refreshing < MAX_REFRESHES
            && let Some(request) = Request::refresh(query, msg, client, self.front)
            && self.forwarder.submit(request).is_ok()
        {
            self.refreshing += 1;
        }
    }

    /// Hands a query to the forwarder, if there is room for it here and there.
    fn forward(&mut self, query: &Query, msg: &[u8], origin: Origin) -> bool {
        let client = origin.client().address();
        let Some(token) = self.pending.next_token() else {
            self.counters.overflow.add(1);
            return false;
        };
        let Some(request) = Request::new(query, msg, client, self.front, token) else {
            return false;
        };
        let taken = self.forwarder.submit(request).is_ok();
        if taken {
            self.pending.add(Waiting::new(query, msg, origin));
        }
        taken
    }

    /// Writes the reply to a query that waited into `buf`: the query, and the reply's length, 0 if
    /// there is none to send.
    pub(super) fn outcome(&mut self, outcome: Outcome, buf: &mut [u8]) -> Option<(Waiting, usize)> {
        if let Some(request) = outcome.refreshed {
            self.refreshing -= 1;
            self.core.relearn(&request.key(), &outcome.answer);
            return None;
        }
        let waiting = self.pending.remove(outcome.token)?;
        waiting.restore(buf);
        let client = waiting.origin.client();
        let query = &waiting.query;
        let verdict = self.core.complete(query, buf, client, &outcome.answer);
        let known = self.learnt.as_ref();
        if !known.is_some_and(|last| Arc::ptr_eq(last, &outcome.answer)) {
            self.core.learn(query, buf, &outcome.answer);
            self.learnt = Some(outcome.answer);
        }
        match verdict {
            Verdict::Reply(Reply { len, .. }) => Some((waiting, len)),
            Verdict::Drop | Verdict::Miss => Some((waiting, 0)),
        }
    }

    /// Cuts the reply to a query, which stands in `buf` but is too large for the path, to one that
    /// tells the client to ask over TCP. Its length.
    pub(super) fn truncate(&mut self, query: &Query, buf: &mut [u8]) -> Option<usize> {
        self.core.truncate(query, buf)
    }
}
