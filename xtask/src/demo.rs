//! `cargo xtask demo`: Heimdall at work, from an empty machine to a table of figures.

use std::{cell::RefCell, path::Path, process::Command, thread, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lab::{
    ClosedLoop, Heimdall, Kdig, Knot, Kxdpgun, Lab, SERVER_V4, SERVER_V6, UPSTREAM, run, sum,
};
use serde_json::Value;

use crate::{
    questions::{self, QUESTIONS},
    search::{Effort, Step, highest},
    setup::{self, BUILD, LAB, Setup},
    stop::Stop,
};

/// dnsperf's clients.
const CLIENTS: u32 = 300;

/// How long to look for the rate that the machine carries.
const SEARCH: Effort = Effort {
    precision: 1.1,
    runs: 12,
};

#[derive(Args)]
#[command(after_help = "\
As root it makes two network namespaces with a veth pair between them, and runs heimdall on AF_XDP.
Without, it runs the same on kernel sockets over loopback. Everything is gone afterwards.")]
pub(crate) struct Demo {
    /// Seconds of each load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

impl Demo {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        let stop = Stop::on_signals()?;
        setup.packages(&[BUILD, LAB])?;
        let program = setup::build_heimdall()?;
        if nix::unistd::geteuid().is_root() {
            self.on_xdp(&program, &stop)
        } else {
            println!(
                "Not root: no AF_XDP and no network namespaces. The same on sockets, over loopback."
            );
            self.on_loopback(&program, &stop)
        }
    }

    fn on_xdp(&self, program: &Path, stop: &Stop) -> Result<()> {
        let lab = Lab::new()?;
        println!(
            "\nLab: {} ({SERVER_V4}, {SERVER_V6}) ── veth ── {} in namespaces of their own",
            lab.server_if, lab.client_if,
        );
        let _knot = Knot::upstream(&lab)?;
        println!("Upstream: Knot DNS, authoritative for example.com, at {UPSTREAM} of the server");
        let heimdall = start(&lab, program)?;
        println!(
            "$ heimdall run --interface {} --upstream {UPSTREAM}",
            lab.server_if
        );
        for line in heimdall.process.output().lines() {
            println!("  {}", line.split("INFO").last().unwrap_or(line).trim());
        }
        questions::ask_all(
            QUESTIONS,
            |arguments| Kdig::ask(&lab, arguments),
            [SERVER_V4, SERVER_V6],
            stop,
        )?;

        println!("\nLoad, cached names:");
        let load = Load {
            lab: &lab,
            stop,
            measured: RefCell::default(),
        };
        load.kxdpgun("filling the cache", 10_000.0, 2)?;
        let mut steps = Vec::new();
        let found = highest(200_000.0, 0.99, SEARCH, &mut steps, |rate| {
            load.kxdpgun("finding the rate that this machine carries", rate, 1)
        })?;
        // On a machine that loses some at any rate: the lowest one tried.
        let lowest = steps.iter().min_by(|a, b| a.asked.total_cmp(&b.asked));
        let Some(rate) = found.as_ref().or(lowest).map(|step| step.offered) else {
            bail!("no load was run");
        };
        let open = load.kxdpgun("kxdpgun at 0.9 of this rate", 0.9 * rate, self.seconds)?;
        let title = format!("dnsperf, {CLIENTS} clients");
        let closed = with_progress(&title, self.seconds, stop, || {
            ClosedLoop::run(lab.on_client("dnsperf"), SERVER_V4, CLIENTS, self.seconds)
        })?;
        // The counters of frames and rings are brought up to date once a second.
        thread::sleep(Duration::from_millis(1200));
        let stats = heimdall.stats()?;
        table(&lab, &stats, found, open, closed)?;

        // A slow or busy machine loses queries; that is no failure.
        let mut problems = Vec::new();
        if open.answered == 0.0 || closed.rate == 0.0 {
            problems.push("a load got no answers".to_owned());
        }
        let measured = load.measured.borrow();
        let replies = measured.iter().map(|load| load.replies).sum::<u64>();
        let noerror = measured.iter().map(|load| load.noerror).sum::<u64>();
        if noerror < replies {
            problems.push(format!("{} replies were not NOERROR", replies - noerror));
        }
        if veth_counter(&lab, "xdp_redirect")? < replies {
            problems.push("the kernel did not redirect the load to AF_XDP".to_owned());
        }
        if sum(&stats, "frames/missing") > 0 {
            problems.push("a worker has lost frames".to_owned());
        }
        if !problems.is_empty() {
            bail!("{}", problems.join("; "));
        }
        Ok(())
    }

    /// Without privileges: sockets on loopback, and ports above 1024.
    fn on_loopback(&self, program: &Path, stop: &Stop) -> Result<()> {
        const PORT: &str = "5354";
        const UPSTREAM_PORT: u16 = 5355;
        let upstream = format!("127.0.0.1:{UPSTREAM_PORT}");
        let _knot = Knot::on_loopback(UPSTREAM_PORT)?;
        println!("\nUpstream: Knot DNS at {upstream}");
        let [v4, v6] = ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{PORT}"));
        let listen = ["--listen", &v4, "--listen", &v6, "--upstream", &upstream];
        let arguments = [&["--backend", "socket"], &listen[..]].concat();
        println!("$ heimdall run {}", arguments.join(" "));
        let heimdall = Heimdall::start(Command::new(program), program, &arguments)?;
        let ask = |arguments: &[&str]| {
            let mut kdig = Command::new("kdig");
            kdig.args(["-p", PORT]);
            Kdig::run(kdig, arguments)
        };
        questions::ask_all(QUESTIONS, ask, ["127.0.0.1", "::1"], stop)?;
        println!("\nLoad, cached names:");
        let title = format!("dnsperf, {CLIENTS} clients");
        let load = with_progress(&title, self.seconds, stop, || {
            let mut dnsperf = Command::new("dnsperf");
            dnsperf.args(["-p", PORT]);
            ClosedLoop::run(dnsperf, "127.0.0.1", CLIENTS, self.seconds)
        })?;
        let stats = heimdall.stats()?;
        closed_rows(load);
        println!(
            "  Cache hits         {:>10}   of {} queries",
            stats["sockets"]["hits"], stats["sockets"]["udp_received"]
        );
        if load.rate == 0.0 {
            bail!("the load got no answers");
        }
        Ok(())
    }
}

/// Open loops over AF_XDP, and what they measured.
struct Load<'a> {
    lab: &'a Lab,
    stop: &'a Stop,
    measured: RefCell<Vec<Kxdpgun>>,
}

