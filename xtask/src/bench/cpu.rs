//! CPU time of a contestant: its process, its receive work, its cores.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use procfs::{CurrentSI as _, KernelStats, process, ticks_per_second};

/// What is measured.
pub(super) struct Meter {
    /// The server's process.
    pub(super) process: u32,
    /// The kernel's NAPI threads of its interface, if NAPI is threaded.
    pub(super) napi: Vec<u32>,
    /// The cores on which the server runs.
    pub(super) cores: Vec<usize>,
}

/// Seconds of CPU time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// User and system time of the process.
    pub(super) process: f64,
    /// Of the NAPI threads; without them, what the cores spent in softirqs.
    pub(super) receive: f64,
    /// What the cores were busy, with whatever it was.
    pub(super) cores: f64,
    /// Wall-clock time.
    pub(super) elapsed: f64,
}

impl Meter {
    /// Runs `work`, and measures what was spent meanwhile.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Spent)> {
        let (start, before) = (Instant::now(), self.read()?);
        let result = work()?;
        let after = self.read()?;
        let seconds = |of: usize| (after[of] - before[of]) as f64 / ticks_per_second() as f64;
        let spent = Spent {
            process: seconds(0),
            receive: seconds(1),
            cores: seconds(2),
            elapsed: start.elapsed().as_secs_f64(),
        };
        Ok((result, spent))
    }

    /// Waits until the process takes less than 2 % of a core, 15 seconds at most: Heimdall pre-faults
    /// its caches when it starts.
    pub(super) fn settle(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            let ((), spent) = self.during(|| {
                thread::sleep(Duration::from_millis(200));
                Ok(())
            })?;
            if spent.process < 0.02 * spent.elapsed {
                break;
            }
        }
        Ok(())
    }

    /// Ticks of the process, of receive work, and of the cores (proc(5)).
    fn read(&self) -> Result<[u64; 3]> {
        let stats = KernelStats::current()?;
        let (mut softirq, mut busy) = (0, 0);
        for time in self
            .cores
            .iter()
            .filter_map(|core| stats.cpu_time.get(*core))
        {
            let interrupts = time.irq.unwrap_or_default() + time.softirq.unwrap_or_default();
            softirq += time.softirq.unwrap_or_default();
            busy += time.user + time.nice + time.system + interrupts;
        }
        let mut receive = 0;
        for thread in &self.napi {
            receive += ticks(*thread)?;
        }
        if self.napi.is_empty() {
            receive = softirq;
        }
        Ok([ticks(self.process)?, receive, busy])
    }

    /// Resident memory of the process, in octets.
    pub(super) fn resident(&self) -> Result<u64> {
        let status = process::Process::new(self.process as i32)?.status()?;
        Ok(status.vmrss.context("no VmRSS")? * 1024)
    }
}

/// User and system time of a process or thread.
fn ticks(pid: u32) -> Result<u64> {
    let stat = process::Process::new(pid as i32).and_then(|process| process.stat());
    let stat = stat.with_context(|| format!("process {pid}: has it ended?"))?;
    Ok(stat.utime + stat.stime)
}
