//! The order in which upstreams are asked.

use proptest::{prelude::*, sample::subsequence};

use super::*;

const POLICIES: [Policy; 4] = [
    Policy::Sequential,
    Policy::RoundRobin,
    Policy::Fastest,
    Policy::Hash,
];

/// What a look-up for the name asks first.
fn first(upstreams: &Upstreams, group: &mut Group, number: usize, now: Instant) -> usize {
    upstreams.choose(group, &name(number), &mut Tried::default(), now)
}

/// What a look-up that has asked only `index` asks next.
fn after(upstreams: &Upstreams, index: usize, now: Instant) -> usize {
    let mut tried = Tried::default();
    tried.add(index);
    let mut group = all(upstreams, Policy::Sequential);
    upstreams.choose(&mut group, &name(0), &mut tried, now)
}

/// How many of the look-ups each upstream gets first.
fn shares(upstreams: &Upstreams, group: &mut Group, lookups: usize, now: Instant) -> Vec<usize> {
    let mut shares = vec![0; group.len()];
    for number in 0..lookups {
        shares[first(upstreams, group, number, now)] += 1;
    }
    shares
}

#[test]
fn the_next_one_is_not_set_aside_if_another_is_left() {
    let now = Instant::now();
    let mut upstreams = some(3);
    assert_eq!(
        [0, 1, 2].map(|index| after(&upstreams, index, now)),
        [1, 2, 0]
    );
    upstreams.set_aside(1, Reason::Refused, now);
    assert_eq!(
        [0, 1, 2].map(|index| after(&upstreams, index, now)),
        [2, 2, 0]
    );
    upstreams.set_aside(2, Reason::Refused, now);
    assert_eq!(
        [0, 1, 2].map(|index| after(&upstreams, index, now)),
        [1, 0, 0]
    );
}

#[test]
fn if_all_are_set_aside_the_one_heard_last_is_first() {
    let now = Instant::now();
    for policy in POLICIES {
        let mut upstreams = some(3);
        let mut group = all(&upstreams, policy);
        for (index, seconds) in [(1, 1), (2, 3), (0, 2)] {
            upstreams.heard(index, false, now + SECOND * seconds);
        }
        for index in 0..3 {
            upstreams.set_aside(index, Reason::Refused, now + SECOND * 4);
        }
        let now = now + SECOND * 5;
        assert_eq!(first(&upstreams, &mut group, 1, now), 2, "{policy:?}");
        upstreams.heard(1, false, now);
        assert_eq!(first(&upstreams, &mut group, 1, now), 1, "{policy:?}");
    }
}

#[test]
fn a_look_up_asks_each_once_before_it_asks_one_again() {
    let now = Instant::now();
    for policy in POLICIES {
        let mut upstreams = some(5);
        upstreams.measured(3, SECOND);
        let mut group = all(&upstreams, policy);
        for number in 0..40 {
            let mut tried = Tried::default();
            let mut asked: Vec<_> = (0..6)
                .map(|_| upstreams.choose(&mut group, &name(number), &mut tried, now))
                .collect();
            assert_ne!(asked[5], asked[4]);
            asked.truncate(5);
            asked.sort_unstable();
            assert_eq!(asked, [0, 1, 2, 3, 4], "{policy:?}");
        }
    }
}

#[test]
fn in_order_the_first_that_works_gets_all() {
    let now = Instant::now();
    let mut upstreams = some(3);
    let mut group = all(&upstreams, Policy::Sequential);
    assert_eq!(shares(&upstreams, &mut group, 90, now), [90, 0, 0]);
    upstreams.set_aside(0, Reason::NoRoute, now);
    assert_eq!(shares(&upstreams, &mut group, 90, now), [0, 90, 0]);
}

#[test]
fn in_turn_each_that_works_gets_its_share() {
    let now = Instant::now();
    let mut upstreams = some(3);
    let mut group = all(&upstreams, Policy::RoundRobin);
    assert_eq!(shares(&upstreams, &mut group, 90, now), [30, 30, 30]);
    upstreams.set_aside(1, Reason::NoRoute, now);
    assert_eq!(shares(&upstreams, &mut group, 90, now), [30, 0, 60]);
    assert_eq!(upstreams.first(&group, &name(1), now), 2, "turn 181");
    assert_eq!(first(&upstreams, &mut group, 1, now), 2, "as was said");
}

#[test]
fn the_fastest_gets_nearly_all_and_the_others_are_measured() {
    let start = Instant::now();
    let millis = Duration::from_millis;
    let mut upstreams = some(3);
    let mut group = all(&upstreams, Policy::Fastest);
    let mut times = [millis(80), millis(20), millis(50)];
    let mut shares = [0; 3];
    for number in 0..9_600 {
        // Once the second has become the slowest, that is noticed.
        if number == 4_800 {
            times[1] = millis(500);
        }
        let now = start + millis(number);
        let index = first(&upstreams, &mut group, number as usize, now);
        upstreams.heard(index, false, now);
        upstreams.measured(index, times[index]);
        shares[index] += 1;
    }
    // 150 each of either half measure others.
    assert!((150..250).contains(&shares[0]), "{shares:?}");
    assert!((4_600..4_800).contains(&shares[1]), "{shares:?}");
    assert!((4_600..4_800).contains(&shares[2]), "{shares:?}");
    // Not if they are set aside.
    upstreams.set_aside(0, Reason::Refused, start);
    upstreams.set_aside(1, Reason::Refused, start);
    let only = super::choice::shares(&upstreams, &mut group, 320, start);
    assert_eq!(only, [0, 0, 320]);
}

