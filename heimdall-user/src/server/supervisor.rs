//! The owner of AF_XDP while the server runs: of each interface's program, and of each queue's
//! socket and worker.
//!
//! Its thread sleeps until netlink reports a change of links or addresses, a worker ends, or the
//! next attempt is due, for a second at most. It steers to the addresses that an interface has, checks
//! that what is steered arrives, notices that an
//! interface went away or came back and that a worker failed, and starts again what can run, with
//! growing pauses. Meanwhile the packets of a queue without a worker go to the sockets: its entry
//! in the XSKMAP went with its AF_XDP socket, and the program with its interface.
//!
//! A queue keeps its mailbox, its number with the forwarder, its command queue and its counters
//! over restarts. Its cache starts empty.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use heimdall_ebpf::Verdict;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tracing::{debug, info, warn};

use super::{
    CoreCounters, CoreParts, ServerError,
    attached::Attached,
    report::{InterfaceReport, WorkerReport, XdpReport},
    start,
    threads::Threads,
    xdp::{AfXdpError, OpenInterface, OpenXdp, Queue, attach, open_queue},
};
use crate::{
    config::{Config, InterfaceConfig, XdpConfig},
    exit::OnExit,
    forward::{Handle, Mailbox},
    front,
    maintenance::{CommandQueue, Maintenance},
    worker::{Worker, WorkerCounters, WorkerOptions, WorkerResources},
    xdp::{
        Interface, LinkWatch, XdpError,
        socket::{Frame, Xsk},
    },
};

/// Pause before the second attempt to start something; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How often to check that what is steered arrives.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What has run for so long counts as healthy: the next pause is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// A handle to the supervisor.
pub(super) struct Xdp {
    thread: JoinHandle<()>,
    signal: Arc<Signal>,
    report: Arc<ArcSwap<XdpReport>>,
    command_queues: Vec<(String, Arc<CommandQueue>)>,
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp")
            .field("workers", &self.command_queues.len())
            .finish_non_exhaustive()
    }
}

impl Xdp {
    /// Starts the workers, then the steering of `addresses`, then the supervisor. The workers'
    /// numbers with the forwarder are those from `front` on, in the order of
    /// [`OpenXdp::mailboxes`].
    ///
    /// # Errors
    /// A worker or the supervisor cannot be started; nothing stays attached or running.
    pub(super) fn start(
        open: OpenXdp,
        config: &Config,
        addresses: Vec<SocketAddr>,
        parts: CoreParts,
        forwarder: Handle,
        front: u16,
        threads: &Arc<Threads>,
    ) -> Result<Self, ServerError> {
        let signal = Arc::new(Signal::new().map_err(start("the supervisor"))?);
        let means = Means {
            settings: config.xdp.clone(),
            addresses,
            parts,
            forwarder,
            signal: Arc::clone(&signal),
        };
        let mut numbers = (front..).enumerate();
        let mut interfaces = Vec::new();
        for interface in open.interfaces {
            interfaces.push(InterfaceSlot::start(interface, &mut numbers, &means)?);
        }
        for interface in &mut interfaces {
            interface.serve()?;
        }
        let queues = interfaces.iter().flat_map(|interface| &interface.queues);
        let command_queues = queues.map(|queue| (queue.name.clone(), Arc::clone(&queue.commands)));
        let command_queues = command_queues.collect();
        let report = Arc::new(ArcSwap::from_pointee(report(&interfaces)));
        let supervisor = Supervisor {
            interfaces,
            watch: open.watch,
            means,
            report: Arc::clone(&report),
        };
        let on_exit = threads.essential("AF_XDP supervisor");
        let thread = thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                let _on_exit = on_exit;
                supervisor.run();
            })
            .map_err(start("the supervisor"))?;
        Ok(Self {
            thread,
            signal,
            report,
            command_queues,
        })
    }

    /// The state and the counters of AF_XDP, brought up to date by the supervisor.
    pub(super) fn report(&self) -> Arc<ArcSwap<XdpReport>> {
        Arc::clone(&self.report)
    }

    /// The queues' names, and the command queue of each one's cache.
    pub(super) fn command_queues(&self) -> impl Iterator<Item = (String, Arc<CommandQueue>)> {
        self.command_queues.iter().cloned()
    }

    /// Detaches the programs and ends the workers.
    pub(super) fn stop(self) {
        self.signal.stop();
        // If it panicked, that has been logged; its workers ended with it.
        let _ = self.thread.join();
    }
}

