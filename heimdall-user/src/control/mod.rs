//! The control socket: how `heimdall stats`, `reload`, `drain`, `flush`, `dump`, `trace` and `route` talk to a running
//! server, and a successor to its predecessor.
//!
//! A Unix stream socket. A client sends a request, which is a JSON object on one line, gets one JSON
//! document, or for a dump one on each line, and the end of the stream; docs/control.md describes both.
//! `Control` owns the socket's file; `ControlServer` has a
//! thread that accepts clients and one for each client, of which there is a bounded number, so that
//! a client that does not write or read delays no other. The server passes in the function that makes
//! the documents.

mod client;
mod request;
mod server;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    fcntl::{AtFlags, OFlag},
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as nix_listen,
            socket,
        },
        stat::{Mode, fchmod},
    },
    unistd::{Gid, Group, Uid, fchownat, geteuid},
};
use thiserror::Error;
use tracing::warn;

use crate::{exit::OnExit, file};

pub(crate) use client::{ask, ask_each, connect};
pub(crate) use request::{ControlCommand, TraceQuery};
pub(crate) use server::ControlServer;

/// Who may use the control socket: the server's user, and its group or another one.
#[derive(Clone, Debug)]
pub(crate) struct Permissions {
    /// The file's mode.
    pub(crate) mode: u32,
    /// A group's name or number. `None`: the process's.
    pub(crate) group: Option<String>,
}

/// The group that was found first, which is the only one: another one needs a restart. The process cannot look one up once it is
/// restricted to its own files.
static GROUP: OnceLock<(String, Gid)> = OnceLock::new();

impl Permissions {
    /// The group that the file is given to, if it is not the process's.
    fn group(&self) -> Result<Option<Gid>, ControlError> {
        let Some(name) = &self.group else {
            return Ok(None);
        };
        let unknown = || ControlError::NoGroup(name.clone());
        if let Ok(number) = name.parse() {
            return Ok(Some(Gid::from_raw(number)));
        }
        if let Some((found, gid)) = GROUP.get()
            && found == name
        {
            return Ok(Some(*gid));
        }
        let group = Group::from_name(name).map_err(|errno| ControlError::Group {
            group: name.clone(),
            source: errno.into(),
        })?;
        let gid = group.ok_or_else(unknown)?.gid;
        let _ = GROUP.set((name.clone(), gid));
        Ok(Some(gid))
    }
}

/// Why the control socket cannot be made or used.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nothing can be made in its directory.
    #[error(
        "cannot make the control socket in the directory {}: {source}; give the directory to the server's user (chown), \
         or give --control PATH", path.display()
    )]
    Closed {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its directory cannot be made.
    #[error("cannot make the control socket's directory {}: {source}; give --control PATH", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A server answers there.
    #[error(
        "another heimdall runs with the control socket {}; stop it, take over from it (--take-over), or give --control PATH",
        .0.display()
    )]
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
    /// There is no such group.
    #[error("there is no group {0:?} for the control socket; make it, or correct `control-group`")]
    NoGroup(String),
    /// The socket cannot be given to the group.
    #[error(
        "cannot give the control socket to the group {group:?}: {source}; run the server as a member of it \
         (SupplementaryGroups= in the unit) or as root"
    )]
    Group {
        /// The group.
        group: String,
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
    /// The server refuses the command, or it failed.
    #[error("{0}")]
    Refused(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run as the server's user or group, or as root",
        _ => "check that the server is running and responds",
    }
}

/// Whether a client of this user may end the server, or take over from it: root and the server's user may, the group may
/// not.
pub(crate) fn is_owner(client: Uid) -> bool {
    client.is_root() || client == geteuid()
}

/// A bound control socket. Dropping it removes its file, unless that belongs to another server.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a control socket.
#[derive(Clone, Debug)]
struct SocketFile {
    path: PathBuf,
    /// What it is to have.
    permissions: Permissions,
    /// Whether it is this server's, not its predecessor's or successor's.
    is_own: Arc<AtomicBool>,
}

impl Control {
    /// Makes the control socket, with its directory. A socket that a killed server left behind is
    /// replaced. From now on clients can connect; they are answered once [`serve`](Self::serve)
    /// is called.
    ///
    /// # Errors
    /// A server answers there already, or the path or the group cannot be used.
    pub(crate) fn bind(path: &Path, permissions: &Permissions) -> Result<Self, ControlError> {
        let group = permissions.group()?;
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
        let control = Self {
            listener: listen(path).map_err(bind_error)?,
            file: SocketFile {
                path: path.to_owned(),
                permissions: permissions.clone(),
                is_own: Arc::new(AtomicBool::new(true)),
            },
        };
        control.file.permit(group)?;
        Ok(control)
    }

