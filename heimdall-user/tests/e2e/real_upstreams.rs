//! Servers that others wrote as upstreams, over each transport: unbound, Knot Resolver, BIND, dnsdist.

use std::{env, fs, path::Path, thread, time::Duration};

use lab::{Authority, Heimdall, Kdig, Knot, Lab, Process, Resolver, SERVER_V4};
use tempfile::TempDir;

use crate::{lab, program};

/// Their port for UDP and TCP, and for TLS, at 127.0.0.1.
const PORT: u16 = 5311;
const TLS_PORT: u16 = 8531;

/// The name in their certificate.
const NAME: &str = "dns.example";

/// What unbound needs to run in the lab, and these lines of its section `server`, and the rest.
macro_rules! unbound {
    ($($lines:literal)*) => {
        concat!(
            r#"
remote-control:
    control-enable: no
server:
    username: ""
    chroot: ""
    directory: ""
    pidfile: ""
    use-syslog: no
    num-threads: 1
    module-config: "iterator"
    do-not-query-localhost: no
"#,
            $($lines),*
        )
    };
}
pub(crate) use unbound;

const UNBOUND: Resolver = Resolver {
    program: "/usr/sbin/unbound",
    package: "unbound",
    arguments: &["-d", "-p", "-c", "FILE"],
    port_separator: "@",
    file: "unbound.conf",
    configuration: unbound!(
        r#"
    interface: 127.0.0.1@5311
    interface: 127.0.0.1@8531
    tls-port: 8531
    tls-service-key: "PLACE/key.pem"
    tls-service-pem: "PLACE/certificate.pem"
    access-control: 127.0.0.0/8 allow
forward-zone:
    name: "."
    forward-addr: UPSTREAM
"#
    ),
};

const KRESD: Resolver = Resolver {
    program: "/usr/sbin/kresd",
    package: "knot-resolver",
    arguments: &["-n", "-c", "FILE", "PLACE"],
    port_separator: "@",
    file: "kresd.conf",
    configuration: r#"
net.listen('127.0.0.1', 5311, { kind = 'dns' })
net.listen('127.0.0.1', 8531, { kind = 'tls' })
net.tls('PLACE/certificate.pem', 'PLACE/key.pem')
cache.size = 10 * MB
trust_anchors.remove('.')
policy.add(policy.all(policy.STUB('UPSTREAM')))
"#,
};

const BIND: Resolver = Resolver {
    program: "/usr/sbin/named",
    package: "bind9",
    arguments: &["-g", "-c", "FILE"],
    port_separator: " port ",
    file: "named.conf",
    configuration: r#"
tls local { cert-file "PLACE/certificate.pem"; key-file "PLACE/key.pem"; };
options {
    directory "PLACE";
    listen-on port 5311 { 127.0.0.1; };
    listen-on port 8531 tls local { 127.0.0.1; };
    listen-on-v6 { none; };
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
};
controls { };
zone "example.com" { type primary; file "example.com.zone"; };
"#,
};

const DNSDIST: Resolver = Resolver {
    program: "/usr/bin/dnsdist",
    package: "dnsdist",
    arguments: &["--supervised", "--disable-syslog", "-C", "FILE"],
    port_separator: ":",
    file: "dnsdist.conf",
    configuration: r#"
setLocal('127.0.0.1:5311')
addTLSLocal('127.0.0.1:8531', 'PLACE/certificate.pem', 'PLACE/key.pem')
setACL({'0.0.0.0/0'})
setSecurityPollSuffix('')
newServer({address='UPSTREAM'}):setUp()
"#,
};

/// A server with a certificate for [`NAME`] that forwards to the lab's upstream or has its zone.
struct FarEnd {
    /// Settings, with the root that its certificate is checked by.
    config: String,
    _directory: TempDir,
    _server: Process,
    _knot: Process,
    lab: Lab,
}

