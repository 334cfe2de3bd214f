//! Questions that no upstream answers (RFC 9520, RFC 8914), and those without EDNS.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::dns::edns::ede;

fn failure(outcome: &Outcome) -> (Option<u16>, u32) {
    assert!(!answered(outcome));
    let answer = outcome.answer.as_ref().as_ref();
    (answer.ede(), answer.ttl())
}

/// SERVFAIL, with an Extended DNS Error if the name begins so.
fn servfail(query: &[u8], info_code: Option<u16>) -> Vec<u8> {
    let mut msg = server_failure(query);
    if let Some(code) = info_code {
        *msg.last_mut().unwrap() = 6;
        msg.extend_from_slice(&[0, 15, 0, 2]);
        msg.extend_from_slice(&code.to_be_bytes());
    }
    msg
}

#[test]
fn a_failure_is_cached() {
    let refusing = Upstream::start(|seen| vec![bare(&seen.msg, 5)]);
    let mut bench = Bench::new(ForwardOptions {
        failure_min: 60,
        ..options(vec![refusing.address])
    });
    bench.submit(&query(9, "name", None), 1);
    let fresh = (Some(ede::NO_REACHABLE_AUTHORITY), 60);
    assert_eq!(failure(&bench.outcome()), fresh);
    bench.submit(&query(9, "NAME", None), 2);
    let (code, ttl) = failure(&bench.outcome());
    assert_eq!(code, Some(ede::CACHED_ERROR));
    assert!((1..60).contains(&ttl), "the whole seconds left");
    assert_eq!(refusing.seen().len(), 1);
    let mut cd = query(9, "name", None);
    cd[3] |= 0x10;
    bench.submit(&cd, 3);
    assert_eq!(failure(&bench.outcome()), fresh, "another question");
    assert_eq!(refusing.seen().len(), 2);
    assert_eq!(bench.count("failure_hits"), 1);
    assert_eq!(bench.count("servfail"), 3);
    bench.finish();
}

#[test]
fn when_its_time_is_up_the_question_is_asked_again() {
    let refusing = Upstream::start(|seen| vec![bare(&seen.msg, 5)]);
    let mut bench = Bench::new(options(vec![refusing.address]));
    for ttl in [1, 2] {
        bench.submit(&query(9, "name", None), 1);
        let fresh = (Some(ede::NO_REACHABLE_AUTHORITY), ttl);
        assert_eq!(failure(&bench.outcome()), fresh);
        thread::sleep(Duration::from_millis(1_050));
    }
    assert_eq!(refusing.seen().len(), 2);
    bench.finish();
}

