//! Writes replies and counts them.

use std::sync::Arc;

use super::{
    Verdict,
    client::{Client, ReplyCookie, STREAM_IDLE, Terms, Transport},
    policy::Policy,
};
use crate::{
    clock::Now,
    dns::{
        AnswerRef, Options, Query,
        edns::{Edns, ede},
        header::{self, rcode},
        reply::{self, Content, Reply, ReplySettings},
    },
    stats::{AnswerCounters, DropCounters},
};

/// Ports of UDP services that answer whatever they receive: an error to one of them could start a
/// loop. (echo, discard, systat, daytime, qotd, chargen, time, DNS, TFTP, sunrpc, NTP, NetBIOS, SNMP,
/// CLDAP, mDNS, memcached)
const SERVICE_PORTS: [u16; 17] = [
    7, 9, 11, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 389, 5353, 11211,
];

/// What a core writes replies with: all but the cache, which holds the answer that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) policy: Arc<Policy>,
    pub(super) server: ReplySettings,
    pub(super) counters: Arc<AnswerCounters>,
    pub(super) drops: Arc<DropCounters>,
}

impl Writer {
    /// See [`ReplyCookie::new`].
    #[inline(always)]
    pub(super) fn cookie(
        &self,
        query: &Query,
        msg: &[u8],
        client: Client,
        now: Now,
    ) -> Option<ReplyCookie> {
        let has_cookie = query.edns.is_some_and(Edns::has_cookie);
        has_cookie
            .then(|| ReplyCookie::new(&self.policy, query, msg, client, now.unix))
            .flatten()
    }

