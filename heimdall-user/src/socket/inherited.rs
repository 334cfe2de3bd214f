//! Listening sockets that a predecessor or the service manager has opened: which of them fit an address.

use std::{
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt},
};

use super::{SocketError, group, mtu};

/// A protocol's listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    Tcp,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    fn protocol(self) -> libc::c_int {
        match self {
            Self::Udp => libc::IPPROTO_UDP,
            Self::Tcp => libc::IPPROTO_TCP,
        }
    }
}

/// What a socket of IPv4 or IPv6 listens for. `None`: it is of another family, a connection, or not bound.
fn listens(socket: &OwnedFd) -> Option<(Kind, SocketAddr)> {
    let kind = match getsockopt(socket, sockopt::SockType).ok()? {
        SockType::Datagram => Kind::Udp,
        SockType::Stream if getsockopt(socket, sockopt::AcceptConn) == Ok(true) => Kind::Tcp,
        _ => return None,
    };
    let name: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    let v4 = || {
        name.as_sockaddr_in()
            .map(|v4| SocketAddrV4::from(*v4).into())
    };
    let v6 = || {
        name.as_sockaddr_in6()
            .map(|v6| SocketAddrV6::from(*v6).into())
    };
    let local: SocketAddr = v4().or_else(v6)?;
    (local.port() != 0).then_some((kind, local))
}

/// The address that a socket is bound to.
pub(super) fn local(socket: &OwnedFd) -> Option<SocketAddr> {
    listens(socket).map(|(_, local)| local)
}

/// Names a socket.
#[cfg(test)]
pub(super) fn describe(socket: &OwnedFd) -> String {
    match listens(socket) {
        Some((kind, local)) => format!("{} {local}", kind.name()),
        None => "a socket that does not listen for UDP or TCP".to_owned(),
    }
}

/// Whether a socket that is bound to `local` serves `address`: it is bound to that, or to one of those that a wildcard covers.
fn serves(local: SocketAddr, address: SocketAddr) -> bool {
    let wildcard = address.ip().is_unspecified() && local.is_ipv4() == address.is_ipv4();
    local.port() == address.port() && (wildcard || same_host(local, address))
}

/// Whether two addresses are the same, whatever the flow label of IPv6.
pub(super) fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && same_host(one, other)
}

/// Whether two addresses are the same but for the port.
fn same_host(one: SocketAddr, other: SocketAddr) -> bool {
    match (one, other) {
        (SocketAddr::V6(one), SocketAddr::V6(other)) => {
            (one.ip(), one.scope_id()) == (other.ip(), other.scope_id())
        }
        _ => one.ip() == other.ip(),
    }
}

/// An address with the port of an inherited socket, if it leaves the choice of a port open.
pub(super) fn with_port(address: SocketAddr, kind: Kind, inherited: &[OwnedFd]) -> SocketAddr {
    let known = inherited.iter().filter_map(listens);
    let mut of_host = known.filter(|(of, local)| *of == kind && same_host(*local, address));
    match of_host.next() {
        Some((_, local)) if address.port() == 0 => local,
        _ => address,
    }
}

/// Takes the sockets that serve `address`.
///
/// # Errors
/// One of them has an option that cannot be changed any more. None is taken.
pub(super) fn take(
    inherited: &mut Vec<OwnedFd>,
    kind: Kind,
    address: SocketAddr,
) -> Result<Vec<OwnedFd>, SocketError> {
    let fits = |socket: &OwnedFd| {
        listens(socket).is_some_and(|(of, local)| of == kind && serves(local, address))
    };
    let mut fitting = inherited.iter().filter(|socket| fits(socket));
    if let Some(problem) = fitting.find_map(|socket| problem(socket, kind)) {
        return Err(SocketError::Unfit {
            protocol: kind.name(),
            address,
            problem,
        });
    }
    Ok(inherited.extract_if(.., |socket| fits(socket)).collect())
}

/// What is wrong with a socket, and what to do, if it cannot be used.
fn problem(socket: &OwnedFd, kind: Kind) -> Option<&'static str> {
    let protocol = mtu::get(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    if protocol != Ok(kind.protocol()) {
        return Some(
            "is of another protocol than UDP and TCP; remove SocketProtocol= from the socket unit",
        );
    }
    let (_, local) = listens(socket)?;
    let dual = local.is_ipv6()
        && local.ip().is_unspecified()
        && getsockopt(socket, sockopt::Ipv6V6Only) == Ok(false);
    dual.then_some(
        "takes IPv4 packets, too, for which there are sockets of their own; set BindIPv6Only=ipv6-only in the socket unit",
    )
}

/// How other sockets overlap with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overlap {
    None,
    /// The address is a wildcard, and some have addresses that it covers.
    Within,
    /// One has a wildcard that covers the address: a socket of the address itself takes all that is sent to that from it.
    Wildcard,
}

/// Lets a socket be bound to `address` beside those of `sockets` that overlap with it.
pub(super) fn open_overlapping<'a>(
    sockets: impl Iterator<Item = &'a OwnedFd>,
    kind: Kind,
    address: SocketAddr,
) -> Result<Overlap, Errno> {
    let mut overlap = Overlap::None;
    for socket in sockets {
        let Some((_, local)) = listens(socket).filter(|(of, _)| *of == kind) else {
            continue;
        };
        let found = match (serves(local, address), serves(address, local)) {
            (_, true) => Overlap::Wildcard,
            (true, false) => Overlap::Within,
            (false, false) => continue,
        };
        group::open(socket)?;
        overlap = overlap.max(found);
    }
    Ok(overlap)
}

/// Sets what is true of new sockets, and need not be of inherited ones.
pub(super) fn prepare(socket: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // A socket unit may have turned it on. Its control message would come before the address that a datagram was sent to.
    mtu::set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 0)
}