/// Wakes the supervisor.
struct Signal {
    event: EventFd,
    stop: AtomicBool,
}

impl Signal {
    fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: EventFd::from_flags(flags)?,
            stop: AtomicBool::new(false),
        })
    }

    fn wake(&self) {
        // EAGAIN: it is readable already.
        let _ = self.event.write(1);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake();
    }
}

/// What it takes to attach to an interface and to start workers.
struct Means {
    settings: XdpConfig,
    addresses: Vec<SocketAddr>,
    parts: CoreParts,
    forwarder: Handle,
    signal: Arc<Signal>,
}

struct Supervisor {
    interfaces: Vec<InterfaceSlot>,
    watch: LinkWatch,
    means: Means,
    report: Arc<ArcSwap<XdpReport>>,
}

impl Supervisor {
    fn run(mut self) {
        let mut changed = true;
        let mut checked = Instant::now();
        while !self.means.signal.stop.load(Ordering::SeqCst) {
            let now = Instant::now();
            let check = now.saturating_duration_since(checked) >= CHECK_INTERVAL;
            if check {
                checked = now;
            }
            for interface in &mut self.interfaces {
                if changed {
                    interface.look(now);
                }
                interface.tend(now, &self.means);
                if check {
                    interface.check();
                }
            }
            self.report.store(Arc::new(report(&self.interfaces)));
            changed = self.wait();
        }
        self.stop();
    }

    /// Sleeps until there is something to do; whether links or addresses have changed.
    fn wait(&self) -> bool {
        let due = self.interfaces.iter().filter_map(InterfaceSlot::due).min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.map_or(CHECK_INTERVAL, |left| left.min(CHECK_INTERVAL));
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout = PollTimeout::from(u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX));
        let signal = &self.means.signal;
        let mut fds = [
            PollFd::new(self.watch.as_fd(), PollFlags::POLLIN),
            PollFd::new(signal.event.as_fd(), PollFlags::POLLIN),
        ];
        let waited = match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(XdpError::System {
                action: "wait for changes of interfaces",
                source: error.into(),
            }),
        };
        // EAGAIN: nobody woke us.
        let _ = signal.event.read();
        waited
            .and_then(|()| self.watch.drain())
            .unwrap_or_else(|error| {
                warn!("{error}; looking again in {} s", FIRST_PAUSE.as_secs());
                thread::sleep(FIRST_PAUSE);
                true
            })
    }

    fn stop(self) {
        for interface in &self.interfaces {
            // Nothing more is steered, so that the workers leave no packet behind in their rings.
            if let Some(attached) = &interface.attached
                && let Err(error) = attached.program().set_served(&BTreeSet::new())
            {
                warn!("{error}");
            }
        }
        for mut interface in self.interfaces {
            for queue in &mut interface.queues {
                if let Some(Err(error)) = queue.stop() {
                    warn!("{}: {error}", queue.name);
                }
            }
        }
    }
}

/// When to attempt something again.
struct Backoff {
    pause: Duration,
    due: Instant,
}

impl Backoff {
    fn new(now: Instant) -> Self {
        Self {
            pause: FIRST_PAUSE,
            due: now,
        }
    }

