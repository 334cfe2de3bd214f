//! A reload of settings that the running server cannot change: another one in the same process takes over from it, without
//! a query lost, or nothing changes.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use heimdall_user::xdp::{AttachPolicy, Interface, Program, ProgramOptions};
use lab::{
    ClosedLoop, Heimdall, Lab, SERVER_V4, SERVER_V6, ScriptedUpstream, Step, UPSTREAM, message,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    client::{DnsClient, Settings, TIMEOUT, query},
    lab, program,
};

const QUERY: &str = "www.example A rd edns";
const ANSWER: &str = "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1 | | | opt 1232";

/// Whether a reply is [`ANSWER`], with whatever TTL it has by now.
fn is_answer(reply: &str) -> bool {
    let (head, tail) = ANSWER.split_once("300").unwrap();
    reply.starts_with(head) && reply.ends_with(tail)
}

/// A server with the settings of a file alone.
fn start(lab: &Lab, settings: &Settings) -> Heimdall {
    let arguments = ["--config", settings.path()];
    Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap()
}

/// Settings of a server on AF_XDP, with these beside.
fn on_xdp(lab: &Lab, listen: &[&str], more: &str) -> String {
    let interface = format!("interface = [\"{}\"]\nbackend = \"xdp\"\n", lab.server_if);
    format!("{interface}{}", on_sockets(listen, more))
}

/// The same on sockets alone.
fn on_sockets(listen: &[&str], more: &str) -> String {
    format!("listen = {listen:?}\nupstream = [\"{UPSTREAM}\"]\n{more}\n[tier]\nmode = \"off\"\n")
}

