//! Routes: which upstreams are asked for which names.
//!
//! A route is for a zone and the names below it, except for those of other routes: the zone with the most labels decides,
//! and the root's route, the default one, has the rest. A route that changes at a reload gets another number; the former
//! one stays until no look-up uses it any more, so what is in flight ends as it began.

use std::{sync::Arc, time::Duration};

use slab::Slab;

use super::{
    UpstreamAddress,
    upstreams::{Group, Policy},
};
use crate::{
    answer::special::LocalOnly,
    dns::{
        Answer, AnswerRef, QUESTION_FIXED, TtlLimits, ZoneMap, aliases::find_target,
        name::eq_ignore_case, rrtype, u16_at,
    },
};

/// The root's name in wire form.
pub(super) const ROOT: &[u8] = &[0];

/// A route as the operator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// The zone's name in wire form and lower case.
    pub zone: Box<[u8]>,
    /// What its names get without an upstream. `None`: they are forwarded.
    pub local_only: Option<LocalOnly>,
    /// Its upstreams, best first; none if they are not forwarded.
    pub upstreams: Vec<UpstreamAddress>,
    /// As [`ForwardOptions::attempt_timeout`](super::ForwardOptions::attempt_timeout).
    pub attempt_timeout: Duration,
    /// As [`ForwardOptions::attempts`](super::ForwardOptions::attempts).
    pub attempts: u32,
    /// Which upstream is asked first.
    pub policy: Policy,
    /// As [`ForwardOptions::hedge`](super::ForwardOptions::hedge).
    pub hedge: u32,
    /// Bounds on the TTLs of answers.
    pub limits: TtlLimits,
}

impl RouteOptions {
    /// Whether answers that were cached under these are right under `new` ones: none can be of an upstream that is not
    /// asked any more, or have a TTL out of bounds.
    fn stay_valid(&self, new: &Self) -> bool {
        let mut upstreams = self.upstreams.iter();
        self.local_only == new.local_only
            && self.limits == new.limits
            && upstreams.all(|upstream| new.upstreams.contains(upstream))
    }
}

/// The number of a route in its thread's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteId(usize);

/// A route of a thread.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) options: Arc<RouteOptions>,
    /// Its upstreams.
    pub(super) group: Group,
    /// What its names get, if they are not forwarded.
    pub(super) local: Option<Arc<Answer>>,
}

impl Route {
    /// What a name gets, in wire form, if the route's names are not forwarded. The zone itself exists.
    pub(super) fn local_answer(&self, name: &[u8]) -> Option<Arc<Answer>> {
        let (local, answer) = (self.options.local_only?, self.local.as_ref()?);
        let zone = &self.options.zone;
        Some(match eq_ignore_case(name, zone) {
            true => Arc::new(local.answer_for_zone(zone)),
            false => Arc::clone(answer),
        })
    }

    fn new(options: Arc<RouteOptions>, members: Vec<usize>) -> Self {
        let group = Group::new(members, options.policy, options.hedge);
        let local = options.local_only;
        let local = local.map(|local| Arc::new(local.answer(&options.zone)));
        Self {
            options,
            group,
            local,
        }
    }
}

/// The routes of a thread. The default has none, and is for nothing until it gets some.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Those in force, but for the default one.
    zones: ZoneMap<RouteId>,
    default: RouteId,
    /// All, those that look-ups still use included.
    all: Slab<Route>,
    generation: u64,
}

/// The routes that others have replaced.
#[derive(Debug)]
pub(super) struct Replaced {
    zones: ZoneMap<RouteId>,
    default: RouteId,
}

impl Replaced {
    fn find(&self, name: &[u8], qtype: u16) -> RouteId {
        let found = self.zones.find(name, qtype);
        found.map_or(self.default, |(_, id)| *id)
    }
}

impl Routes {
    /// Puts other routes in force, the root's among them. One that is as it was keeps its number.
    pub(super) fn replace(
        &mut self,
        generation: u64,
        routes: impl Iterator<Item = (Arc<RouteOptions>, Vec<usize>)>,
    ) -> Replaced {
        let (mut zones, mut default) = (ZoneMap::default(), self.default);
        for (options, members) in routes {
            let is_root = *options.zone == *ROOT;
            let former = match is_root {
                true => Some(self.default),
                false => self.zones.get(&options.zone).copied(),
            };
            let same = former.filter(|former| {
                let former = self.get(*former);
                former.is_some_and(|former| former.options == options)
            });
            let id = same.unwrap_or_else(|| {
                let route = Route::new(Arc::clone(&options), members);
                RouteId(self.all.insert(route))
            });
            if is_root {
                default = id;
            } else {
                zones.insert(options.zone.clone(), id);
            }
        }
        self.generation = generation;
        Replaced {
            zones: std::mem::replace(&mut self.zones, zones),
            default: std::mem::replace(&mut self.default, default),
        }
    }

