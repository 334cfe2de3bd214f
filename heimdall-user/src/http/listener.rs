//! The listener, and the thread that serves its connections.

use std::{
    cmp::Reverse,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind,
    getsockname, listen, setsockopt, socket, sockopt,
};
use slab::Slab;
use tracing::{error, warn};

use super::{
    EVENT_INTERVAL, MAX_CONNECTIONS, MAX_EVENT_STREAMS, Source, Timeouts,
    connection::{Connection, Next},
    hosts::Hosts,
    response::Response,
    routes::{Route, event, route},
};
use crate::{
    exit::{OnExit, OwnedThread},
    heartbeat,
};

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

/// Connections accepted in a row. Then those that are open have their turn, so that a flood of new ones does not
/// close one whose request has arrived.
const MAX_ACCEPTED: usize = 16;

/// Time after which the server tries again to accept a connection when it could not.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// A bound listener, not served yet.
#[derive(Debug)]
pub(crate) struct HttpListener {
    listener: TcpListener,
    hosts: Hosts,
}

/// The thread that serves HTTP. Dropping this closes all connections and ends it.
#[derive(Debug)]
pub(crate) struct HttpServer {
    listener: OwnedFd,
    _thread: OwnedThread,
}

impl HttpServer {
    /// A duplicate of the listener, for a successor.
    ///
    /// # Errors
    /// No descriptor is free.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone()
    }
}

impl HttpListener {
    /// Listens on an address. `names` are those, in lower case, by which requests may call this host, besides
    /// addresses and localhost. `beside`: the listener of a predecessor, whose address may overlap with this one.
    ///
    /// # Errors
    /// As bind(2).
    pub(crate) fn bind(
        address: SocketAddr,
        names: Vec<String>,
        beside: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        let has_port = |one: &&OwnedFd| port(one) == Some(address.port());
        let listener = match beside.filter(has_port) {
            Some(other) => bind_beside(address, other)?,
            None => TcpListener::bind(address)?,
        };
        Ok(Self {
            listener,
            hosts: Hosts::new(names),
        })
    }

    /// Takes the listener of a predecessor, if it is on this address. Port 0 is any.
    ///
    /// # Errors
    /// It is on another one.
    pub(crate) fn adopt(
        listener: OwnedFd,
        address: SocketAddr,
        names: Vec<String>,
    ) -> Result<Self, OwnedFd> {
        let listener = TcpListener::from(listener);
        let is_same = |local: SocketAddr| {
            local.ip() == address.ip() && [0, local.port()].contains(&address.port())
        };
        match listener.local_addr().is_ok_and(is_same) {
            true => Ok(Self {
                listener,
                hosts: Hosts::new(names),
            }),
            false => Err(listener.into()),
        }
    }

    /// The address, with the port that port 0 became.
    #[cfg(test)]
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// An epoll instance, an eventfd or a thread is not available.
    pub(crate) fn serve(self, on_exit: OnExit, source: impl Source) -> io::Result<HttpServer> {
        self.serve_within(Timeouts::default(), on_exit, source)
    }

    pub(super) fn serve_within(
        mut self,
        timeouts: Timeouts,
        on_exit: OnExit,
        source: impl Source,
    ) -> io::Result<HttpServer> {
        let duplicate = self.listener.as_fd().try_clone_to_owned()?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let registry = poll.registry();
        registry.register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let stop = move || {
            stopping.store(true, Ordering::SeqCst);
            // An eventfd that exists can be written to.
            let _ = waker.wake();
        };
        let server = Server {
            poll,
            listener: self.listener,
            hosts: self.hosts,
            source,
            timeouts,
            connections: Slab::with_capacity(MAX_CONNECTIONS),
            accept_at: None,
            accept_fails: false,
            event_at: None,
        };
        let thread = OwnedThread::start("http", on_exit, stop, move || server.run(&seen))?;
        Ok(HttpServer {
            listener: duplicate,
            _thread: thread,
        })
    }
}

