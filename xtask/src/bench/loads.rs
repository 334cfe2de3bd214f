//! What the contestants are asked: names, open loops, closed loops.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use lab::{ClosedLoop, HOSTS, Kxdpgun, Lab, SERVER_V4};
use tempfile::TempDir;

use super::{Cores, search::Step};

/// Files of queries, in the form that kxdpgun and dnsperf share.
pub(super) struct Names {
    /// 10,000 names in random order.
    pub(super) uniform: PathBuf,
    /// 200,000 queries for the same names, drawn by Zipf's law with s = 1.
    pub(super) zipf: PathBuf,
    /// 1,000,000 names in random order.
    pub(super) million: PathBuf,
    _directory: TempDir,
}

/// How many names [`Names::million`] has.
pub(super) const MILLION: u64 = 1_000_000;

impl Names {
    pub(super) fn write() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut random = Random(1);
        let mut hosts: Vec<usize> = (0..HOSTS).collect();
        random.shuffle(&mut hosts);
        let drawn = zipf(&mut random, HOSTS, 200_000);
        let mut wild: Vec<usize> = (0..MILLION as usize).collect();
        random.shuffle(&mut wild);
        let file = |name: &str, numbers: &[usize], domain: &str| -> Result<PathBuf> {
            let mut text = String::new();
            for number in numbers {
                writeln!(text, "n{number}.{domain} A")?;
            }
            let path = directory.path().join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let ranked: Vec<usize> = drawn.iter().map(|&rank| hosts[rank]).collect();
        Ok(Self {
            uniform: file("uniform", &hosts, "example.com.")?,
            zipf: file("zipf", &ranked, "example.com.")?,
            million: file("million", &wild, "wild.example.com.")?,
            _directory: directory,
        })
    }
}

/// Ranks from 0, drawn with probabilities in proportion to 1, 1/2, 1/3 …
fn zipf(random: &mut Random, ranks: usize, count: usize) -> Vec<usize> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=ranks)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    (0..count)
        .map(|_| {
            let drawn = random.part() * sum;
            sums.partition_point(|&upto| upto <= drawn).min(ranks - 1)
        })
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): every run asks in the same order.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.next() as usize % (last + 1));
        }
    }
}

/// An open loop at one rate. What counts is NOERROR: a refusal is no answer.
pub(super) fn open(lab: &Lab, names: &Path, rate: f64, seconds: u64) -> Result<Step> {
    let load = Kxdpgun::ask(lab, SERVER_V4, names, rate as u64, seconds)?;
    Ok(Step {
        asked: rate,
        offered: load.queries as f64 / load.seconds,
        answered: load.noerror as f64 / load.queries.max(1) as f64,
    })
}

/// Asks for `count` names until nearly all are answered, and so in the cache.
pub(super) fn warm(lab: &Lab, names: &Path, count: u64) -> Result<()> {
    let rate = if count > 100_000 { 40_000 } else { 10_000 };
    let mut answered = 0.0;
    for _ in 0..6 {
        answered = open(lab, names, rate as f64, count.div_ceil(rate) + 1)?.answered;
        if answered >= 0.999 {
            return Ok(());
        }
    }
    bail!(
        "it answers {:.2} % of {rate} queries a second, at best",
        100.0 * answered
    )
}

/// A closed loop: each of so many clients has a query under way, all together at most `rate` a
/// second.
pub(super) fn closed(
    lab: &Lab,
    cores: &Cores,
    names: &Path,
    clients: u32,
    rate: Option<u64>,
    seconds: u64,
) -> Result<ClosedLoop> {
    let mut command = lab.on_client("taskset");
    command.args(["-c", &Cores::list(&cores.client), "dnsperf"]);
    let threads = if clients > 100 { "2" } else { "1" };
    let count = clients.to_string();
    // -q: dnsperf has 100 queries under way unless told otherwise.
    command.args(["-T", threads, "-c", &count, "-q", &count]);
    if let Some(rate) = rate {
        command.args(["-Q", &rate.to_string()]);
    }
    ClosedLoop::ask(command, SERVER_V4, names, seconds)
}

/// A closed loop of clients that are on AF_XDP themselves, and so are full later than the server.
pub(super) fn closed_on_xdp(
    lab: &Lab,
    cores: &Cores,
    program: &Path,
    names: &Path,
    clients: u32,
    rate: Option<u64>,
    seconds: u64,
) -> Result<ClosedLoop> {
    let mut command = lab.on_client(program);
    command.args(["--clients", &clients.to_string()]);
    command.args(["--queues", &cores.queues.to_string()]);
    command.args(["--cores", &Cores::list(&cores.client)]);
    if let Some(rate) = rate {
        command.args(["--rate", &rate.to_string()]);
    }
    ClosedLoop::on_xdp(lab, command, &format!("{SERVER_V4}:53"), names, seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_the_first_twice_as_often_as_the_second() {
        let drawn = zipf(&mut Random(7), 100, 100_000);
        let count = |rank| drawn.iter().filter(|&&drawn| drawn == rank).count() as f64;
        let (first, second, last) = (count(0), count(1), count(99));
        assert!((1.9..2.1).contains(&(first / second)));
        assert!((80.0..120.0).contains(&(first / last)));
        assert!(drawn.iter().all(|&rank| rank < 100));
    }

    #[test]
    fn shuffles_without_loss() {
        let mut items: Vec<usize> = (0..1000).collect();
        Random(1).shuffle(&mut items);
        assert_ne!(items[..5], [0, 1, 2, 3, 4]);
        items.sort_unstable();
        assert!(items.iter().copied().eq(0..1000));
    }
}
