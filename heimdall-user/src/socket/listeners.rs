//! Bound sockets: those that were inherited, and new ones.

use std::{
    io, mem,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen,
        setsockopt, socket, sockopt,
    },
};

use super::{
    MAX_CONNECTIONS, SocketError, TlsServer,
    error::family,
    group,
    inherited::{self, Kind, Overlap},
    joined::Joined,
    mtu,
};

/// Receive buffer of a UDP socket, in octets. The kernel doubles it, and counts the driver's whole buffer for each
/// datagram: 768 octets over loopback, 2304 where a driver's buffers are half a page. So it holds 10,000 queries, which
/// arrive in 100 ms at 100,000/s. Without CAP_NET_ADMIN the kernel caps it at `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 12 << 20;

/// A thread's sockets, bound, over UDP and TCP on every address, and those for TLS.
#[derive(Debug)]
pub struct Listeners {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    /// Addresses that inherited sockets with a wildcard serve until those of the threads are bound.
    later: Later,
    pub(super) joined: Joined,
    pub(super) tls: Vec<TcpListener>,
    tls_addresses: Vec<SocketAddr>,
    /// What those for TLS use, if there are any.
    pub(super) tls_server: Option<Arc<TlsServer>>,
    /// Connections at a time: the thread's share of [`MAX_CONNECTIONS`], or of fewer.
    pub(super) max_connections: usize,
}

/// Addresses to be bound when the threads start.
#[derive(Debug, Default)]
struct Later {
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
}

impl Listeners {
    /// Listens for UDP and TCP on every address: takes the sockets that serve it from `inherited`, and binds what is missing,
    /// unless one in `inherited` has a wildcard that covers the address: then `split` binds it. Port 0 takes an inherited
    /// one of the same IP address, or a free one, the same for both.
    ///
    /// An address that the host does not have now is bound as well: it is served as soon as it
    /// appears. One of a family that the kernel lacks is left out with a warning, if another is
    /// left.
    ///
    /// A port that another process has is an error, even if both would share it (no SO_REUSEPORT): a
    /// second server that took part of the queries would not be noticed.
    ///
    /// # Errors
    /// `SocketError`, for the first address that cannot be bound. All sockets are in `inherited` then, those that were
    /// bound here included.
    pub fn bind(
        addresses: &[SocketAddr],
        inherited: &mut Vec<OwnedFd>,
    ) -> Result<Self, SocketError> {
        Self::bind_with(addresses, inherited, Self::add)
    }

    fn bind_with(
        addresses: &[SocketAddr],
        inherited: &mut Vec<OwnedFd>,
        mut add: impl FnMut(&mut Self, SocketAddr, &mut Vec<OwnedFd>) -> Result<(), SocketError>,
    ) -> Result<Self, SocketError> {
        let mut listeners = Self::new(MAX_CONNECTIONS);
        let mut left_out = Vec::new();
        for &address in addresses {
            match add(&mut listeners, address, inherited) {
                Ok(()) => {}
                Err(error @ SocketError::NoFamily { .. }) => left_out.push((address, error)),
                Err(error) => {
                    inherited.extend(listeners.udp.into_iter().map(OwnedFd::from));
                    inherited.extend(listeners.tcp.into_iter().map(OwnedFd::from));
                    return Err(error);
                }
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
            later: Later::default(),
            joined: Joined::default(),
            tls: Vec::new(),
            tls_addresses: Vec::new(),
            tls_server: None,
            max_connections,
        }
    }

    /// Listens on an address for UDP and TCP. What was taken or bound before an error is in `self` or `inherited`.
    fn add(
        &mut self,
        address: SocketAddr,
        inherited: &mut Vec<OwnedFd>,
    ) -> Result<(), SocketError> {
        /// Free ports of UDP to try until one is free for TCP as well.
        const TRIES: u32 = 8;
        let address = inherited::with_port(address, Kind::Udp, inherited);
        let mut tries = 1;
        loop {
            let later = Some(&mut self.later.udp);
            let udp: Vec<UdpSocket> = listen_on(address, inherited, later)?;
            let local = chosen(&udp, address);
            let later = Some(&mut self.later.tcp);
            let tcp: Result<Vec<TcpListener>, _> = listen_on(local, inherited, later);
            match tcp {
                Err(SocketError::Taken { .. }) if address.port() == 0 && tries < TRIES => {
                    tries += 1
                }
                tcp => {
                    self.udp.extend(udp);
                    self.tcp.extend(tcp?);
                    self.addresses.push(local);
                    return Ok(());
                }
            }
        }
    }

    /// Listens on an address for TLS, too, as [`bind`](Self::bind) does for UDP and TCP.
    ///
    /// # Errors
    /// It cannot be bound; the others are not affected.
    pub(crate) fn bind_tls(
        &mut self,
        address: SocketAddr,
        server: &Arc<TlsServer>,
        inherited: &mut Vec<OwnedFd>,
    ) -> Result<(), SocketError> {
        let address = inherited::with_port(address, Kind::Tcp, inherited);
        let tls: Vec<TcpListener> = listen_on(address, inherited, None)?;
        self.tls_addresses.push(chosen(&tls, address));
        self.tls.extend(tls);
        self.tls_server = Some(Arc::clone(server));
        Ok(())
    }

    /// Listeners for each of `threads` threads, 1 at least, on the same addresses: these, and others
    /// beside them, among which the kernel distributes datagrams and connections. All threads together
    /// have `max_connections` at a time.
    ///
    /// Of an address that has more sockets than there are threads, because a predecessor had more, a thread has several:
    /// what is queued at a socket would be lost if that was closed.
    ///
    /// To be called just before the threads start: a socket that joins those of a predecessor gets its share at once, and one
    /// of an address that the predecessor serves by a wildcard all of it.
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
        let threads = threads.max(1);
        let later = mem::take(&mut self.later);
        self.udp.extend(bind_all::<UdpSocket>(&later.udp)?);
        self.tcp.extend(bind_all::<TcpListener>(&later.tcp)?);
        let of_thread = |_| Self {
            addresses: self.addresses.clone(),
            tls_addresses: self.tls_addresses.clone(),
            tls_server: self.tls_server.clone(),
            ..Self::new((max_connections / threads).max(1))
        };
        let mut all: Vec<Self> = (0..threads).map(of_thread).collect();
        let (udp, grown_udp) = divide(self.udp, threads)?;
        let (tcp, grown_tcp) = divide(self.tcp, threads)?;
        let (tls, grown_tls) = divide(self.tls, threads)?;
        for (((listeners, udp), tcp), tls) in all.iter_mut().zip(udp).zip(tcp).zip(tls) {
            (listeners.udp, listeners.tcp, listeners.tls) = (udp, tcp, tls);
            let is_new = |local| later.udp.iter().any(|one| inherited::is_same(*one, local));
            let sockets = listeners.udp.iter().enumerate();
            let new = sockets.filter(|(_, socket)| socket.local_addr().is_ok_and(is_new));
            listeners.joined.addresses = new.map(|(at, _)| at).collect();
        }
        if let Some(first) = all.first_mut() {
            // Those for TLS come after the others.
            let tls = grown_tls.into_iter();
            let tls = tls.map(|(at, count)| (first.tcp.len() + at, count));
            first.joined.udp = grown_udp;
            first.joined.streams = grown_tcp.into_iter().chain(tls).collect();
        }
        Ok(all)
    }

