//! Ethernet, VLAN tags, IPv4, IPv6 and UDP, read and turned round in place.
//!
//! The XDP program has looked at these headers already, but its verdict is not trusted here: this
//! room checks every length again, and what the program does not check at all: checksums, and
//! whether a reply may go to the sender. It has no I/O and no state.

pub mod layout;
pub mod source;

pub use layout::{BadPacket, Layout, Packet};
pub use source::SourceFilter;
