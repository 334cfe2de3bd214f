//! The names, types and clients that are queried most, of the last minutes.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use domain::base::{Name, iana::Rtype};
use serde_json::{Value, json};

use super::{rate::Rate, sample::Sample, sketch::Sketch};

/// Counters of each sketch. When all are in use, the key with the least count loses its own.
const COUNTERS: usize = 1024;

/// Keys of each kind that are shown.
const SHOWN: usize = 20;

/// The time after which a query counts half.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Half-lives after which all counts are divided, before a query's weight, which doubles with each, could get too
/// large for a float's precision.
const RESCALE: f64 = 30.0;

/// Bits of an IPv6 address by which clients are counted: hosts change the rest (RFC 8981).
const V6_BITS: u32 = 64;

/// Sketches of the samples.
///
/// Counts decay: instead of lowering them all, a later query weighs more, and what is shown is divided by the weight
/// that a query has now.
#[derive(Debug)]
pub(super) struct Popular {
    names: Sketch<Vec<u8>>,
    types: Sketch<u16>,
    clients: Sketch<IpAddr>,
    sampled: u64,
    rate: Option<Rate>,
    /// When a query weighed 1.
    began: Instant,
}

impl Popular {
    pub(super) fn new(rate: Option<Rate>, now: Instant) -> Self {
        Self {
            names: Sketch::new(COUNTERS),
            types: Sketch::new(COUNTERS),
            clients: Sketch::new(COUNTERS),
            sampled: 0,
            rate,
            began: now,
        }
    }

    /// Counts a query.
    pub(super) fn add(&mut self, sample: &Sample, now: Instant) {
        self.sampled += 1;
        let weight = self.weight_to_add(now);
        self.clients.add(&client(sample.peer()), weight);
        if let Some(question) = sample.question() {
            let mut name = question.name.to_vec();
            name.make_ascii_lowercase();
            self.names.add(name.as_slice(), weight);
            self.types.add(&question.qtype, weight);
        }
    }

    /// Counts so many queries that no front saw, for a question in wire form and lower case. Their clients are not
    /// known.
    pub(super) fn add_unsampled(&mut self, question: &[u8], queries: u64, now: Instant) {
        let Some((name, [t0, t1, _, _])) = question.split_last_chunk() else {
            return;
        };
        // As so many samples as there would have been.
        let Some(one_in) = self.rate.map(Rate::get) else {
            return;
        };
        let weight = self.weight_to_add(now) * queries as f64 / f64::from(one_in);
        self.names.add(name, weight);
        self.types.add(&u16::from_be_bytes([*t0, *t1]), weight);
    }

    /// What a query weighs that is added now.
    fn weight_to_add(&mut self, now: Instant) -> f64 {
        let weight = self.weight(now);
        // Before anything is added: after a thousand idle half-lives the weight is infinite, and no longer one to
        // count with.
        if weight >= RESCALE.exp2() {
            self.rescale(weight);
            self.began = now;
            return 1.0;
        }
        weight
    }

    /// Makes counts of queries that weigh 1 of those of queries that weigh `weight`.
    fn rescale(&mut self, weight: f64) {
        if weight.is_finite() {
            self.names.divide(weight);
            self.types.divide(weight);
            self.clients.divide(weight);
        } else {
            self.names = Sketch::new(COUNTERS);
            self.types = Sketch::new(COUNTERS);
            self.clients = Sketch::new(COUNTERS);
        }
    }

    /// What a query weighs.
    fn weight(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.began);
        (age.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }

    /// The most popular ones: `dropped` samples are missing. A count is of queries, not of samples, and one of a
    /// minute ago counts half.
    pub(super) fn json(&self, dropped: u64, now: Instant) -> Value {
        let one_in = self.rate.map(Rate::get);
        let scale = f64::from(one_in.unwrap_or_default()) / self.weight(now);
        let list = |keys: Vec<(String, f64)>| -> Vec<Value> {
            let counts = keys
                .into_iter()
                .map(|(name, weight)| (name, (weight * scale).round() as u64));
            let counts = counts.filter(|(_, count)| *count > 0);
            counts
                .map(|(name, count)| json!({ "name": name, "count": count }))
                .collect()
        };
        json!({
            "sampled": self.sampled,
            "one_in": one_in,
            "half_life": HALF_LIFE.as_secs(),
            "names": list(shown(&self.names, |name| name_text(name))),
            "types": list(shown(&self.types, |qtype| type_text(*qtype))),
            "clients": list(shown(&self.clients, client_text)),
            "dropped": dropped,
        })
    }
}

fn shown<K: Clone + Eq + std::hash::Hash>(
    sketch: &Sketch<K>,
    text: impl Fn(&K) -> String,
) -> Vec<(String, f64)> {
    let top = sketch.top(SHOWN);
    top.into_iter()
        .map(|(key, weight)| (text(key), weight))
        .collect()
}

/// A client as it is counted: an IPv4 address, or an IPv6 prefix.
fn client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX << V6_BITS).into(),
    }
}

fn client_text(client: &IpAddr) -> String {
    match client {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("{v6}/{V6_BITS}"),
    }
}

