//! AF_XDP, put together: a program for each interface, a socket and a worker for each queue, and
//! a thread that follows changes of the interfaces and stops the steering if nothing arrives.

use std::{
    collections::BTreeSet,
    fmt, io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use heimdall_ebpf::{MAX_QUEUES, MAX_SERVED, Verdict};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    CoreCounters, CoreParts, ServerError,
    report::{InterfaceReport, WorkerReport, XdpReport},
    start,
    watchdog::Watchdog,
};
use crate::{
    config::Config,
    forward::{Forwarder, Mailbox},
    packet::SourceFilter,
    upkeep::{Desk, Upkeep},
    worker::{Parts, Settings, Worker, WorkerCounters, max_pending},
    xdp::{
        Address, AttachMode, AttachPolicy, Interface, LinkWatch, Program, XdpError,
        addresses_without_link, served,
        socket::{Frame, MAX_MTU, Mode, Xsk, XskError},
    },
};

/// Why AF_XDP is not to be had.
#[derive(Debug, Error)]
pub enum AfXdpError {
    /// The interface or its program.
    #[error(transparent)]
    Program(#[from] XdpError),
    /// A queue's socket.
    #[error(transparent)]
    Socket(#[from] XskError),
    /// No eventfd.
    #[error("cannot make an eventfd: {0}; raise the limit on open files (ulimit -n)")]
    Mailbox(io::Error),
}

/// How long to wait for the link to come back after the program was attached.
const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// How often the follower looks whether steered packets arrive.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Most addresses that one log line names.
const MAX_NAMED: usize = 4;

/// An interface with its program.
struct Attached {
    interface: Interface,
    program: Mutex<Program>,
    sources: Arc<ArcSwap<SourceFilter>>,
    mtu: Arc<AtomicU32>,
    listen: Vec<SocketAddr>,
    /// Nothing is steered any more, as nothing arrived.
    given_up: AtomicBool,
    /// What was logged about the interface's state, so that it is not repeated with every change.
    told: Mutex<Vec<String>>,
}

impl Attached {
    fn program(&self) -> std::sync::MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the state of the interface and its addresses as it is now: what to serve, which
    /// senders to refuse, the MAC address and the MTU.
    fn follow(&self) -> Result<(), XdpError> {
        let interface = Interface::find(&self.interface.name)?;
        self.mtu.store(interface.mtu, Ordering::Relaxed);
        let all = Address::all()?;
        let own = all.iter().map(|address| address.ip);
        let senders = own.chain(all.iter().flat_map(Address::broadcasts));
        self.sources.store(Arc::new(SourceFilter::new(senders)));

        let ips_of = |index: &dyn Fn(u32) -> bool| -> Vec<IpAddr> {
            let those = all.iter().filter(|address| index(address.interface));
            those.map(|address| address.ip).collect()
        };
        let mut addresses = served(&self.listen, &ips_of(&|index| index == interface.index));
        let mut notes = Vec::new();
        let vlans = interface.stripped_vlans()?;
        if !vlans.is_empty() {
            let held_back = ips_of(&|index| vlans.contains(&index));
            addresses.retain(|address| !held_back.contains(&address.ip()));
            notes.push(format!(
                "the NIC removes VLAN tags before the XDP program runs: the sockets serve the addresses \
                 of its VLANs, and queries to other addresses that arrive in a VLAN get no reply; run \
                 `ethtool -K {} rxvlan off`",
                interface.name
            ));
        }
        if addresses.is_empty() {
            notes.push(
                "no address to serve: a wildcard stands for the interface's own addresses, and it has \
                 none that AF_XDP can serve; the sockets answer, or name addresses with --listen"
                    .to_owned(),
            );
        }
        if self.given_up.load(Ordering::Relaxed) {
            addresses.clear();
        }
        let left_out = {
            let mut program = self.program();
            program.set_mac(interface.mac)?;
            program.set_served(&addresses)?
        };
        if left_out > 0 {
            notes.push(format!(
                "{left_out} of {} addresses are left to the sockets: AF_XDP serves {MAX_SERVED}",
                addresses.len()
            ));
        }
        self.tell(notes);
        Ok(())
    }

    /// Logs what has not been logged since it became true.
    fn tell(&self, notes: Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told_before = mem::replace(&mut *told, notes);
        for note in told.iter().filter(|note| !told_before.contains(note)) {
            warn!("{}: {note}", self.interface.name);
        }
    }

    /// Leaves all packets to the sockets from now on.
    fn give_up(&self, lost: u64) {
        self.given_up.store(true, Ordering::Relaxed);
        warn!(
            "{}: none of the last {lost} queries that were steered reached an AF_XDP socket; the \
             sockets answer from now on. AF_XDP does not work on this interface: use another one, or \
             --backend socket",
            self.interface.name
        );
        if let Err(error) = self.program().set_served(&BTreeSet::new()) {
            warn!("{error}");
        }
    }

    /// Packets that the program has steered.
    fn steered(&self) -> Result<u64, XdpError> {
        let [steered, ..] = self.program().verdicts()?;
        Ok(steered)
    }
}

/// A queue with its socket, and no worker yet.
struct Queue {
    attached: Arc<Attached>,
    queue: u32,
    xsk: Xsk,
    frames: Vec<Frame>,
    mailbox: Arc<Mailbox>,
}

/// Programs attached and sockets bound, and no thread yet.
pub(super) struct OpenXdp {
    attached: Vec<Arc<Attached>>,
    queues: Vec<Queue>,
    watch: LinkWatch,
}

impl OpenXdp {
    /// Attaches the program to every interface, to steer what is sent to `addresses`, and binds a
    /// socket to every queue. Nothing is steered yet.
    pub(super) fn open(config: &Config, addresses: &[SocketAddr]) -> Result<Self, AfXdpError> {
        let watch = LinkWatch::new()?;
        let mut attached = Vec::new();
        let mut queues = Vec::new();
        for wanted in &config.interfaces {
            let interface = Interface::find(&wanted.name)?;
            let numbers: Vec<u32> = match &wanted.queues {
                Some(numbers) => numbers.iter().copied().collect(),
                None => (0..interface.rx_queues.min(MAX_QUEUES)).collect(),
            };
            warn_of_queues(&interface, numbers.len(), config.xdp.cpus.len());
            if let Some(&queue) = numbers.iter().find(|queue| **queue >= interface.rx_queues) {
                let (queues, interface) = (interface.rx_queues, interface.name);
                return Err(XdpError::NoQueue {
                    interface,
                    queue,
                    queues,
                }
                .into());
            }
            if interface.mtu > MAX_MTU {
                let (mtu, interface) = (interface.mtu, interface.name);
                return Err(XdpError::Mtu {
                    interface,
                    mtu,
                    max: MAX_MTU,
                }
                .into());
            }
            let carrier = interface.has_carrier()?;
            let program = Program::attach(&interface, AttachPolicy::NativeThenGeneric)?;
            if carrier && !interface.wait_carrier(CARRIER_WAIT)? {
                warn!(
                    "{}: no carrier since the XDP program was attached",
                    interface.name
                );
            }
            let native = program.attach_mode() == &AttachMode::Native;
            let mtu = Arc::new(AtomicU32::new(interface.mtu));
            let one = Arc::new(Attached {
                interface,
                program: Mutex::new(program),
                sources: Arc::default(),
                mtu,
                listen: addresses.to_vec(),
                given_up: AtomicBool::new(false),
                told: Mutex::default(),
            });
            for queue in numbers {
                let (xsk, frames) =
                    Xsk::open(&one.interface.name, queue, config.xdp.frames, native)?;
                let mailbox =
                    Mailbox::new(max_pending(frames.len())).map_err(AfXdpError::Mailbox)?;
                // Nothing is steered to it until the program has addresses.
                one.program().register(queue, xsk.as_fd())?;
                let attached = Arc::clone(&one);
                queues.push(Queue {
                    attached,
                    queue,
                    xsk,
                    frames,
                    mailbox: Arc::new(mailbox),
                });
            }
            attached.push(one);
        }
        tell_of_unserved(addresses);
        Ok(Self {
            attached,
            queues,
            watch,
        })
    }

    /// The mailbox of each queue's worker, in their order.
    pub(super) fn mailboxes(&self) -> impl Iterator<Item = Arc<Mailbox>> {
        self.queues.iter().map(|queue| Arc::clone(&queue.mailbox))
    }

    /// How many queues there are.
    pub(super) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The interfaces, and in which mode each queue runs.
    pub(super) fn summary(&self) -> String {
        let one = |queue: &Queue| {
            let mode = queue.attached.program().attach_mode().name();
            format!(
                "{} queue {} ({mode} XDP, {})",
                queue.attached.interface.name,
                queue.queue,
                queue.xsk.mode()
            )
        };
        self.queues.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Starts the workers, and then the steering. Theirs are the numbers from `front` on with the
    /// forwarder.
    pub(super) fn start(
        self,
        config: &Config,
        parts: &CoreParts,
        forwarder: &Forwarder,
        front: u16,
    ) -> Result<Xdp, ServerError> {
        let mut workers = Vec::new();
        for (i, (queue, front)) in self.queues.into_iter().zip(front..).enumerate() {
            let (core, counters) = parts.core()?;
            let cpu = config.xdp.cpu(i);
            let attached = Arc::clone(&queue.attached);
            say_mode(&attached, &queue);
            let upkeep = Upkeep::new({
                let mailbox = Arc::clone(&queue.mailbox);
                move || mailbox.ring()
            });
            let desk = upkeep.desk();
            let settings = Settings {
                name: format!("{}:{}", attached.interface.name, queue.queue),
                cpu,
                mtu: Arc::clone(&attached.mtu),
                verify_checksums: config.xdp.verify_checksums,
                spin: config.xdp.spin,
                echo: config.xdp.echo,
            };
            let mode = queue.xsk.mode();
            let worker = Worker::start(
                settings,
                Parts {
                    xsk: queue.xsk,
                    frames: queue.frames,
                    core,
                    upkeep,
                    forwarder: forwarder.handle(),
                    front,
                    mailbox: queue.mailbox,
                    sources: Arc::clone(&attached.sources),
                    drops: Arc::clone(&counters.drops),
                },
                parts.clock,
            )
            .map_err(start("a worker"))?;
            workers.push(Running {
                worker,
                attached,
                queue: queue.queue,
                mode,
                cpu,
                counters,
                desk,
            });
        }
        for running in &workers {
            running.worker.wait_ready();
        }
        for attached in &self.attached {
            attached.follow().map_err(AfXdpError::from)?;
        }
        let watched = self.attached.iter().map(|attached| Watched {
            attached: Arc::clone(attached),
            counters: workers_of(attached, &workers),
            watchdog: Watchdog::default(),
        });
        let follower = Follower::start(self.watch, watched.collect()).map_err(start("a thread"))?;
        Ok(Xdp {
            attached: self.attached,
            workers,
            follower,
        })
    }
}

/// The counters of the workers that serve this interface.
fn workers_of(attached: &Arc<Attached>, workers: &[Running]) -> Vec<Arc<WorkerCounters>> {
    let mine = workers
        .iter()
        .filter(|running| Arc::ptr_eq(&running.attached, attached));
    mine.map(|running| Arc::clone(running.worker.counters()))
        .collect()
}

/// Warns of an interface with more queues than there are cores for their workers.
fn warn_of_queues(interface: &Interface, queues: usize, cores: usize) {
    let name = &interface.name;
    if interface.rx_queues > MAX_QUEUES {
        warn!(
            "{name}: {} queues, of which AF_XDP can serve {MAX_QUEUES}; run `ethtool -L {name} \
             combined {MAX_QUEUES}`",
            interface.rx_queues
        );
    }
    if cores > 0 && queues > cores {
        warn!(
            "{name}: {queues} queues share {cores} cores, and each has a thread and a cache of its \
             own; run `ethtool -L {name} combined {cores}`"
        );
    }
}

/// Says which addresses AF_XDP does not serve although a wildcard was given: those that are reached
/// through an interface, but are not its own.
fn tell_of_unserved(listen: &[SocketAddr]) {
    let wildcard = |ip: &IpAddr| {
        let mut wildcards = listen.iter().map(SocketAddr::ip);
        wildcards.any(|one| one.is_unspecified() && one.is_ipv4() == ip.is_ipv4())
    };
    let mut unserved = addresses_without_link().unwrap_or_default();
    unserved.retain(|(ip, _)| wildcard(ip));
    if unserved.is_empty() {
        return;
    }
    let named = unserved.iter().take(MAX_NAMED);
    let named: Vec<String> = named.map(|(ip, name)| format!("{ip} ({name})")).collect();
    let more = match unserved.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    info!(
        "the sockets alone serve {}{more}: to AF_XDP a wildcard stands for the interface's own \
         addresses; name each address with --listen instead",
        named.join(", ")
    );
}

/// Says which mode a queue got, and why not a better one.
fn say_mode(attached: &Attached, queue: &Queue) {
    let name = &attached.interface.name;
    // Generic mode says itself why it is not native.
    let attach = attached.program().attach_mode().to_string();
    let mode = queue.xsk.mode();
    match queue.xsk.why_not_better() {
        Some(why) if mode == Mode::Copy => {
            info!(
                "{name} queue {}: {attach} XDP, {mode} (not zero-copy: {why})",
                queue.queue
            );
        }
        _ => info!("{name} queue {}: {attach} XDP, {mode}", queue.queue),
    }
}

/// The program's counters by name; nothing if the kernel does not give them.
fn verdicts(program: &Program) -> Vec<(&'static str, u64)> {
    let counts = program.verdicts().unwrap_or_default();
    Verdict::ALL
        .iter()
        .map(|verdict| verdict.name())
        .zip(counts)
        .collect()
}

struct Running {
    worker: Worker,
    attached: Arc<Attached>,
    queue: u32,
    mode: Mode,
    cpu: Option<usize>,
    counters: CoreCounters,
    desk: Arc<Desk>,
}

/// Running workers.
pub(super) struct Xdp {
    attached: Vec<Arc<Attached>>,
    workers: Vec<Running>,
    follower: Follower,
}

impl fmt::Debug for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xdp")
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Xdp {
    /// Where to read their counters.
    pub(super) fn report(&self) -> XdpReport {
        let interface = |attached: &Arc<Attached>| {
            let (attach, program_id) = {
                let program = attached.program();
                (program.attach_mode().name(), program.id())
            };
            // The programs go when the server stops, whoever still holds a report.
            let attached_now = Arc::downgrade(attached);
            InterfaceReport {
                name: attached.interface.name.clone(),
                attach,
                program_id,
                verdicts: Box::new(move || {
                    attached_now
                        .upgrade()
                        .map(|attached| verdicts(&attached.program()))
                        .unwrap_or_default()
                }),
            }
        };
        let worker = |running: &Running| WorkerReport {
            interface: running.attached.interface.name.clone(),
            queue: running.queue,
            mode: running.mode.name(),
            cpu: running.cpu,
            counters: Arc::<WorkerCounters>::clone(running.worker.counters()),
            core: running.counters.clone(),
        };
        XdpReport {
            interfaces: self.attached.iter().map(interface).collect(),
            workers: self.workers.iter().map(worker).collect(),
        }
    }

    /// The workers' names, and where each gets its orders.
    pub(super) fn desks(&self) -> impl Iterator<Item = (String, Arc<Desk>)> {
        self.workers.iter().map(|running| {
            let name = format!("{}:{}", running.attached.interface.name, running.queue);
            (name, Arc::clone(&running.desk))
        })
    }

    /// Detaches the programs and ends the workers.
    pub(super) fn stop(self) {
        self.follower.stop();
        for attached in &self.attached {
            // Nothing more is steered, so that the workers leave no packet behind in their rings.
            if let Err(error) = attached.program().set_served(&BTreeSet::new()) {
                warn!("{error}");
            }
        }
        for running in self.workers {
            if let Err(error) = running.worker.stop() {
                warn!(
                    "{} queue {}: {error}",
                    running.attached.interface.name, running.queue
                );
            }
        }
    }
}

/// An interface, and what its workers count.
struct Watched {
    attached: Arc<Attached>,
    counters: Vec<Arc<WorkerCounters>>,
    watchdog: Watchdog,
}

impl Watched {
    /// Follows a change of the interface.
    fn follow(&self) {
        if let Err(error) = self.attached.follow() {
            self.attached.tell(vec![error.to_string()]);
        }
    }

    /// Gives the steering up if nothing of it arrives.
    fn check(&mut self) {
        if self.attached.given_up.load(Ordering::Relaxed) {
            return;
        }
        // In this order: what was steered by now has arrived a moment later.
        let Ok(steered) = self.attached.steered() else {
            return;
        };
        let arrived = self.counters.iter().map(|counters| {
            let dropped = counters.rx_dropped.get() + counters.rx_ring_full.get();
            counters.received.get() + dropped
        });
        if let Some(lost) = self.watchdog.observe(steered, arrived.sum()) {
            self.attached.give_up(lost);
        }
    }
}

/// The thread that follows the interfaces.
struct Follower {
    thread: JoinHandle<()>,
    stop: Arc<EventFd>,
}

impl Follower {
    fn start(watch: LinkWatch, mut interfaces: Vec<Watched>) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let thread = thread::Builder::new()
            .name("interfaces".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || follow(&watch, &mut interfaces, &stop)
            })?;
        Ok(Self { thread, stop })
    }

    fn stop(self) {
        let _ = self.stop.write(1);
        let _ = self.thread.join();
    }
}

fn follow(watch: &LinkWatch, interfaces: &mut [Watched], stop: &EventFd) {
    let mut checked = Instant::now();
    loop {
        let mut fds = [
            PollFd::new(watch.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(WATCH_INTERVAL).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                warn!("no longer following changes of the interfaces: {error}");
                return;
            }
        }
        let [_, stopped] = &fds;
        if stopped.any().unwrap_or_default() {
            return;
        }
        let changed = watch.drain().unwrap_or_else(|error| {
            warn!("{error}");
            false
        });
        if changed {
            interfaces.iter().for_each(Watched::follow);
        }
        if checked.elapsed() >= WATCH_INTERVAL {
            checked = Instant::now();
            interfaces.iter_mut().for_each(Watched::check);
        }
    }
}
