//! The connections of the socket front: accepted, served, and closed in time.
//!
//! The table has a fixed size, and a new client always gets in: when the table is full, a
//! connection of the largest holder is closed (RFC 7766 section 6.2.2), the one that was idle
//! longest.

use std::{
    cmp::Reverse,
    io::{self, ErrorKind},
    mem,
    net::IpAddr,
    time::{Duration, Instant},
};

use mio::{Interest, Token, net::TcpStream};
use slab::Slab;

use super::{
    front::{Loop, SWEEP},
    holders::Holders,
    origin::{Message, Origin},
    sockets::{Sockets, tcp_token},
    tcp::{Connection, Input},
};

/// Connections accepted from one listener before the next one is served.
const ACCEPT_BATCH: usize = 64;

/// Connections at a time, of all threads.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// Time for which a connection may be idle (RFC 7766 section 6.2.3 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);

/// Time for the first whole query to arrive. A client opens a connection because it has one: this
/// is time to send it again once or twice after a loss (RFC 6298: 1 s, then 2 s).
const FIRST_QUERY: Duration = Duration::from_secs(4);

/// The open connections.
pub(super) struct Connections {
    open: Slab<Connection>,
    holders: Holders,
    /// Most connections at a time.
    max: usize,
    /// The serial number of the last connection.
    serial: u64,
    /// A listener could not accept for lack of descriptors; it is retried at the next sweep.
    starved: bool,
    swept: Instant,
    /// Connections with a query completed since they were last served.
    resumed: Vec<usize>,
    /// Octets that were just read from a stream.
    scratch: Box<[u8]>,
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

    /// Closes a connection, if it is still open.
    fn close(&mut self, connection: usize) {
        if let Some(closed) = self.open.try_remove(connection) {
            self.holders.close(closed.hold);
        }
    }

    /// Closes a connection of the largest holder and returns `true`, unless there are none: one
    /// without a waiting query if there is one, of these the one that was idle longest.
    ///
    /// It looks at every connection: 10 to 20 µs for a full table.
    fn make_room(&mut self) -> bool {
        let victim = self
            .open
            .iter()
            .min_by_key(|(_, open)| {
                let held = self.holders.held(&open.hold);
                (Reverse(held), open.pending > 0, open.last_used)
            })
            .map(|(connection, _)| connection);
        let Some(connection) = victim else {
            return false;
        };
        self.close(connection);
        true
    }
}

impl Sockets {
    /// Accepts the connections that a listener has.
    pub(super) fn accept(&mut self, listener: usize) {
        let mut starved = false;
        for _ in 0..ACCEPT_BATCH {
            let Some(socket) = self.tcp.get(listener) else {
                return;
            };
            match socket.accept() {
                Ok((stream, peer)) => {
                    starved = false;
                    self.open(stream, peer.ip());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // Out of descriptors or memory: closing a connection frees some, unless others
                    // are quicker to take it.
                    if starved || !self.make_room() {
                        self.connections.starved = true;
                        return;
                    }
                    starved = true;
                }
            }
        }
        if let Some(socket) = self.tcp.get_mut(listener)
            && let Err(error) =
                self.registry
                    .reregister(socket, tcp_token(listener), Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a TCP listener again");
        }
    }

    fn open(&mut self, mut stream: TcpStream, peer: IpAddr) {
        self.counters.tcp_connections.add(1);
        // Counted before there is room: a client that becomes the largest holder by this connection
        // closes one of its own.
        let hold = self.connections.holders.open(peer);
        if self.connections.len() >= self.connections.max {
            self.make_room();
        }
        let connections = &mut self.connections;
        let token = connections.token(connections.open.vacant_key());
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Replies are written whole, and the next one should not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        if self
            .registry
            .register(&mut stream, token, interest)
            .is_err()
        {
            connections.holders.close(hold);
            return;
        }
        connections.serial += 1;
        let serial = connections.serial;
        connections
            .open
            .insert(Connection::new(stream, peer, serial, hold, self.now));
    }

    fn make_room(&mut self) -> bool {
        let made = self.connections.make_room();
        self.counters.tcp_closed_full.add(made.into());
        made
    }

    /// Whether [`sweep`](Self::sweep) has something to do once its time has come.
    pub(super) fn needs_sweep(&self) -> bool {
        self.connections.starved || self.connections.len() > 0
    }

    /// Closes idle connections, and accepts again where that had failed.
    pub(super) fn sweep(&mut self) {
        let now = self.now;
        let connections = &mut self.connections;
        if now.saturating_duration_since(connections.swept) < SWEEP {
            return;
        }
        connections.swept = now;
        let is_idle = |open: &Connection| {
            let limit = if open.used { IDLE } else { FIRST_QUERY };
            open.pending == 0 && now.saturating_duration_since(open.last_used) >= limit
        };
        let idle: Vec<usize> = connections
            .open
            .iter()
            .filter(|(_, open)| is_idle(open))
            .map(|(connection, _)| connection)
            .collect();
        self.counters.tcp_closed_idle.add(idle.len() as u64);
        for connection in idle {
            connections.close(connection);
        }
        if mem::take(&mut connections.starved) {
            for listener in 0..self.tcp.len() {
                self.accept(listener);
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
        self.counters.tcp_received.add(1);
        open.last_used = self.now;
        open.used = true;
        let origin = Origin::Tcp {
            connection,
            serial: open.serial,
            address: open.peer,
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
            Ok(true) => {}
            Ok(false) | Err(_) => self.sockets.connections.close(connection),
        }
    }

    /// Whether the connection stays open.
    fn exchange(&mut self, connection: usize) -> io::Result<bool> {
        loop {
            let connections = &mut self.sockets.connections;
            let Some(open) = connections.open.get_mut(connection) else {
                return Ok(true);
            };
            let had_room = open.has_room();
            let input = if had_room && !open.ended {
                open.read(&mut connections.scratch)?
            } else {
                Input::Drained
            };
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
                return Ok(true);
            };
            let written = open.write(self.sockets.now);
            self.engine.sent();
            written?;
            if open.failed {
                return Ok(false);
            }
            if input == Input::More {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.sockets
                    .registry
                    .reregister(&mut open.stream, token, interest)?;
                return Ok(true);
            }
            if had_room || !open.has_room() {
                return Ok(!(open.ended && open.is_quiet()));
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
