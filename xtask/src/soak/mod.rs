//! `cargo xtask soak`: a server with a small cache under mixed load for a while.
//!
//! [`upstream`] says what is right; [`clients`] ask, and [`check`] judges each reply; [`watch`]
//! looks at the server's process. Here it is seen to that floods come and go and that the caches
//! are flushed and dumped meanwhile; [`report`] says what came of it.

mod check;
mod clients;
mod report;
mod upstream;
mod watch;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clients::{Kind, Tally, Udp, World, popular_name};
use lab::{FakeUpstream, Heimdall, Lab, SERVER_V4, SERVER_V6, UPSTREAM, sum};
use report::{Hits, Outcome};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use upstream::Ledger;
use watch::{Sample, broken};

use crate::{
    random::Random,
    setup::{self, BUILD, LAB, Setup},
};

/// Seconds between the lines that tell how it goes.
const TELL: u64 = 10;

/// Seconds between snapshots.
const SNAPSHOT: u64 = 5;

/// How long connections and upstream sockets may stay open after the last query.
const CLOSING: Duration = Duration::from_secs(20);

#[derive(Args)]
#[command(after_help = "\
Clients in a network namespace ask popular names, names that nobody asked before, names whose upstream
fails, and now and then thousands of random names a second; by UDP and TCP, IPv4 and IPv6. The upstream's
answers follow from the name, so that every reply is checked: ID, question, response code, records, TTLs
and TC. Caches are flushed, dumped and saved meanwhile. It fails if a reply is wrong, too many are
missing, memory or open files grow, or floods drive the popular names out of the cache. Needs root.")]
pub(crate) struct Soak {
    /// How long to ask
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(12..))]
    seconds: u64,

    /// Seed of the questions: the same seed, the same questions
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Memory of each of the server's caches
    #[arg(long, default_value = "2M", value_name = "BYTES")]
    cache_size: String,

    /// Test this heimdall, not one built from here
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,

    #[command(flatten)]
    setup: Setup,
}

/// When floods come: after the warm-up quiet and flood take turns, and at the end it is quiet.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    warm_up: u64,
    /// Seconds of a turn.
    turn: u64,
    end: u64,
}

impl Schedule {
    fn new(seconds: u64) -> Self {
        let warm_up = (seconds / 3).min(20);
        Self {
            warm_up,
            turn: ((seconds - warm_up) / 3).min(20),
            end: seconds,
        }
    }

    /// The turn at a time, unless it is still warming up: the odd ones are floods.
    fn turn(self, second: u64) -> Option<u64> {
        let last = (self.end - self.warm_up) / self.turn - 1;
        // The last is quiet, and longer if the time does not divide evenly.
        let turn = second.checked_sub(self.warm_up)? / self.turn;
        Some(turn.min(last & !1))
    }
}

impl Soak {
    /// What `cargo xtask test` runs.
    pub(crate) fn brief(setup: Setup) -> Self {
        Self {
            seconds: 18,
            seed: 1,
            cache_size: "2M".to_owned(),
            program: None,
            setup,
        }
    }

    pub(crate) fn run(self) -> Result<()> {
        if !lab::available("soak") {
            return Ok(());
        }
        self.setup.packages(&[BUILD, LAB])?;
        let program = match &self.program {
            Some(program) => program.clone(),
            None => setup::build_heimdall()?,
        };
        println!(
            "{} s, seed {}, caches of {}",
            self.seconds, self.seed, self.cache_size
        );
        self.soak(&program)?.tell()
    }

    /// Soaks, and looks at the server before and after.
    fn soak(&self, program: &Path) -> Result<Outcome> {
        let lab = Lab::new()?;
        let ledger = Arc::new(Ledger::new());
        let _upstream = FakeUpstream::scripted(&lab, UPSTREAM, {
            let ledger = ledger.clone();
            move |query| ledger.replies(&query.msg, query.tcp)
        })?;
        let directory = tempfile::tempdir()?;
        let snapshot = directory.path().join("snapshot");
        let heimdall = self.server(&lab, program, directory.path(), &snapshot)?;
        let world = World::new(ledger);
        let tallies = <[Tally; 5]>::default();
        let start = Sample::take(&heimdall)?;
        let mut outcome = self.load(&lab, &heimdall, &world, &tallies)?;
        // What is idle is closed after a while.
        let quiet = Instant::now();
        let end = loop {
            let end = Sample::take(&heimdall)?;
            if end.files <= start.files || quiet.elapsed() > CLOSING {
                break end;
            }
            thread::sleep(Duration::from_millis(200));
        };
        outcome.ends = [start, end];
        outcome.stats = heimdall.stats()?;
        outcome.tallies = tallies;
        outcome.wrong = world.wrong.into_inner()?;
        outcome.snapshot = fs::metadata(&snapshot)
            .context("no snapshot")?
            .modified()?
            .elapsed()
            .unwrap_or_default();
        Ok(outcome)
    }

