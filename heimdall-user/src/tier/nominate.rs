//! Nominations: from workers to the promoter.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crossbeam_queue::ArrayQueue;
use heimdall_ebpf::tier::Entry;

use super::entry;
use crate::{dns::AnswerRef, stats::Counter};

/// Nominations of a worker that may wait for the promoter: those of 27 ms at 300,000 queries a second. What comes
/// beyond that is dropped.
pub(super) const NOMINATIONS: usize = 256;

/// The epoch in which nothing is nominated.
const CLOSED: u64 = 0;

/// An answer that a worker has in its cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    /// The question in wire form, its name in any case.
    pub(crate) question: &'a [u8],
    /// The key's flags: DO and CD.
    pub(crate) flags: u8,
    /// The answer, its TTLs as received.
    pub(crate) answer: AnswerRef<'a>,
    /// The second in which it was received.
    pub(crate) received: u32,
    /// The second from which on a refresh is due.
    pub(crate) refresh: u32,
}

/// An entry that may be promoted. Its memory is used again.
#[derive(Debug)]
pub struct Nomination {
    /// That of the tier before the answer was looked up.
    epoch: u64,
    pub(super) entry: Entry,
}

/// A fixed number of nominations: those that are unused, and those that wait for the promoter.
#[derive(Debug)]
struct Ring {
    unused: ArrayQueue<Box<Nomination>>,
    full: ArrayQueue<Box<Nomination>>,
    /// Nominations that were dropped because all were in use. The worker alone adds to them.
    dropped: Counter,
}

impl Ring {
    fn new() -> Self {
        let unused = ArrayQueue::new(NOMINATIONS);
        for _ in 0..NOMINATIONS {
            let nomination = Nomination {
                epoch: CLOSED,
                entry: Entry::EMPTY,
            };
            // There is room for all of them.
            let _ = unused.push(Box::new(nomination));
        }
        Self {
            unused,
            full: ArrayQueue::new(NOMINATIONS),
            dropped: Counter::default(),
        }
    }

    /// Gives `take` the nominations that wait. Returns how many there were.
    fn drain(&self, mut take: impl FnMut(&Nomination)) -> usize {
        let mut taken = 0;
        // Bounded: the worker goes on meanwhile.
        while taken < NOMINATIONS
            && let Some(nomination) = self.full.pop()
        {
            take(&nomination);
            let _ = self.unused.push(nomination);
            taken += 1;
        }
        taken
    }
}

/// The nominations of all workers, and the epoch.
#[derive(Debug, Default)]
pub struct Nominations {
    /// The epoch now; [`CLOSED`]: nothing is nominated or promoted.
    epoch: AtomicU64,
    /// Epochs that were opened so far.
    opened: AtomicU64,
    rings: Mutex<Rings>,
}

#[derive(Debug, Default)]
struct Rings {
    rings: Vec<Arc<Ring>>,
    /// What the rings dropped that were removed.
    dropped: u64,
}

impl Nominations {
    /// Opens another epoch: what is nominated from now on may be promoted.
    pub fn open(&self) {
        let epoch = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        // Release: who reads the epoch sees what was done before it was opened.
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Closes the epoch: what was nominated until now is not promoted.
    pub(super) fn close(&self) {
        self.epoch.store(CLOSED, Ordering::Release);
    }

    /// Whether a nomination is of the epoch that is open. True of none while none is.
    pub(super) fn is_current(&self, nomination: &Nomination) -> bool {
        let epoch = self.epoch.load(Ordering::Relaxed);
        epoch != CLOSED && nomination.epoch == epoch
    }

    /// Whether an epoch is open.
    pub(super) fn is_open(&self) -> bool {
        self.epoch.load(Ordering::Relaxed) != CLOSED
    }

    /// A nominator for another worker, with a ring of its own.
    pub fn nominator(self: &Arc<Self>) -> Nominator {
        let ring = Arc::new(Ring::new());
        self.rings().rings.push(Arc::clone(&ring));
        Nominator {
            nominations: Arc::clone(self),
            ring,
        }
    }

    /// Gives `take` the nominations that wait, and removes the rings of workers that have ended. Returns the most
    /// that waited in one ring.
    pub fn drain(&self, mut take: impl FnMut(&Nomination)) -> usize {
        let mut most = 0;
        let mut rings = self.rings();
        let Rings { rings, dropped } = &mut *rings;
        rings.retain(|ring| {
            // The list, and the worker.
            let is_live = Arc::strong_count(ring) > 1;
            most = most.max(ring.drain(&mut take));
            if !is_live {
                *dropped += ring.dropped.get();
            }
            is_live
        });
        most
    }

    /// Nominations that were dropped because too many waited.
    pub(super) fn dropped(&self) -> u64 {
        let rings = self.rings();
        let all = rings.rings.iter().map(|ring| ring.dropped.get());
        rings.dropped + all.sum::<u64>()
    }

    /// Workers that may nominate, or may have something nominated.
    #[cfg(test)]
    pub(super) fn workers(&self) -> usize {
        self.rings().rings.len()
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nominates the answers of one worker. It allocates nothing, and waits for nobody.
#[derive(Debug)]
pub struct Nominator {
    nominations: Arc<Nominations>,
    ring: Arc<Ring>,
}

impl Nominator {
    /// Queries that one nomination stands for: one in so many is chosen.
    pub(crate) const ONE_IN: u32 = 32;

    /// Nominates what `cached` returns, which is called if nominations are taken: the answer to a query that was
    /// just answered, from a cache that follows the policy that is shared *now*. `now` is the clock's second.
    #[cold]
    pub(crate) fn nominate<'a>(&self, now: u32, cached: impl FnOnce() -> Option<Offer<'a>>) {
        // Acquire, and before the policy and the cache are looked at: see the module.
        let epoch = self.nominations.epoch.load(Ordering::Acquire);
        if epoch == CLOSED {
            return;
        }
        let Some(offer) = cached().filter(|offer| entry::is_worthwhile(offer, now)) else {
            return;
        };
        let Some(mut nomination) = self.ring.unused.pop() else {
            self.ring.dropped.add(1);
            return;
        };
        nomination.epoch = epoch;
        let ring = match entry::write(&mut nomination.entry, &offer) {
            Some(()) => &self.ring.full,
            None => &self.ring.unused,
        };
        // There is room for all that there are.
        let _ = ring.push(nomination);
    }
}
