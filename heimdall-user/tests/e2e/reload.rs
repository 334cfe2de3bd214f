//! A reload replaces the policy without a pause, or changes nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{SERVER_V4, ScriptedUpstream, UPSTREAM};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    client::{DnsClient, Settings},
    lab,
};

const QUERY: &str = "www.example A rd edns";
const ANSWER: &str = "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1 | | | opt 1232";
/// EDE 18, Prohibited.
const REFUSED: &str = "REFUSED qr rd ra | www.example. A | | | | opt 1232 ede=18";

const ALL: &str = "[access]\nallow = [\"10.0.0.0/8\", \"fd00::/8\"]";
const ONLY_V6: &str = "[access]\nallow = [\"fd00::/8\"]";

#[test]
fn a_reload_applies_the_new_policy_and_loses_no_query() {
    let Some(lab) = lab("a_reload_applies_the_new_policy") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new(ALL);
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    let reload = || {
        let output = heimdall.reload().unwrap();
        assert!(output.status.success(), "{output:?}");
        let message = String::from_utf8(output.stdout).unwrap();
        assert!(
            message.starts_with("reloaded: the new settings are in force; changed: access.allow\n"),
            "{message}"
        );
    };
    let over = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let background = scope.spawn(|| {
            let other = DnsClient::v6(&lab);
            let mut answered = 0u32;
            while !over.load(Ordering::Relaxed) {
                // Old names and new ones.
                let name = format!("n{}.example", answered % 500);
                let reply = other.udp(&format!("{name} A rd"));
                let expected = format!("NOERROR qr rd ra | {name}. A | 300 A 192.0.2.1");
                assert_eq!(reply, expected, "after {answered} queries");
                answered += 1;
            }
            answered
        });
        for _ in 0..10 {
            for (text, expected) in [(ONLY_V6, REFUSED), (ALL, ANSWER)] {
                settings.write(text);
                reload();
                assert_eq!(client.udp(QUERY), expected, "AF_XDP");
                assert_eq!(client.tcp(QUERY), expected, "TCP");
            }
        }
        over.store(true, Ordering::Relaxed);
        background.join().unwrap()
    });
    assert!(answered > 20, "{answered}");

    // The signal does the same, asynchronously.
    for (text, expected) in [(ONLY_V6, REFUSED), (ALL, ANSWER)] {
        settings.write(text);
        heimdall.process.signal(Signal::SIGHUP).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while client.udp(QUERY) != expected && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(client.udp(QUERY), expected);
    }
}

#[test]
fn a_bad_file_changes_nothing() {
    let Some(lab) = lab("a_bad_file_changes_nothing") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new(ALL);
    let mut heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    assert_eq!(client.udp(QUERY), ANSWER);
    for (text, line, what) in [
        ("[access]\n\nallow = [\"192.0.2.0/33\"]", 3, "not a prefix"),
        ("[access]\nalow = [\"192.0.2.0/24\"]", 2, "alow"),
        ("[access]\nallow = [", 2, ""),
    ] {
        settings.write(text);
        let output = heimdall.reload().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}: {message}");
        let place = format!("{}:{line}: ", settings.path());
        assert!(
            message.contains(&place) && message.contains(what),
            "{text}: {message}"
        );
        assert!(message.contains("all stays as it was"), "{text}: {message}");
        assert_eq!(client.udp(QUERY), ANSWER, "{text}");
    }
    heimdall.process.signal(Signal::SIGHUP).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while heimdall.process.output().matches("not reloaded").count() < 4 && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    let log = heimdall.process.output();
    assert_eq!(log.matches("not reloaded").count(), 4, "{log}");
    assert_eq!(client.udp(QUERY), ANSWER, "after the signal");

    settings.write(&format!("control-mode = \"0600\"\n{ONLY_V6}"));
    let output = heimdall.reload().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("need a restart"),
        "{output:?}"
    );
    assert_eq!(
        client.udp(QUERY),
        REFUSED,
        "the policy holds, the mode does not"
    );
    heimdall
        .process
        .wait_for("need a restart", Duration::from_secs(1))
        .unwrap();
}

