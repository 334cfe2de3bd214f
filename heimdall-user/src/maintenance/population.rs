//! Populating the memory of a cache in use, so that no look-up waits for a page later.
//!
//! The cache's own thread does it, so the pages are on its NUMA node, and in short steps, because queries
//! wait meanwhile, and so does every thread of the process that maps memory: the kernel holds the
//! process's memory map (`mmap_lock`) for the length of the call. A thread of low priority would hold it for
//! longer, wherever others keep its core busy.
//!
//! Memory that a hypervisor has yet to supply takes milliseconds a page, and then the queries of the first moments
//! keep the thread busy: most need a page of the index that is not populated yet. Steps must not add to that, or
//! queries queue up. So they take time in which the thread has nothing else to do.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tracing::info;

use super::Status;
use crate::cache::Cache;

/// How long a step takes; the last piece of memory may exceed it.
const STEP: Duration = Duration::from_micros(500);

/// How many times as long as a step the thread may be busy before the next one. It is then slowed down by a ninth,
/// at most.
const PATIENCE: u32 = 8;

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

/// Caches of the process that are not populated yet.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// One of those caches.
#[derive(Debug)]
struct Left;

impl Left {
    fn new() -> Self {
        LEFT.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        LEFT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many caches of the process are not populated yet.
pub(crate) fn caches_left() -> usize {
    LEFT.load(Ordering::Relaxed)
}

/// The state of populating one cache.
#[derive(Debug)]
pub(super) struct Population {
    /// Threads that may populate at a time: half of the cores, so that others find one free.
    limit: usize,
    begin: Instant,
    /// How long the last step took.
    took: Duration,
    /// When it ended.
    ended: Instant,
    /// CPU time of the thread until then.
    used: Duration,
    _left: Left,
}

impl Population {
    /// The first step is due at once.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let now = Instant::now();
        Self {
            _left: Left::new(),
            limit: (cores / 2).max(1),
            begin: now,
            took: Duration::ZERO,
            ended: now,
            used: Duration::ZERO,
        }
    }

    /// Executes a step if one is due. [`Status::Idle`]: there is nothing more to populate, or the kernel does not do it.
    pub(super) fn step(&mut self, cache: &mut Cache) -> Status {
        let begin = Instant::now();
        let since = begin - self.ended;
        // Most turns of the loop end here, without a system call.
        if since < self.took || !self.is_due(since, cpu_time().saturating_sub(self.used)) {
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
                    self.took = now - begin;
                    self.ended = now;
                    self.used = cpu_time();
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

    /// Whether a step is due so long after the last one, during which the thread has used so much CPU time: it has
    /// slept for as long as that step took, or was busy for a multiple of that.
    fn is_due(&self, since: Duration, used: Duration) -> bool {
        since.saturating_sub(used) >= self.took || since >= self.took * PATIENCE
    }
}

/// CPU time of the calling thread, to the microsecond. It includes what the kernel spends on its page faults.
fn cpu_time() -> Duration {
    // Miri has no getrusage.
    if cfg!(miri) {
        return Duration::ZERO;
    }
    let times =
        getrusage(UsageWho::RUSAGE_THREAD).map(|usage| usage.user_time() + usage.system_time());
    let microseconds = times.map_or(0, |time| time.num_microseconds());
    Duration::from_micros(microseconds.unsigned_abs())
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
        for (limit, took) in [(0, 0), (usize::MAX, 1000)] {
            let mut population = Population {
                limit,
                took: Duration::from_secs(took),
                ..Population::new()
            };
            assert_eq!(population.step(&mut cache), Status::Blocked);
        }
        assert!(cache.populate_step().unwrap(), "nothing was populated");
    }

    #[test]
    fn a_busy_thread_has_longer_pauses_between_steps() {
        let population = Population {
            took: Duration::from_millis(4),
            ..Population::new()
        };
        let is_due = |since, used| {
            let [since, used] = [since, used].map(Duration::from_millis);
            population.is_due(since, used)
        };
        assert!(!is_due(3, 0) && is_due(4, 0), "idle");
        assert!(!is_due(10, 7) && is_due(10, 6), "partly busy");
        assert!(!is_due(31, 31) && is_due(32, 32), "busy");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no getrusage")]
    fn cpu_time_is_that_of_the_thread() {
        let sleeping = || {
            let before = cpu_time();
            thread::sleep(Duration::from_millis(20));
            cpu_time() - before
        };
        assert!(sleeping() < Duration::from_millis(10));
        let before = cpu_time();
        while cpu_time() == before {}
    }
}