    /// The addresses that are listened on for TLS.
    pub(crate) fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.tls_addresses.clone()
    }

    /// The addresses that are listened on, with the ports that port 0 became.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }
}

/// A socket that is listened on.
trait Listening: AsFd + From<OwnedFd> {
    const KIND: Kind;

    fn local(&self) -> io::Result<SocketAddr>;

    /// Sets options of a socket that is, or will be, bound to `local`.
    fn set_options(socket: &OwnedFd, local: SocketAddr) -> Result<(), Errno>;

    /// Begins to listen.
    fn begin(socket: &OwnedFd) -> Result<(), Errno>;
}

/// Whether a socket's receive buffer was made larger for a time in which nobody reads it.
pub(super) fn has_larger_buffer(socket: &impl AsFd) -> bool {
    // The kernel doubles what it is asked for (socket(7)).
    getsockopt(socket, sockopt::RcvBuf).is_ok_and(|size| size > 2 * RECEIVE_BUFFER)
}

/// Gives a UDP socket the usual receive buffer, or as much of it as the process may.
pub(super) fn set_receive_buffer(socket: &impl AsFd) {
    // A smaller buffer loses datagrams in bursts sooner; it is no reason not to start.
    let _ = setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER));
}

impl Listening for UdpSocket {
    const KIND: Kind = Kind::Udp;

    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn set_options(socket: &OwnedFd, local: SocketAddr) -> Result<(), Errno> {
        if local.ip().is_unspecified() {
            // A reply has to leave from the address that the query came to, which only the kernel knows.
            match local {
                SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        mtu::never_fragment(socket, local)?;
        // A larger one is full of what came while nobody read.
        if !has_larger_buffer(socket) {
            set_receive_buffer(socket);
        }
        Ok(())
    }

    fn begin(_: &OwnedFd) -> Result<(), Errno> {
        Ok(())
    }
}

impl Listening for TcpListener {
    const KIND: Kind = Kind::Tcp;

    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn set_options(socket: &OwnedFd, _: SocketAddr) -> Result<(), Errno> {
        // Connections of an earlier run may still be in TIME_WAIT.
        setsockopt(socket, sockopt::ReuseAddr, &true)
    }

    fn begin(socket: &OwnedFd) -> Result<(), Errno> {
        // Of one that listens already, this sets the length of the queue.
        listen(socket, Backlog::MAXCONN)
    }
}

/// The address with the port that port 0 became.
fn chosen<S: Listening>(sockets: &[S], address: SocketAddr) -> SocketAddr {
    match sockets.last() {
        Some(socket) if address.port() == 0 => socket.local().unwrap_or(address),
        _ => address,
    }
}

/// The inherited sockets that serve an address, and a new one if none of them is bound to it: unless `later` is given, and
/// another inherited one covers the address by a wildcard. Then `later` gets the address.
fn listen_on<S: Listening>(
    address: SocketAddr,
    inherited: &mut Vec<OwnedFd>,
    later: Option<&mut Vec<SocketAddr>>,
) -> Result<Vec<S>, SocketError> {
    let mut sockets = inherited::take(inherited, S::KIND, address)?;
    match complete::<S>(address, &mut sockets, inherited, later) {
        Ok(()) => Ok(sockets.into_iter().map(S::from).collect()),
        Err(error) => {
            inherited.append(&mut sockets);
            Err(SocketError::new(S::KIND.name(), address, error))
        }
    }
}

/// Sets the options of inherited sockets that serve an address, and adds a new one if none is bound to it, or the address to
/// `later`. `others` were inherited, too.
fn complete<S: Listening>(
    address: SocketAddr,
    sockets: &mut Vec<OwnedFd>,
    others: &[OwnedFd],
    later: Option<&mut Vec<SocketAddr>>,
) -> Result<(), Errno> {
    let mut is_missing = true;
    for socket in &*sockets {
        let local = inherited::local(socket).unwrap_or(address);
        inherited::prepare(socket)?;
        S::set_options(socket, local)?;
        S::begin(socket)?;
        is_missing &= !inherited::is_same(local, address);
    }
    if is_missing {
        let overlapping = sockets.iter().chain(others);
        match (
            inherited::open_overlapping(overlapping, S::KIND, address)?,
            later,
        ) {
            (Overlap::Wildcard, Some(later)) => later.push(address),
            (overlap, _) => sockets.push(bind_one::<S>(address, overlap != Overlap::None)?),
        }
    }
    Ok(())
}

/// A socket for each of the addresses, beside those that overlap.
fn bind_all<S: Listening>(addresses: &[SocketAddr]) -> Result<Vec<S>, SocketError> {
    let bind = |address: &SocketAddr| {
        let socket = bind_one::<S>(*address, true).map(S::from);
        socket.map_err(|error| SocketError::new(S::KIND.name(), *address, error))
    };
    addresses.iter().map(bind).collect()
}

/// Sockets of each thread; and of the first thread's the positions of those whose groups have grown, and how many sockets were
/// in them.
type Divided<S> = (Vec<Vec<S>>, Vec<(usize, usize)>);

/// Divides sockets among threads: of each address that several sockets have, or should have, each thread gets one at
/// least, if that many can be bound.
fn divide<S: Listening>(sockets: Vec<S>, threads: usize) -> Result<Divided<S>, SocketError> {
    let protocol = S::KIND.name();
    let mut groups: Vec<(SocketAddr, Vec<S>)> = Vec::new();
    for socket in sockets {
        let unspecified = SocketAddr::from(([0; 4], 0));
        let local = socket.local().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            SocketError::new(protocol, unspecified, errno)
        })?;
        match groups.iter_mut().find(|(address, _)| *address == local) {
            Some((_, group)) => group.push(socket),
            None => groups.push((local, vec![socket])),
        }
    }
    let mut of_threads: Vec<Vec<S>> = (0..threads).map(|_| Vec::new()).collect();
    let mut grown = Vec::new();
    for (address, mut group) in groups {
        let before = group.len();
        fill(address, &mut group, threads)
            .map_err(|error| SocketError::new(protocol, address, error))?;
        if let Some(first) = of_threads.first()
            && group.len() > before
        {
            grown.push((first.len(), before));
        }
        for (at, socket) in group.into_iter().enumerate() {
            if let Some(sockets) = of_threads.get_mut(at % threads) {
                sockets.push(socket);
            }
        }
    }
    Ok((of_threads, grown))
}