    /// An attempt failed, or what was started failed after it `ran` for some time. Returns the
    /// pause before the next attempt.
    fn failed(&mut self, now: Instant, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.due = now + pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

/// Why the program is not attached to an interface.
enum Detached {
    /// There is no such interface. Netlink will tell when there is.
    Gone,
    /// It cannot be attached: to be attempted again.
    Failed(String),
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("there is no such interface"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// An interface that is to be served.
struct InterfaceSlot {
    wanted: InterfaceConfig,
    attached: Option<Arc<Attached>>,
    /// Why `attached` is none.
    detached: Detached,
    backoff: Backoff,
    /// As `ip link set up` leaves it.
    up: bool,
    queues: Vec<QueueSlot>,
    /// Verdicts of earlier programs on this interface.
    verdicts: [u64; Verdict::COUNT],
}

impl InterfaceSlot {
    /// Starts the workers of an interface that is open.
    fn start(
        open: OpenInterface,
        numbers: &mut impl Iterator<Item = (usize, u16)>,
        means: &Means,
    ) -> Result<Self, ServerError> {
        let OpenInterface {
            wanted,
            attached,
            queues: open,
        } = open;
        let mut queues = Vec::new();
        for (queue, (number, front)) in open.into_iter().zip(numbers) {
            let Queue {
                queue,
                xsk,
                frames,
                mailbox,
            } = queue;
            let name = format!("{}:{queue}", wanted.name);
            let mut slot = QueueSlot::new(name, queue, front, means.settings.cpu(number), mailbox);
            slot.start(&attached, xsk, frames, means)?;
            queues.push(slot);
        }
        Ok(Self {
            up: attached.interface.up,
            attached: Some(attached),
            detached: Detached::Gone,
            backoff: Backoff::new(Instant::now()),
            wanted,
            queues,
            verdicts: [0; Verdict::COUNT],
        })
    }

    /// Waits until the workers are ready, and steers packets to them.
    fn serve(&mut self) -> Result<(), AfXdpError> {
        if let Some(attached) = &self.attached {
            for queue in &mut self.queues {
                queue.register(attached)?;
            }
            attached.follow()?;
        }
        Ok(())
    }

    /// Finds out what became of the interface and its addresses.
    fn look(&mut self, now: Instant) {
        let name = &self.wanted.name;
        let found = match Interface::find(name) {
            Ok(found) => Some(found),
            Err(XdpError::UnknownInterface { .. }) => None,
            // Another interface has the name now, of a kind that AF_XDP cannot serve: attaching to
            // it fails, and says why.
            Err(XdpError::Virtual { .. } | XdpError::NotEthernet { .. }) => {
                if self.attached.is_some() {
                    self.gone(true, now);
                } else if matches!(self.detached, Detached::Gone) {
                    self.appeared(now);
                }
                return;
            }
            // The kernel did not answer.
            Err(error) => {
                warn!("{error}");
                return;
            }
        };
        match (&self.attached, found) {
            (Some(attached), Some(found)) if found.index == attached.interface.index => {
                let came_up = found.up && !self.up;
                if came_up {
                    info!("{name} is up");
                } else if self.up && !found.up {
                    warn!("{name} is down: no queries come by it");
                }
                self.up = found.up;
                follow(attached);
                if came_up {
                    // What failed because it was down need not wait for its turn.
                    self.queues
                        .iter_mut()
                        .for_each(|queue| queue.backoff.due = now);
                }
            }
            (Some(_), found) => self.gone(found.is_some(), now),
            (None, Some(found)) => {
                let came_up = found.up && !self.up;
                self.up = found.up;
                if came_up || matches!(self.detached, Detached::Gone) {
                    self.appeared(now);
                }
            }
            (None, None) => self.detached = Detached::Gone,
        }
    }

    /// There is something new to attach to.
    fn appeared(&mut self, now: Instant) {
        self.backoff.due = now;
        self.detached = Detached::Failed("it is being attached".to_owned());
    }

    /// Ends what ran on an interface that is gone; `replaced`: there is another of its name.
    fn gone(&mut self, replaced: bool, now: Instant) {
        warn!(
            "{} is gone, and its queues with it; AF_XDP goes on when there is an interface of that \
             name",
            self.wanted.name
        );
        for queue in &mut self.queues {
            // What they failed of is that the interface is gone.
            let _ = queue.stop();
            queue.state = State::Stopped("the interface is gone".to_owned());
            queue.backoff = Backoff::new(now);
        }
        if let Some(attached) = self.attached.take() {
            self.verdicts = verdicts(&attached, &self.verdicts);
        }
        self.up = false;
        self.backoff = Backoff::new(now);
        self.detached = Detached::Gone;
        if replaced {
            self.appeared(now);
        }
    }

    /// Starts what is due, after a look at what has ended.
    fn tend(&mut self, now: Instant, means: &Means) {
        for queue in &mut self.queues {
            queue.reap(now);
        }
        if self.attached.is_none() && self.due().is_some_and(|due| due <= now) {
            self.attach(now, means);
        }
        let Some(attached) = self.attached.clone() else {
            return;
        };
        let mut started = false;
        for queue in &mut self.queues {
            if queue.is_due(now) {
                started |= queue.restart(&attached, now, means);
            }
        }
        if started {
            follow(&attached);
        }
    }

    /// Gives up the steering if nothing of it arrives.
    fn check(&self) {
        let workers = || {
            self.queues.iter().fold((0, 0), |(arrived, slept), queue| {
                let counters = &queue.counters;
                let dropped = counters.rx_dropped.get() + counters.rx_ring_full.get();
                let received = counters.received.get();
                (arrived + received + dropped, slept + counters.sleeps.get())
            })
        };
        if let Some(attached) = &self.attached {
            attached.check(workers);
        }
    }

    fn attach(&mut self, now: Instant, means: &Means) {
        let name = &self.wanted.name;
        match attach(&self.wanted, &means.addresses) {
            Ok((attached, numbers)) => {
                let mode = attached.program().attach_mode().name();
                info!("{name} is back: XDP program attached ({mode})");
                if numbers.len() > self.queues.len() {
                    warn!(
                        "{name} now has {} queues, of which AF_XDP serves {}; restart to serve all",
                        numbers.len(),
                        self.queues.len()
                    );
                }
                self.up = attached.interface.up;
                self.attached = Some(attached);
                self.queues
                    .iter_mut()
                    .for_each(|queue| queue.backoff.due = now);
            }
            Err(XdpError::UnknownInterface { .. }) => self.detached = Detached::Gone,
            Err(error) => {
                let pause = self.backoff.failed(now, Duration::ZERO);
                let why = error.to_string();
                complain(&self.detached.to_string(), &why, name, pause);
                self.detached = Detached::Failed(why);
            }
        }
    }

    /// When something is to be attempted, if anything is.
    fn due(&self) -> Option<Instant> {
        match (&self.attached, &self.detached) {
            (Some(_), _) => self.queues.iter().filter_map(QueueSlot::due).min(),
            (None, Detached::Failed(_)) => Some(self.backoff.due),
            (None, Detached::Gone) => None,
        }
    }

    fn report(&self) -> InterfaceReport {
        let (state, reason) = match (&self.attached, &self.detached) {
            (Some(_), _) if self.up => ("up", None),
            (Some(_), _) => ("down", None),
            (None, Detached::Gone) => ("gone", Some(self.detached.to_string())),
            (None, Detached::Failed(why)) => ("failed", Some(why.clone())),
        };
        let program = self.attached.as_ref().map(|attached| attached.program());
        let attach = program.as_ref().map(|program| program.attach_mode().name());
        let program_id = program.as_ref().map(|program| program.id());
        // The program goes when the supervisor drops it, whoever still holds a report.
        let attached = self.attached.as_ref().map(Arc::downgrade);
        let earlier = self.verdicts;
        InterfaceReport {
            name: self.wanted.name.clone(),
            state,
            reason,
            attach,
            program_id,
            verdicts: Box::new(move || {
                let attached = attached.as_ref().and_then(std::sync::Weak::upgrade);
                let counts = attached.map_or(earlier, |attached| verdicts(&attached, &earlier));
                let names = Verdict::ALL.iter().map(|verdict| verdict.name());
                names.zip(counts).collect()
            }),
        }
    }
}

/// Brings what is steered up to date with the interface.
fn follow(attached: &Attached) {
    if let Err(error) = attached.follow() {
        attached.tell(vec![error.to_string()]);
    }
}

/// The program's counts, added to `earlier` ones; those alone if the kernel does not give them.
fn verdicts(attached: &Attached, earlier: &[u64; Verdict::COUNT]) -> [u64; Verdict::COUNT] {
    let mut counts = attached.program().verdicts().unwrap_or_default();
    for (count, earlier) in counts.iter_mut().zip(earlier) {
        *count += earlier;
    }
    counts
}

/// What a queue's worker does.
enum State {
    Running {
        worker: Worker,
        /// Set when its thread has ended.
        ended: Arc<AtomicBool>,
        since: Instant,
        /// `zero-copy` or `copy`.
        mode: &'static str,
        /// Its socket, until the program has it.
        unregistered: Option<OwnedFd>,
    },
    /// It does not run, and why.
    Stopped(String),
}

/// A queue that is to be served.
struct QueueSlot {
    /// `eth0:3`.
    name: String,
    queue: u32,
    front: u16,
    cpu: Option<usize>,
    mailbox: Arc<Mailbox>,
    commands: Arc<CommandQueue>,
    counters: Arc<WorkerCounters>,
    core: CoreCounters,
    state: State,
    backoff: Backoff,
    restarts: u64,
    /// Outcomes for requests of earlier workers that have yet to come.
    outstanding: usize,
}

impl QueueSlot {
    fn new(
        name: String,
        queue: u32,
        front: u16,
        cpu: Option<usize>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let maintenance = Maintenance::new({
            let mailbox = Arc::clone(&mailbox);
            move || mailbox.ring()
        });
        Self {
            name,
            queue,
            front,
            cpu,
            mailbox,
            commands: maintenance.queue(),
            counters: Arc::default(),
            core: CoreCounters::default(),
            state: State::Stopped("it is being started".to_owned()),
            backoff: Backoff::new(Instant::now()),
            restarts: 0,
            outstanding: 0,
        }
    }

    /// Starts a worker on an open socket.
    fn start(
        &mut self,
        attached: &Attached,
        xsk: Xsk,
        frames: Vec<Frame>,
        means: &Means,
    ) -> Result<(), ServerError> {
        let core = means.parts.core(&self.core)?;
        let mode = xsk.mode().name();
        let socket = xsk.as_fd().try_clone_to_owned();
        let socket = socket.map_err(start("a worker"))?;
        let ended = Arc::new(AtomicBool::new(false));
        let on_exit = OnExit::new({
            let (ended, signal) = (Arc::clone(&ended), Arc::clone(&means.signal));
            move || {
                ended.store(true, Ordering::SeqCst);
                signal.wake();
            }
        });
        let options = WorkerOptions {
            name: self.name.clone(),
            cpu: self.cpu,
            verify_checksums: means.settings.verify_checksums,
            spin: means.settings.spin,
            echo: means.settings.echo,
        };
        let resources = WorkerResources {
            xsk,
            frames,
            engine: front::Resources {
                core,
                maintenance: Maintenance::take_over(Arc::clone(&self.commands)),
                forwarder: means.forwarder.clone(),
                mailbox: Arc::clone(&self.mailbox),
                front: self.front,
                clock: means.parts.clock,
            },
            mtu: Arc::clone(&attached.mtu),
            sources: Arc::clone(&attached.sources),
            drops: Arc::clone(&self.core.drops),
            counters: Arc::clone(&self.counters),
            on_exit,
        };
        let worker = Worker::start(options, resources).map_err(start("a worker"))?;
        self.state = State::Running {
            worker,
            ended,
            since: Instant::now(),
            mode,
            unregistered: Some(socket),
        };
        Ok(())
    }

    /// Has packets steered to a worker that was started, once it is ready.
    fn register(&mut self, attached: &Attached) -> Result<(), XdpError> {
        if let State::Running {
            worker,
            unregistered,
            ..
        } = &mut self.state
            && let Some(socket) = unregistered.take()
        {
            worker.wait_ready();
            attached.program().register(self.queue, socket.as_fd())?;
        }
        Ok(())
    }

    /// Restarts the worker, and has packets steered to it. Whether one runs.
    fn restart(&mut self, attached: &Attached, now: Instant, means: &Means) -> bool {
        let mut started = || {
            let (xsk, frames) = open_queue(attached, self.queue, means.settings.frames)
                .map_err(AfXdpError::from)?;
            self.start(attached, xsk, frames, means)?;
            self.register(attached).map_err(AfXdpError::from)?;
            Ok::<(), ServerError>(())
        };
        match started() {
            Ok(()) => {
                self.restarts += 1;
                info!("worker {} runs again", self.name);
                true
            }
            Err(error) => {
                let _ = self.stop();
                self.failed(now, Duration::ZERO, error.to_string());
                false
            }
        }
    }

    /// Stops the worker, if there is one; what it ended with.
    fn stop(&mut self) -> Option<std::io::Result<()>> {
        let stopped = State::Stopped("it was stopped".to_owned());
        match std::mem::replace(&mut self.state, stopped) {
            State::Running { worker, .. } => {
                let ended = worker.stop();
                self.outstanding += ended.outstanding;
                Some(ended.result)
            }
            stopped => {
                self.state = stopped;
                None
            }
        }
    }

    /// Notices that the worker has ended.
    fn reap(&mut self, now: Instant) {
        let State::Running { ended, since, .. } = &self.state else {
            return;
        };
        if !ended.load(Ordering::SeqCst) {
            return;
        }
        let ran = now.saturating_duration_since(*since);
        let why = match self.stop() {
            Some(Err(error)) => error.to_string(),
            _ => "it ended unexpectedly".to_owned(),
        };
        self.failed(now, ran, why);
    }

    fn failed(&mut self, now: Instant, ran: Duration, why: String) {
        let pause = self.backoff.failed(now, ran);
        let before = match &self.state {
            State::Stopped(before) => before,
            State::Running { .. } => "",
        };
        complain(before, &why, &format!("worker {}", self.name), pause);
        self.state = State::Stopped(why);
    }

    /// When to attempt to start a worker, if none runs.
    fn due(&self) -> Option<Instant> {
        matches!(self.state, State::Stopped(_)).then_some(self.backoff.due)
    }

    /// Whether a worker is to be started now.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        // The forwarder answers every request: what an earlier worker asked for arrives, and has
        // to go before the next worker's outcomes come.
        while self.outstanding > 0 && self.mailbox.take().is_some() {
            self.outstanding -= 1;
        }
        if self.outstanding > 0 {
            debug!(
                "{}: {} outcomes have yet to come",
                self.name, self.outstanding
            );
            self.backoff.due = now + FIRST_PAUSE;
        }
        self.outstanding == 0
    }

    fn report(&self, interface: &InterfaceSlot) -> WorkerReport {
        let (state, reason, mode) = match &self.state {
            State::Running { mode, .. } => ("running", None, Some(*mode)),
            State::Stopped(why) if interface.attached.is_some() => {
                ("restarting", Some(why.clone()), None)
            }
            State::Stopped(_) => ("gone", Some(interface.detached.to_string()), None),
        };
        WorkerReport {
            interface: interface.wanted.name.clone(),
            queue: self.queue,
            state,
            reason,
            restarts: self.restarts,
            mode,
            cpu: self.cpu,
            counters: Arc::clone(&self.counters),
            core: self.core.clone(),
        }
    }
}

/// Logs a failure; one that is the same as `before` only for those who debug.
fn complain(before: &str, why: &str, what: &str, pause: Duration) {
    let pause = pause.as_secs();
    if before == why {
        debug!("{what}: {why}; next attempt in {pause} s");
    } else {
        warn!("{what} failed: {why}; its queries go to the sockets, next attempt in {pause} s");
    }
}

fn report(interfaces: &[InterfaceSlot]) -> XdpReport {
    let workers = interfaces
        .iter()
        .flat_map(|interface| interface.queues.iter().map(|queue| queue.report(interface)));
    XdpReport {
        workers: workers.collect(),
        interfaces: interfaces.iter().map(InterfaceSlot::report).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_healthy_minute() {
        let now = Instant::now();
        let mut backoff = Backoff::new(now);
        let pauses: Vec<u64> = (0..8)
            .map(|_| backoff.failed(now, Duration::from_secs(59)).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.due, now + MAX_PAUSE);
        assert_eq!(backoff.failed(now, HEALTHY), FIRST_PAUSE);
        assert_eq!(backoff.due, now + FIRST_PAUSE);
    }
}
