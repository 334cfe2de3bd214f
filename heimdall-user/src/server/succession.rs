//! The end of a server: it drains, or another one takes over from it, in this process or in another one.

use std::{io, mem, os::fd::OwnedFd, thread, time::Duration};

use serde_json::Value;
use tracing::{info, warn};

use super::{
    Server,
    reload::{Difference, Refusal, ReloadError, document, log_outcome},
    snapshot,
};
use crate::{
    anycast::Anycast,
    control::ControlServer,
    handover::{Connection, Inheritance, Predecessor, Retire, State},
    http::HttpServer,
    socket::{Ending, SocketFront},
};

/// Time for queries under way, and for connections, if nobody serves until the next process does.
const GAP: Duration = Duration::from_millis(500);

impl Server {
    /// Reloads the settings: in place, or by a successor that replaces this server in `self`. `reply` is called with the
    /// answer for the client of the control socket before the replaced server ends. The outcome is logged, too.
    pub(crate) fn reload(&mut self, reply: impl FnOnce(Value)) {
        let reloader = self.reloader.clone();
        let mut replaced = None;
        let outcome = reloader
            .begin()
            .and_then(|reloading| Ok((reloader.compare()?, reloading)))
            .map_err(ReloadError::from)
            .and_then(|(difference, mut reloading)| {
                if !difference.needs_successor() {
                    return reloader.apply(difference);
                }
                reloader.refuse_changes(true);
                let successor = self.replace(&difference);
                replaced = Some(successor.inspect_err(|_| reloader.refuse_changes(false))?);
                *reloading = true;
                difference.apply_log_level();
                Ok(difference.taken_over(self.reloader.tls()))
            });
        log_outcome(&outcome);
        reply(document(&outcome));
        if let Some(replaced) = replaced {
            replaced.release();
        }
    }

    /// Starts a server with other settings, which takes over from this one, and puts it in its place. Returns this one,
    /// retired.
    fn replace(&mut self, difference: &Difference) -> Result<Self, Refusal> {
        let config = &difference.config;
        self.reloader.check_successor(difference)?;
        let inheritance = self.offer().map_err(Refusal::Offer)?;
        let (settings, requests) = (self.reloader.settings(), self.requests.clone());
        let predecessor = Box::new(InProcess::new(self));
        let successor =
            Self::take_over(config, settings, requests, inheritance, Some(predecessor))?;
        info!("serving: {}", successor.summary());
        Ok(mem::replace(self, successor))
    }

    /// Duplicates of all listening sockets.
    ///
    /// # Errors
    /// No descriptor is free, or a thread does not respond.
    pub(crate) fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        let mut listeners = Vec::new();
        for front in &self.sockets {
            listeners.extend(front.listeners()?);
        }
        Ok(listeners)
    }

    /// The longest time that queries under way are given.
    pub(super) fn stop_timeout(&self) -> Duration {
        let limit = self.reloader.origin().config.stop_timeout;
        match self.expects_gap {
            true => limit.min(GAP),
            false => limit,
        }
    }

    /// Ends a server without a successor: packets go to the kernel from now on, all queries that have arrived are answered,
    /// as far as that is possible within `stop-timeout`, and connections are closed by their rules. Then a last
    /// snapshot is written.
    pub(crate) fn drain(self) {
        self.leave_anycast();
        let limit = self.stop_timeout();
        let drain_workers = || {
            let retired = self.supervisor.as_ref().map(|one| one.retire(limit));
            if let Some(Err(error)) = retired {
                warn!("not all packets received over AF_XDP are answered: {error}");
            }
        };
        let drain_sockets = || {
            let drained = SocketFront::retire(&self.sockets, Ending::Drain, limit, &mut drop);
            if let Err(error) = drained {
                warn!("not all queries received over the sockets are answered: {error}");
            }
        };
        // At the same time: each may need all of the time.
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("drain".to_owned());
            let workers = builder.spawn_scoped(scope, drain_workers);
            drain_sockets();
            if workers.is_err() {
                drain_workers();
            }
        });
    }

    /// Refuses flushes and reloads from now on, once the reload that is under way is over: what they change would be lost
    /// to the server that takes over.
    pub(crate) fn refuse_changes(&self) {
        let reloading = self.reloader.begin();
        self.reloader.refuse_changes(true);
        drop(reloading);
    }

    /// Takes them again: this server goes on.
    pub(crate) fn accept_changes(&self) {
        self.reloader.refuse_changes(false);
    }

    /// Reads sockets and accepts connections again.
    fn resume_sockets(&self) {
        for front in &self.sockets {
            front.resume();
        }
    }

    /// What clients rely on that the next process gets.
    pub(crate) fn state(&self) -> State {
        State {
            anycast: self
                .anycast
                .as_ref()
                .map(Anycast::state)
                .unwrap_or_default(),
            ..self.reloader.state()
        }
    }

    /// Withdraws the service addresses, as the first step of an end, and serves on until routers have noticed.
    pub(crate) fn leave_anycast(&self) {
        if let Some(anycast) = &self.anycast {
            anycast.leave();
        }
    }

    /// Leaves the control socket's file to a successor, which has its listener.
    pub(crate) fn leave_to_successor(&mut self) {
        if let Some(control) = self.control.take() {
            control.release();
        }
    }

    /// Ends a server that another one has taken over from: it leaves the control socket's file and the snapshot to that.
    pub(crate) fn release(mut self) {
        self.leave_snapshot();
        self.leave_to_successor();
        if let Some(anycast) = self.anycast.take() {
            anycast.release();
        }
    }

    /// Writes no snapshot any more.
    fn leave_snapshot(&mut self) {
        if let Some(writer) = self.snapshots.take() {
            writer.abandon();
        }
    }
}

