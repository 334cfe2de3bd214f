//! That nothing outdated is answered: a model of server, workers and promoter, whose steps come in any order.

use std::{cell::OnceCell, collections::HashMap};

use proptest::prelude::*;

use super::*;
use crate::tier::nominate::Nominator;

const NAMES: [&str; 3] = ["a", "b", "c"];
const WORKERS: usize = 2;

/// A step of the server, a worker or the promoter, each of which does its own in the order that it has to.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next of: suspend, store another policy, resume.
    Reload,
    /// The next of: forget the name, resume once all workers have flushed it.
    Flush(usize),
    /// A worker begins a batch.
    Begin(usize),
    /// A worker executes a flush that it has yet to.
    Maintain(usize),
    /// A worker answers a query, from its cache or by asking an upstream.
    Answer(usize, usize),
    /// A worker nominates its answer. Between its reading of the epoch and that of its policy and cache, others go on.
    Nominate(usize, usize),
    /// The promoter takes what waits.
    Promote,
    /// The tier is turned off, or on again.
    Switch,
    /// The server ends what it has begun, as far as it may: else something would be under way most of the time.
    Settle,
}

fn arb_step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let worker = || 0..WORKERS;
    prop_oneof![
        3 => Just(Step::Reload),
        2 => name().prop_map(Step::Flush),
        3 => worker().prop_map(Step::Begin),
        3 => worker().prop_map(Step::Maintain),
        4 => (worker(), name()).prop_map(|(worker, name)| Step::Answer(worker, name)),
        5 => (worker(), name()).prop_map(|(worker, name)| Step::Nominate(worker, name)),
        5 => Just(Step::Promote),
        1 => Just(Step::Switch),
        6 => Just(Step::Settle),
    ]
}

/// What an answer was made with: the policy, and how often its name had been flushed.
type Made = (u8, u8);

#[derive(Default)]
struct Worker {
    policy: u8,
    cache: HashMap<usize, Made>,
    /// Flushes of each name that were executed.
    flushed: [u8; NAMES.len()],
}

struct Model {
    tier: Fixture,
    nominators: Vec<Nominator>,
    workers: Vec<Worker>,
    /// The shared policy.
    policy: u8,
    /// Steps of the reload that were done.
    reload: u8,
    /// Flushes of each name that were begun.
    flushes: [u8; NAMES.len()],
    /// Names of which a flush was begun and has not ended.
    flushing: [bool; NAMES.len()],
    on: bool,
}

impl Model {
    fn new() -> Self {
        let tier = Fixture::new(8);
        Self {
            nominators: (0..WORKERS).map(|_| tier.nominator()).collect(),
            tier,
            workers: (0..WORKERS).map(|_| Worker::default()).collect(),
            policy: 0,
            reload: 0,
            flushes: [0; NAMES.len()],
            flushing: [false; NAMES.len()],
            on: true,
        }
    }

    fn run(&mut self, mut steps: &[Step]) {
        while let Some((step, rest)) = steps.split_first() {
            steps = rest;
            match *step {
                Step::Nominate(worker, name) => {
                    // The others' next steps are done within it.
                    let (inside, rest) = rest.split_at(rest.len().min(8));
                    steps = rest;
                    self.nominate(worker, name, inside);
                }
                step => self.step(step),
            }
            self.check();
        }
    }

    /// Other than of a nomination.
    fn step(&mut self, step: Step) {
        match step {
            Step::Reload => self.reload(),
            Step::Flush(name) => self.flush(name),
            Step::Begin(worker) => {
                let worker = &mut self.workers[worker];
                if worker.policy != self.policy {
                    worker.policy = self.policy;
                    worker.cache.clear();
                }
            }
            Step::Maintain(worker) => {
                let worker = &mut self.workers[worker];
                for name in 0..NAMES.len() {
                    if worker.flushed[name] < self.flushes[name] {
                        worker.flushed[name] = self.flushes[name];
                        worker.cache.remove(&name);
                    }
                }
            }
            Step::Answer(worker, name) => {
                let worker = &mut self.workers[worker];
                let made = (worker.policy, worker.flushed[name]);
                worker.cache.entry(name).or_insert(made);
            }
            Step::Promote => self.tier.round(BEGIN),
            Step::Switch => self.switch(),
            Step::Settle => {
                while self.reload != 0 {
                    self.reload();
                }
                for name in (0..NAMES.len())
                    .filter(|name| self.flushing[*name])
                    .collect::<Vec<_>>()
                {
                    self.flush(name);
                }
                if !self.on {
                    self.switch();
                }
            }
            Step::Nominate(..) => {}
        }
    }

