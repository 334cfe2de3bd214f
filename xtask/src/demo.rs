//! `cargo xtask demo`: Heimdall at work, from an empty machine to a table of figures.

mod questions;

use std::{
    cell::Cell,
    net::UdpSocket,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lab::{
    ClosedLoop, Heimdall, Kdig, Knot, Kxdpgun, Lab, QueryFrame, SERVER_V4, SERVER_V6,
    ScriptedUpstream, UPSTREAM, run, sum,
};
use serde_json::Value;

use crate::{
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

    /// Handle each end's received packets in a kernel thread on that end's core (threaded NAPI);
    /// otherwise the sender's core handles them
    #[arg(long)]
    threaded_napi: bool,

    #[command(flatten)]
    setup: Setup,
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        let stop = Stop::on_signals()?;
        let root = nix::unistd::geteuid().is_root();
        if root {
            self.setup.packages(&[BUILD, LAB])?;
        } else {
            println!(
                "Not root: no AF_XDP and no network namespaces. The same on sockets, over loopback."
            );
            self.setup.packages(&[BUILD])?;
        }
        let program = setup::build_heimdall()?;
        stop.check()?;
        if root {
            self.on_xdp(&program, &stop)
        } else {
            on_loopback(&program, self.seconds, &stop)
        }
    }

    fn on_xdp(&self, program: &Path, stop: &Stop) -> Result<()> {
        let lab = Lab::new()?;
        let (server_core, client_core) = cores();
        if self.threaded_napi {
            lab.thread_napi(server_core, client_core)?;
        }
        println!(
            "\nLab: {} ({SERVER_V4}, {SERVER_V6}) ── veth ── {} in namespaces of their own",
            lab.server_if, lab.client_if,
        );
        let _knot = Knot::upstream(&lab)?;
        println!("Upstream: Knot DNS, authoritative for example.com, at {UPSTREAM} of the server");
        let heimdall = start(&lab, program, server_core)?;
        println!(
            "$ heimdall run --interface {} --upstream {UPSTREAM}",
            lab.server_if
        );
        for line in heimdall.process.output().lines() {
            println!("  {}", line.split("INFO").last().unwrap_or(line).trim());
        }
        questions::ask_all(
            |arguments| Kdig::ask(&lab, arguments),
            [SERVER_V4, SERVER_V6],
            questions::ZONES,
            stop,
        )?;

        println!("\nLoad, cached names:");
        let load = Load {
            lab: &lab,
            stop,
            replies: Cell::default(),
            failed: Cell::default(),
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
            ClosedLoop::run(&lab, SERVER_V4, CLIENTS, None, self.seconds)
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
        if load.failed.get() > 0 {
            problems.push(format!("{} replies were not NOERROR", load.failed.get()));
        }
        if veth_counter(&lab, "xdp_redirect")? < load.replies.get() {
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
}

/// Open loops over AF_XDP, and what they got all together.
struct Load<'a> {
    lab: &'a Lab,
    stop: &'a Stop,
    replies: Cell<u64>,
    /// Replies other than NOERROR.
    failed: Cell<u64>,
}

impl Load<'_> {
    fn kxdpgun(&self, title: &str, rate: f64, seconds: u64) -> Result<Step> {
        let title = format!("{title}: {rate:.0}/s");
        let load = with_progress(&title, seconds, self.stop, || {
            Kxdpgun::run(self.lab, SERVER_V4, rate as u64, seconds)
        })?;
        self.replies.set(self.replies.get() + load.replies);
        self.failed
            .set(self.failed.get() + load.replies.saturating_sub(load.noerror));
        Ok(Step {
            asked: rate,
            offered: load.queries as f64 / load.seconds,
            answered: load.answered(),
        })
    }
}

fn start(lab: &Lab, program: &Path, core: usize) -> Result<Heimdall> {
    // Pinned as a whole, so that the worker's core is the server's.
    let mut command = lab.on_server("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    let listen = [format!("{SERVER_V4}:53"), format!("[{SERVER_V6}]:53")];
    let arguments = [
        "--interface",
        &lab.server_if,
        "--listen",
        &listen[0],
        "--listen",
        &listen[1],
        "--upstream",
        UPSTREAM,
    ];
    Heimdall::start(command, program, &arguments)
}

/// A core for the server and one for the client.
fn cores() -> (usize, usize) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores.min(2) - 1, 0)
}

