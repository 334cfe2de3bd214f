//! From an upstream's response to a cached answer: accepted records, and TTLs.

use super::*;
use crate::dns::edns::ede;

/// `msg` with an OPT record that holds this Extended DNS Error.
fn explained(mut msg: Vec<u8>, info_code: u8) -> Vec<u8> {
    msg[11] += 1;
    msg.extend_from_slice(&[
        0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, info_code,
    ]);
    msg
}

/// A response of one TXT record whose string is longer than the data.
fn broken(query: &[u8]) -> Vec<u8> {
    let mut msg = response(query, 1);
    let at = msg.len() - 2;
    msg[at] = 9;
    msg
}

#[test]
fn after_a_broken_answer_the_next_upstream_is_asked() {
    let bad = Upstream::start(|seen| vec![broken(&seen.msg)]);
    let good = answers();
    let mut bench = Bench::new(options(vec![bad.address, good.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    assert_eq!((bad.seen().len(), good.seen().len()), (1, 1));
    assert_eq!(bench.count("rejected_malformed"), 1);
    assert_eq!(bench.count("timeouts"), 0, "at once");
    bench.finish();
}

#[test]
fn an_alias_without_its_target_is_not_cached() {
    let upstream = Upstream::start(|seen| {
        let mut msg = bare(&seen.msg, 0);
        msg[7] = 1;
        msg.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\x0e\x10\0\x04\x01t\xc0\x0c");
        vec![msg]
    });
    let mut bench = Bench::new(ForwardOptions {
        follow_aliases: false,
        ..options(vec![upstream.address])
    });
    for token in 0..2 {
        bench.submit(&query(9, "name", None), token);
        let outcome = bench.outcome();
        let answer = Answer::as_ref(&outcome.answer);
        assert_eq!((answer.ttl(), answer.first_ttl()), (0, Some(3_600)));
    }
    assert_eq!(upstream.seen().len(), 2);
    bench.finish();
}

#[test]
fn other_codes_come_from_the_first_upstream_that_gives_them() {
    let notauth = Upstream::start(|seen| vec![explained(bare(&seen.msg, 9), 20)]);
    let good = answers();
    let mut bench = Bench::new(options(vec![notauth.address, good.address]));
    for token in 0..2 {
        bench.submit(&query(9, "name", None), token);
        let outcome = bench.outcome();
        let answer = Answer::as_ref(&outcome.answer);
        assert_eq!((answer.rcode(), answer.ede()), (9, Some(20)));
        assert_eq!((answer.ttl(), answer.counts()), (0, [0; 6]));
    }
    assert_eq!((notauth.seen().len(), good.seen().len()), (2, 0));
    bench.finish();
}

#[test]
fn an_upstreams_extended_error_is_cached_with_its_answer() {
    let upstream = Upstream::start(|seen| vec![explained(response(&seen.msg, 20), 3)]);
    let mut bench = Bench::new(options(vec![upstream.address]));
    for token in 0..2 {
        bench.submit(&query(9, "name", None), token);
        let outcome = bench.outcome();
        let answer = Answer::as_ref(&outcome.answer);
        assert_eq!(answer.ede(), Some(ede::STALE));
        assert!(!answer.is_stale());
    }
    assert_eq!(upstream.seen().len(), 1, "cached");
    assert_eq!(bench.count("stale"), 0, "stale there, not here");
    bench.finish();
}
