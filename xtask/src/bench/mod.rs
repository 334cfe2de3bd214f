//! `cargo xtask bench`: Heimdall beside its limit and beside others, under the same loads.

mod contestants;
mod cpu;
mod loads;
mod plan;
mod plot;
mod report;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use contestants::{Contestant, Programs, Running};
use loads::{Closed, Names};
use plan::{Kind, LOADS, Load, NameSet, Rate, SHARED, UNIFORM};
use report::{Outcome, Report};

use crate::{
    search::{Effort, highest},
    setup::{self, BUILD, LAB, PEERS, RESOLVERS, Setup},
    stop::Stop,
    workspace,
};

#[derive(Args)]
#[command(after_help = "\
Each contestant runs alone, in a pair of network namespaces of its own with a veth pair between
them: it starts, is asked for all names once, is measured, stops; then it is the next one's turn, round
after round. The server has one core, the generators another. Peers that cannot be installed are left
out.

Examples:
  All of it, three rounds (about an hour and a half):
    cargo xtask bench
  A first look, in under two minutes:
    cargo xtask bench --quick
  Only Heimdall and its limit, with threaded NAPI:
    cargo xtask bench --only heimdall-xdp,echo --threaded-napi
  Two queues, and two cores for the server:
    cargo xtask bench --only heimdall-xdp,echo,knot-xdp --queues 2
  How the rate grows with queues, each on a core of its own that it shares with its clients:
    cargo xtask bench --scaling
  Nothing installed, and the result where the next one does not replace it:
    cargo xtask bench --no-install --json before.json --plot before.svg

Without a quiet machine single figures move by tens of per cent: look at the ratios, which are of
contestants that were measured in turn, and at the spread between rounds.")]
pub(crate) struct Bench {
    /// One round, fewer contestants and loads, coarser steps
    #[arg(long)]
    quick: bool,

    /// Measure only these
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    only: Vec<Contestant>,

    /// How often each contestant has its turn [default: 3, with --quick 1]
    #[arg(long)]
    rounds: Option<usize>,

    /// Handle each end's received packets in a kernel thread on that end's core (threaded NAPI);
    /// otherwise the sender's core handles them
    #[arg(long)]
    threaded_napi: bool,

    /// Measure only how the rate grows with queues, each on a core that it shares with its clients
    #[arg(long, conflicts_with_all = ["threaded_napi", "queues"])]
    scaling: bool,

    /// Queues of the interfaces
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,

    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the rates to this file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    setup: Setup,
}

/// Which cores the server and the generators use.
pub(crate) struct Cores {
    queues: u32,
    threaded: bool,
    server: Vec<usize>,
    client: Vec<usize>,
}

impl Cores {
    /// A core for each queue and end, as far as there are enough; the client's are the first ones,
    /// which kxdpgun uses.
    fn new(queues: u32, threaded: bool, available: usize) -> Self {
        let wanted = queues as usize;
        let client = wanted.min(available.div_ceil(2));
        let server = client.min(available - 1)..(client + wanted).min(available);
        Self {
            queues,
            threaded,
            server: server.collect(),
            client: (0..client).collect(),
        }
    }

    /// A core for each queue, shared by both ends: so all cores are busy, and each has the same work,
    /// however many there are.
    fn shared(queues: u32) -> Self {
        let cores: Vec<usize> = (0..queues as usize).collect();
        Self {
            queues,
            threaded: false,
            server: cores.clone(),
            client: cores,
        }
    }

    /// As taskset takes them.
    fn list(cores: &[usize]) -> String {
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        cores.join(",")
    }
}

/// The figures of a contestant in one round, by name.
type Sample = BTreeMap<String, f64>;

/// How thoroughly to measure.
struct Plan {
    rounds: usize,
    /// Seconds of a step of the search.
    step: u64,
    /// Seconds of any other load.
    load: u64,
    search: Effort,
    quick: bool,
    /// Only how the rate grows with queues.
    scaling: bool,
}

/// What `--quick` measures.
const QUICK: &[Contestant] = &[
    Contestant::HeimdallXdp,
    Contestant::Echo,
    Contestant::KnotXdp,
];

