//! Interfaces that vanish and return, and restarts in quick succession.

use std::{
    net::UdpSocket,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use heimdall_user::xdp::{AttachPolicy, Interface, Program, ProgramOptions};
use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, SERVER_V6, UPSTREAM};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{client::query, heimdall, heimdall_without_tier, lab, program};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until the statistics fulfil a condition.
pub(crate) fn wait_for(heimdall: &Heimdall, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + TIMEOUT;
    loop {
        let stats = heimdall.stats().unwrap();
        if is_so(&stats) {
            return stats;
        }
        assert!(
            Instant::now() < end,
            "not {what}: {stats:#}\n{}",
            heimdall.process.output()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn is_running(stats: &Value, restarts: u64) -> bool {
    stats["workers"]
        .as_array()
        .unwrap()
        .iter()
        .all(|worker| worker["state"] == "running" && worker["restarts"].as_u64() >= Some(restarts))
}

pub(crate) fn kdig(lab: &Lab, server: &str, name: &str) -> String {
    let server = format!("@{server}");
    Kdig::ask(lab, &[&server, name, "+retry=3"]).unwrap().status
}

/// Sends `count` queries for one name, and does not wait for replies.
pub(crate) fn send_at_once(lab: &Lab, count: u16) {
    lab.in_client(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for id in 0..count {
            let query = query(id, "n1.example.com");
            socket.send_to(&query, (SERVER_V4, 53)).unwrap();
        }
    })
    .unwrap();
}

/// Sends queries for as long as `on` is set, and ignores the replies.
pub(crate) fn load(lab: &Lab, on: &AtomicBool) {
    lab.in_client(|| {
        let mut id = 0;
        while on.load(Ordering::Relaxed) {
            // The client's address goes with the interface.
            if let Ok(socket) = UdpSocket::bind("0.0.0.0:0") {
                for _ in 0..20 {
                    id += 1;
                    let name = format!("n{}.example.com", id % 100);
                    let _ = socket.send_to(&query(id, &name), (SERVER_V4, 53));
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    })
    .unwrap();
}

#[test]
fn an_interface_that_is_deleted_and_created_again_under_load_is_served_again() {
    let Some(lab) = lab("an_interface_that_is_deleted") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    // A second link between the two, which AF_XDP does not serve.
    lab.server_ip(&format!(
        "link add other type veth peer name other netns {}",
        lab.client
    ))
    .unwrap();
    lab.server_ip("addr add 10.54.0.1/24 dev other").unwrap();
    lab.client_ip("addr add 10.54.0.2/24 dev other").unwrap();
    lab.server_ip("link set other up").unwrap();
    lab.client_ip("link set other up").unwrap();
    let arguments = ["--listen", "10.54.0.1:53", "--upstream", UPSTREAM];
    let mut heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    let on = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| load(&lab, &on));
        // The load ends in any case.
        let _off = Off(&on);
        let mut received = 0;
        let received_by = |stats: &Value| stats["workers"][0]["received"].as_u64().unwrap();
        for round in 1..=3 {
            wait_for(&heimdall, "serving", |stats| {
                is_running(stats, round - 1) && received_by(stats) > received
            });
            lab.server_ip(&format!("link del {}", lab.server_if))
                .unwrap();
            let gone = wait_for(&heimdall, "gone", |stats| stats["backend"] == "socket");
            let (interface, worker) = (&gone["interfaces"][0], &gone["workers"][0]);
            assert_eq!(
                (&interface["state"], &worker["state"]),
                (&"gone".into(), &"gone".into())
            );
            assert_eq!(worker["reason"], "there is no such interface");
            assert_eq!(worker["frames"]["total"], 0);
            received = received_by(&gone);
            assert!(interface["verdicts"]["steered"].as_u64() >= Some(received));
            assert_eq!(kdig(&lab, "10.54.0.1", "n1.example.com"), "NOERROR");
            let name = format!("{round}.n2.example.com");
            assert_eq!(kdig(&lab, "10.54.0.1", &name), "NXDOMAIN", "a miss");

            lab.connect(1).unwrap();
            let back = wait_for(&heimdall, "back", |stats| {
                is_running(stats, round) && received_by(stats) > received
            });
            assert_eq!(back["backend"], "xdp");
            assert_eq!(back["interfaces"][0]["state"], "up");
            assert_eq!(back["workers"][0]["frames"]["missing"], 0);
            received = received_by(&back);
        }
    });
    assert!(lab.has_xdp().unwrap());
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    assert_eq!(kdig(&lab, SERVER_V6, "n1.example.com"), "NOERROR");
    // Flushing reaches the new worker's cache.
    let flushed = heimdall.command(&["flush", "--all"]).unwrap();
    assert!(flushed.status.success(), "{flushed:?}");
    let log = heimdall.process.output();
    for line in [
        "is gone, and its queues with it",
        "is back: XDP program attached",
    ] {
        assert_eq!(log.matches(line).count(), 3, "{line}: {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    assert!(heimdall.process.wait(TIMEOUT).unwrap().success());
    assert!(!lab.has_xdp().unwrap());
}

/// Clears a flag when it is dropped.
pub(crate) struct Off<'a>(pub(crate) &'a AtomicBool);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn an_interface_that_returns_unusable_is_attempted_again() {
    let Some(lab) = lab("an_interface_that_returns_unfit") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let interface = &lab.server_if;
    let state = |state: &'static str| move |stats: &Value| stats["interfaces"][0]["state"] == state;
    // Another name is another interface.
    lab.server_ip(&format!("link set {interface} down"))
        .unwrap();
    lab.server_ip(&format!("link set {interface} name other"))
        .unwrap();
    wait_for(&heimdall, "gone", state("gone"));
    let other = lab.server_ip("-details link show dev other").unwrap();
    assert!(!other.contains("xdp"), "{other}");
    // When it returns it has a program of somebody else.
    let attach = || {
        let other = Interface::find("other").unwrap();
        Program::attach(&other, AttachPolicy::GenericOnly, ProgramOptions::default()).unwrap()
    };
    let program = lab.in_server(attach).unwrap();
    lab.server_ip(&format!("link set other name {interface}"))
        .unwrap();
    let failed = wait_for(&heimdall, "failed", |stats| {
        let reason = stats["interfaces"][0]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("is already attached"))
    });
    assert_eq!(failed["interfaces"][0]["state"], "failed");
    assert_eq!(failed["backend"], "socket");
    drop(program);
    lab.server_ip(&format!("link set {interface} up")).unwrap();
    wait_for(&heimdall, "up", state("up"));
    let stats = wait_for(&heimdall, "running", |stats| is_running(stats, 1));
    assert_eq!(stats["backend"], "xdp");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let log = heimdall.process.output();
    assert_eq!(log.matches("failed: XDP program").count(), 1, "{log}");
}

#[test]
fn an_interface_replaced_by_one_of_another_kind_is_detached() {
    let Some(lab) = lab("an_interface_whose_name_another") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let interface = &lab.server_if;
    // Both changes are seen at once: an interface of that name always exists.
    heimdall.process.pause().unwrap();
    lab.server_ip(&format!("link del {interface}")).unwrap();
    lab.server_ip(&format!("link add {interface} type bridge"))
        .unwrap();
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    let failed = wait_for(&heimdall, "failed", |stats| {
        let reason = stats["interfaces"][0]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("AF_XDP cannot serve"))
    });
    assert_eq!(failed["interfaces"][0]["state"], "failed");
    assert_eq!(failed["workers"][0]["state"], "gone");
    assert_eq!(failed["backend"], "socket");
    lab.server_ip(&format!("link del {interface}")).unwrap();
    wait_for(&heimdall, "gone", |stats| {
        stats["interfaces"][0]["state"] == "gone"
    });
    lab.connect(1).unwrap();
    let stats = wait_for(&heimdall, "running", |stats| is_running(stats, 1));
    assert_eq!(stats["backend"], "xdp");
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
}

#[test]
fn an_interface_that_goes_down_and_up_is_logged_and_served() {
    let Some(lab) = lab("an_interface_that_goes_down") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    lab.server_ip(&format!("link set {} down", lab.server_if))
        .unwrap();
    wait_for(&heimdall, "down", |stats| {
        stats["interfaces"][0]["state"] == "down"
    });
    lab.server_ip(&format!("link set {} up", lab.server_if))
        .unwrap();
    wait_for(&heimdall, "up", |stats| {
        stats["interfaces"][0]["state"] == "up"
    });
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let stats = heimdall.stats().unwrap();
    assert!(
        stats["workers"][0]["received"].as_u64() >= Some(1),
        "{stats:#}"
    );
    let log = heimdall.process.output();
    assert_eq!(
        log.matches("is down: no queries arrive on it").count(),
        1,
        "{log}"
    );
}

#[test]
fn replies_that_cannot_be_sent_do_not_make_the_worker_spin() {
    /// More than the kernel sends by itself while the worker sleeps.
    const REPLIES: u16 = 300;
    let Some(lab) = lab("replies_that_an_interface_that_is_down") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let interface = &lab.server_if;
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    // The queries arrive while it is up, the replies come when it is down.
    heimdall.process.pause().unwrap();
    send_at_once(&lab, REPLIES);
    lab.server_ip(&format!("link set {interface} down"))
        .unwrap();
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    let worker = |stats: &Value, of: &str| stats["workers"][0][of].as_u64().unwrap();
    let waiting = |stats: &Value| stats["workers"][0]["frames"]["tx"].as_u64().unwrap();
    let stuck = wait_for(&heimdall, "stuck", |stats| {
        waiting(stats) == u64::from(REPLIES)
    });
    let sleeps = worker(&stuck, "sleeps");
    let stuck = wait_for(&heimdall, "asleep", |stats| {
        worker(stats, "sleeps") > sleeps + 20
    });
    assert_eq!(waiting(&stuck), u64::from(REPLIES));
    lab.server_ip(&format!("link set {interface} up")).unwrap();
    wait_for(&heimdall, "sent", |stats| waiting(stats) == 0);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
}

#[test]
fn a_successor_waits_for_the_end_of_a_killed_predecessor() {
    let Some(lab) = lab("a_successor_waits") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let listen = format!("{SERVER_V4}:53");
    let start = || -> Process {
        let mut command: Command = lab.on_server(program());
        command
            .args(["run", "--backend", "xdp", "--interface", &lab.server_if])
            .args(["--listen", &listen, "--upstream", UPSTREAM])
            .args(["--cache-size", "1M", "--control"])
            .arg(&control);
        Process::start(&mut command).unwrap()
    };
    let mut running = start();
    running.wait_for("ready", TIMEOUT).unwrap();
    for round in 0..20 {
        // Its successor starts before it is dead.
        running.signal(Signal::SIGKILL).unwrap();
        let mut next = start();
        if let Err(error) = next.wait_for("ready", TIMEOUT) {
            panic!("round {round}: {error:#}");
        }
        running.wait(TIMEOUT).unwrap();
        running = next;
    }
    assert!(lab.has_xdp().unwrap());
    running.signal(Signal::SIGTERM).unwrap();
    assert!(running.wait(TIMEOUT).unwrap().success());
}
