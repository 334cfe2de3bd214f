//! The core: its state, reading, completion, and replies that have no answer. The steps of an answer
//! are in `steps`.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    access::Decision,
    admission::Admission,
    client::Client,
    policy::Policy,
    steps::{is_refreshable, key, question, store},
    writer::Writer,
};
use crate::{
    cache::{Cache, Hint, Key, Popular},
    clock::Now,
    dns::{
        Answer, DnsPacketView, Malformed, NameHasher, Query,
        edns::ede,
        header::rcode,
        reply::{self, Reply, ReplySettings},
    },
    stats::{AnswerCounters, DropCounters},
};

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the reply at the start of the buffer.
    Reply {
        /// What the buffer holds.
        reply: Reply,
        /// The answer is popular and about to expire, and the caller should have the forwarder refresh
        /// it, for `Core::insert_refreshed`. True for one hit of an answer.
        refresh: bool,
    },
    /// Send nothing. It has been counted.
    Drop,
    /// Ask the forwarder.
    Miss,
}

// One is kept for each message of a batch.
const _: () = assert!(size_of::<Verdict>() <= 24);

impl Verdict {
    /// Send a reply, and nothing else is to be done.
    pub(super) fn reply(reply: Reply) -> Self {
        Self::Reply {
            reply,
            refresh: false,
        }
    }
}

/// The answer core of one thread.
#[derive(Debug)]
pub struct Core {
    pub(super) cache: Cache,
    hasher: NameHasher,
    pub(super) admission: Admission,
    pub(super) writer: Writer,
    shared_policy: Arc<ArcSwap<Policy>>,
    pub(super) now: Now,
}

/// Creation, and what comes before a batch.
impl Core {
    /// A core with its own cache. All cores of a process share `hasher`, so that a key hashes
    /// alike in every thread, and `policy`, which may be replaced while they run.
    pub fn new(
        cache: Cache,
        hasher: NameHasher,
        server: ReplySettings,
        policy: Arc<ArcSwap<Policy>>,
        counters: Arc<AnswerCounters>,
        drops: Arc<DropCounters>,
    ) -> Self {
        let current = policy.load_full();
        Self {
            cache,
            hasher,
            admission: Admission::new(&current),
            writer: Writer {
                policy: current,
                server,
                counters,
                drops,
            },
            shared_policy: policy,
            now: Now::default(),
        }
    }

    /// What it counts.
    pub(crate) fn counters(&self) -> &AnswerCounters {
        &self.writer.counters
    }

    /// Begins a batch: `now` is the time of everything until the next one. Takes a new policy if there
    /// is one.
    #[inline]
    pub fn begin(&mut self, now: Now) {
        if now.seconds != self.now.seconds {
            let elapsed = now.seconds.wrapping_sub(self.now.seconds);
            self.admission.begin_second(elapsed);
        }
        self.now = now;
        if !self.has_shared_policy() {
            self.load_policy();
        }
    }

    /// Queries answered from the cache, by all cores that have had these counters.
    #[inline]
    pub(crate) fn hits(&self) -> u64 {
        self.writer.counters.hits.get()
    }

    /// The second of the batch.
    pub(crate) fn seconds(&self) -> u32 {
        self.now.seconds
    }

    /// The key of a query that was just answered, and its answer if that is popular. `None`, too, if the policy has been
    /// replaced: what the cache holds may be outdated. `msg` is the query, or its reply.
    #[cold]
    pub(crate) fn popular<'a>(
        &'a self,
        query: &Query,
        msg: &'a [u8],
    ) -> Option<(Key<'a>, Popular<'a>)> {
        if !self.has_shared_policy() {
            return None;
        }
        let key = key(query, msg)?;
        Some((key, self.cache.get_popular(&key, self.now.seconds)?))
    }

    /// Whether its policy is the shared one.
    #[inline(always)]
    fn has_shared_policy(&self) -> bool {
        Arc::ptr_eq(&self.shared_policy.load(), &self.writer.policy)
    }

    #[cold]
    fn load_policy(&mut self) {
        let policy = self.shared_policy.load_full();
        self.admission.set_policy(&self.writer.policy, &policy);
        self.writer.policy = policy;
        self.cache.invalidate(self.now.seconds);
    }

    /// Whether the access list drops a client, which is then counted: for a front that can leave a client's connection
    /// before there is a query.
    pub(crate) fn drops(&self, client: IpAddr) -> bool {
        let drops = self.writer.policy.access.decide(client) == Decision::Drop;
        self.writer.drops.access.add(u64::from(drops));
        drops
    }

    /// Populates the cache's memory, on the caller's NUMA node.
    pub fn populate(&mut self) {
        self.cache.populate();
    }

    /// The replies that a client's prefix may get now; nothing is taken from its allowance. `None`: there is no
    /// limit for it.
    pub(crate) fn allowance(&self, client: IpAddr) -> Option<u16> {
        self.admission.allowance(client, self.now)
    }

    /// Maintains the cache: calls `work` with it and the seconds of [`begin`](Self::begin), and
    /// updates the gauge of entries.
    #[cold]
    pub(crate) fn maintain<T>(&mut self, work: impl FnOnce(&mut Cache, u32) -> T) -> T {
        let result = work(&mut self.cache, self.now.seconds);
        self.writer.counters.cache_entries.set(self.cache.entries());
        result
    }
}

