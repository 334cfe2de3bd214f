//! Where a bad value is, and what is wrong with it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::{
    routes::{MAX_MEMBERS, MAX_ROUTES, MAX_UPSTREAMS},
    values::{MAX_SERVICES, Zone, Zoned},
};
use crate::{
    answer::{prefix::PrefixError, special::NotSpecial},
    tap::{BadRate, BadTarget},
};

/// Longest path of a Unix socket, in octets (unix(7): `sun_path`, less a final NUL).
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// Why there is no configuration to run with. One line each.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A value is bad.
    #[error("{location}{problem}")]
    Bad {
        /// Where it is.
        location: Location,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// Where a value is. Its text begins an error's line, and is empty if there is nothing to name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// It is not given.
    #[default]
    Unset,
    /// On the command line.
    Flag(&'static str),
    /// In the file.
    File {
        /// The file.
        path: Arc<Path>,
        /// Counted from 1.
        line: usize,
        /// With the table that it is in. Empty if the error is not in any key's value.
        key: String,
    },
}

impl Location {
    pub(super) fn bad(&self, problem: Problem) -> ConfigError {
        ConfigError::Bad {
            location: self.clone(),
            problem,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Flag(flag) => write!(f, "{flag}: "),
            Self::File { path, line, key } if key.is_empty() => {
                write!(f, "{}:{line}: ", path.display())
            }
            Self::File { path, line, key } => {
                write!(f, "{}:{line}: key `{key}`: ", path.display())
            }
        }
    }
}

/// What is wrong with a value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// Not TOML.
    #[error("{0}")]
    Toml(String),
    /// A key that no setting has.
    #[error("there is no such key; {0}")]
    UnknownKey(String),
    /// A table without a key that it needs.
    #[error("the key `{0}` is missing")]
    Missing(&'static str),
    /// A value of the wrong type.
    #[error("{found}; write {expected}")]
    Type {
        /// What was given.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// A number that no key can have.
    #[error("the number is too large for any key")]
    Huge,
    /// Not one of the words that are allowed.
    #[error("{given:?} is none of the choices; write {choices}")]
    Choice {
        /// What was given.
        given: String,
        /// What it has to be.
        choices: String,
    },
    /// Not an address and port.
    #[error("{0:?} is not an address and port; write ADDR:PORT, an IPv6 address in [brackets]")]
    Listen(String),
    /// Not an address.
    #[error(
        "{0:?} is not an address; write ADDR or ADDR:PORT, an IPv6 address with a port in [brackets], and tcp:// before it \
         for TCP only, tls:// or tls://NAME@ for TLS"
    )]
    Upstream(String),
    /// Not a way to ask an upstream.
    #[error(
        "{0:?} is no transport; write tcp:// or tls://, in lower case, or the address alone for UDP"
    )]
    Scheme(String),
    /// What only TLS checks, without TLS.
    #[error(
        "{0:?} has a name (before @) or a pin (after #), which only TLS checks; write tls:// before it, or leave them out"
    )]
    OnlyTls(String),
    /// A port that cannot be addressed.
    #[error("{0:?} has port 0; write one from 1 to 65535")]
    PortZero(String),
    /// Not the name in a certificate.
    #[error(
        "{0:?} is not a host name; write the name that the certificate of the resolver is for, like dns.example.net"
    )]
    TlsName(String),
    /// Not the digest of a key.
    #[error(
        "{0:?} is not a pin; write sha256= and the SHA-256 digest of the public key in base64, 44 characters"
    )]
    Pin(String),
    /// Not an address and port to serve metrics on.
    #[error(
        "{0:?} is not an address and port; write ADDR:PORT, an IPv6 address in [brackets], or a port of 127.0.0.1"
    )]
    Metrics(String),
    /// Not a host name.
    #[error("{0:?} is not a host name; write it without a port, like dns1.example.net")]
    HostName(String),
    /// A link-local address without an interface.
    #[error("{0} is link-local and valid on one link only; add its interface, like {0}%eth0")]
    NoZone(Ipv6Addr),
    /// An address that is not link-local, with an interface.
    #[error("{0} is not link-local; leave out the % and what follows it")]
    ZoneOfGlobal(IpAddr),
    /// No such interface.
    #[error("there is no interface {0:?}; `ip link` lists those of this host")]
    NoInterfaceOfZone(String),
    /// A name that no interface can have.
    #[error("{0:?} is not an interface name; write IF or IF:QUEUES, like eth0 or eth0:0-3")]
    Interface(String),
    /// A name that no interface can have, where only a name is due.
    #[error("{0:?} is not an interface name; write the interface alone, like anycast0")]
    InterfaceName(String),
    /// An interface with queues where only a name is due.
    #[error("{0:?} has queues, which have no meaning here; write the interface alone")]
    QueuesOfName(String),
    /// Not a service address.
    #[error(
        "{0:?} is not a service address; write a unicast address of this service alone, like 192.0.2.53/32 or 2001:db8::53/128"
    )]
    Service(String),
    /// Too many service addresses.
    #[error(
        "there are more than {MAX_SERVICES} service addresses; start a second server for the others"
    )]
    Services,
    /// A service address that is not answered.
    #[error("nothing answers there; add \"{0}\" to `listen`, or listen on a wildcard")]
    ServiceNotServed(SocketAddr),
    /// Not a list of queues.
    #[error("{0:?} is not a list of queues; write numbers and ranges, like 0 or 0-3 or 0,2")]
    Queues(String),
    /// One queue twice.
    #[error("queue {0} is given twice; name each queue once")]
    QueueTwice(u32),
    /// Not a size.
    #[error("{0:?} is not a size; write octets, with K, M or G for powers of 1024, like 64M")]
    Size(String),
    /// A number out of its range.
    #[error("{value} is out of range; choose {min} to {max}")]
    Range {
        /// What was given.
        value: i64,
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
    /// Not a power of two.
    #[error("{0} is not a power of two; choose 4096, or twice or half of it")]
    PowerOfTwo(u32),
    /// Too small a cache.
    #[error("{0} octets are too few for a cache; give at least {least}", least = crate::cache::MIN_BYTES)]
    CacheSize(usize),
    /// No upstream is given.
    #[error("no upstream to forward to; give --upstream ADDR, or the key `upstream` in a file")]
    NoUpstream,
    /// Not a domain name.
    #[error(
        "{0:?} is no domain name: {1}; write a zone like \"corp.example\", or \".\" for all other names"
    )]
    Zone(String, String),
    /// A wildcard in place of a zone.
    #[error("{0:?}: a route is for all names below its zone without a wildcard; write {1:?}")]
    ZoneWildcard(String, String),
    /// Addresses in place of a zone.
    #[error(
        "{0:?} is no domain name, but an address or a prefix; write the zone of its reverse names, like \"10.in-addr.arpa\" \
         for 10.0.0.0/8"
    )]
    ZoneOfAddresses(String),
    /// A route that leads nowhere.
    #[error(
        "the route of {0} has no resolver; give `upstream`, or answer = \"nxdomain\" or \"refused\""
    )]
    RouteWithout(Zone),
    /// A route with resolvers that are never asked.
    #[error(
        "names below {zone} are answered without a resolver; leave out `{key}`, or write answer = \"forward\""
    )]
    RouteNotAsked {
        /// The route's.
        zone: Zone,
        /// What is for resolvers only.
        key: &'static str,
    },
    /// The default route in two places.
    #[error("the route of \".\" takes the place of the key `upstream`; leave out one of the two")]
    DefaultTwice,
    /// Too many routes.
    #[error(
        "there are more than {MAX_ROUTES} routes; give those with the same resolvers a zone above them, if they have one"
    )]
    Routes,
    /// Too many upstreams.
    #[error("there are more than {MAX_UPSTREAMS} different resolvers; routes may share them")]
    Upstreams,
    /// Too many upstreams of one route.
    #[error("there are more than {MAX_MEMBERS} resolvers in one list; name the best")]
    Members,
    /// The upstream is this server.
    #[error(
        "upstream {} is our own listen address {}: queries would loop; name another resolver, or listen elsewhere",
        Zoned(*upstream), Zoned(*listen)
    )]
    Loop {
        /// The upstream.
        upstream: SocketAddr,
        /// The listen address that it reaches.
        listen: SocketAddr,
    },
    /// Not the address of one host.
    #[error("{0} is not a unicast address; name a resolver's address")]
    NotUnicast(SocketAddr),
    /// No reply can come from this address.
    #[error("{0} is a multicast or broadcast address; name an address of this host")]
    ListenGroup(SocketAddr),
    /// An open resolver.
    #[error(
        "{what} much of the Internet, from where {} can be reached: an open resolver will be used for attacks; name \
         the prefixes of your clients, or set `allow-public = true` in [access] (--allow-public)",
        Zoned(*address)
    )]
    OpenResolver {
        /// In `allow`, with the verb.
        what: String,
        /// A public address that is served.
        address: SocketAddr,
    },
    /// An empty list.
    #[error("the list is empty; give a value, or leave the key out if it has a default")]
    Empty,
    /// One value twice.
    #[error("{0} is given twice; name it once")]
    Twice(String),
    /// An address beside the wildcard of its family and port.
    #[error(
        "{} is one of the addresses that {} stands for, and both cannot be bound; name one of the two",
        Zoned(*.0), wildcard(*.0)
    )]
    Overlap(SocketAddr),
    /// An address for TLS that is one for plain DNS, too.
    #[error(
        "{} is for TLS, and {} in `listen` has its port; give each a port of its own, usually 853 and 53",
        Zoned(*tls), Zoned(*plain)
    )]
    NotOnlyTls {
        /// In `listen-tls`.
        tls: SocketAddr,
        /// In `listen`.
        plain: SocketAddr,
    },
    /// TLS without a certificate.
    #[error(
        "TLS needs a certificate and its key; give `certificate` and `key` in [tls] (--tls-certificate, --tls-key)"
    )]
    NoCertificate,
    /// One interface twice.
    #[error("interface {0} is given twice; name it once, with all its queues, like {0}:0,1")]
    InterfaceTwice(String),
    /// XDP without an interface.
    #[error("backend xdp needs an interface; give --interface IF, or use backend socket")]
    NoInterface,
    /// A core that the process may not use.
    #[error("core {core} is outside the CPU affinity mask; choose from {allowed}")]
    Core {
        /// What was given.
        core: usize,
        /// The cores in the mask.
        allowed: String,
    },
    /// A minimum above the maximum.
    #[error("min-ttl {min} is above max-ttl {max}; lower the one or raise the other")]
    TtlOrder {
        /// The minimum.
        min: u32,
        /// The maximum.
        max: u32,
    },
    /// Not a prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Not a special zone.
    #[error(transparent)]
    NotSpecial(#[from] NotSpecial),
    /// Not a sampling rate.
    #[error(transparent)]
    Rate(#[from] BadRate),
    /// Not a place for dnstap's frames.
    #[error(transparent)]
    DnstapTarget(#[from] BadTarget),
    /// Not a secret.
    #[error("a secret is 32 hexadecimal digits; `openssl rand -hex 16` makes one")]
    Secret,
    /// A text that does not fit into a string of a TXT record.
    #[error("the text has {0} octets; give it 1 to 255")]
    Text(usize),
    /// Not a filter of the log.
    #[error(
        "{0:?} is no filter: {1}; write error, warn, info, debug or trace, or MODULE=LEVEL, with commas between"
    )]
    LogFilter(String, String),
    /// A path that no file can have.
    #[error("{0:?} is not the path of a file")]
    NoFile(PathBuf),
    /// A path that is too long for a Unix socket.
    #[error(
        "the path has {0} octets, and that of a Unix socket has at most {MAX_SOCKET_PATH}; choose a shorter one"
    )]
    SocketPath(usize),
    /// The file is not text.
    #[error("not UTF-8; write the file in that encoding")]
    NotUtf8,
    /// No default path for the control socket.
    #[error("no path for the control socket: XDG_RUNTIME_DIR is not set; give --control PATH")]
    NoControl,
}

