//! The engine: batches in, replies and misses out.

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use super::{
    BATCH, Messages,
    batch::{Batch, PREFETCH_DISTANCE, Read},
    sampler::Sampler,
    waiting::{Waiter, Waiting},
};
use crate::{
    answer::{Client, Core, Hint, Verdict},
    clock::{Clock, Now},
    dns::{Answer, Query},
    forward::{Handle, MAX_REFRESHES, Mailbox, Outcome, Request},
    latency::FrontLatency,
    maintenance::{FrontState, Maintenance, Status, ThreadState},
    tap::Tap,
    tier::Nominator,
};

/// What an engine owns.
#[derive(Debug)]
pub struct Resources {
    /// The answer core.
    pub core: Core,
    /// Of the core's cache. It rings `mailbox`.
    pub maintenance: Maintenance,
    /// Where misses go.
    pub forwarder: Handle,
    /// Where their outcomes arrive. Its capacity bounds the queries that wait.
    pub mailbox: Arc<Mailbox>,
    /// The position of `mailbox` among those that the forwarder was created with.
    pub front: u16,
    /// The clock of all fronts.
    pub clock: Clock,
    /// How long replies take. This engine alone records it.
    pub latency: Arc<FrontLatency>,
    /// Samples queries.
    pub tap: Tap,
}

/// The engine of one front. `P` is what its transport keeps of a waiting query
/// ([`Messages::Parked`]).
#[derive(Debug)]
pub struct Engine<P> {
    core: Core,
    maintenance: Maintenance,
    forwarder: Handle,
    mailbox: Arc<Mailbox>,
    front: u16,
    clock: Clock,
    latency: Arc<FrontLatency>,
    /// When the batch was received.
    received: Instant,
    /// The core's count of hits when replies were last sent.
    hits_sent: u64,
    /// When the queries were received that were completed and whose replies are to be sent.
    completed: Vec<Instant>,
    sampler: Sampler,
    waiting: Waiting<P>,
    /// Refreshes under way.
    refreshing: usize,
    /// The answer of this round that was inserted last. Queries that shared an upstream query have
    /// outcomes one after another with the same answer, which is inserted once.
    inserted: Option<Arc<Answer>>,
    /// Misses of this batch that could not be handed over.
    overflowed: u32,
}

/// Creation and state.
impl<P> Engine<P> {
    /// An engine without waiting queries.
    pub fn new(resources: Resources) -> Self {
        let Resources {
            core,
            maintenance,
            forwarder,
            mailbox,
            front,
            clock,
            latency,
            tap,
        } = resources;
        Self {
            waiting: Waiting::new(mailbox.capacity()),
            received: Instant::now(),
            // A worker that was started again continues the counts.
            hits_sent: core.hits(),
            completed: Vec::with_capacity(BATCH),
            latency,
            core,
            maintenance,
            forwarder,
            mailbox,
            front,
            clock,
            sampler: Sampler::new(tap),
            refreshing: 0,
            inserted: None,
            overflowed: 0,
        }
    }

    /// Nominates popular answers for the hot tier. To be called before the first round.
    pub fn nominate_to(&mut self, nominator: Nominator) {
        self.sampler.nominate_to(nominator);
    }

    /// Queries that wait for the forwarder now.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Queries more that may wait for the forwarder without others being shed, with SERVFAIL, for them.
    pub(crate) fn room(&self) -> usize {
        self.mailbox
            .sheds_above()
            .saturating_sub(self.outstanding())
    }

    /// Requests, refreshes included, whose outcomes have yet to arrive.
    pub(crate) fn outstanding(&self) -> usize {
        self.waiting.len() + self.refreshing
    }

    /// Becomes readable when outcomes arrive while the front sleeps, or maintenance commands.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.mailbox.as_fd()
    }

    /// To be called before waiting for [`event`](Self::event), and after every wait
    /// [`awake`](Self::awake). Returns whether the front may wait: else outcomes have arrived.
    #[inline]
    pub fn prepare_to_sleep(&self) -> bool {
        self.mailbox.prepare_to_sleep()
    }

    /// The front is awake, and [completes](Self::complete) all that has arrived before it sleeps again.
    #[inline]
    pub fn awake(&self) {
        self.mailbox.awake();
    }

    /// Makes [`event`](Self::event) unreadable until something arrives. To be called before, not
    /// after, [`complete`](Self::complete).
    pub fn silence(&self) {
        self.mailbox.clear_wakeup();
    }
}

/// A round.
impl<P> Engine<P> {
    /// Begins a round: everything until the next one happens now, and a batch that is taken next is
    /// received now.
    #[inline]
    pub fn begin(&mut self) -> Now {
        self.received = Instant::now();
        let now = self.clock.at(self.received);
        self.core.begin(now);
        now
    }

