//! Routes: which upstream gets which names, and other ones without a pause.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Lab, ScriptedUpstream, message};
use serde_json::Value;

use crate::{
    client::{DnsClient, Settings},
    lab, program,
};

const DEFAULT: &str = "127.0.0.1:5301";
const CORP: &str = "127.0.0.1:5302";
const LAB: &str = "127.0.0.1:5303";

/// An upstream that answers all with this address.
fn upstream(lab: &Lab, at: &str, last: u8) -> ScriptedUpstream {
    ScriptedUpstream::with_script(lab, at, move |query| {
        let message = query.message().unwrap();
        vec![message::address(&message, 300, [192, 0, 2, last])]
    })
    .unwrap()
}

/// The reply with that address.
fn reply(name: &str, last: u8) -> String {
    format!("NOERROR qr rd ra | {name}. A | 300 A 192.0.2.{last}")
}

fn output(heimdall: &Heimdall, arguments: &[&str]) -> String {
    let output = heimdall.command(arguments).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn route(heimdall: &Heimdall, arguments: &[&str]) -> Value {
    let arguments = [&["route", "--json"], arguments].concat();
    serde_json::from_str(&output(heimdall, &arguments)).unwrap()
}

#[test]
fn names_go_to_the_upstreams_of_their_routes() {
    let Some(lab) = lab("names_go_to_the_upstreams_of_their_routes") else {
        return;
    };
    let [default, corp, sub] =
        [(DEFAULT, 1), (CORP, 2), (LAB, 3)].map(|(address, last)| upstream(&lab, address, last));
    let settings = Settings::new(&format!(
        r#"upstream = ["{DEFAULT}"]
[[route]]
zone = "corp.example"
upstream = ["{CORP}"]
[[route]]
zone = "Lab.Corp.Example."
upstream = ["{LAB}", "{CORP}"]
max-ttl = 60
[[route]]
zone = "denied.example"
answer = "nxdomain"
[[route]]
zone = "refused.example"
answer = "refused"
[[route]]
zone = "10.in-addr.arpa"
upstream = ["{CORP}"]
[[route]]
zone = "office.local"
upstream = ["{CORP}"]
[local]
records = ["_dns.resolver.arpa. 300 SVCB 1 dns.example.net. alpn=dot", "here.denied.example. 300 A 192.0.2.9"]
"#
    ));
    let path = settings.path();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--config", path]).unwrap();
    let client = DnsClient::v4(&lab);
    for (name, expected) in [
        ("www.example", reply("www.example", 1)),
        ("corp.example", reply("corp.example", 2)),
        ("WWW.corp.EXAMPLE", reply("WWW.corp.EXAMPLE", 2)),
        ("notcorp.example", reply("notcorp.example", 1)),
        (
            "a.b.lab.corp.example",
            reply("a.b.lab.corp.example", 3).replace(" 300 ", " 60 "),
        ),
        ("here.denied.example", reply("here.denied.example", 9)),
        ("7.1.10.in-addr.arpa", reply("7.1.10.in-addr.arpa", 2)),
        ("mail.office.local", reply("mail.office.local", 2)),
    ] {
        // From the upstream, and from the cache.
        for _ in 0..2 {
            assert_eq!(client.udp(&format!("{name} A rd")), expected);
        }
    }
    for (name, code) in [
        ("x.denied.example", "NXDOMAIN"),
        ("x.refused.example", "REFUSED"),
        ("refused.example", "REFUSED"),
        ("printer.local", "NXDOMAIN"),
        ("1.168.192.in-addr.arpa", "NXDOMAIN"),
    ] {
        let reply = client.udp(&format!("{name} A rd"));
        assert!(reply.starts_with(code), "{reply}");
    }
    let denied = client.udp("x.denied.example A rd");
    assert!(
        denied.contains("denied.example. 10800 SOA denied.example. nobody.invalid."),
        "{denied}"
    );
    let refused = client.udp("x.refused.example A rd edns");
    assert!(refused.ends_with("ede=15"), "{refused}");
    let designated = client.udp("_dns.resolver.arpa SVCB rd");
    assert!(
        designated.starts_with("NOERROR") && designated.contains("300 "),
        "{designated}"
    );
    assert_eq!(default.received().len(), 2);
    assert_eq!(sub.received().len(), 1);
    assert_eq!(corp.received().len(), 4);

    // An upstream of several routes is one.
    let stats = heimdall.stats().unwrap();
    let upstreams = stats["upstreams"].as_array().unwrap();
    let of = |address: &str| {
        let mut upstreams = upstreams.iter();
        upstreams
            .find(|upstream| upstream["address"] == address)
            .unwrap()
    };
    assert_eq!(upstreams.len(), 3);
    assert_eq!(of(DEFAULT)["routes"], serde_json::json!(["."]));
    let routes = [
        "corp.example.",
        "lab.corp.example.",
        "10.in-addr.arpa.",
        "office.local.",
    ];
    assert_eq!(of(CORP)["routes"], serde_json::json!(routes));
    assert_eq!(of(CORP)["queries"], 4);

    // What the commands say.
    for (name, zone, first, line) in [
        ("www.example", ".", Some(DEFAULT), "1: key `upstream`"),
        (
            "a.corp.example",
            "corp.example.",
            Some(CORP),
            "3: key `route.zone`",
        ),
        (
            "a.lab.corp.example",
            "lab.corp.example.",
            Some(LAB),
            "6: key `route.zone`",
        ),
        (
            "x.refused.example",
            "refused.example.",
            None,
            "13: key `route.zone`",
        ),
    ] {
        let planned = output(&heimdall, &["route", "--json", name]);
        let config = std::process::Command::new(program())
            .args(["route", "--json", "--config", path, name])
            .output()
            .unwrap();
        assert!(config.status.success(), "{config:?}");
        let config = String::from_utf8(config.stdout).unwrap();
        for text in [planned, config] {
            let route: Value = serde_json::from_str(&text).unwrap();
            let step = route["steps"].as_array().unwrap().last().unwrap();
            assert_eq!(step["step"], "route", "{route:#}");
            assert_eq!(step["zone"], zone, "{route:#}");
            assert_eq!(step["first"].as_str(), first, "{route:#}");
            assert_eq!(step["place"], format!("{path}:{line}"), "{route:#}");
        }
        let trace = output(&heimdall, &["trace", "--json", &format!("new.{name}")]);
        let trace: Value = serde_json::from_str(&trace).unwrap();
        let step = trace["steps"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&step["step"], &step["zone"]),
            (&"route".into(), &zone.into())
        );
    }
    let ds = route(&heimdall, &["corp.example", "DS"]);
    assert_eq!(ds["steps"][0]["zone"], ".", "{ds:#}");
    let special = route(&heimdall, &["printer.local"]);
    assert_eq!(special["verdict"], "NXDOMAIN: a special-use name");
    let text = output(&heimdall, &["route", "a.lab.corp.example"]);
    let expected = format!("=> the answer of an upstream; {LAB} is asked first\n");
    assert!(text.ends_with(&expected), "{text}");
}