/// Runs something that takes about so many seconds, with a bar.
fn with_progress<T: Send>(
    title: &str,
    seconds: u64,
    stop: &Stop,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let style = ProgressStyle::with_template("  {msg:54} [{bar:30}] {elapsed}")?;
    let bar = ProgressBar::new(seconds * 10)
        .with_style(style)
        .with_message(title.to_owned());
    let result = thread::scope(|scope| {
        let (done, ended) = mpsc::channel();
        scope.spawn(move || {
            let _ = done.send(work());
        });
        let start = Instant::now();
        loop {
            match ended.recv_timeout(Duration::from_millis(100)) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bar.set_position((start.elapsed().as_millis() / 100) as u64);
                }
                Err(error) => return Err(error.into()),
            }
        }
    });
    bar.finish_and_clear();
    stop.check()?;
    result
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
    closed_rows(&format!("dnsperf, {CLIENTS} clients"), closed);
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

/// What a closed loop measured.
fn closed_rows(who: &str, load: ClosedLoop) {
    println!(
        "  Answers a second   {:>10.0}   ({who}, closed loop), {} of {} lost",
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

/// Without privileges: sockets on loopback, ports above 1024, and as upstream Knot DNS if it is
/// installed, or else one that is built in.
fn on_loopback(program: &Path, seconds: u64, stop: &Stop) -> Result<()> {
    const PORT: &str = "5354";
    const UPSTREAM_PORT: u16 = 5355;
    let upstream = format!("127.0.0.1:{UPSTREAM_PORT}");
    let knot = Knot::on_loopback(UPSTREAM_PORT).ok();
    let fake = if knot.is_some() {
        None
    } else {
        Some(ScriptedUpstream::on_loopback(&upstream, lab::by_label)?)
    };
    let (who, known) = match fake {
        Some(_) => ("built in", questions::BUILT_IN),
        None => ("Knot DNS", questions::ZONES),
    };
    println!("\nUpstream: {who} at {upstream}");
    let [v4, v6] = ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{PORT}"));
    let listen = ["--listen", &v4, "--listen", &v6, "--upstream", &upstream];
    let arguments = [&["--backend", "socket"], &listen[..]].concat();
    println!("$ heimdall run {}", arguments.join(" "));
    let heimdall = Heimdall::start(Command::new(program), program, &arguments)?;
    if Command::new("kdig").arg("-V").output().is_ok() {
        let ask = |arguments: &[&str]| {
            Kdig::read(&run(Command::new("kdig")
                .args(["-p", PORT, "+timeout=5", "+retry=0"])
                .args(arguments))?)
        };
        questions::ask_all(ask, ["127.0.0.1", "::1"], known, stop)?;
    } else {
        println!("No kdig here, so no questions by hand; it is in the package knot-dnsutils.");
    }
    println!("\nLoad, cached names:");
    let load = with_progress("32 queries in flight", seconds, stop, || {
        closed_loop(&v4, Duration::from_secs(seconds))
    })?;
    let stats = heimdall.stats()?;
    closed_rows("32 queries in flight over loopback", load);
    println!(
        "  Cache hits         {:>10}   of {} queries",
        stats["sockets"]["hits"], stats["sockets"]["udp_received"]
    );
    println!(
        "  Backend            {:>10}   (AF_XDP needs root)",
        text(&stats["backend"])
    );
    if load.rate == 0.0 {
        bail!("the load got no answers");
    }
    Ok(())
}

/// A closed loop of 32 queries in flight, for names that the upstream knows.
fn closed_loop(server: &str, duration: Duration) -> Result<ClosedLoop> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let query = |id: u16| {
        QueryFrame {
            id,
            ..QueryFrame::new([0; 12], &format!("n{}.example.com", id % 1000), 1)
        }
        .dns()
    };
    let (start, mut id, mut lost, mut latencies) = (Instant::now(), 0u16, 0, Vec::new());
    let mut sent_at = vec![start; 65_536];
    let send = |id: &mut u16, sent_at: &mut Vec<Instant>| -> Result<()> {
        *id = id.wrapping_add(1);
        sent_at[usize::from(*id)] = Instant::now();
        socket.send(&query(*id))?;
        Ok(())
    };
    for _ in 0..32 {
        send(&mut id, &mut sent_at)?;
    }
    let mut buffer = [0; 2048];
    while start.elapsed() < duration {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                latencies.push(sent_at[usize::from(id)].elapsed().as_secs_f64());
            }
            Err(_) => lost += 1,
        }
        send(&mut id, &mut sent_at)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(ClosedLoop::from_latencies(latencies, lost, seconds))
}
