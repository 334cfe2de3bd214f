//! Waiting until no XDP program that is running now runs any more.
//!
//! The kernel waits for that (`synchronize_rcu`) before it returns from an update of a map whose values are
//! maps, since Linux 5.0 (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c). So a map of that kind is made here,
//! and its one element set again and again to the same map. membarrier(2) would do on some hosts only:
//! MEMBARRIER_CMD_GLOBAL fails where a CPU is `nohz_full`, and waits for nothing where one CPU is online.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::bpf::{BPF_MAP_CREATE, BPF_MAP_UPDATE_ELEM, bpf};

/// `enum bpf_map_type`: <https://docs.kernel.org/userspace-api/ebpf/syscall.html>
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The fields of `bpf_attr` for [`BPF_MAP_CREATE`].
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map: u32,
}

/// The fields of `bpf_attr` for [`BPF_MAP_UPDATE_ELEM`].
#[repr(C)]
struct MapUpdate {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What is needed to wait.
#[derive(Debug)]
pub(super) struct GracePeriod {
    /// An array of one map, which is `inner`.
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriod {
    /// # Errors
    ///
    /// EPERM without CAP_BPF; others if the kernel has no memory.
    pub(super) fn new() -> io::Result<Self> {
        let inner = create(BPF_MAP_TYPE_ARRAY, None)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, Some(&inner))?;
        Ok(Self { outer, inner })
    }

    /// Returns when each XDP program that was running at the call has ended, on every CPU: some 10 ms.
    ///
    /// # Errors
    ///
    /// EPERM if the process may not change maps any more.
    pub(super) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, self.inner.as_raw_fd());
        let mut update = MapUpdate {
            map: self.outer.as_raw_fd().cast_unsigned(),
            zero: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw const value).addr() as u64,
            flags: 0,
        };
        // SAFETY: `key` and `value` are live, and of the four octets each that `create` gave the map; the
        // kernel reads them during the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut update) }.map(drop)
    }
}

/// A map of one element of four octets.
fn create(map_type: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map: inner.map_or(0, |map| map.as_raw_fd().cast_unsigned()),
    };
    // SAFETY: the attributes hold no pointers.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }?;
    // SAFETY: a successful BPF_MAP_CREATE returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_can_be_waited_for_again_and_again() {
        if !lab::available("a_grace_period_can_be_waited_for_again_and_again") {
            return;
        }
        let grace = GracePeriod::new().expect("two maps");
        for _ in 0..3 {
            grace.wait().expect("a grace period");
        }
    }
}