    fn switch(&mut self) {
        self.on = !self.on;
        let off = (!self.on).then(|| "of a test".to_owned());
        self.tier.shared.state().set_off(off);
    }

    fn reload(&mut self) {
        match self.reload {
            0 => self.tier.shared.state().suspend(),
            1 => self.policy += 1,
            _ => self.tier.shared.state().resume(),
        }
        self.reload = (self.reload + 1) % 3;
    }

    fn flush(&mut self, name: usize) {
        let mut state = self.tier.shared.state();
        if !self.flushing[name] {
            let flushed = question(NAMES[name]);
            state.begin_forgetting(|question| question == flushed);
            self.flushing[name] = true;
            self.flushes[name] += 1;
        } else if (self.workers.iter()).all(|worker| worker.flushed[name] == self.flushes[name]) {
            state.end_forgetting();
            self.flushing[name] = false;
        }
    }

    /// A worker nominates an answer. `inside`: what others do between its reading of the epoch and that of its policy and
    /// cache, and between that and the end.
    fn nominate(&mut self, worker: usize, name: usize, inside: &[Step]) {
        // This worker does nothing else meanwhile.
        let is_others = |step: &&Step| !matches!(step, Step::Begin(at) | Step::Maintain(at) | Step::Answer(at, _) if *at == worker);
        let (first, last) = inside.split_at(inside.len() / 2);
        let nominator = self.nominators.swap_remove(worker);
        let question = question(NAMES[name]);
        let cached = OnceCell::new();
        nominator.nominate(BEGIN, || {
            self.steps(first.iter().filter(is_others));
            let worker = &self.workers[worker];
            let has_shared_policy = worker.policy == self.policy;
            let (policy, flushed) = *worker.cache.get(&name)?;
            let cached = cached.get_or_init(|| answer([policy, flushed, 0, 0]));
            self.steps(last.iter().filter(is_others));
            has_shared_policy.then(|| offer(&question, cached, BEGIN))
        });
        self.nominators.push(nominator);
        let last = self.nominators.len() - 1;
        self.nominators.swap(worker, last);
    }

    fn steps<'a>(&mut self, steps: impl Iterator<Item = &'a Step>) {
        for step in steps {
            self.step(*step);
            self.check();
        }
    }

    /// What the program would answer now is what a worker may answer that has begun a batch now and has flushed what was to
    /// be flushed.
    fn check(&self) {
        for (name, flushes) in NAMES.into_iter().zip(self.flushes) {
            let Some((_, entry)) = self.tier.find(&question(name), BEGIN) else {
                continue;
            };
            assert!(self.on && self.reload == 0, "{name} while it is off");
            assert_eq!(entry.body[12..14], [self.policy, flushes], "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nothing_outdated_is_answered(steps in prop::collection::vec(arb_step(), 0..80)) {
        Model::new().run(&steps);
    }
}

/// The model test would pass if nothing were ever promoted.
#[test]
fn what_is_current_is_promoted() {
    let mut model = Model::new();
    let asked = [Step::Answer(0, 0), Step::Nominate(0, 0)];
    model.run(&asked);
    model.run(&[Step::Promote]);
    assert!(model.tier.has(&question("a"), BEGIN));
    model.run(&[Step::Reload, Step::Reload, Step::Reload]);
    assert!(!model.tier.has(&question("a"), BEGIN));
    // The worker has not begun a batch with the new policy yet.
    model.run(&asked);
    model.run(&[Step::Promote]);
    assert!(!model.tier.has(&question("a"), BEGIN));
    model.run(&[Step::Begin(0), Step::Answer(0, 0)]);
    model.run(&[Step::Nominate(0, 0)]);
    model.run(&[Step::Promote]);
    assert!(model.tier.has(&question("a"), BEGIN));
}

#[test]
fn a_suspension_ends_all_answers_and_what_was_nominated_before() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let (a, b) = (question("a"), question("b"));
    nominate(&nominator, &a, &answer([1; 4]), BEGIN);
    tier.round(BEGIN);
    nominate(&nominator, &b, &answer([1; 4]), BEGIN);
    tier.shared.state().suspend();
    assert!(!tier.has(&a, BEGIN));
    nominate(&nominator, &b, &answer([1; 4]), BEGIN);
    tier.round(BEGIN);
    tier.shared.state().suspend();
    tier.shared.state().resume();
    tier.round(BEGIN);
    assert_eq!(tier.shared.state().table.live(), 0, "one of two has ended");
    tier.shared.state().resume();
    tier.round(BEGIN);
    assert!(!tier.has(&a, BEGIN) && !tier.has(&b, BEGIN));
    assert_eq!(tier.counter("nominations_outdated"), 1, "one was not made");
    nominate(&nominator, &b, &answer([1; 4]), BEGIN);
    tier.round(BEGIN);
    assert!(tier.has(&b, BEGIN));
}

