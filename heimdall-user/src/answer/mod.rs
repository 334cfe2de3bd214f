//! The answer core: what a query gets, whatever carried it.
//!
//! AF_XDP workers, UDP sockets and TCP all call [`Core`]. It takes octets, a cache, the operator's
//! [`Policy`] and a clock value and gives a verdict; it does no I/O, knows no thread, and neither
//! allocates nor blocks for a hit. A front calls [`Core::begin`] once a round; then a query passes
//! through in two or three steps, so that a batch can overlap the memory latency of its look-ups:
//!
//! 1. [`Core::read`] checks the message and hashes its key; [`Core::prefetch`], and when the rest
//!    of the batch has been read, [`Core::prefetch_entry`].
//! 2. [`Core::answer`], or [`Core::answer_at`] with what the prefetch found, writes the reply over the
//!    query, or says [`Verdict::Miss`]. It may find that the answer should be got anew before its life
//!    is over: [`Core::take_refresh`].
//! 3. After a miss, [`Core::complete`] writes the reply once the forwarder has the answer, and
//!    [`Core::learn`] keeps it.
//!
//! Who may ask and how much is checked for every query. What the policy says of *names* is asked
//! only after a look-up that found nothing, and then cached like any answer, so that local data
//! and blocklists cost a hit nothing; a new policy starts with an empty cache.

pub mod access;
pub mod blocklist;
mod body;
pub mod cookie;
mod hostname;
pub mod identity;
pub mod limit;
pub mod local;
pub mod policy;
pub mod special;

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Range,
    sync::Arc,
};

use arc_swap::ArcSwap;

pub use crate::cache::Hint;
use crate::{
    cache::{Cache, Hit, Key, Place},
    clock::Now,
    dns::{
        Answer, AnswerRef, CLASS_CH, CLASS_IN, DnsPacketView, Malformed, NameHasher, Options,
        QUESTION_FIXED, Query,
        edns::{Edns, ServerCookie, ede},
        header::{self, rcode},
        reply::{self, Content, Reply, Server},
        rrtype,
    },
    stats::{AnswerCounters, DropCounters},
};
use access::Decision;
use cookie::Check;
use limit::{Allowance, Limiter};
use policy::{NonRecursive, Policy, Source};

/// Who asks, as far as it matters to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// An IPv4 address is mapped (RFC 4291 section 2.5.5.2). A number, for it is handed about with
    /// every query.
    address: u128,
    transport: Transport,
}

impl Client {
    /// Who has this address, which may be forged if it is a datagram that came.
    #[inline(always)]
    pub const fn new(address: IpAddr, transport: Transport) -> Self {
        let mapped = match address {
            IpAddr::V4(v4) => MAPPED | v4.to_bits() as u128,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        Self {
            address: mapped,
            transport,
        }
    }

    /// The client's address; over UDP it may be forged.
    pub fn address(self) -> IpAddr {
        Ipv6Addr::from_bits(self.address).to_canonical()
    }
}

/// What stands in front of an IPv4 address that is mapped.
const MAPPED: u128 = 0xffff << 32;

/// What carried the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: the reply is bounded by the client's payload size.
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
    /// Send the reply at the start of the buffer.
    Reply(Reply),
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
    writer: Writer,
    shared_policy: Arc<ArcSwap<Policy>>,
    limiter: Limiter,
    /// IPv4 addresses that are allowed because the last client that was looked up is.
    allowed_v4: Range<u128>,
    /// See [`take_refresh`](Self::take_refresh).
    refresh: Option<Place>,
    load: Load,
    now: Now,
}

/// Queries that came as datagrams, counted by the second.
#[derive(Debug, Default)]
struct Load {
    this_second: u64,
    last_second: u64,
}

/// On what terms a client gets its reply.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// Largest reply, in octets.
    limit: usize,
    cookie: CookieState,
}

/// What a client's cookies are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CookieState {
    /// It has sent none.
    Absent,
    /// It has sent its own, and no good one of ours.
    Unproven,
    /// It has shown that its address is not forged.
    Proven,
}

