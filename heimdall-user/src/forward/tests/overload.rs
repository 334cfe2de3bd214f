//! More look-ups than there is room for, and zones, upstreams and hosts that are dead.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::{
    dns::{TtlLimits, edns::ede},
    forward::testing::question,
};

/// Front of the client that asks too much, and of the others.
const MANY: u16 = 0;
const FEW: u16 = 1;

/// What an upstream does with names that have a label `dead`, and with others.
const SILENT: u8 = 0;
const REFUSES: u8 = 1;
const ANSWERS: u8 = 2;
/// Silent to everything.
const DOWN: u8 = 3;
/// Refuses names that have a label `dead`, but for those with a label `www`.
const REFUSES_MOST: u8 = 4;

fn fickle(mode: u8) -> (Upstream, Arc<AtomicU8>) {
    let mode = Arc::new(AtomicU8::new(mode));
    let held = mode.clone();
    let upstream = Upstream::start(move |seen| {
        let is_dead = seen.msg.windows(5).any(|octets| octets == b"\x04dead");
        let is_known = seen.msg.windows(4).any(|octets| octets == b"\x03www");
        match (held.load(Ordering::SeqCst), is_dead) {
            (DOWN, _) | (SILENT, true) => Vec::new(),
            (REFUSES, true) => vec![bare(&seen.msg, 2)],
            (REFUSES_MOST, true) if !is_known => vec![bare(&seen.msg, 2)],
            _ => vec![response(&seen.msg, 20)],
        }
    });
    (upstream, mode)
}

impl Bench {
    fn ask_as(&mut self, client: &str, name: &str, front: u16, token: u64) {
        let client = client.parse().unwrap();
        let request = self.request_of(client, &question(9, name), front, token);
        while self.handle.submit(request).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        self.handle.flush();
    }

    /// Whether new names that another client asks for are answered, one after another.
    fn serves_others(&mut self, names: u64) -> bool {
        (0..names).all(|i| {
            self.ask_as("198.51.100.7", &format!("good{i}.example"), FEW, i);
            answered(&self.outcomes(FEW.into(), 1)[0])
        })
    }

    fn drain(&self, front: u16) -> Vec<Outcome> {
        std::iter::from_fn(|| self.mailboxes[usize::from(front)].take()).collect()
    }

    /// The next failure: its Extended DNS Error, and the seconds that it may be repeated for.
    fn failure(&self) -> (Option<u16>, u32) {
        let outcome = self.outcome();
        assert!(!answered(&outcome));
        let answer = outcome.answer.as_ref().as_ref();
        (answer.ede(), answer.ttl())
    }
}

/// The client and the name of a query, by its number.
type Attack = fn(u64) -> (String, String);

/// Attacks, and whose quota each exceeds.
const ATTACKS: [(&str, Attack, &str); 8] = [
    (
        "one zone",
        |i| ("192.0.2.1".into(), format!("r{i}.dead.example")),
        "client",
    ),
    (
        "deep names",
        |i| ("192.0.2.1".into(), format!("a.b.r{i}.dead.example")),
        "client",
    ),
    (
        "very deep names",
        |i| {
            (
                "192.0.2.1".into(),
                format!("r{i}.{}dead.example", "a.".repeat(100)),
            )
        },
        "client",
    ),
    (
        "many zones",
        |i| ("192.0.2.1".into(), format!("www.dead.z{i}.example")),
        "client",
    ),
    (
        "one IPv4 prefix",
        |i| {
            (
                format!("192.0.2.{}", i % 256),
                format!("www.dead.z{i}.example"),
            )
        },
        "client",
    ),
    (
        "one IPv6 prefix",
        |i| {
            (
                format!("2001:db8:0:{:x}::{i:x}", i % 256),
                format!("www.dead.z{i}.example"),
            )
        },
        "client",
    ),
    (
        "many clients, one zone",
        |i| {
            (
                format!("10.{}.{}.1", i / 256, i % 256),
                format!("r{i}.dead.example"),
            )
        },
        "zone",
    ),
    (
        "many IPv6 prefixes, one zone",
        |i| {
            (
                format!("2001:db8:{i:x}:100::1"),
                format!("r{i}.dead.example"),
            )
        },
        "zone",
    ),
];

