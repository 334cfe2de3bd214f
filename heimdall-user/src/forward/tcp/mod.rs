//! Queries over TCP: for each upstream a few connections, each of which carries many queries at once (RFC 7766
//! sections 6.2.1 and 7).
//!
//! A query goes over the first connection of its upstream on which fewer than [`SPREAD`] queries wait;
//! another one is opened if there is none, up to [`MAX_CONNECTIONS`]. So few queries share one connection, and many are
//! not held up by one lost segment. What is queued in a turn is sent with one system call for each connection. What has
//! arrived is acknowledged at the turn's end, if queries did not do that and more is awaited.
//!
//! # Lifetime
//!
//! An unused connection is closed before the upstream would close it: after the time that the upstream gives
//! (RFC 7828), or else after a few seconds. It gets no new query once one timed out on it and nothing came since, or
//! many have had no response, and is closed when it fails or has a response that belongs to no query. If nothing came on
//! any connection to the upstream, that holds for all that were open when the query was sent.
//!
//! Queries that were awaited on a connection that breaks are sent again, apart from others, half of them on each of two
//! new connections, and so on. So a query that has the upstream close its connection is soon alone, and fails alone.
//!
//! Over TLS a session (`rustls`) is between the stream and the messages.
//!
//! Some servers close each connection after a few responses, or after one; with queries outstanding that is mostly a
//! reset. As soon as two in a row did so after as many, connections get no more queries than that, and there may be more
//! of them, until one goes on.

mod connection;
mod framing;
mod pipeline;

use std::{
    io::{self, ErrorKind},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mio::{Interest, net::TcpStream};
use rustls::HandshakeKind;

use super::{
    exchange::{Destination, Exchange, SendError, Transport},
    tls::TlsClient,
    udp::Outstanding,
};
use connection::Connection;
pub(super) use connection::Received;
pub(super) use framing::Framing;
pub(super) use pipeline::Pending;
use pipeline::SPREAD;

/// Connections to each upstream. All of them can carry 16,384 queries at once.
const MAX_CONNECTIONS: usize = 16;

/// Connections to an upstream that closes them after a few responses, and to any with those that get no new queries.
const MAX_SHORT: usize = 128;

/// For how long connections get no more queries than the upstream was seen to answer on one.
const SHORT_FOR: Duration = Duration::from_secs(60);

/// A connection that is open for so long after that many responses goes on.
const OUTLIVED: Duration = Duration::from_secs(1);

/// Files that the connections to so many upstreams hold at most.
pub(super) const fn max_files(upstreams: usize) -> usize {
    upstreams * MAX_SHORT
}

/// How an upstream closes a connection, as reading or writing shows it.
const CLOSED: [ErrorKind; 3] = [
    ErrorKind::UnexpectedEof,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
];

/// The connections of a forwarder thread.
pub(super) struct Tcp {
    /// By the upstream's index.
    pools: Vec<Pool>,
    /// All that are open, by number. A number is never used again.
    connections: HashMap<usize, Connection, RandomState>,
    next: usize,
    /// Those whose output waits for the end of the turn.
    queued: Vec<usize>,
    /// When one may have to be closed because it is unused.
    idle_check: Option<Instant>,
    opened: u64,
    /// TLS handshakes, and those among them that resumed a session.
    handshakes: [u64; 2],
}

#[derive(Default)]
struct Pool {
    /// If the upstream is asked over TLS.
    tls: Option<Arc<TlsClient>>,
    /// Numbers of connections, the oldest first.
    numbers: Vec<usize>,
    /// The queries that the upstream answers on a connection, and until when that is believed.
    limit: Option<(u32, Instant)>,
    /// Those that it answered on the last connection that it closed with queries outstanding.
    last: Option<u32>,
}

impl Pool {
    /// The upstream has closed a connection after so many responses, with queries outstanding.
    fn note_closed(&mut self, answered: u32, now: Instant) {
        if answered > 0 && self.last == Some(answered) {
            self.limit = Some((answered, now + SHORT_FOR));
        }
        self.last = Some(answered);
    }
}

/// What was lost with a connection.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) upstream: usize,
    /// Why TLS has failed.
    pub(super) problem: Option<String>,
    /// The queries whose responses were awaited.
    pub(super) awaited: Vec<Outstanding>,
    /// The upstream had accepted it: another one may do.
    pub(super) was_established: bool,
    /// It carried one query in all.
    pub(super) was_alone: bool,
}