#[test]
fn other_routes_and_upstreams_are_in_force_when_the_reload_returns() {
    let Some(lab) = lab("other_routes_and_upstreams_are_in_force") else {
        return;
    };
    let _upstreams =
        [(DEFAULT, 1), (CORP, 2), (LAB, 3)].map(|(address, last)| upstream(&lab, address, last));
    let text = |default: &str, corp: Option<&str>| {
        let corp = corp
            .map(|corp| format!("[[route]]\nzone = \"corp.example\"\nupstream = [\"{corp}\"]\n"));
        format!("upstream = [\"{default}\"]\n{}", corp.unwrap_or_default())
    };
    // What is in force, and what names in the route and others get then.
    let steps = [
        (text(DEFAULT, Some(CORP)), 2, 1),
        (text(DEFAULT, Some(LAB)), 3, 1),
        (text(DEFAULT, None), 1, 1),
        (text(LAB, Some(CORP)), 2, 3),
    ];
    let settings = Settings::new(&steps[3].0);
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--config", settings.path()]).unwrap();
    let client = DnsClient::v4(&lab);
    let over = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let background = scope.spawn(|| {
            let other = DnsClient::v6(&lab);
            let mut asked = 0u32;
            while !over.load(Ordering::Relaxed) {
                // Names that are cached, and new ones.
                let name = format!("n{}.corp.example", asked % 40);
                let got = other.udp(&format!("{name} A rd"));
                assert!((1..=3).any(|last| got == reply(&name, last)), "{got}");
                asked += 1;
            }
            asked
        });
        for round in 0..5 {
            for (text, corp, default) in &steps {
                settings.write(text);
                let said = output(&heimdall, &["reload"]);
                let done = "reloaded: the new policy, routes and upstreams are in force; changed: ";
                assert!(said.starts_with(done), "{said}");
                for n in 0..20 {
                    let name = format!("n{n}.corp.example");
                    assert_eq!(
                        client.udp(&format!("{name} A rd")),
                        reply(&name, *corp),
                        "{round}"
                    );
                    let name = format!("n{n}.example");
                    assert_eq!(
                        client.udp(&format!("{name} A rd")),
                        reply(&name, *default),
                        "{round}"
                    );
                }
                assert_eq!(
                    client.tcp("n1.corp.example A rd"),
                    reply("n1.corp.example", *corp)
                );
            }
        }
        over.store(true, Ordering::Relaxed);
        background.join().unwrap()
    });
    assert!(asked > 20, "{asked}");
    let forwarder = &heimdall.stats().unwrap()["forwarder"];
    assert_eq!(forwarder["servfail"], 0);
    let upstreams = &heimdall.stats().unwrap()["upstreams"];
    assert_eq!(upstreams.as_array().unwrap().len(), 2);

    // Bad settings change nothing.
    settings.write(&text(DEFAULT, None).replace("5301", "0"));
    let failed = heimdall.reload().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let why = String::from_utf8(failed.stderr).unwrap();
    assert!(why.contains("has port 0"), "{why}");
    assert_eq!(
        client.udp("new.corp.example A rd"),
        reply("new.corp.example", 2)
    );
    // The same ones neither.
    settings.write(&steps[3].0);
    assert_eq!(
        output(&heimdall, &["reload"]),
        "reloaded: nothing has changed\n"
    );
}