#[test]
fn whoever_holds_most_makes_room_for_others() {
    for (room, queries) in [(16, 100), (256, 600)] {
        for (attack, query, quota) in ATTACKS {
            let (upstream, _) = fickle(SILENT);
            let mut bench = Bench::new(Settings {
                max_in_flight: room,
                ..settings(vec![upstream.address])
            });
            for i in 0..queries {
                let (client, name) = query(i);
                bench.ask_as(&client, &name, MANY, i);
            }
            assert!(bench.serves_others(40), "{attack}, {room}");
            for i in 0..queries {
                let (client, name) = query(queries + i);
                bench.ask_as(&client, &name, MANY, queries + i);
            }
            assert!(bench.serves_others(40), "{attack}, {room}");
            for other in ["client", "zone", "oldest"] {
                let shed = bench.count(&format!("shed_{other}"));
                assert_eq!(
                    shed > 0,
                    other == quota,
                    "{attack}, {room}: {shed} for {other}"
                );
            }
            assert!(bench.count("in_flight") <= room as u64);
            for outcome in bench.drain(MANY) {
                let answer = outcome.answer.as_ref().as_ref();
                assert_eq!(answer.ede(), Some(ede::NOT_READY));
                assert_eq!(answer.ttl(), 0, "it may be asked again");
            }
            bench.forwarder.stop();
        }
    }
}

#[test]
fn a_flood_through_tables_of_the_default_sizes() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(settings(vec![upstream.address]));
    for i in 0..6000 {
        bench.ask_as("192.0.2.1", &format!("r{i}.dead.example"), MANY, i);
        bench.drain(MANY);
    }
    // On the flooded front, too.
    bench.ask_as("198.51.100.7", "www.good.example", MANY, 9000);
    let patience = Instant::now() + Duration::from_secs(30);
    while !bench
        .drain(MANY)
        .iter()
        .any(|outcome| outcome.token == 9000 && answered(outcome))
    {
        assert!(Instant::now() < patience, "no answer");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(bench.serves_others(40));
    assert!(bench.count("shed_client") > 0);
    bench.forwarder.stop();
}

#[test]
fn the_look_ups_of_others_stay() {
    // Slow names are answered when the flood is over.
    let (upstream, mode) = fickle(SILENT);
    let slow = Upstream::start({
        let mode = mode.clone();
        move |seen| {
            if seen.msg.windows(5).any(|octets| octets == b"\x04slow") {
                while mode.load(Ordering::SeqCst) != ANSWERS {
                    thread::sleep(Duration::from_millis(5));
                }
                return vec![response(&seen.msg, 20)];
            }
            Vec::new()
        }
    });
    drop(upstream);
    for attack in [ATTACKS[0], ATTACKS[6]] {
        mode.store(SILENT, Ordering::SeqCst);
        let mut bench = Bench::new(Settings {
            max_in_flight: 64,
            attempt_timeout: Duration::from_secs(60),
            ..settings(vec![slow.address])
        });
        for i in 0..4 {
            bench.ask_as(
                "198.51.100.7",
                &format!("slow.{i}.{}.example", attack.2),
                FEW,
                i,
            );
        }
        for i in 0..1000 {
            let (client, name) = attack.1(i);
            bench.ask_as(&client, &name, MANY, i);
        }
        bench.outcomes(MANY.into(), 900);
        assert!(bench.drain(FEW).is_empty(), "{}", attack.0);
        mode.store(ANSWERS, Ordering::SeqCst);
        assert!(bench.outcomes(FEW.into(), 4).iter().all(answered));
        bench.forwarder.stop();
    }
}

#[test]
fn new_names_of_the_same_client_are_served_too() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(Settings {
        max_in_flight: 64,
        ..settings(vec![upstream.address])
    });
    for i in 0..500 {
        bench.ask_as("198.51.100.1", &format!("r{i}.dead.example"), MANY, i);
    }
    assert!(bench.serves_others(40));
    bench.forwarder.stop();
}

