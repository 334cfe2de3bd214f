//! The kernel's side of the fast path: network interfaces, the XDP program, AF_XDP sockets.
//!
//! This module loads and attaches the program of `heimdall-ebpf`, writes the served addresses
//! and the queues' sockets to its maps, and opens those sockets. It reads no packets and knows no
//! DNS. Used by `server` (to set up, and to follow address changes) and by the workers (for their
//! sockets).
//!
//! [`Layers`] tells on which [`Interface`]s the packets of the configured ones arrive; [`Program::attach`] puts the program
//! on each, or [`Program::replace`] where another server has one; `Served` makes of the listen addresses what
//! [`Program::set_links`] and [`Program::set_served`] take, again whenever a [`LinkWatch`] reports a change; [`Program::register`] hands the program a queue's socket. Dropping the [`Program`], or
//! dying with it, leaves the interface as it was, unless another server shares its [`Link`]. `Details` is what `doctor` looks at.

mod address;
mod attach;
mod bpf;
mod details;
mod drops;
mod error;
mod ethtool;
mod frags;
mod genl;
mod grace;
mod hardware;
mod kind;
mod layers;
mod link;
mod nic;
mod program;
mod returned;
mod served;
mod tier;
mod watch;
pub mod xsk;

pub use address::Address;
pub use attach::{AttachMode, AttachPolicy};
pub(crate) use bpf::call_error as bpf_call_error;
#[cfg(test)]
pub(crate) use details::LinkCounters;
pub(crate) use details::{AttachedProgram, Details, candidates};
pub(crate) use drops::Drops;
pub use error::XdpError;
#[cfg(test)]
pub(crate) use genl::XdpFeatures;
pub(crate) use hardware::Channels;
#[cfg(test)]
pub(crate) use hardware::{Driver, Offloads, RingSizes, Rss};
pub use layers::{Layers, Port};
pub use link::{Link, LinkInfo};
pub use nic::{Interface, StrippedVlans, addresses_without_link};
pub(crate) use nic::{UnusableQueues, lacks_for_busy_polling};
#[cfg(test)]
pub(crate) use program::load_for_tests;
pub use program::{Program, ProgramOptions};
pub(crate) use returned::Returned;
pub(crate) use served::Served;
pub use tier::TierSize;
pub(crate) use tier::{Readers, TierCounts, TierMaps};
pub use watch::LinkWatch;