/// Files that a process has open.
fn files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Has the server reload, over its control socket.
fn reload(control: &Path) {
    let mut stream = UnixStream::connect(control).unwrap();
    stream.write_all(b"{\"command\": \"reload\"}\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.contains("\"reloaded\""), "{line}");
}

#[test]
fn a_thousand_reloads_leave_no_socket_and_no_memory() {
    let Some(lab) = lab("a_thousand_reloads_leave_no_socket") else {
        return;
    };
    let _upstreams =
        [(DEFAULT, 1), (CORP, 2), (LAB, 3)].map(|(address, last)| upstream(&lab, address, last));
    let text = |corp: &str| {
        format!(
            "upstream = [\"{DEFAULT}\"]\n[cache]\nsize = \"1M\"\n[[route]]\nzone = \"corp.example\"\nupstream = [\"{corp}\", \"tcp://{corp}\"]\n"
        )
    };
    let settings = Settings::new(&text(CORP));
    let heimdall = Heimdall::on_sockets(&lab, program(), &["--config", settings.path()]).unwrap();
    let client = DnsClient::v4(&lab);
    let mut after = (0, 0);
    for number in 0..1_000 {
        let (corp, last) = if number % 2 == 0 { (LAB, 3) } else { (CORP, 2) };
        settings.write(&text(corp));
        reload(heimdall.control());
        let name = format!("n{number}.corp.example");
        assert_eq!(
            client.udp(&format!("{name} A rd")),
            reply(&name, last),
            "{number}"
        );
        if number == 100 {
            after = (
                files(heimdall.process.pid()),
                memory(heimdall.process.pid()),
            );
        }
    }
    // Sockets are replaced at random: some more or less may be open.
    let (files_then, memory_then) = after;
    let end = Instant::now() + Duration::from_secs(10);
    while files(heimdall.process.pid()) > files_then + 4 {
        assert!(
            Instant::now() < end,
            "{} files",
            files(heimdall.process.pid())
        );
        thread::sleep(Duration::from_millis(100));
    }
    let grown = memory(heimdall.process.pid()).saturating_sub(memory_then);
    assert!(grown < 4 << 10, "{grown} KiB more");
    assert_eq!(
        heimdall.stats().unwrap()["upstreams"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

/// Resident memory of a process, in KiB.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
