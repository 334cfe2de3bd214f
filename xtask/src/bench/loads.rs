//! What the contestants are asked: names, open loops, closed loops.

use std::{
    fmt::Write as _,
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lab::{ClosedLoop, HOSTS, Kxdpgun, Lab, SERVER_V4};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tempfile::TempDir;

use super::Cores;
use crate::{search::Step, zipf::Zipf};

/// Files of queries, in the format that kxdpgun and dnsperf share. The order is the same in every run.
pub(super) struct Names {
    /// 10,000 names in random order.
    pub(super) uniform: PathBuf,
    /// 200,000 queries for the same names, drawn by Zipf's law with s = 1.
    pub(super) zipf: PathBuf,
    /// 1,000,000 names in random order.
    pub(super) million: PathBuf,
    /// 100,000 names in random order, for misses.
    pub(super) distinct: PathBuf,
    /// As many queries: names of `uniform`, and in between other ones, whose latency does not count.
    pub(super) half: PathBuf,
    _directory: TempDir,
}

/// How many names [`Names::distinct`] has.
pub(super) const DISTINCT: usize = 100_000;
/// How many names [`Names::million`] has.
pub(super) const MILLION: usize = 1_000_000;

impl Names {
    pub(super) fn write() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut random = fastrand::Rng::with_seed(1);
        let mut hosts: Vec<usize> = (0..HOSTS).collect();
        random.shuffle(&mut hosts);
        let zipf = Zipf::new(HOSTS);
        let ranked = (0..200_000).map(|_| hosts[zipf.draw(&mut random)]);
        let ranked = ranked.collect();
        let mut wild: Vec<usize> = (0..MILLION).collect();
        random.shuffle(&mut wild);
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = directory.path().join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let (mut distinct, mut half) = (String::new(), String::new());
        for (number, name) in wild.iter().take(DISTINCT).enumerate() {
            writeln!(distinct, "n{name}.wild.example.com. A")?;
            match number % 2 {
                0 => writeln!(half, "n{}.example.com. A", hosts[number % HOSTS])?,
                _ => writeln!(half, "h{name}.wild.example.com. A uncounted")?,
            }
        }
        let file = |name: &str, numbers: Vec<usize>, domain: &str| {
            let lines = numbers
                .iter()
                .map(|number| format!("n{number}.{domain} A\n"));
            write(name, lines.collect())
        };
        Ok(Self {
            distinct: write("distinct", distinct)?,
            half: write("half", half)?,
            zipf: file("zipf", ranked, "example.com.")?,
            uniform: file("uniform", hosts, "example.com.")?,
            million: file("million", wild, "wild.example.com.")?,
            _directory: directory,
        })
    }
}

/// An open loop at one rate.
pub(super) fn open(lab: &Lab, names: &Path, rate: f64, seconds: u64) -> Result<Kxdpgun> {
    Kxdpgun::ask(lab, SERVER_V4, names, rate as u64, seconds)
}

/// Asks for `count` names until nearly all are answered, and so cached.
pub(super) fn warm(lab: &Lab, names: &Path, count: usize) -> Result<()> {
    let rate = if count > 100_000 { 40_000 } else { 10_000 };
    let mut answered = 0.0;
    for _ in 0..6 {
        let seconds = count.div_ceil(rate) as u64 + 1;
        let load = open(lab, names, rate as f64, seconds)?;
        answered = Step::new(rate as f64, load).answered;
        if answered >= 0.999 {
            return Ok(());
        }
    }
    bail!(
        "it answers {:.2} % of {rate} queries a second at most",
        100.0 * answered
    )
}

/// Asks for names that are in no cache, so many a second, until it is over, and looks at no reply.
pub(super) fn flood(lab: &Lab, cores: &Cores, rate: u64, over: &AtomicBool) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(1);
    lab.in_client(|| {
        let mut core = CpuSet::new();
        core.set(cores.client[0])?;
        sched_setaffinity(Pid::from_raw(0), &core)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((SERVER_V4, 53))?;
        let (begin, mut sent) = (Instant::now(), 0);
        while !over.load(Ordering::Relaxed) {
            while sent < (begin.elapsed().as_secs_f64() * rate as f64) as u64 {
                // 16 digits in one label.
                let mut query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x10".to_vec();
                query.extend(format!("{:016x}", fastrand::u64(..)).bytes());
                query.extend(b"\x07example\x03com\0\0\x01\0\x01");
                // The server's ICMP errors are no errors of the flood.
                let _ = socket.send(&query);
                sent += 1;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    })?
}

/// A closed loop of clients, on dnsperf or on AF_XDP.
pub(super) struct Closed<'a> {
    pub(super) lab: &'a Lab,
    pub(super) cores: &'a Cores,
    pub(super) names: &'a Path,
    pub(super) clients: u32,
    /// Queries a second at most, all together.
    pub(super) rate: Option<u64>,
    pub(super) seconds: u64,
    /// Whether to ask for each name once, within that time.
    pub(super) once: bool,
}

impl Closed<'_> {
    pub(super) fn dnsperf(&self) -> Result<ClosedLoop> {
        let mut command = self.lab.on_client("taskset");
        command.args(["-c", &Cores::list(&self.cores.client), "dnsperf"]);
        let threads = if self.clients > 100 { "2" } else { "1" };
        let count = self.clients.to_string();
        // -q: dnsperf has at most 100 queries in flight unless told otherwise.
        command.args(["-T", threads, "-c", &count, "-q", &count]);
        if let Some(rate) = self.rate {
            command.args(["-Q", &rate.to_string()]);
        }
        ClosedLoop::ask(command, SERVER_V4, self.names, self.seconds)
    }

    /// With the program `clients` of `benches`, which reaches its limit later than the server.
    pub(super) fn on_xdp(&self, program: &Path) -> Result<ClosedLoop> {
        let mut command = self.lab.on_client(program);
        command.args(["--clients", &self.clients.to_string()]);
        command.args(["--queues", &self.cores.queues.to_string()]);
        command.args(["--cores", &Cores::list(&self.cores.client)]);
        if self.once {
            command.arg("--once");
        }
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let server = format!("{SERVER_V4}:53");
        ClosedLoop::on_xdp(self.lab, command, &server, self.names, self.seconds)
    }
}
