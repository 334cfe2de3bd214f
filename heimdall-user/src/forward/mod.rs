//! The upstream forwarder: gets the answers that no cache has.
//!
//! It runs on threads of its own (shards), each with an epoll loop; there is no async runtime. A front
//! (an AF_XDP worker or the socket front) submits a [`Request`] over a bounded lock-free queue and
//! gets an [`Outcome`] back through its [`Mailbox`]; neither side ever waits for the other. A question
//! always goes to the same thread, chosen by its name's hash, so that identical questions of all
//! fronts share one upstream query.
//!
//! Each thread caches the upstreams' answers for all fronts: the answers, also for some time after
//! they expired (RFC 8767), and the failures (RFC 9520). An answer cached by one front costs no
//! upstream query on another.
//!
//! Queries go over pools of connected sockets (`udp`), whose ports the kernel chooses at random and which are
//! renewed at random. With the random ID that makes some 31 bits that an off-path attacker has to guess
//! (RFC 5452); cookies and random letters (`upstreams`) add to them. After a few wrong guesses the socket is closed, and its
//! queries go out from another port, and then over TCP, where guessing does not help. Late responses to attempts that
//! timed out are accepted, so a question has up to `attempts` queries outstanding at a time. The queries of a turn are sent, and responses received, in
//! batches; a thread is woken only if it sleeps (`sleeping`). Over TCP a few connections, which stay open, carry the
//! queries of many look-ups (`tcp`).
//!
//! Routes say which upstreams are asked for which names (`routes`). They can be replaced while the threads run (`plan`):
//! each answer of a look-up carries the generation of the routes that it began under, and fronts and threads cache none of
//! an earlier one.
//!
//! Everything is bounded: the queue, the questions in flight, the attempts and the time of each. When
//! something is full, the largest holder loses its oldest look-ups. Every request gets an answer or
//! SERVFAIL.

mod address;
mod answers;
mod counters;
mod deadlines;
mod exchange;
mod failures;
mod handle;
mod inflight;
mod options;
mod overload_log;
mod plan;
mod request;
mod routes;
mod shard;
mod shared_cache;
mod shed;
mod sleeping;
mod tcp;
mod tls;
mod udp;
mod upstreams;
mod zones;

use std::{fmt, io, sync::Arc};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use address::{TlsPeer, UpstreamAddress, UpstreamTransport};
pub(crate) use counters::Condition;
pub use counters::{ForwardCounters, UpstreamCounters, UpstreamMetrics};
pub use handle::Handle;
pub use options::ForwardOptions;
pub(crate) use plan::{Plan, Plans};
pub(crate) use request::MAX_REFRESHES;
pub use request::{Mailbox, Outcome, Request};
pub use routes::RouteOptions;
pub use tls::TlsOptions;
pub(crate) use upstreams::MAX_MEMBERS;
pub use upstreams::Policy;

use crate::{
    cache::{Key, Record},
    clock::Clock,
    dns::NameHasher,
    exit::{OnExit, OwnedThread},
    maintenance::CommandQueue,
    tap::Taps,
};
use handle::Inbox;
use overload_log::OverloadLog;
use shard::Shard;

/// A forwarder whose threads have not been started yet.
pub struct ForwarderBuilder {
    shards: Vec<Shard>,
    plan: Arc<Plan>,
    tls: TlsOptions,
    hasher: NameHasher,
    clock: Clock,
}

impl fmt::Debug for ForwarderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwarderBuilder").finish_non_exhaustive()
    }
}

