//! What is promoted, replaced and demoted.

use super::*;
use crate::tier::candidates::WINDOW;

const A: [u8; 4] = [192, 0, 2, 1];

fn names(prefix: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| question(&format!("{prefix}{number}")))
        .collect()
}

#[test]
fn one_name_costs_one_entry_a_life() {
    let tier = Fixture::new(8);
    let (one, other) = (tier.nominator(), tier.nominator());
    let a = question("a");
    for second in 0..20 {
        if second > 0 {
            tier.hit(&a, BEGIN + second, 1);
        }
        // Two workers have received it at different times.
        nominate(&one, &a, &answer(A), BEGIN + second);
        nominate(&other, &a, &answer(A), BEGIN - 100);
        tier.round(BEGIN + second);
    }
    assert_eq!(
        (tier.counter("promotions"), tier.counter("replacements")),
        (1, 0)
    );
    // Its time is over: the next one, once.
    let due = BEGIN + 270;
    assert!(tier.has(&a, due - 1) && !tier.has(&a, due));
    for nominator in [&one, &other] {
        nominate(nominator, &a, &answer(A), due);
        tier.round(due);
    }
    assert!(tier.has(&a, due));
    assert_eq!(
        (tier.counter("promotions"), tier.counter("replacements")),
        (1, 1)
    );
}

#[test]
fn another_answer_replaces_an_older_one() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let a = question("a");
    for (second, address, expected) in [(10, 1, 1), (20, 2, 2), (15, 3, 2)] {
        nominate(&nominator, &a, &answer([address; 4]), BEGIN + second);
        tier.round(BEGIN + 30);
        let (_, entry) = tier.find(&a, BEGIN + 30).unwrap();
        assert_eq!(entry.body[12], expected);
    }
    assert_eq!(tier.counter("replacements"), 1);
    // The same with other TTLs.
    nominate(&nominator, &a, &answer([2; 4]).as_ref().aged(5), BEGIN + 25);
    tier.round(BEGIN + 30);
    assert_eq!(tier.find(&a, BEGIN + 30).unwrap().1.received, BEGIN + 20);
}

#[test]
fn what_will_soon_be_due_is_not_nominated() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let (question, answer) = (question("a"), answer(A));
    for (left, promoted) in [(0, false), (2, false), (3, true)] {
        let offer = Offer {
            refresh: BEGIN + left,
            ..offer(&question, &answer, BEGIN - 1)
        };
        nominator.nominate(BEGIN, || Some(offer));
        tier.round(BEGIN);
        assert_eq!(tier.has(&question, BEGIN), promoted, "{left}");
    }
    nominator.nominate(BEGIN, || None);
    tier.round(BEGIN);
    assert_eq!(tier.counter("nominations"), 1);
}

#[test]
fn what_has_cooled_or_expired_is_demoted() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let (hot, cold) = (question("hot"), question("cold"));
    for question in [&hot, &cold] {
        nominate(&nominator, question, &answer(A), BEGIN);
    }
    tier.round(BEGIN);
    for second in 0..3 * WINDOW {
        tier.hit(&hot, BEGIN + second, 1);
        tier.round(BEGIN + second);
    }
    assert!(tier.has(&hot, BEGIN + 100) && !tier.has(&cold, BEGIN + 100));
    assert_eq!(tier.counter("entries"), 1);
    // However hot: nothing else came in time.
    for second in 3 * WINDOW..270 + WINDOW {
        if second < 270 {
            tier.hit(&hot, BEGIN + second, 1);
        }
        tier.round(BEGIN + second);
    }
    assert_eq!(tier.shared.state().table.live(), 0);
    assert_eq!((tier.counter("entries"), tier.counter("demotions")), (0, 2));
}