    /// Takes the listener of a predecessor, to which the file at `path` belongs until
    /// [`ControlServer::own`] is called. If somebody has removed the file, a socket is made in its place.
    ///
    /// # Errors
    /// There is no such group; or as for [`bind`](Self::bind).
    pub(crate) fn adopt(
        listener: OwnedFd,
        path: &Path,
        permissions: &Permissions,
    ) -> Result<Self, ControlError> {
        permissions.group()?;
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            warn!(
                "the control socket {} was removed, and is made again",
                path.display()
            );
            return Self::bind(path, permissions);
        }
        Ok(Self {
            listener: UnixListener::from(listener),
            file: SocketFile {
                path: path.to_owned(),
                permissions: permissions.clone(),
                is_own: Arc::default(),
            },
        })
    }

    /// Answers each client on a thread of its own: `respond` writes the answer to its command. Writing
    /// fails when the client disconnects or does not read. A command that ends the server
    /// ([`ControlCommand::is_for_owner`]) goes to `to_owner` with its client, whom the server's owner answers. The
    /// thread that accepts clients owns `on_exit`.
    ///
    /// # Errors
    /// A thread or an eventfd is not available.
    pub(crate) fn serve(
        self,
        on_exit: OnExit,
        respond: impl Fn(ControlCommand, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
        to_owner: impl Fn(ControlCommand, UnixStream) + Send + Sync + 'static,
    ) -> io::Result<ControlServer> {
        ControlServer::start(self, on_exit, Answers { respond, to_owner })
    }

    /// A duplicate of the listener.
    ///
    /// # Errors
    /// No descriptor is free.
    fn duplicate(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }
}

/// What clients get.
struct Answers<R, O> {
    respond: R,
    to_owner: O,
}

/// A listening socket, which at first only its owner may connect to.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // bind(2) makes the file with the socket's own mode, less the umask.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    nix_listen(&socket, Backlog::MAXCONN)?;
    Ok(UnixListener::from(socket))
}

/// The file of a socket, to change its group and mode. Others may be able to write to its directory, and put a link to
/// another file in its place: that is an error.
fn open_socket(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    if file.metadata()?.file_type().is_socket() {
        Ok(file)
    } else {
        Err(io::Error::other("something else was put in its place"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.file.is_own.load(Ordering::SeqCst) {
            // It may have been removed already.
            let _ = fs::remove_file(&self.file.path);
        }
    }
}

impl SocketFile {
    /// Gives the file its mode, and its group if it is to have another than the process's. What it has already is left
    /// alone: a predecessor's file may be another user's.
    fn permit(&self, group: Option<Gid>) -> Result<(), ControlError> {
        let bind_error = |source| ControlError::Bind {
            path: self.path.clone(),
            source,
        };
        let file = open_socket(&self.path).map_err(bind_error)?;
        let found = file.metadata().map_err(bind_error)?;
        if group.is_some_and(|group| group.as_raw() != found.gid()) {
            fchownat(&file, "", None, group, AtFlags::AT_EMPTY_PATH).map_err(|errno| {
                ControlError::Group {
                    group: self.permissions.group.clone().unwrap_or_default(),
                    source: errno.into(),
                }
            })?;
        }
        if found.mode() & 0o7777 == self.permissions.mode {
            return Ok(());
        }
        // fchmod(2) does not work with such a descriptor, its link in /proc does.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mode = fs::Permissions::from_mode(self.permissions.mode);
        fs::set_permissions(link, mode).map_err(bind_error)
    }

    /// It belongs to this server from now on, its predecessor has ended. What cannot be changed of it stays as it was.
    fn own(&self) {
        self.is_own.store(true, Ordering::SeqCst);
        let group = self.permissions.group();
        if let Err(error) = group.and_then(|group| self.permit(group)) {
            warn!("the control socket stays as the server before had it: {error}");
        }
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
    let parent = path.parent().unwrap_or(path);
    // The nearest one that exists has to take those that are missing.
    for (missing, directory) in directories.enumerate() {
        match file::check_writable(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) if missing == 0 => {
                let path = directory.to_owned();
                return Err(ControlError::Closed { path, source });
            }
            Err(source) => {
                let path = parent.to_owned();
                return Err(ControlError::Directory { path, source });
            }
            Ok(()) => break,
        }
    }
    Ok(())
}

/// Whether there is the group that [`Control::bind`] is to give the socket to.
///
/// # Errors
/// There is not.
pub(crate) fn check_group(permissions: &Permissions) -> Result<(), ControlError> {
    permissions.group().map(drop)
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
