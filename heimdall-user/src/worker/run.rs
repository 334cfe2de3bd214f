//! The loop of a worker's thread.

use std::{
    hint, io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{Receiver, Sender},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    unistd::Pid,
};

use super::{
    Outstanding, WorkerCounters, WorkerOptions, WorkerResources,
    frames::{FrameMessage, ParkedFrame},
    idle::{Idle, IdleMode, Wait},
    queues::{Queue, Queues},
};
use crate::{
    front::{Batch, Engine},
    heartbeat,
    maintenance::Status,
    packet::{BadPacket, Layout},
    stats::DropCounters,
    xdp::xsk::{BATCH, Frame},
};

/// Longest sleep of an idle worker.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// What the thread is told: a queue was added, or is told something.
pub(super) const NEWS: u8 = 1;
/// To end.
pub(super) const STOP: u8 = 2;

/// Events taken from epoll at once.
const EVENTS: usize = 16;

/// The engine's event among those of epoll; the others are slots.
const ENGINE: u64 = u64::MAX;

/// What the thread owns. The queues go first, so that the kernel gets them back at once: dropping the cache takes its
/// time.
pub(super) struct State {
    options: WorkerOptions,
    queues: Queues,
    added: Receiver<Queue>,
    events: Epoll,
    engine: Engine<ParkedFrame>,
    reader: Reader,
    counters: Arc<WorkerCounters>,
    idle: Idle,
    /// The last one: whoever reads it knows that the thread uses nothing any more.
    at_end: AtEnd,
}

/// Tells the number of requests under way when it is dropped.
struct AtEnd {
    outstanding: Outstanding,
    count: usize,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.outstanding.set(self.count);
    }
}

/// Reads packets into a batch.
struct Reader {
    verify_checksums: bool,
    drops: Arc<DropCounters>,
    received: Vec<Frame>,
    batch: Batch<FrameMessage>,
}

impl Drop for State {
    fn drop(&mut self) {
        // After a panic within a round, requests may be queued of which the forwarder does not know.
        self.engine.end();
        self.at_end.count = self.engine.outstanding();
    }
}

impl State {
    pub(super) fn new(
        options: WorkerOptions,
        resources: WorkerResources,
        added: Receiver<Queue>,
        outstanding: Outstanding,
    ) -> io::Result<Self> {
        let mut engine = Engine::new(resources.engine);
        if let Some(nominator) = resources.nominator {
            engine.nominate_to(nominator);
        }
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        events.add(engine.event(), EpollEvent::new(EpollFlags::EPOLLIN, ENGINE))?;
        Ok(Self {
            queues: Queues::default(),
            added,
            events,
            engine,
            reader: Reader {
                verify_checksums: options.verify_checksums,
                drops: resources.drops,
                received: Vec::with_capacity(BATCH),
                batch: Batch::new(),
            },
            counters: resources.counters,
            idle: Idle::new(options.idle),
            options,
            at_end: AtEnd {
                outstanding,
                count: 0,
            },
        })
    }

    pub(super) fn run(&mut self, told: &AtomicU8, ready: Sender<()>) -> io::Result<()> {
        self.pin();
        drop(ready);
        let mut accounted = u32::MAX;
        loop {
            heartbeat::beat();
            // Before the turn, which takes from the rings what has arrived by then.
            if told.load(Ordering::Acquire) != 0 {
                if told.swap(0, Ordering::Acquire) & STOP != 0 {
                    break;
                }
                self.read_news();
            }
            let now = self.engine.begin();
            let work = self.turn();
            if now.seconds != accounted {
                accounted = now.seconds;
                for queue in self.queues.iter_mut() {
                    queue.frames.account();
                    // A worker that never sleeps has to wake the kernel again for what was not sent, too.
                    queue.frames.rings.note_pause();
                }
            }
            if self.queues.leaving {
                self.end_leaving();
            }
            let sleep = max_sleep(self.engine.maintain(), self.queues.max_sleep());
            if work > 0 || sleep.is_zero() {
                self.idle.worked();
                continue;
            }
            match self.idle.wait(Instant::now) {
                Wait::Look => hint::spin_loop(),
                Wait::BusyPoll => self.busy_poll(),
                Wait::Sleep => self.sleep(sleep)?,
            }
        }
        self.queues.iter().for_each(|queue| queue.frames.account());
        Ok(())
    }

    fn pin(&self) {
        if let Some(cpu) = self.options.cpu {
            let mut set = CpuSet::new();
            if let Err(error) = set
                .set(cpu)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
            {
                tracing::warn!("{} cannot run on core {cpu}: {error}", self.options.name);
            }
        }
    }

    /// Takes the queues that were added, and reads what each is told.
    #[cold]
    fn read_news(&mut self) {
        while let Ok(queue) = self.added.try_recv() {
            let queue = self.queues.add(queue);
            let event = EpollEvent::new(EpollFlags::EPOLLIN, queue.frames.slot as u64);
            if let Err(error) = self.events.add(queue.as_fd(), event) {
                queue.fail(error.into());
                self.queues.leaving = true;
            }
        }
        self.queues.read_told();
        self.choose_idle();
    }

