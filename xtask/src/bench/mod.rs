//! `cargo xtask bench`: Heimdall beside its limit and beside others, under the same loads.

mod contestants;
mod cpu;
mod loads;
mod plot;
mod report;
mod search;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use contestants::{Contestant, Running};
use lab::ClosedLoop;
use loads::Names;
use search::{Effort, highest};

use crate::{
    setup::{self, BUILD, LAB, PEERS, RESOLVERS, Setup},
    stop::Stop,
};

#[derive(Args)]
#[command(after_help = "\
Each contestant runs alone, in a pair of network namespaces of its own with a veth pair between
them: it starts, is asked for all names once, is measured, stops; then the next one's turn, round
after round. The server has one core, the generators another. Peers that cannot be installed are left
out.

Examples:
  All of it, three rounds (about an hour and a half):
    cargo xtask bench
  A first look, in under two minutes:
    cargo xtask bench --quick
  Heimdall and its limit alone, with receive threads:
    cargo xtask bench --only heimdall-xdp,echo --napi threaded
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

    /// Measure these alone
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    only: Vec<Contestant>,

    /// How often each contestant has its turn [default: 3, with --quick 1]
    #[arg(long)]
    rounds: Option<usize>,

    /// Who does the kernel's receive work
    #[arg(long, value_enum, default_value_t = Napi::Softirq)]
    napi: Napi,

    /// Measure only how the rate grows with queues, each on a core that it shares with its clients
    #[arg(long, conflicts_with_all = ["napi", "queues"])]
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

/// Where veth's receive work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Napi {
    /// On the sender's core, in softirqs
    Softirq,
    /// On the receiver's core, in a kernel thread
    Threaded,
}

/// Who runs where.
pub(crate) struct Cores {
    queues: u32,
    threaded: bool,
    server: Vec<usize>,
    client: Vec<usize>,
}

impl Cores {
    /// A core for each queue and end, as far as there are as many; the client's are the first,
    /// which kxdpgun takes.
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

