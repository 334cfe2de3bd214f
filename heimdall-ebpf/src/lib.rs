//! What the XDP program and userspace share: the names and layouts of their maps.
//!
//! The program is the binary target of this crate (`src/program.rs`). This library has no
//! dependencies and builds for BPF and for the host, so that both sides use the same definitions. It
//! must not parse packets and must not talk to the kernel.
//!
//! Used by `src/program.rs` in the kernel and by `heimdall-user/src/xdp/` in userspace.
#![no_std]

mod disposition;
mod link;
mod route;
mod served;
pub mod tier;

pub use disposition::Disposition;
pub use link::{Link, Tags};
pub use route::{MAX_NEIGHBOURS, MAX_ROUTES, NEIGHBOURS_MAP, ROUTE_CHECK_GLOBAL, ROUTES_MAP};
pub use served::ServedKey;

/// Name of the program in the object, and in `bpftool prog`.
pub const PROGRAM: &str = "heimdall";

/// Name of the XSKMAP: receive queue index → AF_XDP socket.
pub const SOCKETS_MAP: &str = "SOCKETS";

/// Name of the hash map whose keys are the served addresses ([`ServedKey`]). Each value, a `u32`, says at which entries of
/// [`LINKS_MAP`] the address is served: bit 0 for the first one.
pub const SERVED_MAP: &str = "SERVED";

/// Name of the array of [`Link`]s: the frames that are steered. Entries that no served address refers to are not read.
pub const LINKS_MAP: &str = "LINKS";

/// Name of the per-CPU array of `u64` counters, indexed by [`Disposition`].
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Name of the constant that the loader sets to 1 if it loads the program with BPF_F_XDP_HAS_FRAGS (Linux 5.18): then a
/// packet may be in several buffers, of which the program sees the first.
pub const FRAGS_GLOBAL: &str = "FRAGS";

/// Longest packet that is steered, in octets from the Ethernet header on: what an AF_XDP frame of 2 KiB, the smallest,
/// holds behind XDP's headroom of 256. No query needs more.
pub const MAX_STEERED: usize = 2048 - 256;

/// Most receive queues of one interface that can be steered; the size of [`SOCKETS_MAP`].
pub const MAX_QUEUES: u32 = 256;

/// Most links of one interface; the size of [`LINKS_MAP`], and the bits of an address's value.
pub const MAX_LINKS: u32 = 32;

/// The entry of [`LINKS_MAP`] of the link with this bit, the only one that is set: the bit's number would take the program a
/// loop, of which the verifier would follow each round. A de Bruijn sequence has each five bits once, so the entries differ;
/// that of bit 0 is 0.
#[inline(always)]
pub const fn link_entry(bit: u32) -> u32 {
    bit.wrapping_mul(0x077c_b531) >> 27
}

/// Most (address, port) pairs that one interface can serve; the size of [`SERVED_MAP`]. The map
/// is not preallocated: its buckets take 1 MiB, and each served pair about 64 octets more.
pub const MAX_SERVED: u32 = 65_536;

/// A MAC address (as on the wire) as the word that the program compares.
#[inline(always)]
pub const fn mac_word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// The program's object, which `cargo xtask ebpf` builds from the sources in this crate. It is here so that a
/// published crate contains it.
#[cfg(not(target_arch = "bpf"))]
pub static OBJECT: &[u8] = {
    // Readers of ELF need its headers aligned.
    #[repr(align(16))]
    struct Aligned<T: ?Sized>(T);
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../heimdall.bpf.o"));
    &OBJECT.0
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_has_an_entry_of_its_own() {
        let mut entries: [u32; MAX_LINKS as usize] =
            core::array::from_fn(|number| link_entry(1 << number));
        assert_eq!(entries.first(), Some(&0));
        entries.sort_unstable();
        assert!(entries.into_iter().eq(0..MAX_LINKS));
    }
}
