//! The end of AF_XDP without loss, before the server ends or another one takes over; and its resumption.
//!
//! 1. Steering ends: the served addresses are removed, and packets pass to the sockets. Where another server has
//!    replaced the program, that has happened already.
//! 2. The runs of the program that began before end. All that they steered is in the workers' rings.
//! 3. The queues drain: their workers answer what is in their rings and what waits for the forwarder, wait until the
//!    replies are sent, and close their AF_XDP sockets. Then the workers end.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::warn;

use super::{
    State, Supervisor,
    queue::{STUCK, ServedQueue},
};
use crate::{heartbeat, server::attached::Attached};

/// What the supervisor's thread is asked for, and where the result goes.
pub(super) enum Request {
    Links(SyncSender<io::Result<Vec<OwnedFd>>>),
    Retire(Duration, SyncSender<io::Result<()>>),
    Resume(SyncSender<io::Result<()>>),
}

/// To be called by any thread, which waits for the result.
impl Supervisor {
    /// Descriptors of the programs' links, for another server.
    ///
    /// # Errors
    /// Too many descriptors are open, or the supervisor has ended.
    pub(in crate::server) fn links(&self) -> io::Result<Vec<OwnedFd>> {
        self.ask(Request::Links)
    }

    /// Ends all queues and workers without losing a packet, and starts none again. Packets pass to the sockets from then on, which have
    /// to answer them. Takes as long as the slowest query that waits, up to `limit`, and a second more if a worker
    /// is stuck.
    ///
    /// # Errors
    /// A worker is stuck, and its AF_XDP sockets open. All others have ended.
    pub(in crate::server) fn retire(&self, limit: Duration) -> io::Result<()> {
        self.ask(|to| Request::Retire(limit, to))
    }

    /// Undoes [`retire`](Self::retire): puts the programs back if another server has replaced them. The workers are
    /// started by the supervisor after the return.
    ///
    /// # Errors
    /// A program cannot be put back. The sockets serve its interface.
    pub(in crate::server) fn resume(&self) -> io::Result<()> {
        self.ask(Request::Resume)
    }

    fn ask<T>(&self, request: impl FnOnce(SyncSender<io::Result<T>>) -> Request) -> io::Result<T> {
        let ended = || io::Error::other("the supervisor of AF_XDP has ended");
        let (to, result) = sync_channel(1);
        self.requests.send(request(to)).map_err(|_| ended())?;
        self.signal.wake();
        result.recv().map_err(|_| ended())?
    }
}

impl State {
    pub(super) fn answer_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            // Whoever asked may have ended.
            let _ = match request {
                Request::Links(to) => to.send(self.links()).is_ok(),
                Request::Retire(limit, to) => to.send(self.retire(limit)).is_ok(),
                Request::Resume(to) => to.send(self.resume()).is_ok(),
            };
        }
    }

    fn attached(&self) -> impl Iterator<Item = &Arc<Attached>> {
        (self.interfaces.iter()).filter_map(|interface| interface.attached.as_ref())
    }

    fn queues(&mut self) -> impl Iterator<Item = &mut ServedQueue> {
        (self.interfaces.iter_mut()).flat_map(|interface| &mut interface.queues)
    }

    fn links(&self) -> io::Result<Vec<OwnedFd>> {
        let links = self.attached().map(|one| one.program().duplicate_link());
        links.collect()
    }

    pub(super) fn retire(&mut self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        self.retired = true;
        for attached in self.attached() {
            if let Err(error) = attached.retire() {
                warn!("{}: {error}", attached.interface.name);
            }
        }
        // Those of all interfaces.
        if let Some(attached) = self.attached().next()
            && let Err(error) = attached.program().wait_for_runs()
        {
            warn!("{error}; queries that arrive in this moment may be lost");
        }
        self.queues().for_each(|queue| queue.drain());
        if !self.wait_for_queues(end) {
            self.queues().for_each(|queue| queue.close());
            // The kernel takes its time for each.
            let mut before = usize::MAX;
            loop {
                let left = self.queues().filter(|queue| queue.is_running()).count();
                if left == 0 || left == before {
                    break;
                }
                before = left;
                self.wait_for_queues(Instant::now() + STUCK);
            }
        }
        let left: BTreeSet<usize> = (self.queues())
            .filter(|queue| queue.is_running())
            .map(|queue| queue.place.worker)
            .collect();
        let stuck = self.pool.stop(|worker| left.contains(&worker));
        if stuck.is_empty() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} is stuck and keeps its queues", stuck.join(", ")),
        ))
    }

    /// Waits until all queues have ended, until `end` at the latest. Whether they have.
    fn wait_for_queues(&mut self, end: Instant) -> bool {
        loop {
            heartbeat::beat();
            // Each is looked at.
            let running = self
                .queues()
                .filter_map(|queue| (!queue.collect_drained()).then_some(()));
            if running.count() == 0 {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // A queue's end is signalled. Rounded up, or the last millisecond would be spent spinning.
            let signal = &self.context.signal.event;
            let mut fds = [PollFd::new(signal.as_fd(), PollFlags::POLLIN)];
            let left = left.min(heartbeat::MAX_SLEEP);
            let timeout = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let _ = poll(&mut fds, PollTimeout::from(timeout));
            // EAGAIN: it was not readable.
            let _ = signal.read();
        }
    }

    fn resume(&mut self) -> io::Result<()> {
        self.retired = false;
        let now = Instant::now();
        self.pool.start_at(now);
        let mut result = Ok(());
        for interface in &mut self.interfaces {
            if let Some(attached) = &interface.attached
                && let Err(error) = attached.resume()
            {
                warn!("{}: {error}; the sockets serve it", attached.interface.name);
                result = Err(io::Error::other(error));
            }
            interface
                .queues
                .iter_mut()
                .for_each(|queue| queue.start_at(now));
        }
        result
    }
}
