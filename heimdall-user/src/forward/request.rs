//! The interface between a front and the forwarder: requests, outcomes and the mailbox.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{inflight::Waiter, sleeping::Sleeping};
use crate::{
    answer::prefix::Prefix,
    cache::Key,
    dns::{Answer, MAX_QUESTION, NameHasher, QUESTION_FIXED, Query, question_hash, u16_at},
};

/// The token of a [`refresh`](Request::refresh), for which no query waits.
const REFRESH: u64 = u64::MAX;

/// Refreshes that a front may have under way, in addition to its queries.
pub(crate) const MAX_REFRESHES: usize = 64;

/// Prefix length by which IPv4 clients are distinguished, as in the rate limit's defaults.
const CLIENT_V4_BITS: u8 = 24;

/// The same for IPv6: the prefix that a site is commonly assigned (RFC 6177).
const CLIENT_V6_BITS: u8 = 56;

/// A question that a front could not answer itself, or not for much longer. Holds its octets, so that no memory is
/// shared and none is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The key's hash.
    pub(crate) hash: u64,
    /// DO and CD, [`Query::key_flags`].
    pub flags: u8,
    /// The front's mailbox, by its number.
    pub(crate) front: u16,
    /// The front's identifier of the query; returned in the [`Outcome`].
    pub(crate) token: u64,
    /// Of the routes, when the thread took it.
    pub(super) generation: u64,
    /// The prefix of the client that asked; one client's part of the in-flight table is counted
    /// by it.
    pub(super) client: Prefix,
    question_len: u16,
    question: [u8; MAX_QUESTION],
}

impl Request {
    /// A request for `query`, which was read from `msg` and came from `client`. `None` if `msg`
    /// does not hold it.
    pub fn new(query: &Query, msg: &[u8], client: IpAddr, front: u16, token: u64) -> Option<Self> {
        let bits = match client {
            IpAddr::V4(_) => CLIENT_V4_BITS,
            IpAddr::V6(_) => CLIENT_V6_BITS,
        };
        let asked = msg.get(crate::dns::header::LEN..usize::from(query.question_end))?;
        let mut question = [0; MAX_QUESTION];
        question.get_mut(..asked.len())?.copy_from_slice(asked);
        Some(Self {
            hash: query.hash,
            flags: query.key_flags(),
            front,
            token,
            generation: 0,
            client: Prefix::of(client, bits),
            question_len: asked.len() as u16,
            question,
        })
    }

    /// A request to refresh the answer to `query` before it expires; `client` got it last. `msg`
    /// may be its reply.
    pub(crate) fn refresh(query: &Query, msg: &[u8], client: IpAddr, front: u16) -> Option<Self> {
        Self::new(query, msg, client, front, REFRESH)
    }

    /// The same for another name, in wire form: an alias's target. `None`: it is too long.
    pub(super) fn for_target(&self, name: &[u8], hasher: &NameHasher) -> Option<Self> {
        let question = [name, self.question().last_chunk::<QUESTION_FIXED>()?].concat();
        let mut request = *self;
        request
            .question
            .get_mut(..question.len())?
            .copy_from_slice(&question);
        request.question_len = question.len() as u16;
        request.hash = question_hash(hasher, &question, self.flags);
        Some(request)
    }

    /// Whether an answer is wanted that is newer than the one that the front has.
    pub(super) fn is_refresh(&self) -> bool {
        self.token == REFRESH
    }

    /// The key that the answer is cached under.
    pub(crate) fn key(&self) -> Key<'_> {
        Key {
            hash: self.hash,
            question: self.question(),
            flags: self.flags,
        }
    }

    pub(super) fn waiter(&self) -> Waiter {
        Waiter {
            client: self.client,
            front: self.front,
            token: self.token,
        }
    }

    /// The question in wire form, in the client's name case.
    pub fn question(&self) -> &[u8] {
        self.question
            .get(..usize::from(self.question_len))
            .unwrap_or_default()
    }

    /// The queried type.
    pub(super) fn qtype(&self) -> u16 {
        let question = self.question();
        let at = question.len().saturating_sub(QUESTION_FIXED);
        u16_at(question, at).unwrap_or_default()
    }

    /// The queried name in wire form, in the client's name case.
    pub(super) fn name(&self) -> &[u8] {
        self.key().name()
    }
}

