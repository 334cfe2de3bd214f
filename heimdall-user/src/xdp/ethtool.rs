//! The number of queues, asked from the driver.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// How many receive queues the interface has in use, as `ethtool -l` says.
///
/// Works in any network namespace, unlike `/sys/class/net`, which shows the namespace that it was
/// mounted in.
///
/// # Errors
///
/// EOPNOTSUPP from drivers that do not tell, ENODEV.
pub(super) fn rx_queues(interface: &str) -> io::Result<u32> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };

    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut channels).cast(),
        },
    };
    // SAFETY: the request's data points to a live `ethtool_channels`, which is what this command
    // fills in; the name ends with a zero.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(channels.rx + channels.combined)
}
