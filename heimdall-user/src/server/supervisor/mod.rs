//! The owner of AF_XDP while the server runs: of each interface's program, of the workers, and of each queue's
//! socket, which it gives to a worker.
//!
//! Interfaces that could not be opened at the start are its, too, also if that is all of them.
//!
//! Its thread sleeps until netlink reports a change of links or addresses, a queue or a worker ends, or the
//! next attempt is due, for a second at most. It updates the served addresses to those of the
//! interface, checks that steered packets and the hot tier's replies arrive, notices that an interface vanished or returned,
//! that it has more queues or fewer, and that a queue or a worker failed, and starts again what can run, with growing
//! pauses. The queues of a worker that makes no progress it takes out of the XSKMAP until it does. Meanwhile the
//! packets of a queue without a worker go to the sockets: its entry in the XSKMAP vanished with its
//! AF_XDP socket, and the program with its interface.
//!
//! Before another server takes over, or this one ends, it [retires](Supervisor::retire).
//!
//! `server` starts it. It must not handle packets or answers.

mod backoff;
mod interface;
mod pool;
mod queue;
mod retire;
mod stuck;

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
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
    ServerError, attached::Wanted, cores::CoreFactory, preflight::layers, report::XdpReport, start,
    threads::Threads, tier::HotTier, xdp::OpenXdp,
};
use crate::{
    config::Config,
    exit::OwnedThread,
    forward::{Handle, Mailbox},
    heartbeat,
    maintenance::CommandQueue,
    path_mtu::{self, PathMtuCounters, PathMtus},
    xdp::{LinkWatch, XdpError},
};
use backoff::FIRST_PAUSE;
use interface::ServedInterface;
use pool::Pool;
pub(super) use pool::numbered;
use retire::Request;

/// How often to check that steered packets arrive, and what the hot tier sends.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the workers may take to end where nothing else was said: for what is in their rings.
const STOP_LIMIT: Duration = Duration::from_millis(200);