/// Ports of UDP services that answer whatever they get: an error reply to one of them could
/// travel to and fro for ever. (echo, discard, systat, daytime, qotd, chargen, time, DNS, TFTP,
/// sunrpc, NTP, NetBIOS, SNMP, CLDAP, mDNS, memcached)
const SERVICE_PORTS: [u16; 17] = [
    7, 9, 11, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 5353, 11211,
];

/// Largest reply, in octets, to a client that has used up half of its allowance: what every
/// client takes (RFC 1035 section 4.2.1), and little more than it sent.
const SMALL_REPLY: usize = 512;

/// Creation, and what comes before a round.
impl Core {
    /// A core with its own cache. All cores of a process share `hasher`, so that a key hashes
    /// alike in every thread, and `policy`, which may be replaced while they run.
    pub fn new(
        cache: Cache,
        hasher: NameHasher,
        server: Server,
        policy: Arc<ArcSwap<Policy>>,
        counters: Arc<AnswerCounters>,
        drops: Arc<DropCounters>,
    ) -> Self {
        let now = policy.load_full();
        Self {
            cache,
            hasher,
            limiter: Limiter::new(&now.limit),
            writer: Writer {
                policy: now,
                server,
                cookie: [0; 24],
                counters,
                drops,
            },
            shared_policy: policy,
            allowed_v4: 0..0,
            refresh: None,
            load: Load::default(),
            now: Now::default(),
        }
    }

    /// Begins a round: all that is answered and learnt until the next one happens `now`. Takes a
    /// new policy if there is one.
    #[inline]
    pub fn begin(&mut self, now: Now) {
        if now.seconds != self.now.seconds {
            self.load.last_second = match now.seconds.wrapping_sub(self.now.seconds) {
                1 => self.load.this_second,
                _ => 0,
            };
            self.load.this_second = 0;
        }
        self.now = now;
        if !Arc::ptr_eq(&self.shared_policy.load(), &self.writer.policy) {
            self.take_policy();
        }
    }

    #[cold]
    fn take_policy(&mut self) {
        let policy = self.shared_policy.load_full();
        if policy.limit != self.writer.policy.limit {
            self.limiter = Limiter::new(&policy.limit);
        }
        self.writer.policy = policy;
        self.allowed_v4 = 0..0;
        self.cache.forget(self.now.seconds);
    }
}

/// Answering.
impl Core {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it, for [`reject`](Self::reject).
    #[inline(always)]
    pub fn read(&self, msg: &[u8]) -> Result<Query, Malformed> {
        match DnsPacketView::parse_plain(msg) {
            Some(view) => Ok(Query::new(&view, &self.hasher)),
            None => self.read_others(msg),
        }
    }

    #[inline(never)]
    fn read_others(&self, msg: &[u8]) -> Result<Query, Malformed> {
        let view = DnsPacketView::parse(msg)?;
        Ok(Query::new(&view, &self.hasher))
    }

    /// Starts to fetch the memory that [`answer`](Self::answer) will look at first.
    #[inline(always)]
    pub fn prefetch(&self, query: &Query) {
        self.cache.prefetch(query.hash);
    }

    /// Starts to fetch what [`answer`](Self::answer) will look at next, as what
    /// [`prefetch`](Self::prefetch) fetched says; tells it where that is.
    #[inline(always)]
    pub fn prefetch_entry(&self, query: &Query) -> Hint {
        self.cache.prefetch_entry(query.hash)
    }

    /// Answers a query in place if that can be done here and now. `buf` holds the message that
    /// `query` was read from, and the room for a reply after it.
    pub fn answer(&mut self, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        self.answer_at(Hint::default(), query, buf, client)
    }

    /// As [`answer`](Self::answer), with what [`prefetch_entry`](Self::prefetch_entry) said.
    #[inline(always)]
    pub fn answer_at(
        &mut self,
        hint: Hint,
        query: &Query,
        buf: &mut [u8],
        client: Client,
    ) -> Verdict {
        // Most queries are plain, and so spared the steps for options.
        if query.is_plain() {
            self.steps::<true>(hint, query, buf, client)
        } else {
            self.all_steps(hint, query, buf, client)
        }
    }

