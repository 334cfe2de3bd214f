//! Warnings about the settings on this host.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    thread,
};

use tracing::{info, warn};

use super::preflight::{PortQueues, ports, unwritable};
use crate::{
    anycast,
    config::{Config, Zoned},
    doctor::{self, Level},
    xdp::{Channels, Interface, addresses_without_link},
};

/// Most addresses that one log line names.
const MAX_NAMED: usize = 4;

/// What is to be said of these settings on this host, a text each. A start and `heimdall check` log it; a reload also answers it.
pub(super) fn of_settings(config: &Config) -> Vec<String> {
    // Without those that AF_XDP cannot serve: whoever opens them says why.
    let ports = ports(config).unwrap_or_default().into_iter();
    let ports: Vec<PortQueues> = ports.flatten().flatten().collect();
    let queues = ports.iter().map(|port| port.queues.len()).sum();
    let mut warnings = config.without_effect();
    warnings.extend(public(config));
    warnings.extend(services(config));
    warnings.extend(metrics(config));
    for PortQueues { interface, .. } in &ports {
        warnings.extend(beyond_map(interface));
        let findings = doctor::return_path(config, &interface.name);
        warnings.extend(findings.iter().map(ToString::to_string));
    }
    warnings.extend(doctor::crowded(config, queues).map(|finding| finding.to_string()));
    warnings.extend(socket_threads(config));
    warnings.extend(unwritable(config).map(|(_, error)| error.to_string()));
    warnings
}

/// Logs them.
pub(crate) fn warn_of_settings(config: &Config) {
    for warning in of_settings(config) {
        warn!("{warning}");
    }
}

/// That clients with public addresses are answered: nobody is to run an open resolver by accident.
fn public(config: &Config) -> Option<String> {
    let access = config.access.access();
    let public = access.public().iter().map(ToString::to_string);
    let public: Vec<String> = public.collect();
    (!public.is_empty()).then(|| {
        format!(
            "answering clients with PUBLIC addresses: {}; if that is the whole world, this is an open resolver, and it \
             will be used for attacks: set responses-per-second in [rate-limit]",
            public.join(", ")
        )
    })
}

/// Service addresses that are the host's own: the server does not take them from where they are.
fn services(config: &Config) -> impl Iterator<Item = String> {
    let addresses = &config.anycast.addresses;
    let held = anycast::held(addresses).into_iter();
    held.filter(|held| held.is_in_network()).map(move |held| {
        let item = addresses.iter().position(|ip| *ip == held.ip);
        let location = (config.settings).item_location("anycast.address", item.unwrap_or(0));
        format!(
            "{location}the host has the service address {} already, as {} on {}, and a server that withdraws it cannot take it \
             from there; if it is the host's own address, take it out of [anycast]",
            held.ip,
            held.with_prefix(),
            held.interface
        )
    })
}

/// Metrics that others can read.
fn metrics(config: &Config) -> Option<String> {
    let address = config.metrics.listen?;
    (!address.ip().is_loopback()).then(|| {
        format!(
            "metrics and the status page are on http://{}/ for all who reach that address, without \
             authentication; they show popular names and clients, so let a firewall decide who does",
            Zoned(address)
        )
    })
}

/// More socket threads than there are cores for them.
fn socket_threads(config: &Config) -> Option<String> {
    let threads = config.socket.threads;
    let cores = thread::available_parallelism().map_or(threads, NonZero::get);
    (threads > cores).then(|| {
        format!(
            "socket.threads = {threads}: they share {cores} cores, and each has a cache of its own and a part \
             of the clients; more than {cores} gain nothing"
        )
    })
}

/// More queues than the XDP program can steer to.
fn beyond_map(interface: &Interface) -> Option<String> {
    let name = &interface.name;
    let channels = Channels::read(name).ok();
    let finding = doctor::beyond_map(name, channels.as_ref(), interface.rx_queues);
    finding.map(|finding| finding.to_string())
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
