//! The whole server, put together: who is started with what, in which order, and stopped.
//!
//! Everything that can fail for reasons outside of us comes first, while there is no thread yet:
//! the control socket, the listeners, the XDP programs and AF_XDP sockets. Then come the
//! forwarder, and the fronts that hand it their misses. This room holds no logic of packets or
//! answers; `heimdall run` calls it.

mod advice;
mod attached;
mod dump;
mod pages;
mod policy;
mod report;
mod snapshot;
mod watchdog;
mod xdp;

use std::{
    cell::Cell,
    io::{self, Write},
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
    config::{Backend, Config, ConfigError},
    control::{Control, ControlError, ControlServer, Request},
    dns::{NameHasher, reply},
    forward::{self, Forwarder, Mailbox, Prepared},
    socket::{self, Listeners, SocketError, SocketFront},
    stats::{AnswerCounters, DropCounters},
    upkeep::{Caches, Scope, Upkeep},
};
use policy::Reloader;
pub use policy::{PolicyError, PolicyLoader, ReloadError};
use report::{Report, SocketReport};
use snapshot::Keeper;
use xdp::{AfXdpError, OpenXdp, Xdp};

/// Why the server does not start. One line each.
#[derive(Debug, Error)]
pub enum ServerError {
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

/// A running server.
#[derive(Debug)]
pub struct Server {
    control: ControlServer,
    reloader: Arc<Reloader>,
    xdp: Option<Xdp>,
    sockets: SocketFront,
    snapshots: Option<Keeper>,
    forwarder: Forwarder,
    summary: String,
}

impl Server {
    /// Starts everything. When it returns, queries are answered.
    ///
    /// # Errors
    /// [`ServerError`]; nothing stays attached, bound or on disk.
    ///
    /// `settings` reads the settings anew, for a reload.
    pub fn start(
        config: &Config,
        settings: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ServerError> {
        let reloader = Arc::new(Reloader::start(config, settings)?);
        let control = Control::bind(&config.control)?;
        let listeners = Listeners::bind(&config.listen)?;
        let open_xdp = open_xdp(config, &listeners)?;
        let queues = open_xdp.as_ref().map_or(0, OpenXdp::queues);
        advice::memory(config, queues);
        let parts = CoreParts::new(config, Arc::clone(reloader.policy()));
        let (socket_core, socket_counters) = parts.core()?;

        let socket_mailbox = Arc::new(mailbox(MAX_SOCKET_PENDING)?);
        let mut mailboxes = vec![Arc::clone(&socket_mailbox)];
        mailboxes.extend(open_xdp.iter().flat_map(OpenXdp::mailboxes));

        let on_sockets = summary(&listeners, None);
        let on_both = summary(&listeners, open_xdp.as_ref());
        let mut forwarder =
            Prepared::new(&forward_settings(config), mailboxes, parts.hasher.clone())
                .map_err(start("the forwarder"))?;
        let snapshot = config.snapshot.as_ref();
        let snapshot = snapshot.filter(|snapshot| snapshot::restore(snapshot, &mut forwarder));
        let forwarder = forwarder.start().map_err(start("the forwarder"))?;
        let socket_upkeep = Upkeep::new({
            let mailbox = Arc::clone(&socket_mailbox);
            move || mailbox.ring()
        });
        let mut caches = Caches {
            forwarder: forwarder.desks(),
            fronts: vec![("sockets".to_owned(), socket_upkeep.desk())],
        };
        let socket_parts = socket::Parts {
            core: socket_core,
            upkeep: socket_upkeep,
            forwarder: forwarder.handle(),
            mailbox: socket_mailbox,
            front: SOCKET_FRONT,
            max_pending: MAX_SOCKET_PENDING,
        };
        let sockets = SocketFront::start(listeners, socket_parts, parts.clock)
            .map_err(start("the socket front"))?;
        let xdp = match open_xdp {
            Some(open) => match open.start(config, &parts, &forwarder, SOCKET_FRONT + 1) {
                Ok(xdp) => Some(xdp),
                Err(error) if config.backend == Backend::Auto => {
                    warn!("backend socket: {error}");
                    None
                }
                Err(error) => return Err(error),
            },
            None => None,
        };
        let summary = if xdp.is_some() { on_both } else { on_sockets };

        let report = Report {
            xdp: xdp.as_ref().map(Xdp::report),
            sockets: SocketReport {
                counters: sockets.counters(),
                core: socket_counters,
            },
            forwarder: forwarder.counters(),
        };
        caches.fronts.extend(xdp.iter().flat_map(Xdp::desks));
        let snapshots = snapshot
            .map(|config| Keeper::start(config, caches.clone()))
            .transpose()
            .map_err(start("the snapshots' thread"))?;
        let control = control
            .serve({
                let reloader = Arc::clone(&reloader);
                move |request, to| match request {
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
                }
            })
            .map_err(start("the control thread"))?;
        Ok(Self {
            control,
            reloader,
            xdp,
            sockets,
            snapshots,
            forwarder,
            summary,
        })
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

    /// Stops everything, the XDP programs first: from then on packets go to the kernel.
    pub fn stop(self) {
        if let Some(xdp) = self.xdp {
            xdp.stop();
        }
        self.sockets.stop();
        self.control.stop();
        if let Some(snapshots) = self.snapshots {
            snapshots.stop();
        }
        self.forwarder.stop();
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
#[derive(Clone, Debug)]
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

    /// A core with a cache of its own, and its counters.
    fn core(&self) -> Result<(Core, CoreCounters), ServerError> {
        let cache = Cache::new(self.cache_bytes).map_err(|source| ServerError::Cache {
            bytes: self.cache_bytes,
            source,
        })?;
        if !self.said_pages.replace(true) {
            pages::say(&cache, self.cache_bytes);
        }
        let counters = CoreCounters {
            answers: Arc::default(),
            drops: Arc::default(),
        };
        let core = Core::new(
            cache,
            self.hasher.clone(),
            self.server,
            Arc::clone(&self.policy),
            Arc::clone(&counters.answers),
            Arc::clone(&counters.drops),
        );
        Ok((core, counters))
    }
}

/// Opens AF_XDP as the backend asks; says so if it stays with sockets.
fn open_xdp(config: &Config, listeners: &Listeners) -> Result<Option<OpenXdp>, ServerError> {
    if config.backend == Backend::Socket {
        return Ok(None);
    }
    if config.interfaces.is_empty() {
        info!("backend socket: no --interface is given, so AF_XDP is not used");
        return Ok(None);
    }
    match OpenXdp::open(config, &listeners.local_addresses()) {
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

fn summary(listeners: &Listeners, xdp: Option<&OpenXdp>) -> String {
    let listen: Vec<String> = listeners
        .local_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let listen = listen.join(", ");
    match xdp {
        Some(xdp) => format!("AF_XDP on {}; sockets on {listen}", xdp.summary()),
        None => format!("sockets on {listen}"),
    }
}