#[test]
fn names_are_blocked_and_unblocked_though_they_are_cached() {
    let Some(lab) = lab("names_are_blocked_and_unblocked") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let lists = tempfile::tempdir().unwrap();
    let list = lists.path().join("list");
    let block = |names: &str| std::fs::write(&list, names).unwrap();
    block("other.example\n");
    let blocklist = format!("[[blocklist]]\nfile = {list:?}\n");
    let settings = Settings::new(&blocklist);
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    let expect = |expected: &str, when: &str| {
        // The second is a hit.
        for _ in 0..2 {
            assert_eq!(client.udp(QUERY), expected, "{when}, AF_XDP");
            assert_eq!(client.tcp(QUERY), expected, "{when}, TCP");
        }
    };
    let reload = || assert!(heimdall.reload().unwrap().status.success());
    expect(ANSWER, "another name is blocked");
    block("www.example\n");
    expect(ANSWER, "the list is not read by itself");
    reload();
    for _ in 0..2 {
        for reply in [client.udp(QUERY), client.tcp(QUERY)] {
            // EDE 15, Blocked.
            assert!(reply.starts_with("NXDOMAIN "), "{reply}");
            assert!(reply.ends_with(" ede=15"), "{reply}");
        }
    }
    settings.write(&format!(
        "{blocklist}[local]\nrecords = [\"www.example. 300 IN A 192.0.2.99\"]"
    ));
    reload();
    expect(
        &ANSWER.replace("192.0.2.1 ", "192.0.2.99 "),
        "local data have precedence",
    );
    settings.write("");
    reload();
    expect(ANSWER, "nothing is blocked or local any more");
}

#[test]
fn warnings_about_the_settings_are_printed_and_logged_once() {
    let Some(lab) = lab("warnings_about_the_settings") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("");
    let mut heimdall = settings.on_sockets(&lab);
    let says = |arguments: &[&str]| {
        let output = heimdall.command(&[&["reload"], arguments].concat());
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(says(&[]), "reloaded: nothing has changed\n");

    // In place.
    settings.write("[forward]\nhedge = 5");
    let hedge = format!(
        "{}:2: key `forward.hedge`: there is no second upstream to ask: no list of upstreams has two",
        settings.path()
    );
    let change = format!("\n  forward.hedge: 0 -> 5 (in place)\nwarning: {hedge}\n");
    for arguments in [&["--dry-run"][..], &[]] {
        let said = says(arguments);
        assert!(said.ends_with(&change), "{said}");
    }
    let document: Value = serde_json::from_str(&says(&["--dry-run", "--json"])).unwrap();
    assert_eq!(document["warnings"], json!([hedge]));

    // By another server, whose start does not log them once more.
    settings.write("[metrics]\nlisten = \"0.0.0.0:9453\"");
    let metrics =
        "metrics and the status page are on http://0.0.0.0:9453/ for all who reach that address";
    let said = says(&[]);
    assert!(said.contains(&format!("\nwarning: {metrics}")), "{said}");

    // What depends on the host.
    settings.write(&format!("[anycast]\naddress = [\"{SERVER_V4}\"]"));
    let said = says(&["--dry-run"]);
    let held =
        format!("key `anycast.address`: the host has the service address {SERVER_V4} already");
    let line = said.lines().find(|line| line.contains(&held));
    assert!(
        line.is_some_and(|line| line.starts_with("warning: ")),
        "{said}"
    );

    heimdall.process.signal(Signal::SIGUSR1).unwrap();
    heimdall
        .process
        .wait_for("statistics: ", Duration::from_secs(5))
        .unwrap();
    let log = heimdall.process.output();
    for (warning, times) in [(hedge.as_str(), 1), (metrics, 1), (&held, 0)] {
        assert_eq!(log.matches(warning).count(), times, "{warning}: {log}");
    }
}
