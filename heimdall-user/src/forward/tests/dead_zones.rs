//! Zones, upstreams and hosts that are dead.

use std::sync::atomic::Ordering;

use super::{
    overload::{ANSWERS, DOWN, FEW, MANY, REFUSES, REFUSES_MOST, SILENT, fickle},
    *,
};
use crate::dns::{TtlLimits, edns::ede};

#[test]
fn new_names_below_a_dead_zone_fail_at_once_until_a_probe_is_answered() {
    for below in ["", "a.b."] {
        let (upstream, mode) = fickle(REFUSES);
        let mut bench = Bench::new(options(vec![upstream.address]));
        let mut failures = 0;
        while bench.count("zone_failure_hits") == 0 {
            bench.submit_as(
                "192.0.2.1",
                &format!("{below}r{failures}.dead.example"),
                MANY,
                1,
            );
            bench.failure();
            failures += 1;
            assert!(failures < 100);
            // Something is answered meanwhile, or the upstream would count as failing.
            bench.submit_as("198.51.100.7", &format!("good{failures}.test"), FEW, 1);
            assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
        }
        assert_eq!(upstream.seen().len(), 2 * failures - 1);
        // Not its siblings, and not what is above it.
        assert!(bench.serves_others(20));
        bench.submit_as("192.0.2.1", "example", MANY, 1);
        assert!(answered(&bench.outcome()));
        let before = upstream.seen().len();
        mode.store(ANSWERS, Ordering::SeqCst);
        let deadline = Instant::now() + Duration::from_secs(30);
        for i in 0.. {
            assert!(Instant::now() < deadline, "no probe was let through");
            bench.submit_as("192.0.2.1", &format!("{below}p{i}.dead.example"), MANY, 1);
            let outcome = bench.outcome();
            if answered(&outcome) {
                break;
            }
            let answer = outcome.answer.as_ref().as_ref();
            assert_eq!(answer.ede(), Some(ede::CACHED_ERROR));
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(upstream.seen().len(), before + 1, "the probe");
        for i in 0..20 {
            bench.submit_as("192.0.2.1", &format!("{below}n{i}.dead.example"), MANY, 1);
            assert!(answered(&bench.outcome()));
        }
        bench.finish();
    }
}

#[test]
fn a_silent_zone_is_found_dead_while_others_are_answered() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(with_short_timeout(vec![upstream.address]));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut token = 0;
    while bench.count("zone_failure_hits") < 100 {
        assert!(Instant::now() < deadline, "it is not found dead");
        token += 1;
        bench.submit_as("192.0.2.1", &format!("r{token}.dead.example"), MANY, token);
        bench.submit_as("198.51.100.7", &format!("good{token}.example"), FEW, token);
        assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
        thread::sleep(Duration::from_millis(5));
    }
    drop(bench.forwarder);
}

