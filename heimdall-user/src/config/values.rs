//! Values that are written as text, in the file and in flags alike.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::Path,
    str::FromStr,
};

use super::Problem;
use crate::{
    forward::{TlsPeer, UpstreamAddress, UpstreamTransport},
    log, netlink,
};
use data_encoding::BASE64;
use domain::base::{Name, ToName as _};
use nix::net::if_::if_nametoindex;
use rustls::pki_types::DnsName;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// The port of DNS over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;

/// What is written before the digest of a pinned key.
const PIN: &str = "sha256=";

/// An interface, and which of its receive queues to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The interface's name.
    pub name: String,
    /// Queues, counted from 0. `None`: all that it has.
    pub queues: Option<BTreeSet<u32>>,
}

impl InterfaceConfig {
    /// What to serve of the interface `name`, on which packets of those with the names `serves` among `all` arrive: all queues,
    /// unless each of these names some.
    pub(crate) fn of_port(all: &[Self], name: &str, serves: &[String]) -> Self {
        let those = all.iter().filter(|one| serves.contains(&one.name));
        let queues = those.map(|one| one.queues.clone());
        let queues = queues.reduce(|all, more| Some(&all? | &more?));
        Self {
            name: name.to_owned(),
            queues: queues.flatten(),
        }
    }
}

impl FromStr for InterfaceConfig {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let (name, queues) = match text.split_once(':') {
            Some((name, queues)) => (name, Some(parse_queues(queues)?)),
            None => (text, None),
        };
        // What the kernel takes as a name: dev_valid_name() in net/core/dev.c.
        let valid = !name.is_empty()
            && name.len() < libc::IFNAMSIZ
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c.is_whitespace());
        if !valid {
            return Err(Problem::Interface(text.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            queues,
        })
    }
}

impl fmt::Display for InterfaceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, queue) in self.queues.iter().flatten().enumerate() {
            write!(f, "{}{queue}", if i == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

/// Reads the name of an interface.
pub(super) fn plain_interface(text: &str) -> Result<String, Problem> {
    match text.parse()? {
        InterfaceConfig { name, queues: None } => Ok(name),
        _ => Err(Problem::QueuesOfName(text.to_owned())),
    }
}

/// Service addresses at most: each is asked for a response once a second.
pub(super) const MAX_SERVICES: usize = 16;

/// Checks that there are not too many service addresses.
pub(super) fn few_services(list: &[IpAddr]) -> Result<(), Problem> {
    match list.len() > MAX_SERVICES {
        true => Err(Problem::Services),
        false => Ok(()),
    }
}

/// Reads a service address: an address, or the prefix of it alone.
pub(super) fn service_address(text: &str) -> Result<IpAddr, Problem> {
    let bad = || Problem::Service(text.to_owned());
    let (ip, bits) = match text.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let all = if ip.is_ipv4() { "32" } else { "128" };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    let unusable = link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    match bits.is_none_or(|bits| bits == all) && !unusable {
        true => Ok(ip),
        false => Err(bad()),
    }
}

/// Writes a service address.
pub(super) fn service_text(ip: &IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

/// Reads `0`, `0-3` or `0,2,4-7`.
fn parse_queues(text: &str) -> Result<BTreeSet<u32>, Problem> {
    /// Queues that a range may go up to: more than any NIC has.
    const MAX_QUEUE: u32 = 4095;
    let number = |digits: &str| {
        let number = digits.parse().ok().filter(|&queue| queue <= MAX_QUEUE);
        number.ok_or_else(|| Problem::Queues(text.to_owned()))
    };
    let mut queues = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(Problem::Queues(text.to_owned()));
        }
        for queue in first..=last {
            if !queues.insert(queue) {
                return Err(Problem::QueueTwice(queue));
            }
        }
    }
    Ok(queues)
}

/// Reads an address and port to answer on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Problem> {
    socket_address(text, None, Problem::Listen)
}

/// Reads an upstream: `ADDR[:PORT]`, `tcp://ADDR[:PORT]` or `tls://[NAME@]ADDR[:PORT][#PINS]`. The port is 53 unless
/// given, over TLS 853.
pub(crate) fn upstream_address(text: &str) -> Result<UpstreamAddress, Problem> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let (bare, port, transport) = match scheme {
        Some("tls") => {
            let (bare, peer) = tls_peer(rest)?;
            (bare, TLS_PORT, UpstreamTransport::Tls(peer))
        }
        None | Some("tcp") if rest.contains(['#', '@']) => {
            return Err(Problem::OnlyTls(text.to_owned()));
        }
        None => (rest, DNS_PORT, UpstreamTransport::Udp),
        Some("tcp") => (rest, DNS_PORT, UpstreamTransport::Tcp),
        Some(scheme) => return Err(Problem::Scheme(scheme.to_owned())),
    };
    let malformed = |_| Problem::Upstream(text.to_owned());
    Ok(UpstreamAddress {
        address: socket_address(bare, Some(port), malformed)?,
        transport,
    })
}