    #[inline(never)]
    fn all_steps(&mut self, hint: Hint, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        self.steps::<false>(hint, query, buf, client)
    }

    #[inline(always)]
    fn steps<const PLAIN: bool>(
        &mut self,
        hint: Hint,
        query: &Query,
        buf: &mut [u8],
        client: Client,
    ) -> Verdict {
        self.refresh = None;
        let terms = match self.admit::<PLAIN>(query, buf, client) {
            Ok(terms) => terms,
            Err(verdict) => return verdict,
        };
        self.writer.counters.of_type(query.qtype()).add(1);
        let other_version = !PLAIN && query.edns.is_some_and(|edns| edns.version() != 0);
        if !query.is_forwardable() || other_version {
            return self.special(query, buf, client, terms);
        }
        let Some(key) = key(query, buf) else {
            return self.no_room();
        };
        let Some(hit) = self.cache.get_at(hint, key, self.now.seconds) else {
            return self.missed(query, buf, client, terms);
        };
        self.writer.counters.hits.add(1);
        let place = hit.place;
        let due = hit.late && hit.popular && is_refreshable(&hit.answer);
        let verdict = if PLAIN && hit.answer.is_plain() {
            match self.writer.plain_reply(query, buf, terms, hit.into()) {
                Some(reply) => Verdict::Reply(reply),
                None => self.shortened(query, buf, client, terms),
            }
        } else {
            self.writer.reply(query, buf, client, terms, hit.into())
        };
        if due {
            self.refresh = Some(place);
        }
        verdict
    }

    /// Replies with as much of a cached answer as fits. It is looked up again: a reply that fits must
    /// not pay for handing the answer on.
    #[cold]
    fn shortened(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms,
    ) -> Verdict {
        let hit = key(query, buf).and_then(|key| self.cache.get(&key, self.now.seconds));
        match hit {
            Some(hit) => self.writer.reply(query, buf, client, terms, hit.into()),
            None => self.no_room(),
        }
    }

    /// Whether the answer that was given last should be got from the forwarder anew, for
    /// [`relearn`](Self::relearn): it is asked for again and again, and soon it will be too old.
    /// One hit of an answer's life says so, and only the first call.
    #[inline(always)]
    pub fn take_refresh(&mut self, query: &Query, msg: &[u8]) -> bool {
        match self.refresh.take() {
            Some(place) => self.begin_refresh(place, query, msg),
            None => false,
        }
    }

    /// Whether an upstream may be asked for the answer at `place`, and nobody has said so before.
    #[cold]
    fn begin_refresh(&mut self, place: Place, query: &Query, msg: &[u8]) -> bool {
        let policy = &self.writer.policy;
        self.may_recurse(query)
            && policy.decide(qname(query, msg), query.qtype()).is_none()
            && self.cache.ask_refresh(place)
    }

    /// Replies to a query that was a [`Verdict::Miss`], with what the forwarder got. The reply is
    /// fresh; nothing is taken from the cache.
    pub fn complete(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        answer: &Answer,
    ) -> Verdict {
        let mut terms = self.terms::<false>(query, buf, client);
        if self.limits(client, terms)
            && self.limiter.peek(client.address(), self.now.seconds) != Allowance::Full
        {
            terms.limit = terms.limit.min(SMALL_REPLY);
        }
        let truncated = answer.as_ref();
        if truncated.is_truncated() {
            return self.writer.incomplete(query, buf, client, terms, truncated);
        }
        let blocked = self
            .writer
            .policy
            .decide_aliases(question(query, buf), answer.as_ref());
        if blocked.is_some() {
            self.writer.counters.blocked.add(1);
        }
        let answer = blocked.unwrap_or(answer);
        self.writer
            .reply(query, buf, client, terms, answer.as_ref().into())
    }