/// The result of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request's token.
    pub token: u64,
    /// The request itself, if it was a refresh.
    pub(crate) refreshed: Option<Box<Request>>,
    /// Of the routes that it was found under.
    pub(crate) generation: u64,
    /// The answer; a failure, with its response code and Extended DNS Error, if no upstream gave
    /// one.
    pub answer: Arc<Answer>,
}

impl Outcome {
    /// The outcome for a waiter of `request`'s question.
    pub(super) fn new(request: &Request, waiter: Waiter, answer: Arc<Answer>) -> Self {
        Self {
            token: waiter.token,
            generation: request.generation,
            refreshed: (waiter.token == REFRESH).then(|| Box::new(*request)),
            answer,
        }
    }
}

/// Where a front gets its outcomes: a queue, and an eventfd that becomes readable when some arrive while
/// the front [sleeps](Self::prepare_to_sleep).
#[derive(Debug)]
pub struct Mailbox {
    outcomes: ArrayQueue<Outcome>,
    event: EventFd,
    sleeping: Sleeping,
    /// Queries that the front may have under way.
    capacity: usize,
    /// Requests that were submitted and have no outcome yet.
    waiting: AtomicUsize,
}

impl Mailbox {
    /// A mailbox for a front that has at most `capacity` queries and `MAX_REFRESHES` refreshes
    /// under way. Every request has exactly one outcome, so it cannot overflow.
    ///
    /// # Errors
    /// The eventfd cannot be created.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            outcomes: ArrayQueue::new(capacity + MAX_REFRESHES),
            event,
            sleeping: Sleeping::default(),
            capacity,
            waiting: AtomicUsize::new(0),
        })
    }

    /// The next outcome, if there is one.
    #[inline]
    pub fn take(&self) -> Option<Outcome> {
        self.outcomes.pop()
    }

    /// To be called before waiting for the eventfd, and after every wait [`awake`](Self::awake).
    /// Returns whether the front may wait: else there are outcomes.
    #[inline]
    pub fn prepare_to_sleep(&self) -> bool {
        self.sleeping.begin(|| self.outcomes.is_empty())
    }

    /// The front is awake, and [takes](Self::take) all outcomes before it sleeps again: their arrival makes the
    /// eventfd readable no more.
    #[inline]
    pub fn awake(&self) {
        self.sleeping.end();
    }

    /// Makes the eventfd unreadable until the next wakeup.
    pub fn clear_wakeup(&self) {
        // EAGAIN: it was not readable.
        let _ = self.event.read();
    }

    /// Wakes the front if it sleeps, so that it takes the outcomes that were pushed.
    pub(super) fn notify(&self) {
        if self.sleeping.needs_wakeup() {
            self.wake();
        }
    }

    /// Makes the eventfd readable, whether the front sleeps or not: for something else than an outcome.
    pub fn wake(&self) {
        // EAGAIN: it is readable as can be.
        let _ = self.event.write(1);
    }

    /// Delivers an outcome, without waking the front.
    pub(super) fn push(&self, outcome: Outcome) -> bool {
        self.remove_waiting();
        self.outcomes.push(outcome).is_ok()
    }

    /// Counts a request that is about to be submitted.
    pub(super) fn add_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Uncounts a request that was rejected or has its outcome.
    pub(super) fn remove_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the front's table is nearly full.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > self.sheds_above()
    }

    /// Requests that may wait without others being shed for them. An eighth of the front's table is kept free, so that
    /// queries still reach the forwarder, which decides whom to shed for them.
    pub(crate) fn sheds_above(&self) -> usize {
        (self.capacity - self.capacity / 8).saturating_sub(1)
    }

    /// Queries that the front may have under way.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
