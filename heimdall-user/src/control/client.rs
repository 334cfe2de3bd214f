//! The client's side: sending a command to a running server.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as nix_connect, socket,
};
use serde_json::Value;

use super::{ControlCommand, ControlError};

/// Time-out of the server's answer. A reload of long lists takes seconds, and another client's may
/// be executed first.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The same of a question that needs no work: a server that does not answer by then is stuck, or was stopped.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// The same for a server that drains: `stop-timeout` is a minute at most, and a snapshot is written after it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// Sends a command to the server behind `path` and reads its answer.
///
/// # Errors
/// No server runs there, it cannot be reached, or its answer is an error.
pub(crate) fn ask(path: &Path, command: &ControlCommand) -> Result<Value, ControlError> {
    let mut answer = None;
    ask_each(path, command, |document| {
        answer = Some(document);
        Ok(())
    })?;
    answer.ok_or_else(|| ControlError::Ask {
        path: path.to_owned(),
        source: io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it has ended without an answer",
        ),
    })
}

/// As [`ask`], for a command whose answer is any number of documents: each is given to `take`.
///
/// # Errors
/// As [`ask`]; and what `take` returns.
pub(crate) fn ask_each(
    path: &Path,
    command: &ControlCommand,
    mut take: impl FnMut(Value) -> io::Result<()>,
) -> Result<(), ControlError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning(path.to_owned())
        }
        _ => ControlError::Ask {
            path: path.to_owned(),
            source,
        },
    };
    let stream = send(path, command).map_err(failed)?;
    for line in BufReader::new(stream).split(b'\n') {
        let line = line.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                failed(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
            }
            _ => failed(error),
        })?;
        let document: Value =
            serde_json::from_slice(&line).map_err(|error| failed(error.into()))?;
        if let Some(error) = document.get("error").and_then(Value::as_str) {
            return Err(ControlError::Refused(error.to_owned()));
        }
        take(document).map_err(ControlError::Output)?;
    }
    Ok(())
}

fn send(path: &Path, command: &ControlCommand) -> io::Result<UnixStream> {
    let mut stream = connect(path)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout(command)))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{}\n", command.to_json()).as_bytes())?;
    Ok(stream)
}

fn timeout(command: &ControlCommand) -> Duration {
    match command {
        ControlCommand::Drain => DRAIN_TIMEOUT,
        ControlCommand::Ready => READY_TIMEOUT,
        _ => TIMEOUT,
    }
}

/// Connects without waiting, as a stopped server with a full backlog would never accept. The error is
/// [`io::ErrorKind::WouldBlock`] then.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    nix_connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}
