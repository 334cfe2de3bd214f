//! Where processor time goes: the server's process, its receive work, its cores.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Whose time is read.
pub(super) struct Meter {
    /// The server's process.
    pub(super) process: u32,
    /// The kernel threads that hand it its packets, with threaded NAPI.
    pub(super) napi: Vec<u32>,
    /// The cores that the server runs on.
    pub(super) cores: Vec<usize>,
}

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// Of the process: user and system time of all its threads.
    pub(super) process: f64,
    /// Of its receive threads; without them, what its cores spent in softirqs.
    pub(super) receive: f64,
    /// Of its cores, whoever used them.
    pub(super) cores: f64,
    /// Of the clock.
    pub(super) elapsed: f64,
}

impl Meter {
    /// Does some work, and says what was spent meanwhile.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Spent)> {
        let (start, before) = (Instant::now(), self.read()?);
        let result = work()?;
        let after = self.read()?;
        let spent = Spent {
            process: after.process - before.process,
            receive: after.receive - before.receive,
            cores: after.cores - before.cores,
            elapsed: start.elapsed().as_secs_f64(),
        };
        Ok((result, spent))
    }

    /// Waits until the process takes less than 2 % of a core, 15 seconds at most: Heimdall touches
    /// all of its caches' memory when it starts.
    pub(super) fn settle(&self) -> Result<()> {
        let window = || {
            thread::sleep(Duration::from_millis(200));
            Ok(())
        };
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            let ((), spent) = self.during(window)?;
            if spent.process < 0.02 * spent.elapsed {
                break;
            }
        }
        Ok(())
    }

    fn read(&self) -> Result<Spent> {
        let second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
        let cores = fs::read_to_string("/proc/stat")?;
        let cores: Vec<[u64; 2]> = self
            .cores
            .iter()
            .filter_map(|&core| core_ticks(&cores, core))
            .collect();
        let mut receive = 0;
        for &thread in &self.napi {
            receive += task_ticks(thread)?;
        }
        if self.napi.is_empty() {
            receive = cores.iter().map(|[_, softirq]| softirq).sum();
        }
        Ok(Spent {
            process: task_ticks(self.process)? as f64 / second,
            receive: receive as f64 / second,
            cores: cores.iter().map(|[busy, _]| busy).sum::<u64>() as f64 / second,
            elapsed: 0.0,
        })
    }

    /// Resident memory of the process, in octets.
    pub(super) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibi = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kibi.context("no VmRSS")? * 1024)
    }
}

fn task_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: has it ended?"))?;
    stat_ticks(&stat).with_context(|| format!("{path}: {stat}"))
}

/// utime and stime of a line of `/proc/PID/stat` (proc(5)), together. The name may hold anything.
fn stat_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

/// How long a core was busy, and how long of it in softirqs, by `/proc/stat`.
fn core_ticks(stat: &str, core: usize) -> Option<[u64; 2]> {
    let name = format!("cpu{core}");
    let line = stat
        .lines()
        .find(|line| line.split(' ').next() == Some(&name))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some([user + nice + system + irq + softirq, softirq])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        let stat = "4711 (a b) c) S 1 4711 4711 0 -1 4194560 1 2 3 4 70 8 0 0 20 0 3 0 100";
        assert_eq!(stat_ticks(stat), Some(78));
        assert_eq!(stat_ticks("4711 (cut) S 1 2"), None);
        let stat = "cpu  9 9 9 9 9 9 9 9\ncpu1 100 2 30 4000 5 6 7 8 0 0\ncpu10 1 1 1 1 1 1 1 1\n";
        assert_eq!(core_ticks(stat, 1), Some([145, 7]));
        assert_eq!(core_ticks(stat, 10), Some([5, 1]));
        assert_eq!(core_ticks(stat, 2), None);
    }

    #[test]
    fn meters_itself() {
        let meter = Meter {
            process: std::process::id(),
            napi: Vec::new(),
            cores: vec![0],
        };
        let (_, spent) = meter.during(|| Ok(())).unwrap();
        assert!(spent.process >= 0.0 && spent.elapsed < 60.0);
        assert!(meter.resident().unwrap() > 100_000);
    }
}
