//! When the kernel acknowledges what upstreams send over TCP.

use std::{fs, process::Command};

use nix::sched::{CloneFlags, unshare};

use super::{
    streams::{Peer, serve},
    *,
};

/// Queries that are sent at once: fewer than a connection carries before another one is opened.
const BATCH: u64 = 32;

const BATCHES: u64 = 40;

/// The upstream leaves Nagle's algorithm on and writes each response by itself, so it sends the second and all later ones of a
/// batch when the first is acknowledged.
#[test]
fn responses_do_not_wait_for_delayed_acknowledgements() {
    if !lab::available("responses_do_not_wait_for_delayed_acknowledgements") {
        return;
    }
    let run = || {
        // The kernel counts by namespace.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        lab::run(Command::new("ip").args(["link", "set", "lo", "up"])).unwrap();
        let peer = Peer::start(|_, stream| serve(stream));
        let mut bench = Bench::new(peer.options());
        for batch in 0..BATCHES {
            for token in 0..BATCH {
                let msg = query(9, &format!("n{batch}-{token}"), None);
                let request = bench.request(&msg, 0, token);
                bench.handle.submit(request).unwrap();
            }
            bench.handle.flush();
            let outcomes = bench.outcomes(0, BATCH as usize);
            assert!(outcomes.iter().all(answered));
        }
        assert_eq!(bench.count("connections_opened"), 1);
        bench.finish();
        delayed()
    };
    let delayed = thread::spawn(run).join().unwrap();
    // On a host that is busy the timer may come first once in a while.
    assert!(delayed < BATCHES / 4, "{delayed}");
}

/// Acknowledgements in this thread's network namespace that were sent because the time was over for which they were delayed.
fn delayed() -> u64 {
    let netstat = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "DelayedACKs").unwrap();
    value.parse().unwrap()
}
