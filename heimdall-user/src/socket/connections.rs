//! The connections of the socket front: accepted, served, and closed in time.
//!
//! The table has a fixed size, and a new client always gets in: when the table is full, a
//! connection of the largest holder is closed (RFC 7766 section 6.2.2), the one that was idle
//! longest.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    io::{self, ErrorKind},
    mem,
    net::IpAddr,
    time::{Duration, Instant},
};

use mio::{Interest, Token, net::TcpStream};
use rustls::HandshakeKind;
use slab::Slab;

use super::{
    front::{Loop, SWEEP},
    holders::{Hold, Holders},
    origin::{Message, Origin, Parked},
    sockets::Sockets,
    stream::Stream,
    tcp::{Connection, Input, Phase},
    tls::Failure,
};
use crate::{answer::STREAM_IDLE, front::Engine};

/// Connections accepted from one listener, or taken over, before datagrams are received again.
pub(super) const ACCEPT_BATCH: usize = 16;

/// Connections at a time, of all threads, those over TLS included.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// Time for the first whole query to arrive. A client opens a connection because it has one: this
/// is time to send it again once or twice after a loss (RFC 6298: 1 s, then 2 s). A TLS handshake before it has as much.
const FIRST_QUERY: Duration = Duration::from_secs(4);

/// The share of the connections that the TLS handshakes of one client network may be.
const HANDSHAKE_SHARE: usize = 4;

/// The open connections.
pub(super) struct Connections {
    pub(super) open: Slab<Connection>,
    holders: Holders,
    /// Most connections at a time.
    pub(super) max: usize,
    /// The serial number of the last connection.
    serial: u64,
    /// A listener could not accept for lack of descriptors; it is retried at the next sweep.
    pub(super) starved: bool,
    swept: Instant,
    /// Connections with a query completed since they were last served.
    resumed: Vec<usize>,
    /// Open connections with something to read for their TLS handshake. A handshake takes as long as a hundred datagrams,
    /// so a turn of the loop serves one of them.
    handshakes: VecDeque<usize>,
    /// Connections over TLS.
    tls: usize,
    /// Octets that were just read from a stream.
    pub(super) scratch: Box<[u8]>,
    /// The token of connection 0.
    pub(super) first_token: usize,
}

impl Connections {
    pub(super) fn new(first_token: usize, max: usize, now: Instant) -> Self {
        Self {
            open: Slab::new(),
            holders: Holders::default(),
            max,
            serial: 0,
            starved: false,
            swept: now,
            resumed: Vec::new(),
            handshakes: VecDeque::new(),
            tls: 0,
            scratch: vec![0; 16 << 10].into(),
            first_token,
        }
    }

