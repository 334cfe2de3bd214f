//! `cargo xtask demo`: Heimdall at work, from an empty machine to a table of figures.

mod questions;

use std::{
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
    setup::{self, BUILD, LAB, Setup},
    stop::Stop,
};

const CLIENTS: u32 = 300;

#[derive(Args)]
#[command(after_help = "\
As root it makes two network namespaces with a veth pair between them, and runs heimdall on AF_XDP.
Without, it runs the same on kernel sockets over loopback. Everything is gone afterwards.")]
pub(crate) struct Demo {
    /// Queries a second for the load over AF_XDP
    #[arg(long, default_value_t = 300_000)]
    rate: u64,

    /// Seconds of each load
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Handle each end's received packets in a kernel thread on that end's core (threaded NAPI);
    /// otherwise the sender's core handles them
    #[arg(long)]
    threaded_napi: bool,

    /// Search the highest rate with 99 % answered, and that of Knot DNS in XDP mode beside it
    #[arg(long)]
    peer: bool,

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
            on_loopback(&program, &stop)
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
        let knot = Knot::upstream(&lab)?;
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
        let warm = with_progress("warming the cache", 2, stop, || {
            Kxdpgun::run(&lab, SERVER_V4, 10_000, 2)
        })?;
        let open = with_progress(
            &format!("kxdpgun, {} queries a second", self.rate),
            self.seconds,
            stop,
            || Kxdpgun::run(&lab, SERVER_V4, self.rate, self.seconds),
        )?;
        let closed = with_progress(
            &format!("dnsperf, {CLIENTS} clients"),
            self.seconds,
            stop,
            || ClosedLoop::run(&lab, SERVER_V4, CLIENTS, None, self.seconds),
        )?;
        // The counters of frames and rings are brought up to date once a second.
        thread::sleep(Duration::from_millis(1200));
        let stats = heimdall.stats()?;
        let redirected = veth_counter(&lab, "xdp_redirect")?;
        table(&lab, &stats, open, closed)?;
        if self.peer {
            drop((heimdall, knot));
            drop(lab);
            self.compare(program, stop)?;
        }
        let mut problems = Vec::new();
        for (what, load) in [("warming", warm), ("the load", open)] {
            if load.answered() < 0.999 {
                problems.push(format!(
                    "{:.2} % of {what} was answered",
                    100.0 * load.answered()
                ));
            }
        }
        if redirected < warm.replies + open.replies {
            problems.push("the kernel did not redirect the load to AF_XDP".to_owned());
        }
        if !problems.is_empty() {
            bail!(
                "{}; on a busy or small machine try a lower --rate",
                problems.join("; ")
            );
        }
        Ok(())
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
    let style = ProgressStyle::with_template("  {msg:42} [{bar:30}] {elapsed}")?;
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
    bar.finish();
    stop.check()?;
    result
}

