//! The attempts of a look-up to get an answer from upstreams.
//!
//! An attempt is a query to one upstream, over UDP or the upstream's own transport, and what its response asks for: the
//! same query without EDNS, or over TCP (`odd`). The exchange that was begun last is the current one, which has a
//! deadline. Then the next attempt begins, but a late response is accepted until the look-up ends.

mod odd;
mod outcome;
mod send;

use std::time::Instant;

use crate::{
    dns::{KEY_FLAG_DO, TtlLimits},
    forward::{
        Request,
        exchange::{Sent, Target},
        upstreams::Upstreams,
    },
    tap::{Protocol, Tap},
};

/// Seconds for which an answer without EDNS may be cached, at most, if DNSSEC's records were asked
/// for: it has none, and the upstream may have failed to read this one query only.
const WITHOUT_DNSSEC: u32 = 60;

/// How a query goes to an upstream.
fn protocol(upstreams: &Upstreams, target: Target) -> Protocol {
    match target.tcp {
        false => Protocol::Udp,
        true if upstreams.is_tls(target.upstream) => Protocol::Tls,
        true => Protocol::Tcp,
    }
}

/// Samples the response to a query that was sampled.
#[cold]
pub(super) fn sample_response(
    tap: &Tap,
    upstreams: &Upstreams,
    sent: &Sent,
    response: &[u8],
    now: Instant,
) {
    if let Some(upstream) = upstreams.address(sent.target.upstream) {
        let protocol = protocol(upstreams, sent.target);
        tap.forwarder_response(response, upstream, protocol, [sent.at, now]);
    }
}

/// Bounds on the TTL of the answer to a query.
pub(super) fn limits(limits: TtlLimits, sent: &Sent, request: &Request) -> TtlLimits {
    if !sent.target.plain || request.flags & KEY_FLAG_DO == 0 {
        return limits;
    }
    TtlLimits {
        min: limits.min.min(WITHOUT_DNSSEC),
        max: limits.max.min(WITHOUT_DNSSEC),
        ..limits
    }
}
