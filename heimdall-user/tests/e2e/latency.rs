//! Latency as the server measures it: of hits, of misses and of the upstream.

use std::time::{Duration, Instant};

use lab::{ScriptedUpstream, Step, UPSTREAM, message};
use serde_json::Value;

use crate::{client::DnsClient, heimdall_without_tier, lab, recover::wait_for};

/// The upstream's.
const DELAY: Duration = Duration::from_millis(50);

/// Names that are asked for over AF_XDP, and as many over TCP.
const NAMES: u64 = 5;

/// Queries for each name after the first.
const HITS: u64 = 5;

fn micros(latency: &Value, of: &str) -> f64 {
    latency[of].as_f64().unwrap()
}

#[test]
fn misses_take_as_long_as_the_upstream_and_hits_do_not() {
    let Some(lab) = lab("misses_take_as_long_as_the_upstream") else {
        return;
    };
    let _upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, |received| {
        let query = received.message().unwrap();
        let answer = message::address(&query, 300, [192, 0, 2, 1]);
        vec![Step::Wait(DELAY), Step::Send(answer)]
    })
    .unwrap();
    let heimdall = heimdall_without_tier(&lab);
    let none = heimdall.stats().unwrap();
    assert_eq!(none["latency"]["hits"]["p50_us"], Value::Null);
    let client = DnsClient::v4(&lab);
    // From the client's send to its receipt: the server's part of it is shorter.
    let mut longest = Duration::ZERO;
    for number in 0..NAMES {
        let [udp, tcp] = ["u", "t"].map(|letter| format!("{letter}{number}.example A rd"));
        for _ in 0..=HITS {
            let sent = Instant::now();
            assert!(client.udp(&udp).starts_with("NOERROR "));
            let between = Instant::now();
            assert!(client.tcp(&tcp).starts_with("NOERROR "));
            longest = longest.max(between - sent).max(between.elapsed());
        }
    }
    // A reply is recorded once it is sent.
    let stats = wait_for(&heimdall, "recorded", |stats| {
        let latency = &stats["latency"];
        latency["hits"]["count"] == 2 * NAMES * HITS && latency["misses"]["count"] == 2 * NAMES
    });
    let (hits, misses) = (&stats["latency"]["hits"], &stats["latency"]["misses"]);
    let upstream = &stats["upstreams"][0];
    assert_eq!(upstream["address"], UPSTREAM);
    assert_eq!(upstream["latency"]["count"], 2 * NAMES);
    let delay = DELAY.as_micros() as f64;
    for slow in [misses, &upstream["latency"]] {
        assert!(micros(slow, "p50_us") >= delay, "{stats:#}");
        // It is the upper bound of a bucket, at most 15 % too much.
        let longest = 1.2 * longest.as_micros() as f64;
        assert!(micros(slow, "p50_us") < longest, "{longest}: {stats:#}");
        assert!(micros(slow, "max_us") >= micros(slow, "mean_us"));
    }
    assert!(micros(hits, "p50_us") < delay, "{stats:#}");
    for latency in [hits, misses] {
        let buckets = latency["buckets"].as_array().unwrap();
        let counts = buckets.iter().map(|bucket| bucket[1].as_u64().unwrap());
        assert_eq!(latency["count"], counts.sum::<u64>());
    }
}