#[test]
fn an_answer_ends_the_row_of_failures() {
    let failing = std::sync::atomic::AtomicUsize::new(0);
    let upstream = Upstream::start(move |seen| {
        let turn = failing.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut good = response(&seen.msg, 20);
        let ttl = good.len() - 21 - 6;
        good[ttl..ttl + 4].fill(0);
        vec![if turn == 1 {
            good
        } else {
            server_failure(&seen.msg)
        }]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    let mut ttls = Vec::new();
    for token in 0..3 {
        bench.submit(&query(9, "name", None), token);
        ttls.push(bench.outcome().answer.as_ref().as_ref().ttl());
        if token == 0 {
            thread::sleep(Duration::from_millis(1_050));
        }
    }
    assert_eq!(ttls, [1, 0, 1], "failure, answer of TTL 0, failure");
    bench.finish();
}

#[test]
fn failures_say_why() {
    let explains = Upstream::start(|seen| vec![servfail(&seen.msg, Some(9))]);
    let vague = Upstream::start(|seen| vec![servfail(&seen.msg, Some(ede::OTHER))]);
    let silent = Upstream::start(|_| Vec::new());
    let fails = Upstream::start(|seen| vec![servfail(&seen.msg, None)]);
    let gone = closed_address();
    for (upstreams, code) in [
        (vec![fails.address, explains.address, fails.address], 9),
        (vec![explains.address, vague.address, fails.address], 9),
        (vec![vague.address, explains.address], 9),
        (vec![vague.address, fails.address], ede::OTHER),
        (vec![explains.address, gone], 9),
        (vec![gone, fails.address], ede::NO_REACHABLE_AUTHORITY),
        (vec![silent.address], ede::NO_REACHABLE_AUTHORITY),
        (vec![gone], ede::NETWORK_ERROR),
    ] {
        let mut bench = Bench::new(with_short_timeout(upstreams));
        bench.submit(&query(9, "name", None), 1);
        assert_eq!(failure(&bench.outcome()), (Some(code), 1));
        bench.finish();
    }
}

#[test]
fn errors_of_this_host_are_not_cached_as_failures() {
    let silent = Upstream::start(|_| Vec::new());
    let mut bench = Bench::new(ForwardOptions {
        max_in_flight: 0,
        ..options(vec![silent.address])
    });
    for token in 0..2 {
        bench.submit(&query(9, "name", None), token);
        assert_eq!(failure(&bench.outcome()), (Some(ede::NOT_READY), 0));
    }
    assert_eq!(bench.count("failure_hits"), 0);
    bench.finish();
}

#[test]
fn an_upstream_without_edns_is_asked_without() {
    let old = Upstream::start(|seen| match seen.msg[11] {
        0 => vec![response(&seen.msg, 20)],
        _ => vec![bare(&seen.msg, 1)],
    });
    let mut bench = Bench::new(options(vec![old.address]));
    bench.submit(&query(9, "name", Some(1232)), 1);
    assert!(answered(&bench.outcome()));
    let seen = old.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].msg[2..], query(9, "name", None)[2..]);
    assert_ne!(seen[0].msg[..2], seen[1].msg[..2], "a fresh ID");
    assert_eq!(bench.count("retried_plain"), 1);
    assert_eq!(bench.count("upstream_errors"), 0);
    bench.finish();
}

/// A query with DO.
fn dnssec_ok(label: &str) -> Vec<u8> {
    let mut msg = query(9, label, Some(1232));
    let at = msg.len() - 4;
    msg[at] = 0x80;
    msg
}

/// BADVERS, whose upper bits are in an OPT record.
fn badvers(query: &[u8]) -> Vec<u8> {
    let mut msg = bare(query, 0);
    msg[11] = 1;
    msg.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
    msg
}

/// A header alone, whose QDCOUNT is `questions`.
fn header_only(query: &[u8], code: u8, questions: u8) -> Vec<u8> {
    let mut msg = query[..2].to_vec();
    msg.extend_from_slice(&[0x81, 0x80 | code, 0, questions, 0, 0, 0, 0, 0, 0]);
    msg
}

type EdnsFailure = fn(&[u8]) -> Vec<u8>;

#[test]
fn an_error_about_edns_leads_to_a_plain_query_at_once() {
    let edns_failures: [EdnsFailure; 8] = [
        |query| bare(query, 1),
        |query| bare(query, 4),
        |query| bare(query, 1 | 0x200),
        badvers,
        |query| header_only(query, 1, 0),
        |query| header_only(query, 1, 1),
        |query| header_only(query, 4, 0),
        |query| header_only(query, 4, 1),
    ];
    for (number, edns_failure) in edns_failures.into_iter().enumerate() {
        let old = Upstream::start(move |seen| match seen.msg[11] {
            0 => vec![response(&seen.msg, 20)],
            _ => vec![edns_failure(&seen.msg)],
        });
        let other = answers();
        let mut bench = Bench::new(options(vec![old.address, other.address]));
        for (token, msg) in [query(9, "plain", None), dnssec_ok("signed")]
            .iter()
            .enumerate()
        {
            bench.submit(msg, token as u64);
            let outcome = bench.outcome();
            assert!(answered(&outcome), "{number}");
            let ttl = outcome.answer.as_ref().as_ref().ttl();
            assert_eq!(ttl, [300, 60][token], "without DNSSEC's records: a minute");
        }
        assert_eq!(old.seen().len(), 4);
        assert_eq!(other.seen().len(), 0, "{number}");
        assert_eq!(
            bench.count("timeouts") + bench.count("rejected_question"),
            0
        );
        bench.finish();
    }
}

