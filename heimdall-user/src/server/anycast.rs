//! When the service addresses are announced: the obstacles that the server knows of.

use std::net::SocketAddr;

use tracing::warn;

use super::{ServerError, readiness::Readiness, threads::Threads};
use crate::{
    anycast::{self, Anycast, AnycastOptions, AnycastState, Obstacle},
    config::Config,
    maintenance::caches_left,
};

/// Starts announcing, if there are addresses; those that are `left` by a predecessor and not wanted any more are withdrawn.
pub(super) fn start(
    config: &Config,
    served: Vec<SocketAddr>,
    left: &AnycastState,
    readiness: Readiness,
) -> Result<Option<Anycast>, ServerError> {
    let anycast = &config.anycast;
    if anycast.addresses.is_empty() {
        if let Err(problem) = anycast::withdraw(&left.interface, &left.addresses) {
            warn!("anycast: {problem}");
        }
        return Ok(None);
    }
    let options = AnycastOptions {
        interface: anycast.interface.clone(),
        addresses: anycast.addresses.clone(),
        served,
        announce_after: anycast.announce_after,
        withdraw_after: anycast.withdraw_after,
        drain_wait: anycast.drain_wait,
    };
    let needs_upstream = anycast.needs_upstream;
    let ready = move |announced: bool| {
        readiness.threads_work()?;
        // Those of a worker that is started again, or of a successor, make no answer wait for long.
        let left = caches_left();
        if left > 0 && !announced {
            let text = format!("{left} caches are being populated");
            return Err(Obstacle::Passing(text));
        }
        match (needs_upstream, announced) {
            (true, true) => readiness.an_upstream_works(),
            (true, false) => readiness.an_upstream_has_responded(),
            (false, _) => Ok(()),
        }
    };
    let lost = "the service addresses are neither announced nor withdrawn";
    let on_exit = Threads::auxiliary("anycast", lost);
    let anycast = Anycast::start(options, left, on_exit, ready);
    anycast
        .map(Some)
        .map_err(super::start("the anycast thread"))
}
