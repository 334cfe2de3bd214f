//! One client that asks for more than can be resolved, and the replies to others meanwhile.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;
use lab::{
    CLIENT_V4, Heimdall, Lab, Received, SERVER_V4, ScriptedUpstream, UPSTREAM, by_label, message,
};
use serde_json::Value;

use crate::{
    client::{DnsClient, NOTHING, Settings},
    lab, program,
    recover::wait_for,
};

/// An upstream that answers names with an address, but those below `dead.example`.
fn upstream(lab: &Lab) -> ScriptedUpstream {
    let answer = |query: &Received| match query.name() {
        Some(name) if name.split('.').any(|label| label.starts_with("dead")) => vec![],
        _ => by_label(query),
    };
    ScriptedUpstream::with_script(lab, UPSTREAM, answer).unwrap()
}

/// One client asks for 300 new names a second below a dead zone, all the while another one asks for
/// 40 that can be resolved, one after another, as soon as there is `overload`: the replies to those.
fn meanwhile(lab: &Lab, overload: impl FnOnce()) -> Vec<String> {
    let (many, few) = (DnsClient::v4(lab), DnsClient::v6(lab));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                many.udp_send(&format!("r{number}.dead.example A rd edns"));
                thread::sleep(Duration::from_micros(3_300));
            }
        });
        let _off = On(&over);
        overload();
        let replies = (0..40).map(|number| {
            thread::sleep(Duration::from_millis(50));
            few.udp(&format!("good{number}.example A rd edns"))
        });
        replies.collect()
    })
}

/// Sets a flag when it is dropped, so that other threads end in any case.
struct On<'a>(&'a AtomicBool);

impl Drop for On<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two seconds of the load above, where look-ups are not bounded.
fn for_two_seconds() {
    thread::sleep(Duration::from_secs(2));
}

fn assert_answered(replies: &[String], heimdall: &Heimdall) {
    for (number, reply) in replies.iter().enumerate() {
        let start = format!("NOERROR qr rd ra | good{number}.example. A |");
        assert!(
            reply.starts_with(&start),
            "{reply}\n{}",
            heimdall.process.output()
        );
    }
}

fn assert_served(replies: &[String], heimdall: &Heimdall, begin: Instant) {
    assert_answered(replies, heimdall);
    let stats = heimdall.stats().unwrap();
    let shed = &stats["forwarder"]["shed"];
    assert!(shed["client"].as_u64() > Some(0), "{stats:#}");
    assert!(
        heimdall
            .stats_text()
            .unwrap()
            .contains("LOOK-UPS ENDED TO MAKE ROOM")
    );
    let log = heimdall.process.output();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("overload: "))
        .collect();
    // One in ten seconds.
    let most = 1 + begin.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&(lines.len() as u64)), "{log}");
    let holder = "for client prefix 10.53.0.0/24, below dead.example.";
    assert!(lines.iter().all(|line| line.contains(holder)), "{log}");
}

#[test]
fn one_client_and_a_dead_zone_do_not_block_others() {
    let Some(lab) = lab("one_client_and_a_dead_zone") else {
        return;
    };
    let _upstream = upstream(&lab);
    let settings = Settings::new("[forward]\nmax-in-flight = 256\nqueue = 256");
    let heimdall = settings.on_xdp(&lab);
    let begin = Instant::now();
    // Until the dead zone holds every look-up.
    let overload = || {
        let is_shed = |stats: &Value| stats["forwarder"]["shed"]["client"].as_u64() > Some(0);
        wait_for(&heimdall, "overloaded", is_shed);
    };
    assert_served(&meanwhile(&lab, overload), &heimdall, begin);
    // A look-up that was shed is answered with the reason.
    let client = DnsClient::v4(&lab);
    let reply = client.udp("last.dead.example A rd edns");
    assert!(
        reply.starts_with("SERVFAIL qr rd ra | last.dead.example. A |"),
        "{reply}"
    );
    assert!(reply.contains("ede="), "{reply}");
}

/// Every other query is for a name that no cache has, and the upstream does not respond.
#[test]
fn hits_are_answered_beside_misses_to_a_dead_upstream() {
    const NAMES: usize = 50;
    let Some(lab) = lab("hits_are_answered_beside_misses") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("[forward]\nmax-in-flight = 256\nqueue = 256");
    let heimdall = settings.on_xdp(&lab);
    let client = DnsClient::v6(&lab);
    let warm = |number: usize| format!("warm{}.example A rd edns", number % NAMES);
    for number in 0..NAMES {
        assert!(client.udp(&warm(number)).starts_with("NOERROR "));
    }
    upstream.set_script(|_| -> Vec<Vec<u8>> { vec![] });
    let many = DnsClient::v4(&lab);
    let mut slow = 0;
    for number in 0..1500 {
        many.udp_send(&format!("r{number}.z{number}.example A rd edns"));
        let begin = Instant::now();
        let reply = client.udp(&warm(number));
        assert!(
            reply.starts_with("NOERROR "),
            "{reply}\n{}",
            heimdall.process.output()
        );
        // Far less than an upstream has to respond.
        slow += u32::from(begin.elapsed() > Duration::from_millis(700));
    }
    // The machine may stop for a moment.
    assert!(slow < 15, "{slow} hits waited");
    // Those beyond the bound got an answer at once: the others still wait.
    let stats = heimdall.stats().unwrap();
    let forwarder = &stats["forwarder"];
    assert!(forwarder["shed"]["client"].as_u64() > Some(0), "{stats:#}");
    assert!(forwarder["in_flight"].as_u64() <= Some(256), "{stats:#}");
}

