//! Errors of AF_XDP sockets, and their remedies.

use std::io;

use thiserror::Error;

use super::{LARGE_FRAME, NoZeroCopy, largest_mtu};

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
    fn errno(&self) -> Option<i32> {
        let (Self::Umem { source, .. } | Self::Bind { source, .. }) = self;
        source.raw_os_error()
    }

    /// Whether another socket has the queue.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Bind { .. }) && self.errno() == Some(libc::EBUSY)
    }

    /// Whether no later attempt of this process succeeds: it lacks a privilege, or the kernel AF_XDP.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EPERM | libc::EACCES | libc::EAFNOSUPPORT)
        )
    }

    /// Whether a later attempt may succeed although nothing changes on the interface. An error that is not known may pass, and
    /// so may ENODEV: the interface may have had another name for a moment.
    pub(crate) fn may_pass(&self) -> bool {
        !self.is_final() && !matches!(self.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP))
    }
}

/// Why zero-copy is not available on an interface with this MTU, if the failed bind means that: the errno depends on the
/// driver, and on what it refuses. `None`: copy mode would fail as well.
pub(super) fn why_no_zero_copy(error: &XskError, mtu: u32) -> Option<NoZeroCopy> {
    let XskError::Bind { source, .. } = error else {
        return None;
    };
    let largest = largest_mtu(LARGE_FRAME);
    match source.raw_os_error()? {
        libc::EINVAL | libc::ERANGE | libc::EMSGSIZE | libc::E2BIG if mtu > largest => {
            Some(NoZeroCopy::queue(format!(
                "the driver refuses it ({source}), as many do for packets that do not fit a frame: the MTU is {mtu}, \
                 and a frame holds {largest}"
            )))
        }
        // A driver without the operation for it (`xp_assign_dev`).
        libc::EOPNOTSUPP => Some(NoZeroCopy::device(format!(
            "the driver has no zero-copy ({source})"
        ))),
        libc::EINVAL | libc::ERANGE | libc::EMSGSIZE | libc::E2BIG => Some(NoZeroCopy::queue(
            format!("the driver has no zero-copy for this queue ({source})"),
        )),
        _ => None,
    }
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
        // By its name, and by its index.
        Some(libc::ENODEV | libc::ENXIO) => "the interface is gone, or has another name now",
        Some(libc::ENETDOWN) => "set the interface up (ip link set dev INTERFACE up)",
        Some(libc::ENOMEM | libc::ENOBUFS) => "there is no memory for it: lower xdp.frames",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_to_bind_has_its_own_remedy() {
        for (errno, remedy) in [
            (libc::EBUSY, "stop the program that holds it"),
            (libc::EPERM, "CAP_NET_RAW"),
            (libc::ENODEV, "the interface is gone"),
            (libc::ENXIO, "the interface is gone"),
            (libc::ENETDOWN, "ip link set dev"),
            (libc::ENOMEM, "lower xdp.frames"),
            (libc::EINVAL, "check that the queue exists"),
            (libc::EIO, "use --backend socket"),
        ] {
            let text = advice(&io::Error::from_raw_os_error(errno));
            assert!(text.contains(remedy), "{errno}: {text}");
        }
    }

    #[test]
    fn what_is_busy_or_lacks_memory_may_pass_and_what_is_not_supported_may_not() {
        for (errno, may_pass, is_final) in [
            (libc::EBUSY, true, false),
            (libc::EAGAIN, true, false),
            (libc::ENOMEM, true, false),
            (libc::ENOBUFS, true, false),
            (libc::ENETDOWN, true, false),
            (libc::ENODEV, true, false),
            (libc::EIO, true, false),
            (libc::EINVAL, false, false),
            (libc::EOPNOTSUPP, false, false),
            (libc::EPERM, false, true),
            (libc::EACCES, false, true),
            (libc::EAFNOSUPPORT, false, true),
        ] {
            let source = || io::Error::from_raw_os_error(errno);
            let interface = || "eth0".to_owned();
            let bind = XskError::Bind {
                interface: interface(),
                queue: 0,
                source: source(),
                advice: "",
            };
            let umem = XskError::Umem {
                interface: interface(),
                queue: 0,
                frames: 4096,
                source: source(),
                advice: "",
            };
            for error in [bind, umem] {
                let judged = (error.may_pass(), error.is_final());
                assert_eq!(judged, (may_pass, is_final), "{error}");
            }
        }
    }

    #[test]
    fn a_driver_that_refuses_the_mtu_is_said_so_and_a_busy_queue_is_no_lack_of_zero_copy() {
        let why = |errno, mtu| {
            let error = XskError::Bind {
                interface: "eth0".to_owned(),
                queue: 0,
                source: io::Error::from_raw_os_error(errno),
                advice: "",
            };
            why_no_zero_copy(&error, mtu).map(|no| (no.why, no.of_device))
        };
        for errno in [libc::EINVAL, libc::ERANGE, libc::EMSGSIZE] {
            let (text, of_device) = why(errno, 9000).unwrap_or_default();
            assert!(
                text.contains("the MTU is 9000, and a frame holds 3818") && !of_device,
                "{text}"
            );
            let (text, of_device) = why(errno, 3818).unwrap_or_default();
            assert!(
                text.contains("the driver has no zero-copy for this queue") && !of_device,
                "{text}"
            );
        }
        let (text, of_device) = why(libc::EOPNOTSUPP, 9000).unwrap_or_default();
        assert!(
            text.contains("the driver has no zero-copy (") && of_device,
            "{text}"
        );
        for errno in [libc::EBUSY, libc::EPERM, libc::ENETDOWN, libc::ENOMEM] {
            assert_eq!(why(errno, 9000), None, "{errno}");
        }
    }
}
