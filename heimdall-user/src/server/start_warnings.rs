//! Warnings about the settings on this host, logged once at the start.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    thread,
};

use tracing::{info, warn};

use crate::{
    config::Config,
    doctor::{self, Level},
    xdp::{Channels, Interface, addresses_without_link},
};

/// Most addresses that one log line names.
const MAX_NAMED: usize = 4;

/// Warns if the caches and frames of a server with this many queues, all of which are allocated soon after
/// the start, take more than half of the available memory.
pub(super) fn memory(config: &Config, queues: usize) {
    if let Some(finding) = doctor::shortage(config, queues) {
        warn!("{finding}");
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

/// Warns of an interface with more queues than there are cores for their workers.
pub(super) fn queues(interface: &Interface, queues: usize, cores: usize) {
    let name = &interface.name;
    let channels = Channels::read(name).ok();
    let channels = channels.as_ref();
    let beyond_map = doctor::beyond_map(name, channels, interface.rx_queues);
    let beyond_cores = doctor::beyond_cores(name, channels, queues, cores);
    for finding in beyond_map.into_iter().chain(beyond_cores) {
        warn!("{finding}");
    }
}

/// Checks whose bad findings a start logs by itself.
const LOGGED: &[&str] = &["memory.room", "nic.usable"];

/// Warns of what is bad on this host, once everything runs.
pub(super) fn host(config: &Config) {
    for finding in doctor::findings(config) {
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