    /// A core for each queue, on which both ends are: so all cores are at work, and each has the same
    /// work however many there are.
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
type Sample = BTreeMap<&'static str, f64>;

/// How thoroughly to measure.
struct Plan {
    rounds: usize,
    /// Seconds of a step of the search.
    step: u64,
    /// Seconds of any other load.
    load: u64,
    /// Seconds of doing nothing.
    idle: u64,
    search: Effort,
    quick: bool,
    /// Only how the rate grows with queues.
    scaling: bool,
}

/// The rate and the clients of an early prototype's measurement.
const EARLY_RATE: u64 = 25_429;
const EARLY_CLIENTS: u32 = 300;

/// The rate at which the CPU time of all that get so far is compared.
const EQUAL_RATE: u64 = 300_000;

const QUICK: &[Contestant] = &[
    Contestant::HeimdallXdp,
    Contestant::Echo,
    Contestant::KnotXdp,
];

/// Those of which it is measured how they grow with queues.
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
        let heimdall = setup::build_heimdall()?;
        let (contestants, missing) = self.contestants();
        for contestant in &missing {
            println!("Left out, not installed: {}", contestant.name());
        }
        let plan = Plan {
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }),
            step: 1,
            load: if self.quick { 1 } else { 5 },
            idle: if self.quick { 1 } else { 2 },
            search: Effort {
                precision: if self.quick { 1.15 } else { 1.03 },
                runs: if self.quick { 5 } else { 30 },
            },
            quick: self.quick,
            scaling: self.scaling,
        };
        let available = thread::available_parallelism().map_or(1, usize::from);
        let cores = Cores::new(self.queues, self.napi == Napi::Threaded, available);
        let names = Names::write()?;
        let clients = setup::build_bench("clients")?;

        let rig = Rig {
            heimdall: &heimdall,
            plan: &plan,
            names: &names,
            clients: &clients,
            stop: &stop,
        };
        let mut results: Vec<(Contestant, Vec<Sample>)> =
            contestants.iter().map(|&who| (who, Vec::new())).collect();
        let start = Instant::now();
        for round in 1..=plan.rounds {
            for (contestant, samples) in &mut results {
                stop.check()?;
                let name = contestant.name();
                println!("round {round} of {}: {name}", plan.rounds);
                let mut turn = Ok(Sample::new());
                if !plan.scaling {
                    turn = rig.alone(*contestant, &cores, samples.last());
                }
                if SCALING.contains(contestant) && (plan.scaling || !plan.quick) {
                    turn = turn.and_then(|sample| rig.shared(*contestant, available, sample));
                }
                match turn {
                    Ok(sample) => samples.push(sample),
                    Err(error) => {
                        stop.check()?;
                        println!("  {name} is left out of this round: {error:#}");
                    }
                }
            }
        }
        results.retain(|(_, samples)| !samples.is_empty());
        let report = report::Report {
            settings: self.settings(&plan, &cores, start.elapsed()),
            versions: (results.iter())
                .map(|(who, _)| (who.name(), who.version(&heimdall)))
                .collect(),
            missing: missing.iter().map(|who| who.name()).collect(),
            results,
        };
        print!("\n{}", report.text());
        let directory = workspace().join("target/bench");
        let json = self.json.unwrap_or_else(|| directory.join("bench.json"));
        let plot = self.plot.unwrap_or_else(|| directory.join("bench.svg"));
        write(&json, &format!("{:#}\n", report.json()?))?;
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
        (wanted.into_iter()).partition(|who| who.of_heimdall() || Path::new(who.program()).exists())
    }

    fn settings(&self, plan: &Plan, cores: &Cores, elapsed: Duration) -> Vec<(String, String)> {
        let napi = match self.napi {
            Napi::Softirq => "softirq, on the sender's core",
            Napi::Threaded => "threads, on the receiver's core",
        };
        let setting = |name: &str, value: String| (name.to_owned(), value);
        vec![
            setting("rounds", plan.rounds.to_string()),
            setting("quick", plan.quick.to_string()),
            setting("queues, cores apart", cores.queues.to_string()),
            setting("receive work", napi.to_owned()),
            setting("server's cores", Cores::list(&cores.server)),
            setting("generators' cores", Cores::list(&cores.client)),
            setting("cores shared, alone", plan.scaling.to_string()),
            setting("seconds a step", plan.step.to_string()),
            setting("seconds a load", plan.load.to_string()),
            setting(
                "precision",
                format!("{:.0} %", 100.0 * (plan.search.precision - 1.0)),
            ),
            setting("took", format!("{} s", elapsed.as_secs())),
        ]
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

/// What all turns have in common.
#[derive(Clone, Copy)]
struct Rig<'a> {
    /// Heimdall's program.
    heimdall: &'a Path,
    plan: &'a Plan,
    names: &'a Names,
    /// The program of clients on AF_XDP.
    clients: &'a Path,
    stop: &'a Stop,
}

impl Rig<'_> {
    /// Measures a contestant that has its cores to itself. `before` is what it did the round before.
    fn alone(&self, who: Contestant, cores: &Cores, before: Option<&Sample>) -> Result<Sample> {
        let running = who.start(self.heimdall, cores)?;
        let mut turn = self.turn(&running, cores, Sample::new());
        turn.measure(who, before)?;
        Ok(turn.sample)
    }

    /// Measures a contestant with more and more queues, as far as there are cores.
    fn shared(&self, who: Contestant, available: usize, mut sample: Sample) -> Result<Sample> {
        let fitting = |(queues, _): &(u32, Latencies)| *queues as usize <= available;
        for (queues, keys) in SHARED.into_iter().filter(fitting) {
            let cores = Cores::shared(queues);
            let running = who.start(self.heimdall, &cores)?;
            let mut turn = self.turn(&running, &cores, sample);
            turn.share(who, queues, keys)?;
            sample = turn.sample;
        }
        Ok(sample)
    }

    fn turn<'b>(&'b self, running: &'b Running, cores: &'b Cores, sample: Sample) -> Turn<'b> {
        Turn {
            rig: *self,
            cores,
            running,
            sample,
        }
    }
}

/// A contestant's turn in a round.
struct Turn<'a> {
    rig: Rig<'a>,
    cores: &'a Cores,
    running: &'a Running,
    sample: Sample,
}