/// The port that a listener has.
fn port(listener: &OwnedFd) -> Option<u16> {
    let name: SockaddrStorage = getsockname(listener.as_raw_fd()).ok()?;
    let v4 = name.as_sockaddr_in().map(SockaddrIn::port);
    v4.or_else(|| name.as_sockaddr_in6().map(SockaddrIn6::port))
}

/// Listens on an address that overlaps with that of `other`, as a wildcard and an address do. Both are of one user
/// (SO_REUSEPORT, socket(7)).
fn bind_beside(address: SocketAddr, other: &OwnedFd) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let new = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&new, sockopt::ReuseAddr, &true)?;
    for one in [other, &new] {
        setsockopt(one, sockopt::ReusePort, &true)?;
    }
    bind(new.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&new, Backlog::MAXCONN)?;
    Ok(TcpListener::from(new))
}

struct Server<S> {
    poll: Poll,
    listener: TcpListener,
    hosts: Hosts,
    source: S,
    timeouts: Timeouts,
    /// [`MAX_CONNECTIONS`] at most.
    connections: Slab<Connection<TcpStream>>,
    /// When to accept connections without an event for the listener.
    accept_at: Option<Instant>,
    /// The last attempt to accept one failed.
    accept_fails: bool,
    /// When the next event is due, if there are streams.
    event_at: Option<Instant>,
}

