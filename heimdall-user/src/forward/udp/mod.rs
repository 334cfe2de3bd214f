//! Queries over UDP: for each upstream a pool of connected sockets, each of which carries many queries.
//!
//! A query's socket is one of the [`POOL`] of its upstream, chosen at random for all queries that are
//! sent with the same system call, and its ID is random. A response is accepted on the socket of its
//! query only, for the query that has its ID there. All random numbers are of a CSPRNG, so that no one
//! can infer the next from earlier ones; an upstream sees them, but it need not guess.
//!
//! # What has to be guessed
//!
//! A forger who does not see the packets has to find the query's port and ID together. A question has
//! one outstanding query (and one for each attempt that timed out), however many clients ask it, so
//! the birthday paradox does not help (RFC 5452 section 5).
//!
//! - Without knowledge of the ports: the kernel chooses each at random from
//!   `net.ipv4.ip_local_port_range`, 28,232 ports or 14.8 bits unless that was changed. With one of
//!   at least 64,513 IDs that makes 30.8 bits, as with a new socket for each query (30.8). A forged
//!   datagram that meets another socket of the pool gains nothing, as only one of them has the query.
//! - With knowledge of all ports of the pool: which of 16 sockets has the query, and its ID: 20 bits.
//!   But after [`MAX_REJECTED`] wrong IDs a socket is closed, and the queries outstanding on it go
//!   over another one, and from there over TCP: with eight guesses at each socket a forger succeeds once in some 8,000
//!   pools, each of which has to be found out first.
//! - An upstream's [cookie](super::upstreams) adds 64 bits, random letters a bit for each letter of the name.
//!
//! # Lifetime
//!
//! A socket gets no new query after 256 to 1,023 of them or 2 to 10 s, whichever comes first; both
//! numbers are random. By the side channel that is known, the limit on ICMP errors (SAD DNS), about 1,000
//! ports a second can be probed: 28 s for the default range.
//!
//! A connected socket keeps its source address. So it gets no new query either once one timed out on it
//! and no response came since, and all of an upstream's are replaced when nothing at all came from that, or
//! when a query cannot be sent.
//!
//! A replaced socket stays open until its last query ended, as late responses are accepted, but
//! [`MAX_RETIRED`] stay open at most. An ID is used once on a socket: a response that comes late or
//! twice matches no other query, and is not taken for a forgery.

mod batch;
mod socket;

use std::{
    collections::VecDeque,
    mem,
    net::IpAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mio::{Interest, net::UdpSocket};
use nix::errno::Errno;

use super::exchange::{Destination, Exchange, SendError, Transport};
pub(super) use batch::{Batch, Datagram};
use socket::Table;
pub(super) use socket::{Match, Outstanding, Socket};

/// Sockets of each upstream.
const POOL: usize = 16;

/// Sockets that get no more queries, of all upstreams, and stay open for late responses.
const MAX_RETIRED: usize = 256;

/// Files that the sockets to `upstreams` upstreams hold at most.
pub(super) const fn max_files(upstreams: usize) -> usize {
    upstreams * POOL + MAX_RETIRED
}

/// Queries that a socket carries. Far fewer than there are IDs.
const QUERIES: RangeInclusive<u16> = 256..=1023;

/// Milliseconds for which a socket gets new queries.
const AGE: RangeInclusive<u64> = 2_000..=10_000;

/// Datagrams that are no query's response before a socket is closed, and those with a query's ID that are rejected
/// before its exchange ends: someone is guessing.
pub(super) const MAX_REJECTED: u32 = 8;

/// The sockets of a forwarder thread, and the queries that are to be sent.
pub(super) struct Udp {
    /// By the upstream's index.
    pools: Vec<Pool>,
    /// All that are open, by number. A number is never used again.
    sockets: HashMap<usize, Socket, RandomState>,
    next: usize,
    /// Those that get no more queries, the oldest first.
    retired: VecDeque<usize>,
    /// Memory of closed sockets.
    spare: Vec<Table>,
    queue: Queue,
}

#[derive(Default)]
struct Pool {
    /// Numbers of sockets, some of which may be closed or worn out.
    numbers: [Option<usize>; POOL],
    /// The socket of the queries that wait to be sent.
    chosen: Option<usize>,
}

/// Queries that wait to be sent, in the order in which they came.
#[derive(Default)]
struct Queue {
    queries: Vec<Queued>,
    octets: Vec<u8>,
}

/// A query that waits to be sent.
#[derive(Clone, Copy)]
struct Queued {
    socket: usize,
    outstanding: Outstanding,
    /// Where it ends in the queue's octets. It begins where the one before ends.
    end: usize,
}

/// What could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// One query.
    Query(Outstanding, SendError),
    /// The socket has failed, and with it all that is outstanding on it.
    Socket(usize),
}

