#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::dns::{NameHasher, TtlLimits};

/// How often a test repeats something: Miri takes thousands of times as long.
const fn repeats(count: u32, under_miri: u32) -> u32 {
    if cfg!(miri) { under_miri } else { count }
}

/// A question of one label, and an upstream's response to it that is `fill` octets of an unknown type.
fn response(label: &[u8], fill: usize, ttl: u32) -> (Vec<u8>, Answer) {
    let mut question = vec![label.len() as u8];
    question.extend_from_slice(label);
    question.extend_from_slice(&[0, 0xff, 0, 0, 1]);
    let mut msg = vec![0, 1, 0x80, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    msg.extend_from_slice(&question);
    msg.extend_from_slice(&[0xc0, 12, 0xff, 0, 0, 1]);
    msg.extend_from_slice(&ttl.to_be_bytes());
    msg.extend_from_slice(&(fill as u16).to_be_bytes());
    msg.extend((0..fill).map(|i| label[i % label.len()]));
    let answer = Answer::from_response(&msg, &question, 0, &TtlLimits::default()).unwrap();
    (question, answer)
}

#[derive(Default)]
struct Names {
    hasher: NameHasher,
}

impl Names {
    fn key<'a>(&self, question: &'a [u8], flags: u8) -> Key<'a> {
        Key::new(&self.hasher, question, flags)
    }
}

#[test]
fn answers_age_until_they_expire() {
    let names = Names::default();
    let mut cache = Cache::new(0).unwrap();
    let (question, answer) = response(b"Name", 20, 30);
    cache.insert(&names.key(&question, 0), &answer, 100);
    let asked = question.to_ascii_lowercase();
    let hit = cache.get(&names.key(&asked, 0), 129).unwrap();
    assert_eq!((hit.age, hit.answer.body()), (29, answer.as_ref().body()));
    assert!(cache.get(&names.key(&asked, 0), 130).is_none(), "expired");
    assert!(
        cache.get(&names.key(&asked, 1), 101).is_none(),
        "DO is another key"
    );
}

