//! The queues of a worker.
//!
//! Each has a slot while the worker serves it. To queries that wait for the forwarder it is known by slot and frame, so
//! the outcome for a queue that is gone finds none, or another one that does not own the frame, and is dropped.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::Sender,
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    frames::{Frames, ParkedFrame},
    queue::{CLOSE, DRAIN, EndedQueue, QueueResources, RUN},
    rings::Rings,
    slots::Slots,
    socket,
};
use crate::{
    answer::{Client, Verdict},
    dns::Query,
    exit::OnExit,
    front::Messages,
    heartbeat,
    packet::SourceFilter,
};

/// Longest sleep while packets wait in the tx ring: the kernel may have to be woken again to send them.
const MAX_SLEEP_UNSENT: Duration = Duration::from_millis(10);

/// Longest sleep while the kernel has no frame to receive into: frames that were sent wake no thread.
const MAX_SLEEP_STARVED: Duration = Duration::from_millis(1);

/// Longest sleep while a queue drains: packets that are sent wake no thread.
const MAX_SLEEP_DRAINING: Duration = Duration::from_millis(1);

/// A queue, as its worker has it.
pub(super) struct Queue {
    pub(super) frames: Frames,
    /// Senders that are not answered; replaced when the interface's addresses change.
    pub(super) sources: Arc<ArcSwap<SourceFilter>>,
    /// Its socket busy-polls.
    pub(super) busy_poll: bool,
    /// Packets of the last turn.
    pub(super) taken: usize,
    /// What the queue's owner tells.
    told: Arc<AtomicU8>,
    /// What was read of that.
    state: u8,
    /// The error that ends the queue, if there was one.
    failed: Option<io::Error>,
    end: End,
}

/// What tells the queue's owner that it has ended. Dropped last, and in this order: the socket's other descriptor is
/// closed, then the result arrives, then the owner is woken.
struct End {
    _socket: socket::Owner,
    result: Sender<EndedQueue>,
    _on_end: OnExit,
}

impl Queue {
    pub(super) fn new(
        resources: QueueResources,
        told: Arc<AtomicU8>,
        socket: socket::Owner,
        result: Sender<EndedQueue>,
    ) -> Self {
        let counters = resources.counters;
        Self {
            frames: Frames {
                rings: Rings::new(resources.xsk, resources.frames, Arc::clone(&counters)),
                mtu: resources.mtu,
                paths: resources.paths,
                counters,
                slot: 0,
                parked: 0,
            },
            sources: resources.sources,
            busy_poll: resources.busy_poll,
            taken: 0,
            told,
            state: RUN,
            failed: None,
            end: End {
                _socket: socket,
                result,
                _on_end: resources.on_end,
            },
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.frames.rings.as_fd()
    }

    /// Has the first error of the queue [end](Queues::end_leaving) it.
    #[cold]
    pub(super) fn fail(&mut self, error: io::Error) {
        self.failed.get_or_insert(error);
    }

    /// How it has ended, if it has.
    fn ended(&mut self) -> Option<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        match self.state {
            RUN => None,
            DRAIN => match self.frames.rings.finish_sending() {
                Ok(sent) if sent && self.taken == 0 && self.frames.parked == 0 => Some(Ok(())),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            },
            // It was to be drained first.
            _ if self.state & DRAIN != 0 && self.frames.parked > 0 => {
                let lost = format!("{} queries were not answered in time", self.frames.parked);
                Some(Err(io::Error::new(io::ErrorKind::TimedOut, lost)))
            }
            _ => Some(Ok(())),
        }
    }

    /// Tells the owner. Closing a socket may take the kernel a grace period, for which other queues must not wait: so an
    /// owner that has told the queue to close, and waits for it, closes the socket itself.
    fn end(self, result: io::Result<()>) {
        let Self {
            frames, end, state, ..
        } = self;
        frames.account();
        let rings = match state {
            CLOSE => Some(Box::new(frames.rings)),
            _ => {
                drop(frames);
                None
            }
        };
        let End {
            _socket: socket,
            result: sender,
            _on_end: on_end,
        } = end;
        drop(socket);
        // The owner may have gone.
        let _ = sender.send(EndedQueue {
            result,
            _rings: rings,
        });
        drop(on_end);
    }
}