/// Reads `[NAME@]ADDR[:PORT][#PINS]`: the address, and what the upstream has to show.
fn tls_peer(text: &str) -> Result<(&str, TlsPeer), Problem> {
    let (rest, pins) = match text.split_once('#') {
        Some((rest, pins)) => (rest, Some(pins)),
        None => (text, None),
    };
    let (name, bare) = match rest.split_once('@') {
        Some((name, bare)) => (Some(name), bare),
        None => (None, rest),
    };
    let name = name.map(|name| {
        let read = DnsName::try_from(name.to_owned());
        read.map_err(|_| Problem::TlsName(name.to_owned()))
    });
    let pins = pins.into_iter().flat_map(|pins| pins.split(','));
    let peer = TlsPeer {
        name: name.transpose()?,
        pins: pins.map(pin).collect::<Result<_, _>>()?,
    };
    Ok((bare, peer))
}

/// A zone, in wire form and lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Zone(pub Box<[u8]>);

impl FromStr for Zone {
    type Err = Problem;

    /// Reads it in the form of zone files, with or without the last dot.
    fn from_str(text: &str) -> Result<Self, Problem> {
        // All of these are domain names, too, but none is meant as such.
        if let Some(below) = text.strip_prefix('*') {
            let zone = match below.trim_start_matches('.') {
                "" => ".",
                zone => zone,
            };
            return Err(Problem::ZoneWildcard(text.to_owned(), zone.to_owned()));
        }
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        if address.parse::<IpAddr>().is_ok() {
            return Err(Problem::ZoneOfAddresses(text.to_owned()));
        }
        if text.contains(char::is_whitespace) {
            let why = "it has a space".to_owned();
            return Err(Problem::Zone(text.to_owned(), why));
        }
        let name = Name::<Vec<u8>>::from_str(text);
        let name = name.map_err(|error| Problem::Zone(text.to_owned(), error.to_string()))?;
        let mut wire = name.to_vec().into_octets();
        // Length octets are below the letters.
        wire.make_ascii_lowercase();
        Ok(Self(wire.into()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Name::from_slice(&self.0) {
            Ok(name) if !name.is_root() => name.fmt(f),
            _ => f.write_str("."),
        }
    }
}

/// Reads the pin of a public key: `sha256=` and the digest in base64.
fn pin(text: &str) -> Result<[u8; 32], Problem> {
    let digest = text.strip_prefix(PIN);
    let digest = digest.and_then(|digest| BASE64.decode(digest.as_bytes()).ok());
    digest
        .and_then(|digest| digest.try_into().ok())
        .ok_or_else(|| Problem::Pin(text.to_owned()))
}

/// Reads the address to serve metrics on: of the loopback interface, if only a port is given.
pub(super) fn metrics_address(text: &str) -> Result<SocketAddr, Problem> {
    let port = text.strip_prefix("localhost").unwrap_or(text);
    let port = port.strip_prefix(':').unwrap_or(port);
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok((Ipv4Addr::LOCALHOST, port).into()),
        _ => socket_address(text, None, Problem::Metrics),
    }
}

/// Reads the name of a host. Names are compared in lower case.
pub(super) fn host_name(text: &str) -> Result<String, Problem> {
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    match text.is_empty() || text.len() > 253 || !text.chars().all(known) {
        true => Err(Problem::HostName(text.to_owned())),
        false => Ok(text.to_ascii_lowercase()),
    }
}

/// Parses `ADDR:PORT`, or `ADDR` alone if there is a default port.
///
/// A link-local IPv6 address needs a zone, `fe80::1%eth0` or `[fe80::1%eth0]:53`: the name or the
/// index of an interface (RFC 4007 section 11), which has to exist. It becomes the scope ID.
///
/// # Errors
/// `malformed`, with the text; or what is wrong with the zone.
fn socket_address(
    text: &str,
    default_port: Option<u16>,
    malformed: impl Fn(String) -> Problem,
) -> Result<SocketAddr, Problem> {
    let (bare, zone) = split_zone(text);
    let with_port = bare.parse::<SocketAddr>().ok();
    if with_port.is_some_and(|address| address.port() == 0) {
        return Err(Problem::PortZero(text.to_owned()));
    }
    let address = with_port.or_else(|| Some((bare.parse::<IpAddr>().ok()?, default_port?).into()));
    // `::ffff:192.0.2.1` is another way to write 192.0.2.1 (RFC 4291 section 2.5.5.2).
    let address = address.map(|address| match address.ip().to_canonical() {
        IpAddr::V4(v4) => (v4, address.port()).into(),
        IpAddr::V6(_) => address,
    });
    match (address, zone) {
        (Some(SocketAddr::V6(mut v6)), zone) if v6.ip().is_unicast_link_local() => {
            let zone = zone.ok_or(Problem::NoZone(*v6.ip()))?;
            v6.set_scope_id(interface_index(zone)?);
            Ok(v6.into())
        }
        (Some(address), None) => Ok(address),
        (Some(address), Some(_)) => Err(Problem::ZoneOfGlobal(address.ip())),
        (None, _) => Err(malformed(text.to_owned())),
    }
}

/// Takes the zone out of `ADDR%ZONE` or `[ADDR%ZONE]:PORT`.
fn split_zone(text: &str) -> (String, Option<&str>) {
    let Some((address, rest)) = text.split_once('%') else {
        return (text.to_owned(), None);
    };
    let zone = if text.starts_with('[') {
        rest.rsplit_once(']').map_or(rest, |(zone, _)| zone)
    } else {
        rest
    };
    let rest = rest.strip_prefix(zone).unwrap_or_default();
    (format!("{address}{rest}"), Some(zone))
}

/// The index of an interface that is given by name or by index.
fn interface_index(zone: &str) -> Result<u32, Problem> {
    let by_index = || {
        zone.parse()
            .ok()
            .filter(|&index| netlink::name_of(index).is_some())
    };
    if_nametoindex(zone)
        .ok()
        .or_else(by_index)
        .ok_or_else(|| Problem::NoInterfaceOfZone(zone.to_owned()))
}

/// Displays an address and port, a link-local one with its interface's name as the zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zoned(pub SocketAddr);

impl fmt::Display for Zoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scoped = match self.0 {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => netlink::name_of(v6.scope_id()),
            _ => None,
        };
        match scoped {
            Some(name) => {
                write!(f, "[{}%{name}]:{}", self.0.ip(), self.0.port())
            }
            // If the interface has gone, the scope ID says which it was.
            None => self.0.fmt(f),
        }
    }
}

