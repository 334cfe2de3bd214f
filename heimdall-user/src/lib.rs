//! Heimdall: a DNS caching front that answers from AF_XDP.
//!
//! This is the map of the house, along the path of a packet.
//!
//! 1. The XDP program (crate `heimdall-ebpf`) steers DNS queries for the served addresses to an
//!    AF_XDP socket, and passes everything else on to the kernel.
//! 2. [`xdp`] loads and attaches it, and owns the sockets, the rings and the frames' memory.
//! 3. [`worker`] has a thread for each receive queue, with its rings and frames; [`front`] is the
//!    engine that answers a batch of queries in place, for workers and sockets alike.
//! 4. [`packet`] checks a frame's headers and turns it round; [`dns`] reads the query and writes
//!    the reply over it, both in place.
//! 5. [`answer`] decides what a query gets, whatever carried it; [`cache`] holds the answers that
//!    its thread has learnt.
//! 6. [`forward`] asks the upstream resolvers for what a cache does not have, on threads of its
//!    own.
//! 7. [`socket`] answers over the kernel's UDP and TCP what XDP passed, through the same engine.
//!
//! Around the path: [`config`] is what the operator set, [`server`] starts and stops everything,
//! [`maintenance`] flushes and copies caches in use, [`snapshot`] is the file that outlives a restart,
//! [`stats`] counts, [`log`] writes the log, [`mod@file`] reads the operator's files,
//! [`blocklist`] builds the table of blocked names,
//! [`control`] lets a running server be asked, [`cli`] is the `heimdall` command, [`clock`] is the
//! time that answers age by, [`exit`] lets a thread report its end, and [`checksum`] is the sum
//! that packets and the parts of replies have in common.
//!
//! Dependencies point one way, from the command line down to the wire format: `cli` → `server` →
//! `worker`, `socket` → `front` → `forward`, `maintenance`, `answer` → `cache` → `dns`, and `worker` → `xdp`,
//! `packet`. `dns`, `packet`, `cache` and `answer` do no I/O and know no thread.

pub mod answer;
pub mod blocklist;
pub mod cache;
pub mod checksum;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dns;
pub mod exit;
pub mod file;
pub mod forward;
pub mod front;
pub mod log;
pub mod maintenance;
pub mod packet;
pub mod server;
pub mod snapshot;
pub mod socket;
pub mod stats;
pub mod worker;
pub mod xdp;