impl Turn<'_> {
    /// Measures everything. What was found the round before is where the searches begin.
    fn measure(&mut self, who: Contestant, before: Option<&Sample>) -> Result<()> {
        let Self { running, rig, .. } = *self;
        let Rig { plan, names, .. } = rig;
        running.meter.settle()?;
        let ((), idle) = running.meter.during(|| {
            thread::sleep(Duration::from_secs(plan.idle));
            Ok(())
        })?;
        self.put("idle", 100.0 * idle.process / idle.elapsed);
        if who.caches() {
            self.warm(&names.uniform, lab::HOSTS as u64)?;
        }
        let start = before
            .and_then(|sample| sample.get("uniform 99.9"))
            .copied()
            .unwrap_or(who.typical());
        let best = self.search(UNIFORM, &names.uniform, start)?;
        self.cost(NEAR, 0.9 * best)?;
        if best >= EQUAL_RATE as f64 {
            self.cost(EQUAL, EQUAL_RATE as f64)?;
        }
        if !plan.quick {
            self.cost(EARLY, EARLY_RATE as f64)?;
            self.search(ZIPF, &names.zipf, best)?;
            self.closed(C100, 100, None)?;
        }
        self.closed(C300, EARLY_CLIENTS, None)?;
        if !plan.quick {
            self.closed(FIXED, EARLY_CLIENTS, Some(EARLY_RATE))?;
        }
        self.closed_on_xdp(X300, EARLY_CLIENTS, None)?;
        self.closed_on_xdp(XFIXED, EARLY_CLIENTS, Some(EARLY_RATE))?;
        if !plan.quick {
            self.closed_on_xdp(XHALF, EARLY_CLIENTS, Some((0.5 * best) as u64))?;
            self.closed_on_xdp(X100, 100, None)?;
        }
        if !plan.quick && (who.of_heimdall() || !who.caches()) {
            if who.caches() {
                self.warm(&names.million, loads::MILLION)?;
            }
            self.search(MILLION, &names.million, best)?;
        }
        self.put("resident", running.meter.resident()? as f64 / 1e6);
        Ok(())
    }

    /// Measures so many queues on cores that they share with their clients.
    fn share(&mut self, who: Contestant, queues: u32, keys: Latencies) -> Result<()> {
        self.running.meter.settle()?;
        if who.caches() {
            self.warm(&self.rig.names.uniform, lab::HOSTS as u64)?;
        }
        self.closed_on_xdp(keys, CLIENTS_A_QUEUE * queues, None)
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

    fn warm(&self, names: &Path, count: u64) -> Result<()> {
        self.twice(|| loads::warm(&self.running.lab, names, count))
    }

    fn put(&mut self, name: &'static str, value: f64) {
        self.sample.insert(name, value);
    }

    /// The highest rates with 99.9 % and 99 % answered; the first of them.
    fn search(&mut self, keys: Rates, names: &Path, start: f64) -> Result<f64> {
        let (mut steps, mut best) = (Vec::new(), start);
        for (key, limit) in keys.into_iter().zip([0.999, 0.99]) {
            let found = highest(best, limit, self.rig.plan.search, &mut steps, |rate| {
                self.twice(|| loads::open(&self.running.lab, names, rate, self.rig.plan.step))
            })?;
            let found = found
                .with_context(|| format!("no rate of which {} % is answered", 100.0 * limit))?;
            let answers = found.answers();
            println!(
                "  {key} %: {answers:.0} answers/s{} ({} steps)",
                if found.limited() {
                    ", the generator's limit"
                } else {
                    ""
                },
                steps.len()
            );
            self.put(key, answers);
            best = answers;
        }
        Ok(self.sample[keys[0]])
    }

    /// CPU seconds per million answers at a rate: `keys` are for the answers a second, and for what
    /// the process, the receive work and the cores took. A generator that fell short has two more
    /// tries.
    fn cost(&mut self, keys: Costs, rate: f64) -> Result<()> {
        let Self { running, rig, .. } = *self;
        let Rig { plan, names, .. } = rig;
        let mut tries = 0;
        let (step, spent) = loop {
            let measured = self.twice(|| {
                let load = || loads::open(&running.lab, &names.uniform, rate, plan.load);
                running.meter.during(load)
            })?;
            tries += 1;
            if tries == 3 || !measured.0.limited() {
                break measured;
            }
        };
        let millions = step.answers() * plan.load as f64 / 1e6;
        let values = [spent.process, spent.receive, spent.cores].map(|spent| spent / millions);
        println!(
            "  at {rate:.0}/s: {:.2} CPU s per million answers, {:.2} of its core",
            values[0], values[2]
        );
        self.put(keys[0], step.answers());
        for (key, value) in keys[1..].iter().zip(values) {
            self.put(key, value);
        }
        Ok(())
    }

    fn closed(&mut self, keys: Latencies, clients: u32, rate: Option<u64>) -> Result<()> {
        let Self {
            running,
            cores,
            rig,
            ..
        } = *self;
        let Rig { plan, names, .. } = rig;
        let load = self.twice(|| {
            let names = &names.uniform;
            loads::closed(&running.lab, cores, names, clients, rate, plan.load)
        })?;
        self.latencies(keys, load);
        Ok(())
    }

    fn closed_on_xdp(&mut self, keys: Latencies, clients: u32, rate: Option<u64>) -> Result<()> {
        let Self {
            running,
            cores,
            rig,
            ..
        } = *self;
        let Rig {
            plan,
            names,
            clients: program,
            ..
        } = rig;
        let load = self.twice(|| {
            let (lab, names) = (&running.lab, &names.uniform);
            loads::closed_on_xdp(lab, cores, program, names, clients, rate, plan.load)
        })?;
        self.latencies(keys, load);
        Ok(())
    }

    fn latencies(&mut self, keys: Latencies, load: ClosedLoop) {
        let rate = load.rate;
        let [p50, p99, p999] = load.percentiles.map(|seconds| 1e3 * seconds);
        let lost = 100.0 * load.lost as f64 / load.sent.max(1) as f64;
        let values = [rate, 1e3 * load.mean, p50, p99, p999, lost];
        println!(
            "  {}: {rate:.0}, mean {:.2} ms, p99 {p99:.2}, p99.9 {p999:.2}, {lost:.3} % lost",
            keys[0], values[1]
        );
        for (key, value) in keys.into_iter().zip(values) {
            self.put(key, value);
        }
    }
}