    /// Connections that are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    fn token(&self, connection: usize) -> Token {
        Token(self.first_token + connection)
    }

    /// A connection, if it is still open.
    pub(super) fn get(&mut self, connection: usize, serial: u64) -> Option<&mut Connection> {
        let open = self.open.get_mut(connection)?;
        (open.serial == serial).then_some(open)
    }

    /// Notes that the client of a connection sends no more.
    pub(super) fn note_closing(&mut self, connection: usize) {
        if let Some(open) = self.open.get_mut(connection) {
            open.closing = true;
        }
    }

    /// Notes that a query of a connection is completed.
    pub(super) fn resume(&mut self, connection: usize, serial: u64, now: Instant) {
        if let Some(open) = self.get(connection, serial) {
            open.pending -= 1;
            open.last_used = now;
            if self.resumed.last() != Some(&connection) {
                self.resumed.push(connection);
            }
        }
    }

    /// Writes the replies to the queries that were completed since their connections were last served.
    pub(super) fn write_resumed(&mut self, now: Instant) {
        for connection in &self.resumed {
            if let Some(open) = self.open.get_mut(*connection) {
                open.failed |= open.write(now).is_err();
            }
        }
    }

    /// The next connection to be served because a query of it is completed.
    pub(super) fn next_resumed(&mut self) -> Option<usize> {
        self.resumed.pop()
    }

    /// Has a connection wait for its turn, if its TLS handshake is not over.
    pub(super) fn waits_for_handshake(&mut self, connection: usize) -> bool {
        let Some(open) = self.open.get_mut(connection) else {
            return false;
        };
        let waits = open.stream.is_handshaking();
        if waits && !mem::replace(&mut open.queued, true) {
            self.handshakes.push_back(connection);
        }
        waits
    }

    /// The connection whose handshake is to be served next.
    pub(super) fn next_handshake(&mut self) -> Option<usize> {
        let connection = self.handshakes.pop_front()?;
        if let Some(open) = self.open.get_mut(connection) {
            open.queued = false;
        }
        Some(connection)
    }

    /// Whether handshakes are to be served.
    pub(super) fn has_handshakes(&self) -> bool {
        !self.handshakes.is_empty()
    }

    /// Takes a connection out of the table, if it is still open. Its stream, and the octets received of a message.
    pub(super) fn remove(&mut self, connection: usize) -> Option<(Stream, Vec<u8>)> {
        let removed = self.open.try_remove(connection)?;
        if removed.queued {
            self.handshakes.retain(|queued| *queued != connection);
        }
        self.tls -= usize::from(removed.stream.is_tls());
        let (stream, hold, unread) = removed.into_parts();
        self.holders.close(hold);
        Some((stream, unread))
    }

    /// A connection of the largest holder, unless there are none: one without a waiting query if there is
    /// one, of these the one that was idle longest.
    ///
    /// It looks at every connection: 10 to 20 µs for a full table.
    fn victim(&self) -> Option<usize> {
        let victim = self.open.iter().min_by_key(|(_, open)| {
            let held = self.holders.held(&open.hold);
            (Reverse(held), open.pending > 0, open.last_used)
        });
        victim.map(|(connection, _)| connection)
    }

    /// A TLS handshake to end in the network that has this connection: of the address with the most, the oldest.
    fn surplus_handshake(&self, hold: &Hold) -> Option<usize> {
        let of_network = self
            .open
            .iter()
            .filter(|(_, open)| open.hold.is_handshaking() && open.hold.is_of_network(hold));
        let surplus = of_network
            .min_by_key(|(_, open)| (Reverse(self.holders.handshakes(&open.hold)), open.serial));
        surplus.map(|(connection, _)| connection)
    }
}

impl Sockets {
    /// Accepts the connections that a listener has.
    pub(super) fn accept(&mut self, listener: usize, engine: &Engine<Parked>) {
        if self.take_connections(listener, engine) {
            return;
        }
        let token = self.tcp_token(listener);
        if let Some(socket) = self.tcp.get_mut(listener)
            && let Err(error) = self.registry.reregister(socket, token, Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a TCP listener again");
        }
    }

