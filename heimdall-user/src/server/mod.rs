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

mod anycast;
mod attached;
mod commands;
mod cores;
mod error;
mod file_limit;
mod http;
mod latency;
mod metrics;
mod opened;
mod policy;
mod preflight;
mod process;
mod readiness;
mod reload;
mod report;
mod requests;
mod retry;
mod snapshot;
mod steering;
mod succession;
mod supervisor;
mod tap;
mod threads;
mod tier;
mod tls;
mod trace;
mod upstreams;
mod warnings;
mod watchdog;
mod xdp;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tracing::{info, warn};

use crate::{
    anycast::Anycast,
    config::{Backend, Config, SnapshotConfig},
    control::{Control, ControlServer},
    forward::{self, Forwarder, ForwarderBuilder, Handle, Mailbox, Plans},
    front,
    handover::{self, Connection, Inheritance, Predecessor},
    http::{HttpListener, HttpServer},
    maintenance::{Caches, Maintenance},
    socket::{Ending, Listeners, SocketFront},
    tap::{Observations, Observer},
    worker::max_pending,
};
use commands::Commands;
use cores::{CoreCounters, CoreFactory};
pub use error::ServerError;
use opened::{Opened, open_xdp};
pub(crate) use policy::PolicyError;
pub use policy::PolicyLoader;
pub(crate) use preflight::{check, find_group};
use readiness::Readiness;
use reload::Reloader;
pub use reload::Source;
use report::{Report, SocketReport, Start};
pub use requests::{Inbox, Requests};
pub(crate) use requests::{Request, answer_client};
use snapshot::SnapshotWriter;
use supervisor::Supervisor;
use threads::Threads;
use trace::Tracer;
pub(crate) use trace::planned as planned_route;
use upstreams::UpstreamReport;
pub(crate) use warnings::warn_of_settings;
pub(crate) use watchdog::Watchdog;
use xdp::OpenXdp;

/// Queries of a socket thread that may wait for the forwarder.
const MAX_SOCKET_PENDING: usize = 4096;

/// The running server that another one takes over from, if there is one.
type Predecessors<'a> = Option<Box<dyn Predecessor + 'a>>;

/// A running server. Dropping it stops it.
///
/// The parts that own threads are in the order in which they stop, the XDP programs first: from then
/// on packets go to the kernel. They are absent while the server starts, and those that the settings
/// do not ask for always.
#[derive(Debug)]
pub struct Server {
    reloader: Arc<Reloader>,
    requests: Requests,
    report: Option<Arc<Report>>,
    summary: String,
    threads: Arc<Threads>,
    /// The caches, and the plans that their answers come from, once all runs.
    caches: Option<(Caches, Plans)>,
    supervisor: Option<Supervisor>,
    sockets: Vec<SocketFront>,
    control: Option<ControlServer>,
    http: Option<HttpServer>,
    snapshots: Option<SnapshotWriter>,
    /// It ends, and nobody serves until the next process does.
    expects_gap: bool,
    forwarder: Option<Forwarder>,
    observer: Option<Observer>,
    /// Last: until then packets for the service addresses are delivered.
    anycast: Option<Anycast>,
}

impl Server {
    /// Starts everything. When it returns, queries are answered.
    ///
    /// A port, a control socket or an interface that another process holds is tried for a second:
    /// that may be a server that was killed, whose sockets and programs the kernel is still releasing.
    ///
    /// `settings` reads the settings again, for a reload. `requests` go to the server's owner, from any thread: that it
    /// should be stopped, as a thread has failed, is one of them.
    ///
    /// # Errors
    /// [`ServerError`]; nothing stays running, attached or bound, and no file is written or left
    /// behind (except for the control socket's directory).
    pub fn start(
        config: &Config,
        settings: Source,
        requests: Requests,
    ) -> Result<Self, ServerError> {
        Self::take_over(config, settings, requests, Inheritance::default(), None)
    }

