//! Bound sockets, and the errors of binding.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
        socket, sockopt,
    },
};
use thiserror::Error;

use super::mtu;

/// Receive buffer of a UDP socket, in octets. Without CAP_NET_ADMIN the kernel caps it at
/// `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;

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
    fn new(protocol: &'static str, address: SocketAddr, error: Errno) -> Self {
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
    if port == 53 && std::path::Path::new("/run/systemd/resolve").exists() {
        format!(
            "systemd-resolved may be it (DNSStubListener=no in resolved.conf frees the port); {find}"
        )
    } else {
        find
    }
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// Sockets that are bound, over UDP and TCP on every address.
#[derive(Debug, Default)]
pub struct Listeners {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds UDP and TCP on every address. Port 0 takes a free one, the same for both.
    ///
    /// An address that the host does not have now is bound as well: it is served as soon as it
    /// appears. One of a family that the kernel lacks is left out with a warning, if another is
    /// left.
    ///
    /// A port is never shared with another process (no SO_REUSEPORT): a second server that took
    /// part of the queries would not be noticed.
    ///
    /// # Errors
    /// `SocketError`, for the first address that cannot be bound.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, SocketError> {
        Self::bind_with(addresses, bind_both)
    }

    fn bind_with(
        addresses: &[SocketAddr],
        mut bind: impl FnMut(SocketAddr) -> Bound,
    ) -> Result<Self, SocketError> {
        let mut listeners = Self::default();
        let mut left_out = Vec::new();
        for &address in addresses {
            match bind(address) {
                Ok((udp, tcp, local)) => {
                    listeners.udp.push(udp);
                    listeners.tcp.push(tcp);
                    listeners.addresses.push(local);
                }
                Err(error @ SocketError::NoFamily { .. }) => left_out.push((address, error)),
                Err(error) => return Err(error),
            }
        }
        if listeners.addresses.is_empty()
            && let Some((_, error)) = left_out.pop()
        {
            return Err(error);
        }
        for (address, _) in left_out {
            let family = family(address);
            tracing::warn!("not listening on {address}: this kernel has no {family}");
        }
        Ok(listeners)
    }

    /// The addresses that are listened on, with the ports that port 0 became.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }
}

type Bound = Result<(UdpSocket, TcpListener, SocketAddr), SocketError>;

fn bind_both(address: SocketAddr) -> Bound {
    /// Free ports of UDP to try until one is free for TCP as well.
    const TRIES: u32 = 8;
    let mut tries = 1;
    loop {
        let udp = bind_udp(address).map_err(|error| SocketError::new("UDP", address, error))?;
        let local = udp
            .local_addr()
            .map_err(|error| SocketError::new("UDP", address, errno(&error)))?;
        match bind_tcp(local) {
            Ok(tcp) => return Ok((udp, tcp, local)),
            Err(Errno::EADDRINUSE) if address.port() == 0 && tries < TRIES => tries += 1,
            Err(error) => return Err(SocketError::new("TCP", local, error)),
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

fn open(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        // IPv4 has listeners of its own; with mapped addresses, two would serve the same clients.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    // An address may be added later: by DHCP, by a failover daemon, or when duplicate address
    // detection is done. (The option works on IPv6 sockets, too.)
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    Ok(fd)
}

fn bind_udp(address: SocketAddr) -> Result<UdpSocket, Errno> {
    let fd = open(address, SockType::Datagram)?;
    if address.ip().is_unspecified() {
        // A reply has to leave from the address that the query came to, which only the kernel knows.
        match address {
            SocketAddr::V4(_) => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    mtu::never_fragment(&fd, address)?;
    // A smaller buffer loses datagrams in bursts sooner; it is no reason not to start.
    let _ = setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER));
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd.into())
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, Errno> {
    let fd = open(address, SockType::Stream)?;
    // Connections of an earlier run may still be in TIME_WAIT.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(text: &str) -> Vec<SocketAddr> {
        text.split_whitespace()
            .map(|one| one.parse().unwrap())
            .collect()
    }

    /// A kernel without IPv6.
    fn bind_v4(address: SocketAddr) -> Bound {
        match address {
            SocketAddr::V4(_) => bind_both(address),
            SocketAddr::V6(_) => Err(SocketError::new("UDP", address, Errno::EAFNOSUPPORT)),
        }
    }

    #[test]
    fn a_family_that_the_kernel_lacks_is_left_out() {
        for listen in ["127.0.0.1:0 [::1]:0", "[::1]:0 127.0.0.1:0 [::]:0"] {
            let listeners = Listeners::bind_with(&list(listen), bind_v4).unwrap();
            assert_eq!((listeners.udp.len(), listeners.tcp.len()), (1, 1));
            let [local] = listeners.addresses[..] else {
                panic!("{listen}: {listeners:?}");
            };
            assert_eq!(local.ip().to_string(), "127.0.0.1");
        }
        let error = Listeners::bind_with(&list("[::1]:53"), bind_v4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this kernel has no IPv6, which UDP [::1]:53 needs; listen on IPv4 addresses"
        );
    }
}
