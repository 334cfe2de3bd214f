//! The attempts of a look-up, and their effect on the state of the upstreams.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{dns::edns::ede, latency::Distribution};

/// The first letter of the queried name.
fn letter(seen: &Seen) -> u8 {
    seen.msg[13]
}

/// First letters of the names that an upstream was queried for over UDP.
fn asked(upstream: &Upstream) -> String {
    let seen = upstream.seen();
    let letters = seen.iter().filter(|seen| !seen.tcp).map(letter);
    letters.map(char::from).collect()
}

/// The answer to each of the names.
fn ask_all(bench: &mut Bench, labels: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for label in labels.chars() {
        bench.submit(&query(9, &label.to_string(), None), 1);
        outcomes.push(bench.outcome());
    }
    outcomes
}

fn is_truncated(outcome: &Outcome) -> bool {
    Answer::as_ref(&outcome.answer).is_truncated()
}

/// An upstream that does not answer names in `silent`, SERVFAIL for those in `fails`.
fn partly(silent: &'static str, fails: &'static str) -> Upstream {
    Upstream::start(move |seen| {
        let letter = char::from(letter(seen));
        match (silent.contains(letter), fails.contains(letter)) {
            (true, _) => Vec::new(),
            (_, true) => vec![server_failure(&seen.msg)],
            _ => vec![response(&seen.msg, 20)],
        }
    })
}

#[test]
fn questions_that_time_out_one_by_one_leave_the_upstream_first() {
    // The response in between may be an answer or an error.
    for (labels, fails) in [("xabyczde", ""), ("xyab", ""), ("xyazb", "a")] {
        let first = partly("xyz", fails);
        let second = answers();
        let mut bench = Bench::new(with_short_timeout(vec![first.address, second.address]));
        assert!(ask_all(&mut bench, labels).iter().all(answered));
        assert_eq!(asked(&first), labels);
        bench.finish();
    }
}

#[test]
fn a_truncated_answer_without_tcp_is_delivered_and_not_cached() {
    let closes = Upstream::start(|seen| match seen.tcp {
        false => vec![bare(&seen.msg, 0x200)],
        true => Vec::new(),
    });
    let refuses = Upstream::without_tcp(|seen| vec![bare(&seen.msg, 0x200)]);
    let denies = Upstream::without_tcp(|seen| vec![bare(&seen.msg, 0x203)]);
    let hangs = Upstream::start(|seen| {
        if seen.tcp {
            thread::sleep(Duration::from_secs(1));
        }
        vec![bare(&seen.msg, 0x200)]
    });
    for (upstream, code) in [
        (&closes, rcode::NOERROR),
        (&refuses, rcode::NOERROR),
        (&denies, rcode::NXDOMAIN),
        (&hangs, rcode::NOERROR),
    ] {
        let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
        for outcome in ask_all(&mut bench, "aa") {
            assert!(is_truncated(&outcome));
            let answer = Answer::as_ref(&outcome.answer);
            let said = (answer.rcode(), answer.ttl(), answer.ede());
            assert_eq!(said, (code, 0, Some(ede::NETWORK_ERROR)));
        }
        assert_eq!(asked(upstream), "aa", "neither cached nor a failure");
        assert_eq!(bench.count("truncated"), 2);
        assert_eq!(bench.count("failure_hits") + bench.count("servfail"), 0);
        bench.finish();
    }
}

#[test]
fn tcp_that_fails_leads_to_the_next_upstream_and_back_again() {
    let small_only = || {
        Upstream::without_tcp(|seen| match letter(seen) {
            b'x' => vec![bare(&seen.msg, 0x200)],
            _ => vec![response(&seen.msg, 20)],
        })
    };
    let (first, second) = (small_only(), answers());
    let mut bench = Bench::new(options(vec![first.address, second.address]));
    let outcomes = ask_all(&mut bench, "xab");
    assert!(outcomes.iter().all(|o| answered(o) && !is_truncated(o)));
    assert_eq!(asked(&first), "xab", "it stays the first");
    assert_eq!(asked(&second), "x");
    bench.finish();

    // An error of the next one does not hide that there is an answer.
    for flags in [Some(2), Some(0x200), None] {
        let fail = move |seen: &Seen| flags.map(|flags| bare(&seen.msg, flags));
        let second = Upstream::without_tcp(move |seen| fail(seen).into_iter().collect());
        let first = small_only();
        let mut bench = Bench::new(with_short_timeout(vec![first.address, second.address]));
        assert!(ask_all(&mut bench, "x").iter().all(is_truncated));
        bench.finish();
    }
}

