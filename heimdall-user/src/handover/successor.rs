//! The predecessor's side: a process that asked to take over from this server.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::id,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64;
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Uid, geteuid},
};
use tracing::{info, warn};

use super::{
    Connection, Inheritance, Retire, process,
    wire::{
        HandOverError, MAX_BATCH, OLDEST_VERSION, Offer, Reply, Request, Step, Unread, VERSION,
        Wire,
    },
};
use crate::{
    control,
    exit::{OnExit, OwnedThread},
    heartbeat, service,
};

/// How long a successor may take to start: to read lists, restore the cache and open its sockets. This server serves
/// meanwhile as before.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// How long it may take for each step after that: to attach its XDP programs, or to open AF_XDP sockets, for which it waits
/// 15 s in all while drivers reset links and queues.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// A process that asked to take over.
#[derive(Debug)]
pub(crate) struct Successor {
    wire: Wire,
    pid: i32,
    version: u32,
}

impl Successor {
    /// The client that sent `take-over` with this version. A client that may not take over is told why, and `None` returned.
    pub(crate) fn accept(client: UnixStream, version: u32) -> Option<Self> {
        let peer = getsockopt(&client, PeerCredentials).map_err(io::Error::from);
        let mut wire = Wire::new(client).ok()?;
        let refused = match &peer {
            Ok(peer) => refusal(version, Uid::from_raw(peer.uid()), peer.pid()),
            Err(error) => Some(format!("cannot tell whose process asks: {error}")),
        };
        let pid = peer.map_or(0, |peer| peer.pid());
        match refused {
            None => Some(Self {
                wire,
                pid,
                version: version.min(VERSION),
            }),
            Some(why) => {
                warn!("process {pid} may not take over: {why}");
                // It may have ended.
                let _ = wire.send(&Reply::Error(why), &[]);
                None
            }
        }
    }

    /// The process's ID.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Tells the process why it cannot take over now.
    pub(crate) fn refuse(mut self, why: &str) {
        warn!("process {} may not take over: {why}", self.pid);
        // It may have ended.
        let _ = self.wire.send(&Reply::Error(why.to_owned()), &[]);
    }

    /// Offers the process what `server` has, and has a thread wait until that serves the sockets. `server` serves as
    /// before until then. `then` gets the outcome, unless the result is dropped before.
    ///
    /// # Errors
    /// Nothing can be offered. The log says why.
    pub(crate) fn start(
        mut self,
        server: &impl Retire,
        then: impl FnOnce(Result<Self, HandOverError>) + Send + 'static,
    ) -> Result<Starting, HandOverError> {
        let pid = self.pid;
        info!("take-over: process {pid} starts as the successor of this one");
        let offered = server.offer().map_err(HandOverError::from);
        if let Err(error) = offered.and_then(|inheritance| self.offer(inheritance)) {
            self.give_up(&error);
            return Err(error);
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stopped);
        let stop = move || stopping.store(true, Ordering::SeqCst);
        let thread = OwnedThread::start("take-over", OnExit::default(), stop, move || {
            let mut is_cancelled = || {
                heartbeat::beat();
                stopped.load(Ordering::SeqCst)
            };
            match self.expect(Step::SocketsAreServed, START_TIMEOUT, &mut is_cancelled) {
                Ok(()) => then(Ok(self)),
                Err(HandOverError::Cancelled) => {}
                Err(error) => {
                    self.give_up(&error);
                    then(Err(error));
                }
            }
        });
        let thread =
            thread.inspect_err(|error| warn!("take-over: no thread can start: {error}"))?;
        Ok(Starting {
            pid,
            _thread: thread,
        })
    }

