//! End-to-end tests: a real `heimdall` on a real veth, with real clients and upstreams.
//!
//! Every test makes a lab of its own (two network namespaces) and needs root, and Debian's
//! packages knot, knot-dnsutils, prometheus, tcpdump, tshark, ethtool, fstrm-bin, dnstap-ldns, openssl, dnsperf, curl, libfaketime and xdp-tools, and at
//! the far end unbound, knot-resolver, bind9 and dnsdist; `cargo xtask test` installs them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod aliases;
mod answers;
mod anycast;
mod anycast_faults;
mod client;
mod convert;
mod doctor;
mod dot;
mod errors;
mod faults;
mod fleet;
mod guest;
mod handover;
mod host_faults;
mod http;
mod idle;
mod interface_changes;
mod latency;
mod layers;
mod lifecycle;
mod link;
mod listening;
mod logs;
mod maintenance;
mod memory;
mod metrics;
mod names;
mod operation;
mod outage;
mod overload;
mod policy;
mod privileges;
mod prometheus;
mod queues;
mod real_upstreams;
mod recover;
mod reload;
mod return_path;
mod routes;
mod scenarios;
mod shared_hook;
mod size;
mod socket_threads;
mod sockets;
mod spoofing;
mod stale;
mod start;
mod steady;
mod take_over;
mod tap;
mod threads;
mod tier;
mod trace;
mod unit;
mod upstream_faults;
mod upstreams;
mod watchdog;
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
