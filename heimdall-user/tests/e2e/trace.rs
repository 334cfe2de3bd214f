//! `heimdall trace`: each step of the explanation, and that nothing changes by it.

use std::{fs, thread, time::Duration};

use lab::{CLIENT_V4, Heimdall, ScriptedUpstream, UPSTREAM, by_label, message};
use serde_json::Value;

use crate::{
    client::{DnsClient, NOTHING, Settings},
    lab, program,
};

/// `heimdall trace` with these arguments, as text.
fn text(heimdall: &Heimdall, arguments: &[&str]) -> String {
    let arguments = [&["trace"], arguments].concat();
    let output = heimdall.command(&arguments).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same as JSON.
fn json(heimdall: &Heimdall, arguments: &[&str]) -> Value {
    let text = text(heimdall, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap()
}

/// A step of an explanation.
fn step<'a>(trace: &'a Value, name: &str) -> &'a Value {
    let steps = trace["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["step"] == name);
    step.unwrap_or_else(|| panic!("no {name} in {trace:#}"))
}

fn verdict(trace: &Value) -> &str {
    trace["verdict"].as_str().unwrap()
}

#[test]
fn the_policy_is_explained_by_keys_and_lines() {
    let Some(lab) = lab("the_policy_is_explained") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (hosts, blocked, allowed) = (
        files.path().join("hosts"),
        files.path().join("blocked"),
        files.path().join("allowed"),
    );
    fs::write(
        &hosts,
        "# names\n10.0.0.9 nas.lan\n10.0.0.8 other.lan NAS.lan\n",
    )
    .unwrap();
    fs::write(&blocked, "# ads\nads.example\n0.0.0.0 exact.example\n").unwrap();
    fs::write(&allowed, "good.ads.example\nfree.test\n").unwrap();
    let settings = Settings::new(&format!(
        "[access]\nallow = [\"10.0.0.0/8\"]\nrefuse = [\"10.9.0.0/16\"]\ndrop = [\"10.9.9.0/24\"]\n\
         [rate-limit]\nresponses-per-second = 1\nburst = 8\nslip = 0\nexempt = [\"10.7.0.0/16\"]\n\
         [local]\nhosts = [{hosts:?}]\nrecords = [\n\"printer.lan. 300 IN A 192.168.1.9\"]\n\
         [[blocklist]]\nfile = {blocked:?}\naction = \"null\"\n\
         [[blocklist]]\nfile = {allowed:?}\naction = \"allow\"\n"
    ));
    let heimdall = settings.on_sockets(&lab);
    let path = settings.path();
    for (arguments, name, key, value, says) in [
        (
            &["a.example", "A", "--client", CLIENT_V4][..],
            "access",
            "place",
            format!("{path}:2: key `access.allow`"),
            "the answer of an upstream; 127.0.0.1:5300 is asked first",
        ),
        (
            &["a.example", "A", "--client", "10.9.0.1"],
            "access",
            "prefix",
            "10.9.0.0/16".to_owned(),
            "REFUSED: the access list does not allow the client",
        ),
        (
            &["a.example", "A", "--client", "10.9.9.1"],
            "access",
            "decision",
            "dropped".to_owned(),
            "no reply: the access list drops the client",
        ),
        (
            &["a.example", "A", "--client", "192.0.2.1"],
            "access",
            "decision",
            "refused".to_owned(),
            "REFUSED: the access list does not allow the client",
        ),
        (
            &["a.example", "TYPE255"],
            "type",
            "",
            String::new(),
            "NOERROR: ANY has a record that says so (RFC 8482)",
        ),
        (
            &["a.example", "AXFR"],
            "type",
            "",
            String::new(),
            "REFUSED: the type is not supported",
        ),
        (
            &["Printer.lan"],
            "local data",
            "places",
            format!("{path}:13: key `local.records`: printer.lan. 300 IN A 192.168.1.9"),
            "NOERROR from local data",
        ),
        (
            &["nas.lan", "AAAA"],
            "local data",
            "places",
            format!("{}:2", hosts.display()),
            "NOERROR from local data",
        ),
        (
            &["x.ads.example"],
            "blocklist",
            "places",
            format!("{}:2", blocked.display()),
            "NOERROR: the name is on a blocklist",
        ),
        (
            &["exact.example", "MX"],
            "blocklist",
            "entry",
            "exact.example.".to_owned(),
            "NOERROR: the name is on a blocklist",
        ),
        (
            &["www.good.ads.example"],
            "blocklist",
            "places",
            format!("{}:1", allowed.display()),
            "the answer of an upstream; 127.0.0.1:5300 is asked first",
        ),
        (
            &["free.test"],
            "special names",
            "",
            String::new(),
            "the answer of an upstream; 127.0.0.1:5300 is asked first",
        ),
        (
            &["www.test"],
            "special names",
            "zone",
            "test.".to_owned(),
            "NXDOMAIN: a special-use name",
        ),
    ] {
        let trace = json(&heimdall, arguments);
        assert_eq!(verdict(&trace), says, "{arguments:?}: {trace:#}");
        let step = step(&trace, name);
        if !key.is_empty() {
            let found = step[key].as_str().or(step[key][0].as_str());
            assert_eq!(found, Some(value.as_str()), "{arguments:?}: {trace:#}");
        }
    }
    // Both lines that have the name.
    let trace = json(&heimdall, &["nas.lan"]);
    let places = step(&trace, "local data")["places"].as_array().unwrap();
    assert_eq!(places[1], format!("{}:3", hosts.display()));

    // What clients are told is the same.
    let client = DnsClient::v4(&lab);
    assert!(client.udp("x.ads.example A rd").contains("60 A 0.0.0.0"));
    assert!(client.udp("printer.lan A rd").contains("A 192.168.1.9"));

    // The limit: looking takes nothing from it.
    let left = |client: &str| {
        let trace = json(&heimdall, &["a.example", "A", "--client", client]);
        step(&trace, "rate limit")["threads"][0]["left"].as_u64()
    };
    for _ in 0..20 {
        assert_eq!(left("10.1.2.3"), Some(8));
    }
    assert_eq!(left("10.7.0.1"), None);
    let mut replies = 0;
    while client.udp_in_vain("x.ads.example A rd") != NOTHING && replies < 1000 {
        replies += 1;
    }
    assert!(left(CLIENT_V4) < Some(8), "{replies}");

    // Files that are others now.
    fs::write(&blocked, "\nads.example\nmore.example\n").unwrap();
    let shown = text(&heimdall, &["x.ads.example"]);
    let note = format!("{}:2 (the file has changed since", blocked.display());
    assert!(shown.contains(&note), "{shown}");
    fs::remove_file(&hosts).unwrap();
    let shown = text(&heimdall, &["nas.lan"]);
    assert!(shown.contains("it cannot be read now"), "{shown}");

    // Bad arguments, and bad requests of the command.
    for (arguments, says) in [
        (["trace", "a..b", "A"], "\"a..b\" is no domain name"),
        (["trace", "a.example", "?"], "\"?\" is no type"),
    ] {
        let output = heimdall.command(&arguments).unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.starts_with("heimdall: ") && text.contains(says),
            "{text}"
        );
    }
}

