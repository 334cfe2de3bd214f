//! Warnings about the settings on this host, logged once at the start.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    thread,
};

use tracing::{info, warn};

use crate::{
    anycast,
    config::{Config, Zoned},
    doctor::{self, Level},
    xdp::{Channels, Interface, addresses_without_link},
};

/// Most addresses that one log line names.
const MAX_NAMED: usize = 4;

/// Warns of settings that have no effect beside others.
pub(super) fn without_effect(config: &Config) {
    for line in config.without_effect() {
        warn!("{line}");
    }
}

/// Warns of service addresses that are the host's own: the server does not take them from where they are.
pub(super) fn services(config: &Config) {
    let addresses = &config.anycast.addresses;
    for held in anycast::held(addresses) {
        if held.is_in_network() {
            let item = addresses.iter().position(|ip| *ip == held.ip);
            let location = (config.settings).item_location("anycast.address", item.unwrap_or(0));
            warn!(
                "{location}the host has the service address {} already, as {} on {}, and a server that withdraws it cannot take it \
                 from there; if it is the host's own address, take it out of [anycast]",
                held.ip,
                held.with_prefix(),
                held.interface
            );
        }
    }
}

/// Warns of metrics that others can read.
pub(super) fn metrics(config: &Config) {
    if let Some(address) = config.metrics.listen
        && !address.ip().is_loopback()
    {
        warn!(
            "metrics and the status page are on http://{}/ for all who reach that address, without \
             authentication; they show popular names and clients, so let a firewall decide who does",
            Zoned(address)
        );
    }
}

/// Hints at more socket threads than there are cores for them.
pub(super) fn socket_threads(config: &Config) {
    let threads = config.socket.threads;
    let cores = thread::available_parallelism().map_or(threads, NonZero::get);
    if threads > cores {
        warn!(
            "socket.threads = {threads}: they share {cores} cores, and each has a cache of its own and a part \
             of the clients; more than {cores} gain nothing"
        );
    }
}

/// Hints at more workers than there are cores for them.
pub(super) fn workers(config: &Config, queues: usize) {
    if let Some(finding) = doctor::crowded(config, queues) {
        warn!("{finding}");
    }
}

/// Warns of an interface with more queues than the XDP program can steer to.
pub(super) fn queues(interface: &Interface) {
    let name = &interface.name;
    let channels = Channels::read(name).ok();
    if let Some(finding) = doctor::beyond_map(name, channels.as_ref(), interface.rx_queues) {
        warn!("{finding}");
    }
}

/// Warns of an interface on which replies leave by another way than the kernel's, or on which routes cannot be looked up.
pub(super) fn return_path(config: &Config, interface: &str) {
    for finding in doctor::return_path(config, interface) {
        warn!("{finding}");
    }
}

/// Checks whose bad findings a start logs by itself.
const LOGGED: &[&str] = &[
    "memory.room",
    "nic.return-path",
    "nic.usable",
    "tls.certificate",
    "tls.key",
];

/// Warns of what is bad on this host, once everything runs.
pub(super) fn host(config: &Config) {
    for finding in doctor::findings(config, None) {
        if finding.level == Level::Bad && !LOGGED.contains(&finding.check.id) {
            warn!("{finding} (heimdall doctor: {})", finding.check.id);
        }
    }
}

/// Logs which addresses AF_XDP does not serve although a wildcard was given: those that are reached
/// through an interface, but are not its own.
pub(super) fn unserved(listen: &[SocketAddr]) {
    let wildcard = |ip: &IpAddr| {
        let mut wildcards = listen.iter().map(SocketAddr::ip);
        wildcards.any(|one| one.is_unspecified() && one.is_ipv4() == ip.is_ipv4())
    };
    let mut unserved = addresses_without_link().unwrap_or_default();
    unserved.retain(|(ip, _)| wildcard(ip));
    if unserved.is_empty() {
        return;
    }
    let named = unserved.iter().take(MAX_NAMED);
    let named: Vec<String> = named.map(|(ip, name)| format!("{ip} ({name})")).collect();
    let more = match unserved.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    info!(
        "the sockets alone serve {}{more}: to AF_XDP a wildcard stands for the interface's own \
         addresses; name each address with --listen instead",
        named.join(", ")
    );
}