/// Clients of many networks ask for names below a route whose upstream does not respond.
#[test]
fn a_dead_upstream_of_a_route_leaves_room_for_others() {
    const NETWORKS: usize = 20;
    let Some(lab) = lab("a_dead_upstream_of_a_route") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let silence = |_: &Received| -> Vec<Vec<u8>> { vec![] };
    let dead = ScriptedUpstream::with_script(&lab, "127.0.0.1:5309", silence).unwrap();
    let settings = Settings::new(
        "[forward]\nmax-in-flight = 256\nqueue = 256\n\
         [[route]]\nzone = \"corp\"\nupstream = [\"127.0.0.1:5309\"]\n",
    );
    let heimdall = settings.on_sockets(&lab);
    let sockets: Vec<UdpSocket> = (0..NETWORKS)
        .map(|network| {
            let address = format!("10.60.{network}.1");
            lab.client_ip(&format!("addr add {address}/32 dev lo"))
                .unwrap();
            let connect = || {
                let socket = UdpSocket::bind((address.as_str(), 0)).unwrap();
                socket.connect((SERVER_V4, 53)).unwrap();
                socket
            };
            lab.in_client(connect).unwrap()
        })
        .collect();
    lab.server_ip(&format!("route add 10.60.0.0/16 via {CLIENT_V4}"))
        .unwrap();
    let client = DnsClient::v6(&lab);
    for number in 0..2_000 {
        // Many zones, too.
        let name = format!("www.r{number}.z{number}.corp");
        let query = message::octets(&message::query(7, &name, RecordType::A));
        sockets[number % NETWORKS].send(&query).unwrap();
        if number % 20 == 0 {
            let reply = client.udp(&format!("good{number}.example A rd edns"));
            assert!(
                reply.starts_with("NOERROR "),
                "{reply}\n{}",
                heimdall.process.output()
            );
        }
    }
    assert!(dead.received().len() > 256);
    let stats = heimdall.stats().unwrap();
    let shed = &stats["forwarder"]["shed"];
    assert!(shed["upstream"].as_u64() > Some(0), "{stats:#}");
    let log = heimdall.process.output();
    assert!(log.contains("waiting for upstream 127.0.0.1:5309"), "{log}");
}

#[test]
fn with_few_ports_others_are_served() {
    let Some(lab) = lab("with_few_ports") else {
        return;
    };
    let _upstream = upstream(&lab);
    // Fewer than a pool has sockets.
    let narrow = "echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range";
    lab::run(lab.on_server("sh").args(["-c", narrow])).unwrap();
    let heimdall = Settings::new("").on_xdp(&lab);
    assert_answered(&meanwhile(&lab, for_two_seconds), &heimdall);
    // Sockets have worn out meanwhile, with queries outstanding on each.
    thread::sleep(Duration::from_secs(8));
    assert_answered(&meanwhile(&lab, for_two_seconds), &heimdall);
    // Sockets on which nothing but timeouts came are replaced, and hold their ports for late responses.
    let stats = heimdall.stats().unwrap();
    let errors = stats["forwarder"]["socket_errors"].as_u64().unwrap();
    assert!(errors < 20, "{stats:#}");
}

#[test]
fn threads_without_a_port_log_that_once() {
    let Some(lab) = lab("threads_without_a_port") else {
        return;
    };
    let _upstream = upstream(&lab);
    let narrow = "echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range";
    lab::run(lab.on_server("sh").args(["-c", narrow])).unwrap();
    // Two of the threads get no port.
    let settings = Settings::new("[forward]\nthreads = 4\nattempts = 1\n");
    let begin = Instant::now();
    let mut heimdall = settings.on_sockets(&lab);
    let client = DnsClient::v4(&lab);
    for number in 0..64 {
        let query = format!("good{number}.example A rd edns");
        assert_ne!(client.udp(&query), NOTHING);
    }
    let line = "no local port or address is left";
    heimdall
        .process
        .wait_for(line, Duration::from_secs(10))
        .unwrap();
    let log = heimdall.process.output();
    let lines = log.lines().filter(|text| text.contains(line)).count() as u64;
    assert!(lines <= 1 + begin.elapsed().as_secs() / 10, "{log}");
}

#[test]
fn a_low_file_limit_is_reported_and_others_are_served() {
    let Some(lab) = lab("a_low_file_limit_is_reported") else {
        return;
    };
    let _upstream = upstream(&lab);
    let mut command = lab.on_server("prlimit");
    command.arg("--nofile=200:200").arg(program());
    let listen = format!("{SERVER_V4}:53");
    let listen_v6 = format!("[{}]:53", lab::SERVER_V6);
    let arguments = [
        "--backend",
        "socket",
        "--listen",
        &listen,
        "--listen",
        &listen_v6,
        "--upstream",
        UPSTREAM,
    ];
    let heimdall = Heimdall::start(command, program(), &arguments).unwrap();
    let log = heimdall.process.output();
    assert!(
        log.contains("the hard limit on open files is 200, and these settings need 1"),
        "{log}"
    );
    assert!(log.contains("LimitNOFILE=1"), "{log}");
    // Look-ups share files, so none has to be ended.
    assert_answered(&meanwhile(&lab, for_two_seconds), &heimdall);
    // As with few ports.
    let stats = heimdall.stats().unwrap();
    let errors = stats["forwarder"]["socket_errors"].as_u64().unwrap();
    assert!(errors < 20, "{stats:#}");
    let tcp = DnsClient::v6(&lab).tcp("tcp.example A rd");
    assert!(tcp.starts_with("NOERROR "), "{tcp}");
}
