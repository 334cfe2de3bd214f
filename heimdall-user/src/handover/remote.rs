//! The successor's side: a predecessor in another process, which is driven over its control socket.

use std::{
    io, mem,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::{info, warn};

use super::{
    Connection, Inheritance, Predecessor, process,
    wire::{HandOverError, MAX_BATCH, OLDEST_VERSION, Reply, Request, Step, VERSION, Wire},
};
use crate::control::{self, ControlCommand};

/// How long a predecessor may take to offer what it has: it copies its caches.
const OFFER_TIMEOUT: Duration = Duration::from_secs(120);

/// Time until a server is asked again that closed the connection.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it may take for a step: its queries and connections may wait for as long as `stop-timeout` says.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// How long it may take to confirm its end. This server serves meanwhile.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long what it sent before the connection was closed may take to be received: it is there.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Descriptors that an offer may have: sockets of 1,024 threads on several addresses.
const MAX_DESCRIPTORS: usize = 1 << 16;

/// A predecessor in another process. Dropped before [`Predecessor::finish`], it closes the connection, and the predecessor
/// serves as before.
#[derive(Debug)]
pub(crate) struct Remote {
    wire: Wire,
    pid: u32,
    /// A descriptor of its process (pidfd_open(2)).
    process: Option<OwnedFd>,
    /// Its process has ended: there is nothing left to wait for.
    is_gone: bool,
}

impl Remote {
    /// Asks the server behind a control socket to hand over, and receives what it offers. One that ends at this moment, or is
    /// taken over from, is waited for: then there is none, or another one, which is asked. `None`: there is no server.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub(crate) fn connect(path: &Path) -> Result<Option<(Inheritance, Self)>, HandOverError> {
        let end = Instant::now() + OFFER_TIMEOUT;
        let mut is_said = false;
        loop {
            match Self::ask(path) {
                Err(error) if error.is_end() && Instant::now() < end => {
                    if !mem::replace(&mut is_said, true) {
                        info!("take-over: the running server is about to end, which is waited for");
                    }
                    thread::sleep(PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    fn ask(path: &Path) -> Result<Option<(Inheritance, Self)>, HandOverError> {
        let stream = match control::connect(path) {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    io::ErrorKind::PermissionDenied => Err(HandOverError::Forbidden),
                    _ => Err(error.into()),
                };
            }
        };
        let mut wire = Wire::new(stream)?;
        wire.send(&ControlCommand::TakeOver(VERSION).to_json(), &[])?;
        let mut remote = Self::new(wire);
        let inheritance = remote.inheritance()?;
        info!(
            "take-over: process {} offers {} sockets and {} XDP programs",
            remote.pid,
            inheritance.sockets.len(),
            inheritance.links.len()
        );
        Ok(Some((inheritance, remote)))
    }

    fn new(wire: Wire) -> Self {
        Self {
            wire,
            pid: 0,
            process: None,
            is_gone: false,
        }
    }

    fn inheritance(&mut self) -> Result<Inheritance, HandOverError> {
        let offer = match self.receive(OFFER_TIMEOUT) {
            Ok(Reply::Offer(offer)) => offer,
            Ok(other) => return Err(unexpected(&other)),
            Err(HandOverError::Refused(why)) if why.starts_with("there is no command") => {
                let why = "the running server is of a version that cannot; restart it instead";
                return Err(HandOverError::Refused(why.to_owned()));
            }
            Err(error) => return Err(error),
        };
        if !(OLDEST_VERSION..=VERSION).contains(&offer.version) {
            return Err(HandOverError::Refused(format!(
                "the running server speaks version {} of the hand-over, and this program versions {OLDEST_VERSION} to \
                 {VERSION}; restart it instead",
                offer.version
            )));
        }
        if offer.descriptors > MAX_DESCRIPTORS {
            let why = format!("{} descriptors", offer.descriptors);
            return Err(HandOverError::NoMessage(why));
        }
        self.pid = offer.pid;
        let mut inheritance = Inheritance {
            state: offer.state,
            ..Inheritance::default()
        };
        let mut missing = offer.descriptors;
        while missing > 0 {
            let names = match self.receive(OFFER_TIMEOUT)? {
                Reply::Descriptors(names) if (1..=MAX_BATCH).contains(&names.len()) => names,
                other => return Err(unexpected(&other)),
            };
            missing = missing.saturating_sub(names.len());
            for name in names {
                let descriptor = self.wire.take_descriptor()?;
                match name.as_str() {
                    "process" => self.process = Some(descriptor),
                    "socket" => inheritance.sockets.push(descriptor),
                    "link" => inheritance.links.push(descriptor),
                    "cache" => inheritance.cache = Some(descriptor),
                    "control" => inheritance.control = Some(descriptor),
                    "metrics" => inheritance.metrics = Some(descriptor),
                    // For a later version.
                    _ => {}
                }
            }
        }
        Ok(inheritance)
    }

    fn receive(&mut self, limit: Duration) -> Result<Reply, HandOverError> {
        match self.wire.receive(limit, &mut || false)? {
            Reply::Error(why) => Err(HandOverError::Refused(why)),
            reply => Ok(reply),
        }
    }

    /// Has the predecessor do a step. One whose process has ended has done it; any other that does not do it serves as
    /// before, or will.
    fn step(
        &mut self,
        step: Step,
        limit: Duration,
        adopt: &mut dyn FnMut(Connection),
    ) -> io::Result<()> {
        if self.is_gone {
            return Ok(());
        }
        let Err(error) = self.request(step, limit, adopt) else {
            return Ok(());
        };
        // Whatever the predecessor sends from now on fails, so that both know the same of the last step. It may be closed.
        let _ = self.wire.shut_down(Shutdown::Both);
        if step == Step::Finish && self.has_finished() {
            return Ok(());
        }
        if error.is_end() && self.process.as_ref().is_some_and(process::has_ended) {
            self.is_gone = true;
            warn!(
                "take-over: process {} has ended by itself; queries that it had received may be lost",
                self.pid
            );
            return Ok(());
        }
        Err(io::Error::other(error.to_string()))
    }

    /// Whether the predecessor has confirmed its end, in what it sent before the connection was closed.
    fn has_finished(&mut self) -> bool {
        loop {
            match self.receive(LAST_WORD_TIMEOUT) {
                Ok(Reply::Done(Step::Finish)) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn request(
        &mut self,
        step: Step,
        limit: Duration,
        adopt: &mut dyn FnMut(Connection),
    ) -> Result<(), HandOverError> {
        match self.wire.send(&Request { step }, &[]) {
            // What it sent before tells why.
            Err(error) if error.is_end() => {}
            sent => sent?,
        }
        loop {
            match self.receive(limit)? {
                Reply::Done(done) if done == step => return Ok(()),
                Reply::Connection(connection) if step == Step::SocketsAreServed => {
                    let stream = self.wire.take_descriptor()?;
                    let unread = BASE64.decode(connection.unread.as_bytes());
                    let unread =
                        unread.map_err(|error| HandOverError::NoMessage(error.to_string()))?;
                    adopt(Connection { stream, unread });
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
}

impl Predecessor for Remote {
    fn sockets_are_served(&mut self, adopt: &mut dyn FnMut(Connection)) -> io::Result<()> {
        let mut adopted = 0;
        self.step(Step::SocketsAreServed, STEP_TIMEOUT, &mut |connection| {
            adopted += 1;
            adopt(connection);
        })?;
        info!(
            "take-over: this process serves the sockets of process {}, and {adopted} TCP connections",
            self.pid
        );
        Ok(())
    }

    fn programs_are_replaced(&mut self) -> io::Result<()> {
        self.step(Step::ProgramsAreReplaced, STEP_TIMEOUT, &mut |_| {})
    }

    fn resume_sockets(&mut self) {
        // It serves all again then. It may have ended.
        let _ = self.wire.shut_down(Shutdown::Both);
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.step(Step::Finish, FINISH_TIMEOUT, &mut |_| {})?;
        info!("take-over: process {} ends, this one serves", self.pid);
        Ok(())
    }
}

/// Has a successor read these octets as a predecessor's, with descriptors beside the first of them: how many TCP
/// connections it adopts. For the fuzzer.
///
/// # Errors
/// What the successor makes of them; or no descriptors are left.
pub fn replay(octets: &[u8]) -> io::Result<usize> {
    let (near, far) = UnixStream::pair()?;
    let file = memfd_create("descriptor", MFdFlags::MFD_CLOEXEC)?;
    let mut near = Wire::new(near)?;
    let failed = |error: HandOverError| io::Error::other(error.to_string());
    near.send_octets(octets, &[file.as_fd(); 16])
        .and_then(|()| Ok(near.shut_down(Shutdown::Write)?))
        .map_err(failed)?;
    let mut remote = Remote::new(Wire::new(far)?);
    remote.inheritance().map_err(failed)?;
    let mut adopted = 0;
    remote.sockets_are_served(&mut |_| adopted += 1)?;
    remote.programs_are_replaced()?;
    Box::new(remote).finish()?;
    Ok(adopted)
}

fn unexpected(reply: &Reply) -> HandOverError {
    let text = format!("{reply:?}");
    let short: String = text.chars().take(60).collect();
    HandOverError::NoMessage(short)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    /// A successor's side, and the other end of its connection.
    fn remote(process: Option<OwnedFd>) -> (Wire, Remote) {
        let (near, far) = UnixStream::pair().unwrap();
        let mut remote = Remote::new(Wire::new(far).unwrap());
        remote.process = process;
        (Wire::new(near).unwrap(), remote)
    }

    /// Does this step, and those before it.
    fn drive(mut remote: Remote, last: Step) -> io::Result<()> {
        remote.sockets_are_served(&mut drop)?;
        if last == Step::SocketsAreServed {
            return Ok(());
        }
        remote.programs_are_replaced()?;
        if last == Step::ProgramsAreReplaced {
            return Ok(());
        }
        Box::new(remote).finish()
    }

    const STEPS: [Step; 3] = [
        Step::SocketsAreServed,
        Step::ProgramsAreReplaced,
        Step::Finish,
    ];

    /// Confirms the first `done` of the steps.
    fn confirm(near: &mut Wire, done: usize) {
        for step in STEPS.into_iter().take(done) {
            near.send(&Reply::Done(step), &[]).unwrap();
        }
    }

    #[test]
    fn a_predecessor_that_gives_up_is_not_taken_over_from() {
        for (done, step) in STEPS.into_iter().enumerate() {
            for closes in [true, false] {
                let (mut near, remote) = remote(None);
                confirm(&mut near, done);
                let why = Reply::Error("told to stop".to_owned());
                near.send(&why, &[]).unwrap();
                if closes {
                    near.shut_down(Shutdown::Both).unwrap();
                }
                let error = drive(remote, step).unwrap_err();
                assert_eq!(error.to_string(), "told to stop", "{step:?}");
            }
        }
    }

    #[test]
    fn a_predecessor_that_closes_the_connection_and_runs_is_not_taken_over_from() {
        // It takes a while to be sure.
        thread::scope(|scope| {
            for (done, step) in STEPS.into_iter().enumerate() {
                scope.spawn(move || {
                    let (mut near, remote) = remote(Some(process::open(id()).unwrap()));
                    confirm(&mut near, done);
                    drop(near);
                    let error = drive(remote, step).unwrap_err();
                    assert!(error.to_string().contains("has given up"), "{error}");
                });
            }
        });
        // Of this one nothing is known.
        let (near, remote) = remote(None);
        drop(near);
        assert!(drive(remote, Step::SocketsAreServed).is_err());
    }

    #[test]
    fn a_predecessor_whose_process_has_ended_is_taken_over_from() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = process::open(child.id()).unwrap();
        child.wait().unwrap();
        for done in 0..STEPS.len() {
            let (mut near, remote) = remote(Some(process.try_clone().unwrap()));
            confirm(&mut near, done);
            drop(near);
            drive(remote, Step::Finish).unwrap();
        }
    }

    #[test]
    fn both_sides_know_the_same_of_the_last_step() {
        let limit = Duration::from_millis(10);
        // The successor gives up before the last step is confirmed, which then fails.
        let (mut near, mut silent) = remote(None);
        let error = silent.step(Step::Finish, limit, &mut drop).unwrap_err();
        assert!(error.to_string().contains("did not respond"), "{error}");
        let error = near.send(&Reply::Done(Step::Finish), &[]).unwrap_err();
        assert!(error.is_end(), "{error}");
        // It is confirmed before the successor gives up, which then finds it.
        let (mut near, mut late) = remote(None);
        near.send(&Reply::Done(Step::Finish), &[]).unwrap();
        late.wire.shut_down(Shutdown::Both).unwrap();
        late.step(Step::Finish, limit, &mut drop).unwrap();
        let (mut near, mut failed) = remote(None);
        failed.resume_sockets();
        assert!(!failed.has_finished());
        let error = near.receive::<Request>(limit, &mut || false).unwrap_err();
        assert!(error.is_end(), "{error}");
    }
}