    /// Starts everything with what a predecessor or the service manager gives. When it returns, the predecessor has
    /// retired.
    ///
    /// # Errors
    /// As [`start`](Self::start). The predecessor is dropped unfinished, and so serves as before.
    pub(crate) fn take_over(
        config: &Config,
        settings: Source,
        requests: Requests,
        mut inheritance: Inheritance,
        mut predecessor: Predecessors<'_>,
    ) -> Result<Self, ServerError> {
        let queues = preflight::preflight(config)?;
        preflight::claim_memory(config)?;
        let reloader = Reloader::start(config, settings, &inheritance.state, queues.clone())?;
        let opened = Opened::open(config, &mut inheritance)?;
        if let Some(tls) = &opened.tls {
            reloader.set_tls(Arc::clone(tls));
        }
        let failed = requests.clone();
        let mut server = Self {
            reloader: Arc::new(reloader),
            requests,
            report: None,
            summary: opened.summary(),
            threads: Threads::new(move || failed.send(Request::Failed)),
            caches: None,
            supervisor: None,
            sockets: Vec::new(),
            control: None,
            http: None,
            snapshots: None,
            expects_gap: false,
            forwarder: None,
            observer: None,
            anycast: None,
        };
        let started = server.start_threads(config, opened, &queues, inheritance, &mut predecessor);
        if let Err(error) = started {
            if let Some(predecessor) = &mut predecessor {
                // First: from the next step on this server's threads do not read the sockets.
                predecessor.resume_sockets();
                let mut give_back = |connection| predecessor.give_back(connection);
                let limit = server.stop_timeout();
                // One that does not respond ends with the server.
                let _ =
                    SocketFront::retire(&server.sockets, Ending::GiveBack, limit, &mut give_back);
            }
            // This stops what was started, before the predecessor resumes.
            drop(server);
            return Err(error);
        }
        warnings::host(config);
        Ok(server)
    }

