//! A contestant's turn: it is started, the loads are put on it one after the other, and its figures taken.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    Cores, Napi, Plan, SCALING, Sample,
    contestants::{Contestant, Programs, Running},
    cpu::Spent,
    loads::{self, Closed, Names},
    plan::{Load, NameSet, Part, Rate},
};
use crate::{
    search::{Step, highest},
    stop::Stop,
};

/// The part answered below which a server does not keep up, and CPU time an answer says nothing.
pub(super) const KEEPS_UP: f64 = 0.98;

/// What all turns share.
#[derive(Clone, Copy)]
pub(super) struct Rig<'a> {
    pub(super) programs: &'a Programs,
    pub(super) plan: &'a Plan,
    pub(super) names: &'a Names,
    pub(super) stop: &'a Stop,
}

impl Rig<'_> {
    /// A contestant's turns of a round: with its cores to itself, then with more and more queues on shared
    /// cores, as far as there are cores. `before` is what it did the round before.
    pub(super) fn turns(
        &self,
        who: Contestant,
        cores: &Cores,
        available: usize,
        before: Option<&Sample>,
    ) -> Result<Sample> {
        let mut sample = Sample::new();
        let own = |load: &Load| !matches!(load, Load::Shared(_));
        let (own, shared): (Vec<Load>, Vec<Load>) = self.plan.loads.iter().partition(|it| own(it));
        if !own.is_empty() {
            self.turn(who, cores, &own, before, &mut sample)?;
        }
        for load in shared {
            if let Load::Shared(queues) = load
                && queues as usize <= available
                && SCALING.contains(&who)
            {
                self.turn(who, &Cores::shared(queues), &[load], None, &mut sample)?;
            }
        }
        Ok(sample)
    }

    /// Starts a contestant and puts loads on it.
    fn turn(
        &self,
        who: Contestant,
        cores: &Cores,
        loads: &[Load],
        before: Option<&Sample>,
        sample: &mut Sample,
    ) -> Result<()> {
        let running = who.start(self.programs, cores)?;
        running.meter.settle()?;
        let highest = Load::Search(NameSet::Uniform).figure("99.9 %");
        let earlier = before.and_then(|sample| sample.get(&highest));
        let mut turn = Turn {
            rig: *self,
            cores,
            running: &running,
            highest: earlier.copied().unwrap_or(who.typical()),
        };
        if who.caches() {
            turn.warm(&self.names.uniform, lab::HOSTS)?;
        }
        if who == Contestant::HeimdallTier {
            turn.promote()?;
        }
        for load in loads {
            let values = turn.measure(who, *load)?;
            println!("  {}: {}", load.title(), named(*load, &values));
            for (column, value) in load.columns().iter().zip(values) {
                sample.insert(load.figure(column), value);
            }
        }
        Ok(())
    }
}

/// The values with the titles of their columns, in a line.
fn named(load: Load, values: &[f64]) -> String {
    let columns = load.columns().iter().zip(values);
    let named: Vec<_> = columns
        .map(|(column, value)| format!("{column} {value:.2}"))
        .collect();
    named.join(", ")
}

/// A contestant's turn.
struct Turn<'a> {
    rig: Rig<'a>,
    cores: &'a Cores,
    running: &'a Running,
    /// The highest rate with 99.9 % answered: at first a guess, where the search begins.
    highest: f64,
}