    /// Ends the queues that are to end.
    #[cold]
    fn end_leaving(&mut self) {
        let events = &self.events;
        // Their owner has descriptors of the sockets, which would keep them in the epoll instance.
        self.queues
            .end_leaving(|socket: BorrowedFd<'_>| _ = events.delete(socket));
        self.choose_idle();
    }

    fn choose_idle(&mut self) {
        let mode = match self.options.idle {
            IdleMode::BusyPoll if !self.queues.iter().all(|queue| queue.busy_poll) => {
                IdleMode::Sleep
            }
            mode => mode,
        };
        self.idle = Idle::new(mode);
    }

    /// One turn of the loop. Returns how many packets and outcomes it handled.
    fn turn(&mut self) -> usize {
        let Self {
            queues,
            engine,
            reader,
            ..
        } = self;
        let (mut taken, mut failed) = (0, false);
        // The last queue's replies are sent with those of queries that are completed: one system call for both.
        let last = queues.len().wrapping_sub(1);
        for (at, queue) in queues.iter_mut().enumerate() {
            match answer(queue, engine, reader, at > 0, at < last) {
                Ok(()) => taken += queue.taken,
                Err(error) => {
                    queue.fail(error);
                    failed = true;
                }
            }
        }
        let completed = engine.complete(queues);
        // First: if the rings fail, the forwarder still gets what it was handed.
        engine.end();
        for queue in queues.iter_mut() {
            if let Err(error) = queue.frames.rings.flush() {
                queue.fail(error);
                failed = true;
            }
            debug_assert_eq!(queue.frames.missing(), 0);
        }
        engine.sent();
        queues.leaving |= failed;
        taken + completed
    }

    fn busy_poll(&mut self) {
        let mut failed = false;
        for queue in self.queues.iter_mut() {
            if let Err(error) = queue.frames.rings.busy_poll() {
                queue.fail(error);
                failed = true;
            }
        }
        self.queues.leaving |= failed;
    }

    /// Sleeps until a packet, an outcome or news arrive, for `timeout` at most.
    fn sleep(&mut self, timeout: Duration) -> io::Result<()> {
        if !self.engine.prepare_to_sleep() {
            return Ok(());
        }
        self.counters.sleeps.add(1);
        let mut failed = false;
        for queue in self.queues.iter_mut() {
            if let Err(error) = queue.frames.rings.wake_fill() {
                queue.fail(error);
                failed = true;
            }
        }
        if failed {
            self.queues.leaving = true;
            self.engine.awake();
            return Ok(());
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        let timeout = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let waited = self.events.wait(&mut events, EpollTimeout::from(timeout));
        self.engine.awake();
        let ready = match waited {
            Ok(0) => {
                let rings = self.queues.iter_mut().map(|queue| &mut queue.frames.rings);
                rings.for_each(|rings| rings.note_pause());
                return Ok(());
            }
            Ok(ready) => ready,
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(ready) {
            if event.data() == ENGINE {
                self.engine.silence();
            } else if event
                .events()
                .intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
                && let Some(queue) = self.queues.get_mut(event.data() as usize)
            {
                queue.fail(io::Error::other(
                    "the AF_XDP socket failed; is the interface gone?",
                ));
                self.queues.leaving = true;
            }
        }
        Ok(())
    }
}

/// Receives a batch of a queue and has the engine answer it. `later`: others were received before it in this turn;
/// `at_once`: replies do not wait for the end of the turn.
#[inline(always)]
fn answer(
    queue: &mut Queue,
    engine: &mut Engine<ParkedFrame>,
    reader: &mut Reader,
    later: bool,
    at_once: bool,
) -> io::Result<()> {
    queue.taken = queue.frames.rings.receive(&mut reader.received)?;
    if queue.taken == 0 {
        return Ok(());
    }
    if later {
        engine.begin_batch();
    }
    reader.read(queue, engine);
    engine.answer(&mut reader.batch, &mut queue.frames);
    if at_once {
        queue.frames.rings.flush()?;
        engine.sent();
    }
    Ok(())
}

impl Reader {
    /// Reads the packets that were received into the batch.
    #[inline]
    fn read(&mut self, queue: &mut Queue, engine: &mut Engine<ParkedFrame>) {
        let sources = queue.sources.load();
        let rings = &mut queue.frames.rings;
        for frame in self.received.drain(..) {
            let packet = rings.packet(&frame);
            match Layout::read(packet, &sources, self.verify_checksums) {
                Ok(layout) => {
                    let query = engine.read(layout.query(packet));
                    self.batch.push(FrameMessage { frame, layout }, query);
                }
                Err(bad) => {
                    match bad {
                        BadPacket::Length => &self.drops.bad_length,
                        BadPacket::Checksum => &self.drops.bad_checksum,
                        BadPacket::Source => &self.drops.bad_source,
                    }
                    .add(1);
                    rings.free(frame);
                }
            }
        }
    }
}

/// How long a worker without packets and outcomes may sleep, with the limit of its queues; zero: it has work.
fn max_sleep(maintenance: Status, queues: Option<Duration>) -> Duration {
    let limits = queues.into_iter().chain(maintenance.timeout());
    limits.min().unwrap_or(MAX_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_keeps_a_worker_awake_unless_it_is_blocked() {
        let millis = Duration::from_millis;
        for (maintenance, queues, expected) in [
            (Status::Idle, None, 1000),
            (Status::Idle, Some(millis(10)), 10),
            (Status::Idle, Some(millis(1)), 1),
            (Status::Blocked, None, 1),
            (Status::Blocked, Some(millis(10)), 1),
            (Status::Busy, None, 0),
            (Status::Busy, Some(millis(1)), 0),
        ] {
            let sleep = max_sleep(maintenance, queues);
            assert_eq!(sleep, millis(expected), "{maintenance:?}");
        }
    }
}
