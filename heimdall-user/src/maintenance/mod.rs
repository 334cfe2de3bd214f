//! Maintenance of caches in use: populating their memory, flushing them, and copying them for a dump or a
//! snapshot.
//!
//! A cache is private to its thread. A command for it is submitted to the thread's `CommandQueue`;
//! the thread's [`Maintenance`] executes it in short steps, between batches of queries. `Caches` has
//! all command queues; the control commands and the snapshot writer call it. A step must not make a
//! query wait. The same queues take inquiries about a thread's other state, which the thread answers itself.

mod caches;
mod inquiry;
mod population;
mod scope;

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use crossbeam_queue::ArrayQueue;

use crate::cache::{Cache, Visit, Walk};
pub(crate) use caches::{Caches, FORWARDER};
pub(crate) use inquiry::{
    ForwarderState, FrontState, Inquiry, RouteState, Subject, ThreadState, UpstreamState,
};
use population::Population;
pub(crate) use population::caches_left;
pub(crate) use scope::{BadName, Scope, presentation, wire};

/// Commands that may wait in a queue, and that may be executed at once: more than there are control
/// clients and snapshots at a time.
const MAX_COMMANDS: usize = 32;

/// Entries that one step visits: some microseconds' work.
const STEP: usize = 64;

/// Octets of records after which a chunk is sent.
const CHUNK: usize = 64 << 10;

/// Chunks that the receiver of a command may leave unread. When there are as many, the command is
/// blocked; the thread continues with queries and other commands.
const MAX_CHUNKS: usize = 4;

/// How long a thread with nothing else to do sleeps before it retries a blocked command.
const RETRY: Duration = Duration::from_millis(1);

/// The action on the entries in a command's scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Flush,
    Copy,
}

/// A part of a command's result. The command is done when the channel is closed.
#[derive(Debug)]
enum Chunk {
    /// Encoded records, one after another, and their number.
    Records(Vec<u8>, u64),
    /// The number of entries that were removed.
    Flushed(u64),
}

#[derive(Debug)]
struct Command {
    task: Task,
    scope: Arc<Scope>,
    result: SyncSender<Chunk>,
}

/// The commands for one thread's cache.
pub(crate) struct CommandQueue {
    commands: ArrayQueue<Command>,
    inquiries: ArrayQueue<Inquiry>,
    closed: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for CommandQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandQueue").finish_non_exhaustive()
    }
}

impl CommandQueue {
    /// Queues a command and wakes the thread. If the queue is full or the thread has ended, the
    /// command is dropped, and its channel with it.
    fn submit(&self, command: Command) {
        let _ = self.commands.push(command);
        self.wake();
    }

    /// The same for an inquiry.
    fn inquire(&self, inquiry: Inquiry) {
        let _ = self.inquiries.push(inquiry);
        self.wake();
    }

    /// Whether a thread executes the commands, and so has a cache.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        // The thread may have ended in between, and no longer empties the queue.
        if self.closed.load(Ordering::SeqCst) {
            self.clear();
        }
        (self.wake)();
    }

    fn clear(&self) {
        while self.commands.pop().is_some() {}
        while self.inquiries.pop().is_some() {}
    }
}

/// The state of maintenance after a step, by urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// There is nothing to do.
    Idle,
    /// There is more to do, but every receiver has to read its chunks first, or the next step of
    /// populating is not due yet.
    Blocked,
    /// There is more to do.
    Busy,
}

impl Status {
    /// How long a thread with nothing else to do may sleep; `None`: until it is woken.
    pub(crate) fn timeout(self) -> Option<Duration> {
        match self {
            Self::Idle => None,
            Self::Blocked => Some(RETRY),
            Self::Busy => Some(Duration::ZERO),
        }
    }
}

/// Populates one thread's cache, and executes the commands for it.
#[derive(Debug)]
pub struct Maintenance {
    queue: Arc<CommandQueue>,
    /// Until the cache's memory is populated.
    population: Option<Population>,
    /// Commands under way. They take turns, so that none waits for another's receiver.
    running: VecDeque<Running>,
}

/// A command under way.
#[derive(Debug)]
struct Running {
    command: Command,
    walk: Walk,
    /// The walk has visited all entries.
    walked: bool,
    /// Records of the next chunk.
    records: Vec<u8>,
    /// Entries in it.
    count: u64,
}