#[test]
fn an_error_with_tc_is_an_error() {
    for code in [2, 5] {
        let upstream = Upstream::start(move |seen| vec![bare(&seen.msg, 0x200 | code)]);
        let mut bench = Bench::new(options(vec![upstream.address]));
        assert!(!ask_all(&mut bench, "a").iter().any(answered));
        assert_eq!(bench.count("sent_tcp"), 0);
        bench.finish();
    }
}

/// An upstream that answers each name once, by `respond`, and later than a forwarder with a
/// short timeout waits.
fn late(respond: fn(&Seen) -> Vec<u8>) -> Upstream {
    let known = Mutex::new(HashSet::new());
    Upstream::start(move |seen| {
        if !known.lock().unwrap().insert((letter(seen), seen.tcp)) {
            return Vec::new();
        }
        thread::sleep(Duration::from_millis(450));
        vec![respond(seen)]
    })
}

#[test]
fn a_late_answer_is_accepted_and_the_next_one_awaited() {
    let slow = late(|seen| response(&seen.msg, 20));
    let mut bench = Bench::new(with_short_timeout(vec![slow.address]));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    let timeouts = bench.count("timeouts");
    assert!(timeouts >= 1);
    assert!(ask_all(&mut bench, "b").iter().all(answered));
    assert_eq!(bench.count("timeouts"), timeouts, "its slowness is known");
    bench.finish();

    // While the next upstream is asked, which is silent.
    let slow = late(|seen| response(&seen.msg, 20));
    let silent = Upstream::start(|_| Vec::new());
    let mut bench = Bench::new(with_short_timeout(vec![slow.address, silent.address]));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    assert!(bench.count("timeouts") >= 1);
    bench.finish();
}

#[test]
fn a_late_response_leads_to_tcp_or_a_plain_query() {
    let truncated = late(|seen| match seen.tcp {
        false => bare(&seen.msg, 0x200),
        true => response(&seen.msg, 20_000),
    });
    let mut bench = Bench::new(with_short_timeout(vec![truncated.address]));
    let outcomes = ask_all(&mut bench, "a");
    assert!(Answer::as_ref(&outcomes[0].answer).body().len() > 20_000);
    assert_eq!(bench.count("sent_tcp"), 1);
    bench.finish();

    let old = Upstream::start(|seen| {
        thread::sleep(Duration::from_millis(450));
        vec![match seen.msg[11] {
            0 => response(&seen.msg, 20),
            _ => bare(&seen.msg, 1),
        }]
    });
    let mut bench = Bench::new(with_short_timeout(vec![old.address]));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    bench.finish();

    let fails = late(|seen| server_failure(&seen.msg));
    let mut bench = Bench::new(ForwardOptions {
        attempts: 16,
        ..with_short_timeout(vec![fails.address])
    });
    assert!(!ask_all(&mut bench, "a").iter().any(answered));
    assert!(fails.seen().len() < 16, "it would respond the same again");
    bench.finish();
}

#[test]
fn tcp_has_time_for_two_round_trips() {
    let far = Upstream::start(|seen| {
        // Loopback connects at once, so the response is all that TCP waits for.
        thread::sleep(Duration::from_millis(if seen.tcp { 500 } else { 200 }));
        vec![match seen.tcp {
            false => bare(&seen.msg, 0x200),
            true => response(&seen.msg, 2_000),
        }]
    });
    let mut bench = Bench::new(with_short_timeout(vec![far.address]));
    let outcomes = ask_all(&mut bench, "a");
    assert!(answered(&outcomes[0]) && !is_truncated(&outcomes[0]));
    bench.finish();
}

/// Twenty responses with wrong IDs.
fn forged(query: &[u8]) -> Vec<Vec<u8>> {
    let guess = |n: u8| {
        let mut wrong = response(query, 20);
        wrong[1] ^= n;
        wrong
    };
    (1..=20).map(guess).collect()
}

