//! What the forwarder would do with a query that no front answers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Query, Steps, cached::Caching, origin};
use crate::{
    config::{Config, Upstream, Zoned},
    control::TraceQuery,
    dns::ZoneMap,
    forward::RouteOptions,
    maintenance::{ForwarderState, RouteState, ThreadState, UpstreamState, presentation},
    server::{PolicyError, PolicyLoader, forward_options, reload::Origin},
};

impl Caching {
    /// The reply, or which upstream is asked for it.
    pub(super) fn forwarded(&self, query: &Query<'_>, steps: &mut Steps) -> String {
        if let Some(entry) = self.forwarder() {
            return format!("{} from the forwarder's cache", entry.outcome());
        }
        let state = query.forwarder();
        let Some(state) = state else {
            return "SERVFAIL: the forwarder does not run".to_owned();
        };
        failures(state, steps);
        let put_off = |why: &str| match self.stale() {
            Some(stale) => format!("{}, stale: {why}", stale.outcome()),
            None => format!("SERVFAIL: {why}"),
        };
        if state.failure.is_some() {
            return put_off("it failed lately, and no upstream is asked again yet");
        }
        if state.in_flight {
            steps.add(
                "route",
                "an upstream is being asked now",
                json!({ "in_flight": true }),
            );
            return "the outcome of the look-up that is in flight".to_owned();
        }
        // Names that were answered before do not share the failures of their zone.
        if state.dead_zone.is_some() && self.stale().is_none() {
            return put_off("it is below a dead zone");
        }
        match &state.route {
            Some(route) => route_step(route, query, steps),
            None => "FORMERR: it cannot be read as a query".to_owned(),
        }
    }
}

/// What is known of failures.
fn failures(state: &ForwarderState, steps: &mut Steps) {
    let mut lines = Vec::new();
    if let Some(left) = state.failure {
        let left = seconds(left);
        lines.push(format!(
            "no upstream answered it lately; asked again in {left} s"
        ));
    }
    if let Some((zone, left)) = &state.dead_zone {
        let (zone, left) = (presentation(zone), seconds(*left));
        lines.push(format!("{zone} is a dead zone; next probe in {left} s"));
    }
    if lines.is_empty() {
        lines.push("none is cached, and no zone above is dead".to_owned());
    }
    let fields = json!({
        "failure_seconds": state.failure.map(seconds),
        "dead_zone": state.dead_zone.as_ref().map(|(zone, _)| presentation(zone)),
        "probe_seconds": state.dead_zone.as_ref().map(|(_, left)| seconds(*left)),
    });
    steps.add("failures", lines, fields);
}

impl Query<'_> {
    /// What the forwarder's thread says.
    pub(super) fn forwarder(&self) -> Option<&ForwarderState> {
        self.states.iter().find_map(|(_, state)| match state {
            ThreadState::Forwarder(state) => Some(state),
            ThreadState::Front(_) => None,
        })
    }
}

/// The route, and which of its upstreams is asked first.
pub(super) fn route_step(route: &RouteState, query: &Query<'_>, steps: &mut Steps) -> String {
    let zone = presentation(&route.zone);
    let place = place(query.origin, &route.zone);
    let mut lines = vec![format!("{zone} ({place}), {}", route.policy)];
    lines.extend(route.upstreams.iter().map(upstream_line));
    let first = route.first.and_then(|first| route.upstreams.get(first));
    let first = first.map(name);
    let upstreams: Vec<Value> = route.upstreams.iter().map(upstream_fields).collect();
    let fields = json!({
        "in_flight": false,
        "zone": zone,
        "place": place,
        "policy": route.policy,
        "attempts": route.attempts,
        "first": first,
        "upstreams": upstreams,
    });
    steps.add("route", lines, fields);
    match (first, route.local_only) {
        (Some(first), false) => format!("the answer of an upstream; {first} is asked first"),
        _ => format!("an answer without an upstream, by the route of {zone}"),
    }
}

/// Says which route a query would take in a server with these settings.
///
/// # Errors
/// Files that they name are bad.
pub(crate) fn planned(config: &Config, asked: &TraceQuery) -> Result<Value, PolicyError> {
    let policy = PolicyLoader::default().load(config)?;
    let query = Query {
        asked,
        question: &super::question(asked),
        policy: &policy,
        origin: &Origin::of(config),
        tier: None,
        states: &[],
    };
    let mut decided = Steps::default();
    if let Some(verdict) = query.decided(&mut decided) {
        return Ok(super::route_document(asked, decided, &verdict));
    }
    let mut routes = ZoneMap::default();
    for route in forward_options(config).all_routes() {
        routes.insert(route.zone.clone(), route);
    }
    let mut steps = Steps::default();
    let verdict = match routes.find(&asked.name, asked.qtype) {
        Some((_, route)) => planned_step(route, &query, &mut steps),
        None => String::new(),
    };
    Ok(super::route_document(asked, steps, &verdict))
}

