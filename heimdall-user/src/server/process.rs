//! What the process itself uses.

use procfs::{
    ProcResult, WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};
use serde_json::{Value, json};

/// What the process uses at one moment.
#[derive(Debug)]
pub(super) struct ProcessUse {
    /// Of all its threads, in user and system mode.
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) open_files: u64,
    /// The soft limit on open files, if there is one.
    pub(super) max_files: Option<u64>,
    pub(super) threads: u64,
    /// When it was started, in seconds since 1970.
    pub(super) started: f64,
}

impl ProcessUse {
    /// Reads it from /proc.
    ///
    /// # Errors
    /// /proc is not mounted or not readable.
    pub(super) fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        let max_files = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        };
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_files: process.fd_count()? as u64,
            max_files,
            threads: stat.num_threads.max(0) as u64,
            started: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
        })
    }
}

/// The part of the report; null if it cannot be read.
pub(super) fn json() -> Value {
    let document = |used: ProcessUse| {
        json!({
            "cpu_seconds": used.cpu_seconds,
            "resident_bytes": used.resident_bytes,
            "open_files": used.open_files,
            "threads": used.threads,
        })
    };
    ProcessUse::read().map(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        fs::File,
        time::{SystemTime, UNIX_EPOCH},
    };

    use super::*;

    #[test]
    fn the_process_is_measured() {
        let before = ProcessUse::read().unwrap();
        let files: Vec<_> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        let used = ProcessUse::read().unwrap();
        // Other tests open and close some at the same time.
        assert!(used.open_files + 25 > before.open_files + files.len() as u64);
        assert!(used.threads >= 1);
        assert!(used.resident_bytes > 1 << 20 && used.virtual_bytes > used.resident_bytes);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - used.started;
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(used.max_files.is_none_or(|limit| limit >= used.open_files));
    }
}