fn table(lab: &Lab, stats: &Value, open: Kxdpgun, closed: ClosedLoop) -> Result<()> {
    let interface = &stats["interfaces"][0];
    let [p50, p99, p999] = closed.percentiles.map(|seconds| seconds * 1000.0);
    println!(
        "\nAnswers a second   {:>10.0}   of {:.0} queries a second (kxdpgun, open loop)",
        open.replies as f64 / open.seconds,
        open.queries as f64 / open.seconds
    );
    println!(
        "Loss               {:>9.3} %   {} of {} queries",
        100.0 * (1.0 - open.answered()),
        open.queries.saturating_sub(open.replies),
        open.queries
    );
    println!(
        "With {CLIENTS} clients   {:>10.0}   answers a second (dnsperf, closed loop), {} of {} lost",
        closed.rate, closed.lost, closed.sent
    );
    println!(
        "Latency            {:>7.2} ms   mean; p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms",
        closed.mean * 1000.0
    );
    println!(
        "Cache hits         {:>10}   of {} queries",
        sum(stats, "hits"),
        sum(stats, "received")
    );
    for worker in stats["workers"].as_array().into_iter().flatten() {
        println!(
            "Queue              {:>10}   of {}: {} XDP, {}",
            worker["queue"],
            text(&worker["interface"]),
            text(&interface["attach"]),
            text(&worker["mode"]),
        );
    }
    println!("\nThe kernel's side:");
    println!(
        "  XDP program {} steered {} packets to AF_XDP",
        interface["program_id"], interface["verdicts"]["steered"]
    );
    println!(
        "  veth driver (ethtool -S): {} packets went through XDP, {} of them were redirected",
        veth_counter(lab, "xdp_packets")?,
        veth_counter(lab, "xdp_redirect")?,
    );
    let link = lab.server_link()?;
    for line in link.lines().filter(|line| line.contains("xdp")) {
        println!("  ip link: {}", line.trim());
    }
    let ring = &stats["workers"][0]["ring"];
    println!(
        "  XDP_STATISTICS: rx_dropped {}, rx_ring_full {}, rx_invalid_descs {}, tx_invalid_descs {}",
        ring["rx_dropped"],
        ring["rx_ring_full"],
        ring["rx_invalid_descs"],
        ring["tx_invalid_descs"],
    );
    let snmp = run(lab.on_server("cat").arg("/proc/net/snmp"))?;
    let udp: Vec<&str> = snmp
        .lines()
        .filter(|line| line.starts_with("Udp:"))
        .collect();
    let column = |name: &str| -> Option<String> {
        let at = udp.first()?.split(' ').position(|title| title == name)?;
        udp.get(1)?.split(' ').nth(at).map(str::to_owned)
    };
    println!(
        "  UDP datagrams that the kernel's own stack received meanwhile: {} (the upstream's)",
        column("InDatagrams").unwrap_or_default(),
    );
    Ok(())
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

impl Demo {
    /// The highest rates at which Heimdall and Knot DNS, both in XDP mode, answer 99 % and 99.9 %:
    /// each on a fresh lab, in turn.
    fn compare(&self, program: &Path, stop: &Stop) -> Result<()> {
        println!("\nAnswers a second, one queue, 3 s at each rate, in turn:");
        let (server_core, client_core) = cores();
        let fresh = || -> Result<Lab> {
            let lab = Lab::new()?;
            if self.threaded_napi {
                lab.thread_napi(server_core, client_core)?;
            }
            Ok(lab)
        };
        for round in 1..=3 {
            let heimdall = {
                let lab = fresh()?;
                let _upstream = Knot::upstream(&lab)?;
                let _heimdall = start(&lab, program, server_core)?;
                Kxdpgun::run(&lab, SERVER_V4, 10_000, 2)?;
                highest(&lab, "heimdall", stop)?
            };
            let knot = {
                let lab = fresh()?;
                let _knot = Knot::on_xdp(&lab, server_core)?;
                highest(&lab, "Knot DNS", stop)?
            };
            println!(
                "  round {round}: heimdall {} with 99 %, {} with 99.9 %; Knot DNS {} with 99 %, {} with 99.9 %",
                heimdall[0], heimdall[1], knot[0], knot[1],
            );
        }
        Ok(())
    }
}

/// The highest answered rates with 99 % and with 99.9 % answered, on a ladder of offered ones.
fn highest(lab: &Lab, who: &str, stop: &Stop) -> Result<[u64; 2]> {
    const STEP: u64 = 50_000;
    let (mut best, mut rate, mut failures) = ([0; 2], 2 * STEP, 0);
    while failures < 2 {
        let load = with_progress(&format!("{who} at {rate}"), 3, stop, || {
            Kxdpgun::run(lab, SERVER_V4, rate, 3)
        })?;
        let answers = (load.replies as f64 / load.seconds) as u64;
        for (best, share) in best.iter_mut().zip([0.99, 0.999]) {
            if load.answered() >= share {
                *best = (*best).max(answers);
            }
        }
        failures = if load.answered() < 0.99 {
            failures + 1
        } else {
            0
        };
        rate += STEP;
        // The generator has reached its own limit.
        if (load.queries as f64 / load.seconds) < 0.9 * (rate - STEP) as f64 {
            break;
        }
    }
    Ok(best)
}

/// Without privileges: sockets on loopback, ports above 1024, and as upstream Knot DNS if it is
/// installed, or else one that is built in.
fn on_loopback(program: &Path, stop: &Stop) -> Result<()> {
    const PORT: &str = "5354";
    const UPSTREAM_PORT: u16 = 5355;
    let upstream = format!("127.0.0.1:{UPSTREAM_PORT}");
    let knot = Knot::on_loopback(UPSTREAM_PORT).ok();
    let fake = if knot.is_some() {
        None
    } else {
        Some(ScriptedUpstream::on_loopback(&upstream, lab::by_label)?)
    };
    println!(
        "\nUpstream: {} at {upstream}",
        if fake.is_some() {
            "built in"
        } else {
            "Knot DNS"
        }
    );
    let listen = [format!("127.0.0.1:{PORT}"), format!("[::1]:{PORT}")];
    let arguments = [
        "--backend",
        "socket",
        "--listen",
        &listen[0],
        "--listen",
        &listen[1],
        "--upstream",
        &upstream,
    ];
    println!("$ heimdall run {}", arguments.join(" "));
    let heimdall = Heimdall::start(Command::new(program), program, &arguments)?;
    let kdig = Command::new("kdig").arg("-V").output().is_ok();
    if kdig {
        let ask = |arguments: &[&str]| {
            Kdig::read(&run(Command::new("kdig")
                .args(["-p", PORT, "+timeout=5", "+retry=0"])
                .args(arguments))?)
        };
        let known = if fake.is_some() {
            questions::BUILT_IN
        } else {
            questions::ZONES
        };
        questions::ask_all(ask, ["127.0.0.1", "::1"], known, stop)?;
    } else {
        println!("No kdig here, so no questions by hand; it is in the package knot-dnsutils.");
    }
    println!("\nLoad, cached names:");
    let load = with_progress("a closed loop of 32 queries", 5, stop, || {
        closed_loop(&listen[0], Duration::from_secs(5))
    })?;
    let stats = heimdall.stats()?;
    let [p50, p99, p999] = load.percentiles.map(|seconds| seconds * 1000.0);
    println!(
        "\nAnswers a second   {:>10.0}   (closed loop over loopback)",
        load.rate
    );
    println!(
        "Loss               {:>10}   of {} queries",
        load.lost, load.sent
    );
    println!(
        "Latency            {:>7.2} ms   mean; p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms",
        load.mean * 1000.0
    );
    println!(
        "Cache hits         {:>10}   of {} queries",
        stats["sockets"]["hits"], stats["sockets"]["udp_received"]
    );
    println!(
        "Backend            {:>10}   (AF_XDP needs root)",
        text(&stats["backend"])
    );
    if load.lost > 0 {
        bail!("{} queries were not answered", load.lost);
    }
    Ok(())
}

/// A closed loop of 32 queries under way, for names that the upstream knows.
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
