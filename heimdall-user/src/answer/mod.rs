//! The answer core: what a query gets, whatever carried it.
//!
//! AF_XDP workers, UDP sockets and TCP all call [`Core`]. It takes octets, a cache and a clock
//! value and gives a verdict; it does no I/O, knows no thread, and neither allocates nor blocks
//! for a hit. A query passes through it in two or three steps, so that a batch can overlap the
//! memory latency of its look-ups:
//!
//! 1. [`Core::read`] checks the message and hashes its key; [`Core::prefetch`].
//! 2. [`Core::answer`] writes the reply over the query, or says [`Verdict::Miss`].
//! 3. After a miss, [`Core::complete`] writes the reply once the forwarder has the answer, and
//!    [`Core::learn`] keeps it.

use std::sync::Arc;

use crate::{
    cache::{Cache, Key},
    dns::{
        Answer, DnsPacketView, Malformed, NameHasher, Query,
        header::{self, rcode},
        reply::{self, Server},
    },
    stats::{AnswerCounters, DropCounters},
};

/// What carried the query, as far as it matters to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: the reply is bounded by the client's payload size, and the sender's address
    /// may be forged.
    Udp {
        /// The client's port.
        source_port: u16,
    },
    /// A stream.
    Tcp,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the first so many octets of the buffer.
    Reply(usize),
    /// Send nothing. It has been counted.
    Drop,
    /// Ask the forwarder.
    Miss,
}

/// The answer core of one thread.
#[derive(Debug)]
pub struct Core {
    cache: Cache,
    hasher: NameHasher,
    server: Server,
    counters: Arc<AnswerCounters>,
    drops: Arc<DropCounters>,
}

/// Ports of UDP services that answer whatever they get: an error reply to one of them could
/// travel to and fro for ever. (echo, discard, systat, daytime, qotd, chargen, time, DNS, TFTP,
/// sunrpc, NTP, NetBIOS, SNMP, CLDAP, mDNS, memcached)
const SERVICE_PORTS: [u16; 18] = [
    0, 7, 9, 11, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 5353, 11211,
];

impl Core {
    /// A core with its own cache. All cores of a process share `hasher`, so that a key hashes
    /// alike in every thread.
    pub fn new(
        cache: Cache,
        hasher: NameHasher,
        server: Server,
        counters: Arc<AnswerCounters>,
        drops: Arc<DropCounters>,
    ) -> Self {
        Self {
            cache,
            hasher,
            server,
            counters,
            drops,
        }
    }

    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it, for [`reject`](Self::reject).
    #[inline]
    pub fn read(&self, msg: &[u8]) -> Result<Query, Malformed> {
        DnsPacketView::parse(msg).map(|view| Query::new(&view, &self.hasher))
    }

    /// Starts to fetch the memory that [`answer`](Self::answer) will look at first.
    #[inline]
    pub fn prefetch(&self, query: &Query) {
        self.cache.prefetch(query.hash);
    }