impl Load<'_> {
    fn kxdpgun(&self, title: &str, rate: f64, seconds: u64) -> Result<Step> {
        let title = format!("{title}: {rate:.0}/s");
        let load = with_progress(&title, seconds, self.stop, || {
            Kxdpgun::run(self.lab, SERVER_V4, rate as u64, seconds)
        })?;
        self.measured.borrow_mut().push(load);
        Ok(Step::new(rate, load))
    }
}

/// Starts Heimdall on a core that is not kxdpgun's, which is the first.
fn start(lab: &Lab, program: &Path) -> Result<Heimdall> {
    let core = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(2)
        - 1;
    let mut command = lab.on_server("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    let [v4, v6] = [format!("{SERVER_V4}:53"), format!("[{SERVER_V6}]:53")];
    let listen = ["--listen", &v4, "--listen", &v6, "--upstream", UPSTREAM];
    let arguments = [&["--interface", &lab.server_if], &listen[..]].concat();
    Heimdall::start(command, program, &arguments)
}

/// Runs `work`, which takes about `seconds`, with a bar.
fn with_progress<T: Send>(
    title: &str,
    seconds: u64,
    stop: &Stop,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    const STEP: Duration = Duration::from_millis(100);
    let style = ProgressStyle::with_template("  {msg:54} [{bar:30}] {elapsed}")?;
    let bar = ProgressBar::new(seconds * 10)
        .with_style(style)
        .with_message(title.to_owned());
    let result = thread::scope(|scope| {
        let worker = scope.spawn(work);
        while !worker.is_finished() {
            bar.inc(1);
            thread::sleep(STEP);
        }
        worker.join()
    });
    bar.finish_and_clear();
    stop.check()?;
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn table(
    lab: &Lab,
    stats: &Value,
    found: Option<Step>,
    open: Step,
    closed: ClosedLoop,
) -> Result<()> {
    let interface = &stats["interfaces"][0];
    let rate = found.map_or("none".to_owned(), |step| format!("{:.0}", step.offered));
    let limit = found.is_some_and(|step| step.limited());
    println!(
        "  Highest rate       {rate:>10}   queries a second with 99 % answered (kxdpgun, 1 s){}",
        if limit { ", its own limit" } else { "" }
    );
    println!(
        "  Answers a second   {:>10.0}   of {:.0} queries a second (kxdpgun)",
        open.answers(),
        open.offered
    );
    println!(
        "  Loss               {:>8.3} %",
        100.0 * (1.0 - open.answered)
    );
    closed_rows(closed);
    println!(
        "  Cache hits         {:>10}   of {} queries",
        sum(stats, "hits"),
        sum(stats, "received")
    );
    for worker in stats["workers"].as_array().into_iter().flatten() {
        println!(
            "  Queue              {:>10}   of {}: {} XDP, {}",
            worker["queue"],
            text(&worker["interface"]),
            text(&interface["attach"]),
            text(&worker["mode"]),
        );
    }
    println!("\nThe kernel's counters:");
    println!(
        "  XDP program {} steered {} packets to AF_XDP",
        interface["program_id"], interface["verdicts"]["steered"]
    );
    println!(
        "  veth driver (ethtool -S): {} packets went through XDP, {} of them were redirected",
        veth_counter(lab, "xdp_packets")?,
        veth_counter(lab, "xdp_redirect")?,
    );
    let ring = &stats["workers"][0]["ring"];
    println!(
        "  XDP_STATISTICS: rx_dropped {}, rx_ring_full {}, rx_invalid_descs {}, tx_invalid_descs {}",
        ring["rx_dropped"],
        ring["rx_ring_full"],
        ring["rx_invalid_descs"],
        ring["tx_invalid_descs"],
    );
    let link = lab.server_link()?;
    for line in link.lines().filter(|line| line.contains("prog/xdp")) {
        println!("  ip link: {}", line.trim());
    }
    Ok(())
}

/// What dnsperf measured.
fn closed_rows(load: ClosedLoop) {
    println!(
        "  Answers a second   {:>10.0}   (dnsperf, {CLIENTS} clients, closed loop), {} of {} lost",
        load.rate, load.lost, load.sent
    );
    let [p50, p99, p999] = load.percentiles.map(|seconds| 1e3 * seconds);
    println!(
        "  Latency            {:>7.2} ms   mean; p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms",
        1e3 * load.mean
    );
}

/// A counter of the veth driver on the server's interface, over all queues.
fn veth_counter(lab: &Lab, name: &str) -> Result<u64> {
    let counters = run(lab.on_server("ethtool").args(["-S", &lab.server_if]))?;
    Ok(counters
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(title, _)| title.starts_with("rx_queue_") && title.ends_with(name))
        .filter_map(|(_, count)| count.parse::<u64>().ok())
        .sum())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
