//! Routes: their checks, and what the forwarder gets of them.

use std::collections::HashSet;

use super::{
    Config, ConfigError, Host, Location, Problem,
    checks::{check_upstreams, ttl_order},
    settings::RouteConfig,
};
use crate::{
    dns::TtlLimits,
    forward::{self, ForwardOptions, RouteOptions, TlsOptions},
};

/// Routes that there may be. Each takes less than a kilobyte, and all of them a few milliseconds at a reload.
pub(super) const MAX_ROUTES: usize = 4096;

/// Different upstreams that there may be: each may need 144 files in each of the forwarder's threads.
pub(super) const MAX_UPSTREAMS: usize = 1024;

/// Upstreams of one route.
pub(super) const MAX_MEMBERS: usize = forward::MAX_MEMBERS;

impl Config {
    /// The forwarder's options, as far as they say which upstreams there are.
    pub(crate) fn upstream_options(&self) -> ForwardOptions {
        ForwardOptions {
            upstreams: self.upstreams.clone(),
            routes: self.route_options(),
            tls: TlsOptions {
                roots: self.forward.tls_roots.clone(),
                opportunistic: self.forward.tls_opportunistic,
            },
            threads: self.forward.threads,
            attempt_timeout: self.forward.timeout,
            attempts: self.forward.attempts,
            policy: self.forward.policy,
            hedge: self.forward.hedge,
            limits: self.cache.ttl_limits(),
            ..ForwardOptions::default()
        }
    }

    /// The routes as the forwarder takes them, with what they do not say themselves.
    fn route_options(&self) -> Vec<RouteOptions> {
        let options = |route: &RouteConfig| RouteOptions {
            zone: route.zone.0.clone(),
            local_only: route.local_only,
            upstreams: route.upstreams.clone(),
            attempt_timeout: route.timeout.unwrap_or(self.forward.timeout),
            attempts: route.attempts.unwrap_or(self.forward.attempts),
            policy: route.policy.unwrap_or(self.forward.policy),
            hedge: self.forward.hedge,
            limits: self.route_limits(route),
        };
        self.routes.iter().map(options).collect()
    }

    fn route_limits(&self, route: &RouteConfig) -> TtlLimits {
        let cache = self.cache.ttl_limits();
        TtlLimits {
            min: route.min_ttl.unwrap_or(cache.min),
            max: route.max_ttl.unwrap_or(cache.max),
            max_negative: route.max_negative_ttl.unwrap_or(cache.max_negative),
        }
    }
}

/// Checks the routes, and that names without one have upstreams.
pub(super) fn check(config: &Config, host: &Host) -> Result<(), ConfigError> {
    let location = |key: &str, route| config.settings.nested_location(key, route, 0);
    if config.routes.len() > MAX_ROUTES {
        return Err(location("route.zone", MAX_ROUTES).bad(Problem::Routes));
    }
    let mut zones = HashSet::new();
    for (number, route) in config.routes.iter().enumerate() {
        let zone = &route.zone;
        if !zones.insert(zone) {
            return Err(location("route.zone", number).bad(Problem::Twice(zone.to_string())));
        }
        match (route.local_only, route.upstreams.is_empty()) {
            (None, true) => {
                let problem = Problem::RouteWithout(zone.clone());
                return Err(location("route.zone", number).bad(problem));
            }
            (Some(_), _) => {
                if let Some(key) = of_resolvers(route) {
                    let zone = zone.clone();
                    let problem = Problem::RouteNotAsked { zone, key };
                    return Err(location(&format!("route.{key}"), number).bad(problem));
                }
            }
            (None, false) => {}
        }
        let at = |item| (config.settings).nested_location("route.upstream", number, item);
        check_upstreams(config, &route.upstreams, host, at)?;
        let limits = config.route_limits(route);
        ttl_order(limits).map_err(|problem| {
            let keys = ["route.min-ttl", "route.max-ttl", "route.zone"];
            let mut places = keys.into_iter().map(|key| location(key, number));
            let given = places.find(|place| *place != Location::Unset);
            given.unwrap_or_default().bad(problem)
        })?;
    }
    let root = config.routes.iter().position(|route| *route.zone.0 == [0]);
    match (root, config.upstreams.is_empty()) {
        (Some(number), false) => Err(location("route.zone", number).bad(Problem::DefaultTwice)),
        (None, true) => Err(Location::Unset.bad(Problem::NoUpstream)),
        _ => bounded(config),
    }
}

/// A key of the route that says how resolvers are asked, or what of their answers is kept.
fn of_resolvers(route: &RouteConfig) -> Option<&'static str> {
    let given = [
        ("upstream", !route.upstreams.is_empty()),
        ("policy", route.policy.is_some()),
        ("timeout-ms", route.timeout.is_some()),
        ("attempts", route.attempts.is_some()),
        ("min-ttl", route.min_ttl.is_some()),
        ("max-ttl", route.max_ttl.is_some()),
        ("max-negative-ttl", route.max_negative_ttl.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given);
    given.next().map(|(key, _)| key)
}

/// Checks that there are not too many upstreams.
fn bounded(config: &Config) -> Result<(), ConfigError> {
    let mut all: HashSet<_> = config.upstreams.iter().collect();
    for (number, route) in config.routes.iter().enumerate() {
        all.extend(&route.upstreams);
        if all.len() > MAX_UPSTREAMS {
            let location = config.settings.nested_location("route.upstream", number, 0);
            return Err(location.bad(Problem::Upstreams));
        }
    }
    Ok(())
}
