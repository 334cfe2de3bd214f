//! Stale answers (RFC 8767).

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::{
    dns::{answer::STALE_TTL, edns::ede},
    forward::testing::denial,
};

const ANSWER: u8 = 0;
const FAIL: u8 = 1;
const SILENT: u8 = 2;
const DENY: u8 = 3;
/// Answers once the mode changes.
const SLOW: u8 = 4;
/// TC, over UDP and TCP.
const CUT: u8 = 5;

/// An upstream whose answers have a TTL of a second, and whose behaviour a test changes.
fn switchable() -> (Upstream, Arc<AtomicU8>) {
    let mode = Arc::<AtomicU8>::default();
    let mode_of_upstream = mode.clone();
    let upstream = Upstream::start(move |seen| {
        let mut good = response(&seen.msg, 20);
        let ttl = good.len() - 21 - 6;
        good[ttl..ttl + 4].copy_from_slice(&[0, 0, 0, 1]);
        match mode_of_upstream.load(Ordering::SeqCst) {
            FAIL => vec![server_failure(&seen.msg)],
            SILENT => Vec::new(),
            CUT => vec![bare(&seen.msg, 0x200)],
            DENY => vec![denial(&seen.msg, 1)],
            SLOW => {
                let deadline = Instant::now() + Duration::from_secs(20);
                while mode_of_upstream.load(Ordering::SeqCst) == SLOW && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(5));
                }
                vec![response(&seen.msg, 30)]
            }
            _ => vec![good],
        }
    });
    (upstream, mode)
}

/// Of an outcome: response code, Extended DNS Error, TTL, first record's TTL.
fn summary(outcome: &Outcome) -> (u8, Option<u16>, u32, Option<u32>) {
    let answer = outcome.answer.as_ref().as_ref();
    (
        answer.rcode(),
        answer.ede(),
        answer.ttl(),
        answer.first_ttl(),
    )
}

const STALE: (u8, Option<u16>, u32, Option<u32>) =
    (rcode::NOERROR, Some(ede::STALE), STALE_TTL, Some(STALE_TTL));

/// Lets an answer of one second expire.
fn wait() {
    thread::sleep(Duration::from_millis(1_100));
}

#[test]
fn after_a_failure_the_last_answer_is_served() {
    let (upstream, mode) = switchable();
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert_eq!(summary(&bench.outcome()), (0, None, 1, Some(1)));
    wait();
    mode.store(FAIL, Ordering::SeqCst);
    bench.submit(&query(9, "name", None), 2);
    assert_eq!(summary(&bench.outcome()), STALE);
    assert_eq!(upstream.seen().len(), 2);
    // Beyond the first time of a failure, and yet no new try.
    wait();
    mode.store(ANSWER, Ordering::SeqCst);
    bench.submit(&query(9, "name", None), 3);
    let (code, ede, ttl, first_ttl) = summary(&bench.outcome());
    assert_eq!((code, ede, first_ttl), (STALE.0, STALE.1, STALE.3));
    assert!(
        (1..STALE_TTL - 1).contains(&ttl),
        "{ttl}: until the next attempt"
    );
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(bench.count("stale"), 2);
    assert_eq!(bench.count("failure_hits"), 1);
    assert_eq!(bench.count("servfail"), 0);
    bench.finish();
}

#[test]
fn a_stale_answer_is_preferred_to_a_truncated_one() {
    let (upstream, mode) = switchable();
    let mut bench = Bench::new(options(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    assert!(answered(&bench.outcome()));
    wait();
    mode.store(CUT, Ordering::SeqCst);
    bench.submit(&query(9, "name", None), 2);
    assert_eq!(summary(&bench.outcome()), STALE);
    bench.finish();
}

#[test]
fn clients_do_not_wait_for_a_slow_upstream() {
    let (upstream, mode) = switchable();
    let mut bench = Bench::new(ForwardOptions {
        client_response_timeout: Duration::from_millis(200),
        ..options(vec![upstream.address])
    });
    bench.submit(&query(9, "name", None), 1);
    bench.outcome();
    wait();
    mode.store(SLOW, Ordering::SeqCst);
    let asked = Instant::now();
    bench.submit(&query(9, "name", None), 2);
    bench.submit(&query(9, "name", None), 3);
    let both = bench.outcomes(0, 2);
    assert!(asked.elapsed() >= Duration::from_millis(200));
    // No front caches it for longer than the look-up may take.
    let meanwhile = (STALE.0, STALE.1, 1, STALE.3);
    assert!(both.iter().all(|outcome| summary(outcome) == meanwhile));
    // The look-up continues; later queries do not wait for it either.
    bench.submit(&query(9, "name", None), 4);
    assert_eq!(summary(&bench.outcome()), meanwhile);
    assert_eq!(bench.count("answers"), 1);
    mode.store(ANSWER, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.count("answers") < 2 {
        assert!(Instant::now() < deadline, "no answer");
        thread::sleep(Duration::from_millis(1));
    }
    bench.submit(&query(9, "name", None), 5);
    let (code, ede, ttl, _) = summary(&bench.outcome());
    assert_eq!((code, ede), (0, None), "the new answer");
    assert!((200..=300).contains(&ttl));
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(bench.count("stale"), 3);
    bench.finish();
}

#[test]
fn without_an_earlier_answer_clients_wait() {
    let (upstream, mode) = switchable();
    mode.store(SLOW, Ordering::SeqCst);
    let mut bench = Bench::new(ForwardOptions {
        client_response_timeout: Duration::from_millis(50),
        ..options(vec![upstream.address])
    });
    bench.submit(&query(9, "name", None), 1);
    thread::sleep(Duration::from_millis(150));
    assert!(bench.mailboxes[0].take().is_none());
    mode.store(ANSWER, Ordering::SeqCst);
    assert_eq!(summary(&bench.outcome()), (0, None, 300, Some(300)));
    bench.finish();
}

#[test]
fn denials_end_staleness_and_go_stale() {
    let (upstream, mode) = switchable();
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    bench.submit(&query(9, "name", None), 1);
    bench.outcome();
    wait();
    mode.store(DENY, Ordering::SeqCst);
    bench.submit(&query(9, "name", None), 2);
    assert_eq!(summary(&bench.outcome()), (3, None, 1, Some(1)));
    wait();
    mode.store(SILENT, Ordering::SeqCst);
    bench.submit(&query(9, "name", None), 3);
    // Fronts ask again soon: the upstream sends nothing, so this ends as soon as it does.
    let denied = (3, Some(ede::STALE_NXDOMAIN), 1, Some(STALE_TTL));
    assert_eq!(
        summary(&bench.outcome()),
        denied,
        "not the answer before it"
    );
    bench.finish();
}

#[test]
fn too_much_work_brings_the_last_answer() {
    let (upstream, mode) = switchable();
    let mut bench = Bench::new(ForwardOptions {
        max_in_flight: 1,
        ..options(vec![upstream.address])
    });
    bench.submit(&query(9, "name", None), 1);
    bench.outcome();
    wait();
    mode.store(SILENT, Ordering::SeqCst);
    bench.submit(&query(9, "name", None), 2);
    bench.submit(&query(9, "other", None), 3);
    let outcome = bench.outcome();
    assert_eq!(
        (outcome.token, summary(&outcome)),
        (2, STALE),
        "it was shed"
    );
    assert_eq!(bench.count("failure_hits"), 0);
    drop(bench.forwarder);
}
