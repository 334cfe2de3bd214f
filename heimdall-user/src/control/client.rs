//! Asking a running server.

use std::{
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as nix_connect, socket,
};
use serde_json::Value;

use super::ControlError;

/// How long a server may take to answer. It needs a moment, or for a reload with long lists some
/// more; and another client may be before us.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the server behind `path` a request and reads its answer.
///
/// # Errors
/// No server runs there, it cannot be reached, or it does not know the request.
pub fn ask(path: &Path, request: &str) -> Result<Value, ControlError> {
    let answer = exchange(path, request).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning(path.to_owned())
        }
        _ => ControlError::Ask {
            path: path.to_owned(),
            source,
        },
    })?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(ControlError::Refused(error.to_owned())),
        None => Ok(answer),
    }
}

fn exchange(path: &Path, request: &str) -> io::Result<Value> {
    let mut stream = connect(path)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut text = Vec::new();
    stream
        .read_to_end(&mut text)
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer"),
            _ => error,
        })?;
    Ok(serde_json::from_slice(&text)?)
}

/// Connects without waiting: a stopped server's full backlog would otherwise hold us for ever.
/// It is then [`io::ErrorKind::WouldBlock`].
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    nix_connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}