impl Turn<'_> {
    /// The values of a load's first columns: none if the load is not for this contestant.
    fn measure(&mut self, who: Contestant, load: Load) -> Result<Vec<f64>> {
        match load {
            Load::Search(names) => {
                if names == NameSet::Million {
                    // The other caches are too small for these names, or slow to fill.
                    if !who.is_built() && who.caches() {
                        return Ok(Vec::new());
                    }
                    if who.caches() {
                        self.warm(&self.rig.names.million, loads::MILLION)?;
                    }
                }
                let found = self.search(names.file(self.rig.names))?;
                if names == NameSet::Uniform
                    && let Some(highest) = found.first()
                {
                    self.highest = *highest;
                }
                Ok(found)
            }
            Load::Cost(rate) => {
                let rate = rate.resolve(self.highest).unwrap_or_default();
                self.cost(rate as f64)
            }
            Load::Dnsperf(clients, rate) => {
                let load = self.closed(clients, rate);
                self.latencies(|| load.dnsperf())
            }
            Load::OnXdp(clients, rate) => self.on_xdp(clients, rate),
            Load::Shared(queues) => self.on_xdp(250 * queues, Rate::Unlimited),
            Load::Misses(part) => self.misses(part),
            Load::DeadUpstream(rate) => self.beside_dead_upstream(rate),
            Load::Idle => {
                let meter = &self.running.meter;
                let ((), idle) = meter.during(|| {
                    thread::sleep(Duration::from_secs(2));
                    Ok(())
                })?;
                let percent = 100.0 * idle.process / idle.elapsed;
                Ok(vec![percent, meter.resident()? as f64 / 1e6])
            }
        }
    }

    fn on_xdp(&self, clients: u32, rate: Rate) -> Result<Vec<f64>> {
        let load = self.closed(clients, rate);
        self.latencies(|| load.on_xdp(&self.rig.programs.clients))
    }

    /// Runs a load, and once more if it fails: a generator that cannot start is not the
    /// contestant's fault.
    fn twice<T>(&self, mut load: impl FnMut() -> Result<T>) -> Result<T> {
        self.rig.stop.check()?;
        load().or_else(|error| {
            self.rig.stop.check()?;
            println!("  once more, for it failed: {error:#}");
            thread::sleep(Duration::from_millis(500));
            load()
        })
    }

    fn warm(&self, names: &Path, count: usize) -> Result<()> {
        self.twice(|| loads::warm(&self.running.lab, names, count))
    }

    /// Asks until the tier has nearly all names, or takes no more of them.
    fn promote(&self) -> Result<()> {
        let entries = || -> Result<u64> {
            let heimdall = self.running.heimdall().context("Heimdall does not run")?;
            let entries = heimdall.stats()?["tier"]["entries"].as_u64();
            entries.context("there is no tier")
        };
        let mut before = 0;
        loop {
            self.twice(|| loads::open(&self.running.lab, &self.rig.names.uniform, 100_000.0, 3))?;
            let now = entries()?;
            if now >= lab::HOSTS as u64 * 999 / 1000 || now <= before {
                println!("  {now} names in the tier");
                return Ok(());
            }
            before = now;
        }
    }

    /// The highest rates with 99.9 % and 99 % answered, as far as they were found.
    fn search(&self, names: &Path) -> Result<Vec<f64>> {
        let (mut steps, mut found, mut start) = (Vec::new(), Vec::new(), self.highest);
        let plan = self.rig.plan;
        for limit in [0.999, 0.99] {
            let step = highest(start, limit, plan.search, &mut steps, |rate| {
                let load = self.twice(|| loads::open(&self.running.lab, names, rate, 1))?;
                Ok(Step::new(rate, load))
            })?;
            let Some(step) = step else {
                println!("  no rate found of which {} % is answered", 100.0 * limit);
                break;
            };
            if step.limited() {
                println!("  the generator's limit: {:.0} queries/s", step.offered);
            }
            start = step.answers();
            found.push(start);
        }
        Ok(found)
    }

    /// At a rate: answers a second, the percentage answered, and CPU seconds per million answers; these
    /// only if the server keeps up. A generator that fell short has two more tries.
    fn cost(&self, rate: f64) -> Result<Vec<f64>> {
        let (running, plan) = (self.running, self.rig.plan);
        let mut tries = 0;
        let (step, answers, spent) = loop {
            let (load, spent) = self.twice(|| {
                let names = plan.names.file(self.rig.names);
                let load = || loads::open(&running.lab, names, rate, plan.load);
                running.meter.during(load)
            })?;
            tries += 1;
            let answers = load.noerror as f64;
            let step = Step::new(rate, load);
            if tries == 3 || !step.limited() {
                break (step, answers, spent);
            }
        };
        let mut values = vec![step.answers(), 100.0 * step.answered];
        if step.answered >= KEEPS_UP {
            values.extend(self.each(spent, answers));
        }
        Ok(values)
    }

    /// CPU microseconds an answer: of the process, of its cores, and with its receive work.
    fn each(&self, spent: Spent, answers: f64) -> Vec<f64> {
        let mut seconds = vec![spent.process, spent.cores];
        // Without NAPI threads nothing tells receive work from what it interrupts.
        if self.cores.napi != Napi::Softirq {
            seconds.push(spent.process + spent.receive);
        }
        seconds.iter().map(|it| 1e6 * it / answers).collect()
    }

    /// Answers a second, the percentage lost, latencies in milliseconds, and CPU time an answer; this only if
    /// the server keeps up.
    fn misses(&self, part: Part) -> Result<Vec<f64>> {
        let names = match part {
            Part::All => &self.rig.names.distinct,
            Part::Half => &self.rig.names.half,
        };
        let load = Closed {
            names,
            seconds: 30,
            once: true,
            ..self.closed(200, Rate::Unlimited)
        };
        // Once only: then the names are in the cache.
        let run = || load.on_xdp(&self.rig.programs.clients);
        let (load, spent) = self.running.meter.during(run)?;
        let (sent, answers) = (load.sent.max(1) as f64, (load.sent - load.lost) as f64);
        let lost = 100.0 * load.lost as f64 / sent;
        let [p50, p99, _] = load.percentiles.map(|seconds| 1e3 * seconds);
        let mut values = vec![load.rate, lost, p50, p99];
        if answers >= KEEPS_UP * sent {
            values.extend(self.each(spent, answers));
        }
        Ok(values)
    }

    /// Latencies of hits, while the upstream is stopped and as many queries need it.
    fn beside_dead_upstream(&self, rate: Rate) -> Result<Vec<f64>> {
        let upstream = self.running.upstream.as_ref();
        let upstream = upstream.context("it has no upstream")?;
        let misses = rate.resolve(self.highest).unwrap_or_default();
        upstream.pause()?;
        let over = AtomicBool::new(false);
        let measured = thread::scope(|scope| {
            let flood = scope.spawn(|| loads::flood(&self.running.lab, self.cores, misses, &over));
            // Until as many wait as ever will.
            thread::sleep(Duration::from_secs(3));
            let measured = self.on_xdp(300, rate);
            over.store(true, Ordering::Relaxed);
            let flooded = flood.join();
            flooded.unwrap_or_else(|_| bail!("the flood's thread died"))?;
            measured
        });
        upstream.signal(Signal::SIGCONT)?;
        measured
    }

    fn closed(&self, clients: u32, rate: Rate) -> Closed<'_> {
        Closed {
            lab: &self.running.lab,
            cores: self.cores,
            names: self.rig.plan.names.file(self.rig.names),
            clients,
            rate: rate.resolve(self.highest),
            seconds: self.rig.plan.load,
            once: false,
        }
    }

    /// Answers a second, latencies in milliseconds, and the percentage lost.
    fn latencies(&self, load: impl Fn() -> Result<lab::ClosedLoop>) -> Result<Vec<f64>> {
        let load = self.twice(load)?;
        let [p50, p99, p999] = load.percentiles.map(|seconds| 1e3 * seconds);
        let lost = 100.0 * load.lost as f64 / load.sent.max(1) as f64;
        Ok(vec![load.rate, 1e3 * load.mean, p50, p99, p999, lost])
    }
}
