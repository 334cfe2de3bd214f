//! Starting, stopping and being killed.

use std::time::{Duration, Instant};

use lab::{Heimdall, Kdig, Knot, Kxdpgun, SERVER_V4, UPSTREAM, sum};
use nix::sys::signal::Signal;

use crate::{
    heimdall, heimdall_without_tier, lab, program,
    recover::{TIMEOUT, wait_for},
};

#[test]
fn signals_stop_it_and_leave_nothing_behind() {
    let Some(lab) = lab("signals_stop_it") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut heimdall = heimdall(&lab);
        assert!(lab.has_xdp().unwrap());
        Kdig::ask(&lab, &[&format!("@{SERVER_V4}"), "n1.example.com"]).unwrap();
        heimdall.process.signal(signal).unwrap();
        // Nothing waits: less than `stop-timeout` (5 s).
        let status = heimdall.process.wait(Duration::from_secs(4)).unwrap();
        assert!(status.success(), "{signal}: {status}");
        assert!(
            !lab.has_xdp().unwrap(),
            "{signal}: {}",
            lab.server_link().unwrap()
        );
    }
}

#[test]
fn after_a_kill_under_load_queries_pass_to_the_kernel() {
    let Some(lab) = lab("after_a_kill_under_load") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let mut first = heimdall_without_tier(&lab);
    let server = format!("@{SERVER_V4}");
    let load = std::thread::scope(|scope| {
        let load = scope.spawn(|| Kxdpgun::run(&lab, SERVER_V4, 5_000, 3).unwrap());
        wait_for(&first, "under load", |stats| sum(stats, "answered") > 500);
        first.process.signal(Signal::SIGKILL).unwrap();
        first.process.wait(Duration::from_secs(5)).unwrap();
        // The kernel drops the last reference to the link asynchronously.
        let end = Instant::now() + TIMEOUT;
        while lab.has_xdp().unwrap() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!lab.has_xdp().unwrap(), "{}", lab.server_link().unwrap());
        load.join().unwrap()
    });
    assert!(load.replies > 0, "answers before the kill");
    assert!(load.answered() < 0.95, "no answers after it");

    // Another server, on sockets, answers the queries that the kernel gets.
    let listen = format!("{SERVER_V4}:53");
    let arguments = [
        "--backend",
        "socket",
        "--listen",
        &listen,
        "--upstream",
        UPSTREAM,
    ];
    let second = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    assert_eq!(
        Kdig::ask(&lab, &[&server, "n2.example.com"])
            .unwrap()
            .status,
        "NOERROR"
    );
    assert_eq!(second.stats().unwrap()["sockets"]["udp_answered"], 1);
    drop(second);

    // A restarted server attaches its program again.
    let third = heimdall(&lab);
    assert_eq!(
        Kdig::ask(&lab, &[&server, "n3.example.com"])
            .unwrap()
            .status,
        "NOERROR"
    );
    assert_eq!(
        third.stats().unwrap()["interfaces"][0]["verdicts"]["steered"],
        1
    );
}