/// Choosing a socket.
impl Udp {
    pub(super) fn new() -> Self {
        Self {
            pools: Vec::new(),
            sockets: HashMap::default(),
            next: 0,
            retired: VecDeque::new(),
            spare: Vec::new(),
            queue: Queue::default(),
        }
    }

    /// An upstream has this index now.
    pub(super) fn add_upstream(&mut self, index: usize) {
        if index >= self.pools.len() {
            self.pools.resize_with(index + 1, Pool::default);
        }
        // Twice: a table that is half empty is rehashed in place.
        let capacity = 2 * max_files(self.pools.len());
        self.sockets
            .reserve(capacity.saturating_sub(self.sockets.len()));
    }

    /// Closes the sockets to an upstream, on which nothing is outstanding.
    pub(super) fn remove_upstream(&mut self, index: usize) {
        let pool = self.pools.get_mut(index).map(mem::take);
        for number in pool.into_iter().flat_map(|pool| pool.numbers).flatten() {
            self.close(number);
        }
    }

    /// The number of a socket for the next query to an upstream: the same one until
    /// [`send`](Self::send).
    pub(super) fn choose(&mut self, to: Destination<'_>) -> Result<usize, SendError> {
        let Destination { upstream, now, .. } = to;
        let Some(pool) = self.pools.get(upstream) else {
            return Err(SendError::Resources);
        };
        // If the one that was chosen is worn out, it is replaced, and none that is not.
        let is_chosen = |number: &Option<usize>| number.is_some() && *number == pool.chosen;
        let chosen = pool.numbers.iter().position(is_chosen);
        let position = chosen.unwrap_or_else(|| rand::random_range(0..POOL));
        let drawn = pool.numbers.get(position).copied().flatten();
        let is_usable = |number: &usize| {
            let socket = self.sockets.get(number);
            socket.is_some_and(|socket| socket.is_usable(now))
        };
        if let Some(number) = drawn.filter(is_usable) {
            return Ok(self.set_chosen(upstream, number));
        }
        let mut opened = self.open(to);
        if matches!(opened, Err(SendError::Resources | SendError::Address)) {
            self.make_room(upstream, now);
            opened = self.open(to);
        }
        let error = match opened {
            Ok(number) => {
                if let Some(drawn) = drawn {
                    self.retire(drawn);
                }
                let pool = self.pools.get_mut(upstream);
                if let Some(place) = pool.and_then(|pool| pool.numbers.get_mut(position)) {
                    *place = Some(number);
                }
                return Ok(self.set_chosen(upstream, number));
            }
            Err(error @ (SendError::Resources | SendError::Address)) => error,
            Err(error) => return Err(error),
        };
        // The others of the pool serve as well, for the rest of their time.
        let numbers = self.pools.get(upstream).map(|pool| pool.numbers);
        let others = numbers.unwrap_or([None; POOL]).into_iter();
        let mut others = others.cycle().skip(position).take(POOL).flatten();
        let usable = others.find(|number| {
            let socket = self.sockets.get(number);
            socket.is_some_and(|socket| socket.is_usable(now))
        });
        Ok(self.set_chosen(upstream, usable.ok_or(error)?))
    }

