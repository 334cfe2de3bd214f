//! `cargo xtask soak`: a server with a small cache under everything at once for some minutes. Its
//! memory stays flat, and every reply is right.

mod clients;
mod zone;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clients::{Habit, Tally, is_popular, over_tcp, over_udp};
use serde_json::Value;
use xtask::lab::{FakeUpstream, Heimdall, Lab, UPSTREAM, sum};

use crate::setup::{self, BUILD, LAB, Setup};

/// Growth of the server's memory that is none, in KiB: what buffers differ by.
const SLACK: u64 = 4096;

/// Parts of the run: every second one has a flood.
const PHASES: u32 = 5;

#[derive(Args)]
#[command(after_help = "\
A server on AF_XDP with a cache of 2 MiB a thread, in network namespaces. Its clients ask for popular
names whose answers live for some seconds, for names that nobody asks for twice, and over TCP; in
every second fifth of the time also for random names as fast as they can. Meanwhile zones are flushed,
the caches dumped and snapshots written. Every reply is compared with what the upstream says of the
name. It fails if one is wrong, if the server's memory, threads or files grow after the first fifth,
if a frame is missing, or if more than one query in a thousand is lost. Needs root.")]
pub(crate) struct Soak {
    /// How long
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(10..))]
    seconds: u32,

    /// Seed of the questions
    #[arg(long, default_value_t = 1)]
    seed: u64,

    #[command(flatten)]
    setup: Setup,
}

/// What the server holds at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    /// KiB of memory of its own.
    memory: u64,
    threads: u64,
    files: u64,
}

/// What a phase came to.
struct Phase {
    flood: bool,
    popular_hits: f64,
    queries: u64,
    holding: Holding,
}

impl Soak {
    /// A short one, for CI.
    pub(crate) fn brief(setup: Setup) -> Self {
        Self {
            seconds: 20,
            seed: 1,
            setup,
        }
    }

    pub(crate) fn run(self) -> Result<()> {
        self.setup.packages(&[BUILD, LAB])?;
        let program = setup::build_heimdall()?;
        let lab = Lab::new()?;
        let asked_popular = Arc::new(AtomicU64::new(0));
        let _upstream = FakeUpstream::answering(&lab, UPSTREAM, {
            let asked_popular = Arc::clone(&asked_popular);
            move |query, over_tcp| {
                if is_popular(query) && !over_tcp {
                    asked_popular.fetch_add(1, Relaxed);
                }
                zone::respond(query, over_tcp)
            }
        })?;
        let directory = tempfile::tempdir()?;
        let settings = directory.path().join("heimdall.toml");
        let snapshot = directory.path().join("snapshot");
        let text = format!(
            "[cache]\nsize = \"2M\"\nstale-max-age = 0\nsnapshot = {snapshot:?}\nsnapshot-interval = 2\n"
        );
        fs::write(&settings, text)?;
        let settings = settings.display().to_string();
        let arguments = ["--upstream", UPSTREAM, "--config", &settings];
        let heimdall = Heimdall::on_xdp(&lab, &program, &arguments)?;
        let tally = Tally::default();
        let (flood, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let phases = thread::scope(|scope| -> Result<Vec<Phase>> {
            let habits = [
                Habit::Popular,
                Habit::Popular,
                Habit::LongTail,
                Habit::Flood,
            ];
            let (tally, flood, stop, lab) = (&tally, &flood, &stop, &lab);
            let mut clients: Vec<_> = habits
                .into_iter()
                .zip(self.seed..)
                .map(|(habit, seed)| {
                    scope.spawn(move || lab.as_client(|| over_udp(habit, seed, tally, flood, stop)))
                })
                .collect();
            let seed = self.seed;
            clients.push(scope.spawn(move || lab.as_client(|| over_tcp(seed, tally, stop))));
            let phases = self.watch(&heimdall, tally, &asked_popular, flood);
            stop.store(true, Relaxed);
            for client in clients {
                client.join().map_err(|_| anyhow!("a client died"))??;
            }
            phases
        })?;
        report(&phases, &tally);
        verdict(&phases, &tally, &heimdall.stats()?)
    }

    /// Lets the phases pass.
    fn watch(
        &self,
        heimdall: &Heimdall,
        tally: &Tally,
        asked_popular: &AtomicU64,
        flood: &AtomicBool,
    ) -> Result<Vec<Phase>> {
        let mut phases = Vec::new();
        for number in 0..PHASES {
            let is_flood = number % 2 == 1;
            flood.store(is_flood, Relaxed);
            println!(
                "{} of {PHASES}: {}",
                number + 1,
                if is_flood { "under a flood" } else { "quiet" }
            );
            let count = || {
                let popular = tally.popular.load(Relaxed);
                let missed = asked_popular.load(Relaxed);
                (popular, missed, tally.right.load(Relaxed))
            };
            let before = count();
            let end = Instant::now() + Duration::from_secs(self.seconds.into()) / PHASES;
            let mut most = Holding::default();
            while Instant::now() < end {
                thread::sleep(Duration::from_millis(500));
                for arguments in [&["flush", "--zone", "zone3.test"][..], &["dump", "--json"]] {
                    let output = heimdall.command(arguments)?;
                    if !output.status.success() {
                        bail!("{arguments:?}: {output:?}");
                    }
                }
                let now = holding(heimdall.process.pid())?;
                most = Holding {
                    memory: most.memory.max(now.memory),
                    threads: most.threads.max(now.threads),
                    files: most.files.max(now.files),
                };
            }
            let after = count();
            let part = (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64;
            phases.push(Phase {
                flood: is_flood,
                popular_hits: 100.0 * (1.0 - part),
                queries: after.2 - before.2,
                holding: most,
            });
        }
        Ok(phases)
    }
}

/// Reads what a process holds.
fn holding(pid: u32) -> Result<Holding> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("no {name} in /proc/{pid}/status"))
    };
    Ok(Holding {
        memory: field("RssAnon:")?,
        threads: field("Threads:")?,
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
    })
}