#[test]
fn a_zone_is_found_dead_although_all_its_look_ups_are_shed() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(ForwardOptions {
        max_in_flight: 64,
        // Settled after half a minute; shed long before.
        attempts: 100,
        ..with_short_timeout(vec![upstream.address])
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut token = 0;
    while bench.count("zone_failure_hits") == 0 {
        assert!(Instant::now() < deadline, "it is not found dead");
        token += 1;
        bench.submit_as("192.0.2.1", &format!("r{token}.dead.example"), MANY, token);
        // Others are answered, or the upstream would count as failing.
        if token % 8 == 0 {
            bench.submit_as("198.51.100.7", &format!("good{token}.example"), FEW, token);
            assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
        }
        thread::sleep(Duration::from_millis(10));
    }
    drop(bench.forwarder);
}

#[test]
fn cached_names_are_looked_up_below_a_dead_zone() {
    for mode_of_zone in [REFUSES, REFUSES_MOST] {
        cached_name_below_a_dead_zone(mode_of_zone);
    }
}

fn cached_name_below_a_dead_zone(mode_of_zone: u8) {
    let (upstream, mode) = fickle(ANSWERS);
    let mut bench = Bench::new(ForwardOptions {
        limits: TtlLimits {
            max: 3,
            ..TtlLimits::default()
        },
        ..options(vec![upstream.address])
    });
    bench.submit_as("192.0.2.1", "www.dead.example", MANY, 1);
    assert!(answered(&bench.outcome()));
    thread::sleep(Duration::from_millis(3_100));
    mode.store(mode_of_zone, Ordering::SeqCst);
    for i in 0..18 {
        bench.submit_as("192.0.2.1", &format!("r{i}.dead.example"), MANY, 1);
        bench.failure();
        bench.submit_as("198.51.100.7", &format!("good{i}.test"), FEW, 1);
        assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
    }
    assert_eq!(bench.count("zone_failure_hits"), 1);
    let before = upstream.seen().len();
    // The second time the failure is remembered, or the answer.
    for token in 2..4 {
        bench.submit_as("192.0.2.1", "www.dead.example", MANY, token);
        let outcome = bench.outcome();
        assert!(answered(&outcome));
        let stale = (mode_of_zone == REFUSES).then_some(ede::STALE);
        assert_eq!(outcome.answer.as_ref().as_ref().ede(), stale);
        assert_eq!(upstream.seen().len(), before + 1);
    }
    // An answer ends the failure of the zone, and its new names are looked up again.
    bench.submit_as("192.0.2.1", "new.dead.example", MANY, 4);
    bench.failure();
    let hits = if mode_of_zone == REFUSES { 2 } else { 1 };
    assert_eq!(bench.count("zone_failure_hits"), hits);
    bench.finish();
}

#[test]
fn an_outage_is_no_failure_of_names_and_zones() {
    let (upstream, mode) = fickle(DOWN);
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(20),
        attempts: 1,
        ..options(vec![upstream.address])
    });
    // The same name again and again.
    for _ in 0..4 {
        bench.submit_as("192.0.2.1", "name.zone.example", MANY, 1);
        assert_eq!(bench.failure(), (Some(ede::NO_REACHABLE_AUTHORITY), 1));
        thread::sleep(Duration::from_millis(1_050));
    }
    // Many names of one zone, all of which may be asked as soon as anything is answered.
    for i in 0..50 {
        bench.submit_as("192.0.2.1", &format!("r{i}.zone.example"), MANY, 1);
        bench.failure();
    }
    assert_eq!(bench.count("zone_failure_hits"), 0);
    mode.store(ANSWERS, Ordering::SeqCst);
    assert!(bench.serves_others(1));
    for i in 0..50 {
        bench.submit_as("192.0.2.1", &format!("r{i}.zone.example"), MANY, 1);
        assert!(answered(&bench.outcome()), "r{i} after the outage");
    }
    bench.finish();
}

#[test]
fn errors_of_this_host_are_no_failures_of_the_name() {
    // The kernel refuses to send there without SO_BROADCAST (EACCES).
    let forbidden = "255.255.255.255:53".parse().unwrap();
    let (upstream, _) = fickle(REFUSES);
    let mut bench = Bench::new(options(vec![forbidden, closed_address()]));
    for _ in 0..4 {
        bench.submit_as("192.0.2.1", "name.zone.example", MANY, 1);
        assert_eq!(bench.failure(), (Some(ede::NETWORK_ERROR), 0));
    }
    assert_eq!(bench.count("failure_hits"), 0);
    bench.finish();
    // An upstream's response counts, whether or not the others respond. But they may, so fronts ask again soon.
    let mut bench = Bench::new(options(vec![forbidden, upstream.address]));
    for (code, ttl) in [
        (ede::NO_REACHABLE_AUTHORITY, 1),
        (ede::NO_REACHABLE_AUTHORITY, 1),
        (ede::CACHED_ERROR, 0),
    ] {
        bench.submit_as("192.0.2.1", "dead.zone.example", MANY, 1);
        assert_eq!(bench.failure(), (Some(code), ttl));
        thread::sleep(Duration::from_millis(1_050));
    }
    bench.finish();
}