#[test]
fn forgetting_leaves_the_others() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let (a, b) = (question("a"), question("b"));
    for question in [&a, &b] {
        nominate(&nominator, question, &answer([1; 4]), BEGIN);
    }
    tier.round(BEGIN);
    tier.shared
        .state()
        .begin_forgetting(|question| question == a);
    assert!(!tier.has(&a, BEGIN) && tier.has(&b, BEGIN));
    nominate(&nominator, &a, &answer([1; 4]), BEGIN);
    tier.round(BEGIN);
    assert!(!tier.has(&a, BEGIN));
    tier.shared.state().end_forgetting();
    tier.round(BEGIN);
    assert!(!tier.has(&a, BEGIN) && tier.has(&b, BEGIN));
}

#[test]
fn other_rules_empty_it_and_the_same_do_not() {
    let tier = Fixture::new(8);
    let a = question("a");
    nominate(&tier.nominator(), &a, &answer([1; 4]), BEGIN);
    tier.round(BEGIN);
    tier.shared.state().set_rules(rules());
    assert!(tier.has(&a, BEGIN));
    let generation = tier.shared.state().interfaces.nth(0).config().generation;
    tier.shared.state().set_rules(TierRules {
        refuse_non_recursive: true,
        ..rules()
    });
    assert!(!tier.has(&a, BEGIN));
    let config = tier.shared.state().interfaces.nth(0).config();
    assert_eq!(config.generation, generation + 1);
    assert_eq!(config.udp_size, 1232);
    let all = Config::PASS_NON_RECURSIVE | Config::TRUST_AD | Config::VERIFY_CHECKSUMS;
    assert_eq!(config.flags, all);
}

#[test]
fn an_interface_that_comes_later_gets_all_entries() {
    let tier = Fixture::new(8);
    let nominator = tier.nominator();
    let a = question("a");
    nominate(&nominator, &a, &answer([1; 4]), BEGIN);
    tier.round(BEGIN);
    let size = TierSettings { entries: 8 }.size();
    let mut state = tier.shared.state();
    state.attach("eth1", 9000, TierMaps::in_memory(size));
    // The first one is then the other.
    state.detach("eth0");
    drop(state);
    assert!(tier.has(&a, BEGIN));
    let config = |tier: &Fixture| tier.shared.state().interfaces.nth(0).config();
    assert_eq!(config(&tier).mtu, 9000);
    tier.shared.state().set_mtu("eth1", 1400);
    tier.shared.state().set_mtu("eth0", 1300);
    assert_eq!(config(&tier).mtu, 1400);
    tier.shared
        .state()
        .attach("eth1", 1500, TierMaps::in_memory(size));
    assert!(tier.has(&a, BEGIN), "attached again");
}