    /// Keeps an answer. `msg` is the query, or its reply: the question stands in both.
    pub fn learn(&mut self, query: &Query, msg: &[u8], answer: &Answer) {
        if let Some(key) = key(query, msg) {
            self.learn_key(&key, answer);
        }
    }

    /// Keeps the answer to a question that was asked before its old answer's life was over. If
    /// nothing better came of it than a failure, the old answer stays.
    pub fn relearn(&mut self, key: &Key<'_>, answer: &Answer) {
        if is_refreshable(&answer.as_ref()) {
            self.learn_key(key, answer);
        }
    }

    fn learn_key(&mut self, key: &Key<'_>, answer: &Answer) {
        let Some((name, [t0, t1, _, _])) = key.question.split_last_chunk() else {
            return;
        };
        // Only if the policy has changed while the upstream was asked has it an answer now.
        let qtype = u16::from_be_bytes([*t0, *t1]);
        let policy = &self.writer.policy;
        if policy.decide(name, qtype).is_none() {
            let blocked = policy.decide_aliases(key.question, answer.as_ref());
            keep(
                &mut self.cache,
                &self.writer.counters,
                key,
                blocked.unwrap_or(answer),
                self.now,
            );
        }
    }

    /// Maintains the cache: calls `work` with it and the seconds of [`begin`](Self::begin), and
    /// updates the gauge of entries.
    #[cold]
    pub fn maintain<T>(&mut self, work: impl FnOnce(&mut Cache, u32) -> T) -> T {
        let result = work(&mut self.cache, self.now.seconds);
        self.writer.counters.cache_entries.set(self.cache.entries());
        result
    }

    /// Has the kernel find the cache's memory now, on the caller's NUMA node.
    pub fn populate(&self) {
        self.cache.populate();
    }

    /// Replies SERVFAIL: there is no room to wait for the forwarder.
    #[cold]
    pub fn overload(&mut self, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        let terms = self.terms::<false>(query, buf, client);
        let why = Some(ede::NOT_READY);
        self.writer
            .error(query, buf, client, terms, rcode::SERVFAIL, why)
    }

    /// Cuts the reply in `buf`, which is too large for this path: the answer has to be asked for
    /// over TCP.
    #[cold]
    pub fn truncate(&mut self, query: &Query, buf: &mut [u8]) -> Option<usize> {
        let len = reply::cut(buf, query);
        match len {
            Some(_) => &self.writer.counters.truncated,
            None => &self.writer.drops.no_room,
        }
        .add(1);
        len
    }

    /// Answers, or drops, a message that is no query that could be read.
    #[cold]
    pub fn reject(&mut self, malformed: Malformed, buf: &mut [u8], client: Client) -> Verdict {
        let (question_end, code) = match malformed {
            Malformed::Runt => {
                self.writer.drops.runt.add(1);
                return Verdict::Drop;
            }
            Malformed::Response => {
                self.writer.drops.response.add(1);
                return Verdict::Drop;
            }
            Malformed::Opcode => (None, rcode::NOTIMP),
            Malformed::Question => (None, rcode::FORMERR),
            Malformed::Records(question_end) => (Some(question_end), rcode::FORMERR),
        };
        if self.writer.is_out_of_reach(client) {
            return Verdict::Drop;
        }
        if self.writer.policy.access.decide(client.address()) != Decision::Allow {
            self.writer.drops.access.add(1);
            return Verdict::Drop;
        }
        if client.transport != Transport::Tcp
            && self.limiter.is_on()
            && matches!(
                self.limiter.check(client.address(), self.now.seconds),
                Allowance::Slip | Allowance::Drop
            )
        {
            self.writer.drops.rate_limited.add(1);
            return Verdict::Drop;
        }
        if self.writer.may_loop(client) {
            return Verdict::Drop;
        }
        match reply::unreadable(buf, question_end, code) {
            Some(reply) => {
                count_rcode(&self.writer.counters, code);
                Verdict::Reply(reply)
            }
            None => self.no_room(),
        }
    }
}

