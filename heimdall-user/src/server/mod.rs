//! The whole server, put together: who is started with what, in which order, and stopped.
//!
//! Everything that can fail for reasons outside of us comes first, while there is no thread yet:
//! the control socket, the listeners, the XDP programs and AF_XDP sockets. Then come the
//! forwarder, and the fronts that hand it their misses. A start that fails on the way stops what
//! it has started.
//!
//! Every thread has an owner that notices its end: `supervisor` for AF_XDP's workers,
//! `threads` for all others. This module holds no logic of packets or answers; `heimdall run`
//! calls it.

mod advice;
mod attached;
mod dump;
mod files;
mod pages;
mod policy;
mod preflight;
mod report;
mod retry;
mod snapshot;
mod supervisor;
mod threads;
mod watchdog;
mod xdp;

use std::{
    cell::Cell,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
};

use arc_swap::ArcSwap;
use serde_json::json;
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    answer::{Core, policy::Policy},
    cache::{Cache, Record},
    clock::Clock,
    config::{Backend, Config, ConfigError, Host, Place, Zoned},
    control::{Control, ControlError, ControlServer, Request},
    dns::{NameHasher, reply},
    forward::{self, Forwarder, Mailbox, Prepared},
    front,
    maintenance::{Caches, Maintenance, Scope},
    socket::{Listeners, SocketError, SocketFront},
    stats::{AnswerCounters, DropCounters},
    xdp::XdpError,
};
use policy::Reloader;
pub use policy::{PolicyError, PolicyLoader, ReloadError};
pub use preflight::check;
use report::{Report, SocketReport};
use retry::retry;
use snapshot::Keeper;
use supervisor::Xdp;
use threads::Threads;
use xdp::{AfXdpError, OpenXdp};

/// Why the server does not start. One line each.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A setting, found to be bad before anything was opened.
    #[error("{place}{error}")]
    At {
        /// Where it stands.
        place: Place,
        /// What is wrong.
        error: Box<ServerError>,
    },
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The listen addresses.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// AF_XDP, and the backend is `xdp`.
    #[error(transparent)]
    Xdp(#[from] AfXdpError),
    /// An interface, and the backend is `xdp`.
    #[error(transparent)]
    Interface(#[from] XdpError),
    /// Memory for a cache.
    #[error("cannot reserve {bytes} octets for a cache: {source}; lower --cache-size")]
    Cache {
        /// How much.
        bytes: usize,
        /// Why not.
        source: io::Error,
    },
    /// Threads, eventfds and the like.
    #[error(
        "cannot start {what}: {source}; check the limits on threads and open files (ulimit -a)"
    )]
    Start {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// The socket front's number with the forwarder; AF_XDP workers have the numbers after it.
const SOCKET_FRONT: u16 = 0;

/// Queries from sockets that may wait for the forwarder.
const MAX_SOCKET_PENDING: usize = 4096;

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    reloader: Arc<Reloader>,
    report: Option<Arc<Report>>,
    summary: String,
    threads: Arc<Threads>,
    // Absent while the server is being started, where it does not use them, and at the end.
    xdp: Option<Xdp>,
    sockets: Option<SocketFront>,
    control: Option<ControlServer>,
    snapshots: Option<Keeper>,
    forwarder: Option<Forwarder>,
}

