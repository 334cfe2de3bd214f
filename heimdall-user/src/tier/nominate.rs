//! Nominations: from workers to the promoter.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crossbeam_queue::ArrayQueue;
use heimdall_ebpf::tier::Entry;

use super::entry;
use crate::{dns::AnswerRef, stats::Counter};

/// Nominations of a worker that may wait for the promoter: those of 27 ms at 300,000 queries a second. What comes
/// beyond that is dropped.
pub(super) const NOMINATIONS: usize = 256;

/// Queries that one nomination stands for: one in so many is looked at.
pub(crate) const ONE_IN: u32 = 32;

/// The epoch in which nothing is nominated.
pub(super) const CLOSED: u64 = 0;

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
pub(super) struct Nomination {
    /// That of the tier before the answer was looked up.
    pub(super) epoch: u64,
    pub(super) entry: Entry,
}

/// A fixed number of nominations: those that are unused, and those that wait for the promoter.
#[derive(Debug)]
pub(super) struct Ring {
    unused: ArrayQueue<Box<Nomination>>,
    full: ArrayQueue<Box<Nomination>>,
    /// Nominations that were dropped because all were in use. The worker alone adds to them.
    dropped: Counter,
}

impl Ring {
    pub(super) fn new() -> Self {
        let unused = ArrayQueue::new(NOMINATIONS);
        for _ in 0..NOMINATIONS {
            let nomination = Nomination {
                epoch: CLOSED,
                entry: Entry::default(),
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

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Gives `take` the nominations that wait. Returns how many there were.
    pub(super) fn drain(&self, mut take: impl FnMut(&Nomination)) -> usize {
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

/// Nominates the answers of one worker. It allocates nothing, and waits for nobody.
#[derive(Debug)]
pub(crate) struct Nominator {
    epoch: Arc<AtomicU64>,
    ring: Arc<Ring>,
}

impl Nominator {
    pub(super) fn new(epoch: Arc<AtomicU64>, ring: Arc<Ring>) -> Self {
        Self { epoch, ring }
    }

    /// Nominates what `cached` returns, which is called if nominations are taken: the answer to a query that was
    /// just answered, from a cache that follows the policy that is shared *now*. `now` is the clock's second.
    #[cold]
    pub(crate) fn nominate<'a>(&self, now: u32, cached: impl FnOnce() -> Option<Offer<'a>>) {
        // Acquire, and before the policy and the cache are looked at: see the module.
        let epoch = self.epoch.load(Ordering::Acquire);
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
