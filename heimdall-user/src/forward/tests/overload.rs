//! More look-ups than the table holds.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::{dns::edns::ede, forward::testing::question};

/// The front of the client that overloads the forwarder, and that of the others.
pub(super) const MANY: u16 = 0;
pub(super) const FEW: u16 = 1;

/// An upstream's reaction to names that have a label `dead`; it answers others.
pub(super) const SILENT: u8 = 0;
pub(super) const REFUSES: u8 = 1;
pub(super) const ANSWERS: u8 = 2;
/// It responds to nothing.
pub(super) const DOWN: u8 = 3;
/// Refuses names that have a label `dead`, except for those with a label `www`.
pub(super) const REFUSES_MOST: u8 = 4;

pub(super) fn fickle(mode: u8) -> (Upstream, Arc<AtomicU8>) {
    let mode = Arc::new(AtomicU8::new(mode));
    let held = mode.clone();
    let upstream = Upstream::start(move |seen| {
        let is_dead = seen.msg.windows(5).any(|octets| octets == b"\x04dead");
        let is_known = seen.msg.windows(4).any(|octets| octets == b"\x03www");
        match (held.load(Ordering::SeqCst), is_dead) {
            (DOWN, _) | (SILENT, true) => Vec::new(),
            (REFUSES, true) => vec![server_failure(&seen.msg)],
            (REFUSES_MOST, true) if !is_known => vec![server_failure(&seen.msg)],
            _ => vec![response(&seen.msg, 20)],
        }
    });
    (upstream, mode)
}

impl Bench {
    pub(super) fn submit_as(&mut self, client: &str, name: &str, front: u16, token: u64) {
        let client = client.parse().unwrap();
        let request = self.request_of(client, &question(9, name), front, token);
        while self.handle.submit(request).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        self.handle.flush();
    }

    /// Whether new names that another client asks for are answered, one after another.
    pub(super) fn serves_others(&mut self, names: u64) -> bool {
        (0..names).all(|i| {
            self.submit_as("198.51.100.7", &format!("good{i}.example"), FEW, i);
            answered(&self.outcomes(FEW.into(), 1)[0])
        })
    }

    pub(super) fn drain(&self, front: u16) -> Vec<Outcome> {
        std::iter::from_fn(|| self.mailboxes[usize::from(front)].take()).collect()
    }

    /// The next failure: its Extended DNS Error, and the seconds that it may be repeated for.
    pub(super) fn failure(&self) -> (Option<u16>, u32) {
        let outcome = self.outcome();
        assert!(!answered(&outcome));
        let answer = outcome.answer.as_ref().as_ref();
        (answer.ede(), answer.ttl())
    }
}

/// The client and the name of a query, by its number.
type Attack = fn(u64) -> (String, String);

/// Attacks, and the holder whose quota each exceeds.
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
fn the_largest_holder_makes_room_for_others() {
    for (max_in_flight, queries) in [(16, 100), (256, 600)] {
        for (attack, query, quota) in ATTACKS {
            let (upstream, _) = fickle(SILENT);
            let mut bench = Bench::new(ForwardOptions {
                max_in_flight,
                ..options(vec![upstream.address])
            });
            for i in 0..queries {
                let (client, name) = query(i);
                bench.submit_as(&client, &name, MANY, i);
            }
            assert!(bench.serves_others(40), "{attack}, {max_in_flight}");
            for i in 0..queries {
                let (client, name) = query(queries + i);
                bench.submit_as(&client, &name, MANY, queries + i);
            }
            assert!(bench.serves_others(40), "{attack}, {max_in_flight}");
            for other in ["client", "zone", "oldest"] {
                let shed = bench.count(&format!("shed_{other}"));
                assert_eq!(
                    shed > 0,
                    other == quota,
                    "{attack}, {max_in_flight}: {shed} for {other}"
                );
            }
            assert!(bench.count("in_flight") <= max_in_flight as u64);
            for outcome in bench.drain(MANY) {
                let answer = outcome.answer.as_ref().as_ref();
                assert_eq!(answer.ede(), Some(ede::NOT_READY));
                assert_eq!(answer.ttl(), 0, "it may be forwarded again");
            }
            drop(bench.forwarder);
        }
    }
}

