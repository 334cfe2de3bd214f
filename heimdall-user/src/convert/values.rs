//! Values that several kinds of configurations have, and how Heimdall writes them.

use std::net::{IpAddr, SocketAddr};

use crate::{
    answer::prefix::Prefix,
    config::{Zone, upstream_address},
};

/// A prefix, of whose address bits beyond its length are left out: others accept them.
pub(super) fn prefix(text: &str) -> Option<Prefix> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let len = len.unwrap_or(width);
    (len <= width).then(|| Prefix::of(address, len))
}

/// A zone as the key `route.zone` has it.
pub(super) fn zone(text: &str) -> Result<Zone, String> {
    text.parse()
        .map_err(|error: crate::config::Problem| error.to_string())
}

/// An upstream: its address, port and transport, as the key `upstream` has it.
pub(super) fn upstream(
    transport: Transport<'_>,
    address: IpAddr,
    port: u16,
    interface: Option<&str>,
) -> Result<String, String> {
    let usual = if matches!(transport, Transport::Tls(_)) {
        853
    } else {
        53
    };
    let zone = interface.map(|zone| format!("%{zone}")).unwrap_or_default();
    let address = match (address, port == usual) {
        (address, true) => format!("{address}{zone}"),
        (IpAddr::V4(v4), false) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), false) => format!("[{v6}{zone}]:{port}"),
    };
    let text = match transport {
        Transport::Udp => address,
        Transport::Tcp => format!("tcp://{address}"),
        Transport::Tls(None) => format!("tls://{address}"),
        Transport::Tls(Some(name)) => format!("tls://{name}@{address}"),
    };
    match upstream_address(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

/// How an upstream is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transport<'a> {
    Udp,
    Tcp,
    /// The name in its certificate.
    Tls(Option<&'a str>),
}

/// An address that may have the zone of a link-local one: the address, and its interface.
pub(super) fn zoned(text: &str) -> Option<(IpAddr, Option<&str>)> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    Some((address.parse().ok()?, zone))
}

/// The names above one in text, the closest first and the root last.
pub(super) fn above(name: &str) -> impl Iterator<Item = &str> {
    let dots = name.match_indices('.');
    let names = dots.filter_map(|(at, _)| {
        let (before, rest) = name.split_at_checked(at)?;
        let rest = rest.strip_prefix('.').filter(|rest| !rest.is_empty())?;
        (!before.ends_with('\\')).then_some(rest)
    });
    names.chain((name != ".").then_some("."))
}

/// `true` for yes, `false` for no.
pub(super) fn yes(text: &str) -> Option<bool> {
    match text {
        "yes" | "true" | "on" => Some(true),
        "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// The zone of the reverse names of a prefix whose length is at the end of a label.
pub(super) fn reverse_zone(prefix: &Prefix) -> Option<String> {
    let (address, len) = prefix.parts();
    match address {
        IpAddr::V4(v4) if len % 8 == 0 => {
            let octets = v4.octets();
            let labels = octets.iter().take(usize::from(len / 8)).rev();
            let labels: String = labels.map(|octet| format!("{octet}.")).collect();
            Some(format!("{labels}in-addr.arpa"))
        }
        IpAddr::V6(v6) if len % 4 == 0 => {
            let nibbles = v6
                .octets()
                .into_iter()
                .flat_map(|octet| [octet >> 4, octet & 15]);
            let nibbles: Vec<u8> = nibbles.take(usize::from(len / 4)).collect();
            let labels: String = nibbles
                .iter()
                .rev()
                .map(|nibble| format!("{nibble:x}."))
                .collect();
            Some(format!("{labels}ip6.arpa"))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The reverse name of an address.
pub(super) fn reverse_name(address: IpAddr) -> String {
    let len = if address.is_ipv4() { 32 } else { 128 };
    reverse_zone(&Prefix::of(address, len)).unwrap_or_default()
}

/// An address to listen on, as the key `listen` has it.
pub(super) fn listen(address: IpAddr, port: u16, interface: Option<&str>) -> String {
    match (address, interface) {
        (IpAddr::V6(v6), Some(zone)) => format!("[{v6}%{zone}]:{port}"),
        (address, _) => SocketAddr::new(address, port).to_string(),
    }
}