impl FarEnd {
    /// Starts it, unless the test has to be skipped.
    fn start(test: &str, server: &Resolver) -> Option<Self> {
        let lab = lab(test)?;
        if !Path::new(server.program).exists() {
            let package = server.package;
            assert!(env::var_os("CI").is_none(), "CI has to have {package}");
            eprintln!("SKIPPED {test}: it needs Debian's package {package}");
            return None;
        }
        let authority = Authority::new();
        let knot = Knot::upstream(&lab).unwrap();
        let command = lab.on_server(server.program);
        let process = server
            .start_with(command, |place| authority.issue(NAME).write(place))
            .unwrap();
        wait(&lab, || process.output());
        let directory = tempfile::tempdir().unwrap();
        let roots = directory.path().join("roots.pem");
        fs::write(&roots, authority.roots()).unwrap();
        let config = directory.path().join("heimdall.toml");
        fs::write(&config, format!("[forward]\ntls-roots = {roots:?}\n")).unwrap();
        Some(Self {
            config: config.display().to_string(),
            _directory: directory,
            _server: process,
            _knot: knot,
            lab,
        })
    }

    /// A Heimdall that has it as its upstream.
    fn heimdall(&self, upstream: &str) -> Heimdall {
        let arguments = ["--upstream", upstream, "--config", &self.config];
        Heimdall::on_sockets(&self.lab, program(), &arguments).unwrap()
    }
}

/// Asks a server over each transport for answers of all kinds.
fn is_asked(test: &str, server: &Resolver) {
    let Some(far_end) = FarEnd::start(test, server) else {
        return;
    };
    for (upstream, over) in [
        (format!("127.0.0.1:{PORT}"), "udp"),
        (format!("tcp://127.0.0.1:{PORT}"), "tcp"),
        (format!("tls://{NAME}@127.0.0.1:{TLS_PORT}"), "tls"),
    ] {
        let heimdall = far_end.heimdall(&upstream);
        asks_for_everything(&far_end.lab, &upstream);
        let stats = heimdall.stats().unwrap();
        let count = |name: &str| stats["forwarder"][name].as_u64().unwrap();
        assert_eq!(count("servfail"), 0, "{upstream}: {stats:#}");
        assert_eq!(count("sent_udp") > 0, over == "udp", "{upstream}");
        assert!(count("sent_tcp") > 0, "{upstream}: for what is large");
        assert_eq!(count("tls_handshakes") > 0, over == "tls", "{upstream}");
        assert_eq!(stats["upstreams"][0]["problem"], serde_json::Value::Null);
    }
}

#[test]
fn unbound_has_to_show_its_name() {
    let Some(far_end) = FarEnd::start("unbound_has_to_show_its_name", &UNBOUND) else {
        return;
    };
    let status = |name: &str| {
        let server = format!("@{SERVER_V4}");
        Kdig::ask(&far_end.lab, &[&server, name, "A"])
            .unwrap()
            .status
    };
    let upstream = format!("tls://{NAME}@127.0.0.1:{TLS_PORT}");
    let heimdall = far_end.heimdall(&upstream);
    for number in 0..10 {
        assert_eq!(status(&format!("n{number}.example.com")), "NOERROR");
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["upstreams"][0]["address"], upstream);
    assert_eq!(stats["upstreams"][0]["problem"], serde_json::Value::Null);
    assert_eq!(stats["forwarder"]["tls_handshakes"], 1);
    assert_eq!(stats["forwarder"]["sent_udp"], 0);
    drop(heimdall);

    let upstream = format!("tls://other.example@127.0.0.1:{TLS_PORT}");
    let heimdall = far_end.heimdall(&upstream);
    assert_eq!(status("n0.example.com"), "SERVFAIL");
    let stats = heimdall.stats_text().unwrap();
    let said = format!("{upstream}: TLS with it fails: its certificate is not for other.example");
    assert!(stats.contains(&said), "{stats}");
    let log = heimdall.process.output();
    let lines = log
        .lines()
        .filter(|line| line.contains("is set aside: TLS with it fails: "));
    assert_eq!(lines.count(), 1, "{log}");
}