impl<'a> From<Hit<'a>> for Content<'a> {
    #[inline(always)]
    fn from(hit: Hit<'a>) -> Self {
        Self {
            answer: hit.answer,
            age: hit.age,
            question_sum: hit.question_sum,
        }
    }
}

/// The steps of an answer.
impl Core {
    /// Whether the client is answered at all, and on what terms.
    #[inline(always)]
    fn admit<const PLAIN: bool>(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
    ) -> Result<Terms, Verdict> {
        if !self.allowed_v4.contains(&client.address) {
            match self.writer.policy.access.decide(client.address()) {
                Decision::Allow if self.refuses(query) => {
                    return Err(self.refuse_non_recursive(query, buf, client));
                }
                Decision::Allow => self.remember(client.address()),
                decision => return Err(self.turn_away(query, buf, client, decision)),
            }
        }
        let mut terms = self.terms::<PLAIN>(query, buf, client);
        if client.transport == Transport::Tcp {
            return Ok(terms);
        }
        if self.writer.is_out_of_reach(client) {
            return Err(Verdict::Drop);
        }
        self.load.this_second += 1;
        if self.limits(client, terms) {
            match self.limiter.check(client.address(), self.now.seconds) {
                Allowance::Full => {}
                Allowance::Small => terms.limit = terms.limit.min(SMALL_REPLY),
                Allowance::Slip => {
                    self.writer.counters.slipped.add(1);
                    return Err(self
                        .writer
                        .truncated(query, buf, terms, rcode::NOERROR, None));
                }
                Allowance::Drop => {
                    self.writer.drops.rate_limited.add(1);
                    return Err(Verdict::Drop);
                }
            }
        }
        if terms.cookie == CookieState::Unproven && query.has_question() && self.demands_cookie() {
            let code = rcode::BADCOOKIE;
            return Err(self.writer.error(query, buf, client, terms, code, None));
        }
        Ok(terms)
    }

    /// Whether the query is refused because it does not desire recursion.
    fn refuses(&self, query: &Query) -> bool {
        self.writer.policy.non_recursive == NonRecursive::Refuse
            && query.flags & header::RD == 0
            && query.has_question()
            && query.qclass() == CLASS_IN
    }

    /// Whether the query may be answered with what upstreams say now.
    #[cold]
    fn may_recurse(&self, query: &Query) -> bool {
        query.flags & header::RD != 0 || self.writer.policy.non_recursive == NonRecursive::Forward
    }

    /// Refuses a query that would have to be looked up, or may not be answered at all, as it does not
    /// desire recursion (RFC 8914 section 4.21).
    #[cold]
    fn refuse_non_recursive(&mut self, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        let terms = self.terms::<false>(query, buf, client);
        let why = Some(ede::NOT_AUTHORITATIVE);
        self.writer
            .error(query, buf, client, terms, rcode::REFUSED, why)
    }

    fn remember(&mut self, allowed: IpAddr) {
        // Where queries without RD are refused, every query has to pass `refuses`.
        if self.writer.policy.non_recursive == NonRecursive::Refuse {
            return;
        }
        if let IpAddr::V4(v4) = allowed {
            let range = self.writer.policy.access.range_v4(v4);
            let [start, end] = [*range.start(), *range.end()].map(u128::from);
            self.allowed_v4 = MAPPED | start..(MAPPED | end) + 1;
        }
    }

    #[cold]
    fn turn_away(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        decision: Decision,
    ) -> Verdict {
        if decision == Decision::Drop {
            self.writer.drops.access.add(1);
            return Verdict::Drop;
        }
        self.writer.counters.prohibited.add(1);
        // No cookie for those who may not ask.
        let terms = Terms {
            limit: limit(query, client.transport, &self.writer.server),
            cookie: CookieState::Absent,
        };
        let why = Some(ede::PROHIBITED);
        self.writer
            .error(query, buf, client, terms, rcode::REFUSED, why)
    }

