//! Where an upstream is, and how it is asked.

use std::{fmt, net::SocketAddr};

use rustls::pki_types::DnsName;

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamAddress {
    /// Its address and port.
    pub address: SocketAddr,
    /// How it is asked.
    pub transport: UpstreamTransport,
}

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTransport {
    /// By UDP, and by TCP for answers that do not fit into a datagram.
    Udp,
    /// By TCP only.
    Tcp,
    /// By TLS only (RFC 7858).
    Tls(TlsPeer),
}

/// What an upstream over TLS has to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPeer {
    /// The name in its certificate. `None`: its address, unless there are pins.
    pub name: Option<DnsName<'static>>,
    /// SHA-256 of the public keys that its certificate may have (RFC 7858 section 4.2, RFC 7469 section 2.4); any, if
    /// there are none. Without a name they are all that is checked.
    pub pins: Vec<[u8; 32]>,
}

impl UpstreamTransport {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
        }
    }
}

/// Displays what is written before the address.
impl fmt::Display for UpstreamTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp => Ok(()),
            Self::Tcp => f.write_str("tcp://"),
            Self::Tls(TlsPeer { name, .. }) => match name {
                Some(name) => write!(f, "tls://{}@", name.as_ref()),
                None => f.write_str("tls://"),
            },
        }
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.transport, self.address)
    }
}

impl From<SocketAddr> for UpstreamAddress {
    /// One that is asked by UDP.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            transport: UpstreamTransport::Udp,
        }
    }
}
