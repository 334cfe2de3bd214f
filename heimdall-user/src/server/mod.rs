//! The server: starts, connects and stops all components.
//!
//! The control socket and the listeners are opened first, before any thread starts. Then the threads
//! start: the forwarder, the socket front, the workers once the XDP programs and AF_XDP sockets are
//! open, which may take seconds while the sockets answer already; the control server and the snapshot
//! writer.
//!
//! Every thread has an owner whose drop stops and joins it, so a start that fails half-way leaves
//! nothing running. A thread that ends without having been stopped is noticed by `supervisor` (AF_XDP workers) or
//! `threads` (all others). This module knows nothing of packets or answers; `heimdall run` calls it.

mod attached;
mod commands;
mod cores;
mod file_limit;
mod http;
mod latency;
mod metrics;
mod policy;
mod preflight;
mod process;
mod readiness;
mod report;
mod retry;
mod snapshot;
mod start_warnings;
mod steering;
mod supervisor;
mod tap;
mod threads;
mod tier;
mod trace;
mod upstreams;
mod xdp;

use std::{io, net::SocketAddr, sync::Arc};

use thiserror::Error;
use tracing::{info, warn};

use crate::{
    config::{Backend, Config, ConfigError, Host, Location, SnapshotConfig, TierMode, Zoned},
    control::{Control, ControlError, ControlServer, Permissions},
    forward::{self, Forwarder, ForwarderBuilder, Handle, Mailbox},
    front,
    http::{HttpListener, HttpServer},
    maintenance::{Caches, Maintenance},
    socket::{Listeners, SocketError, SocketFront},
    tap::{Observations, Observer},
    worker::max_pending,
    xdp::XdpError,
};
use commands::Commands;
use cores::{CoreCounters, CoreFactory};
pub use policy::PolicyLoader;
use policy::Reloader;
pub(crate) use policy::{PolicyError, ReloadError};
pub(crate) use preflight::check;
use report::{Report, SocketReport, Start};
use retry::retry;
use snapshot::SnapshotWriter;
use supervisor::Supervisor;
use threads::Threads;
use tier::HotTier;
use trace::Tracer;
use upstreams::UpstreamReport;
use xdp::{AfXdpError, OpenXdp};

/// Why the server does not start. One line each.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A setting that cannot work, found before anything was opened.
    #[error("{location}{error}")]
    At {
        /// Where it is.
        location: Location,
        /// The error.
        error: Box<ServerError>,
    },
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The address to serve metrics on.
    #[error(
        "cannot serve metrics on {address}: {source}; give another `metrics.listen` (--metrics-listen)"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The listen addresses.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// AF_XDP, with the backend `xdp`.
    #[error(transparent)]
    Xdp(#[from] AfXdpError),
    /// An interface, with the backend `xdp`.
    #[error(transparent)]
    Interface(#[from] XdpError),
    /// Memory for a cache.
    #[error(
        "cannot reserve {bytes} octets for a cache: {source}; lower `cache.size` (--cache-size)"
    )]
    Cache {
        /// Their size in octets.
        bytes: usize,
        /// The system's error.
        source: io::Error,
    },
    /// Threads, eventfds and the like.
    #[error("cannot start {what}: {source}{}", advice(source))]
    Start {
        /// The component.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// What to do about an error of the system. One of Heimdall's own says that itself.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(_) => "; check the limits on threads and open files (ulimit -a)",
        None => "",
    }
}

/// Queries of a socket thread that may wait for the forwarder.
const MAX_SOCKET_PENDING: usize = 4096;

/// A running server. Dropping it stops it.
///
/// The parts that own threads are in the order in which they stop, the XDP programs first: from then
/// on packets go to the kernel. They are absent while the server starts, and those that the settings
/// do not ask for always.
#[derive(Debug)]
pub struct Server {
    reloader: Arc<Reloader>,
    report: Option<Arc<Report>>,
    summary: String,
    threads: Arc<Threads>,
    supervisor: Option<Supervisor>,
    sockets: Vec<SocketFront>,
    control: Option<ControlServer>,
    http: Option<HttpServer>,
    snapshots: Option<SnapshotWriter>,
    forwarder: Option<Forwarder>,
    observer: Option<Observer>,
}

