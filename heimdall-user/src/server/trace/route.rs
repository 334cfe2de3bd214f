//! What the forwarder would do with a query that no front answers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Steps, cached::Caching};
use crate::{
    config::Zoned,
    maintenance::{ForwarderState, ThreadState, UpstreamState, presentation},
};

impl Caching {
    /// The reply, or which upstream is asked for it.
    pub(super) fn forwarded(&self, states: &[(&str, ThreadState)], steps: &mut Steps) -> String {
        if let Some(entry) = self.forwarder() {
            return format!("{} from the forwarder's cache", entry.outcome());
        }
        let state = states.iter().find_map(|(_, state)| match state {
            ThreadState::Forwarder(state) => Some(state),
            ThreadState::Front(_) => None,
        });
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
        route(state, steps)
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

/// Which upstream is asked first.
fn route(state: &ForwarderState, steps: &mut Steps) -> String {
    let upstreams = state.upstreams.iter();
    let lines: Vec<String> = upstreams.clone().map(upstream_line).collect();
    let upstreams: Vec<Value> = upstreams.map(upstream_fields).collect();
    let first = state.upstreams.get(state.first);
    let first = first.map(name);
    let fields = json!({ "in_flight": false, "first": first, "upstreams": upstreams });
    steps.add("route", lines, fields);
    let first = first.unwrap_or_default();
    format!("the answer of an upstream; {first} is asked first")
}

/// An upstream as the settings have it, without what TLS checks.
fn name(upstream: &UpstreamState) -> String {
    let address = Zoned(upstream.address);
    match upstream.transport {
        "udp" => address.to_string(),
        transport => format!("{transport}://{address}"),
    }
}

fn upstream_line(upstream: &UpstreamState) -> String {
    let mut line = name(upstream);
    line.push_str(&match upstream.set_aside {
        Some(left) => format!(": set aside for {} s", seconds(left)),
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
        "set_aside_seconds": upstream.set_aside.map(seconds),
        "rtt_us": upstream.rtt.map(|rtt| rtt.as_micros() as u64),
        "timeout_ms": upstream.timeout.as_millis() as u64,
        "edns": !upstream.plain,
    })
}

/// Seconds, to a tenth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).ceil() / 10.0
}
