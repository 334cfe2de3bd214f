#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{
    dns::{DnsPacketView, Query, TtlLimits, edns::ede},
    forward::testing::{bare, denial, of_type, query, response},
};

/// A memory, and what the fronts and upstreams of a test do with it.
struct Bench {
    cache: SharedCache,
    answers: Answers,
    hasher: NameHasher,
    shared: Shared,
}

impl Bench {
    fn new(options: ForwardOptions) -> Self {
        let options = ForwardOptions {
            cache_bytes: 0,
            ..options
        };
        let hasher = NameHasher::default();
        Self {
            cache: SharedCache::new(&options, hasher.clone()).unwrap(),
            answers: Answers::default(),
            hasher,
            shared: Shared::Within(1),
        }
    }

    fn request(&self, msg: &[u8]) -> Request {
        let query = Query::new(&DnsPacketView::parse(msg).unwrap(), &self.hasher);
        Request::new(&query, msg, [127, 0, 0, 1].into(), 0, 0).unwrap()
    }

    /// An upstream's answer of `ttl` seconds to `query` arrives at `now`.
    fn answer(&mut self, query: &[u8], ttl: u8, now: u32) {
        let mut msg = response(query, 20);
        let at = msg.len() - 21 - 6;
        msg[at..at + 4].copy_from_slice(&[0, 0, 0, ttl]);
        self.store(query, &msg, now);
    }

    fn deny(&mut self, query: &[u8], ttl: u8, now: u32) {
        self.store(query, &denial(query, ttl), now);
    }

    fn store(&mut self, query: &[u8], response: &[u8], now: u32) {
        let request = self.request(query);
        let question = request.question();
        let answer = Answer::from_response(response, question, 0, &TtlLimits::default()).unwrap();
        self.cache.store(&request, self.shared, &answer, now);
    }

    fn found(&mut self, query: &[u8], now: u32) -> Option<Found> {
        let request = self.request(query);
        let found = self
            .cache
            .lookup(&request, self.shared, now, &mut self.answers);
        found.map(|(found, _)| found)
    }

    /// The Extended DNS Error of the stale answer, if there is one.
    fn stale(&mut self, query: &[u8], now: u32) -> Option<u16> {
        let request = self.request(query);
        let stale = self.cache.stale(&request, self.shared, now);
        assert_eq!(
            stale.is_some(),
            self.cache.has_stale(&request, self.shared, now)
        );
        stale.map(|answer| answer.as_ref().ede().unwrap())
    }
}

#[test]
fn answers_may_be_served_until_their_maximum_age() {
    let mut bench = Bench::new(ForwardOptions {
        stale_max_age: 100,
        ..ForwardOptions::default()
    });
    let name = query(1, "name", None);
    bench.answer(&name, 10, 0);
    assert_eq!(bench.found(&name, 9), Some(Found::Question));
    assert_eq!(bench.found(&name, 10), None);
    assert_eq!(bench.stale(&name, 10), Some(ede::STALE));
    assert_eq!(bench.stale(&name, 109), Some(ede::STALE));
    assert_eq!(bench.stale(&name, 110), None);
    bench.deny(&name, 10, 200);
    assert_eq!(bench.stale(&name, 309), Some(ede::STALE_NXDOMAIN));
    assert_eq!(bench.stale(&name, 310), None);
}

#[test]
fn restored_answers_are_found() {
    let mut bench = Bench::new(ForwardOptions::default());
    let [name, absent] = ["name", "absent"].map(|label| query(1, label, None));
    for (query, response) in [(&name, response(&name, 20)), (&absent, denial(&absent, 50))] {
        let request = bench.request(query);
        let any = AnyType::of(&bench.hasher, &request).unwrap();
        let limits = TtlLimits::default();
        let answer = Answer::from_response(&response, request.question(), 0, &limits).unwrap();
        let Key {
            question, flags, ..
        } = if denies_name(&answer) {
            any.key()
        } else {
            request.key()
        };
        let record = Record {
            question,
            flags,
            age: 0,
            answer: answer.as_ref(),
        };
        let key = Key::new(&bench.hasher, question, flags);
        bench.cache.restore(&key, &record, 0, 0);
    }
    assert_eq!(bench.found(&name, 49), Some(Found::Question));
    assert_eq!(bench.found(&absent, 49), Some(Found::Name));
    assert_eq!(bench.stale(&absent, 50), Some(ede::STALE_NXDOMAIN));
}

#[test]
fn no_maximum_age_means_no_stale_answers() {
    let mut bench = Bench::new(ForwardOptions {
        stale_max_age: 0,
        ..ForwardOptions::default()
    });
    let name = query(1, "name", None);
    bench.answer(&name, 10, 0);
    assert_eq!(bench.stale(&name, 10), None);
}

