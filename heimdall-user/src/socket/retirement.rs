//! The end of a front's service: its listeners and connections go to a successor, or it answers what has arrived and closes
//! them.
//!
//! A front that retires takes what its listeners have, as fast as there is room for queries that wait, and then listens no
//! more. It answers what it has taken. A connection for
//! plain TCP goes to the successor between two messages: it is not read any more, and once nothing of it waits and all
//! replies are sent, the successor gets the socket, with the octets that were read of a message. A TLS session
//! cannot move, and without a successor no connection can: these end in order (RFC 7766 section 6.2.4, RFC 7858 section 3.4).
//! They are read on until the client has its replies, or for [`GRACE`]; then the client is told that nothing more comes,
//! and has [`GRACE`] to close. Until then what it sends is read and discarded: a socket that is closed with octets unread, or
//! that gets more, resets the connection, and the client loses replies that it has not read.

use std::{
    io::{self, Read},
    mem,
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    sync::{
        atomic::Ordering::Relaxed,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use super::{
    connections::ACCEPT_BATCH,
    front::{Command, Loop, SocketFront},
    sockets::Sockets,
    tcp::Phase,
    tls::Failure,
};
use crate::{front::BATCH, handover::Connection};

/// What becomes of a front's listeners and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A successor has the same listeners, and gets the connections. The front can resume.
    HandOver,
    /// The same, as this server's start has failed: the "successor" is its predecessor, which does not have all of the
    /// listeners. Those of its own take nothing more.
    GiveBack,
    /// There is no successor: the listeners are closed, and the connections after their replies.
    Drain,
}

/// Time for a client that has just connected to send a query, and for one whose connection ends to close it.
const GRACE: Duration = Duration::from_secs(1);

/// How often a front that retires looks at the time.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How long a thread that works may take to respond.
pub(super) const RESPONSE: Duration = Duration::from_secs(1);

/// Batches of datagrams taken from a listener that is not read any more: a full receive buffer's.
const LAST_BATCHES: usize = 512;

/// Rounds of connections taken from a listener that accepts no more: a full queue's (`net.core.somaxconn`).
const LAST_ACCEPTS: usize = 4096 / ACCEPT_BATCH;

/// Where a front is in its life.
#[derive(Debug)]
pub(super) enum State {
    Serving,
    Retiring(Retirement),
    /// It serves nothing.
    Retired,
}

/// A retirement that is under way.
#[derive(Debug)]
pub(super) struct Retirement {
    how: Ending,
    since: Instant,
    /// When what is left is closed.
    until: Instant,
    /// Batches that are still to be taken from each UDP listener, at most.
    batches: Vec<usize>,
    /// Connections that do not move are still read.
    reads: bool,
    /// Takes the connections. Whoever receives them knows by its drop that the retirement is over.
    to: Sender<Connection>,
}

/// For the threads' owner.
impl SocketFront {
    /// Retires all fronts at the same time. Returns when nothing is left to be answered or closed, or after `limit`.
    /// `sink` gets the connections that are handed over, as soon as each can be.
    ///
    /// # Errors
    /// A thread does not respond; it still has what it had.
    pub(crate) fn retire(
        fronts: &[Self],
        how: Ending,
        limit: Duration,
        sink: &mut dyn FnMut(Connection),
    ) -> io::Result<()> {
        let (to, connections) = mpsc::channel();
        let until = Instant::now() + limit;
        let mut all_retire = true;
        for front in fronts {
            let to = to.clone();
            all_retire &= front.send(Command::Retire { how, until, to });
        }
        drop(to);
        loop {
            let left = (until + RESPONSE).saturating_duration_since(Instant::now());
            match connections.recv_timeout(left) {
                Ok(connection) => sink(connection),
                Err(RecvTimeoutError::Disconnected) if all_retire => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(no_response()),
                Err(RecvTimeoutError::Timeout) => return Err(no_response()),
            }
        }
    }

    /// Serves again after [`Ending::HandOver`].
    pub(crate) fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Gives a predecessor's connection to the front with the fewest. If that has no room, or retires, it is closed.
    pub(crate) fn adopt(fronts: &[Self], connection: Connection) {
        let held = |front: &&Self| {
            let counters = &front.counters;
            let open = counters.tcp_open.get() + counters.tls_open.get();
            open + front.given.load(Relaxed)
        };
        if let Some(front) = fronts.iter().min_by_key(held) {
            front.given.fetch_add(1, Relaxed);
            if !front.send(Command::Adopt(connection)) {
                front.given.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Duplicates of the listeners. None after [`Ending::Drain`].
    ///
    /// # Errors
    /// They cannot be duplicated, or the thread does not respond.
    pub(crate) fn listeners(&self) -> io::Result<Vec<OwnedFd>> {
        let (to, listeners) = mpsc::sync_channel(1);
        self.send(Command::Duplicate(to));
        let listeners = listeners.recv_timeout(RESPONSE);
        listeners.unwrap_or_else(|_| Err(no_response()))
    }
}

fn no_response() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "a thread of the sockets does not respond",
    )
}

impl Loop {
    /// Stops listening, and begins to end or hand over the connections.
    pub(super) fn retire(&mut self, how: Ending, until: Instant, to: Sender<Connection>) {
        self.sockets.deregister();
        let how = match how {
            Ending::GiveBack => {
                // Before their queues are taken.
                self.sockets.leave_joined();
                Ending::HandOver
            }
            how => how,
        };
        self.take_connections(how);
        self.sockets.connections.starved = false;
        if how == Ending::Drain {
            self.sockets.tcp.clear();
        }
        for (_, open) in &mut self.sockets.connections.open {
            if how == Ending::HandOver && open.phase == Phase::Open && !open.stream.is_tls() {
                open.phase = Phase::Stopped;
            }
        }
        self.state = State::Retiring(Retirement {
            how,
            since: self.sockets.now,
            until,
            batches: vec![LAST_BATCHES; self.sockets.udp.len()],
            reads: true,
            to,
        });
        self.take_datagrams_left();
        self.serve_all();
    }

    /// Takes the connections that the listeners have. Of a successor's, it may take some, too; those for TLS are left to that.
    fn take_connections(&mut self, how: Ending) {
        let streams = match how {
            Ending::Drain => self.sockets.tcp.len(),
            _ => self.sockets.plain.min(self.sockets.tcp.len()),
        };
        for listener in 0..streams {
            for _ in 0..LAST_ACCEPTS {
                if self.sockets.take_connections(listener, &self.engine) {
                    break;
                }
            }
        }
    }

    /// Takes what the UDP listeners have, while there is room for as many queries to wait; of a successor's, it may take some,
    /// too. Whether that is all.
    fn take_datagrams_left(&mut self) -> bool {
        let State::Retiring(retirement) = &mut self.state else {
            return true;
        };
        let mut batches = mem::take(&mut retirement.batches);
        for (listener, left) in batches.iter_mut().enumerate() {
            while *left > 0 && (self.engine.room() >= BATCH || self.engine.waiting() == 0) {
                let is_all = self.take_datagrams(listener, 1);
                *left = if is_all { 0 } else { *left - 1 };
                self.complete();
            }
        }
        let is_all = batches.iter().all(|left| *left == 0);
        if let State::Retiring(retirement) = &mut self.state {
            retirement.batches = batches;
        }
        is_all
    }

    /// Serves the connections; those with a TLS handshake under way are served when epoll reports them.
    fn serve_all(&mut self) {
        let open = self.sockets.connections.open.iter();
        let open: Vec<usize> = open
            .filter(|(_, open)| !open.stream.is_handshaking())
            .map(|(connection, _)| connection)
            .collect();
        for connection in open {
            self.serve(connection);
        }
    }

    /// Hands over or ends a connection that was served, if the front retires and nothing of it waits.
    pub(super) fn part(&mut self, connection: usize) {
        let State::Retiring(retirement) = &self.state else {
            return;
        };
        let Some(open) = self.sockets.connections.open.get_mut(connection) else {
            return;
        };
        let is_stopped = open.phase == Phase::Stopped && open.is_quiet();
        if retirement.how == Ending::HandOver && !open.stream.is_tls() {
            if is_stopped {
                self.hand_over(connection);
            }
        } else if is_stopped || open.phase == Phase::Open && open.is_served() {
            open.end(self.sockets.now);
            self.sockets.counters.tcp_drained.add(1);
        }
    }

    fn hand_over(&mut self, connection: usize) {
        let State::Retiring(retirement) = &self.state else {
            return;
        };
        let sockets = &mut self.sockets;
        let Some((mut stream, unread)) = sockets.connections.remove(connection) else {
            return;
        };
        // Closing would not end the reports on it: the successor has it.
        let _ = sockets.registry.deregister(&mut stream.socket);
        let stream = stream.socket.into();
        let counter = match retirement.to.send(Connection { stream, unread }) {
            Ok(()) => &sockets.counters.tcp_handed_over,
            // Nobody waits for it any more.
            Err(_) => &sockets.counters.tcp_drained_late,
        };
        counter.add(1);
    }

    /// Goes on with a retirement, if one is under way. To be called in each turn.
    pub(super) fn continue_retirement(&mut self) {
        let has_taken_all = self.take_datagrams_left();
        let State::Retiring(retirement) = &mut self.state else {
            return;
        };
        let now = self.sockets.now;
        let is_late = now >= retirement.until;
        let waiting = self.engine.waiting();
        let is_answered = has_taken_all && waiting == 0;
        if retirement.how == Ending::Drain && is_answered {
            // Clients learn at once that nobody is here (ICMP).
            self.sockets.udp.clear();
        }
        let stops = now.saturating_duration_since(retirement.since) >= GRACE
            && mem::replace(&mut retirement.reads, false);
        if stops {
            self.stop_reading();
        }
        self.sockets.close_ended();
        if is_late {
            if waiting > 0 {
                tracing::warn!(
                    "{waiting} queries over the sockets were not answered in the time for the end"
                );
            }
            self.close_all();
        }
        if is_late || is_answered && self.sockets.connections.len() == 0 {
            self.state = State::Retired;
        }
    }

    /// Reads no connection any more.
    fn stop_reading(&mut self) {
        for (_, open) in &mut self.sockets.connections.open {
            if open.phase == Phase::Open {
                open.phase = Phase::Stopped;
            }
        }
        let open = self.sockets.connections.open.iter();
        let open: Vec<usize> = open.map(|(connection, _)| connection).collect();
        for connection in open {
            self.serve(connection);
        }
    }

    fn close_all(&mut self) {
        let open = self.sockets.connections.open.iter();
        let open: Vec<(usize, bool)> = open
            .map(|(connection, open)| (connection, open.phase == Phase::Ended))
            .collect();
        for (connection, has_ended) in open {
            if !has_ended {
                self.sockets.counters.tcp_drained_late.add(1);
            }
            self.sockets.close(connection, Failure::Timeout);
        }
    }

    /// Serves again, if the front has retired or does.
    pub(super) fn resume(&mut self) {
        if matches!(self.state, State::Serving) {
            return;
        }
        self.state = State::Serving;
        if let Err(error) = self.sockets.register() {
            tracing::error!(%error, "cannot register the listeners again");
        }
        for (_, open) in &mut self.sockets.connections.open {
            if open.phase == Phase::Stopped {
                open.phase = Phase::Open;
            }
        }
        self.serve_all();
    }

    /// Goes on with a predecessor's connection. Without room for it, it is closed in order.
    pub(super) fn adopt(&mut self, connection: Connection) {
        let Connection { stream, unread } = connection;
        let mut stream = TcpStream::from(stream);
        // An error: its client has reset it, or it is no connection over TCP.
        let (Ok(peer), Ok(())) = (stream.peer_addr(), stream.set_nonblocking(true)) else {
            return;
        };
        let sockets = &mut self.sockets;
        let connections = &mut sockets.connections;
        if connections.len() >= connections.max || !matches!(self.state, State::Serving) {
            let _ = stream.shutdown(Shutdown::Write);
            // Octets that are left unread would reset the connection.
            let _ = stream.read(&mut connections.scratch);
            sockets.counters.tcp_adopted_closed.add(1);
            return;
        }
        let stream = mio::net::TcpStream::from_std(stream);
        if let Some(connection) = sockets.adopt(stream, peer.ip(), unread) {
            sockets.counters.tcp_adopted.add(1);
            self.serve(connection);
        }
    }
}

impl Sockets {
    /// Closes the connections whose clients were told to close them and have not.
    pub(super) fn close_ended(&mut self) {
        let now = self.now;
        let is_over =
            |phase, since| phase == Phase::Ended && now.saturating_duration_since(since) >= GRACE;
        let open = self.connections.open.iter();
        let over: Vec<usize> = open
            .filter(|(_, open)| is_over(open.phase, open.last_used))
            .map(|(connection, _)| connection)
            .collect();
        for connection in over {
            self.close(connection, Failure::Timeout);
        }
    }
}
