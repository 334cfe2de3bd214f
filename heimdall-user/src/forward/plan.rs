//! Which upstreams there are, and for which routes: what the start and each reload give to all threads.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use ring::digest;

use super::{
    ForwardOptions, TlsOptions, UpstreamAddress, UpstreamMetrics,
    handle::{Inbox, Reload},
    routes::{ROOT, RouteOptions},
    tls::{TlsClient, TlsClients},
};

/// The upstreams and routes of all threads.
#[derive(Debug)]
pub(crate) struct Plan {
    generation: u64,
    /// Each once, however many routes it has, in the order of the settings.
    pub(crate) upstreams: Vec<PlannedUpstream>,
    /// Those in force, the root's among them, each with its upstreams' positions in the list.
    pub(super) routes: Vec<(Arc<RouteOptions>, Vec<usize>)>,
}

/// An upstream.
pub(crate) struct PlannedUpstream {
    pub(crate) address: UpstreamAddress,
    pub(super) tls: Option<Arc<TlsClient>>,
    /// Counters and latency of each thread.
    pub(crate) threads: Box<[Arc<UpstreamMetrics>]>,
    /// The longest time that one of its routes gives it to respond, at least.
    pub(super) least: Duration,
    /// The zones of its routes, in wire form.
    pub(crate) zones: Vec<Box<[u8]>>,
}

impl PlannedUpstream {
    /// The zone of the default route if it has that one, or else of its first.
    pub(super) fn probe_zone(&self) -> &[u8] {
        let mut zones = self.zones.iter();
        match self.zones.first() {
            Some(first) if zones.all(|zone| **zone != *ROOT) => first,
            _ => ROOT,
        }
    }
}

