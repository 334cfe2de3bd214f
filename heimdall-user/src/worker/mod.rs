//! The queue worker: one pinned thread for one AF_XDP socket.
//!
//! It owns the socket, its UMEM, an answer core with its cache, and its counters, and shares none
//! of them. Each turn of its loop takes back the frames that were sent, gives free ones to the
//! kernel, receives a batch, answers it, and takes what the forwarder has ready. A reply is
//! written in the frame that brought the query; after a miss the frame waits here, in
//! a table, until the forwarder's outcome comes.
//!
//! A frame is in one place at any time: the fill ring, the tx ring, waiting for the forwarder, or
//! in the free list. A sum proves it every turn in debug builds, and once a second in
//! all, into the counter `frames_missing`.

mod pending;

use std::{
    io, mem,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    answer::{AHEAD, Client, Core, Hint, Transport, Verdict},
    clock::Clock,
    dns::{Malformed, Query, reply::Reply},
    exit::OnExit,
    forward::{Handle, MAX_REFRESHES, Mailbox, Request},
    maintenance::Maintenance,
    packet::{self, BadPacket, Layout, Packet, SourceFilter},
    stats::{Counter, DropCounters, counters},
    xdp::socket::{BATCH, Frame, Xsk},
};
use pending::{Pending, Waiting};

counters! {
    /// What a worker counts, beside what its answer core counts.
    pub struct WorkerCounters {
        /// Packets received from the rx ring.
        received,
        /// Replies given to the tx ring.
        answered,
        /// Replies SERVFAIL because too many queries wait for the forwarder, or its queue is full.
        overflow,
        /// System calls that told the kernel to send.
        tx_wakeups,
        /// System calls that told the kernel that the fill ring has frames again.
        fill_wakeups,
        /// Times that the worker found nothing to do and slept.
        sleeps,
        /// Frames in all.
        frames_total,
        /// Frames with the kernel, to receive into.
        frames_fill,
        /// Frames with the kernel, being sent.
        frames_tx,
        /// Frames that wait for the forwarder.
        frames_pending,
        /// Frames that nobody uses.
        frames_free,
        /// Frames that are nowhere: always 0.
        frames_missing,
        /// Packets that the kernel dropped for lack of a frame or of memory.
        rx_dropped,
        /// Packets that the kernel dropped because the rx ring was full.
        rx_ring_full,
        /// Times that the kernel found the fill ring empty.
        rx_fill_ring_empty_descs,
        /// Descriptors in the fill ring that the kernel refused: always 0.
        rx_invalid_descs,
        /// Descriptors in the tx ring that the kernel refused: always 0.
        tx_invalid_descs,
        /// Times that the kernel found the tx ring empty when it was asked to send.
        tx_ring_empty_descs,
    }
}

/// Counters that the kernel keeps for each socket.
const RING_COUNTERS: usize = 6;

impl WorkerCounters {
    /// The counters that come from the kernel.
    fn ring(&self) -> [&Counter; RING_COUNTERS] {
        [
            &self.rx_dropped,
            &self.rx_ring_full,
            &self.rx_fill_ring_empty_descs,
            &self.rx_invalid_descs,
            &self.tx_invalid_descs,
            &self.tx_ring_empty_descs,
        ]
    }
}

/// What a worker needs to know, beside what it owns.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Thread name.
    pub name: String,
    /// Core to run on.
    pub cpu: Option<usize>,
    /// The interface's MTU in octets, which may change: no reply is larger.
    pub mtu: Arc<AtomicU32>,
    /// Check the IPv4 header's and UDP's checksums of queries.
    pub verify_checksums: bool,
    /// How long to look for work before going to sleep.
    pub spin: Duration,
    /// Send every query back as it came, instead of answering it: what the rings and the kernel
    /// alone cost.
    pub echo: bool,
}