    /// A server with a small cache that is saved often.
    fn server(
        &self,
        lab: &Lab,
        program: &Path,
        directory: &Path,
        snapshot: &Path,
    ) -> Result<Heimdall> {
        let config = directory.join("heimdall.toml");
        fs::write(
            &config,
            format!(
                "upstream = [\"{UPSTREAM}\"]\n[cache]\nsize = \"{}\"\nsnapshot = \"{}\"\nsnapshot-interval = {SNAPSHOT}\n",
                self.cache_size,
                snapshot.display()
            ),
        )?;
        let config = config.display().to_string();
        Heimdall::on_xdp(lab, program, &["--config", &config])
    }

    /// Lets all clients ask until the end.
    fn load(
        &self,
        lab: &Lab,
        heimdall: &Heimdall,
        world: &World,
        tallies: &[Tally; 5],
    ) -> Result<Outcome> {
        let mut random = Random::new(self.seed);
        let mut seed = || Random::new(random.next());
        let [popular, tail, flaky, flood, tcp] = tallies;
        let v4: SocketAddr = format!("{SERVER_V4}:53").parse()?;
        let v6: SocketAddr = format!("[{SERVER_V6}]:53").parse()?;
        let (again, cut) = mpsc::sync_channel(16);
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for (kind, tally, server) in [
                (Kind::Popular, popular, v4),
                (Kind::Popular, popular, v6),
                (Kind::Tail, tail, v4),
                (Kind::Flaky, flaky, v6),
                (Kind::Flood, flood, v4),
            ] {
                let client = Udp {
                    world,
                    kind,
                    tally,
                    random: seed(),
                    again: again.clone(),
                };
                clients.push(scope.spawn(move || lab.in_client(|| client.run(server))?));
            }
            let random = seed();
            clients.push(scope.spawn(move || {
                lab.in_client(move || clients::tcp(world, v4, tcp, random, &cut))?
            }));
            let random = seed();
            let commands = scope.spawn(move || command(heimdall, world, random));
            let watched = self.watch(heimdall, world);
            // Whatever came of it, the others are to end.
            world.stop.store(true, Relaxed);
            let mut outcome = watched?;
            for client in clients {
                let result = client.join().map_err(|_| anyhow!("a client died"))?;
                result.context("a client stopped")?;
            }
            let commands = commands.join().map_err(|_| anyhow!("a thread died"))?;
            outcome.commands = commands.context("a command failed")?;
            Ok(outcome)
        })
    }

    /// Lets floods come and go until the end, and looks at the server every second.
    fn watch(&self, heimdall: &Heimdall, world: &World) -> Result<Outcome> {
        let stop = Arc::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&stop))?;
        }
        let schedule = Schedule::new(self.seconds);
        let mut outcome = Outcome::default();
        let hits = || Hits {
            sent: world.ledger.sent.load(Relaxed),
            came: world.ledger.came.load(Relaxed),
        };
        let (mut turn, mut since) = (None, hits());
        let start = Instant::now();
        for second in 0..self.seconds {
            let now = schedule.turn(second);
            if now != turn {
                if turn.is_some() {
                    outcome.turns.push(hits().since(since));
                }
                (turn, since) = (now, hits());
                let flood = turn.is_some_and(|turn| turn % 2 == 1);
                world.flood.store(flood, Relaxed);
            }
            let next = start + Duration::from_secs(second + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            if stop.load(Relaxed) {
                bail!("stopped; namespaces and servers are gone");
            }
            let sample = Sample::take(heimdall)?;
            if turn.is_some() {
                outcome.samples.push(sample);
            }
            // The counters are written one by one; what is wrong stays so.
            if !broken(&heimdall.stats()?).is_empty() {
                thread::sleep(Duration::from_millis(50));
                outcome.broken.extend(broken(&heimdall.stats()?));
            }
            if (second + 1) % TELL == 0 {
                let stats = heimdall.stats()?;
                println!(
                    "{:>5} s  {:9} {:>9} received {:>9} hits {:>8} evictions  {:>6} KiB  {:>3} files",
                    second + 1,
                    match turn {
                        None => "warm-up",
                        Some(turn) if turn % 2 == 1 => "flood",
                        Some(_) => "quiet",
                    },
                    sum(&stats, "received"),
                    sum(&stats, "hits"),
                    sum(&stats, "cache/evictions"),
                    sample.anonymous,
                    sample.files,
                );
            }
        }
        outcome.turns.push(hits().since(since));
        Ok(outcome)
    }
}

/// Flushes and dumps what is in use, until it is time to stop; how often.
fn command(heimdall: &Heimdall, world: &World, mut random: Random) -> Result<u64> {
    let mut count = 0;
    while !world.stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(500));
        let rank = world.rank(&mut random);
        let name = popular_name(rank);
        let arguments: &[&str] = match random.below(6) {
            0 | 1 => &["flush", &name],
            2 => &["flush", "--zone", "tail.soak.example"],
            3 => &["flush", "--zone", "flaky.soak.example"],
            4 => &["dump", &name],
            _ => &["dump", "--zone", "popular.soak.example", "--json"],
        };
        let time = world.ledger.now();
        let output = heimdall.command(arguments)?;
        if !output.status.success() {
            bail!("{arguments:?}: {output:?}");
        }
        if arguments == ["flush", &name] {
            world.ledger.note_flush(rank, time);
        }
        count += 1;
    }
    Ok(count)
}