/// Choosing a connection.
impl Tcp {
    pub(super) fn new() -> Self {
        Self {
            pools: Vec::new(),
            connections: HashMap::default(),
            next: 0,
            queued: Vec::new(),
            idle_check: None,
            opened: 0,
            handshakes: [0; 2],
        }
    }

    /// An upstream has this index now, and is asked over TLS if there is a client.
    pub(super) fn add_upstream(&mut self, index: usize, tls: Option<Arc<TlsClient>>) {
        if index >= self.pools.len() {
            self.pools.resize_with(index + 1, Pool::default);
        }
        if let Some(pool) = self.pools.get_mut(index) {
            pool.tls = tls;
        }
    }

    /// Closes the connections to an upstream, on which nothing is awaited.
    pub(super) fn remove_upstream(&mut self, index: usize) {
        let pool = self.pools.get_mut(index).map(mem::take);
        for number in pool.into_iter().flat_map(|pool| pool.numbers) {
            self.remove(number);
        }
    }

    /// Connections that are open, those that were opened so far, TLS handshakes, and those among them that resumed a
    /// session.
    pub(super) fn counts(&self) -> [u64; 4] {
        let [handshakes, resumed] = self.handshakes;
        [
            self.connections.len() as u64,
            self.opened,
            handshakes,
            resumed,
        ]
    }

    /// The number of a connection for the next query to an upstream.
    pub(super) fn choose(&mut self, to: Destination<'_>) -> Result<usize, SendError> {
        let Destination { upstream, now, .. } = to;
        let limit = self.limit(upstream, now);
        let pool = self.pools.get(upstream).ok_or(SendError::Resources)?;
        let most = if limit.is_some() {
            MAX_SHORT
        } else {
            MAX_CONNECTIONS
        };
        let mut lightest: Option<(usize, usize)> = None;
        let mut open = 0;
        for number in &pool.numbers {
            let Some(connection) = self.connections.get(number) else {
                continue;
            };
            open += usize::from(!connection.is_retired());
            if !connection.is_usable() {
                continue;
            }
            let load = connection.load();
            let may_be_used = limit.is_none_or(|limit| connection.used() < limit);
            if load < SPREAD && may_be_used && !connection.is_apart() {
                return Ok(*number);
            }
            if lightest.is_none_or(|(_, least)| load < least) {
                lightest = Some((*number, load));
            }
        }
        let lightest = lightest.map(|(number, _)| number);
        if open >= most {
            return lightest.ok_or(SendError::Resources);
        }
        if pool.numbers.len() >= MAX_SHORT {
            if let Some(number) = lightest {
                return Ok(number);
            }
            if !self.close_retired(upstream) {
                return Err(SendError::Resources);
            }
        }
        match self.open(to) {
            Ok(number) => Ok(number),
            Err(error @ (SendError::Resources | SendError::Address)) => lightest.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// The queries that the upstream answers on a connection, if few.
    fn limit(&mut self, upstream: usize, now: Instant) -> Option<u32> {
        let pool = self.pools.get_mut(upstream)?;
        let (limit, until) = pool.limit?;
        let goes_on = |number: &usize| {
            let connection = self.connections.get(number);
            connection.is_some_and(|connection| connection.has_outlived(limit, OUTLIVED, now))
        };
        if now >= until || pool.numbers.iter().any(goes_on) {
            pool.limit = None;
            pool.last = None;
        }
        pool.limit.map(|(limit, _)| limit)
    }

    /// Of so many queries that were awaited on a connection that broke, those that go together on another one. At least
    /// 1.
    pub(super) fn group(&mut self, upstream: usize, queries: usize, now: Instant) -> usize {
        let limit = self.limit(upstream, now).map(|limit| limit as usize);
        let half = queries.div_ceil(2);
        limit.map_or(half, |limit| half.min(limit)).max(1)
    }

    /// Opens a connection for queries that are kept apart from others.
    pub(super) fn open_apart(&mut self, to: Destination<'_>) -> Result<usize, SendError> {
        let pool = self.pools.get(to.upstream);
        if pool.is_none_or(|pool| pool.numbers.len() >= MAX_SHORT) {
            return Err(SendError::Resources);
        }
        let number = self.open(to)?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.set_apart();
        }
        Ok(number)
    }

    fn open(&mut self, to: Destination<'_>) -> Result<usize, SendError> {
        let pool = self.pools.get(to.upstream);
        let tls = pool.and_then(|pool| pool.tls.as_ref());
        let session = tls.map(|tls| tls.connect()).transpose()?;
        let mut stream = TcpStream::connect(to.address)?;
        // What is written is whole messages; the next should not wait for an acknowledgement (RFC 7766 section 8).
        let _ = stream.set_nodelay(true);
        let number = self.next;
        let interests = Interest::READABLE | Interest::WRITABLE;
        let token = (to.token)(number);
        to.registry.register(&mut stream, token, interests)?;
        self.next += 1;
        self.opened += 1;
        let connection = Connection::new(stream, session, to.upstream, to.now);
        self.connections.insert(number, connection);
        if let Some(pool) = self.pools.get_mut(to.upstream) {
            pool.numbers.push(number);
        }
        Ok(number)
    }

    /// Closes the oldest connection to the upstream that gets no more queries. Its queries time out: no late response is
    /// accepted. Whether there was one.
    #[cold]
    fn close_retired(&mut self, upstream: usize) -> bool {
        self.close_first(upstream, Connection::is_retired)
    }

    /// Closes the oldest connection to the upstream of which `is` holds. Whether there was one.
    fn close_first(&mut self, upstream: usize, is: impl Fn(&Connection) -> bool) -> bool {
        let numbers = self.pools.get(upstream).map(|pool| pool.numbers.iter());
        let is = |number: &&usize| self.connections.get(*number).is_some_and(&is);
        let first = numbers.and_then(|mut numbers| numbers.find(is).copied());
        first.is_some_and(|number| self.remove(number).is_some())
    }

    /// Closes a connection that is not used, to free a file. Whether there was one.
    #[cold]
    pub(super) fn close_unused(&mut self) -> bool {
        let connections = self.connections.iter();
        let mut unused = connections.filter(|(_, connection)| !connection.is_awaited());
        let unused = unused.next().map(|(number, _)| *number);
        unused.is_some_and(|number| self.remove(number).is_some())
    }

    fn remove(&mut self, number: usize) -> Option<Connection> {
        let mut connection = self.connections.remove(&number)?;
        connection.say_goodbye();
        if let Some(pool) = self.pools.get_mut(connection.upstream()) {
            pool.numbers.retain(|other| *other != number);
        }
        Some(connection)
    }
}

/// Queries and responses.
impl Tcp {
    /// Draws an ID for an exchange over a connection. `None`: it carries too many.
    pub(super) fn assign(
        &mut self,
        number: usize,
        slot: usize,
        serial: u64,
        now: Instant,
    ) -> Option<Outstanding> {
        self.connections.get_mut(&number)?.assign(slot, serial, now)
    }

