//! AF_XDP, put together: a program for each interface, a socket and a worker for each queue, and
//! a thread that follows changes of the interfaces and stops the steering if nothing arrives.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use heimdall_ebpf::{MAX_QUEUES, Verdict};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    CoreCounters, CoreParts, ServerError, advice,
    attached::Attached,
    report::{InterfaceReport, WorkerReport, XdpReport},
    start,
};
use crate::{
    config::Config,
    forward::{Forwarder, Mailbox},
    upkeep::{Desk, Upkeep},
    worker::{Parts, Settings, Worker, WorkerCounters, max_pending},
    xdp::{
        AttachMode, AttachPolicy, Interface, LinkWatch, Program, XdpError,
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
            advice::queues(&interface, numbers.len(), config.xdp.cpus.len());
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
            let one = Arc::new(Attached::new(interface, program, addresses.to_vec()));
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
        advice::unserved(addresses);
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
}

impl Watched {
    /// Follows a change of the interface.
    fn follow(&self) {
        if let Err(error) = self.attached.follow() {
            self.attached.tell(vec![error.to_string()]);
        }
    }

    /// Gives the steering up if nothing of it arrives.
    fn check(&self) {
        let arrived = |counters: &Arc<WorkerCounters>| {
            let dropped = counters.rx_dropped.get() + counters.rx_ring_full.get();
            counters.received.get() + dropped
        };
        self.attached
            .check(|| self.counters.iter().map(arrived).sum());
    }
}

/// The thread that follows the interfaces.
struct Follower {
    thread: JoinHandle<()>,
    stop: Arc<EventFd>,
}

impl Follower {
    fn start(watch: LinkWatch, interfaces: Vec<Watched>) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let thread = thread::Builder::new()
            .name("interfaces".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || follow(&watch, &interfaces, &stop)
            })?;
        Ok(Self { thread, stop })
    }

    fn stop(self) {
        let _ = self.stop.write(1);
        let _ = self.thread.join();
    }
}

fn follow(watch: &LinkWatch, interfaces: &[Watched], stop: &EventFd) {
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
            interfaces.iter().for_each(Watched::check);
        }
    }
}