    /// `queues`: how many of each interface AF_XDP can serve now.
    fn start_threads(
        &mut self,
        config: &Config,
        opened: Opened,
        queues: &[usize],
        mut inheritance: Inheritance,
        predecessor: &mut Predecessors<'_>,
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
        let workers = match queues {
            [] => 0,
            // Their threads start with their first queues, which may come later.
            _ => config.xdp.most_workers(),
        };
        let worker_mailboxes = (0..workers)
            .map(|_| mailbox(max_pending(config.xdp.frames as usize)))
            .collect::<Result<Vec<_>, _>>()?;
        let mailboxes = [&socket_mailboxes[..], &worker_mailboxes[..]].concat();

        let mut forwarder =
            ForwarderBuilder::new(&forward_options(config), mailboxes, cores.hasher())
                .map_err(start("the forwarder"))?;
        forwarder.sample(observations.taps());
        let snapshot = config.cache.snapshot();
        let snapshot = match inheritance.cache.take() {
            Some(cache) => {
                snapshot::inherit(cache, &mut forwarder);
                snapshot.filter(snapshot::may_write)
            }
            None => snapshot.filter(|snapshot| snapshot::restore(snapshot, &mut forwarder)),
        };
        let forwarder = forwarder
            .start_with(|| self.threads.essential("forwarder"))
            .map_err(start("the forwarder"))?;
        let handle = forwarder.handle();
        let forward_counters = forwarder.counters();
        let plans = forwarder.plans();
        self.reloader.set_forwarder(plans.clone());
        let reported = plans.clone();
        let mut caches = Caches {
            forwarder: forwarder.command_queues(),
            fronts: Vec::new(),
        };
        self.forwarder = Some(forwarder);

        let Opened {
            control,
            metrics,
            listeners,
            addresses,
            tls,
            ..
        } = opened;
        // A wildcard of the sockets stands for all addresses of the host, and that of AF_XDP not.
        let services = config.anycast.served(&addresses);
        let steered = addresses
            .iter()
            .chain(&services)
            .copied()
            .collect::<BTreeSet<_>>();
        let steered: Vec<_> = steered.into_iter().collect();
        // Not before: from then on the kernel gives each thread's sockets a share of the queries.
        let listeners = listeners.split(socket_threads, max_connections(config, queues))?;
        let sockets = self.start_sockets(
            listeners,
            socket_mailboxes,
            handle.clone(),
            &cores,
            &mut caches,
        )?;
        self.take_sockets_over(inheritance.connections, predecessor)?;
        let for_traces = handle.clone();
        let workers = (socket_threads as u16..).zip(worker_mailboxes).collect();
        let links = inheritance.links;
        if let Some(open) = open_xdp(config, &steered, links, predecessor)? {
            self.start_workers(open, config, steered, cores, handle, workers)?;
        }
        let queues = self.supervisor.iter().flat_map(Supervisor::command_queues);
        caches.fronts.extend(queues);
        let tier = self.supervisor.as_ref().and_then(Supervisor::tier);
        let report = Arc::new(Report {
            start: Start::now(),
            policy: Arc::clone(self.reloader.policy()),
            xdp: self.supervisor.as_ref().map(Supervisor::report),
            tier: tier.clone(),
            path_mtus: self.supervisor.as_ref().and_then(Supervisor::path_mtus),
            tls,
            sockets,
            forwarder: forward_counters,
            upstreams: Box::new(move || UpstreamReport::all(&reported.current())),
            observations,
            anycast: OnceLock::new(),
        });
        self.report = Some(Arc::clone(&report));
        let readiness = Readiness::new(Arc::clone(&report), Arc::clone(&self.threads));
        self.start_http(metrics, &report, readiness.clone(), config)?;
        let tracer = Tracer {
            reloader: Arc::clone(&self.reloader),
            caches: caches.clone(),
            tier: tier.clone(),
            forwarder: for_traces,
            nxdomain_cut: config.cache.nxdomain_cut,
        };
        let commands = Commands {
            requests: self.requests.clone(),
            reloader: Arc::clone(&self.reloader),
            report: Arc::clone(&report),
            readiness: readiness.clone(),
            caches: caches.clone(),
            tier,
            tracer,
        };
        self.start_control(control, commands)?;
        self.caches = Some((caches.clone(), plans.clone()));
        let taken_over = predecessor.is_some();
        self.finish(predecessor.take())?;
        let left = &inheritance.state.anycast;
        if let Some(anycast) = anycast::start(config, services, left, readiness)? {
            // Empty before.
            let _ = report.anycast.set(anycast.report());
            self.anycast = Some(anycast);
        }
        // Last, as it writes a file when it ends, and the predecessor may have done so until now.
        match self.start_snapshots(snapshot.as_ref(), caches, plans) {
            Err(error) if taken_over => {
                warn!("no snapshots are written: {error}");
                Ok(())
            }
            started => started,
        }
    }

    /// Has the predecessor retire from the sockets, which are served, and takes its clients' connections.
    fn take_sockets_over(
        &self,
        connections: Vec<Connection>,
        predecessor: &mut Predecessors<'_>,
    ) -> Result<(), ServerError> {
        let mut adopt = |connection| SocketFront::adopt(&self.sockets, connection);
        if !connections.is_empty() {
            handover::claim_connections();
        }
        connections.into_iter().for_each(&mut adopt);
        match predecessor {
            Some(predecessor) => predecessor
                .sockets_are_served(&mut adopt)
                .map_err(ServerError::Predecessor),
            None => Ok(()),
        }
    }