/// Measured with several numbers of queues.
const SCALING: &[Contestant] = &[Contestant::HeimdallXdp, Contestant::Echo];

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let stop = Stop::on_signals()?;
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces and AF_XDP need root");
        }
        self.setup.packages(&[BUILD, LAB])?;
        if let Err(error) = self.setup.packages(&[PEERS, RESOLVERS]) {
            println!("Some peers are missing: {error:#}");
        }
        let programs = Programs {
            heimdall: setup::build_heimdall()?,
            echo: setup::build_bench("echo")?,
            clients: setup::build_bench("clients")?,
        };
        let (contestants, missing) = self.contestants();
        let plan = Plan {
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }),
            step: 1,
            load: if self.quick { 1 } else { 5 },
            search: Effort {
                precision: if self.quick { 1.15 } else { 1.03 },
                runs: if self.quick { 5 } else { 30 },
            },
            quick: self.quick,
            scaling: self.scaling,
        };
        let available = thread::available_parallelism().map_or(1, usize::from);
        let cores = Cores::new(self.queues, self.threaded_napi, available);
        let rig = Rig {
            programs: &programs,
            plan: &plan,
            names: &Names::write()?,
            stop: &stop,
        };
        let mut results: Vec<(Contestant, Vec<Sample>)> =
            contestants.iter().map(|&who| (who, Vec::new())).collect();
        let start = Instant::now();
        for round in 1..=plan.rounds {
            for (who, samples) in &mut results {
                stop.check()?;
                println!("round {round} of {}: {}", plan.rounds, who.name());
                match rig.turns(*who, &cores, available, samples.last()) {
                    Ok(sample) => samples.push(sample),
                    Err(error) => {
                        stop.check()?;
                        println!("  {} is left out of this round: {error:#}", who.name());
                    }
                }
            }
        }
        results.retain(|(_, samples)| !samples.is_empty());
        let versions = results.iter().map(|(who, _)| (who.name(), who.version()));
        let report = Report {
            settings: BTreeMap::from([
                (
                    "arguments",
                    env::args().skip(2).collect::<Vec<_>>().join(" "),
                ),
                ("server's cores", Cores::list(&cores.server)),
                ("generators' cores", Cores::list(&cores.client)),
                ("seconds", start.elapsed().as_secs().to_string()),
            ]),
            versions: versions.collect(),
            not_installed: missing.iter().map(|who| who.name()).collect(),
            results: (results.into_iter())
                .map(|(who, samples)| Outcome::new(who, samples))
                .collect(),
        };
        print!("\n{}", report.text());
        let directory = workspace().join("target/bench");
        let json = self.json.unwrap_or_else(|| directory.join("bench.json"));
        let plot = self.plot.unwrap_or_else(|| directory.join("bench.svg"));
        write(&json, &report.json()?)?;
        write(&plot, &plot::rates(&report)?)
    }

    /// Those to measure, and those that are not installed.
    fn contestants(&self) -> (Vec<Contestant>, Vec<Contestant>) {
        let wanted: Vec<Contestant> = match (&self.only[..], self.quick) {
            ([], _) if self.scaling => SCALING.to_vec(),
            ([], true) => QUICK.to_vec(),
            ([], false) => Contestant::value_variants().to_vec(),
            (only, _) => only.to_vec(),
        };
        wanted.into_iter().partition(|who| who.is_installed())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

/// What all turns share.
#[derive(Clone, Copy)]
struct Rig<'a> {
    programs: &'a Programs,
    plan: &'a Plan,
    names: &'a Names,
    stop: &'a Stop,
}

