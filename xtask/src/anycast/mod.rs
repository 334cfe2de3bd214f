//! `cargo xtask anycast`: one address on three nodes, which come, go and fail under load.
//!
//! [`network`] makes the hosts; [`clients`] ask, and know what became of each query; [`report`] has the results.

mod clients;
mod network;
mod report;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clients::{BIN, GROWTH, Record};
use fastrand::Rng;
use network::{DETECTION, Fabric, Node, SERVICE_V4, SERVICE_V6};
use report::{Cost, Step};

use crate::{
    setup::{self, BOOK, BUILD, LAB, Setup},
    stop::Stop,
};

/// Nodes with the address.
const NODES: usize = 3;

#[derive(Args)]
#[command(after_help = "\
In network namespaces: clients, a router, an upstream, and three nodes that all have the addresses of [anycast]. A node
runs heimdall on AF_XDP and BIRD, which announces the addresses by BGP, with BFD, while Heimdall has them on lo. The router
spreads flows over the nodes (ECMP, by addresses and ports). Clients ask from 192 sockets, over IPv4 and IPv6, by Zipf's law, a
hundredth for names that no cache has; each reply is checked, and its NSID says which node it is from.

Meanwhile: a node is drained and comes back; all three are upgraded in turn (--take-over); the upstream is gone for one
node; Heimdall is killed (kill -9), with `heimdall withdraw` right after it as the systemd unit does, and a second later; a whole
node falls silent, which BFD detects; and FRR takes BIRD's place at one node.

A row of the table is a step. The nodes' columns count right answers. \"no route\" counts queries that the router dropped
while BIRD replaced its routes: it deletes one before it adds the next. \"lost for ms\" is from the first query without an answer to the
last. It fails if more queries are lost than the router had no route for, or one gets a wrong reply or SERVFAIL, in a step that may
cost none: only a kill may cost queries, until the routes are gone, and only the loss of the upstream a SERVFAIL, for names that no
cache has. Needs root.
  cargo xtask anycast --plot docs/anycast.svg
  cargo xtask anycast --rate 2000 --pause 1              a short form, for a small machine")]
pub(crate) struct AnycastLab {
    /// Queries a second
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    rate: u32,

    /// Seconds that the load goes on after each step
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pause: u64,

    /// Write a plot of answers and losses over time, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Run this heimdall, instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl AnycastLab {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("needs root, for network namespaces and XDP programs");
        }
        let stop = Stop::on_signals()?;
        setup.packages(&[BOOK, BUILD, LAB])?;
        let program = setup::heimdall(self.program.as_deref())?;
        let (fabric, mut nodes) = network::make(&program)?;
        for node in &mut nodes {
            node.start_bird()?;
            node.start()?;
        }
        for node in &nodes {
            fabric.wait_for_routes(node.number, true)?;
        }
        println!("three nodes announce {SERVICE_V4} and {SERVICE_V6}");
        let (steps, record) = self.under_load(&fabric, &mut nodes, &stop)?;
        println!("\n{}", report::table(&steps, &record));
        println!(
            "\nBFD detects a silent node after {} ms.",
            DETECTION.as_millis()
        );
        if let Some(path) = &self.plot {
            let plot = report::plot(&steps, &record)?;
            fs::write(path, plot).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let problems = report::problems(&steps, &record);
        if !problems.is_empty() {
            bail!("{}", problems.join("; "));
        }
        Ok(())
    }

    /// Lets clients ask while all steps are taken.
    fn under_load(
        &self,
        fabric: &Fabric,
        nodes: &mut [Node],
        stop: &Stop,
    ) -> Result<(Vec<Step>, Record)> {
        let servers = [
            format!("{SERVICE_V4}:53").parse()?,
            format!("[{SERVICE_V6}]:53").parse()?,
        ];
        for server in servers {
            fabric
                .clients
                .within(|| clients::wait_for_answer(server))??;
        }
        let start = Instant::now();
        let is_over = &AtomicBool::new(false);
        let rate = f64::from(self.rate) / 2.0;
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for (seed, server) in (1..).zip(servers) {
                clients.push(scope.spawn(move || {
                    let random = Rng::with_seed(seed);
                    fabric
                        .clients
                        .within(|| clients::ask(server, rate, random, start, is_over))?
                }));
            }
            let mut run = Run {
                fabric,
                stop,
                start,
                pause: Duration::from_secs(self.pause),
                steps: Vec::new(),
            };
            let outcome = run.steps(nodes);
            // Whatever came of it, the clients are to end.
            is_over.store(true, Relaxed);
            outcome?;
            let mut record = Record::default();
            for client in clients {
                let one = client.join().map_err(|_| anyhow!("a client panicked"))?;
                record.add(one.context("a client stopped")?);
            }
            Ok((run.steps, record))
        })
    }
}