/// The text of an address and port, as it can be read again.
pub(super) fn zoned(address: &SocketAddr) -> String {
    Zoned(*address).to_string()
}

/// Displays an upstream, with its pins cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upstream<'a>(pub &'a UpstreamAddress);

impl fmt::Display for Upstream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UpstreamAddress { address, transport } = self.0;
        write!(f, "{transport}{}{}", Zoned(*address), transport.pins())
    }
}

/// The text of an upstream, as it can be read again.
pub(super) fn upstream_text(upstream: &UpstreamAddress) -> String {
    let UpstreamAddress { address, transport } = upstream;
    let mut text = format!("{transport}{}", Zoned(*address));
    if let UpstreamTransport::Tls(peer) = transport {
        for (number, pin) in peer.pins.iter().enumerate() {
            text.push(if number == 0 { '#' } else { ',' });
            text.push_str(PIN);
            text.push_str(&BASE64.encode(pin));
        }
    }
    text
}

/// Reads 32 hexadecimal digits.
pub(super) fn secret(text: &str) -> Result<[u8; 16], Problem> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let octets = pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8))
        .collect::<Option<Vec<u8>>>()
        .filter(|_| rest.is_empty());
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or(Problem::Secret)
}

/// Reads a text that fits into one string of a TXT record.
pub(super) fn short_text(text: &str) -> Result<String, Problem> {
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        len => Err(Problem::Text(len)),
    }
}

/// Reads a text that is checked later.
pub(super) fn any_text(text: &str) -> Result<String, Problem> {
    Ok(text.to_owned())
}

/// Reads what selects lines of the log.
pub(super) fn log_filter(text: &str) -> Result<String, Problem> {
    match log::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(why) => Err(Problem::LogFilter(text.to_owned(), why)),
    }
}

/// Checks that a path can be that of a file.
pub(super) fn names_a_file(path: &Path) -> Result<(), Problem> {
    let octets = path.as_os_str().as_bytes();
    if path.file_name().is_none() || octets.ends_with(b"/") || octets.contains(&0) {
        return Err(Problem::NoFile(path.to_owned()));
    }
    Ok(())
}

/// How packets are received and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By AF_XDP on the interfaces where that works, and by kernel sockets.
    Auto,
    /// By AF_XDP on every interface, or the server does not start; and by kernel sockets.
    Xdp,
    /// By kernel sockets only.
    Socket,
}

/// On which interfaces the XDP program answers popular questions itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierMode {
    /// Where the driver sends the replies by itself.
    Auto,
    /// On all.
    On,
    /// On none.
    Off,
}

/// How much of its privileges the server gives up before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// What the kernel can enforce.
    Auto,
    /// All of it, or there is no start.
    Require,
    /// Nothing.
    Off,
}

/// A number of octets, written as such or with K, M or G for powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub usize);

impl FromStr for Size {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
        let shift = match text.get(digits.len()..) {
            Some("") => 0,
            Some("k" | "K") => 10,
            Some("m" | "M") => 20,
            Some("g" | "G") => 30,
            _ => return Err(Problem::Size(text.to_owned())),
        };
        digits
            .parse::<usize>()
            .ok()
            .filter(|_| !digits.starts_with('+'))
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| Problem::Size(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(30, "G"), (20, "M"), (10, "K")]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}
