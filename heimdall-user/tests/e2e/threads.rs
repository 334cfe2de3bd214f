//! Threads that fail or panic, which is brought about with ptrace.
#![cfg(target_arch = "x86_64")]

use std::{
    net::UdpSocket,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use lab::{
    Frames, Heimdall, Knot, Lab, QueryFrame, SERVER_V4, ScriptedUpstream, UPSTREAM,
    debugger::{self, fail_wait, panic_in_wait},
};
use serde_json::Value;

use crate::{
    client::{Settings, query},
    heimdall, lab, program,
    recover::{Off, TIMEOUT, is_running, kdig, load, wait_for},
};

/// The thread of a process with this name.
pub(crate) fn thread_named(pid: u32, name: &str) -> i32 {
    debugger::thread(pid, |thread| thread == name)
}

#[test]
fn a_worker_that_fails_is_started_again_and_the_others_go_on() {
    if !lab::available("a_worker_that_fails") {
        return;
    }
    let lab = Lab::with_queues(2).unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let on = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| load(&lab, &on));
        let _off = Off(&on);
        for restarts in 1..=2 {
            fail_wait(thread_named(heimdall.process.pid(), "worker-1"));
            let failed = wait_for(&heimdall, "failed", |stats| {
                stats["workers"][1]["state"] == "restarting"
            });
            let reason = failed["workers"][1]["reason"].as_str().unwrap();
            assert!(reason.contains("Bad file descriptor"), "{reason}");
            assert_eq!(failed["workers"][0]["state"], "running");
            assert_eq!(failed["backend"], "xdp");
            // The failed one's packets go to the sockets.
            assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
            let again = wait_for(&heimdall, "running again", |stats| {
                stats["workers"][1]["restarts"] == restarts
            });
            assert_eq!(again["workers"][1]["state"], "running");
            assert_eq!(again["workers"][0]["restarts"], 0);
        }
    });
    // Flows to every queue are answered.
    for _ in 0..20 {
        assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
    }
    let log = heimdall.process.output();
    assert_eq!(
        log.matches("worker-1 failed: Bad file descriptor").count(),
        2,
        "{log}"
    );
    assert_eq!(log.matches("worker-1 runs again").count(), 2, "{log}");
}

#[test]
fn a_worker_that_panics_loses_only_what_it_held() {
    /// The most that it can hold: the frames of a batch, as it takes them before it sleeps again.
    const HELD: usize = 64;
    const QUERIES: u16 = 4000;
    if !lab::available("a_worker_that_panics") {
        return;
    }
    let lab = Lab::with_queues(2).unwrap();
    let _knot = Knot::upstream(&lab).unwrap();
    let mut command = lab.on_server(program());
    // Making one takes time, in which packets go on arriving in the worker's ring.
    command.env("RUST_BACKTRACE", "0");
    let listen = format!("{SERVER_V4}:53");
    let interface = &lab.server_if;
    let arguments = ["--interface", interface, "--listen", &listen];
    let arguments = [&arguments[..], &["--upstream", UPSTREAM]].concat();
    let heimdall = Heimdall::start(command, program(), &arguments).unwrap();
    let worker = "worker-1";
    let replies = thread::scope(|scope| {
        // Two thousand queries a second, from ports whose flows take either queue.
        let load = scope.spawn(|| {
            let asked = lab.in_client(|| {
                let sockets: Vec<_> = (0..16)
                    .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
                    .collect();
                for id in 0..QUERIES {
                    let socket = &sockets[usize::from(id) % sockets.len()];
                    let query = query(id, &format!("n{}.example.com", id % 100));
                    socket.send_to(&query, (SERVER_V4, 53)).unwrap();
                    thread::sleep(Duration::from_micros(500));
                }
                // Until none has come for a while, of which some may be lost.
                const PAUSE: Duration = Duration::from_secs(2);
                let (mut replies, mut last) = (0, Instant::now());
                for socket in &sockets {
                    socket.set_nonblocking(true).unwrap();
                }
                while replies < usize::from(QUERIES) && last.elapsed() < PAUSE {
                    for socket in &sockets {
                        while socket.recv(&mut [0; 512]).is_ok() {
                            (replies, last) = (replies + 1, Instant::now());
                        }
                    }
                    thread::sleep(PAUSE / 100);
                }
                replies
            });
            asked.unwrap()
        });
        thread::sleep(Duration::from_millis(300));
        let pid = heimdall.process.pid();
        panic_in_wait(program(), pid, thread_named(pid, worker));
        let failed = wait_for(&heimdall, "failed", |stats| {
            stats["workers"][1]["state"] == "restarting"
        });
        assert_eq!(
            failed["workers"][1]["reason"],
            "the thread panicked, which is a bug"
        );
        assert_eq!(failed["workers"][0]["state"], "running");
        wait_for(&heimdall, "running again", |stats| {
            stats["workers"][1]["state"] == "running"
        });
        load.join().unwrap()
    });
    let stats = heimdall.stats().unwrap();
    assert!(stats["workers"][1]["restarts"] == 1 && stats["workers"][0]["restarts"] == 0);
    assert!(
        stats["sockets"]["udp_answered"].as_u64() > Some(0),
        "its queue's queries went to the sockets"
    );
    assert!(
        replies + HELD >= usize::from(QUERIES),
        "{replies} replies\n{}",
        heimdall.process.output()
    );
    let log = heimdall.process.output();
    assert_eq!(log.matches("panicked at").count(), 1, "{log}");
    assert_eq!(
        log.matches("worker-1 failed: the thread panicked").count(),
        1,
        "{log}"
    );
}

