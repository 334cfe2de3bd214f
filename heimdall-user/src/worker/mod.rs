//! AF_XDP workers: threads, each pinned to a core, which serve the AF_XDP sockets of queues.
//!
//! A worker owns an engine with its cache, and its counters; and of each of its queues the socket, its UMEM and its
//! counters. It shares none of them. Queues are given to it and taken from it while it runs. Each turn of its loop goes
//! over the queues: takes back the frames that were sent, gives free ones to the kernel, receives a batch, and has the
//! engine answer it; then it completes what the forwarder has answered. A reply is written in the frame that brought the
//! query; after a miss, the frame waits for the outcome.
//!
//! A queue that fails ends alone, and the others go on. One that is told to drain (`WorkerQueue::drain`) ends when what
//! arrived before is answered, so that no query and no reply is lost.

mod counters;
mod frames;
mod idle;
mod placement;
mod queue;
mod queues;
mod rings;
mod run;
mod slots;
mod socket;

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

pub use counters::{QueueCounters, WorkerCounters};
pub use frames::edit_frame;
pub use idle::IdleMode;
pub(crate) use placement::{Load, Placement, QueueCores, place};
pub(crate) use queue::{QueueEnd, QueueResources, WorkerQueue};

use crate::{
    exit::{OnExit, OwnedThread},
    front, heartbeat,
    stats::DropCounters,
    tier::Nominator,
};
use queue::RUN;
use queues::Queue;
use run::{NEWS, STOP, State};
use socket::SharedSocket;

/// How a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct WorkerOptions {
    /// Thread name.
    pub name: String,
    /// The CPU core to run on.
    pub cpu: Option<usize>,
    /// Verify the checksums of queries: the IPv4 header's and UDP's.
    pub verify_checksums: bool,
    /// What to do while there is no work. A worker sleeps instead of busy polling if the socket of one of its queues
    /// was not set to that.
    pub idle: IdleMode,
}

/// What a worker owns besides its queues.
#[derive(Debug)]
pub(crate) struct WorkerResources {
    /// What its engine owns. The mailbox has room for [`max_pending`] outcomes.
    pub engine: front::Resources,
    /// Queries that were dropped.
    pub drops: Arc<DropCounters>,
    /// What the worker counts. The next worker continues the counts of the one before.
    pub counters: Arc<WorkerCounters>,
    /// Where popular answers are nominated for the hot tier.
    pub(crate) nominator: Option<Nominator>,
    /// Called when the thread has ended without [`Worker::stop`].
    pub on_exit: OnExit,
}

/// Queries of a worker that may wait for the forwarder, if its queues have `frames` frames each: half as many, so that the
/// kernel always has frames to receive into, even if all those queries are of one queue.
pub(crate) fn max_pending(frames: usize) -> usize {
    frames / 2
}

/// A running worker. Dropping it stops it.
pub(crate) struct Worker {
    thread: OwnedThread<io::Result<()>>,
    notify: Arc<dyn Fn() + Send + Sync>,
    added: Sender<Queue>,
    outstanding: Outstanding,
    ready: Receiver<()>,
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The error that ended it, unless it was told to stop.
    pub result: io::Result<()>,
    /// What still comes to its mailbox.
    pub outstanding: Outstanding,
}

/// The requests of a worker that had no outcome when it ended. Their outcomes still come to the mailbox, and have to be
/// removed before another worker uses it: it has no room for those of both, and their tokens are alike.
#[derive(Clone, Debug)]
pub(crate) struct Outstanding(Arc<AtomicUsize>);

impl Outstanding {
    /// Of a thread that runs, or that was left behind because it is stuck.
    const RUNNING: usize = usize::MAX;

    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(Self::RUNNING)))
    }

    /// The thread has dropped all that it owned, and touches the mailbox no more.
    pub(crate) fn set(&self, count: usize) {
        self.0.store(count, Ordering::Release);
    }

    /// How many. `None`: the thread has not ended, and still uses what it was given.
    pub(crate) fn count(&self) -> Option<usize> {
        let count = self.0.load(Ordering::Acquire);
        (count != Self::RUNNING).then_some(count)
    }
}

impl Worker {
    /// Starts the thread, without a queue.
    ///
    /// # Errors
    /// The thread or its epoll instance cannot be created.
    pub(crate) fn start(
        options: WorkerOptions,
        mut resources: WorkerResources,
    ) -> io::Result<Self> {
        let told = Arc::new(AtomicU8::new(0));
        let tell = {
            let (told, mailbox) = (Arc::clone(&told), Arc::clone(&resources.engine.mailbox));
            move |what| {
                told.fetch_or(what, Ordering::Release);
                mailbox.wake();
            }
        };
        let outstanding = Outstanding::new();
        let (added, queues) = channel();
        let on_exit = mem::take(&mut resources.on_exit);
        let name = options.name.clone();
        let mut state = State::new(options, resources, queues, outstanding.clone())?;
        let (ready_sender, ready) = channel();
        let stop = {
            let tell = tell.clone();
            move || tell(STOP)
        };
        let body = move || state.run(&told, ready_sender);
        let thread = OwnedThread::start(name, on_exit, stop, body)?;
        Ok(Self {
            thread,
            notify: Arc::new(move || tell(NEWS)),
            added,
            outstanding,
            ready,
        })
    }

    /// Has the worker serve a queue, from its next turn on.
    ///
    /// # Errors
    /// Too many descriptors are open, or the thread has ended.
    pub(crate) fn add(&self, resources: QueueResources) -> io::Result<WorkerQueue> {
        let socket = SharedSocket::new(resources.xsk.as_fd())?;
        let told = Arc::new(AtomicU8::new(RUN));
        let (sender, result) = channel();
        let queue = Queue::new(resources, Arc::clone(&told), socket.owner(), sender);
        let ended = |_| io::Error::other("the worker has ended");
        self.added.send(queue).map_err(ended)?;
        (self.notify)();
        Ok(WorkerQueue {
            socket,
            told,
            notify: Arc::clone(&self.notify),
            result,
        })
    }

    /// Waits until the thread is ready for packets, for [`heartbeat::MAX_SLEEP`] at most. Those that come sooner wait in the
    /// ring.
    pub(crate) fn wait_ready(&self) {
        // The thread drops the sender.
        let _ = self.ready.recv_timeout(heartbeat::MAX_SLEEP);
    }

    /// How often its loop has gone round: at least once a second, unless it is stuck.
    pub(crate) fn beats(&self) -> u64 {
        self.thread.beats()
    }

    /// Stops the thread, if it has not ended by itself. The sockets of its queues are closed, and so leave the
    /// XSKMAP: from then on the XDP program passes their packets to the kernel.
    pub(crate) fn stop(self) -> Ended {
        let unfinished = |why| Err(io::Error::other(why));
        let result = self.thread.join().unwrap_or_else(unfinished);
        Ended {
            result,
            outstanding: self.outstanding,
        }
    }
}