#[test]
fn a_front_keeps_room() {
    for threads in [1, 2] {
        let (upstream, _) = fickle(SILENT);
        let mut bench = Bench::with_room(
            256,
            Settings {
                threads,
                ..settings(vec![upstream.address])
            },
        );
        for i in 0..2000 {
            bench.ask_as("192.0.2.1", &format!("r{i}.dead.example"), MANY, i);
            bench.drain(MANY);
            if i % 100 == 99 {
                assert!(bench.serves_others(3));
            }
        }
        assert!(bench.count("in_flight") <= 256);
        // The same front takes another client's.
        bench.ask_as("198.51.100.7", "good.example", MANY, 5000);
        let patience = Instant::now() + Duration::from_secs(30);
        while !bench
            .drain(MANY)
            .iter()
            .any(|outcome| outcome.token == 5000 && answered(outcome))
        {
            assert!(
                Instant::now() < patience,
                "no answer with {threads} threads"
            );
            thread::sleep(Duration::from_millis(1));
        }
        assert!(bench.count("shed_client") > 0);
        bench.forwarder.stop();
    }
}

#[test]
fn one_name_holds_half_of_a_front_at_most() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::with_room(256, settings(vec![upstream.address]));
    for i in 0..300 {
        bench.ask_as(
            &format!("10.{}.{}.1", i / 256, i % 256),
            "www.dead.example",
            MANY,
            i,
        );
    }
    let turned_down = bench.outcomes(MANY.into(), 300 - 128);
    assert!(turned_down.iter().all(|outcome| !answered(outcome)));
    assert!(bench.serves_others(40));
    assert!(bench.drain(MANY).is_empty(), "the others wait");
    bench.forwarder.stop();
}

#[test]
fn new_names_below_a_dead_zone_fail_at_once_until_a_probe_is_answered() {
    for below in ["", "a.b."] {
        let (upstream, mode) = fickle(REFUSES);
        let mut bench = Bench::new(settings(vec![upstream.address]));
        let mut failures = 0;
        while bench.count("zone_failure_hits") == 0 {
            bench.ask_as(
                "192.0.2.1",
                &format!("{below}r{failures}.dead.example"),
                MANY,
                1,
            );
            bench.failure();
            failures += 1;
            assert!(failures < 100);
            // Something is answered meanwhile, or else the upstream would be to blame.
            bench.ask_as("198.51.100.7", &format!("good{failures}.test"), FEW, 1);
            assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
        }
        assert_eq!(upstream.seen().len(), 2 * failures - 1);
        // Not its siblings, and not what is above it.
        assert!(bench.serves_others(20));
        bench.ask_as("192.0.2.1", "example", MANY, 1);
        assert!(answered(&bench.outcome()));
        let before = upstream.seen().len();
        mode.store(ANSWERS, Ordering::SeqCst);
        let patience = Instant::now() + Duration::from_secs(30);
        for i in 0.. {
            assert!(Instant::now() < patience, "no probe was let through");
            bench.ask_as("192.0.2.1", &format!("{below}p{i}.dead.example"), MANY, 1);
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
            bench.ask_as("192.0.2.1", &format!("{below}n{i}.dead.example"), MANY, 1);
            assert!(answered(&bench.outcome()));
        }
        bench.finish();
    }
}

#[test]
fn a_silent_zone_is_found_dead_while_others_are_answered() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(impatient(vec![upstream.address]));
    let patience = Instant::now() + Duration::from_secs(60);
    let mut token = 0;
    while bench.count("zone_failure_hits") < 100 {
        assert!(Instant::now() < patience, "it is not found dead");
        token += 1;
        bench.ask_as("192.0.2.1", &format!("r{token}.dead.example"), MANY, token);
        bench.ask_as("198.51.100.7", &format!("good{token}.example"), FEW, token);
        assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
        thread::sleep(Duration::from_millis(5));
    }
    bench.forwarder.stop();
}

#[test]
fn a_zone_is_found_dead_although_all_its_look_ups_are_shed() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(Settings {
        max_in_flight: 64,
        // Settled after half a minute; shed long before.
        attempts: 100,
        ..impatient(vec![upstream.address])
    });
    let patience = Instant::now() + Duration::from_secs(60);
    let mut token = 0;
    while bench.count("zone_failure_hits") == 0 {
        assert!(Instant::now() < patience, "it is not found dead");
        token += 1;
        bench.ask_as("192.0.2.1", &format!("r{token}.dead.example"), MANY, token);
        // Others are answered, or else the upstream would be to blame.
        if token % 8 == 0 {
            bench.ask_as("198.51.100.7", &format!("good{token}.example"), FEW, token);
            assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
        }
        thread::sleep(Duration::from_millis(10));
    }
    bench.forwarder.stop();
}