#[test]
fn after_many_wrong_ids_and_without_tcp_another_port_is_used() {
    let attacked = |times: usize| {
        let left = Mutex::new(times);
        Upstream::without_tcp(move |seen| {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                return vec![response(&seen.msg, 20)];
            }
            *left -= 1;
            forged(&seen.msg)
        })
    };
    for times in [1, 2] {
        let upstream = attacked(times);
        let mut bench = Bench::new(options(vec![upstream.address]));
        assert!(ask_all(&mut bench, "a").iter().all(answered));
        let ports: HashSet<_> = upstream.seen().iter().map(|s| s.from.port()).collect();
        assert_eq!(ports.len(), times + 1);
        assert_eq!(bench.count("rejected_id"), 8 * times as u64);
        bench.finish();
    }
    let (first, second) = (attacked(9), answers());
    let mut bench = Bench::new(options(vec![first.address, second.address]));
    assert!(ask_all(&mut bench, "ab").iter().all(answered));
    assert_eq!(
        (asked(&first), asked(&second)),
        ("aabb".into(), "ab".into())
    );
    assert_eq!(bench.count("sent_tcp"), 1, "it is refused");
    bench.finish();

    let upstream = attacked(9);
    let mut bench = Bench::new(options(vec![upstream.address]));
    assert!(!ask_all(&mut bench, "a").iter().any(answered));
    assert_eq!(bench.count("rejected_id"), 32);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (4, 1));
    bench.finish();
}

