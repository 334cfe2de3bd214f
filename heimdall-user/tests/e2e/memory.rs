//! The caches: shared between queues, refreshed, flushed, dumped, and restored after a restart.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Lab, ScriptedUpstream, UPSTREAM, available, message, sum};
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::Value;

use crate::{
    client::{DnsClient, Settings},
    heimdall, lab, queues,
};

fn query(name: &str) -> String {
    format!("{name} A rd")
}

/// The reply for a name that was cached just now.
fn answer(name: &str) -> String {
    format!("NOERROR qr rd ra | {name}. A | 300 A 192.0.2.1")
}

/// Runs a subcommand that is to succeed; its output.
fn output_of(heimdall: &Heimdall, arguments: &[&str]) -> String {
    let output = heimdall.command(arguments).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_answer_cached_by_one_worker_costs_no_query_of_another() {
    if !available("an_answer_cached_by_one_worker") {
        return;
    }
    let lab = Lab::with_queues(4).unwrap();
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("xdp.workers = 4");
    let heimdall = queues::start(&lab, &settings);
    // Each has a port of its own, so their queries spread over the queues.
    let askers: Vec<_> = (0..64).map(|_| DnsClient::v4(&lab)).collect();
    for name in ["www.example", "other.example"] {
        for client in &askers {
            assert_eq!(client.udp(&query(name)), answer(name));
        }
        assert_eq!(upstream.queries(name), 1);
    }
    let stats = heimdall.stats().unwrap();
    let workers = stats["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 4);
    for worker in workers {
        assert_eq!(
            worker["misses"], 2,
            "each worker misses each name: {worker}"
        );
    }
    assert_eq!(sum(&stats, "hits"), 2 * 64 - 8);
    assert_eq!(sum(&stats, "types/a"), 2 * 64);
    assert_eq!(stats["forwarder"]["cache"]["hits"], 6);
}

#[test]
fn popular_names_are_refreshed_before_they_expire() {
    let Some(lab) = lab("popular_names_are_refreshed") else {
        return;
    };
    // The TTL is twenty seconds, so its last tenth is two.
    let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, |query| {
        let answer = |query| message::address(&query, 20, [192, 0, 2, 1]);
        query.message().map(answer).into_iter().collect::<Vec<_>>()
    });
    let _upstream = upstream.unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    for name in ["popular.example", "once.example"] {
        assert!(client.udp(&query(name)).starts_with("NOERROR"));
    }
    let end = Instant::now() + Duration::from_secs(22);
    while Instant::now() < end {
        assert!(client.udp(&query("popular.example")).starts_with("NOERROR"));
        // The socket front requests the same refresh, and shares it.
        assert!(client.tcp(&query("popular.example")).starts_with("NOERROR"));
        thread::sleep(Duration::from_millis(100));
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["workers"][0]["misses"], 2, "no client had to wait");
    assert_eq!(stats["sockets"]["misses"], 1);
    let forwarder = &stats["forwarder"];
    // At 18 seconds, and perhaps one more just after it.
    let refreshes = forwarder["refreshes"].as_u64().unwrap();
    assert!((1..=3).contains(&refreshes), "{refreshes}");
    let sent = forwarder["sent_udp"].as_u64().unwrap();
    assert!((3..=4).contains(&sent), "one a TTL for all fronts: {sent}");
}

#[test]
fn flushed_names_are_queried_again() {
    let Some(lab) = lab("flushed_names") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    let names = [
        "www.example",
        "a.www.example",
        "other.example",
        "servfail.example",
    ];
    let ask_all = || {
        for name in &names[..3] {
            assert_eq!(client.udp(&query(name)), answer(name));
            assert_eq!(client.tcp(&query(name)), answer(name));
        }
        assert!(client.udp(&query(names[3])).starts_with("SERVFAIL"));
    };
    let asked = || names.map(|name| upstream.queries(name));
    ask_all();
    ask_all();
    assert_eq!(asked(), [1, 1, 1, 1]);
    // In the worker's cache, the sockets' and the forwarder's.
    assert_eq!(
        output_of(&heimdall, &["flush", "WWW.example"]),
        "3 answers flushed\n"
    );
    ask_all();
    assert_eq!(asked(), [2, 1, 1, 1]);
    assert_eq!(
        output_of(&heimdall, &["flush", "--zone", "www.example."]),
        "6 answers flushed\n"
    );
    ask_all();
    assert_eq!(asked(), [3, 2, 1, 1]);
    assert_eq!(
        output_of(&heimdall, &["flush", "nothing.example"]),
        "0 answers flushed\n"
    );
    // A failure is cached by the worker and by the forwarder.
    output_of(&heimdall, &["flush", "servfail.example"]);
    ask_all();
    assert_eq!(asked(), [3, 2, 1, 2]);
    output_of(&heimdall, &["flush", "--all"]);
    ask_all();
    assert_eq!(asked(), [4, 3, 2, 3]);
    for (arguments, said) in [
        (&["flush"][..], "give a NAME, --zone ZONE or --all"),
        (&["flush", "a..b"], "is no domain name"),
        (&["flush", "a", "--all"], "cannot be used with"),
    ] {
        let output = heimdall.command(arguments).unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn the_caches_can_be_dumped() {
    let Some(lab) = lab("the_caches_can_be_dumped") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    assert_eq!(output_of(&heimdall, &["dump"]), "");
    for i in 0..2000 {
        assert_ne!(client.udp(&query(&format!("n{i}.example"))), "");
    }
    assert_eq!(client.tcp(&query("n7.example")), answer("n7.example"));
    let text = output_of(&heimdall, &["dump", "n7.example"]);
    let worker = "worker-0";
    for cache in ["forwarder", worker, "sockets"] {
        let lines: Vec<_> = text.lines().collect();
        let at = lines
            .iter()
            .position(|line| line.ends_with(&format!("in {cache}")));
        let line = lines[at.unwrap_or_else(|| panic!("{cache}: {text}"))];
        assert!(line.starts_with("; n7.example. IN "), "{line}");
        let record = lines[at.unwrap() + 1];
        assert!(
            record.starts_with("n7.example. ") && record.ends_with(" IN A 192.0.2.1"),
            "{record}"
        );
    }
    let json = output_of(&heimdall, &["dump", "--zone", "example", "--json"]);
    let entries: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |cache: &str| {
        entries
            .iter()
            .filter(|entry| entry["cache"] == cache)
            .count()
    };
    assert_eq!((of("forwarder"), of(worker)), (2000, 2000));
    let ttl = entries[0]["ttl"].as_u64().unwrap();
    assert!((200..=300).contains(&ttl), "{ttl}");
}

/// Stops a server as systemd would.
fn stop(mut heimdall: Heimdall) -> String {
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    let status = heimdall.process.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success());
    heimdall.process.output()
}

#[test]
fn a_restart_succeeds_with_any_snapshot_and_without_one() {
    let Some(lab) = lab("a_restart_succeeds_with") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.snapshot");
    let settings = Settings::new(&format!(
        "[cache]\nsnapshot = {path:?}\nsnapshot-interval = 1\n[forward]\nthreads = 3"
    ));
    let client = DnsClient::v4(&lab);
    let names: Vec<String> = (0..200).map(|i| format!("n{i}.example")).collect();
    let ask_all = |exact: bool| {
        for name in &names {
            let reply = client.udp(&query(name));
            if exact {
                assert_eq!(reply, answer(name));
            } else {
                // Some seconds older.
                assert!(
                    reply.starts_with(&format!("NOERROR qr rd ra | {name}. A | ")),
                    "{reply}"
                );
            }
        }
    };
    let asked = || names.iter().map(|name| upstream.queries(name)).sum::<u64>();

    let cold = settings.on_xdp(&lab);
    assert!(
        cold.process
            .output()
            .contains("does not exist yet; starting with an empty cache")
    );
    ask_all(true);
    let log = stop(cold);
    assert!(log.contains("snapshot: 200 answers, "), "{log}");
    assert_eq!(asked(), 200);

    let warm = settings.on_xdp(&lab);
    let log = warm.process.output();
    assert!(log.contains("snapshot: 200 answers from "), "{log}");
    ask_all(false);
    assert_eq!(asked(), 200, "all names were restored");
    // Written periodically, not only at the end.
    fs::remove_file(&path).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        assert!(Instant::now() < end, "{}", warm.process.output());
        thread::sleep(Duration::from_millis(20));
    }
    warm.process.signal(Signal::SIGKILL).unwrap();
    drop(warm);

    let killed = settings.on_xdp(&lab);
    ask_all(false);
    assert_eq!(asked(), 200, "the last snapshot before the end is there");
    stop(killed);

    let whole = fs::read(&path).unwrap();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let mut expected = 200;
    for (octets, why) in [
        (&changed[..], "it is damaged"),
        (&whole[..middle], "it was truncated"),
        (&b"#!/bin/sh\n"[..], "no snapshot of Heimdall"),
    ] {
        fs::write(&path, octets).unwrap();
        let heimdall = settings.on_xdp(&lab);
        let log = heimdall.process.output();
        assert!(
            log.contains(why) && log.contains("starting with an empty cache"),
            "{why}: {log}"
        );
        ask_all(true);
        expected += 200;
        assert_eq!(asked(), expected, "{why}");
        stop(heimdall);
        let left_alone = fs::read(&path).unwrap() == octets;
        assert_eq!(left_alone, why.starts_with("no snapshot"), "{why}");
    }
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let log = stop(settings.on_xdp(&lab));
    assert!(log.contains("not overwriting that file"), "{log}");
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    assert!(!Path::new(&format!("{}.new", path.display())).exists());

    // The answers of other upstreams are not used.
    fs::remove_file(&path).unwrap();
    let text = |route: &str| format!("[cache]\nsnapshot = {path:?}\n{route}");
    settings.write(&text(""));
    let heimdall = settings.on_xdp(&lab);
    ask_all(true);
    stop(heimdall);
    let with_route = format!("[[route]]\nzone = \"example\"\nupstream = [\"tcp://{UPSTREAM}\"]");
    settings.write(&text(&with_route));
    let heimdall = settings.on_xdp(&lab);
    let log = heimdall.process.output();
    assert!(
        log.contains("the answers of other upstreams or routes"),
        "{log}"
    );
    let before = asked();
    ask_all(true);
    assert_eq!(asked(), before + 200);
    stop(heimdall);
    let log = stop(settings.on_xdp(&lab));
    assert!(log.contains("snapshot: 200 answers from "), "{log}");
}