/// Until the server's answers over UDP come.
fn wait(lab: &Lab, output: impl Fn() -> String) {
    let port = PORT.to_string();
    let question = [
        "@127.0.0.1",
        "-p",
        &port,
        "n0.example.com",
        "A",
        "+timeout=1",
    ];
    for _ in 0..100 {
        let got = Kdig::run(lab.on_server("kdig"), &question);
        if got.is_ok_and(|got| got.status == "NOERROR") {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("no answer; it says:\n{}", output());
}

/// Questions whose answers are an address of each family, an alias, no name, no data, and text that needs TCP.
fn asks_for_everything(lab: &Lab, upstream: &str) {
    let ask = |name: &str, rtype: &str, more: &[&str]| {
        let server = format!("@{SERVER_V4}");
        let question = [&[server.as_str(), name, rtype], more].concat();
        Kdig::ask(lab, &question).unwrap()
    };
    let without_ttl = |line: &String| {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.remove(1);
        words.join(" ")
    };
    // Resolvers count TTLs down.
    let answer = |name: &str, rtype: &str| -> Vec<String> {
        let got = ask(name, rtype, &[]);
        assert_eq!(got.status, "NOERROR", "{upstream}, {name} {rtype}");
        got.answer.iter().map(without_ttl).collect()
    };
    assert_eq!(
        answer("n7.example.com", "A"),
        ["n7.example.com. IN A 10.0.0.7"]
    );
    assert_eq!(
        answer("example.com", "AAAA"),
        ["example.com. IN AAAA 2001:db8::1"]
    );
    assert_eq!(
        answer("www.example.com", "A"),
        [
            "www.example.com. IN CNAME example.com.",
            "example.com. IN A 192.0.2.1"
        ]
    );
    assert_eq!(
        answer("text.example.com", "TXT"),
        ["text.example.com. IN TXT \"one\" \"two\""]
    );
    assert_eq!(answer("n7.example.com", "AAAA"), [""; 0]);
    let missing = ask("missing.example.com", "A", &[]);
    assert_eq!(missing.status, "NXDOMAIN", "{upstream}");
    assert_eq!(missing.authority.len(), 1, "{upstream}: the SOA record");
    let cut = ask("big.example.com", "TXT", &["+ignore"]);
    assert!(cut.flags.contains("tc"), "{upstream}: {}", cut.flags);
    let whole = ask("big.example.com", "TXT", &[]);
    assert_eq!(
        (whole.transport.as_str(), whole.answer.len()),
        ("TCP", 60),
        "{upstream}"
    );
    // With DNSSEC records, of which there are none, and by some clients at once.
    assert_eq!(ask("n8.example.com", "A", &["+dnssec"]).answer.len(), 1);
    let names: Vec<String> = (100..140)
        .map(|number| format!("n{number}.example.com"))
        .collect();
    thread::scope(|scope| {
        let asked = names.chunks(10).map(|names| {
            scope.spawn(move || {
                for name in names {
                    assert_eq!(ask(name, "A", &[]).status, "NOERROR", "{upstream}, {name}");
                }
            })
        });
        for asked in asked.collect::<Vec<_>>() {
            asked.join().unwrap();
        }
    });
}

#[test]
fn unbound_is_asked_over_udp_tcp_and_tls() {
    is_asked("unbound_is_asked_over_udp_tcp_and_tls", &UNBOUND);
}

#[test]
fn knot_resolver_is_asked_over_udp_tcp_and_tls() {
    is_asked("knot_resolver_is_asked_over_udp_tcp_and_tls", &KRESD);
}

#[test]
fn bind_is_asked_over_udp_tcp_and_tls() {
    is_asked("bind_is_asked_over_udp_tcp_and_tls", &BIND);
}

#[test]
fn dnsdist_is_asked_over_udp_tcp_and_tls() {
    is_asked("dnsdist_is_asked_over_udp_tcp_and_tls", &DNSDIST);
}