/// Reading a batch.
impl Core {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it, for [`reject`](Self::reject).
    #[inline(always)]
    pub fn read(&self, msg: &[u8]) -> Result<Query, Malformed> {
        match DnsPacketView::parse_plain(msg) {
            Some(view) => Ok(Query::new(&view, &self.hasher)),
            None => self.read_slow(msg),
        }
    }

    #[inline(never)]
    fn read_slow(&self, msg: &[u8]) -> Result<Query, Malformed> {
        let view = DnsPacketView::parse(msg)?;
        Ok(Query::new(&view, &self.hasher))
    }

    /// Prefetches the bucket that [`answer`](Self::answer) reads first.
    #[inline(always)]
    pub fn prefetch(&self, query: &Query) {
        self.cache.prefetch(query.hash);
    }

    /// Prefetches the entry that [`answer`](Self::answer) reads next, once
    /// [`prefetch`](Self::prefetch) has fetched the bucket that has its position. The position
    /// is the hint for [`answer_at`](Self::answer_at).
    #[inline(always)]
    pub fn prefetch_entry(&self, query: &Query) -> Hint {
        self.cache.prefetch_entry(query.hash)
    }
}

/// Answers of the forwarder.
impl Core {
    /// Replies to a query that was a [`Verdict::Miss`], with the forwarder's answer, without a look-up in
    /// the cache.
    pub fn complete(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        answer: &Answer,
    ) -> Verdict {
        let writer = &self.writer;
        let cookie = writer.cookie(query, buf, client, self.now);
        let terms = writer.terms(query, client, cookie.as_ref());
        let terms = self.admission.limit_again(client, terms, self.now);
        if answer.as_ref().is_truncated() {
            return writer.incomplete(query, buf, client, terms, answer.as_ref());
        }
        let blocked = writer
            .policy
            .decide_aliases(question(query, buf), answer.as_ref());
        if blocked.is_some() {
            writer.counters.blocked.add(1);
        }
        let answer = blocked.unwrap_or(answer);
        writer.reply(query, buf, client, terms, answer.as_ref().into())
    }

    /// Whether answers of the forwarder's routes of this generation may be cached.
    pub(crate) fn takes_answers_of(&self, generation: u64) -> bool {
        generation >= self.writer.policy.routes
    }

    /// Inserts an answer into the cache. `msg` is the query, or its reply: both have the question.
    pub fn insert(&mut self, query: &Query, msg: &[u8], answer: &Answer) {
        if let Some(key) = key(query, msg) {
            self.insert_key(&key, answer);
        }
    }

    /// Inserts the answer to a question that was refreshed. A failure does not replace the answer that
    /// is cached.
    pub(crate) fn insert_refreshed(&mut self, key: &Key<'_>, answer: &Answer) {
        if is_refreshable(&answer.as_ref()) {
            self.insert_key(key, answer);
        }
    }

    fn insert_key(&mut self, key: &Key<'_>, answer: &Answer) {
        let Some((name, [t0, t1, _, _])) = key.question.split_last_chunk() else {
            return;
        };
        // The policy has an answer only if it has changed since the miss.
        let qtype = u16::from_be_bytes([*t0, *t1]);
        let policy = &self.writer.policy;
        if policy.decide(name, qtype).is_none() {
            let blocked = policy.decide_aliases(key.question, answer.as_ref());
            store(
                &mut self.cache,
                &self.writer.counters,
                key,
                blocked.unwrap_or(answer),
                self.now,
            );
        }
    }
}

/// Replies without an answer.
impl Core {
    /// Replies SERVFAIL to a query that was a [`Verdict::Miss`] and cannot be handed to the forwarder.
    #[cold]
    pub fn reply_overloaded(&mut self, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        let writer = &self.writer;
        let cookie = writer.cookie(query, buf, client, self.now);
        let terms = writer.terms(query, client, cookie.as_ref());
        let why = Some(ede::NOT_READY);
        writer.error(query, buf, client, terms, rcode::SERVFAIL, why)
    }

    /// Truncates the reply in `buf`, which is too large for this path: the client repeats the query
    /// over TCP. Returns the new length.
    #[cold]
    pub(crate) fn truncate(&mut self, query: &Query, buf: &mut [u8]) -> Option<usize> {
        let len = reply::truncate(buf, query);
        match len {
            Some(_) => &self.writer.counters.truncated,
            None => &self.writer.drops.no_room,
        }
        .add(1);
        len
    }

    /// Answers or drops a message that [`read`](Self::read) could not read as a query.
    #[cold]
    pub fn reject(&mut self, malformed: Malformed, buf: &mut [u8], client: Client) -> Verdict {
        let (question_end, code) = match malformed {
            Malformed::Runt => {
                self.writer.drops.runt.add(1);
                return Verdict::Drop;
            }
            Malformed::Response => {
                self.writer.drops.response.add(1);
                return Verdict::Drop;
            }
            Malformed::Opcode => (None, rcode::NOTIMP),
            Malformed::Question => (None, rcode::FORMERR),
            Malformed::Records(question_end) => (Some(question_end), rcode::FORMERR),
        };
        if self
            .admission
            .admits_malformed(&self.writer, client, self.now)
        {
            self.writer.unreadable(buf, question_end, code)
        } else {
            Verdict::Drop
        }
    }
}

#[cfg(test)]
mod tests;
