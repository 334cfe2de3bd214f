//! Many queues on few workers: threads, memory, and queues that come, go and fail beside others of the same worker.

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lab::{
    Heimdall, Lab, SERVER_V4, ScriptedUpstream, UPSTREAM, available, debugger::panic_in_wait, run,
    sum,
};
use serde_json::Value;

use crate::{
    client::{Settings, query},
    handover::load::second_link,
    lab, program,
    recover::{Off, TIMEOUT, wait_for},
    threads::thread_named,
};

/// The queues of all workers.
fn queues(stats: &Value) -> Vec<Value> {
    let workers = stats["workers"].as_array().unwrap().iter();
    workers
        .flat_map(|worker| worker["queues"].as_array().unwrap().clone())
        .collect()
}

/// A server on AF_XDP with these settings, without the hot tier.
pub(crate) fn start(lab: &Lab, settings: &Settings) -> Heimdall {
    let arguments = [
        "--upstream",
        UPSTREAM,
        "--tier",
        "off",
        "--config",
        settings.path(),
    ];
    Heimdall::on_xdp(lab, program(), &arguments).unwrap()
}

/// Whether so many queues of an interface are served, and no others.
fn serves(stats: &Value, interface: &str, count: usize) -> bool {
    let queues = queues(stats);
    let own: Vec<_> = (queues.iter())
        .filter(|queue| queue["interface"] == interface)
        .collect();
    own.len() == count && own.iter().all(|queue| queue["state"] == "running")
}

/// Asks from `ports` ports, whose flows take all queues, and expects a reply on each.
pub(crate) fn ask_from(lab: &Lab, ports: u16) {
    lab.in_client(|| {
        for number in 0..ports {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            let query = query(number, &format!("n{}.example", number % 100));
            socket.send_to(&query, (SERVER_V4, 53)).unwrap();
            let mut reply = [0; 512];
            let (len, _) = socket.recv_from(&mut reply).unwrap();
            assert!(len > 12 && reply[..2] == query[..2], "{number}");
        }
    })
    .unwrap();
}

#[test]
fn sixty_four_queues_share_two_workers() {
    const QUEUES: u64 = 64;
    if !available("sixty_four_queues_share_two_workers") {
        return;
    }
    let lab = Lab::with_queues(QUEUES as u32).unwrap();
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("cache.size = \"16M\"\n[xdp]\nworkers = 2\nframes = 1024\n");
    let heimdall = start(&lab, &settings);
    ask_from(&lab, 2000);
    let stats = wait_for(&heimdall, "counted", |stats| sum(stats, "answered") == 2000);
    let workers = stats["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for (number, worker) in workers.iter().enumerate() {
        assert_eq!(worker["worker"], number);
        assert_eq!(worker["queues"].as_array().map(Vec::len), Some(32));
        assert_eq!(
            (&worker["state"], &worker["mode"]),
            (&"running".into(), &"copy".into())
        );
        assert_eq!(worker["misses"], 100, "they share a cache: {worker:#}");
        assert_eq!(worker["frames"]["total"], 32 * 1024);
        assert_eq!(worker["frames"]["missing"], 0);
        assert!(worker.get("interface").is_none());
    }
    for queue in queues(&stats) {
        assert!(queue["received"].as_u64() > Some(0), "{queue}");
        assert_eq!(queue["placement"], "load", "a veth has no interrupts");
    }
    // Two workers, not as many as queues, each with a cache.
    assert!(
        stats["process"]["threads"].as_u64() < Some(20),
        "{}",
        stats["process"]
    );
    let memory = stats["process"]["resident_bytes"].as_u64().unwrap();
    assert!(memory < 500 << 20, "{memory}");
    let log = heimdall.process.output();
    let said = "caches of 2 workers, 1 socket thread and 1 forwarder thread (64 MiB), frames of 64 queues (128 MiB)";
    assert!(log.contains(said), "{log}");
    let mode = format!("AF_XDP on {} queues 0-63 (native XDP, copy)", lab.server_if);
    assert!(log.contains(&mode), "{log}");
    let text = heimdall.stats_text().unwrap();
    assert!(text.contains("worker-1 (32 queues)"), "{text}");
    assert!(text.contains(&format!("{}:63", lab.server_if)), "{text}");
}

