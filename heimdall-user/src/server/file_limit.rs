//! The limit on open files.
//!
//! Every look-up over TCP holds a descriptor, and so does every client's TCP connection. Without a bound on
//! both either could take them all, and none would be left for the other and for `heimdall stats`. How many
//! look-ups go over TCP depends on upstreams and attackers, so all may. Those over UDP share a few sockets.

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use crate::{doctor, forward, socket::MAX_CONNECTIONS};

/// What the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileLimit {
    /// Look-ups in flight, of each forwarder thread.
    pub(super) max_in_flight: usize,
    /// TCP connections of clients, of all threads.
    pub(super) max_connections: usize,
}

/// What the hard limit on open files allows with this many fronts and listen addresses. Logs if that is less than
/// the settings ask for.
pub(super) fn fit(options: &forward::ForwardOptions, fronts: usize, listeners: usize) -> FileLimit {
    let others = doctor::needed_files(options, fronts, listeners);
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    fit_into(options, others, hard)
}

/// As [`fit`], with `others` files needed in addition to look-ups and connections. If there are too few for all,
/// connections get a quarter of them at most, and look-ups what is left, a quarter at least.
fn fit_into(options: &forward::ForwardOptions, others: u64, hard: u64) -> FileLimit {
    let threads = options.threads.max(1) as u64;
    let wanted = FileLimit {
        max_in_flight: options.max_in_flight,
        max_connections: MAX_CONNECTIONS,
    };
    let needed = threads * options.max_in_flight as u64 + others + MAX_CONNECTIONS as u64;
    if needed <= hard {
        return wanted;
    }
    let quarter = hard / 4;
    let connections = quarter.clamp(1, MAX_CONNECTIONS as u64);
    let look_ups = hard.saturating_sub(others + connections).max(quarter) / threads;
    let fitting = FileLimit {
        max_in_flight: options.max_in_flight.min(look_ups.max(1) as usize),
        max_connections: connections as usize,
    };
    warn!(
        "the hard limit on open files is {hard}, and these settings need {needed}: each forwarder thread \
         has {} look-ups in flight at most, not forward.max-in-flight = {}, and clients have {} TCP \
         connections, not {MAX_CONNECTIONS}; raise the limit (ulimit -Hn {needed}, or LimitNOFILE={needed} in \
         the unit)",
        fitting.max_in_flight, options.max_in_flight, fitting.max_connections
    );
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_fit_into_the_limit() {
        for (threads, max_in_flight, hard, fitting, connections) in [
            (1, 4096, 65_536, 4096, 1024),
            (1, 4096, 5320, 4096, 1024),
            (1, 4096, 5319, 4095, 1024),
            (4, 4096, 10_000, 2194, 1024),
            (1, 4096, 1024, 568, 256),
            (1, 4096, 64, 16, 16),
            (64, 4096, 64, 1, 16),
            (1, 4096, 1, 1, 1),
        ] {
            let options = forward::ForwardOptions {
                threads,
                max_in_flight,
                ..forward::ForwardOptions::default()
            };
            let expected = FileLimit {
                max_in_flight: fitting,
                max_connections: connections,
            };
            let fitted = fit_into(&options, 200, hard);
            assert_eq!(fitted, expected, "{threads} threads, {hard} files");
        }
    }
}