impl Server {
    /// Starts everything. When it returns, queries are answered.
    ///
    /// A port, a control socket or an interface that another process has is tried for a second:
    /// it may be that of a predecessor that the kernel still takes apart.
    ///
    /// `settings` reads the settings again, for a reload. `on_failure` is called, on any thread,
    /// when [`failed`](Self::failed) has come to be some thread's name: the server should be
    /// stopped then.
    ///
    /// # Errors
    /// [`ServerError`]; nothing stays running, attached, bound or on disk.
    pub fn start(
        config: &Config,
        settings: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
        on_failure: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ServerError> {
        preflight::preflight(config)?;
        let reloader = Arc::new(Reloader::start(config, settings)?);
        let control = retry(
            || Control::bind(&config.control),
            |error| matches!(error, ControlError::Taken(_)),
        )?;
        let listeners = retry(
            || Listeners::bind(&config.listen),
            |error| matches!(error, SocketError::Taken { .. }),
        )?;
        let addresses = listeners.local_addresses();
        warn_of_absent(&addresses);
        let on_sockets = summary(&addresses, None);
        let open_xdp = open_xdp(config, &addresses)?;
        let parts = CoreParts::new(config, Arc::clone(reloader.policy()));
        let socket_counters = CoreCounters::default();
        let socket_core = parts.core(&socket_counters)?;

        let socket_mailbox = Arc::new(mailbox(MAX_SOCKET_PENDING)?);
        let mut mailboxes = vec![Arc::clone(&socket_mailbox)];
        mailboxes.extend(open_xdp.iter().flat_map(OpenXdp::mailboxes));

        let threads = Threads::new(on_failure);
        // From here on, what has been started is stopped when a later step fails.
        let mut server = Self {
            reloader: Arc::clone(&reloader),
            report: None,
            summary: summary(&addresses, open_xdp.as_ref()),
            threads: Arc::clone(&threads),
            xdp: None,
            sockets: None,
            control: None,
            snapshots: None,
            forwarder: None,
        };
        let forward_settings = files::fit(
            forward_settings(config),
            mailboxes.len(),
            config.listen.len(),
        );
        let mut forwarder = Prepared::new(&forward_settings, mailboxes, parts.hasher.clone())
            .map_err(start("the forwarder"))?;
        let snapshot = config.snapshot.as_ref();
        let snapshot = snapshot.filter(|snapshot| snapshot::restore(snapshot, &mut forwarder));
        let forwarder = forwarder
            .start_with(|| threads.essential("forwarder"))
            .map_err(start("the forwarder"))?;
        let forwarder = server.forwarder.insert(forwarder);
        let socket_maintenance = Maintenance::new({
            let mailbox = Arc::clone(&socket_mailbox);
            move || mailbox.ring()
        });
        let mut caches = Caches {
            forwarder: forwarder.command_queues(),
            fronts: vec![("sockets".to_owned(), socket_maintenance.queue())],
        };
        let resources = front::Resources {
            core: socket_core,
            maintenance: socket_maintenance,
            forwarder: forwarder.handle(),
            mailbox: socket_mailbox,
            front: SOCKET_FRONT,
            clock: parts.clock,
        };
        let on_exit = threads.essential("socket front");
        let sockets =
            SocketFront::start(listeners, resources, on_exit).map_err(start("the socket front"))?;
        let sockets = server.sockets.insert(sockets);
        let xdp = open_xdp.map(|open| {
            let forwarder = forwarder.handle();
            let front = SOCKET_FRONT + 1;
            Xdp::start(open, config, addresses, parts, forwarder, front, &threads)
        });
        server.xdp = match xdp.transpose() {
            Ok(xdp) => xdp,
            Err(error) if config.backend == Backend::Auto => {
                warn!("backend socket: {error}");
                server.summary = on_sockets;
                None
            }
            Err(error) => return Err(error),
        };

        let report = Arc::new(Report {
            xdp: server.xdp.as_ref().map(Xdp::report),
            sockets: SocketReport {
                counters: sockets.counters(),
                core: socket_counters,
            },
            forwarder: forwarder.counters(),
        });
        server.report = Some(Arc::clone(&report));
        caches
            .fronts
            .extend(server.xdp.iter().flat_map(Xdp::command_queues));
        server.snapshots = snapshot
            .map(|config| {
                let on_exit = threads.auxiliary("snapshot", "no snapshots are written");
                Keeper::start(config, caches.clone(), on_exit)
            })
            .transpose()
            .map_err(start("the snapshots' thread"))?;
        let on_exit = threads.auxiliary("control", "stats, reload, flush and dump do not work");
        let control = control
            .serve(on_exit, move |request, to| match request {
                Request::Stats => writeln!(to, "{}", report.json()),
                Request::Reload => {
                    let outcome = match reload(&reloader) {
                        Ok(done) => json!({ "reloaded": done }),
                        Err(error) => json!({ "failed": error.to_string() }),
                    };
                    writeln!(to, "{outcome}")
                }
                Request::Flush(scope) => {
                    writeln!(to, "{}", json!({ "flushed": caches.flush(scope) }))
                }
                Request::Dump(scope) => dump(&caches, scope, to),
            })
            .map_err(start("the control thread"))?;
        server.control = Some(control);
        Ok(server)
    }

    /// What it answers on, in words.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Takes the policy anew, from the settings and the files that they name, and logs what came
    /// of it. Queries go on being answered.
    ///
    /// # Errors
    /// Settings or files are bad; the old policy stays.
    pub fn reload(&self) -> Result<&'static str, ReloadError> {
        reload(&self.reloader)
    }

    /// Logs the most important counters in one line.
    pub fn log_statistics(&self) {
        if let Some(report) = &self.report {
            info!("statistics: {}", report.summary());
        }
    }