/// What a reload printed.
fn reload(heimdall: &Heimdall) -> String {
    let output = heimdall.reload().unwrap();
    assert!(
        output.status.success(),
        "{output:?}\n{}",
        heimdall.process.output()
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A connection to the server.
fn connect(lab: &Lab) -> TcpStream {
    let stream = lab.in_client(|| TcpStream::connect((SERVER_V4, 53)));
    let stream = stream.unwrap().unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// The server's counters, and when it started.
fn started(heimdall: &Heimdall) -> (Value, f64) {
    let stats = heimdall.stats().unwrap();
    let started = stats["started"].as_f64().unwrap();
    (stats, started)
}

#[test]
fn addresses_interfaces_caches_and_threads_change_without_a_query_lost() {
    let Some(lab) = lab("addresses_interfaces_caches_and_threads_change") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let (v4, v6) = (format!("{SERVER_V4}:53"), format!("[{SERVER_V6}]:53"));
    let own = [v4.as_str(), v6.as_str()];
    let all = ["0.0.0.0:53", "[::]:53"];
    let more = [v4.as_str(), v6.as_str(), "127.0.0.1:5399"];
    let first = on_xdp(&lab, &own, "");
    let steps = [
        ("cache.size", on_xdp(&lab, &own, "cache.size = \"16M\"")),
        ("listen", on_xdp(&lab, &more, "cache.size = \"16M\"")),
        ("listen", on_xdp(&lab, &all, "cache.size = \"16M\"")),
        (
            "interface",
            on_sockets(&all, "cache.size = \"16M\"\nsocket.threads = 2"),
        ),
        ("socket.threads", on_sockets(&own, "forward.threads = 2")),
        (
            "interface",
            on_xdp(&lab, &own, "metrics.listen = \"127.0.0.1:9453\""),
        ),
        (
            "xdp.frames",
            on_xdp(
                &lab,
                &own,
                "xdp.frames = 4096\nxdp.idle = \"adaptive\"\nmetrics.listen = \"0.0.0.0:9453\"",
            ),
        ),
        ("xdp.frames", first.clone()),
    ];
    let settings = Settings::new(&first);
    let heimdall = start(&lab, &settings);
    let over = AtomicBool::new(false);
    let mut connection = connect(&lab);
    let (load, answered, exchanged) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let dnsperf = lab.on_client("dnsperf");
            ClosedLoop::run(dnsperf, SERVER_V4, 8, 12).unwrap()
        });
        let datagrams = scope.spawn(|| {
            let client = DnsClient::v6(&lab);
            let mut answered = 0u32;
            while !over.load(Ordering::Relaxed) {
                // Old names and new ones.
                let name = format!("n{}.example", answered % 700);
                let reply = client.udp(&format!("{name} A rd"));
                // The TTL of one that was handed over counts on.
                let head = format!("NOERROR qr rd ra | {name}. A | ");
                let is_right = reply.starts_with(&head) && reply.ends_with(" A 192.0.2.1");
                assert!(is_right, "after {answered} queries: {reply}");
                answered += 1;
            }
            answered
        });
        let messages = scope.spawn(|| {
            let mut exchanged = 0u16;
            while !over.load(Ordering::Relaxed) {
                let sent = query(exchanged, &format!("t{}.example", exchanged % 700));
                let reply = message::exchange(&mut connection, &sent);
                let reply = reply.unwrap_or_else(|error| panic!("after {exchanged}: {error}"));
                assert_eq!(reply[..2], exchanged.to_be_bytes());
                // NOERROR.
                assert_eq!(reply[3] & 15, 0, "after {exchanged}");
                exchanged = exchanged.wrapping_add(1);
                thread::sleep(Duration::from_millis(1));
            }
            exchanged
        });
        thread::sleep(Duration::from_millis(500));
        for (key, text) in &steps {
            let before = started(&heimdall).1;
            settings.write(text);
            let said = reload(&heimdall);
            let head = "reloaded: another server with the new settings has taken over; changed: ";
            assert!(said.starts_with(head), "{said}");
            assert!(said.contains(&format!("\n  {key}: ")), "{key}: {said}");
            let (stats, after) = started(&heimdall);
            assert!(after > before, "{key}");
            let on_xdp = text.contains("backend");
            let backend = if on_xdp { "xdp" } else { "socket" };
            assert_eq!(stats["backend"], backend, "{key}");
            assert_eq!(lab.has_xdp().unwrap(), on_xdp, "{key}");
            thread::sleep(Duration::from_millis(500));
        }
        over.store(true, Ordering::Relaxed);
        let answered = datagrams.join().unwrap();
        (load.join().unwrap(), answered, messages.join().unwrap())
    });
    assert!(answered > 100 && exchanged > 100, "{answered} {exchanged}");
    assert_eq!(load.lost, 0, "{load:?}\n{}", heimdall.process.output());
    assert!(load.sent > 1000, "{load:?}");
    // The first server's answers came with each of the successors.
    let before = upstream.queries("n1.example");
    assert_eq!(before, 1, "the cache was handed over");
    let (stats, _) = started(&heimdall);
    assert_eq!(
        stats["sockets"]["tcp_open"], 1,
        "the connection is the same"
    );
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let Some(lab) = lab("a_successor_that_fails") else {
        return;
    };
    // Silent for one name, for which both servers wait as long as they may.
    let script = |received: &lab::Received| match received.name().as_deref() {
        Some("silent.example") => Vec::new(),
        _ => lab::by_label(received),
    };
    let _upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, script).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    let own = [v4.as_str()];
    let good = on_xdp(&lab, &own, "forward.timeout-ms = 5000");
    let settings = Settings::new(&good);
    let heimdall = start(&lab, &settings);
    let client = DnsClient::v4(&lab);
    let mut connection = connect(&lab);
    assert_eq!(client.udp(QUERY), ANSWER);
    let since = started(&heimdall).1;
    // A second interface, on which another program is attached.
    lab.server_ip("link add other0 type veth peer name other1")
        .unwrap();
    lab.server_ip("link set other0 up").unwrap();
    let attach = || {
        let interface = Interface::find("other0").unwrap();
        Program::attach(
            &interface,
            AttachPolicy::NativeThenGeneric,
            ProgramOptions::default(),
        )
        .unwrap()
    };
    let _program = lab.in_server(attach).unwrap();
    let _udp = lab
        .in_server(|| UdpSocket::bind((SERVER_V4, 5399)))
        .unwrap();
    let _tcp = lab
        .in_server(|| TcpListener::bind("127.0.0.1:9453"))
        .unwrap();
    let taken = [v4.as_str(), "10.53.0.1:5399"];
    let interfaces =
        |more: &str| good.replace("interface = [", &format!("interface = [{more:?}, "));
    let second = format!("interface = [\"{}\", \"other0\"", lab.server_if);
    let both = good.replace(&format!("interface = [\"{}\"", lab.server_if), &second);
    let interfaces_auto = interfaces("none1").replace("\"xdp\"", "\"auto\"");
    let tls = "listen-tls = [\"10.53.0.1:853\"]\ntls.certificate = \"/nonexistent/c\"\ntls.key = \"/nonexistent/k\"";
    for (text, why) in [
        (
            on_xdp(&lab, &taken, ""),
            "UDP 10.53.0.1:5399 is taken by another program",
        ),
        (interfaces("none0"), "there is no interface none0"),
        (
            good.replace(&lab.server_if, "none0")
                .replace("\"xdp\"", "\"auto\""),
            "there is no interface none0",
        ),
        (interfaces_auto, "there is no interface none1"),
        (
            on_xdp(&lab, &own, "cache.snapshot = \"/nonexistent/snapshot\""),
            // Of the sandbox, or of the directory.
            "key `cache.snapshot`: ",
        ),
        (both, "already attached"),
        (
            on_xdp(&lab, &own, "metrics.listen = \"127.0.0.1:9453\""),
            "cannot serve metrics on 127.0.0.1:9453",
        ),
        (
            on_xdp(&lab, &own, "cache.size = \"4000G\""),
            "have to fit beside each other",
        ),
        (on_xdp(&lab, &own, tls), "cannot read /nonexistent/c"),
        (
            on_xdp(
                &lab,
                &own,
                "max-udp-size = 1400\nlocal.hosts = [\"/nonexistent/h\"]",
            ),
            "cannot read /nonexistent/h",
        ),
    ] {
        settings.write(&text);
        let over = AtomicBool::new(false);
        let (output, longest) = thread::scope(|scope| {
            let load = scope.spawn(|| {
                let client = DnsClient::v4(&lab);
                let (mut longest, mut waiting) = (Duration::ZERO, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    // Whichever server takes it waits for its upstream.
                    let mut silent = connect(&lab);
                    silent
                        .write_all(&[0, query(8, "silent.example").len() as u8])
                        .unwrap();
                    silent.write_all(&query(8, "silent.example")).unwrap();
                    waiting.push(silent);
                    let sent = Instant::now();
                    assert!(is_answer(&client.udp(QUERY)), "{why}");
                    assert!(is_answer(&client.tcp(QUERY)), "{why}");
                    thread::sleep(Duration::from_millis(20));
                    longest = longest.max(sent.elapsed());
                }
                longest
            });
            let output = heimdall.reload().unwrap();
            over.store(true, Ordering::Relaxed);
            (output, load.join().unwrap())
        });
        // Queries under way may take 5 s: others do not wait for them.
        assert!(longest < Duration::from_secs(3), "{why}: {longest:?}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}: {output:?}");
        assert!(
            message.contains("not reloaded, all stays as it was: "),
            "{message}"
        );
        assert!(message.contains(why), "{why}: {message}");
        // Its supervisor starts the workers again.
        let end = Instant::now() + Duration::from_secs(10);
        let mut stats = started(&heimdall).0;
        while stats["backend"] != "xdp" && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
            stats = started(&heimdall).0;
        }
        assert_eq!(stats["started"], since, "{why}: the same server");
        assert_eq!(stats["backend"], "xdp", "{why}");
        let steered = |stats: &Value| stats["interfaces"][0]["verdicts"]["steered"].as_u64();
        let before = steered(&stats);
        assert!(is_answer(&client.udp(QUERY)), "{why}");
        let after = steered(&heimdall.stats().unwrap());
        assert!(after > before, "{why}: AF_XDP serves again");
        let reply = message::exchange(&mut connection, &query(7, "www.example"));
        assert!(reply.is_ok(), "{why}: {reply:?}");
    }
    settings.write(&good);
    assert_eq!(reload(&heimdall), "reloaded: nothing has changed\n");
}

