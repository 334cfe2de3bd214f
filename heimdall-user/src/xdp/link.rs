//! Attaching by bpf_link, and only so.
//!
//! aya falls back to a netlink attachment when BPF_LINK_CREATE fails with EINVAL, without saying
//! so. That attachment outlives the process, which must not happen here; hence this system call
//! of our own.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `enum bpf_cmd`, `enum bpf_attach_type`: <https://docs.kernel.org/userspace-api/ebpf/syscall.html>
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_XDP: u32 = 37;

/// Where a packet meets the program.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// In the driver (`XDP_FLAGS_DRV_MODE`).
    Native = 1 << 2,
    /// In the network stack, after the driver made an skb (`XDP_FLAGS_SKB_MODE`).
    Generic = 1 << 1,
}

/// `bpf_attr.link_create`, as far as XDP has use for it.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches `program` to the interface with index `interface`, for as long as the returned
/// descriptor is open in some process.
///
/// # Errors
///
/// EINVAL before Linux 5.9; EBUSY or EEXIST if a program is attached; EPERM without CAP_NET_ADMIN;
/// EOPNOTSUPP and others when the driver refuses.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32, mode: Mode) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface,
        attach_type: BPF_XDP,
        flags: mode as u32,
    };
    // SAFETY: `attr` is a live bpf_attr prefix of the size given; the kernel takes the rest as
    // zero and writes nothing back.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attr,
            mem::size_of_val(&attr),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: a successful BPF_LINK_CREATE returns a new descriptor that nothing else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
