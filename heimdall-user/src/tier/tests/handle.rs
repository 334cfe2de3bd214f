//! The handle, with the promoter's thread.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use heimdall_ebpf::tier::MAX_CLIENT_PREFIXES;

use super::*;
use crate::{
    exit::OnExit,
    tier::{Tier, handle::TierSettings},
    xdp::load_for_tests,
};

const SETTINGS: TierSettings = TierSettings { entries: 8 };

fn start(clock: Clock) -> Tier {
    let tier = Tier::start(SETTINGS, clock, |_, _| (), OnExit::default()).unwrap();
    tier.set_rules(rules());
    tier.attach("eth0", 1500, TierMaps::in_memory(SETTINGS.size()));
    tier
}

/// Nominates an answer until it is promoted.
fn promote(tier: &Tier, nominator: &Nominator, clock: Clock, question: &[u8]) {
    let answer = answer([1; 4]);
    let begun = Instant::now();
    while !tier.contains(question, 0) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        nominate(nominator, question, &answer, clock.seconds());
        thread::sleep(Duration::from_millis(1));
    }
}

fn counter(tier: &Tier, name: &str) -> u64 {
    let counters = tier.report().counters.list();
    let found = counters.into_iter().find(|(counter, _)| *counter == name);
    found.unwrap().1
}

#[test]
fn the_promoter_promotes_what_is_nominated() {
    let clock = Clock::start();
    let tier = start(clock);
    let nominator = tier.nominator();
    let a = question("a");
    promote(&tier, &nominator, clock, &a);
    assert!(tier.contains(&question("A"), 0) && !tier.contains(&a, 1));
    assert!(!tier.contains(&question(&"x".repeat(63)), 0), "too long");
    assert_eq!(counter(&tier, "promotions"), 1);
    let suspended = (tier.suspend(), tier.forget(|_| false));
    assert!(!tier.contains(&a, 0));
    drop(suspended);
    promote(&tier, &nominator, clock, &a);
    drop(tier.forget(|question| question == a));
    assert!(!tier.contains(&a, 0));
    assert_eq!(tier.report().off, None);
}

#[test]
fn a_tier_that_is_off_says_why_and_holds_nothing() {
    let clock = Clock::start();
    let tier = start(clock);
    let nominator = tier.nominator();
    let a = question("a");
    promote(&tier, &nominator, clock, &a);
    tier.set_enabled(Err("a rate limit is set".to_owned()));
    assert_eq!(tier.report().off.as_deref(), Some("a rate limit is set"));
    assert!(!tier.contains(&a, 0));
    tier.set_enabled(Ok(()));
    assert_eq!(tier.report().off, None);
    promote(&tier, &nominator, clock, &a);
    tier.detach("eth0");
    assert_eq!(tier.report().off, None);
}

#[test]
fn the_clock_of_the_program_is_that_of_the_answers() {
    let clock = Clock::start();
    let tier = start(clock);
    let config = tier.shared.state().interfaces.nth(0).config();
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let before = clock.seconds();
    let monotonic = Duration::from(monotonic).as_nanos() as u64;
    let seconds = monotonic.wrapping_sub(config.clock_zero) / heimdall_ebpf::tier::NANOSECONDS;
    // A second may have ended in between.
    assert!(before - seconds as u32 <= 1, "{before} {seconds}");
}

#[test]
fn an_interface_without_its_clients_answers_nothing_until_it_has_them() {
    if !lab::available("an_interface_without_its_clients_answers_nothing_until_it_has_them") {
        return;
    }
    let tier = start(Clock::start());
    let (_ebpf, maps) = load_for_tests(SETTINGS.size(), [2; 6], ([192, 0, 2, 1], 53).into());
    tier.attach("eth1", 1500, maps);
    let generation = |number: usize| {
        let state = tier.shared.state();
        state.interfaces.nth(number).config().generation
    };
    assert!(generation(0) != Config::OFF && generation(1) != Config::OFF);
    // The kernel's trie has no room for so many.
    let clients = (0..=MAX_CLIENT_PREFIXES).map(|bits| ((Ipv4Addr::from(bits).into(), 32), true));
    let too_many = TierRules {
        clients: clients.collect(),
        ..rules()
    };
    tier.set_rules(too_many.clone());
    assert_eq!(generation(1), Config::OFF);
    assert_ne!(
        generation(0),
        Config::OFF,
        "it is in memory, and has no limit"
    );
    let why = tier.why_off_on("eth1").unwrap();
    assert!(why.contains("which clients"), "{why}");
    assert_eq!((tier.why_off_on("eth0"), tier.report().off), (None, None));
    tier.set_rules(rules());
    assert_ne!(generation(1), Config::OFF);
    assert_eq!(tier.why_off_on("eth1"), None);
}