impl Retire for Server {
    fn offer(&self) -> io::Result<Inheritance> {
        let mut offered = Inheritance {
            sockets: self.listeners()?,
            state: self.state(),
            ..Inheritance::default()
        };
        if let Some(supervisor) = &self.supervisor {
            offered.links = supervisor.links()?;
        }
        if let Some((caches, plans)) = &self.caches {
            offered.cache = snapshot::offer(caches, plans).unwrap_or_else(|error| {
                warn!("the next server begins with an empty cache: {error}");
                None
            });
        }
        let control = self.control.as_ref();
        offered.control = control.map(ControlServer::duplicate).transpose()?;
        let http = self.http.as_ref();
        offered.metrics = http.map(HttpServer::duplicate).transpose()?;
        Ok(offered)
    }

    fn retire_sockets(&mut self, sink: &mut dyn FnMut(Connection)) -> io::Result<()> {
        SocketFront::retire(&self.sockets, Ending::HandOver, self.stop_timeout(), sink)
    }

    fn retire_workers(&mut self) -> io::Result<()> {
        if let Some(anycast) = &self.anycast {
            anycast.pause();
        }
        match &self.supervisor {
            Some(supervisor) => supervisor.retire(self.stop_timeout()),
            None => Ok(()),
        }
    }

    fn expect_gap(&mut self) {
        self.expects_gap = true;
        // Its thread writes a last one.
        self.snapshots = None;
    }

    fn resume(&mut self) {
        self.resume_sockets();
        if let Some(anycast) = &self.anycast {
            anycast.resume();
        }
        if let Some(supervisor) = &self.supervisor
            && let Err(error) = supervisor.resume()
        {
            warn!("the sockets answer until AF_XDP works again: {error}");
        }
    }

    fn adopt(&mut self, connection: Connection) {
        SocketFront::adopt(&self.sockets, connection);
    }
}

/// A server in this process that another one takes over from. Dropped before [`Predecessor::finish`], it serves again.
struct InProcess<'a> {
    server: &'a mut Server,
    /// It does not serve all that it did.
    retired: bool,
}

impl<'a> InProcess<'a> {
    fn new(server: &'a mut Server) -> Self {
        Self {
            server,
            retired: false,
        }
    }
}

impl Predecessor for InProcess<'_> {
    fn sockets_are_served(&mut self, adopt: &mut dyn FnMut(Connection)) -> io::Result<()> {
        self.retired = true;
        self.server.retire_sockets(adopt)
    }

    fn programs_are_replaced(&mut self) -> io::Result<()> {
        self.retired = true;
        self.server.retire_workers()
    }

    fn resume_sockets(&mut self) {
        self.server.resume_sockets();
    }

    fn give_back(&mut self, connection: Connection) {
        self.server.adopt(connection);
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.retired = false;
        // Two must not write to the same file.
        self.server.leave_snapshot();
        Ok(())
    }
}

impl Drop for InProcess<'_> {
    fn drop(&mut self) {
        if self.retired {
            self.server.resume();
        }
    }
}
