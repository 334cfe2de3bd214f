//! Errors of interfaces and the XDP program.

use std::{error::Error, io};

/// An error of an interface or its XDP program. [`std::fmt::Display`] gives one line: the error and,
/// after a semicolon, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// No interface has that name in this network namespace.
    #[error("there is no interface {name}; use one of: {present}")]
    UnknownInterface {
        /// The configured name.
        name: String,
        /// The names of all interfaces, joined by commas.
        present: String,
    },
    /// The interface does not carry Ethernet frames.
    #[error(
        "{interface} is not an Ethernet interface; use one that is, or leave it to the sockets \
         (--backend socket, or auto)"
    )]
    NotEthernet {
        /// The interface's name.
        interface: String,
    },
    /// A virtual interface, whose packets AF_XDP cannot get under its name.
    #[error("AF_XDP cannot serve {interface}: {what}; {remedy}")]
    Virtual {
        /// The interface's name.
        interface: String,
        /// Where its packets arrive.
        what: String,
        /// The remedy.
        remedy: String,
    },
    /// Another XDP program is on the interface.
    #[error("XDP program {program} is already attached to {interface}; {remedy}")]
    Occupied {
        /// The interface's name.
        interface: String,
        /// Id of that program, and its name if the kernel gives one.
        program: String,
        /// How to remove it.
        remedy: String,
    },
    /// The process lacks a capability.
    #[error(
        "no permission to {action}; run as root, or grant CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and \
         CAP_NET_RAW (CAP_SYS_ADMIN before Linux 5.8), or use --backend socket"
    )]
    NoPrivilege {
        /// The refused operation.
        action: &'static str,
    },
    /// The kernel has no bpf_link for XDP.
    #[error(
        "this kernel ({version}) cannot hold an XDP program by a bpf_link, and one attached \
         otherwise would outlive a crash; use Linux 5.9 or newer, or --backend socket"
    )]
    KernelTooOld {
        /// The kernel's version.
        version: String,
    },
    /// The kernel refuses the program on this interface in each mode tried.
    #[error("cannot attach the XDP program to {interface} ({why}); use --backend socket")]
    Attach {
        /// The interface's name.
        interface: String,
        /// Why, for each mode.
        why: String,
    },
    /// The program of another server cannot be replaced, or the own one not be put back.
    #[error(
        "cannot replace the XDP program of {interface} ({why}); stop the other server before this one starts"
    )]
    Replace {
        /// The interface's name.
        interface: String,
        /// The kernel's error.
        why: String,
    },
    /// The kernel does not load the program.
    #[error(
        "the kernel does not load the XDP program ({reason}); use a kernel with CONFIG_BPF_SYSCALL \
         and CONFIG_XDP_SOCKETS, or --backend socket"
    )]
    Load {
        /// The kernel's error.
        reason: String,
        /// A later attempt may succeed.
        passing: bool,
    },
    /// The interface has no such queue.
    #[error(
        "{interface} has no queue {queue}, but {queues}, numbered from 0; see ethtool -l {interface}"
    )]
    NoQueue {
        /// The interface's name.
        interface: String,
        /// The queue's index.
        queue: u32,
        /// How many queues there are.
        queues: u32,
    },
    /// A queue's index is beyond the program's map.
    #[error("queue {queue} of {interface} cannot be steered; use queues below {limit}")]
    QueueOutOfRange {
        /// The interface's name.
        interface: String,
        /// The queue's index.
        queue: u32,
        /// The first index that is too large.
        limit: u32,
    },
    /// The kernel refused an operation that does not fail in a healthy system.
    #[error("cannot {action}: {source}; see the kernel's log (dmesg)")]
    System {
        /// The refused operation.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl XdpError {
    /// The error of a system call: [`XdpError::NoPrivilege`], or else [`XdpError::System`].
    pub(super) fn system(action: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoPrivilege { action },
            _ => Self::System { action, source },
        }
    }

    /// The error of a map operation.
    pub(super) fn map(action: &'static str, error: aya::maps::MapError) -> Self {
        let source = match errno(&error) {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(error),
        };
        Self::system(action, source)
    }
}

/// The errno at the bottom of a chain of errors.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(errno) = this
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(errno);
        }
        error = this.source();
    }
    None
}
