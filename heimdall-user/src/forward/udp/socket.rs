//! A connected UDP socket that carries many queries.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mio::net::UdpSocket;

use super::{Datagram, MAX_REJECTED};
use crate::{
    dns::{header::field, u16_at},
    forward::exchange::Sent,
};

/// A query over UDP that has no response yet: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) struct Outstanding {
    pub(in crate::forward) id: u16,
    /// The look-up's slot.
    pub(in crate::forward) slot: usize,
    /// The serial number of the exchange.
    pub(in crate::forward) serial: u64,
}

/// What a datagram is, by its sender and its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) enum Match {
    /// It may be the response to this query.
    Query(Outstanding),
    /// A response to a query that has ended.
    Late,
    /// It comes from another address than the upstream's.
    WrongSource,
    /// No query had this ID.
    WrongId,
    /// It is too short to have an ID.
    TooShort,
}

/// Outstanding queries for which a new table has memory.
const USUAL_OUTSTANDING: usize = 224;

/// A socket's queries. The memory of a closed one is used again.
pub(super) struct Table {
    /// Those without a response, by ID: random numbers, which no attacker can make collide.
    outstanding: HashMap<u16, Outstanding, RandomState>,
    used: IdSet,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            outstanding: HashMap::with_capacity_and_hasher(
                USUAL_OUTSTANDING,
                RandomState::default(),
            ),
            used: IdSet::default(),
        }
    }
}

impl Table {
    pub(super) fn clear(&mut self) {
        self.outstanding.clear();
        self.used.0.fill(0);
    }
}

/// IDs that were used, a bit for each.
struct IdSet(Box<[u64]>);

impl Default for IdSet {
    fn default() -> Self {
        Self(vec![0; 1 << 10].into())
    }
}

impl IdSet {
    fn contains(&self, id: u16) -> bool {
        let word = self.0.get(usize::from(id >> 6));
        word.is_some_and(|word| word & 1 << (id & 63) != 0)
    }

    /// Adds an ID. Whether it is new.
    fn insert(&mut self, id: u16) -> bool {
        let is_new = !self.contains(id);
        if let Some(word) = self.0.get_mut(usize::from(id >> 6)) {
            *word |= 1 << (id & 63);
        }
        is_new
    }
}

/// A socket of a pool.
pub(in crate::forward) struct Socket {
    socket: UdpSocket,
    /// The address that it sends from.
    own: IpAddr,
    upstream: SocketAddr,
    /// Queries that it may still get.
    queries_left: u16,
    opened: Instant,
    /// When it gets no more.
    until: Instant,
    /// When the last response arrived on it.
    heard: Option<Instant>,
    retired: bool,
    table: Table,
    /// Queries that it got.
    used: u32,
    late: u32,
    rejected: u32,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

impl Socket {
    /// A socket that is connected from `own` to `upstream`, for `queries` queries between these times.
    pub(super) fn new(
        socket: UdpSocket,
        own: IpAddr,
        upstream: SocketAddr,
        queries: u16,
        [opened, until]: [Instant; 2],
        table: Table,
    ) -> Self {
        Self {
            socket,
            own,
            upstream,
            queries_left: queries,
            opened,
            until,
            heard: None,
            retired: false,
            table,
            used: 0,
            late: 0,
            rejected: 0,
        }
    }

    pub(super) fn io(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn own(&self) -> IpAddr {
        self.own
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// Whether it may get another query.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.queries_left > 0 && now < self.until
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Notes that a response arrived.
    pub(in crate::forward) fn note_response(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Whether a response has arrived since then.
    pub(super) fn heard_since(&self, then: Instant) -> bool {
        self.heard.is_some_and(|heard| heard >= then)
    }

    pub(super) fn retire(&mut self) {
        self.queries_left = 0;
        self.retired = true;
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Whether a query on it has no response yet.
    pub(super) fn is_outstanding(&self) -> bool {
        !self.table.outstanding.is_empty()
    }

    /// Draws an ID, which the socket has not used before.
    pub(super) fn assign(&mut self, slot: usize, serial: u64) -> Outstanding {
        // The thread's generator is a CSPRNG: IDs cannot be predicted from earlier ones.
        let mut id = rand::random();
        while !self.table.used.insert(id) {
            id = rand::random();
        }
        self.queries_left = self.queries_left.saturating_sub(1);
        self.used += 1;
        let outstanding = Outstanding { id, slot, serial };
        self.table.outstanding.insert(id, outstanding);
        outstanding
    }

    /// Finds the query that a datagram may be the response to.
    pub(in crate::forward) fn find(&mut self, datagram: &Datagram<'_>) -> Match {
        if !datagram.from_upstream {
            return Match::WrongSource;
        }
        let Some(id) = u16_at(datagram.message, field::ID) else {
            return Match::TooShort;
        };
        if let Some(outstanding) = self.table.outstanding.get(&id) {
            return Match::Query(*outstanding);
        }
        // One for each query: a network may duplicate them all. More are a flood.
        if self.table.used.contains(id) && self.late < self.used {
            self.late += 1;
            return Match::Late;
        }
        Match::WrongId
    }

    /// Counts a datagram that is the response to no query. Whether there were too many.
    pub(in crate::forward) fn reject(&mut self) -> bool {
        self.rejected += 1;
        self.rejected >= MAX_REJECTED
    }

    /// Ends a query.
    pub(super) fn end(&mut self, sent: &Sent) {
        self.table.outstanding.remove(&sent.id);
    }

    /// Closes it. Returns its table, and what was outstanding.
    pub(super) fn close(mut self) -> (Table, Vec<Outstanding>) {
        let outstanding = self.table.outstanding.drain();
        let outstanding = outstanding.map(|(_, outstanding)| outstanding).collect();
        (self.table, outstanding)
    }
}

/// Any address of the family of `upstream`, and any port.
pub(super) fn any_address(upstream: SocketAddr) -> SocketAddr {
    match upstream {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}