#[test]
fn other_errors_do_not_question_edns() {
    let failing: [EdnsFailure; 4] = [
        server_failure,
        |query| bare(query, 5),
        |query| with_opt(bare(query, 2 | 0x200)),
        |query| header_only(query, 5, 1),
    ];
    for fail in failing {
        let upstream = Upstream::start(move |seen| vec![fail(&seen.msg)]);
        let mut bench = Bench::new(options(vec![upstream.address]));
        bench.submit(&query(9, "name", None), 1);
        assert!(!answered(&bench.outcome()));
        assert_eq!(upstream.seen().len(), 1);
        assert_eq!(bench.count("retried_plain"), 0);
        bench.finish();
    }
    // A header alone with NOERROR is no answer.
    let upstream = Upstream::start(|seen| {
        let well = header_only(&seen.msg, 0, 1);
        vec![well, response(&seen.msg, 20)]
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(bench.count("rejected_question"), 1);
    bench.finish();
}

#[test]
fn three_edns_failures_in_a_row_are_remembered() {
    let knows_edns = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::start({
        let knows_edns = knows_edns.clone();
        move |seen| match seen.msg[11] == 0 || knows_edns.load(Ordering::SeqCst) {
            true => vec![response(&seen.msg, 20)],
            false => vec![bare(&seen.msg, 1)],
        }
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    let ask = |bench: &mut Bench, msg: &[u8]| {
        bench.submit(msg, 1);
        assert!(answered(&bench.outcome()));
        upstream.seen().len()
    };
    for (label, sent) in [("a", 2), ("b", 4), ("c", 6), ("d", 7), ("e", 8)] {
        assert_eq!(ask(&mut bench, &query(9, label, None)), sent, "{label}");
    }
    assert_eq!(ask(&mut bench, &dnssec_ok("f")), 9, "DO, too");
    knows_edns.store(true, Ordering::SeqCst);
    ask(&mut bench, &query(9, "g", None));
    assert!(upstream.seen()[6..].iter().all(|seen| seen.msg[11] == 0));
    bench.finish();
}

/// What an upstream does with a query that has an OPT record.
type EdnsFault = fn(&[u8]) -> Vec<Vec<u8>>;

/// An upstream that does this to queries with EDNS.
fn without_edns(fail: EdnsFault) -> Upstream {
    Upstream::start(move |seen| match seen.msg[11] {
        0 => vec![response(&seen.msg, 20)],
        _ => fail(&seen.msg),
    })
}

#[test]
fn every_form_of_intolerance_to_edns_is_remembered_also_for_clients_with_do() {
    // The queries for each name before that.
    let forms: [(EdnsFault, usize); 6] = [
        (|query| vec![bare(query, 1)], 2),
        (|query| vec![header_only(query, 1, 0)], 2),
        (|query| vec![bare(query, 4)], 2),
        (|query| vec![bare(query, 2)], 2),
        (|query| vec![header_only(query, 2, 1)], 2),
        (|_| Vec::new(), 3),
    ];
    for (number, (fail, queries)) in forms.into_iter().enumerate() {
        let upstream = without_edns(fail);
        let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
        for (label, sent) in [("a", 1), ("b", 2), ("c", 3)] {
            bench.submit(&dnssec_ok(label), 1);
            assert!(answered(&bench.outcome()), "{number} {label}");
            assert_eq!(upstream.seen().len(), sent * queries, "{number} {label}");
        }
        for (msg, sent) in [(dnssec_ok("d"), 1), (query(9, "e", None), 2)] {
            bench.submit(&msg, 1);
            let outcome = bench.outcome();
            assert!(answered(&outcome), "{number}");
            assert_eq!(upstream.seen().len(), 3 * queries + sent, "{number}");
        }
        assert_eq!(bench.count("servfail"), 0, "{number}");
        bench.finish();
    }
}

#[test]
fn servfail_of_an_upstream_that_knows_edns_is_not_asked_again() {
    let upstream = Upstream::start(|seen| match seen.msg[13] {
        b'x' => vec![bare(&seen.msg, 2)],
        _ => vec![response(&seen.msg, 20)],
    });
    let mut bench = Bench::new(options(vec![upstream.address]));
    for (label, sent) in [("a", 1), ("x", 2)] {
        bench.submit(&query(9, label, None), 1);
        assert_eq!(answered(&bench.outcome()), label == "a");
        assert_eq!(upstream.seen().len(), sent);
    }
    bench.finish();
}

#[test]
fn an_upstream_that_drops_edns_gets_its_last_query_without() {
    let upstream = Upstream::start(|seen| match seen.msg[11] {
        0 => vec![response(&seen.msg, 20)],
        _ => Vec::new(),
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    let seen: Vec<_> = upstream.seen().iter().map(|seen| seen.msg[11]).collect();
    assert_eq!(seen, [1, 1, 0]);
    bench.finish();

    // One that has answered with EDNS is silent for another reason.
    let upstream = Upstream::start(|seen| match seen.msg[13] {
        b'x' => Vec::new(),
        _ => vec![response(&seen.msg, 20)],
    });
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    bench.submit(&query(9, "x", None), 2);
    assert!(!answered(&bench.outcome()));
    assert!(upstream.seen().iter().all(|seen| seen.msg[11] == 1));
    bench.finish();
}

#[test]
fn an_upstream_that_reads_nothing_is_asked_twice() {
    let broken = Upstream::start(|seen| vec![bare(&seen.msg, 1)]);
    let good = answers();
    let mut bench = Bench::new(options(vec![broken.address, good.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(broken.seen().len(), 2);
    assert_eq!(
        good.seen()[0].msg[11],
        1,
        "the next one is queried with EDNS"
    );
    assert_eq!(bench.count("upstream_errors"), 1);
    bench.finish();
}

/// The response to `query` with an OPT record that holds a client subnet.
fn with_subnet(query: &[u8], data: &[u8]) -> Vec<u8> {
    let mut msg = response(query, 20);
    msg[11] = 1;
    let len = data.len() as u8;
    msg.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, len + 4, 0, 8, 0, len]);
    msg.extend_from_slice(data);
    msg
}

#[test]
fn the_fixed_client_subnet_is_sent_and_has_to_be_echoed() {
    let upstream = Upstream::start(|seen| {
        vec![
            with_subnet(&seen.msg, &[0, 1, 24, 24, 192, 0, 9]),
            with_subnet(&seen.msg, &[0, 1, 20, 20, 192, 0, 0]),
            with_subnet(&seen.msg, &[0, 2, 24, 24, 192, 0, 2]),
            with_subnet(&seen.msg, &[0, 1]),
            with_subnet(&seen.msg, &[0, 1, 24, 16, 192, 0, 2]),
        ]
    });
    let mut bench = Bench::new(ForwardOptions {
        client_subnet: Some(("192.0.2.255".parse().unwrap(), 24)),
        ..options(vec![upstream.address])
    });
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!(bench.count("rejected_subnet"), 4);
    let seen = &upstream.seen()[0].msg;
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11];
    let option = [0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2];
    assert_eq!(seen[seen.len() - 22..], [opt, option].concat());
    bench.finish();

    let generic = answers();
    let mut bench = Bench::new(ForwardOptions {
        client_subnet: Some(("2001:db8::".parse().unwrap(), 32)),
        ..options(vec![generic.address])
    });
    bench.submit(&query(9, "name", None), 1);
    assert!(
        answered(&bench.outcome()),
        "an upstream may not know subnets"
    );
    bench.finish();
}