/// Sums of counters that queries and look-ups change.
fn counters(heimdall: &Heimdall) -> Vec<Value> {
    let stats = heimdall.stats().unwrap();
    let front = ["udp_received", "hits", "misses", "types", "rcodes", "cache"];
    let forwarder = ["requests", "sent_udp", "sent_tcp", "failure_hits", "cache"];
    let front = front.map(|name| stats["sockets"][name].clone());
    let forwarder = forwarder.map(|name| stats["forwarder"][name].clone());
    [&front[..], &forwarder[..]].concat()
}

#[test]
fn caches_failures_and_upstreams_are_explained_and_left_alone() {
    let Some(lab) = lab("caches_failures_and_upstreams") else {
        return;
    };
    let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, by_label).unwrap();
    let settings =
        Settings::new("[socket]\nthreads = 2\n[forward]\ntimeout-ms = 100\nattempts = 1\n");
    let heimdall = settings.on_sockets(&lab);
    let client = DnsClient::v4(&lab);
    let before = json(&heimdall, &["a.example"]);
    let first = "the answer of an upstream; 127.0.0.1:5300 is asked first";
    assert_eq!(verdict(&before), first);
    assert_eq!(
        step(&before, "route")["upstreams"][0]["rtt_us"],
        Value::Null
    );
    assert!(client.udp("a.example A rd edns").starts_with("NOERROR"));
    // The back-off is a second at first, which a busy machine may miss, and grows.
    let failed = (0..5).find_map(|_| {
        let reply = client.udp("servfail.example A rd edns");
        assert!(reply.starts_with("SERVFAIL"), "{reply}");
        let trace = json(&heimdall, &["servfail.example"]);
        let is_put_off = verdict(&trace).contains("SERVFAIL: it failed lately");
        is_put_off.then_some(trace)
    });
    let failed = failed.unwrap();
    let left = step(&failed, "failures")["failure_seconds"].as_f64();
    assert!(
        left.is_some_and(|left| left > 0.0 && left <= 16.0),
        "{failed:#}"
    );

    let unchanged = counters(&heimdall);
    let asked = upstream.received().len();
    json(&heimdall, &["servfail.example"]);
    let trace = json(&heimdall, &["a.example"]);
    // One of the two threads has it.
    let says = verdict(&trace);
    assert!(
        says.starts_with("NOERROR from the cache of sockets:")
            && says.ends_with("; from other threads: NOERROR from the forwarder's cache"),
        "{says}"
    );
    let entries = step(&trace, "cache")["entries"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 2, "{trace:#}");
    for entry in &entries {
        let record = entry["records"][0].as_str().unwrap();
        assert!(record.ends_with(" IN A 192.0.2.1"), "{entry:#}");
    }
    let shown = text(&heimdall, &["a.example"]);
    assert!(
        shown.contains("forwarder: A, NOERROR, received "),
        "{shown}"
    );
    // For another type of the name there is nothing.
    assert_eq!(verdict(&json(&heimdall, &["a.example", "AAAA"])), first);
    assert_eq!(counters(&heimdall), unchanged);
    assert_eq!(upstream.received().len(), asked, "no upstream was asked");
    let route = json(&heimdall, &["b.example"]);
    let known = &step(&route, "route")["upstreams"][0];
    assert!(known["rtt_us"].as_u64() > Some(0), "{route:#}");
    assert_eq!(known["edns"], true);
}

