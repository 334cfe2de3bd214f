//! How fronts submit requests to the forwarder.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
    mpsc::SyncSender,
};

use crossbeam_queue::ArrayQueue;
use mio::Waker;
use thiserror::Error;

use super::{Mailbox, Outcome, Request, plan::Plan, shard_of, sleeping::Sleeping};
use crate::{
    cache::Key,
    dns::{
        Answer, DnsPacketView, NameHasher, Query,
        edns::ede,
        header::{self, rcode},
    },
};

/// The request was rejected: the front answers it itself, with SERVFAIL.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the forwarder's queue is full")]
pub struct QueueFull;

/// Other routes and upstreams for a thread.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) plan: Arc<Plan>,
    /// Dropped once they are in force and the cache has nothing outdated.
    pub(super) done: SyncSender<()>,
}

/// The part of a forwarder thread that the fronts share.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: ArrayQueue<Request>,
    /// One at a time.
    reload: ArrayQueue<Reload>,
    waker: Waker,
    sleeping: Sleeping,
    closed: AtomicBool,
    /// Requests rejected, of any front. Written only when the queue is full, so a shared
    /// counter costs nothing that matters.
    pub(super) rejected: AtomicU64,
    pub(super) mailboxes: Arc<[Arc<Mailbox>]>,
}

impl Inbox {
    pub(super) fn new(capacity: usize, waker: Waker, mailboxes: Arc<[Arc<Mailbox>]>) -> Self {
        Self {
            queue: ArrayQueue::new(capacity.max(1)),
            reload: ArrayQueue::new(1),
            waker,
            sleeping: Sleeping::default(),
            closed: AtomicBool::new(false),
            rejected: AtomicU64::new(0),
            mailboxes,
        }
    }

    pub(super) fn take(&self) -> Option<Request> {
        self.queue.pop()
    }

    /// Has the thread take other routes. One that has ended drops them.
    pub(super) fn reload(&self, reload: Reload) {
        let _ = self.reload.push(reload);
        if self.is_closed() {
            self.take_reload();
        }
        self.wake();
    }

    /// Other routes that the thread is to take.
    pub(super) fn take_reload(&self) -> Option<Reload> {
        self.reload.pop()
    }

    /// Whether the thread may sleep until it is woken: else there are requests.
    pub(super) fn prepare_to_sleep(&self) -> bool {
        self.sleeping.begin(|| self.queue.is_empty())
    }

    /// The thread is awake, and looks at the queue before it sleeps again.
    pub(super) fn awake(&self) {
        self.sleeping.end();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Wakes the thread if it sleeps, so that it takes the requests that were pushed.
    fn notify(&self) {
        if self.sleeping.needs_wakeup() {
            self.wake();
        }
    }

    /// Wakes the thread in any case, for something else than a request.
    pub(super) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            // An eventfd that exists can always be written to, except for a full counter, which mio
            // resets.
            tracing::error!(%error, "cannot wake a forwarder thread");
        }
    }

    fn push(&self, request: Request) -> Result<(), QueueFull> {
        let mailbox = self.mailboxes.get(usize::from(request.front));
        // Before the request can be answered.
        mailbox.inspect(|mailbox| mailbox.add_waiting());
        if self.is_closed() || self.queue.push(request).is_err() {
            mailbox.inspect(|mailbox| mailbox.remove_waiting());
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(QueueFull);
        }
        // The thread may have ended in between. Then it, the forwarder's drop or this thread finds the
        // request in the closed inbox, and pop() gives it to one of them only.
        if self.is_closed() {
            self.reject_all();
        }
        Ok(())
    }

    /// Answers every request in the queue with SERVFAIL, and drops other routes.
    #[cold]
    pub(super) fn reject_all(&self) {
        self.take_reload();
        let failure = Arc::new(Answer::failure(rcode::SERVFAIL, Some(ede::NOT_READY), 0));
        while let Some(request) = self.take() {
            if let Some(mailbox) = self.mailboxes.get(usize::from(request.front)) {
                mailbox.push(Outcome::new(
                    &request,
                    request.waiter(),
                    Arc::clone(&failure),
                ));
                mailbox.notify();
            }
        }
    }
}

/// With this a front submits requests; from [`Forwarder::handle`](super::Forwarder::handle).
#[derive(Clone, Debug)]
pub struct Handle {
    inboxes: Arc<[Arc<Inbox>]>,
    /// Which inboxes got a request since the last flush.
    filled: Box<[bool]>,
    hasher: NameHasher,
}

impl Handle {
    pub(super) fn new(inboxes: Arc<[Arc<Inbox>]>, hasher: NameHasher) -> Self {
        let filled = vec![false; inboxes.len()].into();
        Self {
            inboxes,
            filled,
            hasher,
        }
    }

    /// A handle to no forwarder: every request is rejected.
    pub fn disconnected() -> Self {
        Self::new(Arc::new([]), NameHasher::default())
    }

    /// Queues a request, which the forwarder may not notice before the next [`flush`](Self::flush).
    ///
    /// Every request that is accepted has exactly one [`Outcome`].
    ///
    /// # Errors
    /// `QueueFull`; also once the forwarder has stopped.
    pub fn submit(&mut self, request: Request) -> Result<(), QueueFull> {
        let shard = self.thread_of(&request.key());
        self.inboxes.get(shard).ok_or(QueueFull)?.push(request)?;
        if let Some(filled) = self.filled.get_mut(shard) {
            *filled = true;
        }
        Ok(())
    }

    /// The query for a question in wire form, as a front reads it, and the number of the thread that it goes to.
    pub(crate) fn read(&self, msg: &[u8]) -> Option<(Query, usize)> {
        let query = Query::new(&DnsPacketView::parse(msg).ok()?, &self.hasher);
        let question = msg.get(header::LEN..usize::from(query.question_end))?;
        let key = Key::new(&self.hasher, question, query.key_flags());
        Some((query, self.thread_of(&key)))
    }

    /// The number of the thread that a key's name belongs to.
    fn thread_of(&self, key: &Key<'_>) -> usize {
        shard_of(&self.hasher, key, self.inboxes.len())
    }

    /// Wakes the threads that got a request since the last flush and sleep. A system call for each of
    /// them, so this is called once a batch.
    pub fn flush(&mut self) {
        for (inbox, filled) in self.inboxes.iter().zip(&mut self.filled) {
            if std::mem::take(filled) {
                inbox.notify();
            }
        }
    }
}