#[test]
fn outcomes_for_a_worker_that_failed_reach_no_other() {
    const FIRST: &str = "127.0.0.1:5301";
    const QUERIES: u16 = 100;
    let Some(lab) = lab("outcomes_for_a_worker") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let ask = |name: &str| {
        for id in 0..QUERIES {
            let query = QueryFrame {
                id,
                port: 41_000 + id,
                ..QueryFrame::new(frames.macs, &format!("{name}.n{id}.example"), 1)
            };
            frames.send(&query.bytes()).unwrap();
        }
    };
    let in_flight = |stats: &Value| stats["forwarder"]["in_flight"].as_u64().unwrap();
    ask("drop");
    wait_for(&heimdall, "in flight", |stats| {
        in_flight(stats) == u64::from(QUERIES)
    });
    // The forwarder gives up after 3 s: were the worker started again at once, that would be
    // while the next queries wait.
    thread::sleep(Duration::from_millis(1500));
    fail_wait(thread_named(heimdall.process.pid(), "worker-0"));
    wait_for(&heimdall, "running again", |stats| is_running(stats, 1));
    // Their tokens are those of the queries that got no answer.
    ask("slow-900");
    let stats = wait_for(&heimdall, "answered", |stats| {
        stats["workers"][0]["answered"] == QUERIES && in_flight(stats) == 0
    });
    let rcodes = &stats["workers"][0]["rcodes"];
    assert_eq!(
        (&rcodes["noerror"], &rcodes["servfail"]),
        (&QUERIES.into(), &0.into())
    );
    wait_for(&heimdall, "rid of them", |stats| {
        let frames = &stats["workers"][0]["frames"];
        frames["pending"] == 0 && frames["missing"] == 0
    });
}

#[test]
fn the_end_of_an_essential_thread_ends_the_process() {
    let Some(lab) = lab("the_end_of_a_thread") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    for (thread, message) in [
        (
            "sockets",
            "the socket front thread ended unexpectedly; stopping the server",
        ),
        (
            "forward-0",
            "the forwarder thread ended unexpectedly; stopping the server",
        ),
    ] {
        let mut heimdall = heimdall(&lab);
        fail_wait(thread_named(heimdall.process.pid(), thread));
        let status = heimdall.process.wait(TIMEOUT).unwrap();
        let log = heimdall.process.output();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(message), "{log}");
        assert!(!lab.has_xdp().unwrap());
    }
    // One of several.
    let settings = Settings::new("[socket]\nthreads = 2");
    let mut several = settings.on_sockets(&lab);
    fail_wait(thread_named(several.process.pid(), "sockets:1"));
    let status = several.process.wait(TIMEOUT).unwrap();
    assert_eq!(status.code(), Some(1), "{}", several.process.output());
    // Without these, queries are still answered.
    let arguments = ["--upstream", UPSTREAM, "--metrics-listen", "9453"];
    let mut heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    for thread in ["control", "http"] {
        fail_wait(thread_named(heimdall.process.pid(), thread));
        let message = format!("the {thread} thread ended unexpectedly; until a restart");
        heimdall.process.wait_for(&message, TIMEOUT).unwrap();
    }
    assert_eq!(kdig(&lab, SERVER_V4, "n1.example.com"), "NOERROR");
}
