//! Progress of threads: each long-lived thread counts the turns of its loop, and a watcher sees those that stopped counting.
//!
//! A thread that [`OwnedThread`](crate::exit::OwnedThread) starts has a counter, to which [`beat`] adds: a plain store to a
//! cache line that no other thread writes to, without a clock. Loops call it once a turn, and long work between its
//! steps. They wake up every [`MAX_SLEEP`] at least, so that a counter that stands still means a thread that is
//! blocked or in an endless loop, and not one without work. [`Census`] compares the counters in fixed intervals;
//! `server::watchdog` calls it. This module must not know what a thread does.

use std::{
    cell::OnceCell,
    mem,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The longest sleep of a thread that has nothing to do: well below [`Census`]'s limit.
pub(crate) const MAX_SLEEP: Duration = Duration::from_secs(4);

/// The heartbeats of all threads that run.
static THREADS: Mutex<Vec<Weak<Heartbeat>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: OnceCell<Arc<Heartbeat>> = const { OnceCell::new() };
}

/// A thread's counter. On a cache line of its own, as the thread writes to it in every turn.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Heartbeat {
    /// Written by the thread alone.
    turns: AtomicU64,
    /// Written by the watcher.
    stuck: AtomicBool,
    /// Queries are not answered without the thread.
    essential: bool,
    name: Box<str>,
}

impl Heartbeat {
    pub(crate) fn new(name: &str, essential: bool) -> Arc<Self> {
        Arc::new(Self {
            turns: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            essential,
            name: name.into(),
        })
    }

    /// Makes it the calling thread's. It is watched from the first beat until the thread ends: one that waits for a signal
    /// all its life need not beat.
    pub(crate) fn begin(self: &Arc<Self>) {
        let mut threads = threads();
        threads.retain(|thread| thread.strong_count() > 0);
        threads.push(Arc::downgrade(self));
        // A thread has one.
        OWN.with(|own| _ = own.set(Arc::clone(self)));
    }

    /// The turns so far.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Whether the last count of all threads found it stuck.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }
}

fn threads() -> std::sync::MutexGuard<'static, Vec<Weak<Heartbeat>>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a turn of the calling thread's loop, if it is watched.
#[inline]
pub(crate) fn beat() {
    OWN.with(|own| {
        if let Some(own) = own.get() {
            let turns = own.turns.load(Ordering::Relaxed).wrapping_add(1);
            own.turns.store(turns, Ordering::Relaxed);
        }
    });
}

/// A thread without progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stuck {
    /// Its name.
    pub(crate) name: String,
    /// Whether queries are not answered without it.
    pub(crate) essential: bool,
}

/// The threads that are stuck now, in the order of their start.
pub(crate) fn stuck() -> Vec<Stuck> {
    let running: Vec<_> = threads().iter().filter_map(Weak::upgrade).collect();
    let stuck = running.iter().filter(|thread| thread.is_stuck());
    stuck
        .map(|thread| Stuck {
            name: thread.name.to_string(),
            essential: thread.essential,
        })
        .collect()
}

/// A thread that began or ceased to be stuck.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// No progress since so many counts.
    Stuck(String),
    /// Progress again.
    Continues(String),
}

/// What was seen of each thread at the last count.
///
/// Time is measured in counts and not by a clock: while all of the process is stopped, nothing counts, and afterwards no
/// thread is suspected.
#[derive(Debug)]
pub(crate) struct Census {
    /// Counts without progress after which a thread is stuck.
    limit: u32,
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    thread: Weak<Heartbeat>,
    turns: u64,
    /// Counts since the turns changed.
    unchanged: u32,
}

impl Census {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            seen: Vec::new(),
        }
    }

    /// Looks at all threads, and returns what has changed.
    pub(crate) fn count(&mut self) -> Vec<Change> {
        let mut before = mem::take(&mut self.seen);
        let mut changes = Vec::new();
        for thread in threads().iter() {
            let Some(running) = thread.upgrade() else {
                continue;
            };
            let turns = running.turns();
            let known = before.iter().position(|seen| seen.thread.ptr_eq(thread));
            let unchanged = match known.map(|at| before.swap_remove(at)) {
                Some(seen) if seen.turns == turns => seen.unchanged.saturating_add(1),
                _ => 0,
            };
            let stuck = turns > 0 && unchanged >= self.limit;
            if running.stuck.swap(stuck, Ordering::Relaxed) != stuck {
                let name = running.name.to_string();
                changes.push(match stuck {
                    true => Change::Stuck(name),
                    false => Change::Continues(name),
                });
            }
            self.seen.push(Seen {
                thread: Weak::clone(thread),
                turns,
                unchanged,
            });
        }
        changes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, channel},
        thread,
    };

    use super::*;

    /// A thread that beats at its start, unless it is called silent, and each time it is told to.
    fn beating(name: &str, told: Receiver<()>) -> thread::JoinHandle<()> {
        let heartbeat = Heartbeat::new(name, name == "essential");
        let begins = name != "silent";
        let (begun, has_begun) = channel::<()>();
        let thread = thread::spawn(move || {
            heartbeat.begin();
            if begins {
                beat();
            }
            drop(begun);
            while told.recv().is_ok() {
                beat();
            }
        });
        let _ = has_begun.recv();
        thread
    }

    /// The changes of threads with this name: other tests have threads, too.
    fn of(changes: Vec<Change>, name: &str) -> Vec<Change> {
        let mut changes = changes;
        changes.retain(|change| match change {
            Change::Stuck(thread) | Change::Continues(thread) => thread == name,
        });
        changes
    }

    #[test]
    fn a_thread_without_progress_is_stuck_until_it_continues() {
        let name = "essential";
        let (tell, told) = channel();
        let thread = beating(name, told);
        let is_stuck = || stuck().iter().any(|thread| thread.name == name);
        let mut census = Census::new(2);
        for _ in 0..2 {
            assert_eq!(of(census.count(), name), []);
            assert!(!is_stuck());
        }
        let change = Change::Stuck(name.to_owned());
        assert_eq!(of(census.count(), name), [change]);
        assert!(is_stuck());
        assert!(
            stuck()
                .iter()
                .all(|thread| thread.essential || thread.name != name)
        );
        assert_eq!(of(census.count(), name), [], "it is said once");
        tell.send(()).unwrap();
        let change = loop {
            // Its beat comes a moment after it was told.
            let changes = of(census.count(), name);
            if !changes.is_empty() {
                break changes;
            }
            thread::yield_now();
        };
        assert_eq!(change, [Change::Continues(name.to_owned())]);
        assert!(!is_stuck());
        // One that has ended is not stuck.
        drop(tell);
        thread.join().unwrap();
        for _ in 0..4 {
            assert_eq!(of(census.count(), name), []);
        }
        assert!(!is_stuck());
    }

    #[test]
    fn a_thread_that_has_never_beaten_is_not_watched() {
        let (tell, told) = channel();
        let thread = beating("silent", told);
        let mut census = Census::new(1);
        for _ in 0..4 {
            assert_eq!(of(census.count(), "silent"), []);
        }
        drop(tell);
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_nobody_watches_may_beat() {
        beat();
        assert!(OWN.with(|own| own.get().is_none()));
    }
}