impl Maintenance {
    /// Maintenance by a thread that `wake` wakes.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let queue = Arc::new(CommandQueue {
            commands: ArrayQueue::new(MAX_COMMANDS),
            inquiries: ArrayQueue::new(MAX_COMMANDS),
            closed: AtomicBool::new(false),
            wake: Box::new(wake),
        });
        Self {
            queue,
            population: Some(Population::new()),
            running: VecDeque::with_capacity(MAX_COMMANDS),
        }
    }

    /// Maintenance by a thread that takes over the queue of one that has ended.
    pub(crate) fn take_over(queue: Arc<CommandQueue>) -> Self {
        queue.closed.store(false, Ordering::SeqCst);
        Self {
            queue,
            population: Some(Population::new()),
            running: VecDeque::with_capacity(MAX_COMMANDS),
        }
    }

    /// The queue that the commands come from.
    pub(crate) fn queue(&self) -> Arc<CommandQueue> {
        Arc::clone(&self.queue)
    }

    /// Whether [`step`](Self::step) or [`next_inquiry`](Self::next_inquiry) has something to do.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        self.population.is_some() || self.has_commands() || !self.queue.inquiries.is_empty()
    }

    /// The next inquiry, which the thread answers at once.
    pub(crate) fn next_inquiry(&self) -> Option<Inquiry> {
        self.queue.inquiries.pop()
    }

    #[inline]
    fn has_commands(&self) -> bool {
        !self.running.is_empty() || !self.queue.commands.is_empty()
    }

    /// Populates memory if that is due, and executes commands for some microseconds. `flushing` is
    /// called with the scope of each flush that begins, for a thread that has other state than its
    /// cache to flush.
    pub(crate) fn step(
        &mut self,
        cache: &mut Cache,
        now: u32,
        flushing: impl FnMut(&Scope),
    ) -> Status {
        let mut populating = Status::Idle;
        if let Some(population) = &mut self.population {
            populating = population.step(cache);
            if populating == Status::Idle {
                self.population = None;
            }
        }
        populating.max(self.execute(cache, now, flushing))
    }

    fn execute(&mut self, cache: &mut Cache, now: u32, mut flushing: impl FnMut(&Scope)) -> Status {
        if self.running.len() < MAX_COMMANDS
            && let Some(command) = self.queue.commands.pop()
        {
            if command.task == Task::Flush {
                flushing(&command.scope);
            }
            self.running.push_front(Running::new(command));
        }
        let mut all = Status::Idle;
        for _ in 0..self.running.len() {
            let Some(mut next) = self.running.pop_front() else {
                break;
            };
            match next.step(cache, now) {
                Status::Idle if self.has_commands() => return Status::Busy,
                Status::Idle => return Status::Idle,
                Status::Busy => {
                    self.running.push_back(next);
                    return Status::Busy;
                }
                Status::Blocked => {
                    self.running.push_back(next);
                    all = Status::Blocked;
                }
            }
        }
        all
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.queue.closed.store(true, Ordering::SeqCst);
        self.queue.clear();
    }
}

impl Running {
    fn new(command: Command) -> Self {
        Self {
            command,
            walk: Walk::default(),
            walked: false,
            records: Vec::new(),
            count: 0,
        }
    }

    /// [`Status::Idle`]: the command is done.
    fn step(&mut self, cache: &mut Cache, now: u32) -> Status {
        if !self.walked && self.records.len() < CHUNK {
            self.walked = match self.command.task {
                Task::Flush => self.flush(cache, now),
                Task::Copy => self.copy(cache, now),
            };
        }
        if !self.walked && self.records.len() < CHUNK {
            return Status::Busy;
        }
        let chunk = match self.command.task {
            Task::Flush => Chunk::Flushed(self.count),
            Task::Copy => Chunk::Records(mem::take(&mut self.records), self.count),
        };
        match self.command.result.try_send(chunk) {
            Ok(()) if !self.walked => {
                self.count = 0;
                Status::Busy
            }
            // Done, or the receiver is gone.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Status::Idle,
            Err(TrySendError::Full(chunk)) => {
                if let Chunk::Records(records, _) = chunk {
                    self.records = records;
                }
                Status::Blocked
            }
        }
    }

    fn flush(&mut self, cache: &mut Cache, now: u32) -> bool {
        if *self.command.scope == Scope::All {
            self.count = cache.entries();
            cache.invalidate(now);
            return true;
        }
        !cache.walk(&mut self.walk, STEP, now, |record| {
            if self.command.scope.holds(record.question) {
                self.count += 1;
                Visit::Remove
            } else {
                Visit::Keep
            }
        })
    }

    fn copy(&mut self, cache: &mut Cache, now: u32) -> bool {
        !cache.walk(&mut self.walk, STEP, now, |record| {
            if self.command.scope.holds(record.question) {
                self.count += 1;
                record.append_to(&mut self.records);
            }
            Visit::Keep
        })
    }
}

#[cfg(test)]
mod tests;
