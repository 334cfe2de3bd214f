//! The AF_XDP worker: one pinned thread for the AF_XDP socket of one queue.
//!
//! It owns the socket, its UMEM, an engine with its cache, and its counters, and shares none of
//! them. Each turn of its loop takes back the frames that were sent, gives free ones to the kernel,
//! receives a batch, has the engine answer it, and completes what the forwarder has answered. A
//! reply is written in the frame that brought the query; after a miss, the frame waits for the
//! outcome.

mod counters;
mod frames;
mod idle;
mod rings;

use std::{
    hint, io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

pub use counters::WorkerCounters;
pub use frames::edit_frame;
pub use idle::IdleMode;

use crate::{
    exit::{OnExit, OwnedThread},
    front::{self, Batch, Engine},
    maintenance::Status,
    packet::{BadPacket, Layout, SourceFilter},
    stats::DropCounters,
    tier::Nominator,
    xdp::xsk::{BATCH, Frame, Xsk},
};
use frames::{FrameMessage, Frames};
use idle::{Idle, Wait};
use rings::Rings;

/// Longest sleep of an idle worker.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Longest sleep while packets wait in the tx ring: the kernel may have to be woken again to send them.
const MAX_SLEEP_UNSENT: Duration = Duration::from_millis(10);

/// Longest sleep while the kernel has no frame to receive into: frames that were sent wake no thread.
const MAX_SLEEP_STARVED: Duration = Duration::from_millis(1);

/// How a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct WorkerOptions {
    /// Thread name.
    pub name: String,
    /// The CPU core to run on.
    pub cpu: Option<usize>,
    /// Verify the checksums of queries: the IPv4 header's and UDP's.
    pub verify_checksums: bool,
    /// What to do while there is no work.
    pub idle: IdleMode,
}

/// What a worker owns.
#[derive(Debug)]
pub(crate) struct WorkerResources {
    /// The socket.
    pub xsk: Xsk,
    /// All the frames of its UMEM.
    pub frames: Vec<Frame>,
    /// What its engine owns. The mailbox has room for [`max_pending`] outcomes.
    pub engine: front::Resources,
    /// The interface's MTU in octets, which may change: no reply is larger.
    pub mtu: Arc<AtomicU32>,
    /// Senders that are not answered; replaced when the interface's addresses change.
    pub sources: Arc<ArcSwap<SourceFilter>>,
    /// Queries that were dropped.
    pub drops: Arc<DropCounters>,
    /// What the worker counts. A queue's next worker continues the counts of the one before.
    pub counters: Arc<WorkerCounters>,
    /// Where popular answers are nominated for the hot tier.
    pub(crate) nominator: Option<Nominator>,
    /// Called when the thread has ended without having been stopped, and its socket is closed.
    pub on_exit: OnExit,
}

