//! Admission: whether a query is answered at all, and on what terms.
//!
//! Every query passes it, in this order: access and the refusal of queries without RD
//! ([`check_access`](Admission::check_access)); then, for datagrams, whose source may be forged, UDP port
//! 0, the rate limit, and the demand for a cookie under load ([`limit`](Admission::limit)).

use std::{net::IpAddr, ops::Range};

use super::{
    Verdict,
    access::Decision,
    client::{Client, Terms, V4_MAPPED},
    limit::{Allowance, Limiter},
    policy::{NonRecursive, Policy},
    writer::Writer,
};
use crate::{
    clock::Now,
    dns::{
        CLASS_IN, Query,
        edns::ede,
        header::{self, rcode},
    },
};

/// Largest reply, in octets, to a client that has used up half of its allowance: what every client
/// accepts (RFC 1035 section 4.2.1), and little more than it sent.
const REDUCED_REPLY: usize = 512;

/// The state of admission of one thread.
#[derive(Debug)]
pub(super) struct Admission {
    limiter: Limiter,
    /// IPv4 addresses that are known to be allowed: the range around the client that was looked up
    /// last. Most clients need no more than this comparison.
    allowed_v4: Range<u128>,
    load: Load,
}

/// Queries in datagrams, counted by the second.
#[derive(Debug, Default)]
struct Load {
    this_second: u64,
    last_second: u64,
}