#[test]
fn all_hits_are_counted_for_their_names_once() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let (a, b) = (question("a"), question("b"));
    for question in [&a, &b] {
        nominate(&nominator, question, &answer(A), BEGIN);
    }
    tier.round(BEGIN);
    let total = |tier: &Fixture, name: u8| -> u64 {
        let counted = tier.counted.lock().unwrap();
        counted
            .iter()
            .filter(|(of, _)| *of == name)
            .map(|(_, hits)| hits)
            .sum()
    };
    for second in 0..2 * WINDOW {
        tier.hit(&a, BEGIN + second, 3);
        tier.hit(&b, BEGIN + second, 1);
        tier.round(BEGIN + second);
    }
    let before = total(&tier, b'a');
    assert!(
        (3 * u64::from(WINDOW)..6 * u64::from(WINDOW)).contains(&before),
        "{before}"
    );
    // One is replaced, and the other removed: what they had is counted.
    let later = BEGIN + 2 * WINDOW;
    nominate(&nominator, &a, &answer([2; 4]), later);
    tier.round(later);
    tier.hit(&a, later, 7);
    tier.shared.state().suspend();
    assert_eq!(total(&tier, b'a'), 6 * u64::from(WINDOW) + 7);
    assert_eq!(total(&tier, b'b'), 2 * u64::from(WINDOW));
}

/// Asks for hot names in every second, in the tier and, one of 32, of a worker; and nominates what else a
/// flood makes look popular. Returns how many of the hot names are in the tier at the end.
fn flood(nominations_each: usize) -> usize {
    const HOT: usize = 60;
    let tier = Fixture::new(64);
    let nominator = tier.nominator();
    let hot = names("hot", HOT);
    let answer = answer(A);
    for question in &hot {
        nominate(&nominator, question, &answer, BEGIN);
    }
    tier.round(BEGIN);
    let mut random = 0;
    for second in 0..4 * WINDOW {
        let now = BEGIN + second;
        for (number, question) in hot.iter().enumerate() {
            if tier.has(question, now) {
                tier.hit(question, now, 100);
            } else if number % 4 == second as usize % 4 {
                nominate(&nominator, question, &answer, now);
            }
        }
        for name in names(&format!("x{second}-"), 100) {
            for _ in 0..nominations_each {
                nominate(&nominator, &name, &answer, now);
                random += 1;
            }
            tier.round(now);
        }
    }
    assert!(tier.shared.state().table.is_full());
    assert_eq!(tier.counter("nominations_dropped"), 0);
    assert!(random > 0);
    hot.iter()
        .filter(|question| tier.has(question, BEGIN + 4 * WINDOW))
        .count()
}

#[test]
fn a_flood_of_random_names_does_not_displace_hot_ones() {
    assert_eq!(flood(1), 60);
    // Each is asked for some hundred times.
    assert_eq!(flood(4), 60);
}

#[test]
fn what_becomes_hot_displaces_what_is_not() {
    let tier = Fixture::new(16);
    let nominator = tier.nominator();
    let mut random = fastrand::Rng::with_seed(7);
    let (old, new) = (names("old", 16), names("new", 16));
    for question in &old {
        nominate(&nominator, question, &answer(A), BEGIN);
    }
    tier.round(BEGIN);
    assert!(tier.shared.state().table.is_full());
    for second in 0..4 * WINDOW {
        let now = BEGIN + second;
        for question in &old {
            if tier.has(question, now) {
                // Not quite cold.
                tier.hit(question, now, 1);
            }
        }
        for question in &new {
            if tier.has(question, now) {
                tier.hit(question, now, 100);
            } else {
                // One of 32.
                for _ in 0..random.u32(1..=5) {
                    nominate(&nominator, question, &answer(A), now);
                }
            }
        }
        tier.round(now);
    }
    let held = new
        .iter()
        .filter(|question| tier.has(question, BEGIN + 4 * WINDOW))
        .count();
    assert_eq!(held, 16);
}

/// The promotions in an hour of a question that is nominated twice a second and never hit, and in how many seconds it is
/// in the table. A refresh is due so many seconds after the receipt.
fn never_given(refresh: u32) -> (u64, u32) {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let (question, answer) = (question("a"), answer(A));
    let mut held = 0;
    for now in BEGIN..BEGIN + 3600 {
        for _ in 0..2 {
            let offer = Offer {
                refresh: now + refresh,
                ..offer(&question, &answer, now)
            };
            nominator.nominate(now, || Some(offer));
        }
        tier.round(now);
        held += tier.shared.state().table.live();
    }
    (tier.counter("promotions"), held)
}

#[test]
fn an_answer_that_is_never_given_is_promoted_seldom() {
    for refresh in [270, 10] {
        let (promotions, held) = never_given(refresh);
        assert!((8..20).contains(&promotions), "{refresh}: {promotions}");
        assert!(held < 3600 / 2, "{refresh}: {held}");
    }
}

