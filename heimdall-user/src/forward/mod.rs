//! The upstream forwarder: gets the answers that no cache has.
//!
//! It runs on threads of its own, each with an epoll loop, no async runtime. A front (an AF_XDP
//! worker or the socket front) hands it a [`Request`] over a bounded lock-free queue and gets an
//! [`Outcome`] back through its [`Mailbox`]; neither side ever waits for the other. A question
//! always goes to the same thread, chosen by its name's hash, so that identical questions meet
//! there and share one upstream query, whichever front they came from.
//!
//! Each thread remembers what it was told, for all fronts: the answers, also for some time after
//! their lives are over (RFC 8767), and the failures (RFC 9520). A name that one front has learnt
//! costs no upstream query on another.
//!
//! Every query has a socket of its own, connected to the upstream: the kernel chooses the source
//! port at random from `net.ipv4.ip_local_port_range` (28,232 ports, 14.8 bits, unless that was
//! changed) and drops what comes from any other address. With the random ID that makes some 31
//! bits that someone who cannot see the query has to guess (RFC 5452); after a few wrong guesses
//! the socket is closed and the query goes over TCP, where guessing does not help, or from another
//! port. Tries that timed out listen on, so a question has up to `attempts` such sockets at a time.
//!
//! Everything is bounded: the queue, the queries in flight, the tries and the time of each. What is
//! full makes room at the cost of whoever holds most. A request ends in an answer or in SERVFAIL,
//! never in silence.

mod counters;
mod deadlines;
mod exchange;
mod failures;
mod handle;
mod inflight;
mod memory;
mod message;
mod notices;
mod request;
mod settings;
mod shard;
mod shed;
mod subnet;
mod upstreams;
mod zones;

use std::{
    fmt, io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use counters::ForwardCounters;
pub use handle::{Handle, QueueFull};
pub use request::{MAX_REFRESHES, Mailbox, Outcome, Request};
pub use settings::Settings;

use crate::{
    cache::{Key, Record},
    clock::Clock,
    dns::NameHasher,
    exit::OnExit,
    maintenance::CommandQueue,
};
use handle::Inbox;
use shard::Shard;

/// The forwarder before it runs.
pub struct Prepared {
    shards: Vec<Shard>,
    hasher: NameHasher,
    clock: Clock,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

impl Prepared {
    /// Reserves what the threads need. [`Request::front`] is the place of the front's mailbox in
    /// `mailboxes`; `hasher` is the one that the fronts hash with.
    ///
    /// # Errors
    /// There is no upstream, or an epoll instance or the memory for a cache is not to be had.
    pub fn new(
        settings: &Settings,
        mailboxes: Vec<Arc<Mailbox>>,
        hasher: NameHasher,
    ) -> io::Result<Self> {
        if settings.upstreams.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "there is no upstream to forward to",
            ));
        }
        let mailboxes: Arc<[_]> = mailboxes.into();
        let clock = Clock::start();
        let shards = (0..settings.threads.max(1))
            .map(|_| Shard::new(settings.clone(), mailboxes.clone(), hasher.clone(), clock))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            shards,
            hasher,
            clock,
        })
    }

    /// Keeps what another process had learnt, and left `away` seconds ago.
    pub fn restore<'a>(&mut self, records: impl Iterator<Item = Record<'a>>, away: u32) {
        /// Records whose places in the caches are fetched from memory at the same time.
        const BATCH: usize = 64;
        let now = self.clock.seconds();
        let mut records = records.peekable();
        let mut batch = Vec::with_capacity(BATCH);
        while records.peek().is_some() {
            for record in records.by_ref().take(BATCH) {
                let key = Key::new(&self.hasher, record.question, record.flags);
                let shard = shard_of(&self.hasher, key.name(), self.shards.len());
                if let Some(shard) = self.shards.get(shard) {
                    shard.expect(&key);
                }
                batch.push((shard, key, record));
            }
            for (shard, key, record) in batch.drain(..) {
                if let Some(shard) = self.shards.get_mut(shard) {
                    shard.restore(&key, &record, record.age.saturating_add(away), now);
                }
            }
        }
    }

    /// Starts the threads.
    ///
    /// Raises the process's soft limit on open files to the hard one, as every upstream query
    /// holds a descriptor.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn start(self) -> io::Result<Forwarder> {
        self.start_with(OnExit::default)
    }

    /// Starts the threads, each of which owns what `on_exit` makes for it.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_with(self, on_exit: impl Fn() -> OnExit) -> io::Result<Forwarder> {
        raise_file_limit();
        let mut forwarder = Forwarder {
            inboxes: self.shards.iter().map(Shard::inbox).collect(),
            counters: self.shards.iter().map(Shard::counters).collect(),
            command_queues: self.shards.iter().map(Shard::command_queue).collect(),
            threads: Vec::new(),
            hasher: self.hasher,
        };
        for (number, shard) in self.shards.into_iter().enumerate() {
            let on_exit = on_exit();
            let started = thread::Builder::new()
                .name(format!("forward-{number}"))
                .spawn(move || {
                    let _on_exit = on_exit;
                    shard.run();
                });
            match started {
                Ok(thread) => forwarder.threads.push(thread),
                Err(error) => {
                    forwarder.stop();
                    return Err(error);
                }
            }
        }
        Ok(forwarder)
    }
}

/// The thread of a name: one thread then knows all there is to know of it, whatever the type.
fn shard_of(hasher: &NameHasher, name: &[u8], threads: usize) -> usize {
    hasher.hash(name, 0) as u32 as usize % threads.max(1)
}

/// The running forwarder.
#[derive(Debug)]
pub struct Forwarder {
    inboxes: Arc<[Arc<Inbox>]>,
    counters: Vec<Arc<ForwardCounters>>,
    command_queues: Vec<Arc<CommandQueue>>,
    threads: Vec<JoinHandle<()>>,
    hasher: NameHasher,
}

impl Forwarder {
    /// A way in for one front.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inboxes.clone(), self.hasher.clone())
    }

    /// The counters of each thread.
    pub fn counters(&self) -> Vec<Arc<ForwardCounters>> {
        self.counters.clone()
    }

    /// The command queue of each thread's cache.
    pub fn command_queues(&self) -> Vec<Arc<CommandQueue>> {
        self.command_queues.clone()
    }

    /// Ends the threads. Requests that are under way get SERVFAIL; later ones are turned away.
    pub fn stop(self) {
        for inbox in self.inboxes.iter() {
            inbox.close();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a forwarder thread had panicked");
            }
        }
        for inbox in self.inboxes.iter() {
            inbox.turn_away();
        }
    }
}

/// Not being able to is no error: the limit is then met, and counted, when it is reached.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