    /// Ends the predecessor: from here on this server cannot fail any more.
    fn finish(&self, predecessor: Predecessors<'_>) -> Result<(), ServerError> {
        if let Some(predecessor) = predecessor {
            predecessor.finish().map_err(ServerError::Predecessor)?;
        }
        if let Some(control) = &self.control {
            control.own();
        }
        Ok(())
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

    /// Starts the workers, which get these numbers with the forwarder and mailboxes. With the backend `auto`, the sockets
    /// serve alone if this fails.
    fn start_workers(
        &mut self,
        open: OpenXdp,
        config: &Config,
        addresses: Vec<SocketAddr>,
        cores: CoreFactory,
        forwarder: Handle,
        workers: Vec<(u16, Arc<Mailbox>)>,
    ) -> Result<(), ServerError> {
        let summary = match open.interfaces.as_slice() {
            [] => self.summary.clone(),
            _ => format!("AF_XDP on {}; {}", open.summary(), self.summary),
        };
        let threads = &self.threads;
        match Supervisor::start(open, config, addresses, cores, forwarder, workers, threads) {
            Ok(supervisor) => {
                if let Some(tier) = supervisor.tier() {
                    self.reloader.set_tier(tier);
                }
                self.reloader.set_supervised();
                self.supervisor = Some(supervisor);
                self.summary = summary;
            }
            Err(error) if config.backend == Backend::Auto => {
                warn!("backend socket, until a restart: {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn start_control(&mut self, control: Control, commands: Commands) -> Result<(), ServerError> {
        let lost = "stats, ready, reload, drain, flush, dump, trace and route do not work";
        let on_exit = Threads::auxiliary("control", lost);
        let owner = self.requests.clone();
        let control = control
            .serve(
                on_exit,
                move |command, to| commands.run(command, to),
                move |command, client| owner.execute(command, client),
            )
            .map_err(start("the control thread"))?;
        self.control = Some(control);
        Ok(())
    }

    fn start_http(
        &mut self,
        listener: Option<HttpListener>,
        report: &Arc<Report>,
        readiness: Readiness,
        config: &Config,
    ) -> Result<(), ServerError> {
        if let Some(listener) = listener {
            let site = http::Site::new(
                Arc::clone(report),
                Arc::clone(&self.reloader),
                readiness,
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
        plans: Plans,
    ) -> Result<(), ServerError> {
        if let Some(config) = snapshot {
            let on_exit = Threads::auxiliary("snapshot", "no snapshots are written");
            let writer = SnapshotWriter::start(config, caches, plans, on_exit)
                .map_err(start("the snapshot thread"))?;
            self.snapshots = Some(writer);
        }
        Ok(())
    }

    /// A description of the interfaces and addresses served, for the log.
    pub fn summary(&self) -> &str {
        &self.summary
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

/// The TCP connections that clients may have, of all socket threads, beside this many queues of interfaces.
fn max_connections(config: &Config, queues: &[usize]) -> usize {
    let sockets = config.socket.threads;
    file_limit::fit(
        &forward_options(config),
        sockets + queues.iter().sum::<usize>(),
        sockets * config.listening_sockets(),
    )
}

fn forward_options(config: &Config) -> forward::ForwardOptions {
    let forward = &config.forward;
    forward::ForwardOptions {
        queue: forward.queue,
        max_in_flight: forward.max_in_flight,
        follow_aliases: forward.follow_aliases,
        randomize_case: forward.randomize_case,
        cookies: forward.cookies,
        trust_ad: forward.trust_ad,
        cache_bytes: config.cache.bytes,
        failure_min: 1,
        failure_max: forward.failure_ttl_max,
        stale_max_age: config.cache.stale_max_age,
        client_response_timeout: forward.client_response_timeout,
        probe_first: !config.anycast.addresses.is_empty() && config.anycast.needs_upstream,
        nxdomain_cut: config.cache.nxdomain_cut,
        client_subnet: forward.client_subnet.map(|prefix| prefix.parts()),
        ..config.upstream_options()
    }
}

fn mailbox(capacity: usize) -> Result<Arc<Mailbox>, ServerError> {
    let mailbox = Mailbox::new(capacity).map_err(start("a mailbox"))?;
    Ok(Arc::new(mailbox))
}

fn start(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Start { what, source }
}
