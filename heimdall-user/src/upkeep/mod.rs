//! What is done to caches while they are in use: flushing, and copying out for a dump or a
//! snapshot.
//!
//! A cache belongs to its thread, and nobody else may touch it. So whoever wants something done
//! leaves an order at the thread's [`Desk`]; the thread's [`Upkeep`] carries it out, a few entries
//! a round of the thread's loop, so that no query waits for it. [`Caches`] knows all desks.

mod caches;
mod scope;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use crossbeam_queue::ArrayQueue;

use crate::cache::{Cache, Visit, Walk};
pub use caches::Caches;
pub use scope::{BadName, Scope};

/// Orders that may wait at a desk, and that may be carried out at once: more than there are control
/// clients and snapshots at a time.
const MAX_ORDERS: usize = 32;

/// Entries that are looked at in one round: some microseconds' work.
const STEP: usize = 64;

/// Octets after which a portion of records is handed over.
const PORTION: usize = 64 << 10;

/// Portions that may be under way to whoever gave the order. Its cache's thread goes on with
/// queries while it waits for room, and with the order afterwards.
const MAX_PORTIONS: usize = 4;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Forget the entries.
    Flush,
    /// Hand over copies of the entries.
    Copy,
}

/// What comes of an order, bit by bit; it is done when the channel is closed.
#[derive(Debug)]
enum Portion {
    /// So many records, one behind the other.
    Records(Vec<u8>, u64),
    /// So many entries were forgotten.
    Flushed(u64),
}

#[derive(Debug)]
struct Order {
    task: Task,
    scope: Arc<Scope>,
    to: SyncSender<Portion>,
}

/// Where a thread gets its orders.
pub struct Desk {
    orders: ArrayQueue<Order>,
    closed: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    fn give(&self, order: Order) {
        // A full desk or a thread that has ended: the order goes, and its channel with it.
        let _ = self.orders.push(order);
        if self.closed.load(Ordering::SeqCst) {
            self.clear();
        }
        (self.wake)();
    }

    fn clear(&self) {
        while self.orders.pop().is_some() {}
    }
}

/// How far the upkeep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is nothing to do.
    Idle,
    /// There is more to do.
    Busy,
    /// Whoever gave the order has to take something first.
    Blocked,
}

impl Progress {
    /// How long a thread that has nothing else to do may sleep, if it may not sleep for long.
    pub fn pause(self) -> Option<Duration> {
        match self {
            Self::Idle => None,
            Self::Busy => Some(Duration::ZERO),
            Self::Blocked => Some(Duration::from_millis(1)),
        }
    }
}

/// Carries out the orders for one thread's cache.
#[derive(Debug)]
pub struct Upkeep {
    desk: Arc<Desk>,
    /// Orders that are being carried out, in turn: none waits for the receiver of another.
    current: VecDeque<Current>,
}

/// An order that is being carried out.
#[derive(Debug)]
struct Current {
    order: Order,
    walk: Walk,
    /// Records to be handed over, and how many.
    records: Vec<u8>,
    count: u64,
    /// The walk is over.
    walked: bool,
}

impl Upkeep {
    /// The upkeep of a thread that `wake` wakes.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let desk = Arc::new(Desk {
            orders: ArrayQueue::new(MAX_ORDERS),
            closed: AtomicBool::new(false),
            wake: Box::new(wake),
        });
        Self {
            desk,
            current: VecDeque::new(),
        }
    }

    /// The upkeep of another thread that takes over a desk whose thread has ended.
    pub fn take_over(desk: Arc<Desk>) -> Self {
        desk.closed.store(false, Ordering::SeqCst);
        Self {
            desk,
            current: VecDeque::new(),
        }
    }

    /// Where to leave orders.
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// Whether [`step`](Self::step) has something to do.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.current.is_empty() || !self.desk.orders.is_empty()
    }

    /// Goes on with the orders, for some microseconds. `flushed` is told what is being flushed,
    /// in case that the thread knows more than the cache does.
    pub fn step(
        &mut self,
        cache: &mut Cache,
        now: u32,
        mut flushed: impl FnMut(&Scope),
    ) -> Progress {
        if self.current.len() < MAX_ORDERS
            && let Some(order) = self.desk.orders.pop()
        {
            if order.task == Task::Flush {
                flushed(&order.scope);
            }
            self.current.push_front(Current::new(order));
        }
        let mut all = Progress::Idle;
        for _ in 0..self.current.len() {
            let Some(mut current) = self.current.pop_front() else {
                break;
            };
            match current.step(cache, now) {
                Progress::Idle if self.has_work() => return Progress::Busy,
                Progress::Idle => return Progress::Idle,
                Progress::Busy => {
                    self.current.push_back(current);
                    return Progress::Busy;
                }
                Progress::Blocked => {
                    self.current.push_back(current);
                    all = Progress::Blocked;
                }
            }
        }
        all
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.desk.closed.store(true, Ordering::SeqCst);
        self.desk.clear();
    }
}

impl Current {
    fn new(order: Order) -> Self {
        Self {
            order,
            walk: Walk::default(),
            records: Vec::new(),
            count: 0,
            walked: false,
        }
    }

    /// [`Progress::Idle`]: it is done.
    fn step(&mut self, cache: &mut Cache, now: u32) -> Progress {
        if !self.walked && self.records.len() < PORTION {
            self.walked = match self.order.task {
                Task::Flush => self.flush(cache, now),
                Task::Copy => self.copy(cache, now),
            };
        }
        if !self.walked && self.records.len() < PORTION {
            return Progress::Busy;
        }
        let portion = match self.order.task {
            Task::Flush => Portion::Flushed(self.count),
            Task::Copy => Portion::Records(std::mem::take(&mut self.records), self.count),
        };
        match self.order.to.try_send(portion) {
            Ok(()) if !self.walked => {
                self.count = 0;
                Progress::Busy
            }
            // Done, or nobody wants it any more.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Progress::Idle,
            Err(TrySendError::Full(portion)) => {
                if let Portion::Records(records, _) = portion {
                    self.records = records;
                }
                Progress::Blocked
            }
        }
    }

    fn flush(&mut self, cache: &mut Cache, now: u32) -> bool {
        if *self.order.scope == Scope::All {
            self.count = cache.entries();
            cache.invalidate(now);
            return true;
        }
        !cache.walk(&mut self.walk, STEP, now, |record| {
            if self.order.scope.holds(record.question) {
                self.count += 1;
                Visit::Remove
            } else {
                Visit::Keep
            }
        })
    }

    fn copy(&mut self, cache: &mut Cache, now: u32) -> bool {
        !cache.walk(&mut self.walk, STEP, now, |record| {
            if self.order.scope.holds(record.question) {
                self.count += 1;
                record.append_to(&mut self.records);
            }
            Visit::Keep
        })
    }
}

#[cfg(test)]
mod tests;
