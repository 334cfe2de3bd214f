//! Path MTUs that routers report by ICMP, for the replies of AF_XDP: "fragmentation needed" (RFC 1191) and "packet too
//! big" (RFC 8201).
//!
//! A reply has Don't Fragment set (RFC 9715 section 3.1). If a link on its way has a smaller MTU than the interface, the
//! router before it drops the reply and reports the MTU. The kernel takes such a report into account for sockets; what AF_XDP
//! sends it does not see. So a thread of its own ([`Listener`]) hears the reports, too, and the workers ask
//! [`PathMtus`] for the limit of each reply. The outcome is that of the sockets: the first reply is lost, the client repeats its query
//! and gets a truncated reply, and repeats it over TCP.
//!
//! A report may be forged. It can only make replies to a client shorter, and not shorter than what every path has to
//! carry (552 octets over IPv4, 1280 over IPv6); the memory and the time that reports take are bounded. So a flood of forged
//! ones can fill the table: while it lasts, hardly a new true one is learnt, and clients behind small links may lose
//! large replies; those that are known are displaced within minutes. What a report quotes is no proof: all of it can be guessed, but
//! for what was sent to whom, which the workers would have to write down for each large reply. A successor begins with an empty
//! table.
//!
//! `server` starts the listener with AF_XDP. This module must not know workers or sockets of clients.

mod listener;
mod report;
mod table;

pub(crate) use listener::Listener;
pub(crate) use table::{PathMtuCounters, PathMtus};
