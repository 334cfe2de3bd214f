//! The checks that need more than one value, or the host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    Backend, Config, ConfigError, Host, Location, Problem,
    error::wildcard,
    routes::{self, MAX_MEMBERS},
    values::{self, upstream_text, zoned},
};
use crate::{answer::access, dns::TtlLimits, forward::UpstreamAddress};

/// Checks that the settings agree with one another and with the host.
pub(super) fn check(config: &Config, host: &Host) -> Result<(), ConfigError> {
    interfaces(config)?;
    listen(config)?;
    check_upstreams(config, &config.upstreams, host, |item| {
        config.settings.item_location("upstream", item)
    })?;
    if config.backend == Backend::Xdp && config.interfaces.is_empty() {
        return Err(bad(config, "backend", 0, Problem::NoInterface));
    }
    ttl_order(config.cache.ttl_limits())
        .map_err(|problem| bad(config, "cache.min-ttl", 0, problem))?;
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
    services(config)?;
    cores(config, host)?;
    open_resolver(config, host)?;
    routes::check(config, host)
}

/// Checks that the least TTL is not above the longest.
pub(super) fn ttl_order(limits: TtlLimits) -> Result<(), Problem> {
    let TtlLimits { min, max, .. } = limits;
    match min > max {
        true => Err(Problem::TtlOrder { min, max }),
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
    for (key, addresses) in [
        ("listen", &config.listen),
        ("listen-tls", &config.listen_tls),
    ] {
        for (item, &address) in addresses.iter().enumerate() {
            if is_group(address.ip()) {
                return Err(bad(config, key, item, Problem::ListenGroup(address)));
            }
            let wildcard = wildcard(address);
            if address != wildcard && addresses.contains(&wildcard) {
                return Err(bad(config, key, item, Problem::Overlap(address)));
            }
        }
        once(addresses, zoned, |item| {
            config.settings.item_location(key, item)
        })?;
    }
    for (item, &tls) in config.listen_tls.iter().enumerate() {
        let overlaps = |plain: &&SocketAddr| {
            **plain == tls || **plain == wildcard(tls) || wildcard(**plain) == tls
        };
        if let Some(&plain) = config.listen.iter().find(overlaps) {
            let problem = Problem::NotOnlyTls { tls, plain };
            return Err(bad(config, "listen-tls", item, problem));
        }
    }
    let lacking = config.tls.certificate.is_none() || config.tls.key.is_none();
    match lacking && !config.listen_tls.is_empty() {
        true => Err(bad(config, "listen-tls", 0, Problem::NoCertificate)),
        false => Ok(()),
    }
}

/// Checks that the service addresses are answered.
fn services(config: &Config) -> Result<(), ConfigError> {
    let anycast = &config.anycast;
    once(&anycast.addresses, values::service_text, |item| {
        config.settings.item_location("anycast.address", item)
    })?;
    let served = anycast.served(&config.listen);
    let mut addresses = anycast.addresses.iter().enumerate();
    let unserved = addresses.find(|(_, ip)| served.iter().all(|one| one.ip() != **ip));
    match unserved {
        Some((item, ip)) => {
            let problem = Problem::ServiceNotServed(SocketAddr::new(*ip, 53));
            Err(bad(config, "anycast.address", item, problem))
        }
        None => Ok(()),
    }
}

/// Whether it is the address of several hosts.
fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Checks a list of upstreams, whose items have these locations.
pub(super) fn check_upstreams(
    config: &Config,
    upstreams: &[UpstreamAddress],
    host: &Host,
    location: impl Fn(usize) -> Location,
) -> Result<(), ConfigError> {
    if upstreams.len() > MAX_MEMBERS {
        return Err(location(MAX_MEMBERS).bad(Problem::Members));
    }
    let services = config.anycast.served(&config.listen);
    for (item, upstream) in upstreams.iter().enumerate() {
        let upstream = upstream.address;
        if upstream.ip().is_unspecified() || is_group(upstream.ip()) {
            return Err(location(item).bad(Problem::NotUnicast(upstream)));
        }
        let mut listen = (config.listen.iter())
            .chain(&config.listen_tls)
            .chain(&services);
        if let Some(&listen) = listen.find(|ours| reaches(**ours, upstream, host)) {
            return Err(location(item).bad(Problem::Loop { upstream, listen }));
        }
    }
    once(upstreams, upstream_text, location)
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
    addresses: &[T],
    text: fn(&T) -> String,
    location: impl Fn(usize) -> Location,
) -> Result<(), ConfigError> {
    for (item, address) in addresses.iter().enumerate() {
        if addresses.iter().take(item).any(|other| other == address) {
            let problem = Problem::Twice(text(address));
            return Err(location(item).bad(problem));
        }
    }
    Ok(())
}

/// Checks that the Internet is not answered by accident.
fn open_resolver(config: &Config, host: &Host) -> Result<(), ConfigError> {
    let access = &config.access;
    if access.allow_public {
        return Ok(());
    }
    // The host has these only later.
    let services = config.anycast.served(&config.listen);
    let listen = config.listen.iter().chain(&config.listen_tls);
    let public: Vec<SocketAddr> = (listen.chain(&services))
        .filter_map(|listen| public_address(*listen, host))
        .collect();
    let prefixes = access.allow.iter().enumerate();
    for (item, &prefix) in prefixes.filter(|(_, prefix)| access::is_open(prefix)) {
        // Clients of one family do not reach addresses of the other.
        let (clients, _) = prefix.parts();
        let reached = |address: &&SocketAddr| address.is_ipv4() == clients.is_ipv4();
        if let Some(&address) = public.iter().find(reached) {
            let what = format!("{prefix} is");
            let problem = Problem::OpenResolver { what, address };
            return Err(bad(config, "access.allow", item, problem));
        }
    }
    for (is_ipv4, what) in [
        (true, "more IPv4 addresses than a /8 has, in sum, are"),
        (false, "more IPv6 addresses than a /16 has, in sum, are"),
    ] {
        let mut reached = public.iter().filter(|one| one.is_ipv4() == is_ipv4);
        if let Some(&address) = reached.next()
            && access::are_open(&access.allow, is_ipv4)
        {
            let what = what.to_owned();
            let problem = Problem::OpenResolver { what, address };
            return Err(config.settings.location("access.allow").bad(problem));
        }
    }
    Ok(())
}

/// The listen address if it is public; a wildcard's is the host's first public one.
fn public_address(listen: SocketAddr, host: &Host) -> Option<SocketAddr> {
    let is_public = |ip: &IpAddr| ip.is_ipv4() == listen.is_ipv4() && !access::is_private(*ip);
    let ip = match listen.ip().is_unspecified() {
        true => *host.addresses.iter().find(|ip| is_public(ip))?,
        false => Some(listen.ip()).filter(is_public)?,
    };
    Some((ip, listen.port()).into())
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