    /// Increases with each reload that changes them.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The route of a question, by its name (wire form, any case) and its type.
    pub(super) fn find(&self, name: &[u8], qtype: u16) -> RouteId {
        let found = self.zones.find(name, qtype);
        found.map_or(self.default, |(_, id)| *id)
    }

    /// Whether there is only the default one.
    pub(super) fn is_one(&self) -> bool {
        self.zones.len() == 0
    }

    /// Whether a route is the default one.
    pub(super) fn is_default(&self, id: RouteId) -> bool {
        id == self.default
    }

    pub(super) fn get(&self, id: RouteId) -> Option<&Route> {
        self.all.get(id.0)
    }

    pub(super) fn get_mut(&mut self, id: RouteId) -> Option<&mut Route> {
        self.all.get_mut(id.0)
    }

    /// Upstreams that a look-up of the route can ask.
    pub(super) fn upstreams(&self, id: RouteId) -> usize {
        self.get(id).map_or(0, |route| route.group.len())
    }

    /// Bounds on the TTLs of the route's answers.
    pub(super) fn limits(&self, id: RouteId) -> TtlLimits {
        self.get(id)
            .map_or_else(TtlLimits::default, |route| route.options.limits)
    }

    /// Bounds on the TTLs of answers to a question in wire form.
    pub(super) fn limits_of(&self, question: &[u8]) -> TtlLimits {
        let (name, qtype) = name_and_type(question);
        self.limits(self.find(name, qtype))
    }

    /// Whether the name has another route for DS records than for all others.
    pub(super) fn is_apart(&self, name: &[u8], qtype: u16) -> bool {
        qtype == rrtype::DS && self.find(name, qtype) != self.find(name, rrtype::RESERVED)
    }

    /// Whether answers of the default route that were cached under the routes `before` must not be served any more.
    pub(super) fn outdate_default(&self, before: &Replaced) -> bool {
        self.outdate_route(before.default, self.default)
    }

    /// Whether answers to a question (wire form) that were cached under the routes `before` must not be served any more.
    pub(super) fn outdate(&self, before: &Replaced, question: &[u8]) -> bool {
        let (name, qtype) = name_and_type(question);
        self.outdate_name(before, name, qtype)
    }

    /// Whether a cached answer must not be served any more: an alias in it may lead to a name of another route.
    pub(super) fn outdate_answer(
        &self,
        before: &Replaced,
        question: &[u8],
        answer: AnswerRef<'_>,
    ) -> bool {
        let (name, qtype) = name_and_type(question);
        let by_alias = || {
            let is_outdated = |target: &[u8]| self.outdate_name(before, target, qtype);
            find_target(question, answer, |target| is_outdated(target).then_some(()))
        };
        self.outdate_name(before, name, qtype) || by_alias().is_some()
    }

    fn outdate_name(&self, before: &Replaced, name: &[u8], qtype: u16) -> bool {
        self.outdate_route(before.find(name, qtype), self.find(name, qtype))
    }

    fn outdate_route(&self, old: RouteId, new: RouteId) -> bool {
        old != new
            && match (self.get(old), self.get(new)) {
                (Some(old), Some(new)) => !old.options.stay_valid(&new.options),
                _ => true,
            }
    }

    /// Whether there are routes that others have replaced.
    pub(super) fn has_replaced(&self) -> bool {
        // The default one is not among the zones.
        self.all.len() > self.zones.len() + 1
    }

    /// Removes the routes that are not in force and that no look-up uses.
    pub(super) fn retain(&mut self, is_used: impl Fn(RouteId) -> bool) {
        let (zones, default) = (&self.zones, self.default);
        self.all.retain(|number, route| {
            let id = RouteId(number);
            id == default || zones.get(&route.options.zone) == Some(&id) || is_used(id)
        });
    }

    /// The upstreams of all, those included that only look-ups in flight still use.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        let groups = self.all.iter().flat_map(|(_, route)| route.group.indices());
        groups.copied()
    }
}