    /// Queues a query, which is sent at the end of the turn, or once the connection is established.
    pub(super) fn queue(&mut self, number: usize, query: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.queue(query);
            if !mem::replace(&mut connection.queued, true) {
                self.queued.push(number);
            }
        }
    }

    /// Whether queries wait for the end of the turn.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// A connection whose queries wait for the end of the turn. They are to be [sent](Self::flush).
    pub(super) fn next_queued(&mut self) -> Option<usize> {
        let number = self.queued.pop()?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.queued = false;
        }
        Some(number)
    }

    /// Sends what is queued on a connection, as far as the socket takes it.
    pub(super) fn flush(&mut self, number: usize) -> io::Result<()> {
        let connection = self.connections.get_mut(&number);
        connection.map_or(Ok(()), Connection::flush)
    }

    /// Reads once from a connection.
    ///
    /// # Errors
    /// It has failed, or the upstream has closed it.
    pub(super) fn read(&mut self, number: usize, scratch: &mut [u8]) -> io::Result<Received> {
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(Received::Nothing);
        };
        let was_established = connection.is_established();
        let received = connection.read(scratch);
        if !was_established && let Some(kind) = connection.handshake() {
            let [handshakes, resumed] = &mut self.handshakes;
            *handshakes += 1;
            *resumed += u64::from(kind == HandshakeKind::Resumed);
        }
        received
    }

    /// Acknowledges what has arrived on a connection, if more responses are awaited there.
    pub(super) fn acknowledge(&mut self, number: usize) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.acknowledge();
        }
    }

    /// Takes out what was received on a connection. [`put_back`](Self::put_back) returns what is left of it.
    pub(super) fn take_input(&mut self, number: usize) -> Framing {
        let connection = self.connections.get_mut(&number);
        connection.map_or_else(Framing::default, |connection| {
            mem::take(&mut connection.input)
        })
    }

    pub(super) fn put_back(&mut self, number: usize, mut input: Framing) {
        input.trim();
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.input = input;
        }
    }

    pub(super) fn is_open(&self, number: usize) -> bool {
        self.connections.contains_key(&number)
    }

    pub(super) fn is_established(&self, number: usize) -> bool {
        let connection = self.connections.get(&number);
        connection.is_some_and(Connection::is_established)
    }

    /// When a connection was opened.
    pub(super) fn opened(&self, number: usize) -> Option<Instant> {
        self.connections.get(&number).map(Connection::opened)
    }

    /// Takes the query that a response with this ID belongs to. `None`: there is none.
    pub(super) fn take(&mut self, number: usize, id: u16, now: Instant) -> Option<Pending> {
        let connection = self.connections.get_mut(&number)?;
        let pending = connection.take(id, now)?;
        self.settle(number);
        Some(pending)
    }

    /// The upstream keeps an unused connection for so long (RFC 7828).
    pub(super) fn keep_for(&mut self, number: usize, time: Duration) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.set_idle(time);
            self.settle(number);
        }
    }

    /// The exchange has ended: no response is awaited any more.
    pub(super) fn end(&mut self, exchange: &Exchange) {
        if let Transport::Tcp(number) = exchange.transport
            && let Some(connection) = self.connections.get_mut(&number)
        {
            connection.abandon(exchange.sent.id, exchange.sent.serial);
            self.settle(number);
        }
    }

    /// A query that was sent then has timed out: its connection gets no more if no response came on it since; if none
    /// came on any, nor do the others that were open then.
    pub(super) fn timed_out(&mut self, upstream: usize, number: usize, sent: Instant) {
        let Some(pool) = self.pools.get(upstream) else {
            return;
        };
        let connections = &mut self.connections;
        let is_heard = |number: &usize| {
            let connection = connections.get(number);
            connection.is_some_and(|connection| connection.heard_since(sent))
        };
        let is_heard = pool.numbers.iter().any(is_heard);
        for other in &pool.numbers {
            if (*other == number || !is_heard)
                && let Some(connection) = connections.get_mut(other)
                && connection.is_silent_since(sent)
            {
                connection.retire();
            }
        }
        while self.close_done(upstream) {}
    }

    /// Closes a connection that gets no more queries and on which none waits. Whether there was one.
    fn close_done(&mut self, upstream: usize) -> bool {
        let is_done = |connection: &Connection| connection.is_retired() && !connection.is_awaited();
        self.close_first(upstream, is_done)
    }

    /// Closes a connection that has failed, with an error if that is not for what it brought.
    #[cold]
    pub(super) fn lose(&mut self, number: usize, error: Option<&io::Error>, now: Instant) -> Lost {
        let Some(mut connection) = self.remove(number) else {
            return Lost::default();
        };
        let upstream = connection.upstream();
        if connection.is_awaited()
            && error.is_some_and(|error| CLOSED.contains(&error.kind()))
            && let Some(pool) = self.pools.get_mut(upstream)
        {
            pool.note_closed(connection.answered(), now);
        }
        Lost {
            upstream,
            problem: connection.take_problem(error),
            was_established: connection.is_established(),
            was_alone: connection.used() == 1,
            awaited: connection.close(),
        }
    }
}

