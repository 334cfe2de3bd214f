//! The control socket: how `heimdall stats` and `heimdall reload` talk to a running server.
//!
//! A Unix stream socket. A client sends one line, gets one JSON document and the end of the
//! stream. [`Control`] owns the socket's file; [`ControlServer`] answers on a thread of its own, so
//! that no client can hold up the answering of queries, and no client can hold up the next for
//! longer than a moment. What the document says is not this room's business: the server passes in
//! a function.

mod client;
mod server;

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use client::ask;
pub use server::ControlServer;

/// What a client can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Every counter.
    Stats,
    /// Take the policy anew.
    Reload,
}

impl Request {
    /// Reads a request's line, without its end.
    fn parse(line: &[u8]) -> Option<Self> {
        match line.trim_ascii() {
            b"stats" => Some(Self::Stats),
            b"reload" => Some(Self::Reload),
            _ => None,
        }
    }
}

/// Why the control socket cannot be had, or does not answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Its directory cannot be made.
    #[error("cannot make the control socket's directory {}: {source}; give --control PATH", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A server answers there.
    #[error("another heimdall runs with the control socket {}; stop it, or give --control PATH", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket is there.
    #[error("{} is there and is no socket; give --control another path", .0.display())]
    NotASocket(PathBuf),
    /// It cannot be made.
    #[error("cannot make the control socket {}: {source}; give --control PATH", path.display())]
    Bind {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No server answers there.
    #[error("no heimdall runs with the control socket {}; start one, or give its --control PATH", .0.display())]
    NotRunning(PathBuf),
    /// The server cannot be reached.
    #[error("cannot ask the control socket {}: {source}; {}", path.display(), advice(source))]
    Ask {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server does not know the request.
    #[error("the server says: {0}; it may be of another version")]
    Refused(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as the server's user or group, or as root",
        _ => "check that the server is well",
    }
}

/// A bound control socket. Its file goes when this does.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Makes the control socket, with its directory. A socket that a killed server left behind is
    /// replaced. From now on clients can connect; they are answered once [`serve`](Self::serve)
    /// is called.
    ///
    /// # Errors
    /// A server answers there already, or the path cannot be used.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(|source| ControlError::Directory {
                    path: directory.to_owned(),
                    source,
                })?;
        }
        remove_stale(path)?;
        let bind_error = |source| ControlError::Bind {
            path: path.to_owned(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(bind_error)?;
        let control = Self {
            listener,
            path: path.to_owned(),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(bind_error)?;
        control.listener.set_nonblocking(true).map_err(bind_error)?;
        Ok(control)
    }

    /// Answers clients on a thread of its own, each with what `respond` makes of its request.
    ///
    /// # Errors
    /// No thread or no eventfd is to be had.
    pub fn serve(
        self,
        respond: impl Fn(&Request) -> serde_json::Value + Send + 'static,
    ) -> io::Result<ControlServer> {
        ControlServer::start(self, respond)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Gone already: nothing to do.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let bind_error = |source| ControlError::Bind {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind_error(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match client::connect(path) {
        // It has a listener, even if that one has no time for us.
        Ok(_) => Err(ControlError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ControlError::Taken(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(bind_error)
        }
        Err(error) => Err(bind_error(error)),
    }
}

#[cfg(test)]
mod tests;
