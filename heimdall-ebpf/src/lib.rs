//! What the XDP program and userspace share: the names and layouts of their maps.
//!
//! The program is the binary target of this crate (`src/program.rs`). This library has no
//! dependencies and builds for BPF and for the host, so that both sides use the same definitions. It
//! must not parse packets and must not talk to the kernel.
//!
//! Used by `src/program.rs` in the kernel and by `heimdall-user/src/xdp/` in userspace.
#![no_std]

mod disposition;
mod served;
pub mod tier;

pub use disposition::Disposition;
pub use served::ServedKey;

/// Name of the program in the object, and in `bpftool prog`.
pub const PROGRAM: &str = "heimdall";

/// Name of the XSKMAP: receive queue index → AF_XDP socket.
pub const SOCKETS_MAP: &str = "SOCKETS";

/// Name of the hash map whose keys are the served addresses ([`ServedKey`]); its values, one byte, are
/// always 1.
pub const SERVED_MAP: &str = "SERVED";

/// Name of the array whose one entry is the interface's own MAC address, as a [`mac_word`]. While it
/// is 0, nothing is steered.
pub const MAC_MAP: &str = "MAC";

/// Name of the per-CPU array of `u64` counters, indexed by [`Disposition`].
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Most receive queues of one interface that can be steered; the size of [`SOCKETS_MAP`].
pub const MAX_QUEUES: u32 = 256;

/// Most (address, port) pairs that one interface can serve; the size of [`SERVED_MAP`]. The map
/// is not preallocated: its buckets take 1 MiB, and each served pair about 64 octets more.
pub const MAX_SERVED: u32 = 65_536;

/// A MAC address (as on the wire) as the word that the program compares.
#[inline(always)]
pub const fn mac_word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}
