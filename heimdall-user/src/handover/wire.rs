//! Messages between a server and its successor: JSON objects, one a line, on the control socket's stream, with
//! descriptors (SCM_RIGHTS, unix(7)) beside the lines that name them. docs/control.md describes them.
//!
//! The peer may end, stop, or send anything: nothing here waits without a limit, or keeps more than the bounds below.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::State;

/// The newest version of these messages that this program speaks. A successor names its own, and its predecessor answers with
/// the older of both.
///
/// Programs of both sides are in use, so a version does not change. Fields and names of descriptors may be added to it, if a
/// program that ignores them does right. Another message, step, order or meaning needs another version, which is spoken
/// besides the older ones. `tests/conversations.rs` plays a recording of each.
pub(super) const VERSION: u32 = 1;

/// The oldest one. A version may go when no supported upgrade begins with a program that speaks nothing newer.
pub(super) const OLDEST_VERSION: u32 = 1;

/// Longest line, its newline included, in octets: a connection's, with its unread octets in base64.
const MAX_LINE: usize = 512 << 10;

/// Descriptors in one message: the kernel's SCM_MAX_FD.
pub(super) const MAX_BATCH: usize = 253;

/// Octets that one system call receives.
const READ: usize = 64 << 10;

/// How long the peer may leave what is sent to it unread.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two looks at whether the hand-over was cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// Why a hand-over fails. One line each.
#[derive(Debug, Error)]
pub(crate) enum HandOverError {
    /// The peer's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the other process has ended, or has given up")]
    Gone,
    #[error("the other process did not respond for {} s", .0.as_secs())]
    Silent(Duration),
    /// Nobody waits for the peer any more.
    #[error("this server was told to stop meanwhile")]
    Cancelled,
    #[error(
        "this process may not use it: run as root or as the server's user; for another `user` (--user), restart the server"
    )]
    Forbidden,
    #[error("the other process sent no message that this version understands ({0})")]
    NoMessage(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl HandOverError {
    /// Whether the peer closed the connection. Its process has ended, or has given up.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Gone)
    }

    /// An error of the connection. A peer that has ended is no error of this process.
    fn of_connection(error: impl Into<io::Error>) -> Self {
        let error = error.into();
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            io::ErrorKind::WouldBlock => Self::Silent(SEND_TIMEOUT),
            _ => Self::Io(error),
        }
    }
}

/// What a successor sends after the command `take-over`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) step: Step,
}

/// A step of the successor, which its predecessor answers with [`Reply::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    SocketsAreServed,
    ProgramsAreReplaced,
    Finish,
}

/// What a predecessor sends.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    /// The first one.
    Offer(Offer),
    /// As many descriptors are beside it, [`MAX_BATCH`] at most: `process`, `socket`, `link`, `cache`, `control` or `metrics`.
    /// Those of another name are for a later version.
    Descriptors(Vec<String>),
    /// With one descriptor.
    Connection(Unread),
    /// The step is done: nothing more follows before the next request.
    Done(Step),
    /// It gives up, and serves on.
    Error(String),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) version: u32,
    pub(super) pid: u32,
    /// How many descriptors follow.
    pub(super) descriptors: usize,
    #[serde(default)]
    pub(super) state: State,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unread {
    /// In base64 (RFC 4648 section 4).
    pub(super) unread: String,
}

