//! End-to-end tests: a real `heimdall` on a real veth, with real clients and upstreams.
//!
//! Every test makes a lab of its own (two network namespaces) and needs root, and Debian's
//! packages knot, knot-dnsutils, prometheus, tcpdump, tshark, ethtool, fstrm-bin and dnstap-ldns, unbound; `cargo xtask test` installs
//! them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod answers;
mod client;
mod doctor;
mod errors;
mod faults;
mod http;
mod idle;
mod latency;
mod lifecycle;
mod link;
mod listening;
mod logs;
mod maintenance;
mod memory;
mod metrics;
mod names;
mod operation;
mod overload;
mod policy;
mod prometheus;
mod recover;
mod reload;
mod scenarios;
mod socket_threads;
mod sockets;
mod stale;
mod start;
mod tap;
mod threads;
mod tier;
mod tls;
mod trace;
mod upstreams;
mod wire;

use std::path::Path;

use lab::{Heimdall, Lab, UPSTREAM, available};

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_heimdall"))
}

/// A lab, unless the test has to be skipped.
fn lab(test: &str) -> Option<Lab> {
    available(test).then(|| Lab::new().unwrap())
}

/// A server on AF_XDP with the lab's upstream.
fn heimdall(lab: &Lab) -> Heimdall {
    Heimdall::on_xdp(lab, program(), &["--upstream", UPSTREAM]).unwrap()
}

/// The same without the hot tier, for tests that count what its workers do.
fn heimdall_without_tier(lab: &Lab) -> Heimdall {
    let arguments = ["--upstream", UPSTREAM, "--tier", "off"];
    Heimdall::on_xdp(lab, program(), &arguments).unwrap()
}