/// Asks one query after another while `on` is set. Returns how many, all of which are answered.
fn ask_on(lab: &Lab, on: &AtomicBool) -> u64 {
    lab.in_client(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((SERVER_V4, 53)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut asked = 0;
        while on.load(Ordering::Relaxed) {
            let id = asked as u16;
            // Every fourth is a miss.
            let name = match asked % 4 {
                0 => format!("m{asked}.example"),
                _ => "hit.example".to_owned(),
            };
            socket.send(&query(id, &name)).unwrap();
            let mut reply = [0; 512];
            let len = socket.recv(&mut reply);
            let len = len.unwrap_or_else(|_| panic!("no reply to the {asked}th query"));
            assert!(len > 12 && reply[..2] == id.to_be_bytes());
            asked += 1;
        }
        asked
    })
    .unwrap()
}

#[test]
fn a_queue_whose_interface_is_deleted_leaves_the_others_of_its_worker_alone() {
    const WAITING: u16 = 40;
    let Some(lab) = lab("a_queue_whose_interface_is_deleted") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    second_link(&lab);
    let settings = Settings::new("xdp.workers = 1");
    let arguments = [
        "--upstream",
        UPSTREAM,
        "--tier",
        "off",
        "--config",
        settings.path(),
        "--interface",
        "other",
        "--listen",
        "10.54.0.1:53",
    ];
    let heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    let worker = thread_named(heimdall.process.pid(), "worker-0");
    let on = AtomicBool::new(true);
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask_on(&lab, &on));
        let off = Off(&on);
        for round in 1..=3 {
            wait_for(&heimdall, "serving both", |stats| {
                serves(stats, "other", 1) && serves(stats, &lab.server_if, 1)
            });
            // Their frames are gone with the interface when the answers come.
            lab.in_client(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                for id in 0..WAITING {
                    let query = query(id, &format!("slow-1500.r{round}n{id}.example"));
                    socket.send_to(&query, ("10.54.0.1", 53)).unwrap();
                }
            })
            .unwrap();
            wait_for(&heimdall, "waiting", |stats| {
                let queues = queues(stats);
                let other = queues.iter().find(|queue| queue["interface"] == "other");
                other.unwrap()["frames"]["pending"].as_u64() >= Some(1)
            });
            lab.server_ip("link del other").unwrap();
            let gone = wait_for(&heimdall, "gone", |stats| {
                queues(stats).iter().any(|queue| queue["state"] == "gone")
            });
            assert_eq!(gone["workers"][0]["state"], "running");
            assert_eq!(gone["backend"], "xdp");
            thread::sleep(Duration::from_millis(300));
            second_link(&lab);
        }
        let stats = wait_for(&heimdall, "serving both again", |stats| {
            serves(stats, "other", 1) && queues(stats)[1]["restarts"] == 3
        });
        assert_eq!(queues(&stats)[0]["restarts"], 0);
        assert_eq!(stats["workers"][0]["frames"]["missing"], 0);
        drop(off);
        assert!(asking.join().unwrap() > 100);
    });
    assert_eq!(
        thread_named(heimdall.process.pid(), "worker-0"),
        worker,
        "the same thread"
    );
    let stats = wait_for(&heimdall, "without waiting queries", |stats| {
        stats["workers"][0]["frames"]["pending"] == 0
    });
    assert_eq!(stats["workers"].as_array().map(Vec::len), Some(1));
    let log = heimdall.process.output();
    assert!(
        !log.contains("panicked") && !log.contains("worker-0 failed"),
        "{log}"
    );
}