fn report(phases: &[Phase], tally: &Tally) {
    println!(
        "\nphase  flood  right replies  popular names from the caches  memory KiB  threads  files"
    );
    for (number, phase) in phases.iter().enumerate() {
        println!(
            "{:>5}  {:>5}  {:>13}  {:>28.2}%  {:>10}  {:>7}  {:>5}",
            number + 1,
            if phase.flood { "yes" } else { "no" },
            phase.queries,
            phase.popular_hits,
            phase.holding.memory,
            phase.holding.threads,
            phase.holding.files,
        );
    }
    println!(
        "{} right ({} of them cut, to be asked for over TCP), {} wrong, {} SERVFAIL, {} lost",
        tally.right.load(Relaxed),
        tally.cut.load(Relaxed),
        tally.wrong.lock().unwrap().len(),
        tally.failed.load(Relaxed),
        tally.lost.load(Relaxed)
    );
}

/// Whether all is as it has to be.
fn verdict(phases: &[Phase], tally: &Tally, stats: &Value) -> Result<()> {
    let mut bad = tally.wrong.lock().unwrap().clone();
    let (right, lost) = (tally.right.load(Relaxed), tally.lost.load(Relaxed));
    let failed = tally.failed.load(Relaxed);
    if right < 1000 || (lost + failed) * 1000 > right {
        bad.push(format!("{lost} lost and {failed} SERVFAIL of {right}"));
    }
    let [first, rest @ ..] = phases else {
        bail!("no phase");
    };
    for phase in rest {
        let (now, then) = (phase.holding, first.holding);
        if now.memory > then.memory + SLACK || now.threads > then.threads {
            bad.push(format!("grown from {then:?} to {now:?}"));
        }
        // A flood costs popular names little: they are asked for again and again.
        if phase.popular_hits < first.popular_hits - 10.0 {
            bad.push(format!("popular names: {:.1} %", phase.popular_hits));
        }
    }
    for (counter, wanted) in [
        ("frames/missing", 0),
        ("ring/rx_invalid_descs", 0),
        ("ring/tx_invalid_descs", 0),
    ] {
        let count = sum(stats, counter);
        if count != wanted {
            bad.push(format!("{counter} is {count}"));
        }
    }
    if sum(stats, "cache/evictions") == 0 {
        bad.push("the caches were never full: nothing was shown".to_owned());
    }
    match bad.as_slice() {
        [] => Ok(()),
        bad => bail!("{}", bad.join("\n")),
    }
}