    /// Sockets that are open.
    #[cfg(test)]
    pub(super) fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Whether a socket was open before then.
    pub(super) fn was_open(&self, number: usize, then: Instant) -> bool {
        let socket = self.sockets.get(&number);
        socket.is_some_and(|socket| socket.opened() < then)
    }

    /// A query that was sent then has timed out: its socket gets no more if no response came on it since.
    pub(super) fn timed_out(&mut self, number: usize, sent: Instant) {
        let socket = self.sockets.get(&number);
        if socket.is_some_and(|socket| !socket.heard_since(sent)) {
            self.retire(number);
        }
    }

    /// Gives an upstream's next queries new sockets in place of those that were open before then: a connected
    /// socket keeps its source address, whatever becomes of that and of the route.
    pub(super) fn renew(&mut self, upstream: usize, then: Instant) {
        let numbers = self.pools.get(upstream).map(|pool| pool.numbers);
        for number in numbers.unwrap_or([None; POOL]).into_iter().flatten() {
            if self.was_open(number, then) {
                self.retire(number);
            }
        }
    }

    /// Frees a file and a port: closes the pool's sockets that are worn out, or else one that was replaced.
    #[cold]
    fn make_room(&mut self, upstream: usize, now: Instant) {
        let before = self.sockets.len();
        let numbers = self.pools.get(upstream).map(|pool| pool.numbers);
        for number in numbers.unwrap_or([None; POOL]).into_iter().flatten() {
            let socket = self.sockets.get(&number);
            if socket.is_some_and(|socket| !socket.is_usable(now)) {
                self.retire(number);
            }
        }
        if self.sockets.len() == before {
            self.close_oldest();
        }
    }

    /// Closes the oldest socket that gets no more queries, if possible one on which none waits to be sent. Its
    /// queries time out: no late response is accepted. Returns whether there was one.
    #[cold]
    pub(super) fn close_oldest(&mut self) -> bool {
        let queries = &self.queue.queries;
        let has_queued = |number: &usize| queries.iter().any(|query| query.socket == *number);
        let mut retired = self.retired.iter();
        let oldest = retired.find(|number| !has_queued(number));
        let oldest = oldest.or(self.retired.front()).copied();
        if let Some(oldest) = oldest {
            self.close(oldest);
        }
        oldest.is_some()
    }

    fn set_chosen(&mut self, upstream: usize, number: usize) -> usize {
        if let Some(pool) = self.pools.get_mut(upstream) {
            pool.chosen = Some(number);
        }
        number
    }

    /// Opens a socket, whose port the kernel chooses at random.
    fn open(&mut self, to: Destination<'_>) -> Result<usize, SendError> {
        let mut socket = UdpSocket::bind(socket::any_address(to.address))?;
        socket.connect(to.address)?;
        let own = socket.local_addr()?.ip();
        let number = self.next;
        let token = (to.token)(number);
        to.registry
            .register(&mut socket, token, Interest::READABLE)?;
        self.next += 1;
        let table = self.spare.pop().unwrap_or_default();
        let queries = rand::random_range(QUERIES);
        let until = to.now + Duration::from_millis(rand::random_range(AGE));
        let socket = Socket::new(socket, own, to.address, queries, [to.now, until], table);
        self.sockets.insert(number, socket);
        Ok(number)
    }

    /// Gives a socket no more queries, and closes it as soon as none is outstanding.
    pub(super) fn retire(&mut self, number: usize) {
        let socket = self.sockets.get_mut(&number);
        let Some(socket) = socket.filter(|socket| !socket.is_retired()) else {
            return;
        };
        socket.retire();
        self.retired.push_back(number);
        if !socket.is_outstanding() {
            self.close(number);
        } else if self.retired.len() > MAX_RETIRED {
            self.close_oldest();
        }
    }

    /// Closes a socket. Returns what was outstanding on it.
    pub(super) fn close(&mut self, number: usize) -> Vec<Outstanding> {
        let Some(socket) = self.sockets.remove(&number) else {
            return Vec::new();
        };
        if let Some(position) = self.retired.iter().position(|retired| *retired == number) {
            self.retired.remove(position);
        }
        let (mut table, outstanding) = socket.close();
        if self.spare.len() < POOL {
            table.clear();
            self.spare.push(table);
        }
        outstanding
    }
}

