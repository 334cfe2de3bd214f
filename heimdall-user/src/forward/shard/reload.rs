//! Other routes and upstreams while the thread runs.
//!
//! 1. They are in force for all look-ups that begin afterwards. Those in flight end under the former ones, and their answers
//!    are delivered, but neither cached nor counted for failures: they belong to another generation.
//! 2. Cached answers of upstreams that a name has no more are removed: all at once if the default route has changed so, or
//!    else some in each turn. Until then none of them is served.
//! 3. Once that is done, whoever asked for it is told. A front that has the policy of this generation caches no answer
//!    of an earlier one, so none comes back.
//! 4. Former routes, and upstreams that no route has, are removed with their sockets and connections as soon as
//!    no look-up uses them. Their numbers are used again.

use std::{
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use super::Shard;
use crate::{
    cache::{Record, Walk},
    forward::{Request, handle::Reload, inflight::Lookup, plan::Plan, routes::Replaced},
    maintenance::{RouteState, Status},
};

/// Time between two looks at what look-ups still use, while there are any: it takes a walk over all of them.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// What is left to do of reloads.
#[derive(Default)]
pub(super) struct Reloading {
    outdated: Option<Outdated>,
    /// Routes or upstreams wait to be removed.
    releasing: bool,
    release_due: Option<Instant>,
}

/// Cached answers of former routes that are being removed.
struct Outdated {
    replaced: Replaced,
    /// When the others came into force, in seconds of the cache's clock.
    begun: u32,
    walk: Walk,
    /// Dropped at the end.
    _done: SyncSender<()>,
}

impl Shard {
    /// Takes the routes and upstreams of a plan. Gives the routes that were in force.
    pub(super) fn adopt(&mut self, plan: &Plan) -> Replaced {
        let mut indices = Vec::with_capacity(plan.upstreams.len());
        for upstream in &plan.upstreams {
            let Some(metrics) = upstream.threads.get(self.thread) else {
                continue;
            };
            let metrics = metrics.clone();
            let index = match self.upstreams.find(&upstream.address) {
                Some(index) => index,
                None => {
                    let index = (self.upstreams).insert(upstream.address.clone(), metrics.clone());
                    if self.options.probe_first {
                        let now = Instant::now();
                        self.upstreams.doubt(index, now, now);
                    }
                    index
                }
            };
            self.upstreams
                .update(index, metrics, upstream.least, upstream.probe_zone());
            self.udp.add_upstream(index);
            self.tcp.add_upstream(index, upstream.tls.clone());
            if index >= self.by_upstream.len() {
                self.by_upstream.resize(index + 1, 0);
            }
            indices.push(index);
        }
        let routes = plan.routes.iter().map(|(options, positions)| {
            let members = positions.iter();
            let members = members.filter_map(|position| indices.get(*position).copied());
            (options.clone(), members.collect())
        });
        self.routes.replace(plan.generation(), routes)
    }

    /// Takes other routes, if there are any.
    pub(super) fn take_reload(&mut self, now: Instant) {
        if self.reloading.outdated.is_some() {
            return;
        }
        let Some(Reload { plan, done }) = self.inbox.take_reload() else {
            return;
        };
        let replaced = self.adopt(&plan);
        let routes = &self.routes;
        self.failures
            .flush(|question| routes.outdate(&replaced, question));
        self.zones.clear();
        self.zones.set_probe(plan.longest());
        let begun = self.clock.seconds();
        // That is most of the cache.
        let is_all = routes.outdate_default(&replaced);
        if is_all {
            self.cache.clear(begun);
        }
        self.reloading = Reloading {
            outdated: (!is_all).then(|| Outdated {
                replaced,
                begun,
                walk: Walk::default(),
                _done: done,
            }),
            releasing: true,
            release_due: Some(now),
        };
    }

    /// Whether what is cached for the request's name is of upstreams that it has no more.
    pub(super) fn is_outdated(&self, request: &Request) -> bool {
        let outdated = self.reloading.outdated.as_ref();
        outdated.is_some_and(|outdated| self.routes.outdate(&outdated.replaced, request.question()))
    }

    /// The generation of what the cache gives: as long as it may hold outdated answers of aliases, not the one in force.
    pub(super) fn cached_generation(&self) -> u64 {
        let is_flushing = self.reloading.outdated.is_some();
        (self.routes.generation()).saturating_sub(u64::from(is_flushing))
    }

    /// Removes some cached answers of former routes.
    pub(super) fn flush_outdated(&mut self) -> Status {
        let Some(outdated) = &mut self.reloading.outdated else {
            return Status::Idle;
        };
        let (routes, replaced) = (&self.routes, &outdated.replaced);
        let now = self.clock.seconds();
        let begun = outdated.begun;
        // What came after that is of the new routes.
        let is_outdated = |record: &Record<'_>| {
            now.wrapping_sub(begun) <= record.age
                && routes.outdate_answer(replaced, record.question, record.answer)
        };
        if self.cache.remove_some(&mut outdated.walk, now, is_outdated) {
            return Status::Busy;
        }
        self.reloading.outdated = None;
        Status::Idle
    }

    /// Removes routes and upstreams that are not in force and that no look-up uses.
    pub(super) fn release(&mut self, now: Instant) {
        if !self.reloading.releasing || self.reloading.outdated.is_some() {
            return;
        }
        let is_early = (self.reloading.release_due).is_some_and(|due| now < due);
        if is_early && self.in_flight.len() > 0 {
            return;
        }
        self.reloading.release_due = Some(now + RELEASE_INTERVAL);
        let lookups = self.in_flight.iter();
        let mut used: Vec<_> = lookups.map(|(_, lookup)| lookup.route).collect();
        used.sort_unstable();
        used.dedup();
        self.routes.retain(|id| used.binary_search(&id).is_ok());
        let mut of_routes: Vec<usize> = self.routes.members().collect();
        of_routes.sort_unstable();
        let targets = |lookup: &Lookup| {
            let exchanges = lookup.exchanges.iter();
            let targets = exchanges.map(|exchange| exchange.sent.target.upstream);
            targets.collect::<Vec<_>>()
        };
        let has_route = |index: &usize| of_routes.binary_search(index).is_ok();
        // Probes of upstreams that no route has would follow each other without end.
        let probes = self.in_flight.probes();
        let needless: Vec<usize> = probes
            .filter(|(_, probe)| !targets(probe).iter().all(has_route))
            .map(|(slot, _)| slot)
            .collect();
        for slot in needless {
            self.end(slot);
        }
        let all = self.in_flight.iter();
        let mut asked: Vec<usize> = all.flat_map(|(_, lookup)| targets(lookup)).collect();
        asked.sort_unstable();
        let without_route: Vec<usize> = (self.upstreams.indices())
            .filter(|index| !has_route(index))
            .collect();
        let mut is_left = false;
        for index in without_route {
            if asked.binary_search(&index).is_ok() {
                is_left = true;
                continue;
            }
            self.udp.remove_upstream(index);
            self.tcp.remove_upstream(index);
            if let Some(address) = self.upstreams.remove(index) {
                self.log.forget(&address, now);
            }
        }
        self.reloading.releasing = is_left || self.routes.has_replaced();
    }

    /// The route of a request, for an inquiry.
    pub(super) fn route_state(&self, request: &Request, now: Instant) -> Option<RouteState> {
        let id = self.routes.find(request.name(), request.qtype());
        let route = self.routes.get(id)?;
        let options = &route.options;
        let members = route.group.indices();
        let first = self.upstreams.first(&route.group, request.name(), now);
        let state = |index: &usize| {
            let least = options.attempt_timeout;
            self.upstreams.state(&route.group, *index, least, now)
        };
        Some(RouteState {
            zone: options.zone.clone(),
            local_only: options.local_only.is_some(),
            policy: options.policy.name(),
            attempts: options.attempts,
            upstreams: members.iter().filter_map(state).collect(),
            first: members.iter().position(|index| *index == first),
        })
    }
}
