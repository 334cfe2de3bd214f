//! Slow upstreams, and those whose TCP does not work.

use std::net::TcpStream;

use lab::{ScriptedUpstream, Step};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
};

use super::*;

/// The options that an operator has who names only the upstream.
fn defaults(upstream: SocketAddr) -> ForwardOptions {
    ForwardOptions {
        upstreams: vec![upstream.into()],
        cache_bytes: 1 << 20,
        ..ForwardOptions::default()
    }
}

/// An upstream on a path with this round-trip time. A response over UDP is truncated if the name begins with `x`; one over
/// TCP takes a round trip more, for the connection.
fn far(round_trip: Duration) -> ScriptedUpstream {
    let script = move |seen: &Seen| {
        let message = match (seen.tcp, seen.msg[13]) {
            (false, b'x') => bare(&seen.msg, 0x200),
            (true, _) => response(&seen.msg, 2_000),
            (false, _) => response(&seen.msg, 20),
        };
        let wait = round_trip * if seen.tcp { 2 } else { 1 };
        vec![Step::Wait(wait), Step::Send(message)]
    };
    ScriptedUpstream::on_loopback("127.0.0.1:0", script).unwrap()
}

#[test]
fn long_round_trips_work_by_default() {
    // A satellite's, and twice that.
    for (millis, timeouts) in [(600, Some(0)), (1_500, None)] {
        let upstream = far(Duration::from_millis(millis));
        let mut bench = Bench::new(defaults(upstream.address()));
        for label in ["a", "x"] {
            bench.submit(&query(9, label, None), 1);
            let outcome = bench.outcome();
            let answer = Answer::as_ref(&outcome.answer);
            assert!(answered(&outcome) && !answer.is_truncated(), "{label}");
        }
        let counted = bench.count("timeouts");
        assert!(
            timeouts.is_none_or(|timeouts| counted == timeouts),
            "{counted}"
        );
        assert_eq!(bench.count("upstream_errors"), 0);
        bench.finish();
    }
}

/// Truncates each answer to a name that begins with `x`.
fn small_only(seen: &Seen) -> Vec<Vec<u8>> {
    match seen.msg[13] {
        b'x' => vec![bare(&seen.msg, 0x200)],
        _ => vec![response(&seen.msg, 20)],
    }
}

/// What has to stay open for connections to an upstream without TCP to be neither accepted nor refused: a listener whose
/// queue is full.
fn silent_tcp(upstream: &Upstream) -> impl Sized {
    let SocketAddr::V4(address) = upstream.address else {
        unreachable!()
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&listener),
        &SockaddrIn::from(address),
    )
    .unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let first = TcpStream::connect(address).unwrap();
    (listener, first)
}

/// The answer to each name; whether it was truncated.
fn truncated(bench: &mut Bench, labels: &[&str]) -> Vec<bool> {
    let ask = |label: &&str| {
        bench.submit(&query(9, label, None), 1);
        let outcome = bench.outcome();
        assert!(answered(&outcome));
        Answer::as_ref(&outcome.answer).is_truncated()
    };
    labels.iter().map(ask).collect()
}

#[test]
fn tcp_that_is_silent_is_waited_for_once() {
    let upstream = Upstream::without_tcp(small_only);
    let _full = silent_tcp(&upstream);
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    let all = truncated(&mut bench, &["x1", "x2", "a", "x3"]);
    assert_eq!(all, [true, true, false, true]);
    assert_eq!(bench.count("timeouts"), 1);
    assert_eq!(bench.count("sent_tcp"), 1);
    assert_eq!(bench.count("servfail"), 0);
    bench.finish();
}

#[test]
fn tcp_that_is_refused_is_tried_once() {
    let upstream = Upstream::without_tcp(small_only);
    let mut bench = Bench::new(options(vec![upstream.address]));
    let all = truncated(&mut bench, &["x1", "x2", "a", "x3"]);
    assert_eq!(all, [true, true, false, true]);
    assert_eq!(bench.count("timeouts"), 0);
    assert_eq!(bench.count("sent_tcp"), 1);
    bench.finish();
}

