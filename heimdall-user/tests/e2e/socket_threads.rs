//! Several socket threads behave as one, and share the work.

use std::net::UdpSocket;

use lab::{CLIENT_V4, Heimdall, Lab, SERVER_V4, ScriptedUpstream, UPSTREAM};
use serde_json::Value;

use crate::{
    client::{DnsClient, Settings, TIMEOUT, query},
    errors::error_line,
    lab, program,
};

/// The chance that a thread gets none of this many is one in 10^19.
const QUERIES: usize = 64;

const THREADS: &str = "[socket]\nthreads = 2";

const QUERY: &str = "www.example A rd";
const ANSWER: &str = "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1";

/// A counter of both threads.
fn of_threads(stats: &Value, counter: &str) -> [u64; 2] {
    let threads = stats["socket_threads"].as_array().unwrap();
    assert_eq!(threads.len(), 2);
    [0, 1].map(|thread| threads[thread][counter].as_u64().unwrap())
}

/// The counter's sum, of which each thread has a part.
fn shared(stats: &Value, counter: &str) -> u64 {
    let counts = of_threads(stats, counter);
    assert!(
        counts.iter().all(|count| *count > 0),
        "{counter}: {counts:?}"
    );
    let sum = stats["sockets"][counter].as_u64().unwrap();
    assert_eq!(counts.iter().sum::<u64>(), sum, "{counter}");
    sum
}

fn output_of(heimdall: &Heimdall, arguments: &[&str]) -> String {
    let output = heimdall.command(arguments).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn socket_threads_share_queries_and_connections() {
    let Some(lab) = lab("socket_threads_share") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new(THREADS);
    let heimdall = settings.on_sockets(&lab);
    let clients = [DnsClient::v4(&lab), DnsClient::v6(&lab)];
    let ask_all = |expected: &str| {
        for client in &clients {
            for _ in 0..QUERIES {
                assert_eq!(client.udp(QUERY), expected);
                assert_eq!(client.tcp(QUERY), expected);
            }
        }
    };
    ask_all(ANSWER);
    let stats = heimdall.stats().unwrap();
    let all = 2 * QUERIES as u64;
    for counter in [
        "udp_received",
        "udp_answered",
        "tcp_connections",
        "tcp_answered",
    ] {
        assert_eq!(shared(&stats, counter), all, "{counter}");
    }
    assert_eq!(shared(&stats, "hits") + shared(&stats, "misses"), 2 * all);
    assert_eq!(stats["forwarder"]["sent_udp"], 1, "one answer for both");
    assert!(heimdall.stats_text().unwrap().contains("\n  sockets:1 "));

    // Each has a cache, and all commands reach both.
    let dump = output_of(&heimdall, &["dump", "www.example"]);
    for cache in ["forwarder", "sockets:0", "sockets:1"] {
        assert!(dump.contains(&format!("in {cache}\n")), "{cache}: {dump}");
    }
    assert_eq!(
        output_of(&heimdall, &["flush", "www.example"]),
        "3 answers flushed\n"
    );
    assert_eq!(output_of(&heimdall, &["dump"]), "");
    let local = "[local]\nrecords = [\"www.example. 60 IN A 192.0.2.99\"]";
    settings.write(&format!("{THREADS}\n{local}"));
    assert!(heimdall.reload().unwrap().status.success());
    ask_all("NOERROR qr rd ra | www.example. A | 60 A 192.0.2.99");
}

#[test]
fn socket_threads_reply_from_the_address_that_was_asked() {
    const OTHER: &str = "10.53.0.77";
    let Some(lab) = lab("socket_threads_reply_from") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    lab.server_ip(&format!("addr add {OTHER}/24 dev {}", lab.server_if))
        .unwrap();
    let settings = Settings::new(&format!("listen = [\"0.0.0.0:53\"]\n{THREADS}"));
    let arguments = [
        "--backend",
        "socket",
        "--upstream",
        UPSTREAM,
        "--config",
        settings.path(),
    ];
    let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    for server in [SERVER_V4, OTHER] {
        // Connected: it receives only from the address that it sends to.
        let connect = || {
            let socket = UdpSocket::bind((CLIENT_V4, 0)).unwrap();
            socket.connect((server, 53)).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket
        };
        let client = lab.in_client(connect).unwrap();
        for id in 0..QUERIES as u16 {
            client.send(&query(id, "www.example")).unwrap();
            let mut reply = [0; 512];
            let len = client.recv(&mut reply).unwrap();
            assert_eq!(reply[..2], id.to_be_bytes(), "{server}: {len} octets");
        }
    }
    assert_eq!(
        shared(&heimdall.stats().unwrap(), "udp_answered"),
        2 * QUERIES as u64
    );
}

#[test]
fn socket_threads_beside_workers() {
    let Some(lab) = lab("socket_threads_beside_workers") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = Settings::new(THREADS).on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    // All are misses: the outcomes reach the front that waits for them.
    for number in 0..QUERIES {
        let answer = |name: &str| format!("NOERROR qr rd ra | {name}. A | 300 A 192.0.2.1");
        let name = format!("u{number}.example");
        assert_eq!(client.udp(&format!("{name} A rd")), answer(&name));
        let name = format!("t{number}.example");
        assert_eq!(client.tcp(&format!("{name} A rd")), answer(&name));
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["workers"][0]["misses"], QUERIES);
    assert_eq!(shared(&stats, "misses"), QUERIES as u64);
}

/// `heimdall run` beside another server.
fn second_server(lab: &Lab, config: &str) -> String {
    let mut command = lab.on_server(program());
    let listen = format!("{SERVER_V4}:53");
    let control = format!("/tmp/heimdall-second-{}.sock", std::process::id());
    command
        .args(["run", "--backend", "socket", "--upstream", UPSTREAM])
        .args(["--listen", &listen, "--control", &control])
        .args(["--config", config]);
    error_line(command)
}

#[test]
fn a_second_server_does_not_share_the_port_of_socket_threads() {
    let Some(lab) = lab("a_second_server_does_not_share") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = [Settings::new(""), Settings::new(THREADS)];
    for (first, second) in [(0, 1), (1, 0), (1, 1)] {
        let heimdall = settings[first].on_sockets(&lab);
        let line = second_server(&lab, settings[second].path());
        let taken = format!("UDP {SERVER_V4}:53 is taken by another program");
        assert!(line.contains(&taken), "{line}");
        assert_eq!(DnsClient::v4(&lab).udp(QUERY), ANSWER);
        assert_eq!(heimdall.stats().unwrap()["sockets"]["udp_answered"], 1);
    }
}