impl Server {
    /// Starts everything. When it returns, queries are answered.
    ///
    /// A port, a control socket or an interface that another process holds is tried for a second:
    /// that may be a predecessor whose sockets and programs the kernel is still releasing.
    ///
    /// `settings` reads the settings again, for a reload. `on_failure` is called, on any thread,
    /// when `failed` has become some thread's name: the server should be
    /// stopped then.
    ///
    /// # Errors
    /// [`ServerError`]; nothing stays running, attached or bound, and no file is written or left
    /// behind (except for the control socket's directory).
    pub fn start(
        config: &Config,
        settings: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
        on_failure: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ServerError> {
        let queues = preflight::preflight(config)?;
        let reloader = Arc::new(Reloader::start(config, settings)?);
        let sockets = config.socket.threads;
        let max_connections = file_limit::fit(
            &forward_options(config),
            sockets + queues.iter().sum::<usize>(),
            sockets * config.listen.len(),
        );
        let opened = Opened::open(config, max_connections)?;
        let mut server = Self {
            reloader,
            report: None,
            summary: summary(&opened.addresses, None),
            threads: Threads::new(on_failure),
            supervisor: None,
            sockets: Vec::new(),
            control: None,
            http: None,
            snapshots: None,
            forwarder: None,
            observer: None,
        };
        // Should a step fail, dropping the server stops what the steps before it started.
        server.start_threads(config, opened, &queues)?;
        start_warnings::host(config);
        Ok(server)
    }

    /// `queues`: how many of each interface AF_XDP is to serve.
    fn start_threads(
        &mut self,
        config: &Config,
        opened: Opened,
        queues: &[usize],
    ) -> Result<(), ServerError> {
        let tap = tap::options(config);
        let observations = Arc::new(Observations::new(&tap));
        let on_exit =
            Threads::auxiliary("observer", "nothing is written to dnstap and the query log");
        let observer = Observer::start(&tap, Arc::clone(&observations), on_exit);
        self.observer = Some(observer.map_err(start("the observer"))?);
        let policy = Arc::clone(self.reloader.policy());
        let cores = CoreFactory::new(config, policy, Arc::clone(&observations));
        // The fronts' numbers with the forwarder: the socket threads first, then the workers.
        let socket_threads = config.socket.threads;
        let socket_mailboxes = (0..socket_threads)
            .map(|_| mailbox(MAX_SOCKET_PENDING))
            .collect::<Result<Vec<_>, _>>()?;
        let worker_mailboxes = (0..queues.iter().sum())
            .map(|_| mailbox(max_pending(config.xdp.frames as usize)))
            .collect::<Result<Vec<_>, _>>()?;
        let mailboxes = [&socket_mailboxes[..], &worker_mailboxes[..]].concat();

        let mut forwarder =
            ForwarderBuilder::new(&forward_options(config), mailboxes, cores.hasher())
                .map_err(start("the forwarder"))?;
        forwarder.sample(observations.taps());
        let snapshot = config.cache.snapshot();
        let snapshot = snapshot.filter(|snapshot| snapshot::restore(snapshot, &mut forwarder));
        let forwarder = forwarder
            .start_with(|| self.threads.essential("forwarder"))
            .map_err(start("the forwarder"))?;
        let handle = forwarder.handle();
        let forward_counters = forwarder.counters();
        let upstreams = UpstreamReport::all(&config.upstreams, &forwarder.upstream_metrics());
        let mut caches = Caches {
            forwarder: forwarder.command_queues(),
            fronts: Vec::new(),
        };
        self.forwarder = Some(forwarder);

        let sockets = self.start_sockets(
            opened.listeners,
            socket_mailboxes,
            handle.clone(),
            &cores,
            &mut caches,
        )?;
        let for_traces = handle.clone();
        let workers = (socket_threads as u16..).zip(worker_mailboxes).collect();
        self.start_xdp(config, opened.addresses, queues, cores, handle, workers)?;
        let queues = self.supervisor.iter().flat_map(Supervisor::command_queues);
        caches.fronts.extend(queues);
        let tier = self.supervisor.as_ref().and_then(Supervisor::tier);
        let report = Arc::new(Report {
            start: Start::now(),
            xdp: self.supervisor.as_ref().map(Supervisor::report),
            tier: tier.clone(),
            sockets,
            forwarder: forward_counters,
            upstreams,
            observations,
        });
        self.report = Some(Arc::clone(&report));
        self.start_http(opened.metrics, &report, config)?;
        let tracer = Tracer {
            reloader: Arc::clone(&self.reloader),
            caches: caches.clone(),
            tier: tier.clone(),
            forwarder: for_traces,
            nxdomain_cut: config.cache.nxdomain_cut,
        };
        self.start_control(opened.control, report, tracer, caches.clone(), tier)?;
        // Last, as it writes a file when it ends.
        self.start_snapshots(snapshot.as_ref(), caches)
    }

    fn start_sockets(
        &mut self,
        listeners: Vec<Listeners>,
        mailboxes: Vec<Arc<Mailbox>>,
        forwarder: Handle,
        cores: &CoreFactory,
        caches: &mut Caches,
    ) -> Result<Vec<SocketReport>, ServerError> {
        let threads = listeners.len();
        let mut reports = Vec::new();
        for ((listeners, mailbox), front) in listeners.into_iter().zip(mailboxes).zip(0..) {
            let name = match threads {
                1 => "sockets".to_owned(),
                _ => format!("sockets:{front}"),
            };
            let core_counters = CoreCounters::default();
            let maintenance = Maintenance::new({
                let mailbox = Arc::clone(&mailbox);
                move || mailbox.wake()
            });
            caches.fronts.push((name.clone(), maintenance.queue()));
            let resources = front::Resources {
                core: cores.core(&core_counters)?,
                maintenance,
                forwarder: forwarder.clone(),
                mailbox,
                front,
                clock: cores.clock(),
                latency: Arc::clone(&core_counters.latency),
                tap: cores.tap(),
            };
            let on_exit = self.threads.essential("socket front");
            let front = SocketFront::start(&name, listeners, resources, on_exit)
                .map_err(start("the socket front"))?;
            reports.push(SocketReport {
                counters: front.counters(),
                core: core_counters,
            });
            self.sockets.push(front);
        }
        Ok(reports)
    }

    /// Opens AF_XDP, if the backend asks for it, at most this many queues of each interface, and starts the
    /// workers, which get these numbers with the forwarder and mailboxes. With the backend `auto`, the sockets
    /// serve alone if this fails.
    fn start_xdp(
        &mut self,
        config: &Config,
        addresses: Vec<SocketAddr>,
        queues: &[usize],
        cores: CoreFactory,
        forwarder: Handle,
        workers: Vec<(u16, Arc<Mailbox>)>,
    ) -> Result<(), ServerError> {
        let Some(open) = open_xdp(config, &addresses, queues)? else {
            if config.tier.mode == TierMode::On {
                warn!("hot tier off: it needs AF_XDP, which is not used");
            }
            return Ok(());
        };
        let summary = summary(&addresses, Some(&open));
        let threads = &self.threads;
        match Supervisor::start(open, config, addresses, cores, forwarder, workers, threads) {
            Ok(supervisor) => {
                if let Some(tier) = supervisor.tier() {
                    self.reloader.set_tier(tier);
                }
                self.supervisor = Some(supervisor);
                self.summary = summary;
            }
            Err(error) if config.backend == Backend::Auto => warn!("backend socket: {error}"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn start_control(
        &mut self,
        control: Control,
        report: Arc<Report>,
        tracer: Tracer,
        caches: Caches,
        tier: Option<Arc<HotTier>>,
    ) -> Result<(), ServerError> {
        let commands = Commands {
            reloader: Arc::clone(&self.reloader),
            report,
            caches,
            tier,
            tracer,
        };
        let lost = "stats, reload, flush, dump and trace do not work";
        let on_exit = Threads::auxiliary("control", lost);
        let control = control
            .serve(on_exit, move |command, to| commands.run(command, to))
            .map_err(start("the control thread"))?;
        self.control = Some(control);
        Ok(())
    }

    fn start_http(
        &mut self,
        listener: Option<HttpListener>,
        report: &Arc<Report>,
        config: &Config,
    ) -> Result<(), ServerError> {
        if let Some(listener) = listener {
            let site = http::Site::new(
                Arc::clone(report),
                Arc::clone(&self.reloader),
                &self.threads,
                config,
            );
            let lost = "metrics, health checks and the status page do not work";
            let server = listener
                .serve(Threads::auxiliary("http", lost), site)
                .map_err(start("the HTTP thread"))?;
            self.http = Some(server);
        }
        Ok(())
    }

    fn start_snapshots(
        &mut self,
        snapshot: Option<&SnapshotConfig>,
        caches: Caches,
    ) -> Result<(), ServerError> {
        if let Some(config) = snapshot {
            let on_exit = Threads::auxiliary("snapshot", "no snapshots are written");
            let writer = SnapshotWriter::start(config, caches, on_exit)
                .map_err(start("the snapshot thread"))?;
            self.snapshots = Some(writer);
        }
        Ok(())
    }

    /// A description of the interfaces and addresses served, for the log.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Reloads the policy, from the settings and the files that they name, and logs the outcome.
    /// Queries are answered meanwhile.
    ///
    /// # Errors
    /// Settings or files are bad; the old policy stays.
    pub(crate) fn reload(&self) -> Result<String, ReloadError> {
        self.reloader.reload_and_log()
    }

    /// Logs the most important counters in one line.
    pub(crate) fn log_statistics(&self) {
        if let Some(report) = &self.report {
            info!("statistics: {}", report.summary());
        }
    }

    /// The first thread that has ended although the server needs it, if one has.
    pub(crate) fn failed(&self) -> Option<&'static str> {
        self.threads.failed()
    }
}

/// Resources that are opened before any thread starts.
struct Opened {
    control: Control,
    metrics: Option<HttpListener>,
    /// Those of each socket thread.
    listeners: Vec<Listeners>,
    /// Those of the listeners.
    addresses: Vec<SocketAddr>,
}

impl Opened {
    /// `max_connections`: TCP connections of clients, of all socket threads.
    fn open(config: &Config, max_connections: usize) -> Result<Self, ServerError> {
        let control = retry(
            || Control::bind(&config.control, &permissions(config)),
            |error| matches!(error, ControlError::Taken(_)),
        )?;
        let listeners = retry(
            || Listeners::bind(&config.listen),
            |error| matches!(error, SocketError::Taken { .. }),
        )?;
        let metrics = http::open(config)?;
        let addresses = listeners.local_addresses();
        warn_of_absent(&addresses);
        let listeners = listeners.split(config.socket.threads, max_connections)?;
        Ok(Self {
            control,
            metrics,
            listeners,
            addresses,
        })
    }
}

/// Who may use the control socket.
fn permissions(config: &Config) -> Permissions {
    Permissions {
        mode: config.control_mode,
        group: config.control_group.clone(),
    }
}

/// Listening on an address that this host does not have may be intended, or a typing error.
fn warn_of_absent(listen: &[SocketAddr]) {
    let host = Host::read();
    let absent = |address: &&SocketAddr| !address.ip().is_unspecified() && !host.has(**address);
    for &address in listen.iter().filter(absent) {
        warn!(
            "this host has no address {} now; {} is answered on once it has",
            address.ip(),
            Zoned(address)
        );
    }
}

/// Opens AF_XDP if the backend asks for it. With `auto`, a failure is logged and leaves the sockets.
fn open_xdp(
    config: &Config,
    addresses: &[SocketAddr],
    queues: &[usize],
) -> Result<Option<OpenXdp>, ServerError> {
    if config.backend == Backend::Socket {
        return Ok(None);
    }
    if config.interfaces.is_empty() {
        info!("backend socket: no --interface is given, so AF_XDP is not used");
        return Ok(None);
    }
    match OpenXdp::open(config, addresses, queues) {
        Ok(open) => Ok(Some(open)),
        Err(error) if config.backend == Backend::Auto => {
            warn!("backend socket: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn forward_options(config: &Config) -> forward::ForwardOptions {
    let forward = &config.forward;
    forward::ForwardOptions {
        upstreams: config.upstreams.clone(),
        tls: forward::TlsOptions {
            roots: forward.tls_roots.clone(),
            opportunistic: forward.tls_opportunistic,
        },
        threads: forward.threads,
        queue: forward.queue,
        max_in_flight: forward.max_in_flight,
        attempt_timeout: forward.timeout,
        attempts: forward.attempts,
        limits: config.cache.ttl_limits(),
        trust_ad: forward.trust_ad,
        cache_bytes: config.cache.bytes,
        failure_min: 1,
        failure_max: forward.failure_ttl_max,
        stale_max_age: config.cache.stale_max_age,
        client_response_timeout: forward.client_response_timeout,
        nxdomain_cut: config.cache.nxdomain_cut,
        client_subnet: forward.client_subnet.map(|prefix| prefix.parts()),
    }
}

fn mailbox(capacity: usize) -> Result<Arc<Mailbox>, ServerError> {
    let mailbox = Mailbox::new(capacity).map_err(start("a mailbox"))?;
    Ok(Arc::new(mailbox))
}

fn start(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Start { what, source }
}

fn summary(listen: &[SocketAddr], xdp: Option<&OpenXdp>) -> String {
    let listen: Vec<String> = listen
        .iter()
        .map(|address| Zoned(*address).to_string())
        .collect();
    let listen = listen.join(", ");
    match xdp {
        Some(xdp) => format!("AF_XDP on {}; sockets on {listen}", xdp.summary()),
        None => format!("sockets on {listen}"),
    }
}
