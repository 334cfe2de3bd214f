//! The owner of AF_XDP while the server runs: of each interface's program, and of each queue's
//! socket and worker.
//!
//! Its thread sleeps until netlink reports a change of links or addresses, a worker ends, or the
//! next attempt is due, for a second at most. It updates the served addresses to those of the
//! interface, checks that steered packets and the hot tier's replies arrive, notices that an interface vanished or returned
//! and that a worker failed, and starts again what can run, with growing pauses. Meanwhile the
//! packets of a queue without a worker go to the sockets: its entry in the XSKMAP vanished with its
//! AF_XDP socket, and the program with its interface.
//!
//! `server` starts it. It must not handle packets or answers.

mod backoff;
mod interface;
mod queue;

use std::{
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tracing::warn;

use super::{
    ServerError,
    cores::CoreFactory,
    report::XdpReport,
    start,
    threads::Threads,
    tier::{HotTier, TierPlan},
    xdp::OpenXdp,
};
use crate::{
    config::{Config, XdpConfig},
    exit::OwnedThread,
    forward::{Handle, Mailbox},
    maintenance::CommandQueue,
    xdp::{LinkWatch, XdpError},
};
use backoff::FIRST_PAUSE;
use interface::ServedInterface;

/// How often to check that steered packets arrive, and what the hot tier sends.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The running supervisor. Dropping it detaches the programs and ends the workers.
pub(super) struct Supervisor {
    _thread: OwnedThread,
    report: Arc<ArcSwap<XdpReport>>,
    tier: Option<Arc<HotTier>>,
    command_queues: Vec<(String, Arc<CommandQueue>)>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("workers", &self.command_queues.len())
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Starts the hot tier if a program has it, the workers, then the steering of `addresses`, then the supervisor. `workers` has their
    /// numbers with the forwarder and their mailboxes.
    ///
    /// # Errors
    /// A worker or the supervisor cannot be started; nothing stays attached or running.
    pub(super) fn start(
        open: OpenXdp,
        config: &Config,
        addresses: Vec<SocketAddr>,
        cores: CoreFactory,
        forwarder: Handle,
        workers: Vec<(u16, Arc<Mailbox>)>,
        threads: &Arc<Threads>,
    ) -> Result<Self, ServerError> {
        let signal = Arc::new(Signal::new().map_err(start("the supervisor"))?);
        let tier = open.has_tier().then(|| HotTier::start(config, &cores));
        let tier = tier.transpose().map_err(start("the hot tier"))?;
        let context = Context {
            settings: config.xdp.clone(),
            addresses,
            cores,
            forwarder,
            plan: TierPlan::new(config),
            tier: tier.clone(),
            signal: Arc::clone(&signal),
        };
        let mut workers = workers.into_iter().enumerate();
        let mut interfaces = Vec::new();
        for interface in open.interfaces {
            interfaces.push(ServedInterface::start(interface, &mut workers, &context)?);
        }
        for interface in &mut interfaces {
            interface.serve()?;
        }
        let queues = interfaces.iter().flat_map(|interface| &interface.queues);
        let command_queues = queues.map(|queue| (queue.name.clone(), Arc::clone(&queue.commands)));
        let command_queues = command_queues.collect();
        let report = Arc::new(ArcSwap::from_pointee(report(&interfaces)));
        let state = State {
            interfaces,
            watch: open.watch,
            context,
            report: Arc::clone(&report),
        };
        let on_exit = threads.essential("AF_XDP supervisor");
        let stop = move || signal.stop();
        let thread = OwnedThread::start("supervisor", on_exit, stop, || state.run())
            .map_err(start("the supervisor"))?;
        Ok(Self {
            _thread: thread,
            report,
            tier,
            command_queues,
        })
    }

    /// The state and the counters of AF_XDP, brought up to date by the supervisor.
    pub(super) fn report(&self) -> Arc<ArcSwap<XdpReport>> {
        Arc::clone(&self.report)
    }

    /// The hot tier, if a program has it.
    pub(super) fn tier(&self) -> Option<Arc<HotTier>> {
        self.tier.clone()
    }

    /// The queues' names, and the command queue of each one's cache.
    pub(super) fn command_queues(&self) -> impl Iterator<Item = (String, Arc<CommandQueue>)> {
        self.command_queues.iter().cloned()
    }
}

/// Wakes the supervisor.
struct Signal {
    event: EventFd,
    stop: AtomicBool,
}

impl Signal {
    fn new() -> io::Result<Self> {
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

/// Settings and handles for attaching to an interface and starting workers.
struct Context {
    settings: XdpConfig,
    addresses: Vec<SocketAddr>,
    cores: CoreFactory,
    forwarder: Handle,
    plan: TierPlan,
    /// `None`: no program had it at the start.
    tier: Option<Arc<HotTier>>,
    signal: Arc<Signal>,
}

/// The thread's state.
struct State {
    interfaces: Vec<ServedInterface>,
    watch: LinkWatch,
    context: Context,
    report: Arc<ArcSwap<XdpReport>>,
}

impl State {
    fn run(mut self) {
        let mut changed = true;
        let mut checked = Instant::now();
        while !self.context.signal.stop.load(Ordering::SeqCst) {
            let now = Instant::now();
            let check = now.saturating_duration_since(checked) >= CHECK_INTERVAL;
            if check {
                checked = now;
            }
            for interface in &mut self.interfaces {
                if changed {
                    interface.refresh(now);
                }
                interface.restart_due(now, &self.context);
                if check {
                    interface.check();
                }
            }
            self.report.store(Arc::new(report(&self.interfaces)));
            changed = self.wait();
        }
        self.stop();
    }

    /// Sleeps until there is something to do. Returns whether links or addresses have changed.
    fn wait(&self) -> bool {
        let due = self
            .interfaces
            .iter()
            .filter_map(ServedInterface::due)
            .min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.map_or(CHECK_INTERVAL, |left| left.min(CHECK_INTERVAL));
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout = PollTimeout::from(u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX));
        let signal = &self.context.signal;
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
        // EAGAIN: it was not readable.
        let _ = signal.event.read();
        waited
            .and_then(|()| self.watch.drain())
            .unwrap_or_else(|error| {
                warn!("{error}; looking again in {} s", FIRST_PAUSE.as_secs());
                thread::sleep(FIRST_PAUSE);
                true
            })
    }

    /// Detaches the programs and ends the workers, and logs errors.
    fn stop(self) {
        for interface in &self.interfaces {
            // Before the workers stop: they answer what is in their rings, and nothing new arrives.
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

fn report(interfaces: &[ServedInterface]) -> XdpReport {
    let workers = interfaces.iter().flat_map(ServedInterface::worker_reports);
    XdpReport {
        workers: workers.collect(),
        interfaces: interfaces.iter().map(ServedInterface::report).collect(),
    }
}