/// What a worker owns.
#[derive(Debug)]
pub struct Parts {
    /// The socket.
    pub xsk: Xsk,
    /// All the frames of its UMEM.
    pub frames: Vec<Frame>,
    /// The answer core.
    pub core: Core,
    /// Of the core's cache. It rings `mailbox`.
    pub maintenance: Maintenance,
    /// The way to the forwarder.
    pub forwarder: Handle,
    /// The number of `mailbox` with the forwarder.
    pub front: u16,
    /// The way back.
    pub mailbox: Arc<Mailbox>,
    /// Senders that are not answered; replaced when the interface's addresses change.
    pub sources: Arc<ArcSwap<SourceFilter>>,
    /// Queries that were dropped.
    pub drops: Arc<DropCounters>,
    /// What the worker counts. A queue's next worker goes on with the counts of the one before.
    pub counters: Arc<WorkerCounters>,
    /// Dropped when the thread has ended and its socket is closed.
    pub on_exit: OnExit,
}

/// Queries that a worker with so many frames lets wait for the forwarder: half of the frames, so
/// that the kernel always has some to receive into.
pub fn max_pending(frames: usize) -> usize {
    frames / 2
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<io::Result<()>>>,
    stop: Arc<AtomicBool>,
    mailbox: Arc<Mailbox>,
    outstanding: Arc<AtomicUsize>,
    ready: Receiver<()>,
}

/// How a worker ended.
#[derive(Debug)]
pub struct Ended {
    /// What it failed of, unless it was told to stop.
    pub result: io::Result<()>,
    /// Requests of the worker that the forwarder had not answered. Their outcomes still come to
    /// the mailbox, which must be rid of them before another worker uses it: the mailbox has no
    /// room for those of both, and their tokens are alike.
    pub outstanding: usize,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(settings: Settings, mut parts: Parts, clock: Clock) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let outstanding = Arc::new(AtomicUsize::new(0));
        let mailbox = parts.mailbox.clone();
        let on_exit = mem::take(&mut parts.on_exit);
        let (say_ready, ready) = channel();
        let state = State::new(settings, parts, clock, outstanding.clone());
        let thread = thread::Builder::new()
            .name(state.settings.name.clone())
            .spawn({
                let stop = stop.clone();
                move || {
                    // Declared first, dropped last: after the socket in `state`.
                    let _on_exit = on_exit;
                    let mut state = state;
                    state.run(&stop, say_ready)
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            stop,
            mailbox,
            outstanding,
            ready,
        })
    }

    /// Waits until the thread is ready for packets. Those that come sooner wait in the ring.
    pub fn wait_ready(&self) {
        // It says so by hanging up.
        let _ = self.ready.recv();
    }

    /// Stops the thread, if it has not ended by itself. Its socket is closed, and so leaves the
    /// XSKMAP: from then on the XDP program passes its queue's packets to the kernel.
    pub fn stop(mut self) -> Ended {
        let result = self.join();
        Ended {
            result,
            outstanding: self.outstanding.load(Ordering::Acquire),
        }
    }

    fn join(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.mailbox.ring();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the thread panicked, which is a bug")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After `stop` there is no thread left.
        let _ = self.join();
    }
}

/// A packet between the two stages of a batch.
struct Staged {
    frame: Frame,
    layout: Layout,
    query: Result<Query, Malformed>,
    /// Where its answer may be.
    hint: Hint,
    /// What stage 2 makes of it.
    verdict: Verdict,
}

impl Staged {
    /// Has the core fetch what answering it will need next.
    #[inline(always)]
    fn prefetch_entry(&mut self, core: &Core) {
        if let Ok(query) = &self.query {
            self.hint = core.prefetch_entry(query);
        }
    }
}

/// The sender of a packet, as the answer core knows it.
#[inline]
pub fn client(packet: &Packet<'_>) -> Client {
    Client::new(
        packet.source(),
        Transport::Udp {
            source_port: packet.source_port(),
        },
    )
}

/// How many frames are with the kernel.
#[derive(Debug, Default)]
struct Places {
    total: usize,
    fill: usize,
    tx: usize,
}

impl Places {
    /// Frames that are nowhere, given those that the worker holds. Zero, or something is wrong.
    fn missing(&self, held: usize) -> usize {
        self.total.abs_diff(self.fill + self.tx + held)
    }
}