#[test]
fn cookies_of_clients_stay_valid_whichever_server_takes_over() {
    let Some(lab) = lab("cookies_of_clients_stay_valid") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    // Without secrets of their own.
    let settings = Settings::new(&on_sockets(&[&v4], ""));
    let mut first = start(&lab, &settings);
    let client = DnsClient::v4(&lab);
    let given = client.cookie("0102030405060708");
    assert_eq!(client.cookie(&given), given);
    settings.write(&on_sockets(&[&v4], "cache.size = \"16M\""));
    let said = reload(&first);
    assert!(said.starts_with("reloaded: another server "), "{said}");
    assert_eq!(client.cookie(&given), given, "in the same process");
    let arguments = ["--config", settings.path(), "--take-over"];
    let command = lab.on_server(program());
    let _second = Heimdall::at(command, program(), first.control(), &arguments).unwrap();
    let status = first.process.wait(TIMEOUT).unwrap();
    assert!(status.success(), "{}", first.process.output());
    assert_eq!(client.cookie(&given), given, "in another process");
}

#[test]
fn a_successor_makes_the_control_socket_that_was_removed() {
    let Some(lab) = lab("a_successor_makes_the_control_socket") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    let settings = Settings::new(&on_sockets(&[&v4], ""));
    let mut heimdall = start(&lab, &settings);
    fs::remove_file(heimdall.control()).unwrap();
    assert!(heimdall.stats().is_err());
    settings.write(&on_sockets(&[&v4], "cache.size = \"16M\""));
    heimdall.process.signal(Signal::SIGHUP).unwrap();
    let taken_over = "another server with the new settings has taken over";
    heimdall.process.wait_for(taken_over, TIMEOUT).unwrap();
    heimdall.stats().unwrap();
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    assert!(heimdall.process.wait(TIMEOUT).unwrap().success());
    assert!(!heimdall.control().exists());
}

