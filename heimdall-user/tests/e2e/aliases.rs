//! Aliases that an authoritative upstream does not follow into another zone.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Kdig, Knot, Process, SERVER_V4, UPSTREAM};

use crate::{client::Settings, lab, program};

/// Knot follows aliases within a zone, and `across` leads to another one.
#[test]
fn targets_in_another_zone_are_asked_for() {
    let Some(lab) = lab("targets_in_another_zone") else {
        return;
    };
    let _knot = Knot::rich_upstream(&lab).unwrap();
    let server = format!("@{SERVER_V4}");
    {
        let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", UPSTREAM]).unwrap();
        for arguments in [&[][..], &["+dnssec"], &["+tcp"]] {
            let asked = [&[&server, "across.rich.example", "A"], arguments].concat();
            let got = Kdig::ask(&lab, &asked).unwrap();
            assert_eq!(got.status, "NOERROR");
            let expected = [
                "across.rich.example. 3600 IN CNAME www.example.com.",
                "www.example.com. 3600 IN CNAME example.com.",
                "example.com. 3600 IN A 192.0.2.1",
            ];
            let without_ttl = |line: &str| -> Vec<String> {
                let mut fields: Vec<_> = line.split(' ').map(str::to_lowercase).collect();
                fields.remove(1);
                fields
            };
            let got: Vec<_> = got.answer.iter().map(|line| without_ttl(line)).collect();
            assert_eq!(got, expected.map(without_ttl));
        }
        let got = Kdig::ask(&lab, &[&server, "across.rich.example", "TXT"]).unwrap();
        assert_eq!((got.status.as_str(), got.answer.len()), ("NOERROR", 2));
        // A target in no zone of the upstream's.
        let got = Kdig::ask(&lab, &[&server, "away.rich.example", "A"]).unwrap();
        assert_eq!((got.status.as_str(), got.answer.len()), ("SERVFAIL", 0));
        let stats = heimdall.stats().unwrap();
        // A for two values of DO, TXT, and the one that failed.
        assert_eq!(stats["forwarder"]["aliases_followed"], 4);
        // Each with its target.
        assert_eq!(stats["forwarder"]["cache"]["entries"], 6);
    }
    let settings = Settings::new("[forward]\nfollow-aliases = false\n");
    let _heimdall = settings.on_xdp(&lab);
    let got = Kdig::ask(&lab, &[&server, "across.rich.example", "A"]).unwrap();
    assert_eq!((got.status.as_str(), got.answer.len()), ("NOERROR", 1));
}

/// NSD has the private zone, and Knot the others.
#[test]
fn a_target_of_another_route_is_asked_for_there() {
    let Some(lab) = lab("a_target_of_another_route") else {
        return;
    };
    if !std::path::Path::new("/usr/sbin/nsd").exists() {
        eprintln!("skipped: no /usr/sbin/nsd (Debian: nsd)");
        return;
    }
    const NSD: &str = "127.0.0.1:5309";
    let _knot = Knot::rich_upstream(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let zone = "$ORIGIN elsewhere.example.\n$TTL 600\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\n\
                ns A 10.53.0.1\naway A 192.0.2.77\nback CNAME www.example.com.\n";
    std::fs::write(path("zone"), zone).unwrap();
    let shown = directory.path().display();
    let configuration = format!(
        "server:\n  ip-address: 127.0.0.1@5309\n  username: \"\"\n  zonesdir: \"{shown}\"\n  pidfile: \"\"\n  \
         database: \"\"\n  xfrdfile: \"{shown}/xfrd\"\n  zonelistfile: \"{shown}/zones\"\n\
         remote-control:\n  control-enable: no\n\
         zone:\n  name: elsewhere.example\n  zonefile: zone\n"
    );
    std::fs::write(path("nsd.conf"), configuration).unwrap();
    let mut nsd = lab.on_server("/usr/sbin/nsd");
    nsd.args(["-d", "-c", path("nsd.conf").to_str().unwrap()]);
    let _nsd = Process::start(&mut nsd).unwrap();

    let settings = format!("[[route]]\nzone = \"elsewhere.example\"\nupstream = [\"{NSD}\"]\n");
    let settings = Settings::new(&settings);
    let _heimdall = settings.on_xdp(&lab);
    let server = format!("@{SERVER_V4}");
    let ask = |name: &str| {
        // NSD takes a moment to start.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let got = Kdig::ask(&lab, &[&server, name, "A"]).unwrap();
            if got.status == "NOERROR" || Instant::now() > deadline {
                return got.answer;
            }
            thread::sleep(Duration::from_millis(300));
        }
    };
    // Knot has the alias and does not know the target; and the other way round.
    let expected = [
        "away.rich.example. 3600 IN CNAME away.elsewhere.example.",
        "away.elsewhere.example. 600 IN A 192.0.2.77",
    ];
    let away: Vec<String> = ask("away.rich.example");
    assert_eq!(away.len(), expected.len(), "{away:?}");
    for (got, expected) in away.iter().zip(expected) {
        let ends = |line: &str| {
            let mut fields = line.split(' ');
            (
                fields.next().map(str::to_owned),
                fields.next_back().map(str::to_owned),
            )
        };
        assert_eq!(ends(got), ends(expected));
    }
    assert_eq!(ask("back.elsewhere.example").len(), 3);
}
