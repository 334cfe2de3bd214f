//! Looks at the server's process and its counters.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{Heimdall, sum};
use procfs::process::Process;
use serde_json::Value;

/// The server's process at a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Resident memory in KiB, and the part of it that no file is behind.
    pub(super) rss: u64,
    pub(super) anonymous: u64,
    /// Names of the threads, in their order.
    pub(super) threads: Vec<String>,
    /// Open files.
    pub(super) files: usize,
}

impl Sample {
    /// Takes one.
    pub(super) fn take(heimdall: &Heimdall) -> Result<Self> {
        let process = Process::new(heimdall.process.pid() as i32)?;
        let status = process.status().context("heimdall has ended")?;
        ensure!(status.name == "heimdall", "{} is running", status.name);
        Ok(Self {
            rss: status.vmrss.context("no VmRSS")?,
            anonymous: status.rssanon.context("no RssAnon")?,
            threads: threads(&process)?,
            files: process.fd_count()?,
        })
    }
}

/// Serves one client of the control socket, for as long as that is connected.
const CONTROL_CLIENT: &str = "control client";

/// The names of its threads, but for those of commands that run. One that ends meanwhile is left out.
fn threads(process: &Process) -> Result<Vec<String>> {
    let tasks = process.tasks()?.flatten();
    let mut names: Vec<_> = tasks
        .filter_map(|task| Some(task.stat().ok()?.comm))
        .filter(|name| name != CONTROL_CLIENT)
        .collect();
    names.sort();
    Ok(names)
}

/// What of a server's counters is never so, whatever the load.
pub(super) fn never_so(heimdall: &Heimdall) -> Result<Vec<String>> {
    if broken(&heimdall.stats()?).is_empty() {
        return Ok(Vec::new());
    }
    // They are written one by one, and at each turn of a worker, which sleeps for a second at most; what is wrong stays so.
    thread::sleep(Duration::from_millis(1200));
    Ok(broken(&heimdall.stats()?))
}

fn broken(stats: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for counter in [
        "frames/missing",
        "ring/rx_invalid_descs",
        "ring/tx_invalid_descs",
    ] {
        let count = sum(stats, counter);
        if count != 0 {
            broken.push(format!("{counter} is {count}"));
        }
    }
    if sum(stats, "frames/total") == 0 {
        broken.push("no worker has frames".to_owned());
    }
    for worker in stats["workers"].as_array().into_iter().flatten() {
        let frame = |place: &str| worker["frames"][place].as_u64().unwrap_or_default();
        let places: u64 = ["fill", "tx", "pending", "free"].map(frame).iter().sum();
        if places != frame("total") {
            broken.push(format!("the frames do not add up: {}", worker["frames"]));
        }
    }
    broken
}