impl ForwarderBuilder {
    /// Reserves the threads' memory and sockets. `Request::front` is the position of the front's mailbox in
    /// `mailboxes`; `hasher` is the one that the fronts hash with.
    ///
    /// # Errors
    /// A route has no upstream, an epoll instance or the memory for a cache is not available, or the root certificates
    /// for TLS cannot be read.
    pub fn new(
        options: &ForwardOptions,
        mailboxes: Vec<Arc<Mailbox>>,
        hasher: NameHasher,
    ) -> io::Result<Self> {
        let is_without =
            |route: RouteOptions| route.local_only.is_none() && route.upstreams.is_empty();
        if options.all_routes().any(is_without) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "there is no upstream to forward to",
            ));
        }
        let mailboxes: Arc<[_]> = mailboxes.into();
        let clock = Clock::start();
        let log = OverloadLog::default();
        let plan = Arc::new(Plan::new(options)?);
        let shards = (0..options.threads.max(1))
            .map(|thread| {
                let (options, mailboxes) = (options.clone(), Arc::clone(&mailboxes));
                Shard::new(
                    options,
                    mailboxes,
                    hasher.clone(),
                    clock,
                    log.clone(),
                    &plan,
                    thread,
                )
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            shards,
            plan,
            tls: options.tls.clone(),
            hasher,
            clock,
        })
    }

    /// Has the threads sample queries to upstreams.
    pub(crate) fn sample(&mut self, taps: &Taps) {
        for shard in &mut self.shards {
            shard.tap = taps.forwarder();
        }
    }

    /// A number for where its answers come from; see [`Plan::origin`].
    pub(crate) fn origin(&self) -> u64 {
        self.plan.origin()
    }

    /// Inserts the answers of a snapshot, which are older than it says by `away` seconds.
    pub fn restore<'a>(&mut self, records: impl Iterator<Item = Record<'a>>, away: u32) {
        /// Records whose buckets are prefetched at the same time.
        const BATCH: usize = 64;
        let now = self.clock.seconds();
        let mut records = records.peekable();
        let mut batch = Vec::with_capacity(BATCH);
        while records.peek().is_some() {
            for record in records.by_ref().take(BATCH) {
                let key = Key::new(&self.hasher, record.question, record.flags);
                let shard = shard_of(&self.hasher, &key, self.shards.len());
                if let Some(shard) = self.shards.get(shard) {
                    shard.prefetch(&key);
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
    /// Raises the process's soft limit on open files to the hard one, for sockets and connections to upstreams.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self) -> io::Result<Forwarder> {
        self.start_with(OnExit::default)
    }

    /// Starts the threads. Each gets an [`OnExit`] from `on_exit`.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub(crate) fn start_with(self, on_exit: impl Fn() -> OnExit) -> io::Result<Forwarder> {
        raise_file_limit();
        let inboxes: Arc<[_]> = self.shards.iter().map(Shard::inbox).collect();
        let mut forwarder = Forwarder {
            plans: Plans::new(self.plan, Arc::clone(&inboxes), self.tls),
            inboxes,
            counters: self.shards.iter().map(Shard::counters).collect(),
            command_queues: self.shards.iter().map(Shard::command_queue).collect(),
            threads: Vec::new(),
            hasher: self.hasher,
        };
        // Should one not start, dropping the forwarder ends those before it.
        for (number, shard) in self.shards.into_iter().enumerate() {
            let inbox = shard.inbox();
            let thread = OwnedThread::start(
                format!("forward-{number}"),
                on_exit(),
                move || inbox.close(),
                || shard.run(),
            )?;
            forwarder.threads.push(thread);
        }
        Ok(forwarder)
    }
}

/// The thread of a key's name, for all of its types. It is chosen by bits of the hash that choose
/// neither a bucket nor a tag in the tables of a thread.
fn shard_of(hasher: &NameHasher, key: &Key<'_>, threads: usize) -> usize {
    usize::from((key.name_hash(hasher) >> 16) as u16) % threads.max(1)
}

/// The running forwarder. Dropping it ends its threads: requests that are under way get SERVFAIL,
/// and later ones are rejected.
#[derive(Debug)]
pub struct Forwarder {
    inboxes: Arc<[Arc<Inbox>]>,
    counters: Vec<Arc<ForwardCounters>>,
    plans: Plans,
    command_queues: Vec<Arc<CommandQueue>>,
    threads: Vec<OwnedThread>,
    hasher: NameHasher,
}

impl Forwarder {
    /// For one front, to submit requests.
    pub fn handle(&self) -> Handle {
        Handle::new(self.inboxes.clone(), self.hasher.clone())
    }

    /// The counters of each thread.
    pub fn counters(&self) -> Vec<Arc<ForwardCounters>> {
        self.counters.clone()
    }

    /// The routes and upstreams in force.
    pub(crate) fn plans(&self) -> Plans {
        self.plans.clone()
    }

    /// The command queue of each thread's cache.
    pub(crate) fn command_queues(&self) -> Vec<Arc<CommandQueue>> {
        self.command_queues.clone()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // All at once, before the first is waited for.
        for thread in &self.threads {
            thread.stop();
        }
        self.threads.clear();
        for inbox in self.inboxes.iter() {
            inbox.reject_all();
        }
    }
}

/// Checks that the files for TLS can be read.
///
/// # Errors
/// They cannot.
pub(crate) fn check_tls(options: &ForwardOptions) -> io::Result<()> {
    Plan::new(options).map(drop)
}

/// A failure is ignored: reaching the limit later is handled, and counted.
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
