//! A private network namespace with a veth pair, for benches that need interfaces.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// One end of the veth pair.
pub const NEAR: &str = "hdb0";
/// The other.
pub const FAR: &str = "hdb1";

/// Moves the thread to a new network namespace, which goes away with it, and makes a veth pair there.
/// Without root it prints that `bench` is skipped, and returns `false`.
///
/// # Panics
/// The namespace or the pair cannot be made.
pub fn enter(bench: &str) -> bool {
    if !geteuid().is_root() {
        eprintln!("SKIPPED {bench}: it needs root, for a network namespace, XDP and AF_XDP");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip(&format!("link add {NEAR} type veth peer name {FAR}"));
    for interface in [NEAR, FAR] {
        ip(&format!("link set {interface} up"));
    }
    true
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}
