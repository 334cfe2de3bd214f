//! What the load generator `clients` and its XDP program agree on.
#![no_std]

use core::ops::RangeInclusive;

/// Name of the program in the object, and in `bpftool prog`.
pub const PROGRAM: &str = "clients";

/// Name of the XSKMAP: receive queue index → AF_XDP socket.
pub const SOCKETS_MAP: &str = "SOCKETS";

/// Most receive queues that can be steered; the size of [`SOCKETS_MAP`].
pub const MAX_QUEUES: u32 = 64;

/// UDP ports of the clients. The kernel gives out none of them (`ip_local_port_range` begins at 32768).
pub const PORTS: RangeInclusive<u16> = 20_000..=20_999;