impl Rig<'_> {
    /// A contestant's turns of a round: with its cores to itself, then with more and more queues on shared
    /// cores, as far as there are cores. `before` is what it did the round before.
    fn turns(
        &self,
        who: Contestant,
        cores: &Cores,
        available: usize,
        before: Option<&Sample>,
    ) -> Result<Sample> {
        let mut sample = Sample::new();
        if !self.plan.scaling {
            let loads = LOADS.iter().filter(|load| load.quick || !self.plan.quick);
            self.turn(who, cores, loads, before, &mut sample)?;
        }
        if SCALING.contains(&who) && (self.plan.scaling || !self.plan.quick) {
            for (queues, load) in &SHARED {
                if *queues as usize <= available {
                    self.turn(who, &Cores::shared(*queues), [load], None, &mut sample)?;
                }
            }
        }
        Ok(sample)
    }

    /// Starts a contestant and puts loads on it.
    fn turn<'b>(
        &self,
        who: Contestant,
        cores: &Cores,
        loads: impl IntoIterator<Item = &'b Load>,
        before: Option<&Sample>,
        sample: &mut Sample,
    ) -> Result<()> {
        let running = who.start(self.programs, cores)?;
        running.meter.settle()?;
        let earlier = before.and_then(|sample| sample.get(&UNIFORM.figure("99.9 %")));
        let mut turn = Turn {
            rig: *self,
            cores,
            running: &running,
            highest: earlier.copied().unwrap_or(who.typical()),
        };
        if who.caches() {
            turn.warm(&self.names.uniform, lab::HOSTS)?;
        }
        for load in loads {
            let Some(values) = turn.measure(who, load)? else {
                continue;
            };
            let mut line = format!("  {}:", load.title);
            for (column, value) in load.columns().iter().zip(values) {
                line += &format!(" {column} {value:.2}");
                sample.insert(load.figure(column), value);
            }
            println!("{line}");
        }
        Ok(())
    }
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
    /// The values of a load's columns. `None`: the load is not for this contestant.
    fn measure(&mut self, who: Contestant, load: &Load) -> Result<Option<Vec<f64>>> {
        match load.kind {
            Kind::Search(names) => {
                if names == NameSet::Million {
                    // The other caches are too small for these names, or slow to fill.
                    if !who.is_built() && who.caches() {
                        return Ok(None);
                    }
                    if who.caches() {
                        self.warm(&self.rig.names.million, loads::MILLION)?;
                    }
                }
                let found = self.search(names.file(self.rig.names))?;
                if names == NameSet::Uniform {
                    self.highest = found[0];
                }
                Ok(Some(found))
            }
            Kind::Cost(Rate::Fixed(rate)) if rate as f64 > self.highest => Ok(None),
            Kind::Cost(rate) => {
                let rate = rate.resolve(self.highest).unwrap_or_default();
                self.cost(rate as f64).map(Some)
            }
            Kind::Dnsperf(clients, rate) => {
                let load = self.closed(clients, rate);
                self.latencies(|| load.dnsperf()).map(Some)
            }
            Kind::OnXdp(clients, rate) => {
                let load = self.closed(clients, rate);
                self.latencies(|| load.on_xdp(&self.rig.programs.clients))
                    .map(Some)
            }
            Kind::Idle => {
                let meter = &self.running.meter;
                let ((), idle) = meter.during(|| {
                    thread::sleep(Duration::from_secs(2));
                    Ok(())
                })?;
                let percent = 100.0 * idle.process / idle.elapsed;
                Ok(Some(vec![percent, meter.resident()? as f64 / 1e6]))
            }
        }
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

    /// The highest rates with 99.9 % and 99 % answered.
    fn search(&self, names: &Path) -> Result<Vec<f64>> {
        let (mut steps, mut found, mut start) = (Vec::new(), Vec::new(), self.highest);
        let plan = self.rig.plan;
        for limit in [0.999, 0.99] {
            let step = highest(start, limit, plan.search, &mut steps, |rate| {
                self.twice(|| loads::open(&self.running.lab, names, rate, plan.step))
            })?;
            let step =
                step.with_context(|| format!("no rate of which {} % is answered", 100.0 * limit))?;
            if step.limited() {
                println!("  the generator's limit: {:.0} queries/s", step.offered);
            }
            start = step.answers();
            found.push(start);
        }
        Ok(found)
    }

    /// Answers a second at a rate, and CPU seconds per million answers of the process, its receive work
    /// and its cores. A generator that fell short has two more tries.
    fn cost(&self, rate: f64) -> Result<Vec<f64>> {
        let (running, plan) = (self.running, self.rig.plan);
        let mut tries = 0;
        let (step, spent) = loop {
            let measured = self.twice(|| {
                let names = &self.rig.names.uniform;
                let load = || loads::open(&running.lab, names, rate, plan.load);
                running.meter.during(load)
            })?;
            tries += 1;
            if tries == 3 || !measured.0.limited() {
                break measured;
            }
        };
        let millions = step.answers() * plan.load as f64 / 1e6;
        let spent = [spent.process, spent.receive, spent.cores];
        let spent = spent.map(|seconds| seconds / millions);
        Ok([&[step.answers()], &spent[..]].concat())
    }

    fn closed(&self, clients: u32, rate: Rate) -> Closed<'_> {
        Closed {
            lab: &self.running.lab,
            cores: self.cores,
            names: &self.rig.names.uniform,
            clients,
            rate: rate.resolve(self.highest),
            seconds: self.rig.plan.load,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_do_not_overlap_where_there_are_enough() {
        let cores = |queues, available| {
            let cores = Cores::new(queues, false, available);
            (Cores::list(&cores.client), Cores::list(&cores.server))
        };
        assert_eq!(cores(1, 1), ("0".into(), "0".into()));
        assert_eq!(cores(1, 2), ("0".into(), "1".into()));
        assert_eq!(cores(2, 2), ("0".into(), "1".into()));
        assert_eq!(cores(2, 8), ("0,1".into(), "2,3".into()));
        assert_eq!(cores(4, 6), ("0,1,2".into(), "3,4,5".into()));
        let shared = Cores::shared(2);
        assert_eq!((shared.server, shared.client), (vec![0, 1], vec![0, 1]));
    }
}
