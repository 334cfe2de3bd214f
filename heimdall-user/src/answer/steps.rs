//! The steps of an answer from the cache and the policy.

use super::{
    Client, Core, Verdict,
    client::Terms,
    policy::{AnsweredBy, NonRecursive},
};
use crate::{
    cache::{Cache, Hint, Hit, Key, Offset},
    clock::Now,
    dns::{
        Answer, AnswerRef, CLASS_CH, CLASS_IN, QUESTION_FIXED, Query,
        edns::{ServerCookie, ede},
        header::{self, rcode},
        reply::Content,
        rrtype,
    },
    stats::AnswerCounters,
};

impl Core {
    /// Answers a query in place if the cache or the policy has its answer. `buf` holds the message
    /// that `query` was read from, with space for a reply after it.
    pub fn answer(&mut self, query: &Query, buf: &mut [u8], client: Client) -> Verdict {
        self.answer_at(Hint::default(), query, buf, client)
    }

    /// As [`answer`](Self::answer), with the hint of [`prefetch_entry`](Self::prefetch_entry).
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
            self.answer_slow(hint, query, buf, client)
        }
    }

    #[inline(never)]
    fn answer_slow(
        &mut self,
        hint: Hint,
        query: &Query,
        buf: &mut [u8],
        client: Client,
    ) -> Verdict {
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
        let (writer, now) = (&self.writer, self.now);
        if let Err(verdict) = self.admission.check_access(writer, query, buf, client, now) {
            return verdict;
        }
        let cookie = if PLAIN {
            None
        } else {
            writer.cookie(query, buf, client, now)
        };
        let terms = writer.terms(query, client, cookie.as_ref());
        let terms = match self.admission.limit(writer, query, buf, client, terms, now) {
            Ok(terms) => terms,
            Err(verdict) => return verdict,
        };
        self.writer.counters.of_type(query.qtype()).add(1);
        let other_version = !PLAIN && query.edns.is_some_and(|edns| edns.version() != 0);
        if !query.is_forwardable() || other_version {
            return self.unforwardable(query, buf, client, terms);
        }
        let Some(key) = key(query, buf) else {
            return self.writer.no_room();
        };
        let Some(hit) = self.cache.get_at(hint, key, self.now.seconds) else {
            return self.on_miss(query, buf, client, terms);
        };
        self.writer.counters.hits.add(1);
        let offset = hit.offset;
        let due = hit.refresh_due && hit.popular && is_refreshable(&hit.answer);
        let verdict = if PLAIN && hit.answer.is_plain() {
            match self.writer.plain_reply(query, buf, terms, hit.into()) {
                // At once: a verdict that all branches write would go through memory.
                Some(reply) => {
                    let refresh = due && self.begin_refresh(offset, query, buf);
                    return Verdict::Reply { reply, refresh };
                }
                None => self.shortened(query, buf, client, terms),
            }
        } else {
            self.writer.reply(query, buf, client, terms, hit.into())
        };
        match verdict {
            Verdict::Reply { reply, .. } if due => {
                let refresh = self.begin_refresh(offset, query, buf);
                Verdict::Reply { reply, refresh }
            }
            verdict => verdict,
        }
    }

    /// Replies with as much of a cached answer as fits. It is looked up again, so that a reply that fits
    /// does not pay for passing the answer on.
    #[cold]
    fn shortened(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
    ) -> Verdict {
        let hit = key(query, buf).and_then(|key| self.cache.get(&key, self.now.seconds));
        match hit {
            Some(hit) => self.writer.reply(query, buf, client, terms, hit.into()),
            None => self.writer.no_room(),
        }
    }

    /// The policy's answer to a question that is not in the cache, if it has one.
    #[inline(never)]
    fn on_miss(
        &mut self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
    ) -> Verdict {
        let Some((answer, by)) = self.writer.policy.decide(qname(query, buf), query.qtype()) else {
            if !self.may_recurse(query) {
                return self.writer.refuse_non_recursive(query, buf, client, terms);
            }
            self.writer.counters.misses.add(1);
            return Verdict::Miss;
        };
        match by {
            AnsweredBy::Local | AnsweredBy::Special | AnsweredBy::Route => {
                &self.writer.counters.local
            }
            AnsweredBy::Blocklist => &self.writer.counters.blocked,
        }
        .add(1);
        if let Some(key) = key(query, buf) {
            store(
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

    /// Questions that are never forwarded.
    #[cold]
    fn unforwardable(
        &self,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        terms: Terms<'_>,
    ) -> Verdict {
        let writer = &self.writer;
        let error = |buf: &mut [u8], code, ede| writer.error(query, buf, client, terms, code, ede);
        if query.edns.is_some_and(|edns| edns.version() != 0) {
            return error(buf, rcode::BADVERS, None);
        }
        if !query.has_question() {
            let code = cookie_only(query, buf, terms);
            return error(buf, code, None);
        }
        let answer = match (query.qclass(), query.qtype()) {
            (CLASS_CH, qtype) => writer.policy.identity.lookup(qname(query, buf), qtype),
            (CLASS_IN, rrtype::ANY) => Some(&writer.policy.any),
            _ => None,
        };
        match answer {
            Some(answer) => writer.reply(query, buf, client, terms, answer.as_ref().into()),
            None => error(buf, rcode::REFUSED, Some(ede::NOT_SUPPORTED)),
        }
    }

    /// Whether the query may be answered with a new response of an upstream.
    #[cold]
    fn may_recurse(&self, query: &Query) -> bool {
        query.flags & header::RD != 0 || self.writer.policy.non_recursive == NonRecursive::Forward
    }

    /// Whether the entry at `offset` may be refreshed by an upstream, and no hit before it has started that.
    #[cold]
    fn begin_refresh(&mut self, offset: Offset, query: &Query, msg: &[u8]) -> bool {
        let policy = &self.writer.policy;
        self.may_recurse(query)
            && policy.decide(qname(query, msg), query.qtype()).is_none()
            && self.cache.request_refresh(offset)
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

/// The response code for a query without a question, which asks for a cookie, or whether its own is
/// valid (RFC 7873 section 5.4).
fn cookie_only(query: &Query, msg: &[u8], terms: Terms<'_>) -> u8 {
    let cookie = query.edns.and_then(|edns| edns.cookie(msg));
    match cookie.map(|cookie| cookie.server) {
        // Cookies are off: without a question there is nothing to answer.
        _ if terms.cookie.is_none() => rcode::FORMERR,
        None | Some(ServerCookie::Absent) => rcode::NOERROR,
        Some(_) if terms.is_verified() => rcode::NOERROR,
        Some(_) => rcode::BADCOOKIE,
    }
}

/// Whether a new response may replace the answer, or be worth asking for: failures and stale answers
/// have their own time.
pub(super) fn is_refreshable(answer: &AnswerRef<'_>) -> bool {
    matches!(answer.rcode(), rcode::NOERROR | rcode::NXDOMAIN) && !answer.is_stale()
}

/// The question in wire form, from the query or its reply.
pub(super) fn question<'a>(query: &Query, msg: &'a [u8]) -> &'a [u8] {
    msg.get(header::LEN..usize::from(query.question_end))
        .unwrap_or_default()
}

/// The queried name, from the query or its reply.
fn qname<'a>(query: &Query, msg: &'a [u8]) -> &'a [u8] {
    let end = usize::from(query.question_end).saturating_sub(QUESTION_FIXED);
    msg.get(header::LEN..end).unwrap_or_default()
}

/// The cache key of a query, with the question from the query or its reply.
#[inline(always)]
pub(super) fn key<'a>(query: &Query, msg: &'a [u8]) -> Option<Key<'a>> {
    Some(Key {
        hash: query.hash,
        question: msg.get(header::LEN..usize::from(query.question_end))?,
        flags: query.key_flags(),
    })
}

/// Inserts an answer and brings the cache's counters up to date.
pub(super) fn store(
    cache: &mut Cache,
    counters: &AnswerCounters,
    key: &Key<'_>,
    answer: &Answer,
    now: Now,
) {
    cache.insert(key, answer, now.seconds);
    counters.cache_entries.set(cache.entries());
    counters.cache_insertions.set(cache.insertions());
    counters.cache_evictions.set(cache.evictions());
}