#[test]
fn workers_that_sleep_are_asked_too() {
    let Some(lab) = lab("workers_that_sleep_are_asked") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("[rate-limit]\nresponses-per-second = 1\nburst = 1000\n");
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    for _ in 0..100 {
        assert!(client.udp("a.example A rd edns").starts_with("NOERROR"));
    }
    thread::sleep(Duration::from_millis(100));
    let trace = json(&heimdall, &["a.example", "A", "--client", CLIENT_V4]);
    let threads = step(&trace, "rate limit")["threads"].as_array().unwrap();
    let worker = "worker-0";
    let left: Vec<_> = threads
        .iter()
        .map(|thread| (thread["thread"].as_str().unwrap(), thread["left"].as_u64()))
        .collect();
    assert_eq!(left[0], ("sockets", Some(1000)), "{trace:#}");
    assert_eq!(left[1].0, worker, "{trace:#}");
    assert!((900..1000).contains(&left[1].1.unwrap()), "{trace:#}");
    let says = format!(
        "NOERROR from the cache of {worker}; from other threads: NOERROR from the forwarder's cache"
    );
    assert_eq!(verdict(&trace), says);
}

#[test]
fn a_look_up_in_flight_and_an_upstream_that_is_set_aside() {
    let Some(lab) = lab("a_look_up_in_flight") else {
        return;
    };
    let silent = ScriptedUpstream::with_script(&lab, UPSTREAM, |query: &lab::Received| {
        let message = query.message().unwrap();
        match query.name().as_deref() {
            Some("slow.example") => Vec::new(),
            _ => vec![message::address(&message, 300, [192, 0, 2, 1])],
        }
    });
    let _silent = silent.unwrap();
    let other = "127.0.0.1:5399";
    let arguments = ["--upstream", other, "--upstream", UPSTREAM];
    let heimdall = Heimdall::on_sockets(&lab, program(), &arguments).unwrap();
    let client = DnsClient::v4(&lab);
    // Nobody listens at the first upstream: its first query says so.
    assert!(client.udp("a.example A rd edns").starts_with("NOERROR"));
    client.udp_send("slow.example A rd edns");
    let mut trace = json(&heimdall, &["slow.example"]);
    for _ in 0..100 {
        if step(&trace, "route")["in_flight"] == true {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        trace = json(&heimdall, &["slow.example"]);
    }
    assert_eq!(
        verdict(&trace),
        "the outcome of the look-up that is in flight"
    );
    let route = json(&heimdall, &["b.example"]);
    let route = step(&route, "route");
    assert_eq!(route["first"], UPSTREAM, "{route:#}");
    let set_aside = route["upstreams"][0]["set_aside_seconds"].as_f64();
    assert!(
        set_aside.is_some_and(|left| left > 0.0 && left <= 10.0),
        "{route:#}"
    );
    assert_eq!(route["upstreams"][1]["set_aside_seconds"], Value::Null);
}