impl Admission {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            limiter: Limiter::new(&policy.limit),
            allowed_v4: 0..0,
            load: Load::default(),
        }
    }

    /// A new second has begun, `elapsed` seconds after the last one that began.
    #[inline]
    pub(super) fn begin_second(&mut self, elapsed: u32) {
        self.load.last_second = match elapsed {
            1 => self.load.this_second,
            _ => 0,
        };
        self.load.this_second = 0;
    }

    /// The policy has changed. A rate limit that is the same keeps its state.
    pub(super) fn set_policy(&mut self, old: &Policy, new: &Policy) {
        if new.limit != old.limit {
            self.limiter = Limiter::new(&new.limit);
        }
        self.allowed_v4 = 0..0;
    }

    /// Whether the client may ask this at all.
    ///
    /// # Errors
    /// The verdict if it may not.
    #[inline(always)]
    pub(super) fn check_access(
        &mut self,
        writer: &Writer,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        now: Now,
    ) -> Result<(), Verdict> {
        if self.allowed_v4.contains(&client.address) {
            return Ok(());
        }
        match writer.policy.access.decide(client.address()) {
            Decision::Allow if refuses(&writer.policy, query) => {
                let cookie = writer.cookie(query, buf, client, now);
                let terms = writer.terms(query, client, cookie.as_ref());
                Err(writer.refuse_non_recursive(query, buf, client, terms))
            }
            Decision::Allow => {
                self.set_allowed_range(&writer.policy, client.address());
                Ok(())
            }
            decision => Err(deny(writer, query, buf, client, decision)),
        }
    }

    /// Applies what is for datagrams only. Returns the terms, with a lower limit if the rate limit
    /// demands it.
    ///
    /// # Errors
    /// The verdict if the query is not answered.
    #[inline(always)]
    pub(super) fn limit<'a>(
        &mut self,
        writer: &Writer,
        query: &Query,
        buf: &mut [u8],
        client: Client,
        mut terms: Terms<'a>,
        now: Now,
    ) -> Result<Terms<'a>, Verdict> {
        if !client.transport.is_datagram() {
            return Ok(terms);
        }
        if writer.drops_port_zero(client) {
            return Err(Verdict::Drop);
        }
        self.load.this_second += 1;
        if self.is_limited(client, terms) {
            match self.limiter.check(client.address(), now.seconds) {
                Allowance::Full => {}
                Allowance::Small => terms.limit = terms.limit.min(REDUCED_REPLY),
                Allowance::Slip => {
                    writer.counters.slipped.add(1);
                    return Err(writer.truncated(query, buf, client, terms, rcode::NOERROR, None));
                }
                Allowance::Drop => {
                    writer.drops.rate_limited.add(1);
                    return Err(Verdict::Drop);
                }
            }
        }
        if terms.cookie.is_some_and(|cookie| !cookie.verified)
            && query.has_question()
            && self.demands_cookie(&writer.policy)
        {
            let code = rcode::BADCOOKIE;
            return Err(writer.error(query, buf, client, terms, code, None));
        }
        Ok(terms)
    }

    /// The terms of a reply to a query that was admitted before. Nothing is taken from the client's
    /// allowance.
    pub(super) fn limit_again<'a>(
        &self,
        client: Client,
        mut terms: Terms<'a>,
        now: Now,
    ) -> Terms<'a> {
        if self.is_limited(client, terms)
            && self.limiter.peek(client.address(), now.seconds) != Allowance::Full
        {
            terms.limit = terms.limit.min(REDUCED_REPLY);
        }
        terms
    }

    /// The rest of a client's allowance. `None`: there is no limit for it.
    pub(super) fn allowance(&self, client: IpAddr, now: Now) -> Option<u16> {
        self.limiter.left(client, now.seconds)
    }

    /// Whether a message that could not be read gets an error. Counts it if it is dropped.
    pub(super) fn admits_malformed(&mut self, writer: &Writer, client: Client, now: Now) -> bool {
        if writer.drops_port_zero(client) {
            return false;
        }
        if writer.policy.access.decide(client.address()) != Decision::Allow {
            writer.drops.access.add(1);
            return false;
        }
        if client.transport.is_datagram()
            && self.limiter.is_on()
            && matches!(
                self.limiter.check(client.address(), now.seconds),
                Allowance::Slip | Allowance::Drop
            )
        {
            writer.drops.rate_limited.add(1);
            return false;
        }
        !writer.drops_service_port(client)
    }

    /// Whether the rate limit applies: to datagrams, and not to clients with a valid cookie.
    #[inline(always)]
    fn is_limited(&self, client: Client, terms: Terms<'_>) -> bool {
        self.limiter.is_on() && client.transport.is_datagram() && !terms.is_verified()
    }

    fn demands_cookie(&self, policy: &Policy) -> bool {
        let load = self.load.last_second.max(self.load.this_second);
        policy.cookies.as_ref().is_some_and(|cookies| {
            cookies.demand_above > 0 && load > u64::from(cookies.demand_above)
        })
    }

    fn set_allowed_range(&mut self, policy: &Policy, allowed: IpAddr) {
        // Where queries without RD are refused, every query has to be looked at for that.
        if policy.non_recursive == NonRecursive::Refuse {
            return;
        }
        if let IpAddr::V4(v4) = allowed {
            let range = policy.access.range_v4(v4);
            let [start, end] = [*range.start(), *range.end()].map(u128::from);
            self.allowed_v4 = V4_MAPPED | start..(V4_MAPPED | end) + 1;
        }
    }
}

/// Whether the query is refused because it does not desire recursion.
fn refuses(policy: &Policy, query: &Query) -> bool {
    policy.non_recursive == NonRecursive::Refuse
        && query.flags & header::RD == 0
        && query.has_question()
        && query.qclass() == CLASS_IN
}

/// Refuses or drops the query of a client that access does not allow.
#[cold]
fn deny(
    writer: &Writer,
    query: &Query,
    buf: &mut [u8],
    client: Client,
    decision: Decision,
) -> Verdict {
    if decision == Decision::Drop {
        writer.drops.access.add(1);
        return Verdict::Drop;
    }
    writer.counters.prohibited.add(1);
    let terms = writer.terms(query, client, None);
    let why = Some(ede::PROHIBITED);
    writer.error(query, buf, client, terms, rcode::REFUSED, why)
}

#[cfg(test)]
mod tests;