/// A connection that carries these messages.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// Received, from the beginning of a line on: [`MAX_LINE`] and [`READ`] octets at most.
    octets: Vec<u8>,
    /// Received, and not taken yet: two batches at most, as only the lines of one are received ahead.
    descriptors: VecDeque<OwnedFd>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self {
            stream,
            octets: Vec::new(),
            descriptors: VecDeque::new(),
        })
    }

    /// Sends a message and descriptors beside it, [`MAX_BATCH`] at most.
    pub(super) fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), HandOverError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
        line.push(b'\n');
        self.send_octets(&line, descriptors)
    }

    /// Sends octets, and descriptors beside the first.
    pub(super) fn send_octets(
        &mut self,
        line: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), HandOverError> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = rights.get(usize::from(raw.is_empty())..);
        let rights = rights.unwrap_or_default();
        let octets = [IoSlice::new(line)];
        let sent = loop {
            let socket = self.stream.as_raw_fd();
            match sendmsg::<()>(socket, &octets, rights, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                sent => break sent.map_err(HandOverError::of_connection)?,
            }
        };
        // The descriptors went with the first octet.
        let rest = line.get(sent..).unwrap_or_default();
        let written = self.stream.write_all(rest);
        written.map_err(HandOverError::of_connection)
    }

    /// Sends nothing more: the peer sees an end behind what was sent. With [`Shutdown::Both`] what the peer sends from now on
    /// fails there, and what it has sent before can still be received.
    pub(super) fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    /// Receives a message within `limit`, unless `is_cancelled` says, from time to time, that it is not waited for any more.
    pub(super) fn receive<M: DeserializeOwned>(
        &mut self,
        limit: Duration,
        is_cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<M, HandOverError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(newline) = self.octets.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.octets.drain(..=newline).collect();
                let message = serde_json::from_slice(&line);
                return message.map_err(|error| HandOverError::NoMessage(error.to_string()));
            }
            if self.octets.len() >= MAX_LINE {
                let why = format!("a line of more than {MAX_LINE} octets");
                return Err(HandOverError::NoMessage(why));
            }
            if is_cancelled() {
                return Err(HandOverError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HandOverError::Silent(limit));
            }
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            let slice = u16::try_from(left.min(SLICE).as_millis()).unwrap_or(u16::MAX);
            match poll(&mut fds, PollTimeout::from(slice.max(1))) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => self.read()?,
                Err(error) => return Err(HandOverError::of_connection(error)),
            }
        }
    }

    /// Takes the next of the descriptors that were beside the lines received so far.
    pub(super) fn take_descriptor(&mut self) -> Result<OwnedFd, HandOverError> {
        let first = self.descriptors.pop_front();
        first.ok_or_else(|| HandOverError::NoMessage("a descriptor is missing".to_owned()))
    }

    /// Receives what is there.
    fn read(&mut self) -> Result<(), HandOverError> {
        let mut octets = vec![0; READ];
        let mut control = cmsg_space!([RawFd; MAX_BATCH]);
        let mut slices = [IoSliceMut::new(&mut octets)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let socket = self.stream.as_raw_fd();
        let received = match recvmsg::<()>(socket, &mut slices, Some(&mut control), flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            received => received.map_err(HandOverError::of_connection)?,
        };
        // ENOBUFS: this process has no descriptors left for them.
        let messages = received.cmsgs().map_err(|_| {
            let why = "not all descriptors could be received; raise the limit on open files";
            HandOverError::Io(io::Error::other(why))
        })?;
        for message in messages {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                let owned = descriptors.into_iter().map(|descriptor| {
                    // SAFETY: the kernel has made this descriptor for this process with this message, and nothing else
                    // knows it.
                    unsafe { OwnedFd::from_raw_fd(descriptor) }
                });
                self.descriptors.extend(owned);
            }
        }
        let len = received.bytes;
        if len == 0 {
            return Err(HandOverError::Gone);
        }
        if self.descriptors.len() > 2 * MAX_BATCH {
            let why = "descriptors that no line names".to_owned();
            return Err(HandOverError::NoMessage(why));
        }
        self.octets.extend(octets.get(..len).unwrap_or_default());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{fs::File, os::unix::fs::MetadataExt, thread};

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        (Wire::new(one).unwrap(), Wire::new(other).unwrap())
    }

    fn receive(wire: &mut Wire) -> Result<Reply, HandOverError> {
        wire.receive(LIMIT, &mut || false)
    }

    fn inode(file: impl Into<OwnedFd>) -> u64 {
        File::from(file.into()).metadata().unwrap().ino()
    }

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (mut near, mut far) = pair();
        let files: Vec<File> = (0..2 * MAX_BATCH)
            .map(|_| tempfile::tempfile().unwrap())
            .collect();
        let large = Reply::Connection(Unread {
            unread: "A".repeat(MAX_LINE - 100),
        });
        thread::scope(|scope| {
            scope.spawn(|| {
                for batch in files.chunks(MAX_BATCH) {
                    let names = vec!["socket".to_owned(); batch.len()];
                    let descriptors: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
                    near.send(&Reply::Descriptors(names), &descriptors).unwrap();
                }
                near.send(&large, &[files[0].as_fd()]).unwrap();
                near.send(&Reply::Done(Step::Finish), &[]).unwrap();
                drop(near);
            });
            let mut inodes = Vec::new();
            for _ in 0..2 {
                let Reply::Descriptors(names) = receive(&mut far).unwrap() else {
                    panic!("no descriptors");
                };
                for _ in names {
                    inodes.push(inode(far.take_descriptor().unwrap()));
                }
            }
            let sent: Vec<u64> = files
                .iter()
                .map(|file| inode(file.try_clone().unwrap()))
                .collect();
            assert_eq!(inodes, sent);
            assert_eq!(receive(&mut far).unwrap(), large);
            assert_eq!(inode(far.take_descriptor().unwrap()), sent[0]);
            assert_eq!(receive(&mut far).unwrap(), Reply::Done(Step::Finish));
            assert!(far.take_descriptor().is_err());
            assert!(receive(&mut far).unwrap_err().is_end());
        });
    }

    #[test]
    fn messages_are_written_as_the_documentation_says() {
        let offer = Reply::Offer(Offer {
            version: 1,
            pid: 7,
            descriptors: 2,
            state: State::default(),
        });
        for (message, text) in [
            (
                serde_json::to_string(&offer),
                r#"{"offer":{"version":1,"pid":7,"descriptors":2,"state":{"cookie_key":null}}}"#,
            ),
            (
                serde_json::to_string(&Reply::Descriptors(vec!["link".to_owned()])),
                r#"{"descriptors":["link"]}"#,
            ),
            (
                serde_json::to_string(&Reply::Done(Step::SocketsAreServed)),
                r#"{"done":"sockets-are-served"}"#,
            ),
            (
                serde_json::to_string(&Reply::Error("no".to_owned())),
                r#"{"error":"no"}"#,
            ),
            (
                serde_json::to_string(&Request {
                    step: Step::ProgramsAreReplaced,
                }),
                r#"{"step":"programs-are-replaced"}"#,
            ),
        ] {
            assert_eq!(message.unwrap(), text);
        }
        // Of a later version.
        let later =
            r#"{"offer":{"version":1,"pid":7,"descriptors":2,"new":[1],"state":{"newer":{}}}}"#;
        assert_eq!(serde_json::from_str::<Reply>(later).unwrap(), offer);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let long = "x".repeat(2 * MAX_LINE);
        for text in ["\n", "{}\n", "null\n", "{\"done\":\"never\"}\n", &long] {
            let (near, mut far) = pair();
            let mut stream = near.stream.try_clone().unwrap();
            thread::scope(|scope| {
                // It fails when the other end closes.
                scope.spawn(move || stream.write_all(text.as_bytes()));
                let error = receive(&mut far).unwrap_err();
                assert!(matches!(error, HandOverError::NoMessage(_)), "{error}");
                drop(far);
            });
        }
    }

    #[test]
    fn descriptors_that_no_line_names_are_bounded() {
        let (near, mut far) = pair();
        let file = tempfile::tempfile().unwrap();
        let raw = [file.as_raw_fd(); MAX_BATCH];
        for _ in 0..3 {
            let rights = [ControlMessage::ScmRights(&raw)];
            let octets = [IoSlice::new(b" ")];
            let socket = near.stream.as_raw_fd();
            sendmsg::<()>(socket, &octets, &rights, MsgFlags::empty(), None).unwrap();
        }
        let error = receive(&mut far).unwrap_err();
        assert!(error.to_string().contains("that no line names"), "{error}");
    }

    #[test]
    fn a_silent_peer_and_a_cancelled_wait_end() {
        let (_near, mut far) = pair();
        let silent = far.receive::<Reply>(Duration::from_millis(10), &mut || false);
        assert!(matches!(silent, Err(HandOverError::Silent(_))));
        let cancelled = far.receive::<Reply>(LIMIT, &mut || true);
        assert!(matches!(cancelled, Err(HandOverError::Cancelled)));
    }

    #[test]
    fn a_peer_that_has_ended_is_noticed_when_something_is_sent() {
        let (mut near, far) = pair();
        drop(far);
        let error = near.send(&Reply::Done(Step::Finish), &[]).unwrap_err();
        assert!(error.is_end(), "{error}");
    }

    proptest! {
        #[test]
        fn any_octets_are_messages_or_an_error(octets: Vec<u8>) {
            let (near, mut far) = pair();
            (&near.stream).write_all(&octets).unwrap();
            drop(near);
            let lines = octets.iter().filter(|octet| **octet == b'\n').count();
            let errors = (0..=lines).filter(|_| receive(&mut far).is_err()).count();
            prop_assert!(errors > 0);
        }
    }
}