#[test]
fn a_shared_worker_that_panics_is_started_again_with_all_its_queues() {
    if !available("a_shared_worker_that_panics") {
        return;
    }
    let lab = Lab::with_queues(4).unwrap();
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("xdp.workers = 1");
    let heimdall = start(&lab, &settings);
    ask_from(&lab, 200);
    let pid = heimdall.process.pid();
    panic_in_wait(program(), pid, thread_named(pid, "worker-0"));
    let failed = wait_for(&heimdall, "failed", |stats| {
        stats["workers"][0]["state"] == "restarting"
    });
    for queue in queues(&failed) {
        assert_eq!(queue["reason"], "the thread panicked, which is a bug");
    }
    // The sockets answer meanwhile.
    ask_from(&lab, 50);
    let again = wait_for(&heimdall, "running again", |stats| {
        serves(stats, &lab.server_if, 4)
    });
    assert!(queues(&again).iter().all(|queue| queue["restarts"] == 1));
    let received = sum(&again, "received");
    ask_from(&lab, 200);
    wait_for(&heimdall, "counting on", |stats| {
        sum(stats, "received") == received + 200
    });
    let log = heimdall.process.output();
    assert_eq!(
        log.matches("worker-0 failed: the thread panicked").count(),
        1,
        "{log}"
    );
    assert_eq!(log.matches("worker-0 runs again").count(), 1, "{log}");
}

#[test]
fn queues_that_an_interface_gets_or_loses_are_followed() {
    if !available("queues_that_an_interface_gets") {
        return;
    }
    let lab = Lab::with_queues(4).unwrap();
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let channels = |mut ethtool: Command, interface: &str, rx: u32, tx: u32| {
        let counts = ["rx", &rx.to_string(), "tx", &tx.to_string()].map(str::to_owned);
        run(ethtool.args(["-L", interface]).args(counts)).unwrap();
    };
    let client = |rx, tx| channels(lab.on_client("ethtool"), &lab.client_if, rx, tx);
    let server = |rx, tx| channels(lab.on_server("ethtool"), &lab.server_if, rx, tx);
    // The peer must not send from more queues than there are.
    client(4, 1);
    server(1, 4);
    let settings = Settings::new("xdp.workers = 2");
    let heimdall = start(&lab, &settings);
    assert!(serves(&heimdall.stats().unwrap(), &lab.server_if, 1));
    ask_from(&lab, 100);
    server(4, 4);
    client(4, 4);
    let more = wait_for(&heimdall, "four", |stats| serves(stats, &lab.server_if, 4));
    let workers: BTreeSet<usize> = (more["workers"].as_array().unwrap().iter())
        .map(|worker| worker["queues"].as_array().unwrap().len())
        .collect();
    assert_eq!(workers, BTreeSet::from([2]), "they are spread: {more:#}");
    assert!(queues(&more).iter().all(|queue| queue["restarts"] == 0));
    // Only then does a veth run its program for the new ones.
    for state in ["down", "up"] {
        lab.server_ip(&format!("link set {} {state}", lab.server_if))
            .unwrap();
    }
    ask_from(&lab, 400);
    let stats = wait_for(&heimdall, "counted", |stats| {
        queues(stats)
            .iter()
            .all(|queue| queue["received"].as_u64() > Some(0))
    });
    let received = sum(&stats, "received");
    // One that comes back with fewer.
    lab.server_ip(&format!("link del {}", lab.server_if))
        .unwrap();
    wait_for(&heimdall, "gone", |stats| stats["backend"] == "socket");
    lab.connect(1).unwrap();
    let fewer = wait_for(&heimdall, "one", |stats| serves(stats, &lab.server_if, 1));
    assert!(sum(&fewer, "received") >= received, "counts never fall");
    ask_from(&lab, 50);
}

#[test]
fn queues_without_one_to_send_are_left_to_the_sockets() {
    if !available("queues_without_one_to_send") {
        return;
    }
    let lab = Lab::with_queues(4).unwrap();
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut ethtool = lab.on_server("ethtool");
    run(ethtool.args(["-L", &lab.server_if, "rx", "4", "tx", "1"])).unwrap();
    let heimdall = start(&lab, &Settings::new(""));
    let said = "queues 1-3 are left to the sockets, as AF_XDP cannot send there; give";
    let log = heimdall.process.output();
    assert_eq!(log.matches(said).count(), 1, "{log}");
    ask_from(&lab, 100);
    let stats = heimdall.stats().unwrap();
    assert!(serves(&stats, &lab.server_if, 1), "{stats:#}");
    let of_sockets = stats["sockets"]["udp_answered"].as_u64().unwrap();
    assert!(of_sockets > 0 && sum(&stats, "answered") > 0, "{stats:#}");
}