    #[inline(always)]
    fn terms<const PLAIN: bool>(&mut self, query: &Query, msg: &[u8], client: Client) -> Terms {
        let cookie = match query.edns {
            Some(edns) if !PLAIN && edns.has_cookie() => self.check_cookie(edns, msg, client),
            _ => CookieState::Absent,
        };
        Terms {
            limit: limit(query, client.transport, &self.writer.server),
            cookie,
        }
    }

    /// Checks the client's cookies, and makes those of the reply (RFC 7873 section 5.2).
    #[inline(never)]
    fn check_cookie(&mut self, edns: Edns, msg: &[u8], client: Client) -> CookieState {
        let (Some(cookies), Some(cookie)) = (&self.writer.policy.cookies, edns.cookie(msg)) else {
            return CookieState::Absent;
        };
        let (maker, unix) = (&cookies.maker, self.now.unix);
        let fresh = || maker.make(&cookie.client, client.address(), unix);
        let (state, server) = match cookie.server {
            ServerCookie::Sixteen(server) => {
                match maker.check(&cookie.client, &server, client.address(), unix) {
                    Check::Valid => (CookieState::Proven, server),
                    Check::Renew => (CookieState::Proven, fresh()),
                    Check::Invalid => (CookieState::Unproven, fresh()),
                }
            }
            ServerCookie::Absent | ServerCookie::Foreign => (CookieState::Unproven, fresh()),
        };
        let (first, second) = self.writer.cookie.split_at_mut(cookie.client.len());
        first.copy_from_slice(&cookie.client);
        second.copy_from_slice(&server);
        state
    }

    /// Whether the rate limit applies: datagrams only, and not to clients who have shown that
    /// their address is theirs.
    #[inline(always)]
    fn limits(&self, client: Client, terms: Terms) -> bool {
        self.limiter.is_on()
            && client.transport != Transport::Tcp
            && terms.cookie != CookieState::Proven
    }

    fn demands_cookie(&self) -> bool {
        let load = self.load.last_second.max(self.load.this_second);
        self.writer.policy.cookies.as_ref().is_some_and(|cookies| {
            cookies.demand_above > 0 && load > u64::from(cookies.demand_above)
        })
    }

    /// Questions that are answered here or not at all.
    #[cold]
    fn special(&self, query: &Query, buf: &mut [u8], client: Client, terms: Terms) -> Verdict {
        let writer = &self.writer;
        let error = |buf: &mut [u8], code, ede| writer.error(query, buf, client, terms, code, ede);
        if query.edns.is_some_and(|edns| edns.version() != 0) {
            return error(buf, rcode::BADVERS, None);
        }
        if !query.has_question() {
            let code = self.cookie_only(query, buf, terms);
            return error(buf, code, None);
        }
        let answer = match (query.qclass(), query.qtype()) {
            (CLASS_CH, qtype) => self.writer.policy.identity.lookup(qname(query, buf), qtype),
            (CLASS_IN, rrtype::ANY) => Some(&self.writer.policy.any),
            _ => None,
        };
        match answer {
            Some(answer) => writer.reply(query, buf, client, terms, answer.as_ref().into()),
            None => error(buf, rcode::REFUSED, Some(ede::NOT_SUPPORTED)),
        }
    }

    /// What a query without a question gets that asks for a cookie, or whether the one it has is
    /// good (RFC 7873 section 5.4).
    fn cookie_only(&self, query: &Query, msg: &[u8], terms: Terms) -> u8 {
        let cookie = query.edns.and_then(|edns| edns.cookie(msg));
        match cookie.map(|cookie| cookie.server) {
            // Cookies are off: no question, no answer.
            _ if terms.cookie == CookieState::Absent => rcode::FORMERR,
            None | Some(ServerCookie::Absent) => rcode::NOERROR,
            Some(_) if terms.cookie == CookieState::Proven => rcode::NOERROR,
            Some(_) => rcode::BADCOOKIE,
        }
    }

