//! Samplers, rings and the observer together.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::*;
use crate::exit::OnExit;

const CLIENT: Ipv6Addr = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();

fn query(name: &str) -> Vec<u8> {
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    query.push(name.len() as u8);
    query.extend_from_slice(name.as_bytes());
    query.extend_from_slice(b"\0\0\x01\0\x01");
    query
}

/// Counts queries, and samples those that are due.
fn ask(tap: &mut Tap, queries: usize) -> usize {
    let mut sampled = 0;
    for number in 0..queries {
        if tap.is_due() {
            sampled += 1;
            let query = query(&format!("n{}", number % 4));
            tap.begin_client(&query, CLIENT, (Protocol::Udp, Some(4000)), Instant::now());
            tap.end_client(Some(&query), Origin::Hit);
        }
    }
    sampled
}

fn all(rate: u32) -> Rates {
    Rates {
        log: Some(Rate::one_in(rate)),
        ..Rates::default()
    }
}

#[test]
fn a_full_ring_drops_and_counts_and_an_empty_one_takes_again() {
    let taps = Taps::new(all(1));
    let mut tap = taps.front();
    assert_eq!(ask(&mut tap, 1000), 1000);
    assert_eq!(taps.dropped(rate::LOG) as usize, 1000 - ring::SAMPLES);
    assert_eq!(taps.dropped(rate::POPULAR), 0);
    let mut names = Vec::new();
    let most = taps.drain(|sample| names.push(sample.question().unwrap().name.to_vec()));
    assert_eq!((most, names.len()), (ring::SAMPLES, ring::SAMPLES));
    assert_eq!(names[1], b"\x02n1\0");
    ask(&mut tap, 10);
    assert_eq!(taps.drain(|_| ()), 10);
    assert_eq!(taps.dropped(rate::LOG) as usize, 1000 - ring::SAMPLES);
}

#[test]
fn a_query_that_waits_is_sampled_with_its_reply() {
    let taps = Taps::new(all(1));
    let mut tap = taps.front();
    let received = Instant::now();
    assert!(tap.is_due() && tap.begin_client(&query("a"), CLIENT, (Protocol::Tls, None), received));
    let parked = tap.park().unwrap();
    assert!(tap.park().is_none());
    assert_eq!(taps.drain(|_| ()), 0);
    // Others go on meanwhile.
    ask(&mut tap, 5);
    assert_eq!(taps.drain(|_| ()), 5);
    let mut reply = query("a");
    reply[3] = 3;
    tap.end_parked(parked, Some(&reply), Origin::Miss);
    let mut seen = Vec::new();
    taps.drain(|sample| {
        let (rcode, origin, protocol) = (sample.rcode, sample.origin, sample.protocol);
        seen.push((
            rcode,
            origin,
            protocol,
            sample.queried,
            sample.replied.is_some(),
        ));
    });
    assert_eq!(seen, [(3, Origin::Miss, Protocol::Tls, received, true)]);
}

#[test]
fn the_samples_of_a_thread_that_ended_are_taken_and_its_ring_is_freed() {
    let taps = Taps::new(all(1));
    let mut tap = taps.front();
    ask(&mut tap, 3);
    drop(tap);
    let mut tap = taps.front();
    ask(&mut tap, 1);
    let mut count = 0;
    taps.drain(|_| count += 1);
    assert_eq!(count, 4);
    taps.drain(|_| ());
    assert_eq!(Arc::strong_count(tap.ring().unwrap()), 2);
    assert_eq!(taps.rings_len(), 1);
}

#[test]
fn what_was_dropped_is_counted_when_its_thread_has_ended() {
    let taps = Taps::new(all(1));
    let mut taps_of_threads = [taps.front(), taps.front()];
    for tap in &mut taps_of_threads {
        ask(tap, ring::SAMPLES + 5);
    }
    assert_eq!(taps.dropped(rate::LOG), 10);
    let [first, _second] = taps_of_threads;
    drop(first);
    for _ in 0..2 {
        taps.drain(|_| ());
    }
    assert_eq!(taps.rings_len(), 1);
    assert_eq!(taps.dropped(rate::LOG), 10);
    assert_eq!(taps.dropped(rate::DNSTAP), 0);
}