    /// A batch has been received, later than at the beginning of the round.
    #[inline]
    pub(crate) fn begin_batch(&mut self) {
        self.received = Instant::now();
    }

    /// Whether the access list drops a client, which is then counted.
    pub(crate) fn drops(&self, client: IpAddr) -> bool {
        self.core.drops(client)
    }

    /// Reads a message, and prefetches the bucket of its key. The message and the result go to a
    /// [`Batch`], whether or not it is a query: [`answer`](Self::answer) replies to what cannot be read, or drops it.
    #[inline(always)]
    pub fn read(&self, octets: &[u8]) -> Read {
        let query = self.core.read(octets);
        if let Ok(query) = &query {
            self.core.prefetch(query);
        }
        Read {
            query,
            hint: Hint::default(),
        }
    }

    /// Answers a batch and empties it.
    #[inline(always)]
    pub fn answer<M>(&mut self, batch: &mut Batch<M::Message>, messages: &mut M)
    where
        M: Messages<Parked = P>,
    {
        for next in batch.read.iter_mut().take(PREFETCH_DISTANCE) {
            next.prefetch(&self.core);
        }
        for (at, message) in batch.messages.drain(..).enumerate() {
            if let Some(next) = batch.read.get_mut(at + PREFETCH_DISTANCE) {
                next.prefetch(&self.core);
            }
            // In place: moving a query that was just written causes a store-forwarding stall.
            let Some(read) = batch.read.get(at) else {
                break;
            };
            if self.sampler.is_due() {
                self.answer_sampled(message, read, messages);
            } else {
                self.answer_message(message, read, messages, |engine, room, client| {
                    engine.answer_one(read, room, client)
                });
            }
        }
        batch.read.clear();
        for _ in 0..std::mem::take(&mut self.overflowed) {
            messages.count_overflow();
        }
    }

    /// Answers a message of which a sample is due. Apart, so that the others keep nothing for it.
    #[cold]
    #[inline(never)]
    fn answer_sampled<M>(&mut self, message: M::Message, read: &Read, messages: &mut M)
    where
        M: Messages<Parked = P>,
    {
        let len = messages.received_len(&message);
        self.answer_message(message, read, messages, |engine, room, client| {
            let octets = room.get(..len).unwrap_or_default();
            engine
                .sampler
                .begin(&engine.core, octets, client, engine.received);
            let verdict = engine.answer_one(read, room, client);
            engine.sampler.end(&engine.core, room, verdict);
            if let (Verdict::Reply { .. }, Ok(query)) = (verdict, &read.query) {
                engine.sampler.nominate(&engine.core, query, room);
            }
            verdict
        });
    }

    /// Has `answer` write the reply, and replies, waits for the forwarder, or discards the message.
    #[inline(always)]
    fn answer_message<M>(
        &mut self,
        mut message: M::Message,
        read: &Read,
        messages: &mut M,
        answer: impl FnOnce(&mut Self, &mut [u8], Client) -> Verdict,
    ) where
        M: Messages<Parked = P>,
    {
        let verdict = messages.edit(&mut message, |room, client| answer(self, room, client));
        match (verdict, &read.query) {
            (Verdict::Reply { .. }, query) => messages.reply(message, query.as_ref().ok()),
            (Verdict::Miss, Ok(query)) => self.park(message, query, messages),
            (Verdict::Drop | Verdict::Miss, _) => messages.discard(message),
        }
    }

    #[inline(always)]
    fn answer_one(&mut self, read: &Read, buf: &mut [u8], client: Client) -> Verdict {
        match &read.query {
            Ok(query) => self.lookup(read.hint, query, buf, client),
            Err(malformed) => self.core.reject(*malformed, buf, client),
        }
    }

    /// Answers a query from the cache, and starts a refresh of the answer if one is due. A miss is handed
    /// to the forwarder before the message is [parked](Messages::park).
    #[inline(always)]
    fn lookup(&mut self, hint: Hint, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        let verdict = self.core.answer_at(hint, query, buf, client);
        match verdict {
            Verdict::Reply { refresh: true, .. } => self.refresh(query, buf, client.address()),
            Verdict::Miss => return self.forward(query, buf, client),
            _ => {}
        }
        verdict
    }

    /// Has the forwarder refresh an answer, unless too many refreshes are under way. The question
    /// is read from the reply.
    #[cold]
    fn refresh(&mut self, query: &Query, reply: &[u8], client: IpAddr) {
        if self.refreshing < MAX_REFRESHES
            && let Some(request) = Request::refresh(query, reply, client, self.front)
            && self.forwarder.submit(request).is_ok()
        {
            self.refreshing += 1;
        }
    }

    /// Hands a miss to the forwarder, under the token that [`park`](Self::park) inserts its query with;
    /// replies SERVFAIL if it cannot be handed over.
    #[inline(never)]
    fn forward(&mut self, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        let request = (self.waiting.next_token())
            .and_then(|token| Request::new(query, buf, client.address(), self.front, token));
        if request.is_some_and(|request| self.forwarder.submit(request).is_ok()) {
            return Verdict::Miss;
        }
        self.overflowed += 1;
        self.core.reply_overloaded(query, buf, client)
    }

