//! The limit on open files.
//!
//! Every client's TCP connection holds a descriptor. Without a bound on them they could take all, and none would be
//! left for upstreams and for `heimdall stats`. Look-ups share sockets and connections, whose number is bounded.

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use crate::{doctor, forward, socket::MAX_CONNECTIONS};

/// The TCP connections of clients, of all threads, that the hard limit on open files allows with this many fronts and
/// listening sockets. Logs if that is less than they may be.
pub(super) fn fit(options: &forward::ForwardOptions, fronts: usize, listeners: usize) -> usize {
    let others = doctor::needed_files(options, fronts, listeners);
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    fit_into(others, hard)
}

/// As [`fit`], with `others` files needed in addition to connections. If there are too few for all, connections get a
/// quarter of them at least.
fn fit_into(others: u64, hard: u64) -> usize {
    let needed = others + MAX_CONNECTIONS as u64;
    if needed <= hard {
        return MAX_CONNECTIONS;
    }
    let connections = hard.saturating_sub(others).max(hard / 4).max(1);
    let connections = connections.min(MAX_CONNECTIONS as u64) as usize;
    warn!(
        "the hard limit on open files is {hard}, and these settings need {needed}: clients have {connections} TCP \
         connections at most, not {MAX_CONNECTIONS}; raise the limit (ulimit -Hn {needed}, or LimitNOFILE={needed} in \
         the unit)"
    );
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_limit() {
        for (hard, connections) in [
            (65_536, 1024),
            (1224, 1024),
            (1223, 1023),
            (1024, 824),
            (256, 64),
            (64, 16),
            (1, 1),
        ] {
            assert_eq!(fit_into(200, hard), connections, "{hard} files");
        }
    }
}
