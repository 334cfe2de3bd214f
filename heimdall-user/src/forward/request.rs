//! What passes between a front and the forwarder.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::inflight::Waiter;
use crate::{
    cache::Key,
    dns::{Answer, MAX_QUESTION, Query},
};

/// The token of a [`refresh`](Request::refresh), for which no query waits.
const REFRESH: u64 = u64::MAX;

/// Refreshes that a front may have under way, beside its queries.
pub const MAX_REFRESHES: usize = 64;

/// A question that a front could not answer itself, or not for much longer. Holds its octets, so that no memory is
/// shared and none is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The key's hash.
    pub hash: u64,
    /// DO and CD, [`Query::key_flags`].
    pub flags: u8,
    /// The front's mailbox, by its number.
    pub front: u16,
    /// What the front knows the query by; comes back in the [`Outcome`].
    pub token: u64,
    question_len: u16,
    question: [u8; MAX_QUESTION],
}

impl Request {
    /// A request for `query`, which was read from `msg`. `None` if `msg` does not hold it.
    pub fn new(query: &Query, msg: &[u8], front: u16, token: u64) -> Option<Self> {
        let asked = msg.get(crate::dns::header::LEN..usize::from(query.question_end))?;
        let mut question = [0; MAX_QUESTION];
        question.get_mut(..asked.len())?.copy_from_slice(asked);
        Some(Self {
            hash: query.hash,
            flags: query.key_flags(),
            front,
            token,
            question_len: asked.len() as u16,
            question,
        })
    }

    /// A request to get the answer to `query` anew before its life is over. `msg` may be its reply.
    pub fn refresh(query: &Query, msg: &[u8], front: u16) -> Option<Self> {
        Self::new(query, msg, front, REFRESH)
    }

    /// Whether an answer is wanted that is newer than the one that the front has.
    pub(super) fn is_refresh(&self) -> bool {
        self.token == REFRESH
    }

    /// What the answer is kept under.
    pub fn key(&self) -> Key<'_> {
        Key {
            hash: self.hash,
            question: self.question(),
            flags: self.flags,
        }
    }

    pub(super) fn waiter(&self) -> Waiter {
        Waiter {
            front: self.front,
            token: self.token,
        }
    }

    /// The question in wire form, in the client's letter case.
    pub fn question(&self) -> &[u8] {
        self.question
            .get(..usize::from(self.question_len))
            .unwrap_or_default()
    }

    /// The queried name in wire form, in the client's letter case.
    pub(super) fn name(&self) -> &[u8] {
        self.key().name()
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request's token.
    pub token: u64,
    /// The request itself, if it was a refresh.
    pub refreshed: Option<Box<Request>>,
    /// The answer; a failure, with its response code and Extended DNS Error, if no upstream gave
    /// one.
    pub answer: Arc<Answer>,
}

impl Outcome {
    /// The outcome for one of those who wait for `request`'s question.
    pub(super) fn new(request: &Request, waiter: Waiter, answer: Arc<Answer>) -> Self {
        Self {
            token: waiter.token,
            refreshed: (waiter.token == REFRESH).then(|| Box::new(*request)),
            answer,
        }
    }
}

/// Where a front gets its outcomes: a queue, and an eventfd that is readable when there may be
/// some.
#[derive(Debug)]
pub struct Mailbox {
    outcomes: ArrayQueue<Outcome>,
    event: EventFd,
}

impl Mailbox {
    /// A mailbox for a front that has at most `capacity` queries and [`MAX_REFRESHES`] refreshes
    /// under way. Every request has exactly one outcome, so it cannot overflow.
    ///
    /// # Errors
    /// No eventfd is to be had.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            outcomes: ArrayQueue::new(capacity + MAX_REFRESHES),
            event,
        })
    }

    /// The next outcome, if there is one.
    #[inline]
    pub fn take(&self) -> Option<Outcome> {
        self.outcomes.pop()
    }

    /// Makes the eventfd unreadable until the next [`ring`](Self::ring).
    pub fn silence(&self) {
        // EAGAIN: it was not readable.
        let _ = self.event.read();
    }

    /// Makes the eventfd readable, to wake the front.
    pub fn ring(&self) {
        // EAGAIN: it is readable as can be.
        let _ = self.event.write(1);
    }

    /// Delivers an outcome, without waking the front.
    pub(super) fn put(&self, outcome: Outcome) -> bool {
        self.outcomes.push(outcome).is_ok()
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
