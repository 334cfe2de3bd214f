//! Attaching by bpf_link alone.
//!
//! aya silently falls back to a netlink attachment when BPF_LINK_CREATE fails with EINVAL. That
//! attachment would outlive the process, so this module makes the system call itself.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `enum bpf_cmd`, `enum bpf_attach_type`: <https://docs.kernel.org/userspace-api/ebpf/syscall.html>
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_XDP: u32 = 37;

/// Native mode: the program runs in the driver (linux/if_link.h).
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// Generic mode: the program runs in the network stack, after the driver made an skb.
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;

/// The fields of `bpf_attr.link_create` that XDP uses.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// The error of the system call bpf for a command that no kernel has: EINVAL if this process may use the call,
/// EPERM if a privilege is missing or a filter of system calls forbids it, ENOSYS if the kernel has no BPF.
pub(crate) fn call_error() -> Option<i32> {
    /// Beyond every `enum bpf_cmd`.
    const NO_COMMAND: libc::c_long = 0x7fff_ffff;
    // SAFETY: of an attribute of length zero the kernel reads nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            NO_COMMAND,
            std::ptr::null::<LinkCreate>(),
            0_usize,
        )
    };
    (result < 0).then(io::Error::last_os_error)?.raw_os_error()
}

/// Attaches `program` to the interface with index `interface` in one of the modes above, for as long
/// as the returned descriptor is open in some process.
///
/// # Errors
///
/// EINVAL before Linux 5.9; EBUSY or EEXIST if a program is attached; EPERM without CAP_NET_ADMIN;
/// EOPNOTSUPP and others when the driver refuses.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32, mode: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface,
        attach_type: BPF_XDP,
        flags: mode,
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
