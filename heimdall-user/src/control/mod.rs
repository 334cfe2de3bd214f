//! The control socket: how `heimdall stats`, `reload`, `flush` and `dump` talk to a running server.
//!
//! A Unix stream socket. A client sends one line, gets one JSON document, or for a dump one on each
//! line, and the end of the stream. `Control` owns the socket's file; `ControlServer` has a
//! thread that accepts clients and one for each client, of which there is a bounded number, so that
//! a client that does not write or read delays nobody. The server passes in the function that makes
//! the documents.

mod client;
mod server;

use std::{
    fs,
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{exit::OnExit, file, maintenance::Scope};

pub(crate) use client::ask;

pub(crate) use client::ask_each;
pub(crate) use server::ControlServer;

/// A client's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControlCommand {
    /// Every counter.
    Stats,
    /// Reload the policy.
    Reload,
    /// Remove these entries from the caches.
    Flush(Scope),
    /// Send copies of these entries.
    Dump(Scope),
}

impl ControlCommand {
    /// Reads the line that a client sent.
    fn parse(line: &[u8]) -> Result<Self, String> {
        let unknown = || format!("unknown command {:?}", String::from_utf8_lossy(line));
        let text = str::from_utf8(line.trim_ascii()).map_err(|_| unknown())?;
        let (command, of) = text.split_once(' ').unwrap_or((text, ""));
        // A name may have spaces.
        let scope = || match of.split_once(' ').unwrap_or((of, "")) {
            ("all", "") => Ok(Scope::All),
            ("name", name) => Scope::name(name).map_err(|error| error.to_string()),
            ("zone", name) => Scope::zone(name).map_err(|error| error.to_string()),
            _ => Err(unknown()),
        };
        match command {
            "stats" => Ok(Self::Stats),
            "reload" => Ok(Self::Reload),
            "flush" => scope().map(Self::Flush),
            "dump" => scope().map(Self::Dump),
            _ => Err(unknown()),
        }
    }
}

/// `scope` as a command line names it.
pub(crate) fn words(scope: &Scope) -> String {
    match scope {
        Scope::All => "all".to_owned(),
        Scope::Name(_) => format!("name {scope}"),
        Scope::Zone(_) => format!("zone {scope}"),
    }
}

/// Why the control socket cannot be made or used.
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
    #[error("{} exists and is no socket; give --control another path", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the control socket {}: {source}; give --control PATH", path.display())]
    Bind {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No server answers there.
    #[error("no server listens on the control socket {}; start one, or give its --control PATH", .0.display())]
    NotRunning(PathBuf),
    /// The server cannot be reached.
    #[error("cannot reach the server by the control socket {}: {source}; {}", path.display(), advice(source))]
    Ask {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server's answer cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The server refuses the command.
    #[error("the server refused the command: {0}")]
    Refused(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as the server's user or group, or as root",
        _ => "check that the server is running and responds",
    }
}

/// A bound control socket. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Control {
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
    pub(crate) fn bind(path: &Path) -> Result<Self, ControlError> {
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

    /// Answers each client on a thread of its own: `respond` writes the answer to its command. Writing
    /// fails when the client disconnects or does not read. The thread that accepts clients owns
    /// `on_exit`.
    ///
    /// # Errors
    /// A thread or an eventfd is not available.
    pub(crate) fn serve(
        self,
        on_exit: OnExit,
        respond: impl Fn(ControlCommand, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<ControlServer> {
        ControlServer::start(self, on_exit, respond)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether [`Control::bind`] can make a socket at `path`, as far as that can be checked without making
/// one. That a server answers there already is no error.
///
/// # Errors
/// The path or its directory cannot be used.
pub(crate) fn check(path: &Path) -> Result<(), ControlError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_owned()));
        }
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            let path = path.to_owned();
            return Err(ControlError::Bind { path, source });
        }
        _ => {}
    }
    let directories = path.ancestors().skip(1).map(|directory| {
        let here = directory.as_os_str().is_empty();
        if here { Path::new(".") } else { directory }
    });
    // The nearest one that exists has to take those that are missing.
    for directory in directories {
        match file::check_writable(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let path = directory.to_owned();
                return Err(ControlError::Directory { path, source });
            }
            Ok(()) => break,
        }
    }
    Ok(())
}

/// Removes a socket without a listener.
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
        // It has a listener, even if its backlog is full.
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