#[test]
fn a_wrong_id_on_a_socket_that_timed_out_is_counted() {
    let asked_before = AtomicBool::new(false);
    let upstream = Upstream::start(move |seen| {
        if asked_before.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        thread::sleep(Duration::from_millis(450));
        let mut replies = forged(&seen.msg);
        replies.truncate(7);
        replies.push(response(&seen.msg, 20));
        replies
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    assert_eq!(bench.count("rejected_id"), 7);
    bench.finish();
}

#[test]
fn every_upstream_is_asked_before_errors_fail_a_question() {
    let mut upstreams: Vec<_> = (0..4).map(|_| partly("", "ab")).collect();
    upstreams.push(partly("", "b"));
    let addresses = upstreams.iter().map(|upstream| upstream.address).collect();
    let mut bench = Bench::new(options(addresses));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    assert!(!ask_all(&mut bench, "b").iter().any(answered));
    let asked: Vec<_> = upstreams.iter().map(asked).collect();
    assert_eq!(asked, ["ab"; 5], "each once");
    bench.finish();
}

#[test]
fn a_silent_upstream_that_was_set_aside_is_skipped() {
    let (fails, silent, good) = (partly("", "abcde"), partly("abcde\0", ""), answers());
    let addresses = vec![fails.address, silent.address, good.address];
    let mut bench = Bench::new(with_short_timeout(addresses));
    assert!(ask_all(&mut bench, "abcde").iter().all(answered));
    assert_eq!(asked(&silent), "abc");
    assert_eq!(asked(&good), "abcde");
    bench.finish();
}

/// A response about another name.
fn of_another_name(query: &[u8]) -> Vec<u8> {
    let mut other = response(query, 20);
    other[13] ^= 1;
    other
}

#[test]
fn wrong_answers_do_not_fail_the_other_queries_of_their_socket() {
    let upstream = Upstream::start(|seen| {
        let right = response(&seen.msg, 20);
        vec![
            of_another_name(&seen.msg),
            of_another_name(&seen.msg),
            right,
        ]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for token in 0..64 {
        let request = bench.request(&query(9, &format!("n{token}"), None), 0, token);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    assert!(bench.outcomes(0, 64).iter().all(answered));
    assert_eq!(bench.count("rejected_question"), 128);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (64, 0));
    bench.finish();
}

#[test]
fn after_eight_wrong_answers_a_question_is_asked_from_another_port_and_then_over_tcp() {
    let upstream = Upstream::start(|seen| match seen.tcp {
        true => vec![response(&seen.msg, 20)],
        false => vec![of_another_name(&seen.msg); 20],
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    assert_eq!(bench.count("rejected_question"), 16);
    assert_eq!((bench.count("sent_udp"), bench.count("sent_tcp")), (2, 1));
    let seen = upstream.seen();
    assert_ne!(seen[0].from.port(), seen[1].from.port());
    bench.finish();
}

#[test]
fn forged_datagrams_end_the_queries_of_their_socket_from_another_port() {
    // Only `a` is attacked. The others are not answered before.
    let attacked = Arc::new(AtomicBool::new(false));
    let is_attacked = Arc::clone(&attacked);
    let upstream = Upstream::start(move |seen| match (seen.tcp, letter(seen)) {
        (false, b'a') => {
            is_attacked.store(true, Ordering::SeqCst);
            forged(&seen.msg)
        }
        (false, b'x'..=b'z') if !is_attacked.load(Ordering::SeqCst) => Vec::new(),
        _ => vec![response(&seen.msg, 20)],
    });
    // Queries that are queued while the thread sleeps have one socket, unless it was just awake.
    let rounds = (0..50).map(|_| {
        attacked.store(false, Ordering::SeqCst);
        one_turn(&upstream, ["x", "y", "z", "a"])
    });
    let Some((mut bench, before)) = rounds.flatten().next() else {
        panic!("the queries never had one socket");
    };
    assert!(bench.outcomes(0, 4).iter().all(answered));
    assert_eq!(bench.count("rejected_id"), 16);
    // Those of a turn share a socket: the second attack, on it, makes others go over TCP that are not answered yet.
    assert_eq!(bench.count("sent_udp"), 8);
    assert!((1..=4).contains(&bench.count("sent_tcp")));
    assert_eq!(bench.count("timeouts"), 0);
    let attacked = upstream.seen()[before].from.port();
    for label in "bcdefghij".chars() {
        bench.submit(&query(9, &label.to_string(), None), 9);
        assert!(answered(&bench.outcome()));
    }
    let seen = upstream.seen().split_off(before);
    let later = seen
        .iter()
        .filter(|seen| !seen.tcp && letter(seen) != b'a')
        .skip(6);
    let ports: Vec<_> = later.map(|seen| seen.from.port()).collect();
    assert_eq!(ports.len(), 9);
    assert!(!ports.contains(&attacked), "the socket was replaced");
    bench.finish();
}

/// A new forwarder that has sent the queries for these names, if it sent all from one socket; and how many queries the
/// upstream had got before.
fn one_turn(upstream: &Upstream, labels: [&str; 4]) -> Option<(Bench, usize)> {
    let before = upstream.seen().len();
    let mut bench = Bench::new(options(vec![upstream.address]));
    thread::sleep(Duration::from_millis(20));
    for (token, label) in labels.into_iter().enumerate() {
        let request = bench.request(&query(9, label, None), 0, token as u64);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    let deadline = Instant::now() + Duration::from_secs(30);
    let ports = loop {
        let seen = upstream.seen().split_off(before);
        let ports: Vec<_> = (seen.iter())
            .filter(|seen| !seen.tcp)
            .map(|seen| seen.from.port())
            .collect();
        // Those after the first are from another port.
        if let Some((first, _)) = ports.split_at_checked(labels.len()) {
            break first.to_vec();
        }
        assert!(Instant::now() < deadline, "{} queries", ports.len());
        thread::sleep(Duration::from_millis(1));
    };
    let is_one = ports.iter().all(|port| *port == ports[0]);
    is_one.then_some((bench, before))
}

#[test]
fn an_icmp_error_leads_all_queries_of_its_socket_to_the_next_upstream() {
    // A dead upstream: none of the queries waits for its timeout.
    let second = answers();
    let mut bench = Bench::new(options(vec![closed_address(), second.address]));
    for token in 0..40 {
        let request = bench.request(&query(9, &format!("n{token}"), None), 0, token);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    assert!(bench.outcomes(0, 40).iter().all(answered));
    assert_eq!(bench.count("timeouts"), 0);
    assert_eq!(second.seen().len(), 40);
    bench.finish();
}

#[test]
fn responses_are_timed_for_each_upstream_whatever_they_say() {
    const DELAY: Duration = Duration::from_millis(50);
    let fails = Upstream::start(|seen| vec![server_failure(&seen.msg)]);
    let slow = Upstream::start(|seen| {
        thread::sleep(DELAY);
        match seen.tcp {
            false => vec![bare(&seen.msg, 0x200)],
            true => vec![response(&seen.msg, 20)],
        }
    });
    let silent = Upstream::start(|_| Vec::new());
    let addresses = [&fails, &slow, &silent].map(|upstream| upstream.address);
    let mut bench = Bench::new(options(addresses.into()));
    assert!(ask_all(&mut bench, "a").iter().all(answered));
    let plan = bench.forwarder.plans().current();
    let times = plan.upstreams.iter().map(|upstream| {
        let times = Distribution::of([&upstream.threads[0].latency]);
        (upstream.address.address, times.count(), times.sum())
    });
    let times: Vec<_> = times.collect();
    let counts: Vec<_> = times.iter().map(|(of, count, _)| (*of, *count)).collect();
    // SERVFAIL; a truncated answer, and the whole one over TCP; nothing.
    let expected: Vec<_> = addresses.into_iter().zip([1, 2, 0]).collect();
    assert_eq!(counts, expected);
    assert!(times[1].2 >= 2.0 * DELAY.as_secs_f64(), "{times:?}");
    bench.finish();
}