/// The queues of a worker, each in a slot.
#[derive(Default)]
pub(super) struct Queues {
    slots: Slots<Queue>,
    /// At least one is told to end, or has failed.
    pub(super) leaving: bool,
}

impl Queues {
    /// Adds a queue.
    pub(super) fn add(&mut self, mut queue: Queue) -> &mut Queue {
        self.slots.add(|slot| {
            queue.frames.slot = slot;
            queue
        })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queue> {
        self.slots.iter()
    }

    #[inline]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.slots.iter_mut()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Queue> {
        self.slots.get_mut(slot)
    }

    /// Reads what the owners tell.
    pub(super) fn read_told(&mut self) {
        for queue in self.slots.iter_mut() {
            // What the owner has waited for is in the rings when this is read.
            queue.state = queue.told.load(Ordering::Acquire);
            self.leaving |= queue.state != RUN;
        }
    }

    /// Ends the queues that have failed, are told to close, or are told to drain and have answered everything.
    /// `forget` is called with the socket of each before it is closed.
    #[cold]
    pub(super) fn end_leaving(&mut self, mut forget: impl FnMut(BorrowedFd<'_>)) {
        self.slots.remove(Queue::ended, |queue, result| {
            forget(queue.as_fd());
            queue.end(result);
            heartbeat::beat();
        });
        self.leaving = self.slots.iter().any(|queue| queue.state != RUN);
    }

    /// The longest sleep that the queues allow, if they limit it.
    pub(super) fn max_sleep(&self) -> Option<Duration> {
        let of = |queue: &Queue| {
            let rings = &queue.frames.rings;
            let unsent = rings.has_unsent().then_some(MAX_SLEEP_UNSENT);
            let starved = rings.is_starved().then_some(MAX_SLEEP_STARVED);
            let draining = (queue.state != RUN).then_some(MAX_SLEEP_DRAINING);
            [unsent, starved, draining].into_iter().flatten().min()
        };
        self.slots.iter().filter_map(of).min()
    }

    /// The queue that a parked frame belongs to, unless it is gone.
    fn of(&mut self, parked: &ParkedFrame) -> Option<&mut Frames> {
        let frames = &mut self.get_mut(parked.slot)?.frames;
        frames.rings.owns(&parked.message.frame).then_some(frames)
    }
}

/// Completes what was parked in any of the queues. Queries of a queue that is gone are dropped.
impl Messages for Queues {
    type Message = ParkedFrame;
    type Parked = ParkedFrame;

    fn received_len(&self, parked: &ParkedFrame) -> usize {
        parked.message.layout.dns_len()
    }

    fn edit(
        &mut self,
        parked: &mut ParkedFrame,
        write: impl FnOnce(&mut [u8], Client) -> Verdict,
    ) -> Verdict {
        match self.of(parked) {
            Some(frames) => frames.edit(&mut parked.message, write),
            None => Verdict::Drop,
        }
    }

    fn reply(&mut self, parked: ParkedFrame, query: Option<&Query>) {
        if let Some(frames) = self.of(&parked) {
            frames.reply(parked.message, query);
        }
    }

    fn discard(&mut self, parked: ParkedFrame) {
        if let Some(frames) = self.of(&parked) {
            frames.discard(parked.message);
        }
    }

    fn park(&mut self, parked: ParkedFrame, _: &Query) -> ParkedFrame {
        if let Some(frames) = self.of(&parked) {
            frames.parked += 1;
        }
        parked
    }

    fn resume(&mut self, parked: ParkedFrame) -> ParkedFrame {
        if let Some(frames) = self.of(&parked) {
            frames.parked -= 1;
        }
        parked
    }

    /// Each queue counts its own.
    fn count_overflow(&self) {}
}