#[test]
fn type_octets_are_not_letters() {
    let names = Names::default();
    let mut cache = Cache::new(0).unwrap();
    let (mut question, answer) = response(b"n", 20, 30);
    let len = question.len();
    question[len - 3] = b'A';
    let hash = names.key(&question, 0).hash;
    cache.insert(
        &Key {
            hash,
            question: &question,
            flags: 0,
        },
        &answer,
        0,
    );
    question[len - 3] = b'a';
    assert!(
        cache
            .get(
                &Key {
                    hash,
                    question: &question,
                    flags: 0
                },
                0
            )
            .is_none()
    );
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn popular_entries_outlive_a_scan() {
    let names = Names::default();
    let mut cache = Cache::new(MIN_BYTES).unwrap();
    let popular: Vec<_> = (0..100)
        .map(|i| response(format!("popular{i}").as_bytes(), 40, 3600))
        .collect();
    for (question, answer) in &popular {
        cache.insert(&names.key(question, 0), answer, 0);
    }
    let mut kept = 0;
    for i in 0..20_000 {
        let (question, answer) = response(format!("scan{i}").as_bytes(), 40, 3600);
        cache.insert(&names.key(&question, 0), &answer, 0);
        if i % 100 == 99 {
            kept = popular
                .iter()
                .filter(|(question, _)| cache.get(&names.key(question, 0), 0).is_some())
                .count();
        }
    }
    // A full bucket evicts one at times.
    assert!(kept >= 98, "{kept} of 100");
    assert!(cache.evictions() > 10_000);
}

#[test]
#[cfg_attr(miri, ignore = "its caches are smaller")]
fn the_largest_answers_fit() {
    let names = Names::default();
    let mut cache = Cache::new(MIN_BYTES).unwrap();
    for i in 0..50u8 {
        let (question, answer) = response(&[b'a', i], 65_400, 60);
        cache.insert(&names.key(&question, 0), &answer, 0);
        assert_eq!(
            cache
                .get(&names.key(&question, 0), 1)
                .unwrap()
                .answer
                .body(),
            answer.as_ref().body()
        );
    }
}

#[test]
fn stale_answers_are_found_for_their_grace() {
    let names = Names::default();
    let (question, answer) = response(b"name", 20, 30);
    let key = names.key(&question, 0);
    let mut cache = Cache::with_grace(0, 100).unwrap();
    cache.insert(&key, &answer, 1000);
    assert_eq!(cache.get_stale(&key, 1029).unwrap().age, 29);
    assert!(cache.get(&key, 1030).is_none());
    assert_eq!(cache.get_stale(&key, 1129).unwrap().age, 129);
    assert!(cache.get_stale(&key, 1130).is_none());
    let mut graceless = Cache::new(0).unwrap();
    graceless.insert(&key, &answer, 1000);
    assert!(graceless.get_stale(&key, 1029).is_some());
    assert!(graceless.get_stale(&key, 1030).is_none());
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn popular_stale_answers_outlive_a_scan_during_their_grace() {
    let names = Names::default();
    let (popular, answer) = response(b"popular", 40, 1);
    for (grace, kept) in [(1000, true), (5, false)] {
        let mut cache = Cache::with_grace(MIN_BYTES, grace).unwrap();
        cache.insert(&names.key(&popular, 0), &answer, 0);
        let mut found = true;
        for i in 0..20_000 {
            let (question, answer) = response(format!("scan{i}").as_bytes(), 40, 3600);
            cache.insert(&names.key(&question, 0), &answer, 10);
            found = cache.get_stale(&names.key(&popular, 0), 10).is_some();
        }
        assert_eq!(found, kept);
    }
}

#[test]
fn removed_entries_are_gone() {
    let names = Names::default();
    let mut cache = Cache::with_grace(MIN_BYTES, 10).unwrap();
    // Both wrap around the log.
    let (count, fill) = if cfg!(miri) { (60, 400) } else { (20_000, 40) };
    for i in 0..count {
        let (question, answer) = response(format!("n{i}").as_bytes(), fill, 60);
        let key = names.key(&question, 0);
        cache.insert(&key, &answer, 0);
        cache.remove(&key);
        assert!(cache.get_stale(&key, 0).is_none());
        cache.remove(&key);
        assert_eq!(cache.entries(), 0);
    }
    assert_eq!(cache.evictions(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn a_flood_of_names_evicts_no_popular_entry() {
    let names = Names::default();
    let mut cache = Cache::new(MIN_BYTES).unwrap();
    let popular: Vec<_> = (0..500)
        .map(|i| response(format!("popular{i}").as_bytes(), 40, 3600))
        .collect();
    // Hit before the flood, not during it.
    for _ in 0..3 {
        for (question, answer) in &popular {
            let key = names.key(question, 0);
            if cache.get(&key, 0).is_none() {
                cache.insert(&key, answer, 0);
            }
        }
        for i in 0..200 {
            let (question, answer) = response(format!("filler{i}").as_bytes(), 40, 3600);
            cache.insert(&names.key(&question, 0), &answer, 0);
        }
    }
    for i in 0..100_000 {
        let (question, answer) = response(format!("flood{i}").as_bytes(), 40, 3600);
        cache.insert(&names.key(&question, 0), &answer, 0);
    }
    let kept = popular
        .iter()
        .filter(|(question, _)| cache.get(&names.key(question, 0), 0).is_some())
        .count();
    // The bound on the work of one insertion costs a few.
    assert!(kept >= 490, "{kept} of 500");
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn a_name_with_a_ghost_outlives_the_small_queue() {
    let names = Names::default();
    let mut cache = Cache::new(MIN_BYTES).unwrap();
    let fill = |cache: &mut Cache, from: u32, to: u32| {
        for i in from..to {
            let (question, answer) = response(format!("filler{i}").as_bytes(), 40, 3600);
            cache.insert(&names.key(&question, 0), &answer, 0);
        }
    };
    fill(&mut cache, 0, 5000);
    let (question, answer) = response(b"name", 40, 3600);
    let key = names.key(&question, 0);
    cache.insert(&key, &answer, 0);
    fill(&mut cache, 5000, 5500);
    assert!(cache.get(&key, 0).is_none(), "evicted: it was new");
    cache.insert(&key, &answer, 0);
    fill(&mut cache, 5500, 6000);
    assert!(cache.get(&key, 0).is_some(), "its ghost was known");
}

#[test]
fn a_refresh_is_requested_once_in_the_last_tenth_of_a_popular_ttl() {
    let names = Names::default();
    let (question, answer) = response(b"name", 20, 100);
    let key = names.key(&question, 0);
    let due = |cache: &mut Cache, now| {
        let hit = cache.get(&key, now).unwrap();
        let (due, offset) = (hit.refresh_due && hit.popular, hit.offset);
        due && cache.request_refresh(offset)
    };
    let mut cache = Cache::new(0).unwrap();
    cache.insert(&key, &answer, 1000);
    assert!(!due(&mut cache, 1050));
    assert!(!due(&mut cache, 1089));
    assert!(due(&mut cache, 1090));
    assert!(!due(&mut cache, 1091), "once");
    cache.insert(&key, &answer, 1092);
    assert!(!due(&mut cache, 1181));
    assert!(due(&mut cache, 1182), "once for each insertion");
    let mut unpopular = Cache::new(0).unwrap();
    unpopular.insert(&key, &answer, 1000);
    assert!(!due(&mut unpopular, 1095), "the first hit");
    assert!(due(&mut unpopular, 1096));
}

/// A hint is any number: a slot, none, or one that is outdated.
#[test]
fn no_hint_gives_a_wrong_answer() {
    let names = Names::default();
    let mut cache = Cache::new(0).unwrap();
    let known: Vec<_> = (0..repeats(200, 10))
        .map(|i| response(format!("name{i}").as_bytes(), 20 + i as usize, 100))
        .collect();
    for (question, answer) in &known {
        cache.insert(&names.key(question, 0), answer, 0);
    }
    let (stranger, _) = response(b"stranger", 20, 100);
    for number in (0..repeats(20_000, 40)).chain(u32::MAX - 16..=u32::MAX) {
        let (question, answer) = &known[number as usize % known.len()];
        let hit = cache.get_at(Hint(number), names.key(question, 0), 1);
        assert_eq!(hit.unwrap().answer.body(), answer.as_ref().body());
        assert!(
            cache
                .get_at(Hint(number), names.key(&stranger, 0), 1)
                .is_none()
        );
    }
    let key = names.key(&known[0].0, 0);
    let right = cache.prefetch_entry(key.hash);
    assert!(found_at(&mut cache.index, &cache.log, Slot::unpack(right.0), key).is_some());
    cache.remove(&key);
    assert!(cache.get_at(right, key, 1).is_none());
}

#[test]
fn invalidated_entries_do_not_come_back_and_new_ones_stay() {
    let names = Names::default();
    let (question, answer) = response(b"name", 20, 100);
    let key = names.key(&question, 0);
    let mut cache = Cache::with_grace(0, 1000).unwrap();
    cache.insert(&key, &answer, 9);
    cache.invalidate(10);
    assert!(cache.get_stale(&key, 10).is_none());
    for _ in 0..3 {
        // All within one second.
        cache.insert(&key, &answer, 10);
        assert!(cache.get(&key, 10).is_some());
        cache.invalidate(10);
        assert!(cache.get(&key, 10).is_none());
    }
    let mut walk = Walk::default();
    while cache.walk(&mut walk, 10, 10, |_| panic!("all are invalid")) {}
}

#[test]
fn a_walk_visits_every_entry_and_records_restore_them() {
    let count = repeats(300, 20);
    let names = Names::default();
    let mut cache = Cache::with_grace(MIN_BYTES, 50).unwrap();
    for i in 0..count {
        let (question, answer) = response(format!("n{i}").as_bytes(), 40, 100);
        cache.insert(&names.key(&question, (i % 4) as u8), &answer, 1000 + i % 50);
    }
    let mut octets = Vec::new();
    let mut walk = Walk::default();
    let mut seen = 0;
    while cache.walk(&mut walk, 7, 1120, |record| {
        record.append_to(&mut octets);
        seen += 1;
        Visit::Keep
    }) {}
    assert_eq!(seen, count);

    // Another process: other hashes, another clock, 20 seconds later.
    let others = Names::default();
    let mut restored = Cache::with_grace(MIN_BYTES, 50).unwrap();
    let mut rest = &octets[..];
    while let Some(record) = Record::take(&mut rest) {
        let key = Key::new(&others.hasher, record.question, record.flags);
        restored.restore(&key, record.answer, record.age + 20, 500_000);
    }
    assert!(rest.is_empty());
    for i in 0..count {
        let (question, answer) = response(format!("n{i}").as_bytes(), 40, 100);
        let key = others.key(&question, (i % 4) as u8);
        let age = 120 - i % 50 + 20;
        match restored.get_stale(&key, 500_000) {
            Some(hit) => {
                assert_eq!((hit.age, hit.answer.body()), (age, answer.as_ref().body()));
                assert!(age < 150);
            }
            None => assert!(age >= 150, "{i}"),
        }
        assert_eq!(restored.get(&key, 500_000).is_some(), age < 100);
    }
    let zone = |record: &Record<'_>| record.question.starts_with(b"\x03n1");
    let mut walk = Walk::default();
    while cache.walk(&mut walk, 64, 1120, |record| {
        if zone(record) {
            Visit::Remove
        } else {
            Visit::Keep
        }
    }) {}
    for i in 0..count {
        let (question, _) = response(format!("n{i}").as_bytes(), 40, 100);
        let key = names.key(&question, (i % 4) as u8);
        let stays = i / 10 != 1;
        assert_eq!(cache.get_stale(&key, 1120).is_some(), stays, "{i}");
    }
    assert_eq!(cache.entries(), u64::from(count) - 10);
}

#[test]
fn a_walk_visits_entries_that_move() {
    let names = Names::default();
    let mut cache = Cache::new(MIN_BYTES).unwrap();
    let (question, answer) = response(b"needle", 40, 3600);
    let needle = names.key(&question, 0);
    for round in 0..repeats(400, 8) {
        cache.remove(&needle);
        cache.insert(&needle, &answer, 0);
        let mut walk = Walk::default();
        let mut seen = false;
        let mut filler = 0;
        while cache.walk(&mut walk, 64, 0, |record| {
            seen |= record.question == question;
            Visit::Keep
        }) {
            assert!(cache.get(&needle, 0).is_some(), "it is hit, so it stays");
            for _ in 0..round % 40 {
                filler += 1;
                let (question, answer) =
                    response(format!("f{round}-{filler}").as_bytes(), 40, 3600);
                cache.insert(&names.key(&question, 0), &answer, 0);
            }
        }
        assert!(seen, "{round}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Against a map and a clock: a hit is the answer that was inserted last, and fresh.
    #[test]
    #[cfg_attr(miri, ignore = "takes too long")]
    fn a_hit_is_the_last_answer_and_fresh(
        ops in prop::collection::vec((0..400u16, 1..3000usize, 0..60u32, 0..3u32, any::<bool>()), 1..2000)
    ) {
        let names = Names::default();
        let mut cache = Cache::new(MIN_BYTES).unwrap();
        let mut model: HashMap<(u16, u8), (Answer, u32)> = HashMap::new();
        let mut now = 0;
        for (name, fill, ttl, step, insert) in ops {
            now += step;
            let flags = (name % 4) as u8;
            let (question, answer) = response(name.to_string().as_bytes(), fill, ttl);
            let key = names.key(&question, flags);
            if insert {
                cache.insert(&key, &answer, now);
                if ttl > 0 {
                    prop_assert!(cache.get(&key, now).is_some(), "it was just inserted");
                    model.insert((name, flags), (answer, now));
                }
            } else if let Some(hit) = cache.get(&key, now) {
                let (expected, received) = &model[&(name, flags)];
                prop_assert_eq!(hit.answer.body(), expected.as_ref().body());
                prop_assert_eq!(hit.age, now - received);
                prop_assert!(hit.age < expected.as_ref().ttl());
            }
        }
        prop_assert!(cache.insertions() >= cache.entries());
    }
}