#[test]
fn tcp_that_is_accepted_and_silent_is_waited_for_with_three_names() {
    let upstream = Upstream::keeping_connections(|seen| match seen.tcp {
        true => Vec::new(),
        false => small_only(seen),
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    let all = truncated(&mut bench, &["x1", "x1", "x2", "x3", "x4", "x5", "a"]);
    assert_eq!(all, [true, true, true, true, true, true, false]);
    assert_eq!(bench.count("timeouts"), 4);
    assert_eq!(bench.count("sent_tcp"), 4);
    bench.finish();
}

#[test]
fn names_that_get_nothing_over_tcp_do_not_keep_others_from_it() {
    let upstream = Upstream::keeping_connections(|seen| match (seen.tcp, &seen.msg[13..15]) {
        (true, b"xs") => Vec::new(),
        (true, _) => vec![response(&seen.msg, 2_000)],
        (false, _) => small_only(seen),
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    let all = truncated(&mut bench, &["xs1", "xs2", "xs3"]);
    assert_eq!(all, [true; 3]);
    // The probe's response ends it, not the time.
    let deadline = Instant::now() + Duration::from_secs(7);
    let mut number = 0;
    while truncated(&mut bench, &[&format!("x{number}")]) == [true] {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
        number += 1;
    }
    assert_eq!(upstream.probes(), 1);
    let all = truncated(&mut bench, &["xs4", "xs5", "xs6", "xa"]);
    assert_eq!(all, [true, true, true, false]);
    bench.finish();
}

#[test]
fn nobody_waits_for_the_tcp_of_another_name() {
    let upstream = Upstream::without_tcp(small_only);
    let _full = silent_tcp(&upstream);
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    let labels = ["x", "a", "b", "c", "d", "e", "f", "g"];
    for (token, label) in labels.iter().enumerate() {
        let request = bench.request(&query(9, label, None), 0, token as u64);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    let outcomes = bench.outcomes(0, labels.len());
    let (others, last) = outcomes.split_at(labels.len() - 1);
    assert_eq!(last[0].token, 0, "the one that waits");
    assert!(others.iter().all(answered));
    bench.finish();
}

#[test]
fn a_next_upstream_with_tcp_gives_the_whole_answer_at_once() {
    let first = Upstream::without_tcp(small_only);
    let second = Upstream::start(|seen| match seen.tcp {
        true => vec![response(&seen.msg, 2_000)],
        false => small_only(seen),
    });
    let mut bench = Bench::new(options(vec![first.address, second.address]));
    assert_eq!(truncated(&mut bench, &["x1", "x2", "x3"]), [false; 3]);
    // To the first one, and three times to the second.
    assert_eq!(bench.count("sent_tcp"), 4);
    bench.finish();
}

#[test]
fn other_response_codes_are_passed_on() {
    // YXDOMAIN, YXRRSET, NXRRSET, NOTAUTH, NOTZONE, DSOTYPENI and those that are not assigned.
    for code in 6..=15 {
        let upstream = Upstream::start(move |seen| vec![bare(&seen.msg, code)]);
        let other = answers();
        let mut bench = Bench::new(options(vec![upstream.address, other.address]));
        bench.submit(&query(9, "name", None), 1);
        let outcome = bench.outcome();
        assert_eq!(u16::from(Answer::as_ref(&outcome.answer).rcode()), code);
        assert_eq!(other.seen().len(), 0);
        bench.finish();
    }
}

#[test]
fn codes_of_the_opt_record_concern_the_upstream_only() {
    // BADVERS (16) and others, which are of a record that is not forwarded (RFC 6891 section 6.2.6).
    for (low, upper) in [(0, 1), (1, 1), (5, 1), (8, 1), (0, 2)] {
        let upstream = Upstream::start(move |seen| {
            let mut msg = bare(&seen.msg, low);
            msg[11] = 1;
            msg.extend_from_slice(&[0, 0, 41, 4, 208, upper, 0, 0, 0, 0, 0]);
            vec![msg]
        });
        let good = answers();
        let mut bench = Bench::new(options(vec![upstream.address, good.address]));
        bench.submit(&query(9, "name", None), 1);
        let outcome = bench.outcome();
        assert_eq!(Answer::as_ref(&outcome.answer).rcode(), rcode::NOERROR);
        assert_eq!(good.seen().len(), 1);
        bench.finish();
    }
}
