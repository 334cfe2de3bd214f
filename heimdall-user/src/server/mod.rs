//! The whole server, put together: who is started with what, in which order, and stopped.
//!
//! Everything that can fail for reasons outside of us comes first, while there is no thread yet:
//! the control socket, the listeners, the XDP programs and AF_XDP sockets. Then come the
//! forwarder, and the fronts that hand it their misses. This room holds no logic of packets or
//! answers; `heimdall run` calls it.

mod policy;
mod report;
mod xdp;

use std::{io, sync::Arc};

use arc_swap::ArcSwap;
use serde_json::json;
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    answer::{Core, policy::Policy},
    cache::Cache,
    clock::Clock,
    config::{Backend, Config, ConfigError},
    control::{Control, ControlError, ControlServer, Request},
    dns::{NameHasher, reply},
    forward::{self, Forwarder, Mailbox},
    socket::{Listeners, SocketError, SocketFront},
    stats::{AnswerCounters, DropCounters},
};
use policy::Reloader;
pub use policy::{PolicyError, PolicyLoader, ReloadError};
use report::{Report, SocketReport};
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
        let parts = CoreParts::new(config, Arc::clone(reloader.policy()));
        let (socket_core, socket_counters) = parts.core()?;

        let socket_mailbox = Arc::new(mailbox(MAX_SOCKET_PENDING)?);
        let mut mailboxes = vec![Arc::clone(&socket_mailbox)];
        mailboxes.extend(open_xdp.iter().flat_map(OpenXdp::mailboxes));

        let summary = summary(&listeners, open_xdp.as_ref());
        let forwarder = Forwarder::start(forward_settings(config), mailboxes, parts.hasher.clone())
            .map_err(start("the forwarder"))?;
        let sockets = SocketFront::start(
            listeners,
            socket_core,
            forwarder.handle(),
            socket_mailbox,
            SOCKET_FRONT,
            MAX_SOCKET_PENDING,
            parts.clock,
        )
        .map_err(start("the socket front"))?;
        let xdp = match open_xdp {
            Some(open) => Some(open.start(config, &parts, &forwarder, SOCKET_FRONT + 1)?),
            None => None,
        };

        let report = Report {
            xdp: xdp.as_ref().map(Xdp::report),
            sockets: SocketReport {
                counters: sockets.counters(),
                core: socket_counters,
            },
            forwarder: forwarder.counters(),
        };
        let control = control
            .serve({
                let reloader = Arc::clone(&reloader);
                move |request| match request {
                    Request::Stats => report.json(),
                    Request::Reload => match reload(&reloader) {
                        Ok(done) => json!({ "reloaded": done }),
                        Err(error) => json!({ "failed": error.to_string() }),
                    },
                }
            })
            .map_err(start("the control thread"))?;
        Ok(Self {
            control,
            reloader,
            xdp,
            sockets,
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
        self.forwarder.stop();
        self.control.stop();
    }
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
            server: reply::Server {
                udp_size: config.max_udp_size,
                trust_ad: config.forward.trust_ad,
            },
            policy,
            cache_bytes: config.cache_bytes,
            clock: Clock::start(),
        }
    }

    /// A core with a cache of its own, and its counters.
    fn core(&self) -> Result<(Core, CoreCounters), ServerError> {
        let cache = Cache::new(self.cache_bytes).map_err(|source| ServerError::Cache {
            bytes: self.cache_bytes,
            source,
        })?;
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
