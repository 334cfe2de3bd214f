//! The bpf_link that holds an XDP program on an interface, by bpf(2) alone.
//!
//! aya silently falls back to a netlink attachment when BPF_LINK_CREATE fails with EINVAL. That
//! attachment would outlive the process, so this module makes the system call itself. Nor does aya take a link
//! that another process has made.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya::programs::loaded_links;

use super::bpf::{
    BPF_LINK_CREATE, BPF_LINK_GET_FD_BY_ID, BPF_LINK_UPDATE, BPF_OBJ_GET_INFO_BY_FD, bpf,
};

/// `enum bpf_attach_type` and `enum bpf_link_type`: <https://docs.kernel.org/userspace-api/ebpf/syscall.html>
const BPF_XDP: u32 = 37;
const BPF_LINK_TYPE_TRACING: u32 = 2;
const BPF_LINK_TYPE_XDP: u32 = 6;

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

/// The fields of `bpf_attr.link_update` for a replacement of whichever program the link has.
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
}

/// The fields of `bpf_attr.info`.
#[repr(C)]
struct GetInfo {
    object: u32,
    len: u32,
    info: u64,
}

/// The fields of `bpf_attr` by which an object is found by its id.
#[repr(C)]
struct GetById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The fields of `struct bpf_link_info` for a link of XDP, and for one that puts a program in the place of a function of another
/// one (freplace), which are of the type of tracing.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    link_type: u32,
    id: u32,
    program: u32,
    /// The union after it is aligned to eight octets.
    padding: u32,
    /// XDP: the interface. Tracing: the type of the attachment.
    interface: u32,
    /// XDP: nothing. Tracing: the id of the program that has the function.
    target: u32,
}

/// A bpf_link of XDP. The program that it has stays attached as long as a descriptor of the link is open in some process, so
/// two processes can share one, and either can replace the program.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The link's id, as `bpftool link` shows it.
    pub id: u32,
    /// Id of the program that it has now.
    pub program: u32,
    /// The interface's index, in the network namespace that the interface is in; 0: it is gone.
    pub interface: u32,
}

impl Link {
    /// Attaches `program` to the interface with index `interface` in one of the modes above, for as long
    /// as the link exists.
    ///
    /// # Errors
    ///
    /// EINVAL before Linux 5.9; EBUSY or EEXIST if a program is attached; EPERM without CAP_NET_ADMIN;
    /// EOPNOTSUPP and others when the driver refuses.
    pub(super) fn attach(program: BorrowedFd<'_>, interface: u32, mode: u32) -> io::Result<Self> {
        let mut attributes = LinkCreate {
            program: program.as_raw_fd().cast_unsigned(),
            interface,
            attach_type: BPF_XDP,
            flags: mode,
        };
        // SAFETY: they are those of the command, and hold no pointers.
        let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }?;
        // SAFETY: a successful BPF_LINK_CREATE returns a new descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A link that another server has made, by a descriptor of it.
    ///
    /// # Errors
    ///
    /// EINVAL: it is no link of XDP.
    pub fn inherit(fd: OwnedFd) -> io::Result<Self> {
        let link = Self(fd);
        link.info()?;
        Ok(link)
    }

    /// What it holds.
    ///
    /// # Errors
    ///
    /// EINVAL: it is no link of XDP, or the kernel is older than 5.9.
    pub fn info(&self) -> io::Result<LinkInfo> {
        let raw = raw_info(&self.0)?;
        if raw.link_type != BPF_LINK_TYPE_XDP {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(LinkInfo {
            id: raw.id,
            program: raw.program,
            interface: raw.interface,
        })
    }

    /// Replaces the program, whichever it is, between two packets; the mode stays. At the return, other CPUs
    /// may still run the old one.
    ///
    /// # Errors
    ///
    /// ENOLINK: the interface is gone. Others when the driver refuses; the old program stays.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = LinkUpdate {
            link: self.0.as_raw_fd().cast_unsigned(),
            program: program.as_raw_fd().cast_unsigned(),
            flags: 0,
        };
        // SAFETY: they are those of the command, and hold no pointers.
        unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(drop)
    }

    /// Another descriptor of the link.
    ///
    /// # Errors
    ///
    /// Too many are open.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

/// Ids of the programs that are in the place of functions of the program with this id, in ascending order. Those that
/// this process may not see are left out: they are shown to CAP_SYS_ADMIN.
pub(super) fn replacements(program: u32) -> Vec<u32> {
    let links = loaded_links().filter_map(Result::ok);
    let raw = links.filter_map(|link| raw_info(&by_id(link.id()).ok()?).ok());
    let mut found: Vec<u32> = raw
        .filter(|raw| raw.link_type == BPF_LINK_TYPE_TRACING && raw.target == program)
        .map(|raw| raw.program)
        .collect();
    found.sort_unstable();
    found
}

/// A descriptor of the link with this id.
fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = GetById {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: they are those of the command, and hold no pointers.
    let fd = unsafe { bpf(BPF_LINK_GET_FD_BY_ID, &mut attributes) }?;
    // SAFETY: a successful BPF_LINK_GET_FD_BY_ID returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel says of a link of any type.
fn raw_info(link: &OwnedFd) -> io::Result<RawInfo> {
    let mut raw = RawInfo::default();
    let mut attributes = GetInfo {
        object: link.as_raw_fd().cast_unsigned(),
        len: mem::size_of::<RawInfo>() as u32,
        info: (&raw mut raw).expose_provenance() as u64,
    };
    // SAFETY: they are those of the command. The kernel writes at most `len` octets to `raw`, of which each
    // value is valid.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_link_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Link::inherit(file.into()).is_err());
    }
}
