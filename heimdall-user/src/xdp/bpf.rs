//! The system call bpf(2), for what aya does not do.

use std::{io, mem};

/// `enum bpf_cmd`: <https://docs.kernel.org/userspace-api/ebpf/syscall.html>
pub(super) const BPF_MAP_CREATE: libc::c_long = 0;
pub(super) const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
pub(super) const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
pub(super) const BPF_LINK_CREATE: libc::c_long = 28;
pub(super) const BPF_LINK_UPDATE: libc::c_long = 29;
pub(super) const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

/// Executes a command. Returns what the kernel does: a descriptor, for commands that make one.
///
/// # Safety
///
/// `T` is what the kernel expects as `bpf_attr` for the command, to its last field or a part of it, without
/// padding, and pointers in it are valid for what the command does.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is live and of the size given, and the kernel may write to it, as to the
    // length of an object's information; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attributes,
            mem::size_of::<T>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The error of the system call for a command that no kernel has: EINVAL if this process may use the call,
/// EPERM if a privilege is missing or a filter of system calls forbids it, ENOSYS if the kernel has no BPF.
pub(crate) fn call_error() -> Option<i32> {
    /// Beyond every `enum bpf_cmd`.
    const NO_COMMAND: libc::c_long = 0x7fff_ffff;
    // SAFETY: of an attribute of length zero the kernel reads and writes nothing.
    unsafe { bpf(NO_COMMAND, &mut ()) }.err()?.raw_os_error()
}