#[test]
fn a_flood_through_tables_of_the_default_sizes() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(options(vec![upstream.address]));
    for i in 0..6000 {
        bench.submit_as("192.0.2.1", &format!("r{i}.dead.example"), MANY, i);
        bench.drain(MANY);
    }
    // On the flooded front, too.
    bench.submit_as("198.51.100.7", "www.good.example", MANY, 9000);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !bench
        .drain(MANY)
        .iter()
        .any(|outcome| outcome.token == 9000 && answered(outcome))
    {
        assert!(Instant::now() < deadline, "no answer");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(bench.serves_others(40));
    assert!(bench.count("shed_client") > 0);
    drop(bench.forwarder);
}

#[test]
fn the_look_ups_of_others_are_not_shed() {
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
        let mut bench = Bench::new(ForwardOptions {
            max_in_flight: 64,
            attempt_timeout: Duration::from_secs(60),
            ..options(vec![slow.address])
        });
        for i in 0..4 {
            bench.submit_as(
                "198.51.100.7",
                &format!("slow.{i}.{}.example", attack.2),
                FEW,
                i,
            );
        }
        for i in 0..1000 {
            let (client, name) = attack.1(i);
            bench.submit_as(&client, &name, MANY, i);
        }
        bench.outcomes(MANY.into(), 900);
        assert!(bench.drain(FEW).is_empty(), "{}", attack.0);
        mode.store(ANSWERS, Ordering::SeqCst);
        assert!(bench.outcomes(FEW.into(), 4).iter().all(answered));
        drop(bench.forwarder);
    }
}

#[test]
fn new_names_of_the_same_client_are_served_too() {
    let (upstream, _) = fickle(SILENT);
    let mut bench = Bench::new(ForwardOptions {
        max_in_flight: 64,
        ..options(vec![upstream.address])
    });
    for i in 0..500 {
        bench.submit_as("198.51.100.1", &format!("r{i}.dead.example"), MANY, i);
    }
    assert!(bench.serves_others(40));
    drop(bench.forwarder);
}

#[test]
fn a_front_is_never_full() {
    for threads in [1, 2] {
        let (upstream, _) = fickle(SILENT);
        let mut bench = Bench::with_capacity(
            256,
            ForwardOptions {
                threads,
                ..options(vec![upstream.address])
            },
        );
        for i in 0..2000 {
            bench.submit_as("192.0.2.1", &format!("r{i}.dead.example"), MANY, i);
            bench.drain(MANY);
            if i % 100 == 99 {
                assert!(bench.serves_others(3));
            }
        }
        assert!(bench.count("in_flight") <= 256);
        // The same front takes another client's.
        bench.submit_as("198.51.100.7", "good.example", MANY, 5000);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !bench
            .drain(MANY)
            .iter()
            .any(|outcome| outcome.token == 5000 && answered(outcome))
        {
            assert!(
                Instant::now() < deadline,
                "no answer with {threads} threads"
            );
            thread::sleep(Duration::from_millis(1));
        }
        assert!(bench.count("shed_client") > 0);
        drop(bench.forwarder);
    }
}

#[test]
fn one_name_holds_at_most_half_of_a_front() {
    let (upstream, _) = fickle(SILENT);
    // However slow the machine is, no look-up ends before the others are served.
    let options = ForwardOptions {
        attempt_timeout: Duration::from_secs(60),
        ..options(vec![upstream.address])
    };
    let mut bench = Bench::with_capacity(256, options);
    for i in 0..300 {
        // Requests that have not been taken yet would count as waiting, and crowd the front.
        while bench.count("requests") < i {
            thread::sleep(Duration::from_millis(1));
        }
        bench.submit_as(
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
    drop(bench.forwarder);
}
