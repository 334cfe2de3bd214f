//! Errors of AF_XDP sockets, and their remedies.

use std::io;

use thiserror::Error;

/// Why an AF_XDP socket could not be opened. The text is one line that ends with a remedy.
#[derive(Debug, Error)]
pub enum XskError {
    /// The UMEM could not be allocated or registered.
    #[error(
        "queue {queue} of {interface}: cannot register {frames} frames of UMEM: {source}; {advice}"
    )]
    Umem {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Requested number of frames.
        frames: u32,
        /// The kernel's error.
        source: io::Error,
        /// The remedy.
        advice: &'static str,
    },
    /// The socket could not be bound to the queue.
    #[error("queue {queue} of {interface}: cannot bind an AF_XDP socket: {source}; {advice}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's error.
        source: io::Error,
        /// The remedy.
        advice: &'static str,
    },
}

impl XskError {
    /// Whether another socket has the queue.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

/// Whether a failed bind means that zero-copy is not available: EOPNOTSUPP or EINVAL, depending on the
/// driver.
pub(super) fn lacks_zero_copy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// Advice for a UMEM that could not be made. The socket is opened with it, so that may have failed.
pub(super) fn umem_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::EAFNOSUPPORT) => advice(error),
        _ => "raise the memory lock limit (LimitMEMLOCK=infinity), or lower xdp.frames",
    }
}

pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another AF_XDP socket has this queue: stop the program that holds it",
        Some(libc::EPERM | libc::EACCES) => "run as root, or grant CAP_NET_RAW",
        Some(libc::EAFNOSUPPORT) => {
            "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use --backend socket"
        }
        Some(libc::EINVAL) => "check that the queue exists (ethtool -l), or use --backend socket",
        _ => "use --backend socket to run without AF_XDP",
    }
}

/// The operating system's error behind one of xsk-rs.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or_else(
        || io::Error::other(error.to_string()),
        io::Error::from_raw_os_error,
    )
}
