//! The connections of the socket front's loop: accepted, served, and closed in time.
//!
//! The table has a fixed size, and a new client always gets in: when the table is full, a
//! connection of the largest holder is closed (RFC 7766 section 6.2.2), the one that was idle
//! longest.

use std::{
    cmp::Reverse,
    io::{self, ErrorKind},
    net::IpAddr,
    time::{Duration, Instant},
};

use mio::{Interest, Token, net::TcpStream};

use super::{
    front::{LISTENERS, Loop, SWEEP},
    pending::Origin,
    tcp::{Connection, Input},
};
use crate::{answer::Verdict, dns::reply::Reply};

/// Connections accepted before others get their turn.
const ACCEPT_BATCH: usize = 64;

/// Connections at a time.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// Time for which a connection may be idle (RFC 7766 section 6.2.3 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);

/// Time for the first whole query to come. A client opens a connection because it has one: this
/// is time to send it again once or twice after a loss (RFC 6298: 1 s, then 2 s).
const FIRST_QUERY: Duration = Duration::from_secs(4);

impl Loop {
    fn token(&self, connection: usize) -> Token {
        Token(LISTENERS + 2 * self.udp.len() + connection)
    }

    pub(super) fn accept(&mut self, listener: usize, now: Instant) {
        let mut starved = false;
        for _ in 0..ACCEPT_BATCH {
            let Some(socket) = self.tcp.get(listener) else {
                return;
            };
            match socket.accept() {
                Ok((stream, peer)) => {
                    starved = false;
                    self.open(stream, peer.ip(), now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // Out of descriptors or memory: a connection less gives back some, unless
                    // others are quicker to take it.
                    if starved || !self.make_room() {
                        self.starved = true;
                        return;
                    }
                    starved = true;
                }
            }
        }
        let token = Token(LISTENERS + 2 * listener + 1);
        if let Some(socket) = self.tcp.get_mut(listener)
            && let Err(error) = self
                .poll
                .registry()
                .reregister(socket, token, Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a TCP listener anew");
        }
    }

    fn open(&mut self, mut stream: TcpStream, peer: IpAddr, now: Instant) {
        self.counters.tcp_connections.add(1);
        // Counted before there is room: who comes to hold most by this one closes one of its own.
        let hold = self.holders.open(peer);
        if self.connections.len() >= MAX_CONNECTIONS {
            self.make_room();
        }
        let connection = self.connections.vacant_key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = self.token(connection);
        // Replies are written whole, and the next one should not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        if self
            .poll
            .registry()
            .register(&mut stream, token, interest)
            .is_err()
        {
            self.holders.close(hold);
            return;
        }
        self.serial += 1;
        self.connections
            .insert(Connection::new(stream, peer, self.serial, hold, now));
    }

    /// Closes a connection, if it is still open.
    fn close(&mut self, connection: usize) {
        if let Some(closed) = self.connections.try_remove(connection) {
            self.holders.close(closed.hold);
        }
    }

    /// Does what can be done for a connection: reads, answers, writes, and closes it at its end.
    pub(super) fn serve(&mut self, connection: usize, now: Instant) {
        match self.exchange(connection, now) {
            Ok(true) => {}
            Ok(false) | Err(_) => self.close(connection),
        }
    }

    /// Whether the connection stays open.
    fn exchange(&mut self, connection: usize, now: Instant) -> io::Result<bool> {
        let token = self.token(connection);
        let Some(open) = self.connections.get_mut(connection) else {
            return Ok(true);
        };
        loop {
            let had_room = open.has_room();
            let input = if had_room && !open.ended {
                open.read(&mut self.scratch)?
            } else {
                Input::Drained
            };
            while open.has_room() {
                let Some(len) = open.message(&mut self.buf) else {
                    break;
                };
                self.counters.tcp_received.add(1);
                open.last_used = now;
                open.used = true;
                let origin = Origin::Tcp {
                    connection,
                    serial: open.serial,
                    address: open.peer,
                };
                let query = self.service.read(self.buf.get(..len).unwrap_or_default());
                match self.service.answer(&query, &mut self.buf, origin) {
                    Verdict::Reply {
                        reply: Reply { len, .. },
                        ..
                    } => {
                        open.reply(self.buf.get(..len).unwrap_or_default());
                        self.counters.tcp_answered.add(1);
                    }
                    Verdict::Miss => open.pending += 1,
                    // Not DNS, or a response: there is no use in listening on.
                    Verdict::Drop => return Ok(false),
                }
                if !open.has_room() {
                    open.write(now)?;
                }
            }
            open.write(now)?;
            if open.is_clogged() {
                return Ok(false);
            }
            if input == Input::More {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll
                    .registry()
                    .reregister(&mut open.stream, token, interest)?;
                return Ok(true);
            }
            if had_room || !open.has_room() {
                return Ok(!(open.ended && open.is_quiet()));
            }
        }
    }

    /// Closes a connection of whoever holds most: one with no query under way if there is one, of
    /// these the one that was idle longest. `false`: there are none.
    ///
    /// It looks at every connection: 10 to 20 µs for a full table.
    fn make_room(&mut self) -> bool {
        let victim = self
            .connections
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
        self.counters.tcp_closed_full.add(1);
        true
    }

    /// Closes idle connections, and accepts again where that had failed.
    pub(super) fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let is_idle = |open: &Connection| {
            let limit = if open.used { IDLE } else { FIRST_QUERY };
            open.pending == 0 && now.saturating_duration_since(open.last_used) >= limit
        };
        let idle: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, open)| is_idle(open))
            .map(|(connection, _)| connection)
            .collect();
        self.counters.tcp_closed_idle.add(idle.len() as u64);
        for connection in idle {
            self.close(connection);
        }
        if std::mem::take(&mut self.starved) {
            for listener in 0..self.tcp.len() {
                self.accept(listener, now);
            }
        }
    }
}

/// Errors of accept(2) that concern the connection, not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ENOBUFS | nix::libc::ENOMEM)
    )
}