    /// Accepts connections, up to a bound. Whether that is all: epoll reports what comes later. One for TLS of a client
    /// that the engine drops is closed: a handshake costs far more than a query.
    pub(super) fn take_connections(&mut self, listener: usize, engine: &Engine<Parked>) -> bool {
        let mut starved = false;
        for _ in 0..ACCEPT_BATCH {
            let Some(socket) = self.tcp.get(listener) else {
                return true;
            };
            match socket.accept() {
                Ok((stream, peer)) => {
                    starved = false;
                    let over_tls = self.is_tls(listener);
                    if !(over_tls && engine.drops(peer.ip())) {
                        self.open(stream, peer.ip(), over_tls);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // Out of descriptors or memory: closing a connection frees some, unless others
                    // are quicker to take it.
                    if starved || !self.make_room() {
                        self.connections.starved = true;
                        return true;
                    }
                    starved = true;
                }
            }
        }
        false
    }

    fn open(&mut self, socket: TcpStream, peer: IpAddr, over_tls: bool) {
        let session = match (&self.tls, over_tls) {
            (Some(tls), true) => {
                self.counters.tls_connections.add(1);
                let session = tls.accept();
                if session.is_none() {
                    Failure::NoCertificate.counter(&self.counters).add(1);
                    return;
                }
                session
            }
            _ => {
                self.counters.tcp_connections.add(1);
                None
            }
        };
        // Counted before there is room: a client that becomes the largest holder by this connection
        // closes one of its own.
        let mut hold = self.connections.holders.open(peer);
        if self.connections.len() >= self.connections.max {
            self.make_room();
        }
        if over_tls {
            let most = (self.connections.max / HANDSHAKE_SHARE).max(1);
            if self.connections.holders.begin_handshake(&mut hold) > most
                && let Some(surplus) = self.connections.surplus_handshake(&hold)
            {
                self.close(surplus, Failure::NoRoom);
            }
        }
        self.insert(Stream::new(socket, session), peer, hold, |open| open);
    }

    /// Puts a connection, as `begin` has it begin, into the table. Where it is; `None`: the kernel has no memory for it.
    fn insert(
        &mut self,
        mut stream: Stream,
        peer: IpAddr,
        hold: Hold,
        begin: impl FnOnce(Connection) -> Connection,
    ) -> Option<usize> {
        let connections = &mut self.connections;
        let token = connections.token(connections.open.vacant_key());
        let interest = Interest::READABLE | Interest::WRITABLE;
        let socket = &mut stream.socket;
        // Replies are written whole, and the next one should not wait for an acknowledgement.
        let _ = socket.set_nodelay(true);
        if self.registry.register(socket, token, interest).is_err() {
            connections.holders.close(hold);
            return None;
        }
        connections.serial += 1;
        let serial = connections.serial;
        connections.tls += usize::from(stream.is_tls());
        let open = begin(Connection::new(stream, peer, serial, hold, self.now));
        Some(connections.open.insert(open))
    }

    /// Goes on with a predecessor's connection, and the octets that this has received of a message. Where it is in the table,
    /// which has room.
    pub(super) fn adopt(
        &mut self,
        socket: TcpStream,
        peer: IpAddr,
        unread: Vec<u8>,
    ) -> Option<usize> {
        let hold = self.connections.holders.open(peer);
        let stream = Stream::new(socket, None);
        self.insert(stream, peer, hold, |open| open.continued(unread))
    }

    /// Closes a connection, if it is still open. `why`: if its TLS handshake is not over, and has no failure of its own.
    pub(super) fn close(&mut self, connection: usize, why: Failure) {
        let Some((mut closed, _)) = self.connections.remove(connection) else {
            return;
        };
        closed.send_close_notify();
        if closed.is_handshaking() {
            let failure = closed.failure().unwrap_or(why);
            failure.counter(&self.counters).add(1);
        }
    }

    fn make_room(&mut self) -> bool {
        let victim = self.connections.victim();
        if let Some(connection) = victim {
            self.counters.tcp_closed_full.add(1);
            self.close(connection, Failure::NoRoom);
        }
        victim.is_some()
    }

    /// Notes that a connection's TLS handshake is over.
    fn end_handshake(&mut self, connection: usize) {
        let connections = &mut self.connections;
        let Some(open) = connections.open.get_mut(connection) else {
            return;
        };
        connections.holders.end_handshake(&mut open.hold);
        open.last_used = self.now;
        self.counters.tls_handshakes.add(1);
        if open.stream.handshake() == Some(HandshakeKind::Resumed) {
            self.counters.tls_resumed.add(1);
        }
    }

    /// Whether [`sweep`](Self::sweep) has something to do once its time has come.
    pub(super) fn needs_sweep(&self) -> bool {
        self.connections.starved || self.connections.len() > 0
    }

    /// Counts the connections.
    pub(super) fn count_connections(&self) {
        let Connections { open, tls, .. } = &self.connections;
        self.counters.tcp_open.set((open.len() - tls) as u64);
        self.counters.tls_open.set(*tls as u64);
    }

    /// Closes idle connections, and accepts again where that had failed.
    pub(super) fn sweep(&mut self, engine: &Engine<Parked>) {
        let now = self.now;
        let connections = &mut self.connections;
        if now.saturating_duration_since(connections.swept) < SWEEP {
            return;
        }
        connections.swept = now;
        self.close_ended();
        let connections = &mut self.connections;
        let is_idle = |open: &Connection| {
            let limit = if open.used { STREAM_IDLE } else { FIRST_QUERY };
            open.pending == 0
                && open.phase != Phase::Ended
                && now.saturating_duration_since(open.last_used) >= limit
        };
        let idle: Vec<usize> = connections
            .open
            .iter()
            .filter(|(_, open)| is_idle(open))
            .map(|(connection, _)| connection)
            .collect();
        self.counters.tcp_closed_idle.add(idle.len() as u64);
        for connection in idle {
            self.close(connection, Failure::Timeout);
        }
        if mem::take(&mut self.connections.starved) {
            for listener in 0..self.tcp.len() {
                self.accept(listener, engine);
            }
        }
    }

    /// Takes the next whole message of a connection to the start of the buffer.
    fn next_message(&mut self, connection: usize) -> Option<Message> {
        let open = self.connections.open.get_mut(connection)?;
        if !open.has_room() || open.failed {
            return None;
        }
        let len = open.message(&mut self.buf)?;
        open.last_used = self.now;
        open.used = true;
        let over_tls = open.stream.is_tls();
        match over_tls {
            true => &self.counters.tls_received,
            false => &self.counters.tcp_received,
        }
        .add(1);
        let origin = Origin::Stream {
            connection,
            serial: open.serial,
            address: open.peer,
            over_tls,
        };
        Some(Message {
            origin,
            slot: 0,
            len,
        })
    }
}

impl Loop {
    /// Serves a connection: reads, answers, writes, and closes it at its end.
    pub(super) fn serve(&mut self, connection: usize) {
        match self.exchange(connection) {
            Ok(Some(Input::More)) => {}
            Ok(Some(Input::Drained)) => self.part(connection),
            Ok(None) | Err(_) => self.sockets.close(connection, Failure::Closed),
        }
    }