/// A name in the form of zone files (RFC 1035 section 5.1), with its last dot.
pub(super) fn name_text(wire: &[u8]) -> String {
    let name = Name::from_slice(wire).map(|name| name.fmt_with_dot().to_string());
    name.unwrap_or_default()
}

/// A type's mnemonic, or `TYPE` and its number (RFC 3597).
pub(super) fn type_text(qtype: u16) -> String {
    Rtype::from_int(qtype).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::tap::sample::HEAD;

    fn sample(client: &str, question: &[u8]) -> Sample {
        let mut sample = Sample::new(HEAD);
        let query = [&b"\0\0\x01\0\0\x01\0\0\0\0\0\0"[..], question].concat();
        sample.begin(1, &query, Instant::now());
        sample.peer = match client.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        sample
    }

    const A: &[u8] = b"\x01a\0\0\x01\0\x01";
    const B: &[u8] = b"\x01B\x01\"\0\0\x1c\0\x01";

    #[test]
    fn counts_are_of_queries_and_halve_in_a_minute() {
        let begin = Instant::now();
        let mut popular = Popular::new(Some(Rate::one_in(64)), begin);
        for _ in 0..100 {
            popular.add(&sample("192.0.2.1", A), begin);
        }
        popular.add(&sample("2001:db8::1", B), begin);
        popular.add(&sample("2001:db8::2", b"\xc0\x0c"), begin);
        let json = popular.json(3, begin);
        assert_eq!(
            (&json["sampled"], &json["one_in"], &json["dropped"]),
            (&json!(102), &json!(64), &json!(3))
        );
        assert_eq!(
            json["names"],
            json!([
                { "name": "a.", "count": 6400 },
                { "name": "b.\".", "count": 64 },
            ])
        );
        assert_eq!(json["types"][1]["name"], "AAAA");
        assert_eq!(
            json["clients"],
            json!([
                { "name": "192.0.2.1", "count": 6400 },
                { "name": "2001:db8::/64", "count": 128 },
            ])
        );
        let later = begin + HALF_LIFE;
        assert_eq!(popular.json(0, later)["names"][0]["count"], 3200);
        // What came later is ahead of what came before, of the same number.
        for _ in 0..100 {
            popular.add(&sample("192.0.2.1", B), later);
        }
        assert_eq!(popular.json(0, later)["names"][0]["name"], "b.\".");
    }

    #[test]
    fn queries_that_no_front_saw_count_like_others() {
        let begin = Instant::now();
        let mut popular = Popular::new(Some(Rate::one_in(64)), begin);
        popular.add(&sample("192.0.2.1", A), begin);
        popular.add_unsampled(A, 36, begin);
        popular.add_unsampled(b"\x01b\0\0\x1c\0\x01", 1000, begin);
        popular.add_unsampled(b"\0\0\x01", 1000, begin);
        let json = popular.json(0, begin);
        let names = json!([{ "name": "b.", "count": 1000 }, { "name": "a.", "count": 100 }]);
        assert_eq!(json["names"], names);
        let types = json!([{ "name": "AAAA", "count": 1000 }, { "name": "A", "count": 100 }]);
        assert_eq!((&json["types"], &json["sampled"]), (&types, &json!(1)));
        assert_eq!(json["clients"][0]["count"], 64);
        // Without samples there is nothing to compare with.
        let mut off = Popular::new(None, begin);
        off.add_unsampled(A, 1000, begin);
        assert_eq!(off.json(0, begin)["names"], json!([]));
    }

    #[test]
    fn counts_stay_right_for_days() {
        let begin = Instant::now();
        let mut popular = Popular::new(Some(Rate::one_in(1)), begin);
        let mut now = begin;
        for _ in 0..3 * 24 * 60 {
            now += HALF_LIFE;
            popular.add(&sample("192.0.2.1", A), now);
        }
        // 1 + 1/2 + 1/4 + …
        assert_eq!(popular.json(0, now)["names"][0]["count"], 2);
        assert_eq!(popular.json(0, now + 60 * HALF_LIFE)["names"], json!([]));
    }

    /// The weight of a query is too large for a float then.
    #[test]
    fn counts_start_again_after_a_long_pause() {
        let begin = Instant::now();
        for pause in [1000, 1100] {
            let mut popular = Popular::new(Some(Rate::one_in(1)), begin);
            popular.add(&sample("192.0.2.1", A), begin);
            let now = begin + pause * HALF_LIFE;
            assert_eq!(popular.json(0, now)["names"], json!([]));
            for _ in 0..2 {
                popular.add(&sample("192.0.2.2", B), now);
            }
            let json = popular.json(0, now);
            assert_eq!(json["names"], json!([{ "name": "b.\".", "count": 2 }]));
            assert_eq!(json["types"], json!([{ "name": "AAAA", "count": 2 }]));
            assert_eq!(
                json["clients"],
                json!([{ "name": "192.0.2.2", "count": 2 }])
            );
            assert_eq!(popular.json(0, now + HALF_LIFE)["names"][0]["count"], 1);
        }
    }
}
