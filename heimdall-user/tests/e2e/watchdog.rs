//! Threads that make no progress: a debugger holds them.
#![cfg(target_arch = "x86_64")]

use std::time::Duration;

use lab::{Heimdall, Knot, Lab, SERVER_V4, UPSTREAM, debugger::Held};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    client::Settings,
    heimdall,
    http::get,
    lab, program, queues,
    recover::{is_running, kdig, wait_for},
    threads::thread_named,
};

/// Longer than a thread takes until it counts as stuck.
const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn a_stuck_thread_is_seen_and_said() {
    let Some(lab) = lab("a_stuck_thread_is_seen") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let metrics = format!("{SERVER_V4}:9453");
    let arguments = ["--upstream", UPSTREAM, "--metrics-listen", &metrics];
    let mut heimdall = Heimdall::on_sockets(&lab, program(), &arguments).unwrap();
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let ready = || get(&lab, &metrics, "/readyz", "");
    assert_eq!(ready().status, 200);
    let gauge = |count: u32| {
        let metrics = get(&lab, &metrics, "/metrics", "").body;
        metrics.contains(&format!("heimdall_stuck_threads {count}\n"))
    };
    assert!(gauge(0));
    let pid = heimdall.process.pid();
    {
        let _held = Held::new(thread_named(pid, "forward-0"));
        let said = "the forward-0 thread has made no progress for 10 s";
        heimdall.process.wait_for(said, LIMIT).unwrap();
        assert_eq!(
            heimdall.stats().unwrap()["stuck"],
            serde_json::json!(["forward-0"])
        );
        let response = ready();
        assert_eq!(response.status, 503);
        assert_eq!(
            response.body,
            "not ready: the forward-0 thread makes no progress\n"
        );
        assert!(gauge(1));
        // What needs no other thread is still answered.
        assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    }
    let again = "the forward-0 thread makes progress again";
    heimdall.process.wait_for(again, LIMIT).unwrap();
    wait_for(&heimdall, "without stuck threads", |stats| {
        stats["stuck"] == serde_json::json!([])
    });
    assert_eq!(ready().status, 200);
    assert_eq!(kdig(&lab, SERVER_V4, "n2.example.com"), "NOERROR");
    // One without which queries are answered does not make the server unready.
    let _held = Held::new(thread_named(pid, "observer"));
    let said = "the observer thread has made no progress for 10 s";
    heimdall.process.wait_for(said, LIMIT).unwrap();
    assert_eq!(ready().status, 200);
}

#[test]
fn the_sockets_serve_the_queue_of_a_worker_that_is_stuck_until_it_continues() {
    let Some(lab) = lab("the_sockets_serve_the_queue_of_a_worker") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let received = |stats: &Value| stats["workers"][0]["received"].as_u64().unwrap();
    let held = Held::new(thread_named(heimdall.process.pid(), "worker-0"));
    let stats = wait_for(&heimdall, "stuck", |stats| {
        stats["workers"][0]["state"] == "stuck"
    });
    assert_eq!(stats["backend"], "socket");
    let before = received(&stats);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    let stats = heimdall.stats().unwrap();
    assert!(stats["interfaces"][0]["verdicts"]["no_socket"].as_u64() >= Some(1));
    assert_eq!(received(&stats), before);
    drop(held);
    let stats = wait_for(&heimdall, "running", |stats| is_running(stats, 0));
    assert_eq!(stats["workers"][0]["restarts"], 0);
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    assert!(received(&heimdall.stats().unwrap()) > before);
    let log = heimdall.process.output();
    for line in [
        "worker-0 makes no progress; its queues' packets go to the sockets",
        "worker-0 makes progress again",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(!log.contains("AF_XDP does not work"), "{log}");
}

#[test]
fn queues_that_return_go_to_workers_that_are_not_stuck() {
    if !lab::available("queues_that_return_go_to_workers") {
        return;
    }
    let lab = Lab::with_queues(2).unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let settings = Settings::new("xdp.workers = 2");
    let heimdall = queues::start(&lab, &settings);
    let serves = |stats: &Value, number: u64, count: usize| {
        let mut workers = stats["workers"].as_array().unwrap().iter();
        let worker = workers.find(|worker| worker["worker"] == number).unwrap();
        let queues = worker["queues"].as_array().unwrap();
        queues.len() == count && queues.iter().all(|queue| queue["state"] == "running")
    };
    let again = |what| {
        let interface = &lab.server_if;
        lab.server_ip(&format!("link del {interface}")).unwrap();
        wait_for(&heimdall, what, |stats| stats["backend"] == "socket");
        lab.connect(2).unwrap();
    };
    let held = Held::new(thread_named(heimdall.process.pid(), "worker-0"));
    wait_for(&heimdall, "stuck", |stats| {
        stats["workers"][0]["state"] == "stuck"
    });
    again("gone");
    wait_for(&heimdall, "served by the other one", |stats| {
        serves(stats, 1, 2)
    });
    queues::ask_from(&lab, 200);
    drop(held);
    let again_moves = "worker-0 makes progress again";
    wait_for(&heimdall, "moving again", |_| {
        heimdall.process.output().contains(again_moves)
    });
    // Queues keep their worker.
    again("gone again");
    wait_for(&heimdall, "served by the one that has them", |stats| {
        serves(stats, 1, 2)
    });
    queues::ask_from(&lab, 200);
    let log = heimdall.process.output();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_stuck_worker_keeps_no_server_from_ending() {
    let Some(lab) = lab("a_stuck_worker_keeps_no_server") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let mut heimdall = heimdall(&lab);
    let worker = "worker-0";
    let held = Held::new(thread_named(heimdall.process.pid(), worker));
    wait_for(&heimdall, "stuck", |stats| {
        stats["workers"][0]["state"] == "stuck"
    });
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    heimdall.process.wait_for("stopped", LIMIT).unwrap();
    let log = heimdall.process.output();
    let said =
        format!("the {worker} thread makes no progress, and does not end; it is left behind");
    assert!(log.contains(&said), "{log}");
    // The kernel ends no thread that a debugger holds.
    drop(held);
    let status = heimdall.process.wait(LIMIT).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(!lab.has_xdp().unwrap());
}

#[test]
fn threads_without_work_make_progress() {
    let Some(lab) = lab("threads_without_work") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot").display().to_string();
    let arguments = [
        "--upstream",
        UPSTREAM,
        "--metrics-listen",
        "9453",
        "--snapshot",
        &snapshot,
    ];
    let heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    std::thread::sleep(Duration::from_secs(14));
    assert_eq!(heimdall.stats().unwrap()["stuck"], serde_json::json!([]));
    let log = heimdall.process.output();
    assert!(!log.contains("no progress"), "{log}");
    // After a stop of the whole process none is suspected.
    heimdall.process.pause().unwrap();
    std::thread::sleep(Duration::from_secs(12));
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let log = heimdall.process.output();
    assert!(!log.contains("no progress"), "{log}");
}
