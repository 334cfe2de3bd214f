//! CPU time of a contestant: its processes, its receive work, its cores.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use procfs::{
    CurrentSI as _, KernelStats,
    process::{Process, Task},
    ticks_per_second,
};

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
    /// Of the process and those that it has started, with the softirqs that ran in their place.
    pub(super) process: f64,
    /// Of the NAPI threads.
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
        let (after, elapsed) = (self.read()?, start.elapsed().as_secs_f64());
        let [process, receive, idle] = [0, 1, 2].map(|of| after[of] - before[of]);
        let spent = Spent {
            process,
            receive,
            cores: elapsed * self.cores.len() as f64 - idle,
            elapsed,
        };
        Ok((result, spent))
    }

    /// Waits until the process takes less than 2 % of a core, 15 seconds at most: Heimdall populates
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

    /// Seconds of the processes, of the NAPI threads, and of the cores' idle time.
    ///
    /// The scheduler counts a thread's time in nanoseconds, and the kernel an idle core's time, while all
    /// other times of proc(5) are counted by the ticks that happen to fall into them.
    fn read(&self) -> Result<[f64; 3]> {
        let stats = KernelStats::current()?;
        let times = self.cores.iter().map(|core| stats.cpu_time.get(*core));
        let unused = times.flatten().map(|time| {
            time.idle + time.iowait.unwrap_or_default() + time.steal.unwrap_or_default()
        });
        let idle = unused.sum::<u64>() as f64 / ticks_per_second() as f64;
        let napi = self.napi.iter().map(|thread| seconds(*thread));
        Ok([seconds(self.process)?, napi.sum::<Result<f64>>()?, idle])
    }

    /// Resident memory of the process, in octets.
    pub(super) fn resident(&self) -> Result<u64> {
        let status = Process::new(self.process as i32)?.status()?;
        Ok(status.vmrss.context("no VmRSS")? * 1024)
    }
}

/// CPU time of a process and those that it has started.
fn seconds(pid: u32) -> Result<f64> {
    let of = |task: Task| -> Result<f64> {
        let started = task.children()?.into_iter().map(seconds);
        let own = task.schedstat()?.sum_exec_runtime as f64 / 1e9;
        Ok(own + started.sum::<Result<f64>>()?)
    };
    let tasks = Process::new(pid as i32).and_then(|process| process.tasks());
    let tasks = tasks.with_context(|| format!("process {pid}: has it ended?"))?;
    tasks.map(|task| of(task?)).sum()
}
