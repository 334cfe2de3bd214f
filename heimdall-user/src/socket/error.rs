//! Why a socket cannot be listened on.

use std::{net::SocketAddr, path::Path};

use nix::errno::Errno;
use thiserror::Error;

/// Why a listener could not be opened. The text is one line that ends with a remedy.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another socket has the port.
    #[error("{protocol} {address} is taken by another program; {}", holder(*address))]
    Taken {
        /// UDP or TCP.
        protocol: &'static str,
        /// The configured address.
        address: SocketAddr,
    },
    /// The port needs a privilege.
    #[error(
        "no permission to listen on {protocol} {address}; run with CAP_NET_BIND_SERVICE, or listen on a port from 1024 up"
    )]
    Permission {
        /// UDP or TCP.
        protocol: &'static str,
        /// The configured address.
        address: SocketAddr,
    },
    /// The kernel does not have the address's family, and no other listener is left.
    #[error("this kernel has no {}, which {protocol} {address} needs; listen on {} addresses",
        family(*address), if address.is_ipv6() { "IPv4" } else { "IPv6" })]
    NoFamily {
        /// UDP or TCP.
        protocol: &'static str,
        /// The configured address.
        address: SocketAddr,
    },
    /// An inherited socket of this address has an option that cannot be changed any more.
    #[error("the inherited socket for {protocol} {address} {problem}")]
    Unfit {
        /// UDP or TCP.
        protocol: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// Anything else.
    #[error("cannot listen on {protocol} {address}: {}; check the address", error.desc())]
    Other {
        /// UDP or TCP.
        protocol: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// The kernel's error.
        error: Errno,
    },
}

impl SocketError {
    pub(super) fn new(protocol: &'static str, address: SocketAddr, error: Errno) -> Self {
        match error {
            Errno::EADDRINUSE => Self::Taken { protocol, address },
            Errno::EACCES | Errno::EPERM => Self::Permission { protocol, address },
            Errno::EAFNOSUPPORT => Self::NoFamily { protocol, address },
            error => Self::Other {
                protocol,
                address,
                error,
            },
        }
    }
}

/// The remedy for a taken port. On port 53 the usual holder is systemd-resolved's stub.
fn holder(address: SocketAddr) -> String {
    let port = address.port();
    let find = format!("`ss -lnptu sport = :{port}` shows which, stop it or listen elsewhere");
    if port == 53 && Path::new("/run/systemd/resolve").exists() {
        format!(
            "systemd-resolved may be it (DNSStubListener=no in resolved.conf frees the port); {find}"
        )
    } else {
        find
    }
}

pub(super) fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}