/// As [`route_step`], of what is in the settings.
fn planned_step(route: &RouteOptions, query: &Query<'_>, steps: &mut Steps) -> String {
    let zone = presentation(&route.zone);
    let place = place(query.origin, &route.zone);
    let upstreams = route.upstreams.iter();
    let upstreams: Vec<String> = upstreams
        .map(|upstream| Upstream(upstream).to_string())
        .collect();
    let mut lines = vec![format!("{zone} ({place}), {}", route.policy.name())];
    lines.extend(upstreams.iter().cloned());
    let fields = json!({
        "zone": zone,
        "place": place,
        "policy": route.policy.name(),
        "attempts": route.attempts,
        "timeout_ms": route.attempt_timeout.as_millis() as u64,
        "first": upstreams.first(),
        "upstreams": upstreams.iter().map(|address| json!({ "address": address })).collect::<Vec<_>>(),
    });
    steps.add("route", lines, fields);
    match upstreams.first() {
        Some(first) => format!("the answer of an upstream; {first} is asked first"),
        None => format!("an answer without an upstream, by the route of {zone}"),
    }
}

/// Where the route of a zone, in wire form, is given.
pub(super) fn place(origin: &Origin, zone: &[u8]) -> String {
    let mut routes = origin.config.routes.iter();
    match routes.position(|route| *route.zone.0 == *zone) {
        Some(number) => origin::place(origin, "route.zone", Some(number)),
        None => origin::place(origin, "upstream", Some(0)),
    }
}

/// An upstream as the settings have it, with its pins cut.
fn name(upstream: &UpstreamState) -> String {
    let address = Zoned(upstream.address);
    format!("{}{address}{}", upstream.prefix, upstream.suffix)
}

fn upstream_line(upstream: &UpstreamState) -> String {
    let mut line = name(upstream);
    line.push_str(&match &upstream.set_aside {
        Some((why, left)) => format!(": set aside, {why}; next probe in {} s", seconds(*left)),
        None => ": in use".to_owned(),
    });
    if let Some(rtt) = upstream.rtt {
        line.push_str(&format!(", round trip {:.1} ms", rtt.as_secs_f64() * 1e3));
    }
    line.push_str(&format!(
        ", has {} ms to respond",
        upstream.timeout.as_millis()
    ));
    if upstream.plain {
        line.push_str(", asked without EDNS");
    }
    line
}

fn upstream_fields(upstream: &UpstreamState) -> Value {
    json!({
        "address": name(upstream),
        "transport": upstream.transport,
        "set_aside_seconds": upstream.set_aside.as_ref().map(|(_, left)| seconds(*left)),
        "problem": upstream.set_aside.as_ref().map(|(why, _)| why),
        "rtt_us": upstream.rtt.map(|rtt| rtt.as_micros() as u64),
        "timeout_ms": upstream.timeout.as_millis() as u64,
        "edns": !upstream.plain,
    })
}

/// Seconds, to a tenth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).ceil() / 10.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;
    use crate::forward::{TlsPeer, UpstreamAddress, UpstreamTransport};

    #[test]
    fn an_upstream_has_the_name_that_statistics_have() {
        let address = ([192, 0, 2, 1], 853).into();
        let name_of = |transport: UpstreamTransport| {
            let state = UpstreamState {
                address,
                transport: transport.name(),
                prefix: transport.to_string(),
                suffix: transport.pins().to_string(),
                set_aside: None,
                rtt: None,
                timeout: Duration::ZERO,
                plain: false,
            };
            let upstream = UpstreamAddress { address, transport };
            assert_eq!(
                upstream_fields(&state)["address"],
                Upstream(&upstream).to_string()
            );
            name(&state)
        };
        let peer = TlsPeer {
            name: "good.example".to_owned().try_into().ok(),
            pins: vec![[0; 32]],
        };
        for (transport, expected) in [
            (UpstreamTransport::Udp, "192.0.2.1:853"),
            (UpstreamTransport::Tcp, "tcp://192.0.2.1:853"),
            (
                UpstreamTransport::Tls(TlsPeer::default()),
                "tls://192.0.2.1:853",
            ),
            (
                UpstreamTransport::Tls(peer),
                "tls://good.example@192.0.2.1:853#sha256=AAAAAAAA…",
            ),
        ] {
            assert_eq!(name_of(transport), expected);
        }
    }
}