impl fmt::Debug for PlannedUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedUpstream")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// The plan of the first start.
    ///
    /// # Errors
    /// The root certificates for TLS cannot be read.
    pub(super) fn new(options: &ForwardOptions) -> io::Result<Self> {
        Self::after(None, options)
    }

    /// The plan that follows `before`. An upstream that stays keeps its counters and its TLS sessions.
    fn after(before: Option<&Self>, options: &ForwardOptions) -> io::Result<Self> {
        let known = before.map_or(&[][..], |before| &before.upstreams);
        let known: HashMap<_, _> = known.iter().map(|known| (&known.address, known)).collect();
        let mut clients = TlsClients::new(&options.tls);
        let mut upstreams: Vec<PlannedUpstream> = Vec::new();
        let mut positions: HashMap<UpstreamAddress, usize> = HashMap::new();
        let mut routes = Vec::new();
        for route in options.all_routes() {
            let mut members = Vec::with_capacity(route.upstreams.len());
            for address in &route.upstreams {
                let position = match positions.get(address) {
                    Some(position) => *position,
                    None => {
                        let (tls, threads) = match known.get(address) {
                            Some(known) => (known.tls.clone(), known.threads.clone()),
                            None => {
                                let threads = (0..options.threads.max(1)).map(|_| Arc::default());
                                (clients.client(address)?, threads.collect())
                            }
                        };
                        upstreams.push(PlannedUpstream {
                            address: address.clone(),
                            tls,
                            threads,
                            least: Duration::ZERO,
                            zones: Vec::new(),
                        });
                        positions.insert(address.clone(), upstreams.len() - 1);
                        upstreams.len() - 1
                    }
                };
                if let Some(upstream) = upstreams.get_mut(position) {
                    upstream.zones.push(route.zone.clone());
                    upstream.least = upstream.least.max(route.attempt_timeout);
                }
                members.push(position);
            }
            routes.push((Arc::new(route), members));
        }
        Ok(Self {
            generation: before.map_or(0, |before| before.generation + 1),
            upstreams,
            routes,
        })
    }

    #[cfg(test)]
    pub(super) fn of_generation(options: &ForwardOptions, generation: u64) -> io::Result<Self> {
        let first = Self::new(options)?;
        Ok(Self {
            generation,
            ..first
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// A number for where answers come from: the same for the same zones with the same upstreams, in any process.
    pub(crate) fn origin(&self) -> u64 {
        let mut routes: Vec<String> = self
            .routes
            .iter()
            .map(|(route, _)| {
                let upstreams = route.upstreams.iter().map(ToString::to_string);
                let mut upstreams: Vec<String> = upstreams.collect();
                upstreams.sort_unstable();
                format!("{:?} {:?} {upstreams:?}", route.zone, route.local_only)
            })
            .collect();
        routes.sort_unstable();
        let digest = digest::digest(&digest::SHA256, routes.concat().as_bytes());
        let first = digest.as_ref().first_chunk();
        // 0 would be unknown.
        first.map_or(0, |first| u64::from_le_bytes(*first)).max(1)
    }

    /// The longest time that look-ups of a route take for all attempts over UDP.
    pub(super) fn longest(&self) -> Duration {
        let times = self
            .routes
            .iter()
            .map(|(route, _)| route.attempt_timeout * route.attempts);
        times.max().unwrap_or_default()
    }
}

impl ForwardOptions {
    /// The routes, the root's among them.
    pub(crate) fn all_routes(&self) -> impl Iterator<Item = RouteOptions> {
        let has_root = self.routes.iter().any(|route| *route.zone == *ROOT);
        let root = RouteOptions {
            zone: ROOT.into(),
            local_only: None,
            upstreams: self.upstreams.clone(),
            attempt_timeout: self.attempt_timeout,
            attempts: self.attempts,
            policy: self.policy,
            hedge: self.hedge,
            limits: self.limits,
        };
        let root = (!has_root).then_some(root);
        root.into_iter().chain(self.routes.iter().cloned())
    }
}

/// The plan in force, which reloads replace.
#[derive(Clone, Debug)]
pub(crate) struct Plans {
    current: Arc<ArcSwap<Plan>>,
    inboxes: Arc<[Arc<Inbox>]>,
    /// Of the start: a reload does not change them.
    tls: TlsOptions,
    /// Reloads that have begun and that have ended.
    changes: Arc<AtomicU64>,
}

impl Plans {
    pub(super) fn new(plan: Arc<Plan>, inboxes: Arc<[Arc<Inbox>]>, tls: TlsOptions) -> Self {
        Self {
            current: Arc::new(ArcSwap::new(plan)),
            inboxes,
            tls,
            changes: Arc::default(),
        }
    }

    /// How often the plan was changed. `None`: it is being changed.
    pub(crate) fn changes(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::SeqCst);
        changes.is_multiple_of(2).then_some(changes)
    }

    /// The plan in force.
    pub(crate) fn current(&self) -> Arc<Plan> {
        self.current.load_full()
    }

    /// The plan for other routes and upstreams. `None`: they are as they were.
    ///
    /// # Errors
    /// The root certificates for TLS cannot be read.
    pub(crate) fn prepare(&self, options: &ForwardOptions) -> io::Result<Option<Plan>> {
        let current = self.current();
        let mut routes = current.routes.iter().map(|(route, _)| &**route);
        let is_same = options
            .all_routes()
            .all(|route| routes.next() == Some(&route));
        if is_same && routes.next().is_none() {
            return Ok(None);
        }
        let options = ForwardOptions {
            threads: self.inboxes.len(),
            tls: self.tls.clone(),
            ..options.clone()
        };
        Plan::after(Some(&current), &options).map(Some)
    }

    /// Puts a plan in force that was [prepared](Self::prepare) after the last one: one at a time. When it returns, no
    /// look-up begins under the one before, and what was cached under it and is not valid any more is gone from the
    /// forwarder's caches.
    pub(crate) fn adopt(&self, plan: Plan) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let plan = Arc::new(plan);
        // All threads begin before the first is waited for. A channel is closed once its thread is done, or has ended.
        let done: Vec<_> = self
            .inboxes
            .iter()
            .map(|inbox| {
                let (done, is_done) = sync_channel::<()>(0);
                inbox.reload(Reload {
                    plan: Arc::clone(&plan),
                    done,
                });
                is_done
            })
            .collect();
        for is_done in done {
            let _ = is_done.recv();
        }
        self.current.store(plan);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}
