//! Ethernet, VLAN tags, IPv4, IPv6 and UDP: read, and rewritten in place for the reply.
//!
//! The XDP program has looked at these headers already, but its verdict is not trusted here: this
//! module checks every length again, and what the program does not check at all: checksums, and
//! whether a reply may go to the sender. It has no I/O and no state. Workers call it.

pub mod echo;
mod layout;
mod reply;
mod source;
mod wire;

pub use echo::echo;
pub use layout::{BadPacket, Layout};
pub use reply::Packet;
pub use source::SourceFilter;