#[test]
fn nothing_is_demoted_for_what_has_no_room() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let old = names("old", 8);
    for question in &old {
        nominate(&nominator, question, &answer(A), BEGIN);
    }
    tier.round(BEGIN);
    // All spare cells are retired within the round; in its second, none of the old ones is visited again, nor the one that is
    // replaced.
    let (new, now) = (question("new"), BEGIN + 6 * WINDOW + 1);
    let spare: u8 = 8 + 64;
    for version in 1..=spare {
        let received = BEGIN + u32::from(version);
        nominate(&nominator, &old[0], &answer([version; 4]), received);
    }
    let ask = || {
        for _ in 0..4 {
            nominate(&nominator, &new, &answer(A), now);
        }
    };
    ask();
    tier.round(now);
    assert_eq!(tier.counter("replacements"), u64::from(spare));
    assert_eq!((tier.counter("entries"), tier.counter("demotions")), (8, 0));
    ask();
    tier.round(now);
    assert!(tier.has(&new, now));
    assert_eq!((tier.counter("entries"), tier.counter("demotions")), (8, 1));
}

#[test]
fn a_full_ring_drops_and_counts_and_an_ended_worker_leaves_nothing() {
    use crate::tier::nominate::NOMINATIONS;

    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let answer = answer(A);
    for name in names("n", NOMINATIONS + 5) {
        nominate(&nominator, &name, &answer, BEGIN);
    }
    drop(nominator);
    tier.round(BEGIN);
    tier.round(BEGIN);
    assert_eq!(tier.counter("nominations") as usize, NOMINATIONS);
    assert_eq!(tier.counter("nominations_dropped"), 5);
    assert_eq!(tier.shared.nominations.drain(|_| ()), 0);
    assert_eq!(tier.shared.nominations.workers(), 0);
    assert_eq!(tier.shared.state().table.live(), 8);
}

/// Queries by Zipf's law: each name is queried half as often as the one of half its rank.
struct Zipf {
    random: fastrand::Rng,
    sums: Vec<f64>,
}

impl Zipf {
    fn new(names: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=names).map(|rank| 1.0 / rank as f64);
        Self {
            random: fastrand::Rng::with_seed(7),
            sums: weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect(),
        }
    }

    /// The share of queries for the first names.
    fn share(&self, names: usize) -> f64 {
        self.sums[names - 1] / self.sums[self.sums.len() - 1]
    }

    fn next(&mut self) -> usize {
        let drawn = self.random.f64() * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

#[test]
fn the_tier_answers_nearly_the_share_of_the_most_popular_names() {
    const NAMES: usize = 20_000;
    const ENTRIES: usize = 500;
    const QUERIES: usize = 10_000;
    let mut zipf = Zipf::new(NAMES);
    let best = zipf.share(ENTRIES);
    let tier = Fixture::new(ENTRIES as u32);
    let nominator = tier.nominator();
    let answer = answer(A);
    // How often the worker was asked.
    let mut asked = vec![0; NAMES];
    for second in 0..60 {
        let now = BEGIN + second;
        let mut hits = 0;
        // Others are popular now.
        let moved = if second < 40 { 0 } else { NAMES / 2 };
        for query in 0..QUERIES {
            if query % (QUERIES / 20) == 0 {
                tier.round(now);
            }
            let name = (zipf.next() + moved) % NAMES;
            let query_for = question(&format!("n{name}"));
            if tier.has(&query_for, now) {
                hits += 1;
                tier.hit(&query_for, now, 1);
                continue;
            }
            asked[name] += 1;
            if asked[name] > 1 && zipf.random.u32(0..Nominator::ONE_IN) == 0 {
                nominate(&nominator, &query_for, &answer, now);
            }
            // A flood of random names, as many as other queries, which are popular for the worker.
            if (20..30).contains(&second) && zipf.random.u32(0..Nominator::ONE_IN) == 0 {
                let random = question(&format!("f{second}-{query}"));
                nominate(&nominator, &random, &answer, now);
            }
        }
        let share = f64::from(hits) / QUERIES as f64 / best;
        let least = match second {
            0..15 | 40..55 => 0.0,
            15..40 => 0.85,
            _ => 0.75,
        };
        assert!(share > least, "{share} of the best in second {second}");
    }
}