    /// The policy's answer to a question that is not in the cache, if it has one.
    #[inline(never)]
    fn missed(&mut self, query: &Query, buf: &mut [u8], client: Client, terms: Terms) -> Verdict {
        let Some((answer, source)) = self.writer.policy.decide(qname(query, buf), query.qtype())
        else {
            if !self.may_recurse(query) {
                return self.refuse_non_recursive(query, buf, client);
            }
            self.writer.counters.misses.add(1);
            return Verdict::Miss;
        };
        match source {
            Source::Local => &self.writer.counters.local,
            Source::Blocklist => &self.writer.counters.blocked,
        }
        .add(1);
        if let Some(key) = key(query, buf) {
            keep(
                &mut self.cache,
                &self.writer.counters,
                &key,
                answer,
                self.now,
            );
        }
        self.writer
            .reply(query, buf, client, terms, answer.as_ref().into())
    }

    #[cold]
    fn no_room(&self) -> Verdict {
        self.writer.drops.no_room.add(1);
        Verdict::Drop
    }
}

/// Writes replies and counts them: all of a core but its cache, in which the answer may stand that is
/// being written.
#[derive(Debug)]
struct Writer {
    policy: Arc<Policy>,
    server: Server,
    /// The COOKIE option's data of the reply under way.
    cookie: [u8; 24],
    counters: Arc<AnswerCounters>,
    drops: Arc<DropCounters>,
}

impl Writer {
    /// As [`reply`](Self::reply), where both sides are [plain](Query::is_plain). `None`: the answer
    /// does not fit whole.
    #[inline(always)]
    fn plain_reply(
        &self,
        query: &Query,
        buf: &mut [u8],
        terms: Terms,
        content: Content<'_>,
    ) -> Option<Reply> {
        let (code, limit) = (rcode::NOERROR, terms.limit);
        let reply = reply::whole_answer(buf, query, content, code, limit, &self.server, None)?;
        self.counters.noerror.add(1);
        Some(reply)
    }

    #[inline(never)]
    fn reply(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms,
        content: Content<'_>,
    ) -> Verdict {
        let code = content.answer.rcode();
        if !matches!(code, rcode::NOERROR | rcode::NXDOMAIN) && self.may_loop(client) {
            return Verdict::Drop;
        }
        let options = self.options(query, terms, content.answer.ede());
        let options = options.as_ref();
        let reply = reply::answer(buf, query, content, terms.limit, &self.server, options);
        self.sent(buf, reply, code)
    }

    /// An error that has no records.
    #[cold]
    fn error(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms,
        code: u8,
        ede: Option<u16>,
    ) -> Verdict {
        if self.is_out_of_reach(client) || self.may_loop(client) {
            return Verdict::Drop;
        }
        let options = self.options(query, terms, ede);
        let reply = reply::error(buf, query, code, &self.server, options.as_ref());
        self.sent(buf, reply, code)
    }

    /// Replies with an answer of which no more has come than that it is truncated. Over TCP, TC
    /// would tell the client nothing that it can act upon: that is a failure.
    #[cold]
    fn incomplete(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms,
        answer: AnswerRef<'_>,
    ) -> Verdict {
        let ede = answer.ede();
        match client.transport {
            Transport::Udp { .. } => self.truncated(query, buf, terms, answer.rcode(), ede),
            Transport::Tcp => self.error(query, buf, client, terms, rcode::SERVFAIL, ede),
        }
    }

    #[cold]
    fn truncated(
        &self,
        query: &Query,
        buf: &mut [u8],
        terms: Terms,
        code: u8,
        ede: Option<u16>,
    ) -> Verdict {
        let options = self.options(query, terms, ede);
        let reply = reply::truncated(buf, query, code, &self.server, options.as_ref());
        self.sent(buf, reply, code)
    }

