//! The checks that need more than one value, or the host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    Backend, Config, ConfigError, Host, Location, Problem,
    error::wildcard,
    values::{upstream_text, zoned},
};

/// Checks that the settings agree with one another and with the host.
pub(super) fn check(config: &Config, host: &Host) -> Result<(), ConfigError> {
    interfaces(config)?;
    listen(config)?;
    upstreams(config, host)?;
    if config.backend == Backend::Xdp && config.interfaces.is_empty() {
        return Err(bad(config, "backend", 0, Problem::NoInterface));
    }
    let (min, max) = (config.cache.min_ttl, config.cache.max_ttl);
    if min > max {
        return Err(bad(
            config,
            "cache.min-ttl",
            0,
            Problem::TtlOrder { min, max },
        ));
    }
    let limit = &config.rate_limit;
    if let Some(burst) = limit
        .burst
        .filter(|burst| *burst < limit.responses_per_second)
    {
        let problem = Problem::Range {
            value: burst.into(),
            min: limit.responses_per_second.into(),
            max: u16::MAX.into(),
        };
        return Err(bad(config, "rate-limit.burst", 0, problem));
    }
    cores(config, host)?;
    match config.upstreams.is_empty() {
        true => Err(Location::Unset.bad(Problem::NoUpstream)),
        false => Ok(()),
    }
}

/// The error for an item of a list, or the only value of a key.
fn bad(config: &Config, key: &str, item: usize, problem: Problem) -> ConfigError {
    config.settings.item_location(key, item).bad(problem)
}

fn interfaces(config: &Config) -> Result<(), ConfigError> {
    let interfaces = &config.interfaces;
    for (item, interface) in interfaces.iter().enumerate() {
        if interfaces
            .iter()
            .take(item)
            .any(|other| other.name == interface.name)
        {
            let problem = Problem::InterfaceTwice(interface.name.clone());
            return Err(bad(config, "interface", item, problem));
        }
    }
    Ok(())
}

fn listen(config: &Config) -> Result<(), ConfigError> {
    for (item, &address) in config.listen.iter().enumerate() {
        if is_group(address.ip()) {
            return Err(bad(config, "listen", item, Problem::ListenGroup(address)));
        }
        let wildcard = wildcard(address);
        if address != wildcard && config.listen.contains(&wildcard) {
            return Err(bad(config, "listen", item, Problem::Overlap(address)));
        }
    }
    once(config, "listen", &config.listen, zoned)
}

/// Whether it is the address of several hosts.
fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn upstreams(config: &Config, host: &Host) -> Result<(), ConfigError> {
    for (item, upstream) in config.upstreams.iter().enumerate() {
        let upstream = upstream.address;
        if upstream.ip().is_unspecified() || is_group(upstream.ip()) {
            return Err(bad(config, "upstream", item, Problem::NotUnicast(upstream)));
        }
        let mut listen = config.listen.iter();
        if let Some(&listen) = listen.find(|ours| reaches(**ours, upstream, host)) {
            let problem = Problem::Loop { upstream, listen };
            return Err(bad(config, "upstream", item, problem));
        }
    }
    once(config, "upstream", &config.upstreams, upstream_text)
}

/// Whether a query to `to` arrives at our own listener.
fn reaches(listener: SocketAddr, to: SocketAddr, host: &Host) -> bool {
    let ours = if listener.ip().is_unspecified() {
        listener.is_ipv4() == to.is_ipv4() && host.has(to)
    } else {
        listener.ip() == to.ip() && scope_id(listener) == scope_id(to)
    };
    ours && listener.port() == to.port()
}

fn scope_id(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// Checks that no address is there twice.
fn once<T: PartialEq>(
    config: &Config,
    key: &str,
    addresses: &[T],
    text: fn(&T) -> String,
) -> Result<(), ConfigError> {
    for (item, address) in addresses.iter().enumerate() {
        if addresses.iter().take(item).any(|other| other == address) {
            let problem = Problem::Twice(text(address));
            return Err(bad(config, key, item, problem));
        }
    }
    Ok(())
}

/// Checks that the cores are in the CPU affinity mask, if that is known.
fn cores(config: &Config, host: &Host) -> Result<(), ConfigError> {
    let mut cores = config.xdp.cpus.iter().enumerate();
    let outside = cores.find(|(_, core)| !host.cores.is_empty() && !host.cores.contains(core));
    let Some((item, &core)) = outside else {
        return Ok(());
    };
    let allowed: Vec<String> = host.cores.iter().map(usize::to_string).collect();
    let allowed = allowed.join(", ");
    Err(bad(
        config,
        "xdp.cpus",
        item,
        Problem::Core { core, allowed },
    ))
}