#[test]
fn names_that_are_known_are_looked_up_below_a_dead_zone() {
    for mode_of_zone in [REFUSES, REFUSES_MOST] {
        known_name_below_a_dead_zone(mode_of_zone);
    }
}

fn known_name_below_a_dead_zone(mode_of_zone: u8) {
    let (upstream, mode) = fickle(ANSWERS);
    let mut bench = Bench::new(Settings {
        limits: TtlLimits {
            max: 3,
            ..TtlLimits::default()
        },
        ..settings(vec![upstream.address])
    });
    bench.ask_as("192.0.2.1", "www.dead.example", MANY, 1);
    assert!(answered(&bench.outcome()));
    thread::sleep(Duration::from_millis(3_100));
    mode.store(mode_of_zone, Ordering::SeqCst);
    for i in 0..18 {
        bench.ask_as("192.0.2.1", &format!("r{i}.dead.example"), MANY, 1);
        bench.failure();
        bench.ask_as("198.51.100.7", &format!("good{i}.test"), FEW, 1);
        assert!(answered(&bench.outcomes(FEW.into(), 1)[0]));
    }
    assert_eq!(bench.count("zone_failure_hits"), 1);
    let before = upstream.seen().len();
    // The second time the failure is remembered, or the answer.
    for token in 2..4 {
        bench.ask_as("192.0.2.1", "www.dead.example", MANY, token);
        let outcome = bench.outcome();
        assert!(answered(&outcome));
        let stale = (mode_of_zone == REFUSES).then_some(ede::STALE);
        assert_eq!(outcome.answer.as_ref().as_ref().ede(), stale);
        assert_eq!(upstream.seen().len(), before + 1);
    }
    // An answer ends the failure of the zone, and its new names are looked up again.
    bench.ask_as("192.0.2.1", "new.dead.example", MANY, 4);
    bench.failure();
    let hits = if mode_of_zone == REFUSES { 2 } else { 1 };
    assert_eq!(bench.count("zone_failure_hits"), hits);
    bench.finish();
}

#[test]
fn an_outage_is_no_fault_of_names_and_zones() {
    let (upstream, mode) = fickle(DOWN);
    let mut bench = Bench::new(Settings {
        attempt_timeout: Duration::from_millis(20),
        attempts: 1,
        ..settings(vec![upstream.address])
    });
    // The same name again and again.
    for _ in 0..4 {
        bench.ask_as("192.0.2.1", "name.zone.example", MANY, 1);
        assert_eq!(bench.failure(), (Some(ede::NO_REACHABLE_AUTHORITY), 1));
        thread::sleep(Duration::from_millis(1_050));
    }
    // Many names of one zone, all of which may be asked as soon as anything is answered.
    for i in 0..50 {
        bench.ask_as("192.0.2.1", &format!("r{i}.zone.example"), MANY, 1);
        bench.failure();
    }
    assert_eq!(bench.count("zone_failure_hits"), 0);
    mode.store(ANSWERS, Ordering::SeqCst);
    assert!(bench.serves_others(1));
    for i in 0..50 {
        bench.ask_as("192.0.2.1", &format!("r{i}.zone.example"), MANY, 1);
        assert!(answered(&bench.outcome()), "r{i} after the outage");
    }
    bench.finish();
}

#[test]
fn errors_of_this_host_are_no_fault_of_the_name() {
    // The kernel refuses to send there: nobody has asked for broadcasts (EACCES).
    let forbidden = "255.255.255.255:53".parse().unwrap();
    let (upstream, _) = fickle(REFUSES);
    let mut bench = Bench::new(settings(vec![forbidden, closed_address()]));
    for _ in 0..4 {
        bench.ask_as("192.0.2.1", "name.zone.example", MANY, 1);
        assert_eq!(bench.failure(), (Some(ede::NETWORK_ERROR), 1));
        thread::sleep(Duration::from_millis(1_050));
    }
    bench.finish();
    // An upstream's word counts, whatever became of the others.
    let mut bench = Bench::new(settings(vec![forbidden, upstream.address]));
    for life in [1, 2] {
        bench.ask_as("192.0.2.1", "dead.zone.example", MANY, 1);
        assert_eq!(bench.failure(), (Some(ede::NO_REACHABLE_AUTHORITY), life));
        thread::sleep(Duration::from_millis(1_050));
    }
    bench.finish();
}