/// Queries of a worker with `frames` frames that may wait for the forwarder: half as many, so that the
/// kernel always has frames to receive into.
pub(crate) fn max_pending(frames: usize) -> usize {
    frames / 2
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Worker {
    thread: OwnedThread<io::Result<()>>,
    outstanding: Arc<AtomicUsize>,
    ready: Receiver<()>,
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The error that ended it, unless it was told to stop.
    pub result: io::Result<()>,
    /// Requests of the worker without an outcome so far. Their outcomes still come to the mailbox
    /// and have to be removed before another worker uses it: it has no room for those of both, and
    /// their tokens are alike.
    pub outstanding: usize,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub(crate) fn start(
        options: WorkerOptions,
        mut resources: WorkerResources,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let outstanding = Arc::new(AtomicUsize::new(0));
        let mailbox = Arc::clone(&resources.engine.mailbox);
        let on_exit = mem::take(&mut resources.on_exit);
        let mut state = State::new(options, resources, Arc::clone(&outstanding));
        let (ready_sender, ready) = channel();
        let name = state.options.name.clone();
        let stopped = Arc::clone(&stop);
        let stop = move || {
            stop.store(true, Ordering::Relaxed);
            mailbox.wake();
        };
        let body = move || state.run(&stopped, ready_sender);
        let thread = OwnedThread::start(name, on_exit, stop, body)?;
        Ok(Self {
            thread,
            outstanding,
            ready,
        })
    }

    /// Waits until the thread is ready for packets. Those that come sooner wait in the ring.
    pub(crate) fn wait_ready(&self) {
        // The thread drops the sender.
        let _ = self.ready.recv();
    }

    /// Stops the thread, if it has not ended by itself. Its socket is closed, and so leaves the
    /// XSKMAP: from then on the XDP program passes its queue's packets to the kernel.
    pub(crate) fn stop(self) -> Ended {
        let panicked = |_| Err(io::Error::other("the thread panicked, which is a bug"));
        let result = self.thread.join().unwrap_or_else(panicked);
        Ended {
            result,
            outstanding: self.outstanding.load(Ordering::Acquire),
        }
    }
}

struct State {
    options: WorkerOptions,
    // Dropped before the cache, which takes its time, so that the kernel gets the queue back at once.
    frames: Frames,
    engine: Engine<FrameMessage>,
    sources: Arc<ArcSwap<SourceFilter>>,
    drops: Arc<DropCounters>,
    counters: Arc<WorkerCounters>,
    received: Vec<Frame>,
    batch: Batch<FrameMessage>,
    /// Set at the end to the number of requests under way.
    outstanding: Arc<AtomicUsize>,
}

impl Drop for State {
    fn drop(&mut self) {
        // After a panic within a round, requests may be queued of which the forwarder does not know.
        self.engine.end();
        self.outstanding
            .store(self.engine.outstanding(), Ordering::Release);
    }
}

impl State {
    fn new(
        options: WorkerOptions,
        resources: WorkerResources,
        outstanding: Arc<AtomicUsize>,
    ) -> Self {
        let counters = resources.counters;
        let mut engine = Engine::new(resources.engine);
        if let Some(nominator) = resources.nominator {
            engine.nominate_to(nominator);
        }
        Self {
            options,
            engine,
            frames: Frames {
                rings: Rings::new(resources.xsk, resources.frames, Arc::clone(&counters)),
                mtu: resources.mtu,
                counters: Arc::clone(&counters),
            },
            sources: resources.sources,
            drops: resources.drops,
            counters,
            received: Vec::with_capacity(BATCH),
            batch: Batch::new(),
            outstanding,
        }
    }

    fn run(&mut self, stop: &AtomicBool, ready: Sender<()>) -> io::Result<()> {
        if let Some(cpu) = self.options.cpu {
            let mut set = CpuSet::new();
            if let Err(error) = set
                .set(cpu)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
            {
                tracing::warn!(
                    "worker {} cannot run on core {cpu}: {error}",
                    self.options.name
                );
            }
        }
        drop(ready);
        let mut idle = Idle::new(self.options.idle);
        let mut accounted = u32::MAX;
        while !stop.load(Ordering::Relaxed) {
            let now = self.engine.begin();
            let work = self.turn()?;
            if now.seconds != accounted {
                accounted = now.seconds;
                self.frames.rings.account(self.engine.waiting());
                // A worker that never sleeps has to wake the kernel again for what was not sent, too.
                self.frames.rings.note_pause();
            }
            let rings = &self.frames.rings;
            let (unsent, starved) = (rings.has_unsent(), rings.is_starved());
            let sleep = max_sleep(self.engine.maintain(), unsent, starved);
            if work > 0 || sleep.is_zero() {
                idle.worked();
                continue;
            }
            match idle.wait(Instant::now) {
                Wait::Look => hint::spin_loop(),
                Wait::BusyPoll => self.frames.rings.busy_poll()?,
                Wait::Sleep => self.sleep(sleep)?,
            }
        }
        Ok(())
    }

    /// One turn of the loop. Returns how many packets and outcomes it handled.
    fn turn(&mut self) -> io::Result<usize> {
        let taken = self.frames.rings.receive(&mut self.received)?;
        self.read();
        self.engine.answer(&mut self.batch, &mut self.frames);
        let completed = self.engine.complete(&mut self.frames);
        // First: if the rings fail, the forwarder still gets what it was handed.
        self.engine.end();
        self.frames.rings.flush()?;
        self.engine.sent();
        debug_assert_eq!(self.frames.rings.missing(self.engine.waiting()), 0);
        Ok(taken + completed)
    }

    /// Reads the packets that were received into the batch.
    #[inline]
    fn read(&mut self) {
        if self.received.is_empty() {
            return;
        }
        let sources = self.sources.load();
        for frame in self.received.drain(..) {
            let packet = self.frames.rings.packet(&frame);
            match Layout::read(packet, &sources, self.options.verify_checksums) {
                Ok(layout) => {
                    let query = self.engine.read(layout.query(packet));
                    self.batch.push(FrameMessage { frame, layout }, query);
                }
                Err(bad) => {
                    match bad {
                        BadPacket::Length => &self.drops.bad_length,
                        BadPacket::Checksum => &self.drops.bad_checksum,
                        BadPacket::Source => &self.drops.bad_source,
                    }
                    .add(1);
                    self.frames.rings.free(frame);
                }
            }
        }
    }

    /// Sleeps until a packet, an outcome or a maintenance command arrives, for `timeout` at most.
    fn sleep(&mut self, timeout: Duration) -> io::Result<()> {
        if !self.engine.prepare_to_sleep() {
            return Ok(());
        }
        self.counters.sleeps.add(1);
        let mut fds = [
            PollFd::new(self.frames.rings.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.engine.event(), PollFlags::POLLIN),
        ];
        let timeout = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let polled = poll(&mut fds, PollTimeout::from(timeout));
        self.engine.awake();
        let timed_out = match polled {
            Ok(ready) => ready == 0,
            Err(Errno::EINTR) => false,
            Err(error) => return Err(error.into()),
        };
        let [socket, event] = &fds;
        if socket
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL))
        {
            return Err(io::Error::other(
                "the AF_XDP socket failed; is the interface gone?",
            ));
        }
        if event.any().unwrap_or_default() {
            self.engine.silence();
        }
        if timed_out {
            self.frames.rings.note_pause();
        }
        Ok(())
    }
}

/// How long a worker without packets and outcomes may sleep; zero: it has work.
fn max_sleep(maintenance: Status, unsent: bool, starved: bool) -> Duration {
    let unsent = unsent.then_some(MAX_SLEEP_UNSENT);
    let starved = starved.then_some(MAX_SLEEP_STARVED);
    let limits = unsent
        .into_iter()
        .chain(starved)
        .chain(maintenance.timeout());
    limits.min().unwrap_or(MAX_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_keeps_a_worker_awake_unless_it_is_blocked() {
        for (maintenance, unsent, starved, millis) in [
            (Status::Idle, false, false, 1000),
            (Status::Idle, true, false, 10),
            (Status::Idle, true, true, 1),
            (Status::Blocked, false, false, 1),
            (Status::Blocked, true, true, 1),
            (Status::Busy, false, false, 0),
            (Status::Busy, true, true, 0),
        ] {
            let limit = Duration::from_millis(millis);
            let sleep = max_sleep(maintenance, unsent, starved);
            assert_eq!(sleep, limit, "{maintenance:?}");
        }
    }
}