struct State {
    settings: Settings,
    xsk: Xsk,
    core: Core,
    maintenance: Maintenance,
    forwarder: Handle,
    front: u16,
    mailbox: Arc<Mailbox>,
    sources: Arc<ArcSwap<SourceFilter>>,
    drops: Arc<DropCounters>,
    counters: Arc<WorkerCounters>,
    /// The kernel's counts of earlier sockets on this queue.
    earlier: [u64; RING_COUNTERS],
    clock: Clock,
    places: Places,
    free: Vec<Frame>,
    received: Vec<Frame>,
    staged: Vec<Staged>,
    replies: Vec<Frame>,
    /// Packets that the kernel had not taken to send at the last look.
    unsent: u32,
    pending: Pending,
    /// Refreshes under way.
    refreshing: usize,
    /// Set at the end to the number of requests under way.
    outstanding: Arc<AtomicUsize>,
}

impl Drop for State {
    fn drop(&mut self) {
        let outstanding = self.pending.len() + self.refreshing;
        self.outstanding.store(outstanding, Ordering::Release);
        // The frames go with the socket.
        let counters = &self.counters;
        for gauge in [
            &counters.frames_total,
            &counters.frames_fill,
            &counters.frames_tx,
            &counters.frames_pending,
            &counters.frames_free,
        ] {
            gauge.set(0);
        }
    }
}

impl State {
    fn new(settings: Settings, parts: Parts, clock: Clock, outstanding: Arc<AtomicUsize>) -> Self {
        let Parts {
            xsk,
            frames,
            core,
            maintenance,
            forwarder,
            front,
            mailbox,
            sources,
            drops,
            counters,
            on_exit: _,
        } = parts;
        let total = frames.len();
        counters.frames_total.set(total as u64);
        let mut state = Self {
            settings,
            xsk,
            core,
            maintenance,
            forwarder,
            front,
            mailbox,
            sources,
            drops,
            earlier: counters.ring().map(Counter::get),
            counters,
            clock,
            places: Places {
                total,
                fill: 0,
                tx: 0,
            },
            free: frames,
            received: Vec::with_capacity(BATCH),
            staged: Vec::with_capacity(BATCH),
            replies: Vec::with_capacity(2 * BATCH),
            unsent: 0,
            pending: Pending::new(max_pending(total)),
            refreshing: 0,
            outstanding,
        };
        // Before there is a thread: a packet may be steered here sooner than that gets to run, and
        // without a frame to receive into it is lost.
        state.places.fill = state.xsk.refill(&mut state.free);
        state
    }

    fn run(&mut self, stop: &AtomicBool, say_ready: Sender<()>) -> io::Result<()> {
        if let Some(cpu) = self.settings.cpu {
            let mut set = CpuSet::new();
            if let Err(error) = set
                .set(cpu)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
            {
                tracing::warn!(
                    "worker {} cannot run on core {cpu}: {error}",
                    self.settings.name
                );
            }
        }
        self.core.populate();
        drop(say_ready);
        let mut idle_since: Option<Instant> = None;
        let mut accounted = u32::MAX;
        while !stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            self.core.begin(now);
            let work = self.turn()?;
            if now.seconds != accounted {
                accounted = now.seconds;
                self.account();
            }
            if self.maintenance.has_work() {
                let maintenance = &mut self.maintenance;
                self.core
                    .maintain(|cache, now| maintenance.step(cache, now, |_| ()));
                idle_since = None;
            }
            let idle = work == 0 && !self.is_sending();
            if !idle {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= self.settings.spin {
                self.sleep()?;
                idle_since = None;
                continue;
            }
            // Where the kernel's receive thread shares the core, it has to get its turn: the
            // device's queue may hold no more than a millisecond's packets.
            thread::yield_now();
        }
        Ok(())
    }

    /// One turn of the loop. Returns how many packets and outcomes it handled.
    fn turn(&mut self) -> io::Result<usize> {
        let mut reaped = 0;
        loop {
            let count = self.xsk.reap(&mut self.free);
            reaped += count;
            if count < BATCH {
                break;
            }
        }
        self.places.tx -= reaped;
        if !self.free.is_empty() {
            self.places.fill += self.xsk.refill(&mut self.free);
        }
        if self.xsk.fill_needs_wakeup() {
            self.counters.fill_wakeups.add(1);
            self.xsk.wake_fill()?;
        }
        let received = self.xsk.receive(&mut self.received);
        self.places.fill -= received;
        if received > 0 {
            self.counters.received.add(received as u64);
            if self.settings.echo {
                self.echo();
            } else {
                self.stage();
                self.answer();
            }
        }
        let completed = self.complete();
        if !self.replies.is_empty() {
            let sent = self.xsk.send(&mut self.replies);
            self.places.tx += sent;
            self.counters.answered.add(sent as u64);
        }
        if self.xsk.kick()? {
            self.counters.tx_wakeups.add(1);
        }
        debug_assert_eq!(self.places.missing(self.held()), 0);
        Ok(received + completed + reaped)
    }