/// Unused connections.
impl Tcp {
    /// Nothing may be awaited on a connection any more: it is closed if it gets no more queries, and otherwise once it
    /// was unused for long enough.
    fn settle(&mut self, number: usize) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        if connection.is_awaited() {
            return;
        }
        if connection.is_retired() {
            self.remove(number);
            return;
        }
        let until = connection.idle_until();
        self.idle_check = Some(self.idle_check.map_or(until, |check| check.min(until)));
    }

    /// When a connection may have to be closed.
    pub(super) fn idle_check(&self) -> Option<Instant> {
        self.idle_check
    }

    /// Closes the connections that were unused for long enough.
    pub(super) fn close_idle(&mut self, now: Instant) {
        if self.idle_check.is_none_or(|check| now < check) {
            return;
        }
        let mut next: Option<Instant> = None;
        let pools = &mut self.pools;
        self.connections.retain(|number, connection| {
            if connection.is_awaited() {
                return true;
            }
            let until = connection.idle_until();
            if now < until {
                next = Some(next.map_or(until, |next| next.min(until)));
                return true;
            }
            connection.say_goodbye();
            if let Some(pool) = pools.get_mut(connection.upstream()) {
                pool.numbers.retain(|other| other != number);
            }
            false
        });
        self.idle_check = next;
    }
}
