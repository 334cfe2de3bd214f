//! The ethtool ioctl: number of queues, VLAN offload.
//!
//! It works in every network namespace; `/sys/class/net` shows the namespace in which it was mounted.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// linux/ethtool.h.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

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

/// Number of receive queues in use, as `ethtool -l` shows.
///
/// # Errors
///
/// EOPNOTSUPP if the driver does not implement it, ENODEV.
pub(super) fn rx_queues(interface: &str) -> io::Result<u32> {
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    // SAFETY: ETHTOOL_GCHANNELS fills in an `ethtool_channels`.
    unsafe { ioctl(interface, &mut channels) }?;
    Ok(channels.rx + channels.combined)
}

/// Whether the NIC strips VLAN tags of received frames (`ethtool -k`: rx-vlan-offload) before the XDP
/// program runs.
///
/// # Errors
///
/// ENODEV.
pub(super) fn strips_vlan_tags(interface: &str) -> io::Result<bool> {
    let mut flags = Value {
        cmd: ETHTOOL_GFLAGS,
        data: 0,
    };
    // SAFETY: ETHTOOL_GFLAGS fills in an `ethtool_value`.
    unsafe { ioctl(interface, &mut flags) }?;
    Ok(flags.data & ETH_FLAG_RXVLAN != 0)
}

/// Executes the command that `data` begins with; the kernel fills `data` in.
///
/// # Safety
///
/// `T` is the structure that belongs to the command (linux/ethtool.h).
pub(super) unsafe fn ioctl<T>(interface: &str, data: &mut T) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };

    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        // A char is signed on x86-64, and not on aarch64.
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut *data).cast(),
        },
    };
    // SAFETY: the request's data points to a live structure, which by this function's contract is
    // the one that the command fills in; the name ends with a zero.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