/// Binds as many sockets beside those of an address that each thread has one, and has the kernel distribute what comes among
/// all of them.
fn fill<S: Listening>(
    address: SocketAddr,
    group: &mut Vec<S>,
    threads: usize,
) -> Result<(), Errno> {
    if group.len() < threads {
        for socket in &*group {
            group::open(socket)?;
        }
    }
    while group.len() < threads {
        match bind_one::<S>(address, true) {
            Ok(socket) => group.push(socket.into()),
            // Sockets of several users do not share a port.
            Err(Errno::EADDRINUSE) => {
                let (protocol, sockets) = (S::KIND.name(), group.len());
                tracing::warn!(
                    "{threads} threads have {sockets} sockets for {protocol} {address}: another user has opened the \
                     inherited ones, and none can be added; run as that user, or set ReusePort=yes and as many \
                     sockets in the socket unit"
                );
                break;
            }
            Err(error) => return Err(error),
        }
    }
    match &group[..] {
        [first, _, ..] => group::distribute(first, group.len()),
        _ => Ok(()),
    }
}

/// A new socket, which is bound to `address`. `shared`: beside others, which [`group::open`] lets it join.
fn bind_one<S: Listening>(address: SocketAddr, shared: bool) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let kind = match S::KIND {
        Kind::Udp => SockType::Datagram,
        Kind::Tcp => SockType::Stream,
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
    S::set_options(&fd, address)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    S::begin(&fd)?;
    Ok(fd)
}

#[cfg(test)]
mod tests;