    /// What the OPT record holds beside its fixed part; most often nothing.
    #[inline(always)]
    fn options(&self, query: &Query, terms: Terms, ede: Option<u16>) -> Option<Options<'_>> {
        let nsid = query.edns.is_some_and(Edns::nsid);
        let any = ede.is_some() || nsid || terms.cookie != CookieState::Absent;
        any.then(|| Options {
            ede,
            nsid: self.policy.identity.nsid().filter(|_| nsid),
            cookie: (terms.cookie != CookieState::Absent).then_some(&self.cookie),
        })
    }

    /// No datagram can be sent back to this client.
    #[inline(always)]
    fn is_out_of_reach(&self, client: Client) -> bool {
        let is = client.transport == Transport::Udp { source_port: 0 };
        if is {
            self.drops.bad_source.add(1);
        }
        is
    }

    /// An error to this client could start a loop.
    fn may_loop(&self, client: Client) -> bool {
        let Transport::Udp { source_port } = client.transport else {
            return false;
        };
        let may = SERVICE_PORTS.contains(&source_port);
        if may {
            self.drops.service_port.add(1);
        }
        may
    }

    #[inline(always)]
    fn sent(&self, buf: &[u8], reply: Option<Reply>, code: u8) -> Verdict {
        const TC_OCTET: u8 = (header::TC >> 8) as u8;
        let Some(reply) = reply else {
            self.drops.no_room.add(1);
            return Verdict::Drop;
        };
        count_rcode(&self.counters, code);
        if buf
            .get(header::field::FLAGS)
            .is_some_and(|octet| octet & TC_OCTET != 0)
        {
            self.counters.truncated.add(1);
        }
        Verdict::Reply(reply)
    }
}

#[inline(always)]
fn limit(query: &Query, transport: Transport, server: &Server) -> usize {
    match transport {
        Transport::Udp { .. } => reply::udp_limit(query, server),
        Transport::Tcp => usize::from(u16::MAX),
    }
}

/// Whether an upstream may have something newer: failures and what is served stale have their own
/// time.
fn is_refreshable(answer: &AnswerRef<'_>) -> bool {
    matches!(answer.rcode(), rcode::NOERROR | rcode::NXDOMAIN) && !answer.is_stale()
}

/// The question in wire form, which stands in the query and in its reply alike.
fn question<'a>(query: &Query, msg: &'a [u8]) -> &'a [u8] {
    msg.get(header::LEN..usize::from(query.question_end))
        .unwrap_or_default()
}

/// The queried name, which stands in the query and in its reply alike.
fn qname<'a>(query: &Query, msg: &'a [u8]) -> &'a [u8] {
    let end = usize::from(query.question_end).saturating_sub(QUESTION_FIXED);
    msg.get(header::LEN..end).unwrap_or_default()
}

/// What the answer to a query is kept under; the question stands in the query and in its reply.
#[inline(always)]
fn key<'a>(query: &Query, msg: &'a [u8]) -> Option<Key<'a>> {
    Some(Key {
        hash: query.hash,
        question: msg.get(header::LEN..usize::from(query.question_end))?,
        flags: query.key_flags(),
    })
}

fn keep(cache: &mut Cache, counters: &AnswerCounters, key: &Key<'_>, answer: &Answer, now: Now) {
    cache.insert(key, answer, now.seconds);
    counters.cache_entries.set(cache.entries());
    counters.cache_insertions.set(cache.insertions());
    counters.cache_evictions.set(cache.evictions());
}

#[inline(always)]
fn count_rcode(counters: &AnswerCounters, code: u8) {
    if code == rcode::NOERROR {
        counters.noerror.add(1);
    } else {
        count_others(counters, code);
    }
}

#[inline(never)]
fn count_others(counters: &AnswerCounters, code: u8) {
    match code {
        rcode::FORMERR => &counters.formerr,
        rcode::SERVFAIL => &counters.servfail,
        rcode::NXDOMAIN => &counters.nxdomain,
        rcode::NOTIMP => &counters.notimp,
        rcode::REFUSED => &counters.refused,
        rcode::BADVERS => &counters.badvers,
        rcode::BADCOOKIE => &counters.badcookie,
        _ => &counters.other,
    }
    .add(1);
}

#[cfg(test)]
mod tests;
