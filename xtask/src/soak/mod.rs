//! `cargo xtask soak`: a server with a small cache under mixed load for a while.
//!
//! [`answers`] says what is right; [`clients`] ask, and [`check`] judges each reply; [`watch`]
//! looks at the server's process. Here floods come and go, and the caches are flushed and dumped
//! meanwhile; [`report`] has the results. With `--faults` the server is replaced and suffers [`faults`] meanwhile.

mod answers;
mod check;
mod clients;
mod faults;
mod report;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::{Duration, Instant},
};

use answers::Ledger;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clients::{Kind, Udp, World, popular_name};
use fastrand::Rng;
use indicatif::ProgressIterator as _;
use lab::{Heimdall, Lab, SERVER_V4, SERVER_V6, ScriptedUpstream, UPSTREAM};
use report::{Hits, Report};
use watch::{Sample, never_so};

use crate::{
    setup::{self, BUILD, LAB, Setup},
    stop::Stop,
};

/// Memory of each of the server's caches: too little for the load.
const CACHE: &str = "2M";
/// Seconds between snapshots.
const SNAPSHOT_INTERVAL: u64 = 5;
/// Sockets to the upstream that the forwarder keeps open, at most.
const POOL: usize = 16;

/// How long connections and upstream sockets may stay open after the last query.
const CLOSING: Duration = Duration::from_secs(20);

#[derive(Args)]
#[command(after_help = "\
Clients in a network namespace ask popular names, names that nobody asked before, names whose upstream
fails, and now and then thousands of random names a second; by UDP and TCP, IPv4 and IPv6. The upstream's
answers follow from the name, so that every reply is checked: ID, question, response code, records, TTLs
and TC. The hot tier is on. Caches are flushed, dumped and saved meanwhile. It fails if a reply is wrong, too many are
missing, memory or open files grow, or floods drive the popular names out of the cache. Needs root.

With --faults, every so often something happens, in turn: another process takes over; a reload needs a
take-over in the same process, or none; the server is killed and started; the link flaps; the upstream is
gone; a worker fails; the disk of the snapshot is full; the control socket is gone; the server is drained
and started. It fails if a query is lost or gets SERVFAIL that no fault explains, or in the time of one
that may cost none, and if memory or open files grow from one round to the next:
  cargo xtask soak --faults --seconds 1800
  cargo xtask soak --faults --seconds 120 --every 10     a short form")]
pub(crate) struct Soak {
    /// How long to ask
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(12..))]
    seconds: u64,

    /// Seed of the questions: the same seed, the same questions
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Faults and hand-overs meanwhile
    #[arg(long)]
    faults: bool,

    /// Run this heimdall, instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,

    /// Seconds from one fault to the next
    #[arg(long, requires = "faults", default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..))]
    every: u64,
}

/// The phase of a second of the run, unless it is still warming up. After that quiet phases and floods
/// alternate, the odd ones are floods; the last is quiet, and longer if the time does not divide evenly.
fn phase(second: u64, seconds: u64) -> Option<u64> {
    let warm_up = (seconds / 3).min(20);
    let length = ((seconds - warm_up) / 3).min(20);
    let last = (seconds - warm_up) / length - 1;
    let phase = second.checked_sub(warm_up)? / length;
    Some(phase.min(last & !1))
}