#[test]
fn a_tap_that_is_off_samples_nothing() {
    assert_eq!(ask(&mut Tap::default(), 100_000), 0);
    assert_eq!(ask(&mut Taps::default().front(), 100_000), 0);
    assert_eq!(ask(&mut Taps::new(all(1)).forwarder(), 100_000), 0);
}

#[test]
fn a_forwarders_messages_are_samples_of_their_own() {
    let taps = Taps::new(Rates {
        forwarder: Some(Rate::one_in(1)),
        ..Rates::default()
    });
    let mut tap = taps.forwarder();
    let upstream = "192.0.2.53:53".parse().unwrap();
    let udp = Protocol::Udp;
    let (sent, waited) = (Instant::now(), Duration::from_millis(20));
    assert!(tap.is_due() && tap.forwarder_query(&query("a"), upstream, udp, sent));
    tap.forwarder_response(&query("a"), upstream, udp, [sent, sent + waited]);
    let mut seen = Vec::new();
    taps.drain(|sample| {
        seen.push((
            sample.question().is_some(),
            sample.query().is_some(),
            sample.reply().is_some(),
            sample.queried,
            sample.took(),
        ));
    });
    assert_eq!(seen[0], (true, true, false, sent, None));
    assert_eq!(seen[1], (true, true, true, sent, Some(waited)));
}

/// An observer that writes to files in a directory.
fn observer(directory: &Path) -> (Arc<Observations>, Observer) {
    let options = TapOptions {
        dnstap: Some(DnstapOptions {
            target: DnstapTarget::File(directory.join("dnstap")),
            rate: Rate::one_in(1),
            messages: vec![MessageKind::ClientQuery, MessageKind::ClientResponse],
            identity: None,
            version: "Heimdall".to_owned(),
        }),
        query_log: Some(QueryLogOptions {
            rate: Rate::one_in(2),
            file: Some(directory.join("log")),
        }),
    };
    let observations = Arc::new(Observations::new(&options));
    let observer = Observer::start(&options, Arc::clone(&observations), OnExit::default());
    (observations, observer.unwrap())
}

fn statistics(observations: &Observations) -> Value {
    let mut fields = Map::new();
    observations.insert_into(&mut fields);
    Value::Object(fields)
}

#[test]
fn each_output_gets_its_share() {
    /// As many as a ring holds, three times: there is a sample for the popular names among them in any case.
    const ROUND: u64 = 400;
    const QUERIES: u64 = 3 * ROUND;
    let directory = tempfile::tempdir().unwrap();
    let (observations, observer) = observer(directory.path());
    let mut tap = observations.taps().front();
    let end = Instant::now() + Duration::from_secs(20);
    for round in 1..=3 {
        ask(&mut tap, ROUND as usize);
        // Two frames for each query.
        while statistics(&observations)["dnstap"]["written"] != 2 * ROUND * round {
            assert!(Instant::now() < end, "{}", statistics(&observations));
            thread::sleep(Duration::from_millis(5));
        }
    }
    // What comes last is written, too.
    ask(&mut tap, 1);
    drop(observer);
    let statistics = statistics(&observations);
    assert_eq!(statistics["dnstap"]["written"], 2 * QUERIES + 2);
    assert_eq!(
        (
            &statistics["dnstap"]["dropped"],
            &statistics["query_log"]["dropped"]
        ),
        (&0.into(), &0.into())
    );
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let lines = log.lines().count() as u64;
    assert_eq!(statistics["query_log"]["written"], lines);
    assert!(
        (QUERIES / 4..QUERIES).contains(&lines),
        "{lines} lines for 1 in 2"
    );
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["client"], &line["how"], &line["type"]),
            (&"192.0.2.1".into(), &"hit".into(), &"A".into())
        );
    }
    let popular = &statistics["popular"];
    assert_eq!(
        (&popular["one_in"], &popular["dropped"]),
        (&256.into(), &0.into())
    );
    assert!(popular["sampled"].as_u64() > Some(0), "{popular}");
    assert_eq!(popular["clients"][0]["name"], "192.0.2.1");
}