    /// Answers a query in place if that can be done here and now. `buf` holds the message that
    /// `query` was read from, and the room for a reply after it; `now` is in seconds, on the
    /// clock that [`learn`](Self::learn) is given.
    #[inline]
    pub fn answer(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        transport: Transport,
        now: u32,
    ) -> Verdict {
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return self.error(query, buf, transport, rcode::BADVERS);
        }
        if !query.is_forwardable() {
            return self.error(query, buf, transport, rcode::REFUSED);
        }
        let limit = limit(query, transport, &self.server);
        let Some(question) = buf.get(header::LEN..usize::from(query.question_end)) else {
            return self.no_room();
        };
        let key = Key {
            hash: query.hash,
            question,
            flags: query.key_flags(),
        };
        let Some(hit) = self.cache.get(&key, now) else {
            self.counters.misses.add(1);
            return Verdict::Miss;
        };
        self.counters.hits.add(1);
        count_rcode(&self.counters, hit.answer.rcode());
        match reply::answer(buf, query, hit.answer, hit.age, limit, &self.server) {
            Some(len) => sent(&self.counters, buf, len),
            None => self.no_room(),
        }
    }

    /// Answers, or drops, a message that is no query that could be read.
    #[cold]
    pub fn reject(&self, malformed: Malformed, buf: &mut [u8], transport: Transport) -> Verdict {
        let (question_end, code) = match malformed {
            Malformed::Runt => {
                self.drops.runt.add(1);
                return Verdict::Drop;
            }
            Malformed::Response => {
                self.drops.response.add(1);
                return Verdict::Drop;
            }
            Malformed::Opcode => (None, rcode::NOTIMP),
            Malformed::Question => (None, rcode::FORMERR),
            Malformed::Records(question_end) => (Some(question_end), rcode::FORMERR),
        };
        if self.may_loop(transport) {
            return Verdict::Drop;
        }
        match reply::unreadable(buf, question_end, code) {
            Some(len) => {
                count_rcode(&self.counters, code);
                Verdict::Reply(len)
            }
            None => self.no_room(),
        }
    }

    /// Replies with an error to a query that could be read.
    #[cold]
    pub fn error(&self, query: &Query, buf: &mut [u8], transport: Transport, code: u8) -> Verdict {
        if self.may_loop(transport) {
            return Verdict::Drop;
        }
        match reply::error(buf, query, code, &self.server) {
            Some(len) => {
                count_rcode(&self.counters, code);
                Verdict::Reply(len)
            }
            None => self.no_room(),
        }
    }

    /// Replies to a query that was a [`Verdict::Miss`]: with what the forwarder got. The reply is fresh; nothing is taken from the cache.
    pub fn complete(
        &self,
        query: &Query,
        buf: &mut [u8],
        transport: Transport,
        answer: &Answer,
    ) -> Verdict {
        let limit = limit(query, transport, &self.server);
        let answer = answer.as_ref();
        count_rcode(&self.counters, answer.rcode());
        match reply::answer(buf, query, answer, 0, limit, &self.server) {
            Some(len) => sent(&self.counters, buf, len),
            None => self.no_room(),
        }
    }

    /// Keeps an answer. `msg` is the query, or its reply: the question stands in both.
    pub fn learn(&mut self, query: &Query, msg: &[u8], answer: &Answer, now: u32) {
        let Some(question) = msg.get(header::LEN..usize::from(query.question_end)) else {
            return;
        };
        self.cache.insert(
            &Key {
                hash: query.hash,
                question,
                flags: query.key_flags(),
            },
            answer,
            now,
        );
        self.counters.cache_entries.set(self.cache.entries());
        self.counters.cache_insertions.set(self.cache.insertions());
        self.counters.cache_evictions.set(self.cache.evictions());
    }

    fn may_loop(&self, transport: Transport) -> bool {
        let Transport::Udp { source_port } = transport else {
            return false;
        };
        let may = SERVICE_PORTS.contains(&source_port);
        if may {
            self.drops.service_port.add(1);
        }
        may
    }

    #[cold]
    fn no_room(&self) -> Verdict {
        self.drops.no_room.add(1);
        Verdict::Drop
    }
}

#[inline]
fn limit(query: &Query, transport: Transport, server: &Server) -> usize {
    match transport {
        Transport::Udp { .. } => reply::udp_limit(query, server),
        Transport::Tcp => usize::from(u16::MAX),
    }
}

#[inline]
fn sent(counters: &AnswerCounters, buf: &[u8], len: usize) -> Verdict {
    const TC_OCTET: u8 = (header::TC >> 8) as u8;
    if buf
        .get(header::field::FLAGS)
        .is_some_and(|octet| octet & TC_OCTET != 0)
    {
        counters.truncated.add(1);
    }
    Verdict::Reply(len)
}

#[inline]
fn count_rcode(counters: &AnswerCounters, code: u8) {
    match code {
        rcode::NOERROR => &counters.noerror,
        rcode::FORMERR => &counters.formerr,
        rcode::SERVFAIL => &counters.servfail,
        rcode::NXDOMAIN => &counters.nxdomain,
        rcode::NOTIMP => &counters.notimp,
        rcode::BADVERS => &counters.badvers,
        _ => &counters.refused,
    }
    .add(1);
}

#[cfg(test)]
mod tests;
