//! Bound sockets, and the errors of binding.

use std::{
    io, iter,
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

use super::{MAX_CONNECTIONS, group, mtu};

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

/// A thread's sockets, bound, over UDP and TCP on every address.
#[derive(Debug)]
pub struct Listeners {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    /// Connections at a time: the thread's share of [`MAX_CONNECTIONS`], or of fewer.
    pub(super) max_connections: usize,
}

impl Listeners {
    /// Binds UDP and TCP on every address. Port 0 takes a free one, the same for both.
    ///
    /// An address that the host does not have now is bound as well: it is served as soon as it
    /// appears. One of a family that the kernel lacks is left out with a warning, if another is
    /// left.
    ///
    /// A port that another process has is an error, even if both would share it (no SO_REUSEPORT): a
    /// second server that took part of the queries would not be noticed.
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
        let mut listeners = Self::new(MAX_CONNECTIONS);
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

    fn new(max_connections: usize) -> Self {
        Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            addresses: Vec::new(),
            max_connections,
        }
    }

    /// Listeners for each of `threads` threads, 1 at least, on the same addresses: these, and others
    /// beside them, among which the kernel distributes datagrams and connections. All threads together
    /// have `max_connections` at a time.
    ///
    /// From then on other sockets of the same user can be bound to the ports if they ask for that
    /// (SO_REUSEPORT). [`bind`](Self::bind) does not.
    ///
    /// # Errors
    /// `SocketError`, for the first socket that cannot be opened.
    pub(crate) fn split(
        mut self,
        threads: usize,
        max_connections: usize,
    ) -> Result<Vec<Self>, SocketError> {
        self.max_connections = (max_connections / threads.max(1)).max(1);
        if threads <= 1 {
            return Ok(vec![self]);
        }
        for ((udp, tcp), address) in self.udp.iter().zip(&self.tcp).zip(&self.addresses) {
            group::open(udp).map_err(|error| SocketError::new("UDP", *address, error))?;
            group::open(tcp).map_err(|error| SocketError::new("TCP", *address, error))?;
        }
        let mut others = Vec::new();
        for _ in 1..threads {
            let mut other = Self::new(self.max_connections);
            for &address in &self.addresses {
                let udp = bind_udp(address, true);
                let tcp = bind_tcp(address, true);
                let named = |protocol| move |error| SocketError::new(protocol, address, error);
                other.udp.push(udp.map_err(named("UDP"))?);
                other.tcp.push(tcp.map_err(named("TCP"))?);
                other.addresses.push(address);
            }
            others.push(other);
        }
        for ((udp, tcp), address) in self.udp.iter().zip(&self.tcp).zip(&self.addresses) {
            let distribute = group::distribute(udp, threads);
            distribute.map_err(|error| SocketError::new("UDP", *address, error))?;
            let distribute = group::distribute(tcp, threads);
            distribute.map_err(|error| SocketError::new("TCP", *address, error))?;
        }
        Ok(iter::once(self).chain(others).collect())
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
        let udp =
            bind_udp(address, false).map_err(|error| SocketError::new("UDP", address, error))?;
        let local = udp
            .local_addr()
            .map_err(|error| SocketError::new("UDP", address, errno(&error)))?;
        match bind_tcp(local, false) {
            Ok(tcp) => return Ok((udp, tcp, local)),
            Err(Errno::EADDRINUSE) if address.port() == 0 && tries < TRIES => tries += 1,
            Err(error) => return Err(SocketError::new("TCP", local, error)),
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// `shared`: beside sockets that [`group::open`] let others join.
fn open(address: SocketAddr, kind: SockType, shared: bool) -> Result<OwnedFd, Errno> {
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
    if shared {
        group::open(&fd)?;
    }
    Ok(fd)
}

fn bind_udp(address: SocketAddr, shared: bool) -> Result<UdpSocket, Errno> {
    let fd = open(address, SockType::Datagram, shared)?;
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

fn bind_tcp(address: SocketAddr, shared: bool) -> Result<TcpListener, Errno> {
    let fd = open(address, SockType::Stream, shared)?;
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