    /// Serves one of the connections whose TLS handshakes wait.
    pub(super) fn serve_handshake(&mut self) {
        if let Some(connection) = self.sockets.connections.next_handshake() {
            self.serve(connection);
        }
    }

    /// How reading ended. `None`: the connection is to be closed.
    fn exchange(&mut self, connection: usize) -> io::Result<Option<Input>> {
        loop {
            let connections = &mut self.sockets.connections;
            let Some(open) = connections.open.get_mut(connection) else {
                return Ok(Some(Input::Drained));
            };
            if open.phase == Phase::Ended {
                let may_come = open.discard(&mut connections.scratch);
                return Ok(may_come.then_some(Input::Drained));
            }
            let reads = open.wants_input();
            let handshake = open.stream.is_handshaking();
            let read = match reads {
                true => open.read(&mut connections.scratch),
                false => Ok(Input::Drained),
            };
            // Also of a client that closes the connection at once.
            if handshake && !open.stream.is_handshaking() {
                self.sockets.end_handshake(connection);
            }
            let input = read?;
            self.engine.begin_batch();
            while let Some(message) = self.sockets.next_message(connection) {
                let octets = self.sockets.buf.get(..message.len).unwrap_or_default();
                let query = self.engine.read(octets);
                self.batch.push(message, query);
                self.engine.answer(&mut self.batch, &mut self.sockets);
            }
            let connections = &mut self.sockets.connections;
            let token = connections.token(connection);
            let Some(open) = connections.open.get_mut(connection) else {
                return Ok(Some(Input::Drained));
            };
            let written = open.write(self.sockets.now);
            self.engine.sent();
            written?;
            if open.failed {
                return Ok(None);
            }
            if input == Input::More {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.sockets
                    .registry
                    .reregister(&mut open.stream.socket, token, interest)?;
                return Ok(Some(input));
            }
            // The socket was read to its end, or is not to be read.
            let has_more = open.has_room() && open.has_message();
            if !has_more && (reads || !open.wants_input()) {
                let is_over = open.ended && open.is_quiet();
                return Ok((!is_over).then_some(input));
            }
        }
    }
}

/// Whether an error of accept(2) concerns the connection, not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ENOBUFS | nix::libc::ENOMEM)
    )
}