#[test]
fn a_dry_run_names_each_key_and_changes_nothing() {
    let Some(lab) = lab("a_dry_run_names_each_key") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    let own = [v4.as_str()];
    let settings = Settings::new(&on_sockets(&own, ""));
    let mut heimdall = start(&lab, &settings);
    let client = DnsClient::v4(&lab);
    let since = started(&heimdall).1;
    let dry_run = |arguments: &[&str]| {
        let output = heimdall.command(&[&["reload", "--dry-run"], arguments].concat());
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(dry_run(&[]), "nothing would change\n");
    settings.write(&on_sockets(
        &own,
        "log.level = \"debug\"\naccess.refuse = [\"10.0.0.0/8\"]",
    ));
    assert_eq!(
        dry_run(&[]),
        "the running server would change in place; changed: log.level, access.refuse\n  \
         log.level: the environment variable RUST_LOG, or else info -> \"debug\" (in place)\n  \
         access.refuse: none -> [\"10.0.0.0/8\"] (in place)\n"
    );
    assert_eq!(client.udp(QUERY), ANSWER, "nothing was changed");
    settings.write(&on_sockets(
        &own,
        "control-mode = \"0600\"\nsocket.threads = 2",
    ));
    let text = "another server in the same process would take over; changed: socket.threads; other settings have \
        changed, too, and need a restart: control-mode";
    assert_eq!(
        dry_run(&[]),
        format!(
            "{text}\n  control-mode: \"0660\" -> \"0600\" (restart)\n  socket.threads: 1 -> 2 (take-over)\n"
        )
    );
    let document: Value = serde_json::from_str(&dry_run(&["--json"])).unwrap();
    assert_eq!(document["dry_run"], text);
    let change = &document["changes"][1];
    assert_eq!((&change["old"], &change["new"]), (&1.into(), &2.into()));
    assert_eq!(started(&heimdall).1, since);

    // What would fail is said.
    settings.write(&on_sockets(&own, "local.hosts = [\"/nonexistent/h\"]"));
    let output = heimdall.command(&["reload", "--dry-run"]).unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("a reload would fail: "), "{message}");

    // The signal does what was said, and the log's level follows.
    settings.write(&on_sockets(
        &own,
        "socket.threads = 2\nlog.level = \"debug\"",
    ));
    heimdall.process.signal(Signal::SIGHUP).unwrap();
    let limit = Duration::from_secs(10);
    heimdall
        .process
        .wait_for("another server with the new settings has taken over", limit)
        .unwrap();
    assert!(started(&heimdall).1 > since);
    assert_eq!(
        heimdall.stats().unwrap()["socket_threads"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(client.udp(QUERY), ANSWER);
}

#[test]
fn a_stop_answers_what_is_under_way() {
    let Some(lab) = lab("a_stop_answers_what_is_under_way") else {
        return;
    };
    let wait = Duration::from_millis(700);
    let slow = move |received: &lab::Received| {
        let answers = lab::by_label(received).into_iter();
        std::iter::once(Step::Wait(wait))
            .chain(answers)
            .collect::<Vec<_>>()
    };
    let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, slow).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    let own = [v4.as_str()];
    for text in [on_xdp(&lab, &own, ""), on_sockets(&own, "")] {
        let settings = Settings::new(&text);
        let mut heimdall = start(&lab, &settings);
        let client = DnsClient::v4(&lab);
        let mut connection = connect(&lab);
        client.udp_send(QUERY);
        let exchange = thread::spawn(move || {
            let reply = message::exchange(&mut connection, &query(9, "tcp.example"));
            (reply, connection.read(&mut [0]))
        });
        let end = Instant::now() + Duration::from_secs(5);
        let asked = |name| upstream.queries(name) > 0;
        while !(asked("www.example") && asked("tcp.example")) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        heimdall.process.signal(Signal::SIGTERM).unwrap();
        assert_eq!(client.udp_reply(QUERY), ANSWER);
        let (reply, end) = exchange.join().unwrap();
        assert_eq!(reply.unwrap()[..2], 9u16.to_be_bytes());
        assert_eq!(end.unwrap(), 0, "the connection is closed after the reply");
        let status = heimdall.process.wait(Duration::from_secs(10)).unwrap();
        assert!(status.success(), "{status}");
        assert!(!lab.has_xdp().unwrap());
        upstream.forget();
    }
}

#[test]
fn a_stop_waits_for_no_upstream_longer_than_it_may() {
    let Some(lab) = lab("a_stop_waits_for_no_upstream") else {
        return;
    };
    // Silent for the query over AF_XDP, slow for the one over TCP.
    let script = |received: &lab::Received| match received.name().as_deref() {
        Some("tcp.example") => {
            let wait = Step::Wait(Duration::from_millis(700));
            let answers = lab::by_label(received);
            std::iter::once(wait).chain(answers).collect()
        }
        _ => Vec::new(),
    };
    let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, script).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    let own = [v4.as_str()];
    let more = "stop-timeout = 3\nforward.timeout-ms = 20000";
    let settings = Settings::new(&on_xdp(&lab, &own, more));
    let mut heimdall = start(&lab, &settings);
    let client = DnsClient::v4(&lab);
    let mut connection = connect(&lab);
    client.udp_send(QUERY);
    let exchange =
        thread::spawn(move || message::exchange(&mut connection, &query(9, "tcp.example")));
    let end = Instant::now() + Duration::from_secs(5);
    while upstream.received().len() < 2 && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    let sent = Instant::now();
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    let status = heimdall.process.wait(Duration::from_secs(15)).unwrap();
    assert!(status.success(), "{status}");
    // An attempt takes 20 s.
    assert!(
        sent.elapsed() < Duration::from_secs(10),
        "{:?}",
        sent.elapsed()
    );
    let reply = exchange.join().unwrap();
    assert!(
        reply.is_ok(),
        "the sockets were not given their time: {reply:?}"
    );
    let log = heimdall.process.output();
    assert!(
        log.contains("TERM: stopping") && log.contains("stopped"),
        "{log}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let Some(lab) = lab("a_second_signal_ends_it") else {
        return;
    };
    let silent = |_: &lab::Received| Vec::<Step>::new();
    let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, silent).unwrap();
    let v4 = format!("{SERVER_V4}:53");
    let own = [v4.as_str()];
    let text = on_sockets(&own, "stop-timeout = 50\nforward.timeout-ms = 60000");
    let settings = Settings::new(&text);
    let mut heimdall = start(&lab, &settings);
    let client = DnsClient::v4(&lab);
    client.udp_send(QUERY);
    let end = Instant::now() + Duration::from_secs(5);
    while upstream.received().is_empty() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    heimdall
        .process
        .wait_for("TERM: stopping", Duration::from_secs(5))
        .unwrap();
    thread::sleep(Duration::from_millis(200));
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    let status = heimdall.process.wait(Duration::from_secs(5)).unwrap();
    assert_eq!(
        status.code(),
        Some(1),
        "it was ended in the middle of the drain"
    );
}