impl<S: Source> Server<S> {
    fn run(mut self, stopping: &AtomicBool) {
        let mut events = Events::with_capacity(MAX_CONNECTIONS);
        loop {
            heartbeat::beat();
            let timeout = self.next_deadline();
            let timeout = timeout.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout =
                timeout.map_or(heartbeat::MAX_SLEEP, |left| left.min(heartbeat::MAX_SLEEP));
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                error!("HTTP: cannot wait for events: {error}");
                return;
            }
            if stopping.load(Ordering::SeqCst) {
                return;
            }
            let now = Instant::now();
            let mut accept = self.accept_at.is_some_and(|at| at <= now);
            for event in &events {
                match event.token() {
                    LISTENER => accept = true,
                    STOP => {}
                    Token(key) => self.proceed(key, now),
                }
            }
            if accept {
                self.accept(now);
            }
            if self.event_at.is_some_and(|at| at <= now) {
                self.send_events(now);
            }
            self.expire(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter();
        let deadlines =
            connections.filter_map(|(_, connection)| connection.deadline(&self.timeouts));
        deadlines.chain(self.accept_at).chain(self.event_at).min()
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..MAX_ACCEPTED {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.accept_fails = false;
                    // Its own time, by which the oldest is known when the table is full.
                    self.add(stream, peer.ip().to_canonical(), Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                // The client is gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !self.accept_fails {
                        warn!("HTTP: a connection cannot be accepted: {error}");
                    }
                    self.accept_fails = true;
                    self.accept_at = Some(now + ERROR_PAUSE);
                    return;
                }
            }
        }
        self.accept_at = Some(now);
    }

    fn add(&mut self, mut stream: TcpStream, peer: IpAddr, now: Instant) {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.close_oldest();
        }
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let interests = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if registry
            .register(&mut stream, Token(key), interests)
            .is_ok()
        {
            entry.insert(Connection::new(stream, peer, now));
            self.proceed(key, now);
        }
    }

    /// Closes the connection whose phase began first, event streams left out.
    fn close_oldest(&mut self) {
        let connections = self.connections.iter();
        let others = connections.filter(|(_, connection)| !connection.is_events());
        let oldest = others.min_by_key(|(_, connection)| connection.since());
        if let Some((key, _)) = oldest {
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        if let Some(mut connection) = self.connections.try_remove(key) {
            // The kernel forgets it with the descriptor anyway.
            let _ = self.poll.registry().deregister(connection.stream());
        }
    }

    /// Goes on with a connection as far as its client lets it.
    fn proceed(&mut self, key: usize, now: Instant) {
        // An event may be of a connection that was closed since.
        while let Some(connection) = self.connections.get_mut(key) {
            match connection.proceed(&self.hosts, now) {
                Next::Wait => return,
                Next::Drop => return self.close(key),
                Next::Respond(request) => {
                    let (head, route) = match request {
                        Ok(request) => (request.head, route(&request, &mut self.source)),
                        Err(error) => (connection.is_head(), Route::Response(error)),
                    };
                    self.respond(key, head, route, now);
                }
            }
        }
    }

    /// Makes room for another stream of events to an address. When as many are open as may be, the address with the most
    /// of them loses one, unless the other would have as many then: so all get an equal share. Of IPv6 an address stands
    /// for its /64, which a host has for itself. Whether there is room.
    fn make_room(&mut self, address: IpAddr) -> bool {
        let connections = self.connections.iter();
        let streams = connections.filter(|(_, connection)| connection.is_events());
        let streams: Vec<(usize, IpAddr, Instant)> = streams
            .map(|(key, connection)| (key, host(connection.peer()), connection.since()))
            .collect();
        if streams.len() < MAX_EVENT_STREAMS {
            return true;
        }
        let address = host(address);
        let held = |address: IpAddr| {
            streams
                .iter()
                .filter(|(_, peer, _)| *peer == address)
                .count()
        };
        // Of those of an address, the one whose client has left an event unread for longest, if one has.
        let most = streams
            .iter()
            .max_by_key(|(_, peer, since)| (held(*peer), Reverse(*since)));
        match most {
            Some((key, peer, _)) if held(*peer) > held(address) + 1 => {
                self.close(*key);
                true
            }
            _ => false,
        }
    }

    fn respond(&mut self, key: usize, head: bool, route: Route, now: Instant) {
        let Some(peer) = self.connections.get(key).map(Connection::peer) else {
            return;
        };
        let is_full = matches!(route, Route::Events) && !head && !self.make_room(peer);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match route {
            Route::Response(response) => connection.respond(response.octets(head), now),
            Route::Events if head => connection.respond(Response::events().octets(true), now),
            Route::Events if is_full => {
                let error = Response::error(503, "as many streams of events are open as may be");
                connection.respond(error.octets(false), now);
            }
            Route::Events => {
                let mut octets = Response::events().octets(false);
                octets.extend(event(&self.source.stats()));
                connection.send_event(octets.into(), now);
                self.event_at.get_or_insert(now + EVENT_INTERVAL);
            }
        }
    }

    /// Sends an event to each stream that has written the last one; the others go without it.
    fn send_events(&mut self, now: Instant) {
        let connections = || self.connections.iter();
        let is_open = connections().any(|(_, connection)| connection.is_events());
        self.event_at = is_open.then(|| now + EVENT_INTERVAL);
        let wanting = connections().filter(|(_, connection)| connection.wants_event());
        let keys: Vec<usize> = wanting.map(|(key, _)| key).collect();
        if keys.is_empty() {
            return;
        }
        let event: Arc<[u8]> = event(&self.source.stats()).into();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.send_event(Arc::clone(&event), now);
            }
            self.proceed(key, now);
        }
    }

    /// Ends connections whose clients have taken too long.
    fn expire(&mut self, now: Instant) {
        let connections = self.connections.iter();
        let due = connections.filter(|(_, connection)| {
            let deadline = connection.deadline(&self.timeouts);
            deadline.is_some_and(|deadline| deadline <= now)
        });
        let due: Vec<(usize, bool)> = due
            .map(|(key, connection)| (key, connection.is_requesting()))
            .collect();
        for (key, is_requesting) in due {
            if is_requesting && let Some(connection) = self.connections.get_mut(key) {
                let error = Response::error(408, "the request did not arrive in time");
                connection.respond(error.octets(connection.is_head()), now);
                self.proceed(key, now);
            } else {
                self.close(key);
            }
        }
    }
}

/// What stands for the host of an address.
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_host_has_one_ipv4_address_or_a_64() {
        let is_same = |pair: [&str; 2]| {
            let [a, b] = pair.map(|text| host(text.parse().unwrap()));
            a == b
        };
        assert!(is_same(["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"]));
        assert!(!is_same(["2001:db8:0:1::1", "2001:db8:0:2::1"]));
        assert!(!is_same(["192.0.2.1", "192.0.2.2"]));
    }
}