/// Queries and responses.
impl Udp {
    /// An open socket.
    pub(super) fn socket(&mut self, number: usize) -> Option<&mut Socket> {
        self.sockets.get_mut(&number)
    }

    /// The address that a socket sends from.
    pub(super) fn own_address(&self, number: usize) -> Option<IpAddr> {
        self.sockets.get(&number).map(Socket::own)
    }

    /// Draws an ID for an exchange over a socket.
    pub(super) fn assign(
        &mut self,
        number: usize,
        slot: usize,
        serial: u64,
    ) -> Option<Outstanding> {
        let socket = self.sockets.get_mut(&number)?;
        Some(socket.assign(slot, serial))
    }

    /// Queues a query for the next [`send`](Self::send).
    pub(super) fn queue(&mut self, socket: usize, outstanding: Outstanding, query: &[u8]) {
        self.queue.octets.extend_from_slice(query);
        self.queue.queries.push(Queued {
            socket,
            outstanding,
            end: self.queue.octets.len(),
        });
    }

    /// Whether queries wait to be sent.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.queries.is_empty()
    }

    /// The exchange has ended: no response is awaited any more.
    pub(super) fn end(&mut self, exchange: &Exchange) {
        if let Transport::Udp(number) = exchange.transport
            && let Some(socket) = self.sockets.get_mut(&number)
        {
            socket.end(&exchange.sent);
            if socket.is_retired() && !socket.is_outstanding() {
                self.close(number);
            }
        }
    }

    /// Sends the queries that wait, those of one socket with one system call. Adds those that could not be sent
    /// to `unsent`.
    pub(super) fn send(&mut self, batch: &mut Batch, unsent: &mut Vec<Unsent>) {
        let Queue { queries, octets } = &self.queue;
        let mut start = 0;
        let mut rest = queries.as_slice();
        while let Some(first) = rest.first() {
            let same = |next: &&Queued| next.socket == first.socket;
            let run = rest.iter().take_while(same).take(Batch::LEN);
            let (run, _) = rest.split_at(run.count());
            let mut begin = start;
            let messages = run.iter().map(|query| {
                let message = octets.get(begin..query.end).unwrap_or_default();
                begin = query.end;
                message
            });
            let sent = match self.sockets.get(&first.socket) {
                Some(socket) => batch.send(socket.io(), messages),
                // It had to be closed, to free a file; or it failed, and its exchanges have ended.
                None => Err(Errno::ENOBUFS),
            };
            let done = match sent {
                Ok(sent) => sent.max(1),
                Err(Errno::EINTR) => 0,
                // A full buffer would take the later ones neither.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
                    let lost =
                        |query: &Queued| Unsent::Query(query.outstanding, SendError::Resources);
                    unsent.extend(run.iter().map(lost));
                    run.len()
                }
                // An ICMP error, which the socket got for an earlier query.
                Err(Errno::ECONNREFUSED) => {
                    unsent.push(Unsent::Socket(first.socket));
                    run.len()
                }
                Err(errno) => {
                    unsent.push(Unsent::Query(first.outstanding, error_of(errno)));
                    1
                }
            };
            let (done, after) = rest.split_at(done.min(run.len()));
            start = done.last().map_or(start, |query| query.end);
            rest = after;
        }
        self.queue.queries.clear();
        self.queue.octets.clear();
        for pool in &mut self.pools {
            pool.chosen = None;
        }
    }
}

/// Why the kernel did not send one query.
#[cold]
fn error_of(errno: Errno) -> SendError {
    match errno {
        Errno::ENETUNREACH | Errno::ENETDOWN => SendError::Route,
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => SendError::Upstream,
        // A filter's rule, for one.
        _ => SendError::Address,
    }
}

#[cfg(test)]
mod tests;
