//! Why a server does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use super::{policy::PolicyError, tls::TlsError, xdp::AfXdpError};
use crate::{config::Location, control::ControlError, socket::SocketError, xdp::XdpError};

/// Why the server does not start. One line each.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A setting that cannot work, found before anything was opened.
    #[error("{location}{error}")]
    At {
        /// Where it is.
        location: Location,
        /// The error.
        error: Box<ServerError>,
    },
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The certificate of TLS. A start goes on without it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address to serve metrics on.
    #[error(
        "cannot serve metrics on {address}: {source}; give another `metrics.listen` (--metrics-listen)"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The listen addresses.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// AF_XDP, with the backend `xdp`.
    #[error(transparent)]
    Xdp(#[from] AfXdpError),
    /// An interface, with the backend `xdp`.
    #[error(transparent)]
    Interface(#[from] XdpError),
    /// Memory for a cache.
    #[error(
        "cannot reserve {bytes} octets for a cache: {source}; lower `cache.size` (--cache-size)"
    )]
    Cache {
        /// Their size in octets.
        bytes: usize,
        /// The system's error.
        source: io::Error,
    },
    /// A file to be written.
    #[error(
        "no {what} can be written to {}: {source}; make the directory, or give another path",
        directory.display()
    )]
    Unwritable {
        /// What the file would be.
        what: &'static str,
        /// Its directory.
        directory: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The memory that the settings ask for is not there.
    #[error("{0}")]
    Memory(String),
    /// The root certificates for upstreams over TLS.
    #[error("{0}")]
    Roots(io::Error),
    /// The server that this one is to take over from.
    #[error("cannot take over from the running server: {0}")]
    Predecessor(io::Error),
    /// Threads, eventfds and the like.
    #[error("cannot start {what}: {source}{}", advice(source))]
    Start {
        /// The component.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// What to do about an error of the system. One of Heimdall's own says that itself.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(_) => "; check the limits on threads and open files (ulimit -a)",
        None => "",
    }
}