#[test]
fn the_fastest_has_to_answer_too() {
    let now = Instant::now();
    let mut upstreams = some(2);
    let mut group = all(&upstreams, Policy::Fastest);
    upstreams.measured(0, Duration::from_millis(10));
    upstreams.measured(1, Duration::from_millis(30));
    assert_eq!(first(&upstreams, &mut group, 0, now), 0);
    // What it does not answer, the other one does.
    upstreams.was_slower(0, SECOND);
    assert_eq!(first(&upstreams, &mut group, 0, now), 1);
    assert_eq!(
        upstreams.timeout(0, LEAST),
        LEAST,
        "its responses take no longer"
    );
    for _ in 0..40 {
        upstreams.measured(0, Duration::from_millis(10));
    }
    assert_eq!(first(&upstreams, &mut group, 0, now), 0);
}

#[test]
fn by_name_a_failed_upstream_moves_only_its_names() {
    let now = Instant::now();
    let mut upstreams = some(4);
    let mut group = all(&upstreams, Policy::Hash);
    let choose = |upstreams: &Upstreams, group: &mut Group| -> Vec<usize> {
        let chosen = (0..1_000).map(|number| first(upstreams, group, number, now));
        chosen.collect()
    };
    let before = choose(&upstreams, &mut group);
    for index in 0..4 {
        let share = before.iter().filter(|chosen| **chosen == index).count();
        assert!((180..320).contains(&share), "{index}: {share}");
    }
    assert_eq!(before, choose(&upstreams, &mut group));
    upstreams.set_aside(2, Reason::Refused, now);
    let without = choose(&upstreams, &mut group);
    let mut moved = [0; 4];
    for (before, without) in before.iter().zip(&without) {
        assert_ne!(*without, 2);
        assert!(before == without || *before == 2);
        moved[*without] += usize::from(before != without);
    }
    let shares = [moved[0], moved[1], moved[3]];
    assert!(shares.iter().all(|share| *share > 40), "spread: {moved:?}");
    upstreams.heard(2, false, now);
    assert_eq!(before, choose(&upstreams, &mut group));
    // Another process, whose list has another order, chooses the same addresses.
    let mut addresses: Vec<_> = (upstreams.list.iter())
        .map(|(_, upstream)| upstream.address.clone())
        .collect();
    addresses.reverse();
    let reversed = of(addresses);
    let chosen = choose(&reversed, &mut all(&reversed, Policy::Hash));
    assert!(
        before
            .iter()
            .zip(chosen)
            .all(|(one, other)| *one == 3 - other)
    );
    let upper = upstreams.choose(&mut group, b"\x02N7\0", &mut Tried::default(), now);
    assert_eq!(upper, before[7], "in any name case");
}

#[test]
fn hedges_keep_to_their_share() {
    let now = Instant::now();
    let upstreams = some(2);
    let mut group = Group::new(vec![0, 1], Policy::Sequential, 5);
    assert!(group.hedges() && !Group::new(vec![0], Policy::Sequential, 5).hedges());
    assert!(!all(&upstreams, Policy::Sequential).hedges());
    assert!(!group.take_hedge(), "nothing is saved yet");
    let mut hedges = 0;
    for number in 0..1_000 {
        first(&upstreams, &mut group, number, now);
        hedges += usize::from(group.take_hedge());
    }
    assert_eq!(hedges, 50);
    for number in 0..1_000 {
        first(&upstreams, &mut group, number, now);
    }
    let burst = (0..1_000).filter(|_| group.take_hedge()).count();
    assert_eq!(burst, 10, "few at once, however quiet it was before");
}

proptest! {
    /// Whatever the policy, the first choice is one that is not set aside, if there is one, and a look-up never asks the
    /// same twice in a row.
    #[test]
    fn those_set_aside_are_last(
        policy in proptest::sample::select(POLICIES.to_vec()),
        aside in subsequence((0..6).collect::<Vec<usize>>(), 0..=6),
        turns in 0..70_usize,
    ) {
        let now = Instant::now();
        let mut upstreams = some(6);
        let mut group = all(&upstreams, policy);
        for index in &aside {
            upstreams.set_aside(*index, Reason::Refused, now);
        }
        for turn in 0..turns {
            let mut tried = Tried::default();
            let seen: Vec<_> = (0..8)
                .map(|_| upstreams.choose(&mut group, &name(turn), &mut tried, now))
                .collect();
            let working = 6 - aside.len();
            prop_assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
            for index in seen.iter().take(working) {
                prop_assert!(!aside.contains(index), "{:?}", seen);
            }
        }
    }
}
