//! Upstreams that are set aside, and what ends that without queries of clients.

use std::{
    net::{TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{dns::edns::ede, forward::testing::question};

/// Waits until it is so.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Bench {
    fn upstream(&self, index: usize) -> Arc<UpstreamMetrics> {
        let plan = self.forwarder.plans().current();
        Arc::clone(&plan.upstreams[index].threads[0])
    }

    fn problem(&self, index: usize) -> Option<String> {
        let problem = self.upstream(index).problem();
        problem.map(|problem| problem.to_string())
    }

    /// Looks a name up. Whether there is an answer.
    fn ask(&mut self, label: &str) -> bool {
        self.submit(&query(9, label, None), 1);
        answered(&self.outcome())
    }
}

/// Answers, or is silent.
fn silent_while(silent: &Arc<AtomicBool>) -> Upstream {
    let silent = Arc::clone(silent);
    Upstream::start(move |seen| match silent.load(Ordering::SeqCst) {
        true => Vec::new(),
        false => vec![response(&seen.msg, 20)],
    })
}

#[test]
fn upstreams_that_work_get_no_probes() {
    let (first, second) = (answers(), answers());
    let mut bench = Bench::new(options(vec![first.address, second.address]));
    assert!(bench.ask("a"));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(first.probes() + second.probes(), 0);
    assert!(second.seen().is_empty());
    bench.finish();
}

#[test]
fn a_closed_port_is_probed_until_it_is_open() {
    let reserved = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let other = answers();
    let mut bench = Bench::new(options(vec![address, other.address]));
    assert!(bench.ask("a"));
    assert_eq!(bench.problem(0).as_deref(), Some("its port is closed"));
    assert_eq!(bench.upstream(0).counters.unreachable.get(), 1);
    // Clients' queries go to the other one. Only probes find out.
    let upstream = UdpSocket::bind(address).unwrap();
    upstream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut msg = [0; 512];
    assert!(bench.ask("b"));
    let (len, from) = upstream.recv_from(&mut msg).unwrap();
    assert_eq!(msg[12..17], [0, 0, 2, 0, 1], "the root, NS, IN");
    // Whatever the response says.
    msg[2] |= 0x80;
    msg[3] = 5;
    upstream.send_to(&msg[..len], from).unwrap();
    wait("it works again", || bench.problem(0).is_none());
    assert_eq!(bench.upstream(0).counters.queries.get(), 1);
    assert_eq!(other.seen().len(), 2);
    bench.finish();
}

#[test]
fn a_closed_port_is_told_from_other_faults_over_tcp_and_tls() {
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    for transport in [
        UpstreamTransport::Tcp,
        UpstreamTransport::Tls(Default::default()),
    ] {
        let mut bench = Bench::new(ForwardOptions {
            upstreams: vec![UpstreamAddress { address, transport }],
            tls: TlsOptions {
                opportunistic: true,
                ..TlsOptions::default()
            },
            ..options(Vec::new())
        });
        assert!(!bench.ask("a"));
        let why = || bench.problem(0);
        assert_eq!(why().as_deref(), Some("its port is closed"));
        let probes = || bench.upstream(0).counters.probes.get();
        wait("a probe", || probes() > 0);
        assert_eq!(why().as_deref(), Some("its port is closed"));
        bench.finish();
    }
}

#[test]
fn a_silent_upstream_is_set_aside_if_a_probe_is_not_answered_either() {
    let silent = Arc::new(AtomicBool::new(true));
    let (first, second) = (silent_while(&silent), answers());
    let mut bench = Bench::new(with_short_timeout(vec![first.address, second.address]));
    for label in ["a", "b", "c", "d"] {
        assert!(bench.ask(label));
    }
    assert_eq!(first.seen().len(), 3, "three names, and then none");
    wait("it is set aside", || bench.problem(0).is_some());
    assert_eq!(bench.problem(0).as_deref(), Some("it does not respond"));
    silent.store(false, Ordering::SeqCst);
    wait("it works again", || bench.problem(0).is_none());
    assert!(bench.ask("e"));
    assert_eq!(first.seen().len(), 4);
    bench.finish();
}

#[test]
fn a_probe_asks_for_the_zone_of_a_route() {
    // It has one zone, and drops all other queries.
    let silent = Arc::new(AtomicBool::new(true));
    let has_zone = Upstream::start({
        let silent = Arc::clone(&silent);
        move |seen| {
            let name = seen.msg[12..].to_ascii_lowercase();
            let is_own = name.windows(6).any(|part| part == b"\x04corp\0");
            match is_own && !silent.load(Ordering::SeqCst) {
                true => vec![bare(&seen.msg, 0)],
                false => Vec::new(),
            }
        }
    });
    let default = answers();
    let addresses = [has_zone.address, default.address];
    let mut bench = Bench::new(ForwardOptions {
        routes: vec![RouteOptions {
            attempt_timeout: Duration::from_millis(300),
            ..routes::route("corp", &addresses)
        }],
        ..options(vec![default.address])
    });
    let ask = |bench: &mut Bench, name: &str| {
        bench.submit(&question(9, name), 1);
        answered(&bench.outcome())
    };
    for name in ["a.corp", "b.corp", "c.corp"] {
        assert!(ask(&mut bench, name));
    }
    wait("it is set aside", || {
        bench.problem(0).is_some() || bench.problem(1).is_some()
    });
    silent.store(false, Ordering::SeqCst);
    wait("it works again", || {
        bench.problem(0).is_none() && bench.problem(1).is_none()
    });
    bench.finish();
}

#[test]
fn an_upstream_that_drops_edns_is_found_to_work() {
    let silent = Arc::new(AtomicBool::new(true));
    let upstream = Upstream::start({
        let silent = Arc::clone(&silent);
        move |seen| match silent.load(Ordering::SeqCst) || seen.msg[11] > 0 {
            true => Vec::new(),
            false => vec![response(&seen.msg, 20)],
        }
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    for label in ["a", "b", "c"] {
        assert!(!bench.ask(label));
    }
    wait("it is set aside", || bench.problem(0).is_some());
    silent.store(false, Ordering::SeqCst);
    wait("it works again", || bench.problem(0).is_none());
    bench.finish();
}

#[test]
fn names_that_never_answer_do_not_set_their_upstream_aside() {
    let upstream = Upstream::start(|seen| match seen.msg[13] {
        b'x' => Vec::new(),
        _ => vec![response(&seen.msg, 20)],
    });
    let other = Upstream::start(|_| Vec::new());
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address, other.address]));
    for token in 0..6 {
        let request = bench.request(&query(9, &format!("x{token}"), None), 0, token);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    assert!(!bench.outcomes(0, 6).iter().any(answered));
    // The probes were answered.
    wait("a probe", || upstream.probes() > 0);
    wait("it works again", || {
        assert_eq!(bench.problem(0), None);
        bench.ask(&format!("a{}", upstream.seen().len()))
    });
    assert_eq!(bench.upstream(0).counters.set_aside.get(), 0);
    bench.finish();
}

#[test]
fn after_an_outage_failures_end_without_queries_of_clients() {
    let silent = Arc::new(AtomicBool::new(true));
    let upstream = silent_while(&silent);
    let mut bench = Bench::new(ForwardOptions {
        failure_min: 60,
        ..with_short_timeout(vec![upstream.address])
    });
    for label in ["a", "b", "c"] {
        assert!(!bench.ask(label));
    }
    wait("it is set aside", || bench.problem(0).is_some());
    assert!(!bench.ask("a"));
    assert_eq!(bench.count("failure_hits"), 1);
    // Fronts do not keep it for long.
    bench.submit(&query(9, "b", None), 1);
    let outcome = bench.outcome();
    let answer = Answer::as_ref(&outcome.answer);
    assert_eq!((answer.ede(), answer.ttl()), (Some(ede::CACHED_ERROR), 1));
    silent.store(false, Ordering::SeqCst);
    let end = Instant::now();
    wait("it works again", || bench.problem(0).is_none());
    assert!(
        end.elapsed() < Duration::from_secs(5),
        "{:?}",
        end.elapsed()
    );
    for label in ["a", "b", "c", "d"] {
        assert!(bench.ask(label), "{label}");
    }
    bench.finish();
}

#[test]
fn what_one_upstream_would_have_answered_is_asked_again_when_it_is_back() {
    let silent = Arc::new(AtomicBool::new(true));
    let knows = silent_while(&silent);
    let other = Upstream::start(|seen| match seen.msg[13] {
        b'x' => vec![server_failure(&seen.msg)],
        _ => vec![response(&seen.msg, 20)],
    });
    let mut bench = Bench::new(ForwardOptions {
        failure_min: 60,
        ..with_short_timeout(vec![knows.address, other.address])
    });
    assert!(!bench.ask("x"));
    for label in ["a", "b", "c"] {
        assert!(bench.ask(label));
    }
    assert!(!bench.ask("x"));
    assert_eq!(
        bench.count("failure_hits"),
        1,
        "the other one's answers end nothing"
    );
    silent.store(false, Ordering::SeqCst);
    wait("it is asked again", || {
        thread::sleep(Duration::from_millis(100));
        bench.ask("x")
    });
    bench.finish();
}

#[test]
fn errors_for_every_name_end_with_the_first_answer() {
    let failing = Arc::new(AtomicBool::new(true));
    let upstream = Upstream::start({
        let failing = Arc::clone(&failing);
        move |seen| match failing.load(Ordering::SeqCst) {
            true => vec![server_failure(&seen.msg)],
            false => vec![response(&seen.msg, 20)],
        }
    });
    let mut bench = Bench::new(ForwardOptions {
        failure_min: 60,
        ..options(vec![upstream.address])
    });
    for label in ["a", "b", "c", "d"] {
        assert!(!bench.ask(label));
    }
    assert_eq!(bench.upstream(0).counters.servfail.get(), 4);
    assert_eq!(bench.problem(0), None, "it responds");
    assert!(!bench.ask("d"));
    failing.store(false, Ordering::SeqCst);
    assert!(!bench.ask("d"), "its back-off is not over");
    assert!(bench.ask("e"));
    // Two of the first three failed before it was known that all do.
    assert!(bench.ask("d"));
    assert!(bench.ask("c"));
    assert!(!bench.ask("a"));
    bench.finish();
}

#[test]
fn a_mute_stream_upstream_costs_no_more_than_a_timeout() {
    // The kernel accepts connections, nobody reads.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = answers();
    let tls = UpstreamAddress {
        address: mute.local_addr().unwrap(),
        transport: UpstreamTransport::Tls(Default::default()),
    };
    let mut bench = Bench::new(ForwardOptions {
        upstreams: vec![tls, good.address.into()],
        tls: TlsOptions {
            opportunistic: true,
            ..TlsOptions::default()
        },
        attempt_timeout: Duration::from_millis(300),
        ..options(Vec::new())
    });
    let mut longest = Duration::ZERO;
    let mut names = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.problem(0).is_none() {
        assert!(Instant::now() < deadline, "it is not set aside");
        let begin = Instant::now();
        assert!(bench.ask(&format!("n{names}")));
        longest = longest.max(begin.elapsed());
        names += 1;
    }
    let why = "no connection to it is established in time";
    assert_eq!(bench.problem(0).as_deref(), Some(why));
    assert_eq!(bench.count("servfail"), 0);
    // 900 ms would be its time without another upstream.
    assert_eq!(bench.count("timeouts"), names);
    assert!(longest < Duration::from_millis(800), "{longest:?}");
    assert!(names >= 3, "{names}");
    // Now the other one is asked at once.
    let timeouts = bench.count("timeouts");
    assert!(bench.ask("last"));
    assert_eq!(bench.count("timeouts"), timeouts);
    bench.finish();
}