impl Soak {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        if !lab::available("soak") {
            return Ok(());
        }
        setup.packages(&[BUILD, LAB])?;
        let program = setup::heimdall(self.program.as_deref())?;
        match self.faults {
            true => self.soak_with_faults(&program),
            false => self.soak(&program)?.print(),
        }
    }

    /// Soaks, and looks at the server before and after.
    fn soak(&self, program: &Path) -> Result<Report> {
        let lab = Lab::new()?;
        let ledger = Arc::new(Ledger::new());
        let upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, {
            let ledger = ledger.clone();
            move |query| ledger.responses(query)
        })?;
        let directory = tempfile::tempdir()?;
        let snapshot = directory.path().join("snapshot");
        let config = directory.path().join("heimdall.toml");
        let text =
            format!("[cache]\nsnapshot = {snapshot:?}\nsnapshot-interval = {SNAPSHOT_INTERVAL}\n");
        fs::write(&config, text)?;
        let config = config.display().to_string();
        let cache = ["--upstream", UPSTREAM, "--cache-size", CACHE];
        let arguments = [&["--config", &config], &cache[..]].concat();
        let heimdall = Heimdall::on_xdp(&lab, program, &arguments)?;
        let world = World::new(ledger);
        let start = Sample::take(&heimdall)?;
        let command = |arguments: &[&str]| heimdall.command(arguments);
        let watch = || self.watch(&heimdall, &world, &upstream);
        let mut report = self.load(&lab, &world, &command, watch)?;
        // What is idle is closed after a while.
        let quiet = Instant::now();
        let end = loop {
            let end = Sample::take(&heimdall)?;
            if end.files <= start.files + POOL || quiet.elapsed() > CLOSING {
                break end;
            }
            thread::sleep(Duration::from_millis(200));
        };
        report.ends = [start, end];
        report.stats = heimdall.stats()?;
        report.tallies = world.tallies();
        report.problems.extend(world.wrong.into_inner()?);
        let written = fs::metadata(&snapshot).context("no snapshot")?.modified()?;
        report.snapshot = written.elapsed().unwrap_or_default();
        Ok(report)
    }

    /// Lets all clients ask while some work is done.
    fn load<T>(
        &self,
        lab: &Lab,
        world: &World,
        command: &(impl Fn(&[&str]) -> Result<Output> + Sync),
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut random = Rng::with_seed(self.seed);
        let v4 = format!("{SERVER_V4}:53").parse()?;
        let v6 = format!("[{SERVER_V6}]:53").parse()?;
        let (again, truncated) = mpsc::sync_channel(16);
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for (kind, server) in [
                (Kind::Popular, v4),
                (Kind::Popular, v6),
                (Kind::Tail, v4),
                (Kind::Flaky, v6),
                (Kind::Flood, v4),
            ] {
                let client = Udp {
                    world,
                    kind,
                    random: random.fork(),
                    again: again.clone(),
                };
                clients.push(scope.spawn(move || lab.in_client(|| client.run(server))?));
            }
            let fork = random.fork();
            let over_tcp = move || clients::tcp(world, v4, fork, &truncated);
            clients.push(scope.spawn(move || lab.in_client(over_tcp)));
            let commands = scope.spawn(move || commands(command, world, random));
            let worked = work();
            // Whatever came of it, the others are to end.
            world.stop.store(true, Relaxed);
            let result = worked?;
            for client in clients {
                let result = client.join().map_err(|_| anyhow!("a client panicked"))?;
                result.context("a client stopped")?;
            }
            let commands = commands.join().map_err(|_| anyhow!("a thread panicked"))?;
            commands.context("a command failed")?;
            Ok(result)
        })
    }

    /// Lets floods come and go until the end, and looks at the server every second.
    fn watch(
        &self,
        heimdall: &Heimdall,
        world: &World,
        upstream: &ScriptedUpstream,
    ) -> Result<Report> {
        let stop = Stop::on_signals()?;
        let mut report = Report::default();
        let (mut before, mut since) = (None, Hits::default());
        let start = Instant::now();
        for second in (0..self.seconds).progress_count(self.seconds) {
            let phase = phase(second, self.seconds);
            if phase != before {
                let hits = Hits::so_far(&world.ledger);
                if before.is_some() {
                    report.phases.push(hits.since(since));
                }
                (before, since) = (phase, hits);
                let flood = phase.is_some_and(|phase| phase % 2 == 1);
                world.flood.store(flood, Relaxed);
            }
            let next = start + Duration::from_secs(second + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            stop.check()?;
            upstream.forget();
            if phase.is_some() {
                report.samples.push(Sample::take(heimdall)?);
            }
            report.problems.extend(never_so(heimdall)?);
        }
        report.phases.push(Hits::so_far(&world.ledger).since(since));
        Ok(report)
    }
}

/// Flushes and dumps caches in use until it is time to stop.
fn commands(
    command: &impl Fn(&[&str]) -> Result<Output>,
    world: &World,
    mut random: Rng,
) -> Result<()> {
    while !world.stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(500));
        if world.disturbed.load(Relaxed) {
            continue;
        }
        let rank = world.rank(&mut random);
        let name = popular_name(rank);
        let arguments: &[&str] = match random.u8(..6) {
            0 | 1 => &["flush", &name],
            2 => &["flush", "--zone", "tail.soak.example"],
            3 => &["flush", "--zone", "flaky.soak.example"],
            4 => &["dump", &name],
            _ => &["dump", "--zone", "popular.soak.example", "--json"],
        };
        let time = world.ledger.now();
        let output = command(arguments)?;
        if !output.status.success() && world.disturbed.load(Relaxed) {
            continue;
        }
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            if arguments[0] == "dump" && stderr.contains("is not read for half a second") {
                // This machine had other work than reading it.
                continue;
            }
            bail!("{arguments:?}: {}: {stderr}", output.status);
        }
        if arguments == ["flush", &name] {
            world.ledger.note_flush(rank, time);
        }
    }
    Ok(())
}
