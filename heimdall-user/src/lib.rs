//! Heimdall: a DNS caching front that answers from AF_XDP.
//!
//! The modules, in the order in which a query meets them:
//!
//! 1. The XDP program (crate `heimdall-ebpf`) steers DNS queries for the served addresses to an AF_XDP
//!    socket, and passes everything else to the kernel.
//! 2. [`xdp`] loads and attaches it, and owns the sockets, the rings and the UMEM.
//! 3. [`worker`] has a thread for each receive queue, with its rings and frames; [`socket`] serves UDP and
//!    TCP over the kernel. Both run [`front`], the engine: it answers a batch of queries in place, and
//!    completes misses.
//! 4. [`packet`] checks a frame's headers and rewrites them for the reply; [`dns`] reads the query, and writes
//!    the reply over it.
//! 5. [`answer`] decides what a query gets; [`cache`] holds the answers of one thread.
//! 6. [`forward`] gets answers from upstreams, on threads of its own.
//!
//! Around them: [`config`] reads the settings, [`server`] starts, supervises and stops all threads,
//! [`maintenance`] flushes and copies caches in use, [`snapshot`] is the file that keeps the shared cache over
//! a restart, [`blocklist`] builds the table of blocked names, [`stats`] and [`latency`] count, [`tap`] samples queries for
//! dnstap, the query log and the popular names, [`tier`] has the XDP program give the most popular answers, [`control`] is the control socket, [`handover`] has a server take over from another one without loss, [`http`] serves metrics and the status
//! page, [`cli`] the `heimdall` command, [`convert`] makes settings of other servers' configurations, `doctor` examines the host, [`log`] writes the log, [`mod@file`] reads
//! files up to a limit, [`clock`] is the time that answers age by, [`exit`] ends threads with their owner, `heartbeat` counts
//! their progress, `anycast` announces service addresses while the server is ready, `netlink` asks the kernel for links, addresses and routes, `path_mtu` learns from ICMP what fits on the path of a reply, `privileges` gives up what the settings do not need, `service` talks to the service manager, and
//! [`checksum`] is the Internet checksum.
//!
//! docs/architecture.md says which module may import which, and follows a packet function by function.

pub mod answer;
mod anycast;
pub mod blocklist;
pub mod cache;
pub mod checksum;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod convert;
mod digest;
pub mod dns;
mod doctor;
pub mod exit;
pub mod file;
pub mod forward;
pub mod front;
pub mod handover;
mod heartbeat;
pub mod http;
pub mod latency;
pub mod log;
pub mod maintenance;
mod netlink;
pub mod packet;
mod path_mtu;
mod privileges;
pub mod server;
mod service;
pub mod snapshot;
pub mod socket;
pub mod stats;
pub mod tap;
pub mod tier;
pub mod worker;
pub mod xdp;