/// The name and the type of a question in wire form.
fn name_and_type(question: &[u8]) -> (&[u8], u16) {
    let end = question.len().saturating_sub(QUESTION_FIXED);
    let name = question.get(..end).unwrap_or_default();
    (name, u16_at(question, end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::net::SocketAddr;

    use super::*;
    use crate::{forward::ForwardOptions, maintenance::wire};

    fn upstreams(ports: &[u16]) -> Vec<UpstreamAddress> {
        let address = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port)).into();
        ports.iter().map(address).collect()
    }

    fn route(zone: &str, ports: &[u16]) -> RouteOptions {
        let options = ForwardOptions::default();
        RouteOptions {
            zone: wire(zone).unwrap(),
            local_only: None,
            upstreams: upstreams(ports),
            attempt_timeout: options.attempt_timeout,
            attempts: options.attempts,
            policy: options.policy,
            hedge: options.hedge,
            limits: options.limits,
        }
    }

    /// With ports as the upstreams' indices.
    fn with_members(
        routes: &[RouteOptions],
    ) -> impl Iterator<Item = (Arc<RouteOptions>, Vec<usize>)> {
        routes.iter().map(|route| {
            let members = route.upstreams.iter();
            let members = members.map(|upstream| upstream.address.port().into());
            (Arc::new(route.clone()), members.collect())
        })
    }

    fn question(name: &str, qtype: u16) -> Vec<u8> {
        let fixed = [qtype, 1].map(u16::to_be_bytes).concat();
        [&wire(name).unwrap()[..], &fixed].concat()
    }

    #[test]
    fn routes_that_stay_keep_their_numbers_and_only_the_others_are_outdated() {
        let mut routes = Routes::default();
        routes.replace(
            0,
            with_members(&[
                route(".", &[1, 2]),
                route("same.example", &[3]),
                route("more.example", &[4]),
                route("other.example", &[5]),
                route("gone.example", &[6]),
            ]),
        );
        let find = |routes: &Routes, name: &str| routes.find(&wire(name).unwrap(), 1);
        let before = ["www.example", "same.example", "other.example"].map(|n| find(&routes, n));
        let replaced = routes.replace(
            1,
            with_members(&[
                route(".", &[2, 1]),
                route("same.example", &[3]),
                route("more.example", &[7, 4]),
                route("other.example", &[8]),
                RouteOptions {
                    local_only: Some(LocalOnly::Refused),
                    ..route("new.example", &[])
                },
                RouteOptions {
                    attempts: 9,
                    ..route("b.same.example", &[3])
                },
                RouteOptions {
                    limits: TtlLimits {
                        max: 5,
                        ..TtlLimits::default()
                    },
                    ..route("c.same.example", &[3])
                },
            ]),
        );
        assert_eq!(routes.generation(), 1);
        let after = ["www.example", "same.example", "other.example"].map(|n| find(&routes, n));
        assert_ne!(before[0], after[0], "another order");
        assert_eq!(before[1], after[1]);
        assert_ne!(before[2], after[2]);
        for (name, outdated) in [
            ("www.example", false),
            ("a.same.example", false),
            ("more.example", false),
            ("OTHER.example", true),
            ("a.gone.example", true),
            ("gone.example", true),
            ("x.new.example", true),
            ("b.same.example", false),
            ("c.same.example", true),
        ] {
            assert_eq!(
                routes.outdate(&replaced, &question(name, 1)),
                outdated,
                "{name}"
            );
        }
        // The parent has these.
        assert!(!routes.outdate(&replaced, &question("other.example", rrtype::DS)));
        assert!(routes.is_apart(&wire("other.example").unwrap(), rrtype::DS));
        assert!(!routes.is_apart(&wire("a.other.example").unwrap(), rrtype::DS));
        assert!(!routes.is_apart(&wire("other.example").unwrap(), 1));

        // A look-up still uses a former one.
        let members = |routes: &Routes| {
            let mut members: Vec<_> = routes.members().collect();
            members.sort_unstable();
            members.dedup();
            members
        };
        routes.retain(|id| id == before[2]);
        assert_eq!(members(&routes), [1, 2, 3, 4, 5, 7, 8]);
        routes.retain(|_| false);
        assert_eq!(members(&routes), [1, 2, 3, 4, 7, 8]);
        assert_eq!(
            routes.get(after[0]).unwrap().options.upstreams,
            upstreams(&[2, 1])
        );
    }

    #[test]
    fn numbers_are_used_again() {
        let mut routes = Routes::default();
        routes.replace(0, with_members(&[route(".", &[1])]));
        for generation in 1..1_000 {
            let port = generation as u16;
            let zone = format!("z{generation}.example");
            routes.replace(
                generation,
                with_members(&[route(".", &[1]), route(&zone, &[port])]),
            );
            routes.retain(|_| false);
            assert_eq!(routes.all.len(), 2);
            assert!(routes.all.capacity() <= 8);
            let id = routes.find(&wire(&zone).unwrap(), 1);
            assert_eq!(routes.get(id).unwrap().group.indices(), [usize::from(port)]);
        }
    }
}