    /// See [`Terms::new`].
    #[inline(always)]
    pub(super) fn terms<'a>(
        &self,
        query: &Query,
        client: Client,
        cookie: Option<&'a ReplyCookie>,
    ) -> Terms<'a> {
        Terms::new(&self.server, query, client, cookie)
    }

    /// Replies with as much of an answer as fits.
    #[inline(never)]
    pub(super) fn reply(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
        content: Content<'_>,
    ) -> Verdict {
        let code = content.answer.rcode();
        if !matches!(code, rcode::NOERROR | rcode::NXDOMAIN) && self.drops_service_port(client) {
            return Verdict::Drop;
        }
        let options = self.options(query, client, terms, content.answer.ede());
        let options = options.as_ref();
        let reply = reply::answer(buf, query, content, terms.limit, &self.server, options);
        self.finish(buf, reply, code)
    }

    /// As [`reply`](Self::reply), where both sides are [plain](Query::is_plain). `None`: the answer
    /// does not fit whole.
    #[inline(always)]
    pub(super) fn plain_reply(
        &self,
        query: &Query,
        buf: &mut [u8],
        terms: Terms<'_>,
        content: Content<'_>,
    ) -> Option<Reply> {
        let (code, limit) = (rcode::NOERROR, terms.limit);
        let reply = reply::whole_answer(buf, query, content, code, limit, &self.server, None)?;
        self.counters.noerror.add(1);
        Some(reply)
    }

    /// An error that has no records.
    #[cold]
    pub(super) fn error(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
        code: u8,
        ede: Option<u16>,
    ) -> Verdict {
        if self.drops_port_zero(client) || self.drops_service_port(client) {
            return Verdict::Drop;
        }
        let options = self.options(query, client, terms, ede);
        let reply = reply::error(buf, query, code, &self.server, options.as_ref());
        self.finish(buf, reply, code)
    }

    /// Refuses a query without RD that is not answered, or not without an upstream (RFC 8914 section
    /// 4.21).
    #[cold]
    pub(super) fn refuse_non_recursive(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
    ) -> Verdict {
        let why = Some(ede::NOT_AUTHORITATIVE);
        self.error(query, buf, client, terms, rcode::REFUSED, why)
    }

    /// Replies with an upstream's answer that is truncated. Over a stream, where TC would tell the client
    /// nothing that it can act upon, that is a failure.
    #[cold]
    pub(super) fn incomplete(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
        answer: AnswerRef<'_>,
    ) -> Verdict {
        let ede = answer.ede();
        match client.transport {
            Transport::Udp { .. } => self.truncated(query, buf, client, terms, answer.rcode(), ede),
            Transport::Tcp | Transport::Tls => {
                self.error(query, buf, client, terms, rcode::SERVFAIL, ede)
            }
        }
    }

    #[cold]
    pub(super) fn truncated(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
        code: u8,
        ede: Option<u16>,
    ) -> Verdict {
        let options = self.options(query, client, terms, ede);
        let reply = reply::truncated(buf, query, code, &self.server, options.as_ref());
        self.finish(buf, reply, code)
    }

    /// An error to a message of which nothing can be read beyond its question, if that.
    pub(super) fn unreadable(
        &self,
        buf: &mut [u8],
        question_end: Option<u16>,
        code: u8,
    ) -> Verdict {
        let Some(reply) = reply::unreadable(buf, question_end, code) else {
            return self.no_room();
        };
        count_rcode(&self.counters, code);
        Verdict::reply(reply)
    }

    /// Drops a query whose buffer has no space for a reply.
    #[cold]
    pub(super) fn no_room(&self) -> Verdict {
        self.drops.no_room.add(1);
        Verdict::Drop
    }

    /// The options of the reply's OPT record; most often there are none.
    #[inline(always)]
    fn options<'a>(
        &'a self,
        query: &Query,
        client: Client,
        terms: Terms<'a>,
        ede: Option<u16>,
    ) -> Option<Options<'a>> {
        let nsid = query.edns.is_some_and(Edns::nsid);
        let keepalive = !client.transport.is_datagram() && query.edns.is_some_and(Edns::keepalive);
        let padding = client.transport == Transport::Tls && query.edns.is_some_and(Edns::padding);
        let any = ede.is_some() || nsid || terms.cookie.is_some() || keepalive || padding;
        any.then(|| Options {
            ede,
            nsid: self.policy.identity.nsid().filter(|_| nsid),
            cookie: terms.cookie.map(|cookie| &cookie.octets),
            keepalive: keepalive.then_some(STREAM_IDLE),
            padding,
        })
    }

    /// Whether no datagram can be sent back to this client. Counts it.
    #[inline(always)]
    pub(super) fn drops_port_zero(&self, client: Client) -> bool {
        let drops = client.transport == Transport::Udp { source_port: 0 };
        if drops {
            self.drops.bad_source.add(1);
        }
        drops
    }

    /// Whether an error to this client could start a loop. Counts it.
    pub(super) fn drops_service_port(&self, client: Client) -> bool {
        let Transport::Udp { source_port } = client.transport else {
            return false;
        };
        let drops = SERVICE_PORTS.contains(&source_port);
        if drops {
            self.drops.service_port.add(1);
        }
        drops
    }

    /// Counts a reply that has been written; `None`: it did not fit.
    #[inline(always)]
    fn finish(&self, buf: &[u8], reply: Option<Reply>, code: u8) -> Verdict {
        const TC_OCTET: u8 = (header::TC >> 8) as u8;
        let Some(reply) = reply else {
            return self.no_room();
        };
        count_rcode(&self.counters, code);
        if buf
            .get(header::field::FLAGS)
            .is_some_and(|octet| octet & TC_OCTET != 0)
        {
            self.counters.truncated.add(1);
        }
        Verdict::reply(reply)
    }
}

#[inline(always)]
fn count_rcode(counters: &AnswerCounters, code: u8) {
    if code == rcode::NOERROR {
        counters.noerror.add(1);
    } else {
        count_rcode_slow(counters, code);
    }
}

#[inline(never)]
fn count_rcode_slow(counters: &AnswerCounters, code: u8) {
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