/// Keys of earlier versions, and those that took their place.
const REPLACED: &[(&str, &str)] = &[("spin-us", "idle")];

impl Problem {
    /// For a key that is none of `keys`.
    pub(super) fn unknown(key: &str, keys: &[&str]) -> Self {
        let replaced = REPLACED
            .iter()
            .find(|(old, new)| *old == key && keys.contains(new));
        if let Some((_, new)) = replaced {
            return Self::UnknownKey(format!("`{new}` took its place"));
        }
        let keys = keys.iter().filter(|key| !key.is_empty());
        // At most two letters differ, which also bounds the work for a long key.
        let alike = keys
            .clone()
            .filter(|other| key.len().abs_diff(other.len()) <= 2)
            .map(|other| (strsim::osa_distance(key, other), other))
            .filter(|(distance, _)| *distance <= 2);
        Self::UnknownKey(match alike.min() {
            Some((_, other)) => format!("did you mean `{other}`?"),
            None => {
                let keys: Vec<String> = keys.map(|key| format!("`{key}`")).collect();
                format!("there are {}", keys.join(", "))
            }
        })
    }
}

/// The wildcard address that covers an address.
pub(super) fn wildcard(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (Ipv4Addr::UNSPECIFIED, v4.port()).into(),
        SocketAddr::V6(v6) => (Ipv6Addr::UNSPECIFIED, v6.port()).into(),
    }
}
