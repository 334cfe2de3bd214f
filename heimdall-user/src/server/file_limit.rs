//! The limit on open files.
//!
//! Every look-up over TCP holds a descriptor, and so does every client's TCP connection. Without a bound on
//! look-ups they could take them all, and none would be left for connections and `heimdall stats`. How many go
//! over TCP depends on upstreams and attackers, so all may. Those over UDP share a few sockets.

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use crate::{doctor, forward};

/// Lowers the number of look-ups to the number that the hard limit on open files allows with this many fronts and
/// listen addresses, and logs that.
pub(super) fn fit(
    options: forward::ForwardOptions,
    fronts: usize,
    listeners: usize,
) -> forward::ForwardOptions {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return options;
    };
    let others = doctor::needed_besides_look_ups(&options, fronts, listeners);
    fit_into(options, others, hard)
}

/// As [`fit`], with `others` files needed in addition to the look-ups'. If there are too few for both, look-ups
/// get half of them.
fn fit_into(options: forward::ForwardOptions, others: u64, hard: u64) -> forward::ForwardOptions {
    let threads = options.threads.max(1) as u64;
    let needed = threads * options.max_in_flight as u64 + others;
    if needed <= hard {
        return options;
    }
    let room = hard.saturating_sub(others).max(hard / 2) / threads;
    let max_in_flight = room.max(1) as usize;
    warn!(
        "the hard limit on open files is {hard}, and these settings need {needed}: each forwarder thread \
         has {max_in_flight} look-ups in flight at most, not forward.max-in-flight = {}; raise the \
         limit (ulimit -Hn {needed}, or LimitNOFILE={needed} in the unit)",
        options.max_in_flight
    );
    forward::ForwardOptions {
        max_in_flight,
        ..options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_fit_into_the_limit() {
        for (threads, max_in_flight, hard, fitting) in [
            (1, 4096, 65_536, 4096),
            (1, 4096, 5296, 4096),
            (1, 4096, 5295, 4095),
            (4, 4096, 10_000, 2200),
            (1, 4096, 1024, 512),
            (64, 4096, 64, 1),
        ] {
            let options = forward::ForwardOptions {
                threads,
                max_in_flight,
                ..forward::ForwardOptions::default()
            };
            let fitted = fit_into(options, 1200, hard);
            assert_eq!(
                fitted.max_in_flight, fitting,
                "{threads} threads, {hard} files"
            );
        }
    }
}