/// Names of the figures of a search: the rates at 99.9 % and at 99 %.
type Rates = [&'static str; 2];

const UNIFORM: Rates = ["uniform 99.9", "uniform 99"];
const ZIPF: Rates = ["zipf 99.9", "zipf 99"];
const MILLION: Rates = ["million 99.9", "million 99"];

/// Names of the figures of a load whose CPU time is measured: the rate, and CPU seconds per million
/// answers of the process, its receive work, its cores.
type Costs = [&'static str; 4];

const NEAR: Costs = ["near", "near process", "near receive", "near cores"];
const EQUAL: Costs = ["equal", "equal process", "equal receive", "equal cores"];
const EARLY: Costs = ["early", "early process", "early receive", "early cores"];

/// Names of the figures of a load whose latency is measured.
type Latencies = [&'static str; 6];

macro_rules! latencies {
    ($load:literal) => {
        [
            concat!($load, ", answers/s"),
            concat!($load, ", mean"),
            concat!($load, ", p50"),
            concat!($load, ", p99"),
            concat!($load, ", p99.9"),
            concat!($load, ", lost"),
        ]
    };
}

const C100: Latencies = latencies!("100 clients");
const C300: Latencies = latencies!("300 clients");
const FIXED: Latencies = latencies!("300 clients at 25429/s");
const X100: Latencies = latencies!("100 clients on AF_XDP");
const X300: Latencies = latencies!("300 clients on AF_XDP");
const XFIXED: Latencies = latencies!("300 clients on AF_XDP at 25429/s");
const XHALF: Latencies = latencies!("300 clients on AF_XDP at half of its highest rate");

/// Queues that share their cores with clients, and the names of their figures.
const SHARED: [(u32, Latencies); 3] = [
    (1, latencies!("1 queue, shared core")),
    (2, latencies!("2 queues, shared cores")),
    (4, latencies!("4 queues, shared cores")),
];

/// Clients of each queue that shares its core with them.
const CLIENTS_A_QUEUE: u32 = 250;

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
