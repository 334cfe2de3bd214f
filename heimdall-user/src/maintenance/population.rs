//! Populating (pre-faulting) the memory of a cache in use, so that no look-up waits for a page later.
//!
//! The cache's own thread does it, so the pages are on its NUMA node, and in short steps, because queries
//! wait meanwhile, and so does every thread of the process that maps memory: the kernel holds the
//! process's memory map (`mmap_lock`) for the length of the call. A thread of low priority would hold it for
//! longer, wherever others keep its core busy.

use std::{
    thread,
    time::{Duration, Instant},
};

use tracing::info;

use super::Status;
use crate::cache::Cache;

/// How long a step takes; the last piece of memory may exceed it.
const STEP: Duration = Duration::from_micros(500);

/// The state of populating one cache.
#[derive(Debug)]
pub(super) struct Population {
    begin: Instant,
    /// When the next step is due.
    due: Instant,
}

impl Population {
    /// The first step is due at once.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            due: now,
        }
    }

    /// Executes a step if one is due: half of the thread's time, at most, is spent on it.
    /// [`Status::Idle`]: there is nothing more to populate, or the kernel does not do it.
    pub(super) fn step(&mut self, cache: &mut Cache) -> Status {
        let begin = Instant::now();
        if begin < self.due {
            return Status::Blocked;
        }
        loop {
            let populated = cache.populate_step();
            let now = Instant::now();
            match populated {
                Ok(true) if now - begin < STEP => {}
                Ok(true) => {
                    self.due = now + (now - begin);
                    return Status::Blocked;
                }
                Ok(false) => {
                    let (mib, took) = (cache.bytes() >> 20, now - self.begin);
                    let took = took.as_millis();
                    info!("{}: cache of {mib} MiB populated in {took} ms", name());
                    return Status::Idle;
                }
                Err(error) => {
                    info!(
                        "{}: the cache's memory is allocated as it is used: {error}",
                        name()
                    );
                    return Status::Idle;
                }
            }
        }
    }
}

/// The calling thread's name.
fn name() -> String {
    let name = thread::current().name().map(str::to_owned);
    name.unwrap_or_default()
}
