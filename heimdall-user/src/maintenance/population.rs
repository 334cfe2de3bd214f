//! Populating the memory of a cache in use, so that no look-up waits for a page later.
//!
//! The cache's own thread does it, so the pages are on its NUMA node, and in short steps, because queries
//! wait meanwhile, and so does every thread of the process that maps memory: the kernel holds the
//! process's memory map (`mmap_lock`) for the length of the call. A thread of low priority would hold it for
//! longer, wherever others keep its core busy.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tracing::info;

use super::Status;
use crate::cache::Cache;

/// How long a step takes; the last piece of memory may exceed it.
const STEP: Duration = Duration::from_micros(500);

/// Threads of the process that are executing a step now.
static STEPPING: AtomicUsize = AtomicUsize::new(0);

/// One of those threads.
struct Stepping;

impl Stepping {
    /// `None`: there are `limit` of them already.
    fn begin(limit: usize) -> Option<Self> {
        let one_more = |threads| (threads < limit).then_some(threads + 1);
        let counted = STEPPING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        // Not made otherwise: dropping it would count down.
        counted.ok().map(|_| Self)
    }
}

impl Drop for Stepping {
    fn drop(&mut self) {
        STEPPING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The state of populating one cache.
#[derive(Debug)]
pub(super) struct Population {
    /// Threads that may populate at a time: half of the cores, so that others find one free.
    limit: usize,
    begin: Instant,
    /// When the next step is due.
    due: Instant,
}

impl Population {
    /// The first step is due at once.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let now = Instant::now();
        Self {
            limit: (cores / 2).max(1),
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
        let Some(_stepping) = Stepping::begin(self.limit) else {
            return Status::Blocked;
        };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        cache::Key,
        dns::{Answer, NameHasher},
    };

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn a_cache_in_use_is_populated_step_by_step() {
        let mut cache = Cache::new(64 << 20).unwrap();
        let mut population = Population::new();
        let hasher = NameHasher::default();
        let question = |number: u8| [1, number, 0, 0, 1, 0, 1];
        let mut inserted = 0;
        while population.step(&mut cache) != Status::Idle {
            if inserted < 200 {
                let question = question(inserted);
                let key = Key::new(&hasher, &question, 0);
                cache.insert(&key, &Answer::failure(0, None, 100), 1);
                inserted += 1;
            }
        }
        assert!(!cache.populate_step().unwrap(), "nothing is left");
        assert!(inserted > 0, "one step does not do all");
        for number in 0..inserted {
            let question = question(number);
            assert!(cache.get(&Key::new(&hasher, &question, 0), 1).is_some());
        }
    }

    #[test]
    fn a_step_is_put_off_until_it_is_due_and_while_enough_threads_populate() {
        let mut cache = Cache::new(1 << 20).unwrap();
        let now = Instant::now();
        for (limit, due) in [(0, now), (usize::MAX, now + Duration::from_secs(1000))] {
            let mut population = Population {
                limit,
                begin: now,
                due,
            };
            assert_eq!(population.step(&mut cache), Status::Blocked);
        }
        assert!(cache.populate_step().unwrap(), "nothing was populated");
    }
}