#[test]
fn nxdomain_is_for_all_types_and_an_answer_replaces_it() {
    let mut bench = Bench::new(ForwardOptions::default());
    let text = query(1, "name", None);
    let spf = of_type(query(1, "NAME", None), 99);
    bench.deny(&text, 10, 0);
    assert_eq!(bench.found(&text, 0), Some(Found::Name));
    assert_eq!(bench.found(&spf, 0), Some(Found::Name));
    assert_eq!(
        bench.found(&query(1, "name", Some(512)), 0),
        Some(Found::Name)
    );
    assert_eq!(bench.found(&query(1, "other", None), 0), None);
    assert_eq!(bench.stale(&spf, 10), Some(ede::STALE_NXDOMAIN));
    bench.answer(&spf, 10, 10);
    assert_eq!(bench.found(&spf, 10), Some(Found::Question));
    assert_eq!(bench.stale(&text, 10), None);
}

#[test]
fn of_two_stale_answers_the_younger_is_served() {
    let mut bench = Bench::new(ForwardOptions::default());
    let text = query(1, "name", None);
    let address = of_type(text.clone(), 1);
    bench.answer(&text, 10, 0);
    bench.deny(&address, 10, 50);
    assert_eq!(bench.stale(&text, 100), Some(ede::STALE_NXDOMAIN));
    bench.answer(&text, 10, 100);
    assert_eq!(bench.stale(&text, 200), Some(ede::STALE));
    assert_eq!(bench.stale(&address, 200), None);
}

#[test]
fn an_answer_that_may_not_be_cached_replaces_the_old_one() {
    let mut bench = Bench::new(ForwardOptions::default());
    let name = query(1, "name", None);
    for ttl in [0, 10] {
        bench.answer(&name, 10, 0);
        bench.answer(&name, ttl, 20);
        assert_eq!(bench.stale(&name, 40).is_some(), ttl > 0);
        bench.deny(&name, 10, 50);
        bench.deny(&name, ttl, 70);
        assert_eq!(bench.stale(&name, 90).is_some(), ttl > 0);
    }
}

#[test]
fn nxdomain_answers_for_names_below_until_it_expires() {
    let mut bench = Bench::new(ForwardOptions {
        nxdomain_cut: true,
        ..ForwardOptions::default()
    });
    let name = query(1, "name", None);
    bench.deny(&name, 10, 0);
    let mut below = name.clone();
    below.splice(12..12, *b"\x01b\x01a");
    assert_eq!(bench.found(&below, 9), Some(Found::Ancestor));
    assert_eq!(bench.found(&below, 10), None);
    assert_eq!(bench.stale(&below, 10), None, "only the question itself");
    let mut cd = below.clone();
    cd[3] |= 0x10;
    assert_eq!(bench.found(&cd, 9), None);
    let mut beside = query(1, "xname", None);
    beside.splice(12..12, *b"\x01a");
    assert_eq!(bench.found(&beside, 9), None);
    bench.answer(&below, 100, 0);
    assert_eq!(bench.found(&below, 9), Some(Found::Question));
    let mut root = query(1, "", None);
    root.splice(12..18, [0]);
    assert_eq!(bench.found(&root[..17], 9), None);
}

#[test]
fn other_codes_leave_what_was_known() {
    let mut bench = Bench::new(ForwardOptions::default());
    let name = query(1, "name", None);
    bench.answer(&name, 10, 0);
    bench.store(&name, &bare(&name, 9), 1);
    assert_eq!(bench.found(&name, 2), Some(Found::Question));
    bench.store(&name, &bare(&name, 6), 11);
    assert_eq!(bench.stale(&name, 12), Some(ede::STALE));
    // No data and no SOA record: the answer is a new one, and is not kept.
    bench.store(&name, &bare(&name, 0), 13);
    assert_eq!(bench.stale(&name, 14), None);
}

#[test]
fn nxdomain_of_another_route_denies_nothing() {
    let mut bench = Bench::new(ForwardOptions {
        nxdomain_cut: true,
        ..ForwardOptions::default()
    });
    let below = query(1, "a.b", None);
    bench.deny(&query(1, "b", None), 10, 0);
    // Octets of `test`, `b.test` and `a.b.test`.
    for (zone, found) in [(6, true), (8, true), (10, false)] {
        bench.shared = Shared::Within(zone);
        let expected = found.then_some(Found::Ancestor);
        assert_eq!(bench.found(&below, 0), expected, "{zone}");
    }
    // A denial of the DS records at a cut is for no other type, and none is for them.
    let (ds, text) = (of_type(below.clone(), 43), below);
    bench.shared = Shared::No;
    bench.deny(&ds, 10, 0);
    assert_eq!(bench.found(&ds, 0), Some(Found::Question));
    bench.shared = Shared::Within(10);
    assert_eq!(bench.found(&text, 0), None);
    bench.deny(&text, 10, 0);
    assert_eq!(bench.found(&text, 0), Some(Found::Name));
    bench.shared = Shared::No;
    assert_eq!(bench.found(&of_type(text, 43), 0), Some(Found::Question));
    bench.shared = Shared::Within(1);
    bench.deny(&query(1, "c", None), 10, 0);
    let ds = of_type(query(1, "c", None), 43);
    assert_eq!(bench.stale(&ds, 20), Some(ede::STALE_NXDOMAIN));
    bench.shared = Shared::No;
    assert_eq!(bench.stale(&ds, 20), None, "of the other route");
}
