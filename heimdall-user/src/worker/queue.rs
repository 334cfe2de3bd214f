//! A queue, as its owner gives it to a worker and takes it back.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{QueueCounters, rings::Rings, socket::SharedSocket};
use crate::{
    exit::OnExit,
    packet::SourceFilter,
    path_mtu::PathMtus,
    xdp::xsk::{Frame, Xsk},
};

/// What the worker is told to do with a queue: bits, which are only added.
pub(super) const RUN: u8 = 0;
pub(super) const DRAIN: u8 = 1;
pub(super) const CLOSE: u8 = 2;

/// A queue for a worker to serve.
#[derive(Debug)]
pub(crate) struct QueueResources {
    /// The socket.
    pub xsk: Xsk,
    /// All the frames of its UMEM.
    pub frames: Vec<Frame>,
    /// The socket was set to busy-poll.
    pub busy_poll: bool,
    /// The interface's MTU in octets, which may change: no reply is larger.
    pub mtu: Arc<AtomicU32>,
    /// What of it fits on the paths to some clients.
    pub(crate) paths: Arc<PathMtus>,
    /// Senders that are not answered; replaced when the interface's addresses change.
    pub sources: Arc<ArcSwap<SourceFilter>>,
    /// What is counted for the queue. Its next socket continues the counts of the one before.
    pub counters: Arc<QueueCounters>,
    /// Called when the queue has ended, however it has, and its socket is closed.
    pub on_end: OnExit,
}

/// A queue that a worker serves. Dropping it closes the queue.
pub(crate) struct WorkerQueue {
    pub(super) socket: SharedSocket,
    pub(super) told: Arc<AtomicU8>,
    /// Has the worker read what it is told.
    pub(super) notify: Arc<dyn Fn() + Send + Sync>,
    pub(super) result: Receiver<EndedQueue>,
}

/// A queue that has ended.
pub(super) struct EndedQueue {
    pub(super) result: io::Result<()>,
    /// With its socket, which is closed when this is dropped; `None`: it is closed.
    pub(super) _rings: Option<Box<Rings>>,
}

impl WorkerQueue {
    /// Calls `register` with the socket, unless the queue has ended: then nothing may be steered to it.
    pub(crate) fn with_socket<T>(&self, register: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.socket.with(register)
    }

    /// Has the queue end once the worker has answered all that has arrived, queries that wait for the forwarder among
    /// them, and all replies are sent. To be called when nothing is steered to it any more. The end may never come: an
    /// interface that is down sends nothing, for example.
    pub(crate) fn drain(&self) {
        self.tell(DRAIN);
    }

    /// Has the queue end now. Replies to queries that wait for the forwarder are not sent.
    pub(crate) fn close(&self) {
        self.tell(CLOSE);
    }

    fn tell(&self, what: u8) {
        // Release: what the caller has waited for is in the rings when the worker reads this.
        self.told.fetch_or(what, Ordering::Release);
        (self.notify)();
    }

    /// Waits until the queue has ended and its socket is closed, for `limit` at most. The result is an error if the queue
    /// failed, or was closed before it was drained.
    pub(crate) fn wait(&self, limit: Duration) -> QueueEnd {
        match self.result.recv_timeout(limit) {
            Ok(ended) => QueueEnd::Ended(ended.result),
            Err(RecvTimeoutError::Disconnected) => QueueEnd::WithWorker,
            Err(RecvTimeoutError::Timeout) => QueueEnd::NotYet,
        }
    }
}

impl Drop for WorkerQueue {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether and how a queue has ended.
#[derive(Debug)]
pub(crate) enum QueueEnd {
    /// By itself, or as it was told to.
    Ended(io::Result<()>),
    /// Its worker has ended, or is about to, which has the reason.
    WithWorker,
    /// It goes on.
    NotYet,
}
