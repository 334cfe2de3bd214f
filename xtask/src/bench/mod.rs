//! `cargo xtask bench`: Heimdall beside its limit and beside others, under the same loads.

mod contestants;
mod cpu;
mod loads;
mod observed;
mod plan;
mod plot;
mod popularity;
mod report;
mod tls;
mod turn;

use std::{collections::BTreeMap, env, fs, thread, time::Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use contestants::{Contestant, Programs};
use loads::Names;
use plan::{Load, NameSet};
use report::{Outcome, Report};
use turn::Rig;

use crate::{
    search::Effort,
    setup::{self, BUILD, DNSTAP, LAB, PEERS, RESOLVERS, Setup},
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
  CPU time an answer at fixed rates, and the highest rate, receive work on the server's core (an hour):
    cargo xtask bench --loads --napi shared
  Of the hot tier and its limit at two rates, a few names more often than the others:
    cargo xtask bench --loads 25000,300000 --zipf --napi shared --only heimdall-tier,echo-tx
  The same of Heimdall and its limit at two rates, with latencies:
    cargo xtask bench --loads 25000,300000 --latency --only heimdall-xdp,echo
  Two queues, and two cores for the server:
    cargo xtask bench --only heimdall-xdp,echo,knot-xdp --queues 2
  Names that are in no cache, five rounds (about five minutes):
    cargo xtask bench --misses
  What it costs to be observed: with metrics scraped each second, top and dnstap, and without (ten minutes):
    cargo xtask bench --observed
  What the sandbox costs: CPU time an answer with and without (half an hour):
    cargo xtask bench --loads 25000,100000 --napi shared --only heimdall-xdp,heimdall-xdp-open,heimdall-sockets,heimdall-sockets-open
  How the rate grows with queues, each on a core of its own that it shares with its clients:
    cargo xtask bench --scaling
  What part of a million names' queries the hot tier answers, second by second (under two minutes):
    cargo xtask bench --tier
  DNS over TLS towards an upstream and towards clients, beside unbound and dnsdist (about eight minutes):
    cargo xtask bench --tls
The figures of all rounds, with the machine, the versions and the settings, go to
target/bench/bench.json, and a plot of the rates to bench.svg beside it; with --loads to
loads-NAPI.json, and curves over the rate to loads-NAPI.svg; with --misses to misses-NAPI.json, with
--observed to observed-NAPI.json, with --scaling to scaling.json, with --tier to tier.json and a curve over time to tier.svg, with --tls to tls.json. A cell of a table is the median of the rounds, the lowest and the highest, and the median of the rounds' ratios to the echo (×).

CPU time is in seconds per million answers, or microseconds an answer. It is counted in nanoseconds by the
scheduler for each thread of a server, softirqs that ran in its place included: with --napi softirq these
are the clients' receive work. \"process + receive\" has the server's NAPI thread besides, \"whole core\" all
that kept the server's cores from idling. Where less than 98 % is answered they are left out.

Without a quiet machine single figures move by tens of per cent: look at the ratios, which are of
contestants that were measured in turn, and at the spread between rounds.")]
pub(crate) struct Bench {
    /// One round, fewer contestants and loads, coarser steps
    #[arg(long)]
    quick: bool,

    /// Measure only these
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_enum)]
    only: Vec<Contestant>,

    /// How often each contestant has its turn [default: 3; with --loads, --misses or --observed 5, with --quick 1]
    #[arg(long)]
    rounds: Option<usize>,

    /// Where the kernel handles received packets
    #[arg(long, value_enum, default_value_t = Napi::Softirq)]
    napi: Napi,

    /// Measure only CPU time at these rates, and the highest rate
    #[arg(
        long, value_name = "RATE", value_delimiter = ',', num_args = 0..=1,
        default_missing_value = "25000,50000,100000,200000,300000"
    )]
    loads: Vec<u64>,

    /// With --loads: measure the latency of 300 clients at these rates, too
    #[arg(long, requires = "loads")]
    latency: bool,

    /// With --loads: at the rates ask for names by Zipf's law, and not for each equally often
    #[arg(long, requires = "loads")]
    zipf: bool,

    /// Measure only 100,000 names that are in no cache, and half of them that are
    #[arg(long, conflicts_with = "loads")]
    misses: bool,

    /// Measure only how the rate grows with queues, each on a core that it shares with its clients
    #[arg(long, conflicts_with_all = ["napi", "queues", "loads", "misses"])]
    scaling: bool,

    /// Measure only what part of the queries the hot tier answers: names by Zipf's law, while it fills, under a flood
    /// of random names, and after other names have become popular
    #[arg(long, conflicts_with_all = ["only", "rounds", "loads", "misses", "scaling", "observed"])]
    tier: bool,

    /// Measure only DNS over TLS, beside unbound and dnsdist: misses over connections to an upstream that stay open and over
    /// such that are closed after each response; queries and handshakes of clients
    #[arg(
        long,
        conflicts_with_all = ["only", "napi", "queues", "loads", "misses", "scaling", "observed", "tier"]
    )]
    tls: bool,

    /// Measure only Heimdall with and without observers: metrics scraped each second, `heimdall top`, dnstap 1/100
    #[arg(long, conflicts_with_all = ["loads", "misses", "scaling"])]
    observed: bool,

    /// Queues of the interfaces
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,
}