    /// Keeps the query of a miss that was handed over.
    #[inline(never)]
    fn park<M>(&mut self, message: M::Message, query: &Query, messages: &mut M)
    where
        M: Messages<Parked = P>,
    {
        let (query, parked) = (*query, messages.park(message, query));
        let sample = self.sampler.park();
        self.waiting.insert(Waiter {
            received: self.received,
            query,
            parked,
            sample,
        });
    }

    /// Replies to queries whose outcomes have arrived, [`BATCH`] at most. Returns the number of
    /// outcomes.
    pub fn complete<M>(&mut self, messages: &mut M) -> usize
    where
        M: Messages<Parked = P>,
    {
        self.completed.clear();
        let mut completed = 0;
        while completed < BATCH
            && let Some(outcome) = self.mailbox.take()
        {
            completed += 1;
            self.complete_one(outcome, messages);
        }
        completed
    }

    fn complete_one<M>(&mut self, outcome: Outcome, messages: &mut M)
    where
        M: Messages<Parked = P>,
    {
        let Outcome {
            token,
            refreshed,
            generation,
            answer,
        } = outcome;
        // Of earlier routes the queries that wait get an answer, and later ones do not.
        let may_be_cached = self.core.takes_answers_of(generation);
        if let Some(request) = refreshed {
            self.refreshing -= 1;
            if may_be_cached {
                self.core.insert_refreshed(&request.key(), &answer);
            }
            return;
        }
        let waiter = self.waiting.remove(token);
        let Some(Waiter {
            received,
            query,
            parked,
            mut sample,
        }) = waiter
        else {
            return;
        };
        let last = self.inserted.as_ref();
        let is_new = last.is_none_or(|last| !Arc::ptr_eq(last, &answer));
        let mut message = messages.resume(parked);
        let verdict = messages.edit(&mut message, |buf, client| {
            // The reply first: a client waits for it, and nothing waits for the insertion.
            let verdict = self.core.complete(&query, buf, client, &answer);
            if let Some(sample) = sample.take() {
                self.sampler.complete(sample, buf, verdict);
            }
            if is_new && may_be_cached {
                self.core.insert(&query, buf, &answer);
                self.inserted = Some(Arc::clone(&answer));
            }
            verdict
        });
        if let Some(sample) = sample {
            // The message is unusable. The sample goes back to its ring, which allocates no others.
            self.sampler.complete(sample, &[], Verdict::Drop);
        }
        match verdict {
            Verdict::Reply { .. } => {
                messages.reply(message, Some(&query));
                self.completed.push(received);
            }
            Verdict::Drop | Verdict::Miss => messages.discard(message),
        }
    }

    /// Records the latency of the replies that have been sent by now: of the batch that was answered, and of the queries
    /// that were completed. Reads the clock if there are any.
    ///
    /// To be called after each batch, and after each [`complete`](Self::complete), once the replies are sent.
    #[inline]
    pub fn sent(&mut self) {
        let all_hits = self.core.hits();
        let hits = all_hits.wrapping_sub(self.hits_sent);
        if hits == 0 && self.completed.is_empty() {
            return;
        }
        let now = Instant::now();
        if hits > 0 {
            self.hits_sent = all_hits;
            let took = now.saturating_duration_since(self.received);
            self.latency.hits.record(took, hits);
        }
        for received in self.completed.drain(..) {
            let took = now.saturating_duration_since(received);
            self.latency.misses.record(took, 1);
        }
    }

    /// Ends a round: wakes the forwarder if it was handed something, and holds none of its answers.
    #[inline]
    pub fn end(&mut self) {
        self.inserted = None;
        self.forwarder.flush();
    }

    /// Answers inquiries, and executes a step of the cache's maintenance, if there are any. The status says when the next
    /// one is due.
    #[inline]
    pub(crate) fn maintain(&mut self) -> Status {
        if !self.maintenance.has_work() {
            return Status::Idle;
        }
        while let Some(inquiry) = self.maintenance.next_inquiry() {
            let client = inquiry.subject.client;
            let allowance = client.and_then(|client| self.core.allowance(client));
            inquiry.answer(ThreadState::Front(FrontState { allowance }));
        }
        let maintenance = &mut self.maintenance;
        self.core
            .maintain(|cache, now| maintenance.step(cache, now, |_| ()))
    }

    /// Truncates the reply to `query` in `buf`, which is too large for the path: the client then asks
    /// over TCP. Returns the new length.
    pub(crate) fn truncate(&mut self, query: &Query, buf: &mut [u8]) -> Option<usize> {
        self.core.truncate(query, buf)
    }
}
