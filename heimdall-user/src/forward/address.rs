//! Where an upstream is, and how it is asked.

use std::{fmt, net::SocketAddr};

use data_encoding::BASE64;
use rustls::pki_types::DnsName;

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamAddress {
    /// Its address and port.
    pub address: SocketAddr,
    /// How it is asked.
    pub transport: UpstreamTransport,
}

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamTransport {
    /// By UDP, and by TCP for answers that do not fit into a datagram.
    Udp,
    /// By TCP only.
    Tcp,
    /// By TLS only (RFC 7858).
    Tls(TlsPeer),
}

/// What an upstream over TLS has to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

impl UpstreamTransport {
    /// What is written after the address.
    pub(crate) fn pins(&self) -> Pins<'_> {
        match self {
            Self::Tls(TlsPeer { pins, .. }) => Pins(pins),
            Self::Udp | Self::Tcp => Pins(&[]),
        }
    }
}

/// Displays pins, each cut to what tells it from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pins<'a>(&'a [[u8; 32]]);

impl fmt::Display for Pins<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, pin) in self.0.iter().enumerate() {
            let separator = if number == 0 { '#' } else { ',' };
            let digest = BASE64.encode(pin);
            write!(f, "{separator}sha256={digest:.8}…")?;
        }
        Ok(())
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, transport } = self;
        write!(f, "{transport}{address}{}", transport.pins())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_that_differ_in_a_pin_differ_in_their_text() {
        let with = |pins: &[[u8; 32]]| UpstreamAddress {
            transport: UpstreamTransport::Tls(TlsPeer {
                name: None,
                pins: pins.to_vec(),
            }),
            ..SocketAddr::from(([192, 0, 2, 53], 853)).into()
        };
        assert_eq!(with(&[]).to_string(), "tls://192.0.2.53:853");
        assert_eq!(
            with(&[[0; 32], [255; 32]]).to_string(),
            "tls://192.0.2.53:853#sha256=AAAAAAAA…,sha256=////////…"
        );
    }
}
