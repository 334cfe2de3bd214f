//! Where an upstream is, and how it is asked.

use std::net::SocketAddr;

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
}

impl UpstreamTransport {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
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