    /// Whether the kernel has taken packets of the tx ring since the last call. It takes none as
    /// long as the interface is down.
    fn is_sending(&mut self) -> bool {
        let unsent = self.xsk.unsent();
        unsent < mem::replace(&mut self.unsent, unsent)
    }

    /// The interface's MTU as it is now.
    fn mtu(&self) -> usize {
        self.settings.mtu.load(Ordering::Relaxed) as usize
    }

    /// Frames that the worker itself holds between turns.
    fn held(&self) -> usize {
        self.free.len() + self.replies.len() + self.pending.len()
    }

    /// Sends the batch back.
    fn echo(&mut self) {
        for mut frame in self.received.drain(..) {
            let mut turned = None;
            self.xsk.edit(&mut frame, |octets| {
                turned = packet::echo(octets);
                None
            });
            match turned {
                Some(()) => self.replies.push(frame),
                None => self.free.push(frame),
            }
        }
    }

    /// Stage 1: reads each packet, and starts to fetch what answering it will need.
    #[inline]
    fn stage(&mut self) {
        let sources = self.sources.load();
        for frame in self.received.drain(..) {
            let packet = self.xsk.packet(&frame);
            match Layout::read(packet, &sources, self.settings.verify_checksums) {
                Ok(layout) => {
                    let query = self.core.read(layout.query(packet));
                    if let Ok(query) = &query {
                        self.core.prefetch(query);
                    }
                    self.staged.push(Staged {
                        frame,
                        layout,
                        query,
                        hint: Hint::default(),
                        verdict: Verdict::Drop,
                    });
                }
                Err(bad) => {
                    match bad {
                        BadPacket::Length => &self.drops.bad_length,
                        BadPacket::Checksum => &self.drops.bad_checksum,
                        BadPacket::Source => &self.drops.bad_source,
                    }
                    .add(1);
                    self.free.push(frame);
                }
            }
        }
    }

    /// Stage 2: answers each packet, or hands its question to the forwarder.
    #[inline]
    fn answer(&mut self) {
        let mut missed = false;
        let mtu = self.mtu();
        let mut staged = mem::take(&mut self.staged);
        for next in staged.iter_mut().take(AHEAD) {
            next.prefetch_entry(&self.core);
        }
        for at in 0..staged.len() {
            if let Some(next) = staged.get_mut(at + AHEAD) {
                next.prefetch_entry(&self.core);
            }
            // In place: a query that is moved first is written and read in unlike pieces, for
            // which the processor waits.
            let Some(Staged {
                frame,
                layout,
                query,
                hint,
                verdict,
            }) = staged.get_mut(at)
            else {
                break;
            };
            let mut refresh = None;
            self.xsk.edit(frame, |octets| {
                let packet = layout.open(octets, mtu)?;
                let client = client(&packet);
                *verdict = match query {
                    Ok(query) => {
                        let verdict = self.core.answer_at(*hint, query, packet.room, client);
                        if self.core.take_refresh(query, packet.room) {
                            refresh =
                                Request::refresh(query, packet.room, client.address(), self.front);
                        }
                        verdict
                    }
                    Err(malformed) => self.core.reject(*malformed, packet.room, client),
                };
                match *verdict {
                    Verdict::Reply(Reply { len, sum }) => packet.turn_round(len, sum),
                    Verdict::Drop | Verdict::Miss => None,
                }
            });
            if let Some(request) = refresh {
                missed |= self.refresh(request);
            }
        }
        for Staged {
            frame,
            layout,
            query,
            verdict,
            ..
        } in staged.drain(..)
        {
            match (verdict, query) {
                (Verdict::Reply(_), _) => self.replies.push(frame),
                (Verdict::Miss, Ok(query)) => {
                    missed = true;
                    let waiting = Waiting {
                        frame,
                        layout,
                        query,
                    };
                    if let Some(waiting) = self.forward(waiting) {
                        self.counters.overflow.add(1);
                        self.reply(waiting, |core, query, room, client| {
                            core.overload(query, room, client)
                        });
                    }
                }
                _ => self.free.push(frame),
            }
        }
        self.staged = staged;
        if missed {
            self.forwarder.flush();
        }
    }