/// The running supervisor. Dropping it detaches the programs and ends the workers.
pub(super) struct Supervisor {
    _thread: OwnedThread,
    requests: Sender<Request>,
    signal: Arc<Signal>,
    report: Arc<ArcSwap<XdpReport>>,
    tier: Option<Arc<HotTier>>,
    path_mtus: Option<path_mtu::Listener>,
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
    /// Starts the hot tier if a program has it, the workers, then the steering of `addresses`, then the supervisor. `workers` has the
    /// number of each with the forwarder, and its mailbox.
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
        // One that is left out, whatever its driver, may have it when it is attached.
        let may_have_tier = !open.left_out.is_empty() && config.allows_tier("").is_ok();
        let has_tier = open.has_tier() || may_have_tier;
        let tier = has_tier.then(|| HotTier::start(config, &cores));
        let tier = tier.transpose().map_err(start("the hot tier"))?;
        let path_mtus = listen_for_path_mtus(&addresses);
        let paths = path_mtus.as_ref().map(path_mtu::Listener::paths);
        let context = Context {
            config: config.clone(),
            wanted: Wanted::new(config, addresses),
            cores,
            forwarder,
            paths: paths.unwrap_or_default(),
            tier: tier.clone(),
            signal: Arc::clone(&signal),
        };
        let mut pool = Pool::new(workers, &config.xdp);
        let mut interfaces = Vec::new();
        for interface in open.interfaces {
            interfaces.push(ServedInterface::start(interface, &mut pool, &context)?);
        }
        for interface in &mut interfaces {
            interface.serve(&pool)?;
        }
        let now = Instant::now();
        for (name, error) in open.left_out {
            interfaces.push(ServedInterface::left_out(name, error.to_string(), now));
        }
        let command_queues = pool.command_queues().collect();
        let report = Arc::new(ArcSwap::from_pointee(report(&interfaces, &pool)));
        let (requests, requested) = channel();
        let state = State {
            interfaces,
            pool,
            watch: open.watch,
            context,
            report: Arc::clone(&report),
            requests: requested,
            retired: false,
        };
        let on_exit = threads.essential("AF_XDP supervisor");
        let stop = {
            let signal = Arc::clone(&signal);
            move || signal.stop()
        };
        let thread = OwnedThread::start("supervisor", on_exit, stop, || state.run())
            .map_err(start("the supervisor"))?;
        Ok(Self {
            _thread: thread,
            requests,
            signal,
            report,
            tier,
            path_mtus,
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

    /// The counters of path MTUs, if they are learnt.
    pub(super) fn path_mtus(&self) -> Option<Arc<PathMtuCounters>> {
        self.path_mtus.as_ref().map(path_mtu::Listener::counters)
    }

    /// The workers' names, and the command queue of each one's cache.
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
    config: Config,
    wanted: Arc<Wanted>,
    cores: CoreFactory,
    forwarder: Handle,
    paths: Arc<PathMtus>,
    /// `None`: no program had it at the start, and none was to come.
    tier: Option<Arc<HotTier>>,
    signal: Arc<Signal>,
}

/// The thread's state. The programs go first, then the queues, then the workers.
struct State {
    interfaces: Vec<ServedInterface>,
    pool: Pool,
    watch: LinkWatch,
    context: Context,
    report: Arc<ArcSwap<XdpReport>>,
    requests: Receiver<Request>,
    /// All workers have been drained, and none is to be started.
    retired: bool,
}

impl State {
    fn run(mut self) {
        let mut changed = true;
        let mut checked = Instant::now();
        while !self.context.signal.stop.load(Ordering::SeqCst) {
            heartbeat::beat();
            self.answer_requests();
            let now = Instant::now();
            let check = now.saturating_duration_since(checked) >= CHECK_INTERVAL;
            if check {
                checked = now;
                self.pool.check();
            }
            self.pool.collect_ended(now);
            // What the kernel did not answer is asked again.
            let again = changed && !self.refresh(now);
            for interface in &mut self.interfaces {
                heartbeat::beat();
                if self.retired {
                    continue;
                }
                interface.restart_due(now, &mut self.pool, &self.context);
                if check {
                    interface.check(&mut self.pool);
                }
            }
            let report = report(&self.interfaces, &self.pool);
            self.report.store(Arc::new(report));
            changed = self.wait() || again;
        }
        self.stop();
    }

    /// Reads which ports the configured interfaces have, and acts on what has changed: ports come and go with the members
    /// of bonds. Returns whether the kernel answered.
    fn refresh(&mut self, now: Instant) -> bool {
        let mut layers = match layers(&self.context.wanted.interfaces) {
            Ok(layers) => layers,
            // The kernel did not answer.
            Err(error) => {
                warn!("{error}");
                return false;
            }
        };
        let mut answered = true;
        let names = layers.names();
        for name in &names {
            if self
                .interfaces
                .iter()
                .all(|known| known.wanted.name != *name)
            {
                let interface = ServedInterface::new(name.clone(), now);
                self.interfaces.push(interface);
            }
        }
        for interface in &mut self.interfaces {
            heartbeat::beat();
            let found = layers.take(&interface.wanted.name);
            answered &= interface.refresh(found, &self.context, now);
            if !names.contains(&interface.wanted.name) {
                interface.forget(&mut self.pool);
            }
        }
        (self.interfaces).retain(|known| names.contains(&known.wanted.name));
        answered
    }

    /// Sleeps until there is something to do. Returns whether links or addresses have changed.
    fn wait(&self) -> bool {
        let due = self
            .interfaces
            .iter()
            .filter_map(|interface| interface.due(&self.pool))
            .min()
            .filter(|_| !self.retired);
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

    /// Ends the workers and detaches the programs, and logs errors.
    fn stop(mut self) {
        if !self.retired
            && let Err(error) = self.retire(STOP_LIMIT)
        {
            warn!("{error}");
        }
        // Those that are stuck.
        self.pool.stop_all();
    }
}

/// Starts to listen for routers' reports about replies from these addresses.
fn listen_for_path_mtus(addresses: &[SocketAddr]) -> Option<path_mtu::Listener> {
    let ports = addresses.iter().map(SocketAddr::port).collect();
    let lost = "replies of AF_XDP that are too large for a path are lost";
    let on_exit = Threads::auxiliary("path MTU", lost);
    path_mtu::Listener::start(ports, on_exit)
        .inspect_err(|error| warn!("path MTUs are not learnt, and {lost}: {error}"))
        .ok()
}

fn report(interfaces: &[ServedInterface], pool: &Pool) -> XdpReport {
    let queues = interfaces
        .iter()
        .flat_map(|interface| interface.queue_reports(pool));
    XdpReport {
        workers: pool.reports(queues),
        interfaces: interfaces.iter().map(ServedInterface::report).collect(),
    }
}

#[cfg(test)]
mod tests;
