//! System calls of a worker: how it waits for packets, and how it wakes the kernel to send.

use std::{thread, time::Duration};

use lab::{Heimdall, Knot, Lab, SERVER_V4};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    client::Settings,
    heimdall_without_tier, lab,
    recover::{kdig, send_at_once, wait_for},
};

fn worker(stats: &Value, of: &str) -> u64 {
    stats["workers"][0][of].as_u64().unwrap()
}

/// Sends queries for one name at once, while the server is stopped, and lets it answer them.
fn burst(lab: &Lab, heimdall: &Heimdall, count: u16) {
    let answered = worker(&heimdall.stats().unwrap(), "answered");
    heimdall.process.pause().unwrap();
    send_at_once(lab, count);
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    wait_for(heimdall, "answered", |stats| {
        worker(stats, "answered") == answered + u64::from(count)
    });
}

#[test]
fn one_call_sends_a_batch() {
    const BURST: u16 = 64;
    const ROUNDS: u64 = 10;
    let Some(lab) = lab("one_call_sends_a_batch") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let mut calls = 0;
    for _ in 0..ROUNDS {
        let before = heimdall.stats().unwrap();
        burst(&lab, &heimdall, BURST);
        // A call is counted after the packets that it sends.
        let is_counted =
            |stats: &Value| worker(stats, "tx_wakeups") > worker(&before, "tx_wakeups");
        let after = wait_for(&heimdall, "counted", is_counted);
        calls += worker(&after, "tx_wakeups") - worker(&before, "tx_wakeups");
    }
    // Before Linux 6.17 a call sends 32 packets. A batch may be cut in two on receipt, and in more where the kernel's thread that
    // delivers the packets has to wait for a core.
    assert!(calls >= ROUNDS, "{calls}");
    assert!(calls <= ROUNDS * u64::from(BURST) / 8, "{calls}");
    for _ in 0..20 {
        assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    }
    let stats = heimdall.stats().unwrap();
    assert!(
        worker(&stats, "tx_wakeups") <= worker(&stats, "answered"),
        "{stats:#}"
    );
}

#[test]
fn every_way_of_waiting_answers_and_then_sleeps() {
    let Some(lab) = lab("every_way_of_waiting") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    for mode in ["sleep", "adaptive", "busy-poll"] {
        let heimdall = Settings::new(&format!("[xdp]\nidle = \"{mode}\"")).on_xdp(&lab);
        for number in 0..20 {
            let name = format!("n{number}.example.com");
            assert_eq!(kdig(&lab, SERVER_V4, &name), "NOERROR", "{mode}");
        }
        burst(&lab, &heimdall, 200);
        // Longer than a worker polls for without a packet.
        thread::sleep(Duration::from_millis(500));
        let before = heimdall.stats().unwrap();
        thread::sleep(Duration::from_secs(1));
        let after = heimdall.stats().unwrap();
        let grown = |of| worker(&after, of) - worker(&before, of);
        assert_eq!(grown("busy_polls"), 0, "{mode}");
        // Once a second, and once for each time that the statistics are asked for.
        assert!(grown("sleeps") < 20, "{mode}: {after:#}");
        let polled = worker(&after, "busy_polls") > 0;
        assert_eq!(polled, mode == "busy-poll", "{after:#}");
        let log = heimdall.process.output();
        let advice = "echo 2 > /sys/class/net/";
        assert_eq!(log.contains(advice), mode == "busy-poll", "{log}");
    }
}