    /// Hands a question to the forwarder; gives it back if there is no room for it.
    fn forward(&mut self, waiting: Waiting) -> Option<Waiting> {
        let Some(token) = self.pending.next_token() else {
            return Some(waiting);
        };
        let packet = self.xsk.packet(&waiting.frame);
        let (message, client) = (waiting.layout.query(packet), waiting.layout.source(packet));
        let request = Request::new(&waiting.query, message, client, self.front, token);
        match request.map(|request| self.forwarder.submit(request)) {
            Some(Ok(())) => self.pending.insert(token, waiting),
            _ => Some(waiting),
        }
    }

    /// Has the forwarder get an answer anew. `false`: it has too much to do.
    #[cold]
    fn refresh(&mut self, request: Request) -> bool {
        let taken = self.refreshing < MAX_REFRESHES && self.forwarder.submit(request).is_ok();
        self.refreshing += usize::from(taken);
        taken
    }

    /// Writes a reply in the frame of a query that has waited.
    fn reply(
        &mut self,
        waiting: Waiting,
        write: impl FnOnce(&mut Core, &Query, &mut [u8], Client) -> Verdict,
    ) {
        let Waiting {
            mut frame,
            layout,
            query,
        } = waiting;
        let mut replied = false;
        let mtu = self.mtu();
        self.xsk.edit(&mut frame, |octets| {
            let packet = layout.open(octets, mtu)?;
            let client = client(&packet);
            let verdict = write(&mut self.core, &query, packet.room, client);
            let Verdict::Reply(Reply { len, sum }) = verdict else {
                return None;
            };
            let len = packet.turn_round(len, sum);
            replied = len.is_some();
            len
        });
        if replied {
            self.replies.push(frame);
        } else {
            self.free.push(frame);
        }
    }

    /// Replies to the queries for which the forwarder has an outcome.
    fn complete(&mut self) -> usize {
        let mut completed = 0;
        while completed < BATCH
            && let Some(outcome) = self.mailbox.take()
        {
            completed += 1;
            if let Some(request) = outcome.refreshed {
                self.refreshing -= 1;
                self.core.relearn(&request.key(), &outcome.answer);
                continue;
            }
            let Some(waiting) = self.pending.remove(outcome.token) else {
                continue;
            };
            self.reply(waiting, |core, query, room, client| {
                core.learn(query, room, &outcome.answer);
                core.complete(query, room, client, &outcome.answer)
            });
        }
        completed
    }

    /// Sleeps until a packet or an outcome comes, or a second has passed; 10 ms, if the kernel
    /// is to be asked again to send.
    fn sleep(&mut self) -> io::Result<()> {
        self.counters.sleeps.add(1);
        let mut fds = [
            PollFd::new(self.xsk.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.mailbox.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = if self.unsent > 0 { 10 } else { 1000u16 };
        match poll(&mut fds, PollTimeout::from(timeout)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [xsk, mailbox] = &fds;
        if xsk
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL))
        {
            return Err(io::Error::other(
                "the AF_XDP socket failed; is the interface gone?",
            ));
        }
        if mailbox.any().unwrap_or_default() {
            self.mailbox.silence();
        }
        Ok(())
    }

    /// Brings the gauges up to date.
    #[cold]
    fn account(&self) {
        let counters = &self.counters;
        counters.frames_fill.set(self.places.fill as u64);
        counters.frames_tx.set(self.places.tx as u64);
        counters.frames_pending.set(self.pending.len() as u64);
        counters.frames_free.set(self.free.len() as u64);
        counters
            .frames_missing
            .set(self.places.missing(self.held()) as u64);
        if let Ok(kernel) = self.xsk.statistics() {
            let counts = [
                kernel.rx_dropped(),
                kernel.rx_ring_full(),
                kernel.rx_fill_ring_empty_descs(),
                kernel.rx_invalid_descs(),
                kernel.tx_invalid_descs(),
                kernel.tx_ring_empty_descs(),
            ];
            for ((counter, earlier), count) in counters.ring().iter().zip(self.earlier).zip(counts)
            {
                counter.set(earlier + count);
            }
        }
    }
}