/// Where the kernel handles what an end receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Napi {
    /// In softirqs, on the core of the end that sends
    Softirq,
    /// In a kernel thread (threaded NAPI) on the core of the end that receives: a server shares its core
    Shared,
    /// In kernel threads on the clients' core: a server has its core to itself
    Separate,
}

/// Which cores the server and the generators use.
pub(crate) struct Cores {
    queues: u32,
    napi: Napi,
    server: Vec<usize>,
    client: Vec<usize>,
}

impl Cores {
    /// A core for each queue and end, as far as there are enough; the client's are the first ones,
    /// which kxdpgun uses.
    fn new(queues: u32, napi: Napi, available: usize) -> Self {
        let wanted = queues as usize;
        let client = wanted.min(available.div_ceil(2));
        let server = client.min(available - 1)..(client + wanted).min(available);
        Self {
            queues,
            napi,
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
            napi: Napi::Softirq,
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
    /// Seconds of a load, except for a step of the search.
    load: u64,
    search: Effort,
    loads: Vec<Load>,
    /// Of CPU time at a rate, and of clients in a closed loop.
    names: NameSet,
}

/// What `--quick` measures.
const QUICK: &[Contestant] = &[
    Contestant::HeimdallXdp,
    Contestant::Echo,
    Contestant::KnotXdp,
];

/// What `--loads` measures.
const LOADED: &[Contestant] = &[
    Contestant::HeimdallXdp,
    Contestant::HeimdallXdpAdaptive,
    Contestant::HeimdallXdpBusyPoll,
    Contestant::HeimdallTier,
    Contestant::Echo,
    Contestant::EchoTx,
    Contestant::KnotXdp,
    Contestant::Dnsdist,
    Contestant::Unbound,
    Contestant::Nsd,
    Contestant::HeimdallSockets,
];

/// What `--misses` measures.
const MISSED: &[Contestant] = &[
    Contestant::HeimdallXdp,
    Contestant::HeimdallSockets,
    Contestant::Dnsdist,
    Contestant::Unbound,
];

/// What `--observed` measures.
const OBSERVED: &[Contestant] = &[
    Contestant::HeimdallXdp,
    Contestant::HeimdallXdpObserved,
    Contestant::Echo,
];

/// Measured only if they are asked for.
const VARIANTS: &[Contestant] = &[
    Contestant::HeimdallXdpObserved,
    Contestant::HeimdallXdpOpen,
    Contestant::HeimdallSocketsOpen,
];

/// At these rates.
const OBSERVED_AT: &[u64] = &[100_000, 300_000];

/// Measured with several numbers of queues.
const SCALING: &[Contestant] = &[Contestant::HeimdallXdp, Contestant::Echo];

impl Bench {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        let stop = Stop::on_signals()?;
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces and AF_XDP need root");
        }
        setup.packages(&[BUILD, LAB])?;
        if self.observed {
            setup.packages(&[DNSTAP])?;
        }
        if let Err(error) = setup.packages(&[PEERS, RESOLVERS]) {
            println!("Some peers are missing: {error:#}");
        }
        let programs = Programs {
            heimdall: setup::build_heimdall()?,
            echo: setup::build_bench("echo")?,
            clients: setup::build_bench("clients")?,
            dot: setup::build_bench("dot")?,
        };
        let available = thread::available_parallelism().map_or(1, usize::from);
        let cores = Cores::new(self.queues, self.napi, available);
        if self.tier {
            let measured = popularity::run(&programs, &cores, self.quick, &stop)?;
            print!("\n{}", measured.text());
            let json = serde_json::to_string_pretty(&measured)?;
            return write("tier", &json, Some(&plot::shares(&measured)?));
        }
        if self.tls {
            let rig = tls::Rig {
                programs: &programs,
                cores: &cores,
                names: &Names::write()?,
                rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }),
                quick: self.quick,
                stop: &stop,
            };
            let measured = rig.run()?;
            print!("\n{}", measured.text());
            return write("tls", &serde_json::to_string_pretty(&measured)?, None);
        }
        let (contestants, missing) = self.contestants();
        let names = if self.zipf {
            NameSet::Zipf
        } else {
            NameSet::Uniform
        };
        let plan = Plan {
            rounds: self.rounds.unwrap_or(match () {
                () if self.quick => 1,
                () if self.misses || self.observed || !self.loads.is_empty() => 5,
                () => 3,
            }),
            load: if self.quick { 1 } else { 5 },
            search: Effort {
                precision: if self.quick { 1.15 } else { 1.03 },
                runs: if self.quick { 5 } else { 30 },
            },
            loads: match &self.loads[..] {
                [] if self.scaling => plan::scaling(),
                [] if self.misses => plan::misses(),
                [] if self.observed => plan::at_rates(OBSERVED_AT, false),
                [] => plan::all(self.quick),
                rates => plan::at_rates(rates, self.latency),
            },
            names,
        };
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
                        samples.push(Sample::new());
                    }
                }
            }
        }
        results.retain(|(_, samples)| samples.iter().any(|sample| !sample.is_empty()));
        let report = Report {
            machine: report::machine(),
            arguments: env::args().skip(2).collect(),
            server_cores: cores.server,
            generator_cores: cores.client,
            seconds: start.elapsed().as_secs(),
            not_installed: missing.iter().map(|who| who.name()).collect(),
            loads: plan.loads,
            results: (results.into_iter())
                .map(|(who, samples)| Outcome::new(who, samples))
                .collect(),
        };
        print!("\n{}", report.text());
        let form = self.form();
        let plot = match &form[..] {
            "bench" => Some(plot::rates(&report)?),
            _ if !self.loads.is_empty() => Some(plot::curves(&report, &self.loads)?),
            _ => None,
        };
        write(&form, &report.json()?, plot.as_deref())
    }

    /// The name of its files.
    fn form(&self) -> String {
        let napi = self.napi.to_possible_value();
        let napi = napi.as_ref().map_or("", |napi| napi.get_name());
        match () {
            () if self.scaling => "scaling".to_owned(),
            () if self.misses => format!("misses-{napi}"),
            () if self.observed => format!("observed-{napi}"),
            () if !self.loads.is_empty() => format!("loads-{napi}"),
            () => "bench".to_owned(),
        }
    }

    /// Those to measure, and those that are not installed.
    fn contestants(&self) -> (Vec<Contestant>, Vec<Contestant>) {
        let wanted: Vec<Contestant> = match (&self.only[..], self.quick) {
            ([], _) if self.scaling => SCALING.to_vec(),
            ([], _) if self.misses => MISSED.to_vec(),
            ([], _) if self.observed => OBSERVED.to_vec(),
            ([], true) => QUICK.to_vec(),
            ([], false) if !self.loads.is_empty() => LOADED.to_vec(),
            ([], false) => {
                let all = Contestant::value_variants().iter().copied();
                all.filter(|who| !VARIANTS.contains(who)).collect()
            }
            (only, _) => only.to_vec(),
        };
        wanted.into_iter().partition(|who| who.is_installed())
    }
}

/// Writes a form's files to target/bench.
fn write(form: &str, json: &str, svg: Option<&str>) -> Result<()> {
    let directory = workspace().join("target/bench");
    fs::create_dir_all(&directory)?;
    for (ending, text) in [("json", Some(json)), ("svg", svg)] {
        if let Some(text) = text {
            let path = directory.join(format!("{form}.{ending}"));
            fs::write(&path, text)?;
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_do_not_overlap_where_there_are_enough() {
        let cores = |queues, available| {
            let cores = Cores::new(queues, Napi::Softirq, available);
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