    /// The thread that has ended, though the server cannot do without it, if one has.
    pub fn failed(&self) -> Option<&'static str> {
        self.threads.failed()
    }

    /// Stops everything, the XDP programs first: from then on packets go to the kernel.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.threads.stop();
        if let Some(xdp) = self.xdp.take() {
            xdp.stop();
        }
        if let Some(sockets) = self.sockets.take() {
            drop(sockets);
        }
        if let Some(control) = self.control.take() {
            control.stop();
        }
        if let Some(snapshots) = self.snapshots.take() {
            snapshots.stop();
        }
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.stop();
        }
    }
}

/// Writes the entries of all caches, one JSON document each, and how many there were.
fn dump(caches: &Caches, scope: Scope, to: &mut dyn Write) -> io::Result<()> {
    let mut entries = 0u64;
    caches.copy(scope, |cache, mut records| {
        while let Some(record) = Record::take(&mut records) {
            entries += 1;
            writeln!(to, "{}", dump::entry(cache, &record))?;
        }
        io::Result::Ok(())
    })?;
    writeln!(to, "{}", json!({ "entries": entries }))
}

fn reload(reloader: &Reloader) -> Result<&'static str, ReloadError> {
    let outcome = reloader.reload();
    match &outcome {
        Ok(done) => info!("{done}"),
        Err(error) => warn!("not reloaded, the old policy stays: {error}"),
    }
    outcome
}

/// What all answer cores of the process have in common.
struct CoreParts {
    hasher: NameHasher,
    server: reply::Server,
    policy: Arc<ArcSwap<Policy>>,
    cache_bytes: usize,
    clock: Clock,
    /// It has been said what pages the caches are in.
    said_pages: Cell<bool>,
}

/// What a core counts.
#[derive(Clone, Debug, Default)]
struct CoreCounters {
    answers: Arc<AnswerCounters>,
    drops: Arc<DropCounters>,
}

impl CoreParts {
    fn new(config: &Config, policy: Arc<ArcSwap<Policy>>) -> Self {
        Self {
            hasher: NameHasher::default(),
            server: reply::Server::new(config.max_udp_size, config.forward.trust_ad),
            policy,
            cache_bytes: config.cache_bytes,
            clock: Clock::start(),
            said_pages: Cell::new(false),
        }
    }

    /// A core with a cache of its own.
    fn core(&self, counters: &CoreCounters) -> Result<Core, ServerError> {
        let cache = Cache::new(self.cache_bytes).map_err(|source| ServerError::Cache {
            bytes: self.cache_bytes,
            source,
        })?;
        if !self.said_pages.replace(true) {
            pages::say(&cache, self.cache_bytes);
        }
        Ok(Core::new(
            cache,
            self.hasher.clone(),
            self.server,
            Arc::clone(&self.policy),
            Arc::clone(&counters.answers),
            Arc::clone(&counters.drops),
        ))
    }
}

/// Listening on an address that this host lacks may be meant, or a slip of the pen.
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

/// Opens AF_XDP as the backend asks; says so if it stays with sockets.
fn open_xdp(config: &Config, addresses: &[SocketAddr]) -> Result<Option<OpenXdp>, ServerError> {
    if config.backend == Backend::Socket {
        return Ok(None);
    }
    if config.interfaces.is_empty() {
        info!("backend socket: no --interface is given, so AF_XDP is not used");
        return Ok(None);
    }
    match OpenXdp::open(config, addresses) {
        Ok(open) => Ok(Some(open)),
        Err(error) if config.backend == Backend::Auto => {
            warn!("backend socket: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn forward_settings(config: &Config) -> forward::Settings {
    let forward = &config.forward;
    forward::Settings {
        upstreams: config.upstreams.clone(),
        threads: forward.threads,
        queue: forward.queue,
        max_in_flight: forward.max_in_flight,
        attempt_timeout: forward.timeout,
        attempts: forward.attempts,
        limits: config.ttl,
        trust_ad: forward.trust_ad,
        cache_bytes: config.cache_bytes,
        failure_max: forward.failure_ttl_max,
        stale_max_age: forward.stale_max_age,
        client_response_timeout: forward.client_response_timeout,
        nxdomain_cut: forward.nxdomain_cut,
        client_subnet: forward.client_subnet.map(|prefix| prefix.parts()),
        ..forward::Settings::default()
    }
}

fn mailbox(capacity: usize) -> Result<Mailbox, ServerError> {
    Mailbox::new(capacity).map_err(start("a mailbox"))
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