    /// Hands `server` over to the process, which serves the sockets. Then `server` is not needed any more. `is_cancelled` is
    /// asked from time to time whether `server` is to end in any case.
    ///
    /// # Errors
    /// [`HandOverError::Cancelled`]: `server` serves nothing any more of what it had handed over, and is to end; the
    /// process goes on alone once this one has ended, until when this has to be kept. All others: the successor has failed,
    /// `server` serves as before, and the log says why.
    pub(crate) fn hand_over(
        &mut self,
        server: &mut impl Retire,
        is_cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<(), HandOverError> {
        let pid = self.pid;
        let mut unsent = Vec::new();
        let outcome = self.drive(server, is_cancelled, &mut unsent);
        match &outcome {
            Ok(()) => {
                info!("take-over: process {pid} has taken over, this one ends");
                service::main_pid(pid);
            }
            Err(HandOverError::Cancelled) => {}
            Err(error) => {
                server.resume();
                for connection in unsent {
                    server.adopt(connection);
                }
                self.give_up(error);
            }
        }
        outcome
    }

    /// Tells the process that its take-over has failed, and logs it.
    fn give_up(&mut self, error: &HandOverError) {
        // It may have ended.
        let _ = self.wire.send(&Reply::Error(error.to_string()), &[]);
        let pid = self.pid;
        warn!("take-over by process {pid} failed: {error}; this server serves as before");
    }

    /// `unsent` gets connections that the process did not get.
    fn drive(
        &mut self,
        server: &mut impl Retire,
        is_cancelled: &mut dyn FnMut() -> bool,
        unsent: &mut Vec<Connection>,
    ) -> Result<(), HandOverError> {
        let mut sent = Ok(());
        server.retire_sockets(&mut |connection| {
            let unread = BASE64.encode(&connection.unread);
            let message = Reply::Connection(Unread { unread });
            if sent.is_ok() {
                sent = self.wire.send(&message, &[connection.stream.as_fd()]);
            }
            if sent.is_err() {
                unsent.push(connection);
            }
        })?;
        sent?;
        self.done(Step::SocketsAreServed)?;
        self.expect(Step::ProgramsAreReplaced, STEP_TIMEOUT, is_cancelled)?;
        server.retire_workers()?;
        self.done(Step::ProgramsAreReplaced)?;
        self.expect(Step::Finish, STEP_TIMEOUT, is_cancelled)?;
        // This decides: it fails if the successor has given up, and one that gives up later finds it.
        self.done(Step::Finish)
    }

    fn offer(&mut self, inheritance: Inheritance) -> Result<(), HandOverError> {
        let Inheritance {
            sockets,
            links,
            cache,
            control,
            metrics,
            connections: _,
            state,
        } = inheritance;
        let all: Vec<(&str, OwnedFd)> = [
            ("process", vec![process::open(id())?]),
            ("socket", sockets),
            ("link", links),
            ("cache", cache.into_iter().collect()),
            ("control", control.into_iter().collect()),
            ("metrics", metrics.into_iter().collect()),
        ]
        .into_iter()
        .flat_map(|(name, descriptors)| descriptors.into_iter().map(move |one| (name, one)))
        .collect();
        let offer = Offer {
            version: self.version,
            pid: id(),
            descriptors: all.len(),
            state,
        };
        self.wire.send(&Reply::Offer(offer), &[])?;
        for batch in all.chunks(MAX_BATCH) {
            let names = batch.iter().map(|(name, _)| (*name).to_owned()).collect();
            let descriptors: Vec<_> = batch.iter().map(|(_, one)| one.as_fd()).collect();
            self.wire.send(&Reply::Descriptors(names), &descriptors)?;
        }
        Ok(())
    }

    fn expect(
        &mut self,
        expected: Step,
        limit: Duration,
        is_cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<(), HandOverError> {
        let Request { step } = self.wire.receive(limit, is_cancelled)?;
        if step == expected {
            Ok(())
        } else {
            let why = format!("{step:?} instead of {expected:?}");
            Err(HandOverError::NoMessage(why))
        }
    }

    fn done(&mut self, step: Step) -> Result<(), HandOverError> {
        self.wire.send(&Reply::Done(step), &[])
    }
}

/// A process that starts as the successor, which a thread waits for. Dropped, nothing is waited for any more, and the process
/// finds the connection closed: it goes on alone if this process has ended.
#[derive(Debug)]
pub(crate) struct Starting {
    pid: i32,
    _thread: OwnedThread,
}

impl Starting {
    /// The process's ID.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

/// Why a process may not take over, if it may not.
fn refusal(version: u32, uid: Uid, pid: i32) -> Option<String> {
    if version < OLDEST_VERSION {
        return Some(format!(
            "it speaks version {version} of the hand-over, and this server versions {OLDEST_VERSION} to {VERSION}; \
             restart the server instead"
        ));
    }
    if !control::is_owner(uid) {
        return Some(format!(
            "only root and the server's user (number {}) may take over from it; for another `user` (--user), restart it",
            geteuid()
        ));
    }
    if service::is_managed() && !is_in_same_cgroup(pid) {
        return Some(
            "the server belongs to a service manager, which would stop watching it; let that restart it \
             (systemctl restart heimdall): no query is lost"
                .to_owned(),
        );
    }
    None
}

/// Whether a process belongs to the same unit of the service manager.
fn is_in_same_cgroup(pid: i32) -> bool {
    let group = |process: &str| fs::read_to_string(format!("/proc/{process}/cgroup")).ok();
    let own = group("self");
    own.is_some() && own == group(&pid.to_string())
}