/// The steps that are taken under load.
struct Run<'a> {
    fabric: &'a Fabric,
    stop: &'a Stop,
    start: Instant,
    pause: Duration,
    steps: Vec<Step>,
}

impl Run<'_> {
    fn step(
        &mut self,
        title: &str,
        cost: Cost,
        work: impl FnOnce(&Fabric) -> Result<String>,
    ) -> Result<()> {
        self.stop.check()?;
        println!("{:5.1} s  {title}", self.start.elapsed().as_secs_f64());
        // From a bin's beginning on; and what is sent before the work begins is answered before.
        let bins = self.start.elapsed().div_duration_f64(BIN).ceil();
        let from = BIN.mul_f64(bins);
        thread::sleep((from + BIN).saturating_sub(self.start.elapsed()));
        let unroutable = self.fabric.unroutable()?;
        let note = work(self.fabric).with_context(|| title.to_owned())?;
        let done = self.start.elapsed();
        thread::sleep(self.pause);
        self.steps.push(Step {
            title: title.to_owned(),
            note,
            cost,
            from,
            done,
            to: self.start.elapsed(),
            unroutable: self.fabric.unroutable()? - unroutable,
        });
        Ok(())
    }

    fn steps(&mut self, nodes: &mut [Node]) -> Result<()> {
        let [one, two, three] = nodes else {
            bail!("not three nodes");
        };
        let (nothing, started) = (|| Ok(String::new()), self.start);
        self.step("the load grows", Cost::Nothing, |_| {
            thread::sleep(GROWTH.saturating_sub(started.elapsed()));
            nothing()
        })?;
        self.step("all three", Cost::Nothing, |_| nothing())?;
        self.step("drain node2", Cost::Nothing, |fabric| {
            two.drain()?;
            fabric.wait_for_routes(2, false)?;
            nothing()
        })?;
        self.step("node2 returns", Cost::Nothing, |fabric| {
            returns(fabric, two)
        })?;
        for node in [&mut *one, two, three] {
            let title = format!("upgrade node{}", node.number);
            self.step(&title, Cost::Nothing, |_| {
                node.upgrade()?;
                nothing()
            })?;
        }
        self.step("node3 loses its upstream", Cost::Failures, |fabric| {
            fabric.cut_upstream(3, true)?;
            let time = fabric.wait_for_routes(3, false)?;
            Ok(format!("withdrawn after {:.1} s", time.as_secs_f64()))
        })?;
        self.step("node3 has it again", Cost::Failures, |fabric| {
            fabric.cut_upstream(3, false)?;
            let time = fabric.wait_for_routes(3, true)?;
            Ok(format!("announced after {:.1} s", time.as_secs_f64()))
        })?;
        self.step("kill -9 at node1, withdraw", Cost::Queries, |fabric| {
            let killed = Instant::now();
            one.kill()?;
            one.withdraw()?;
            fabric.wait_for_routes(1, false)?;
            Ok(routes_gone(killed))
        })?;
        self.step("node1 returns", Cost::Nothing, |fabric| {
            returns(fabric, one)
        })?;
        self.step(
            "kill -9 at node1, withdraw 1 s later",
            Cost::Queries,
            |fabric| {
                let killed = Instant::now();
                one.kill()?;
                thread::sleep(Duration::from_secs(1));
                one.withdraw()?;
                fabric.wait_for_routes(1, false)?;
                Ok(routes_gone(killed))
            },
        )?;
        self.step("node1 returns again", Cost::Nothing, |fabric| {
            returns(fabric, one)
        })?;
        self.step("node1 falls silent (BFD)", Cost::Queries, |fabric| {
            one.freeze_routing()?;
            let killed = Instant::now();
            one.kill()?;
            fabric.wait_for_routes(1, false)?;
            Ok(routes_gone(killed))
        })?;
        self.step("node1 returns after BFD", Cost::Nothing, |fabric| {
            one.withdraw()?;
            one.resume_routing()?;
            returns(fabric, one)
        })?;
        self.step("node3: FRR", Cost::Nothing, |fabric| {
            three.drain()?;
            fabric.wait_for_routes(3, false)?;
            three.start_frr()?;
            three.start()?;
            fabric.wait_for_routes(3, true)?;
            Ok("announced".to_owned())
        })?;
        self.step("drain node3", Cost::Nothing, |fabric| {
            three.drain()?;
            fabric.wait_for_routes(3, false)?;
            Ok("withdrawn".to_owned())
        })
    }
}

fn returns(fabric: &Fabric, node: &mut Node) -> Result<String> {
    node.start()?;
    fabric.wait_for_routes(node.number, true)?;
    Ok(String::new())
}

fn routes_gone(since: Instant) -> String {
    format!("routes gone after {} ms", since.elapsed().as_millis())
}
