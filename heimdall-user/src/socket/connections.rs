//! The connections of the socket front's loop: accepted, served, and closed in time.

use std::{
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

/// Connections at a time. When there are more, the one that was idle longest is closed.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// Time for which a connection may be idle (RFC 7766 section 6.2.3 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);

impl Loop {
    fn token(&self, connection: usize) -> Token {
        Token(LISTENERS + 2 * self.udp.len() + connection)
    }

    pub(super) fn accept(&mut self, listener: usize, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            let Some(socket) = self.tcp.get(listener) else {
                return;
            };
            match socket.accept() {
                Ok((stream, peer)) => self.open(stream, peer.ip(), now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // Out of descriptors or memory: an idle connection gives back some.
                    self.close_oldest();
                    self.starved = true;
                    return;
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
        if self.connections.len() >= MAX_CONNECTIONS && !self.close_oldest() {
            return;
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
            .is_ok()
        {
            self.serial += 1;
            self.connections
                .insert(Connection::new(stream, peer, self.serial, now));
        }
    }

    /// Does what can be done for a connection: reads, answers, writes, and closes it at its end.
    pub(super) fn serve(&mut self, connection: usize, now: Instant) {
        match self.exchange(connection, now) {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                self.connections.try_remove(connection);
            }
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
                let origin = Origin::Tcp {
                    connection,
                    serial: open.serial,
                    address: open.peer,
                };
                let query = self.service.read(self.buf.get(..len).unwrap_or_default());
                match self.service.answer(&query, &mut self.buf, origin) {
                    Verdict::Reply(Reply { len, .. }) => {
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

    /// Closes the connection that was idle longest, if one is idle at all.
    fn close_oldest(&mut self) -> bool {
        let oldest = self
            .connections
            .iter()
            .filter(|(_, open)| open.pending == 0)
            .min_by_key(|(_, open)| open.last_used)
            .map(|(connection, _)| connection);
        let Some(connection) = oldest else {
            return false;
        };
        self.connections.try_remove(connection);
        self.counters.tcp_closed_idle.add(1);
        true
    }

    /// Closes idle connections, and accepts again where that had failed.
    pub(super) fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let counters = &self.counters;
        self.connections.retain(|_, open| {
            let idle = open.pending == 0 && now.saturating_duration_since(open.last_used) >= IDLE;
            if idle {
                counters.tcp_closed_idle.add(1);
            }
            !idle
        });
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
