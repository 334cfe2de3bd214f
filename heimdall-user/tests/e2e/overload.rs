//! One client that asks for more than can be resolved, and the replies to others meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Lab, Received, SERVER_V4, ScriptedUpstream, UPSTREAM, by_label};

use crate::{
    client::{DnsClient, NOTHING, Settings},
    lab, program,
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
/// 40 that can be resolved, one after another: the replies to those.
fn meanwhile(lab: &Lab) -> Vec<String> {
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
        // Until the dead zone holds every look-up.
        thread::sleep(Duration::from_secs(2));
        let replies = (0..40).map(|number| {
            thread::sleep(Duration::from_millis(50));
            few.udp(&format!("good{number}.example A rd edns"))
        });
        let replies = replies.collect();
        over.store(true, Ordering::Relaxed);
        replies
    })
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

fn assert_served(replies: &[String], heimdall: &Heimdall) {
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
    assert!((1..=3).contains(&lines.len()), "{log}");
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
    assert_served(&meanwhile(&lab), &heimdall);
    // A look-up that was shed is answered with the reason.
    let client = DnsClient::v4(&lab);
    let reply = client.udp("last.dead.example A rd edns");
    assert!(
        reply.starts_with("SERVFAIL qr rd ra | last.dead.example. A |"),
        "{reply}"
    );
    assert!(reply.contains("ede="), "{reply}");
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
    assert_answered(&meanwhile(&lab), &heimdall);
    // Sockets have worn out meanwhile, with queries outstanding on each.
    thread::sleep(Duration::from_secs(8));
    assert_answered(&meanwhile(&lab), &heimdall);
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
    assert_answered(&meanwhile(&lab), &heimdall);
    // As with few ports.
    let stats = heimdall.stats().unwrap();
    let errors = stats["forwarder"]["socket_errors"].as_u64().unwrap();
    assert!(errors < 20, "{stats:#}");
    let tcp = DnsClient::v6(&lab).tcp("tcp.example A rd");
    assert!(tcp.starts_with("NOERROR "), "{tcp}");
}
