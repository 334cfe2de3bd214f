//! DNS cookies (RFC 7873) towards an upstream: Heimdall's own, and those that it gives.
//!
//! The client cookie is random, and another one for each upstream and each address that it is asked from (RFC 9018
//! section 3); so no upstream can follow this host from one address to another, nor forge responses of another upstream.
//! Threads do not share cookies. An upstream that gives none is asked without for [`FIRST_PAUSE`], and then with a new
//! one, as section 3 recommends; so is one that cannot read a query that has one. One that gives them for some queries only
//! ([`Lapses`]) is asked without for longer and longer.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Upstreams,
    lapses::{FIRST_PAUSE, Lapses},
};
use crate::{
    dns::{CookieEcho, UpstreamCookie},
    forward::exchange::SentCookie,
};

/// The life of a client cookie (RFC 7873 section 7.1: a day by default, at most 26 hours).
const LIFE: Duration = Duration::from_secs(86_400);

/// The cookies of an upstream.
#[derive(Debug, Default)]
pub(super) struct Cookies {
    state: State,
    /// Names for which responses had no cookie although the upstream had given one.
    missing: Lapses,
}

#[derive(Debug, Default)]
enum State {
    /// The next query gets a new client cookie.
    #[default]
    Unknown,
    /// The cookie of queries from this address, until then.
    Sent {
        from: IpAddr,
        until: Instant,
        cookie: UpstreamCookie,
    },
    /// Queries have none until then.
    Without { until: Instant },
}

impl Cookies {
    /// Whether it has given none yet, although it was asked with one.
    fn is_open(&self) -> bool {
        matches!(&self.state, State::Sent { cookie, .. } if !cookie.has_server())
    }

    fn leave_out(&mut self, until: Instant) {
        self.state = State::Without { until };
    }
}

/// Cookies.
impl Upstreams {
    /// The cookie of a query from this address, if it is to have one.
    pub(in crate::forward) fn cookie(
        &mut self,
        index: usize,
        own: IpAddr,
        now: Instant,
    ) -> Option<UpstreamCookie> {
        let cookies = &mut self.list.get_mut(index)?.cookies;
        match &cookies.state {
            State::Without { until } if now < *until => None,
            State::Sent {
                from,
                until,
                cookie,
            } if *from == own && now < *until => Some(*cookie),
            _ => {
                let cookie = UpstreamCookie::new(rand::random());
                cookies.state = State::Sent {
                    from: own,
                    until: now + LIFE,
                    cookie,
                };
                Some(cookie)
            }
        }
    }

    /// A response to a query with a cookie was accepted, and says this to it.
    pub(in crate::forward) fn cookie_echoed(
        &mut self,
        index: usize,
        sent: SentCookie,
        echo: CookieEcho,
        now: Instant,
    ) {
        let Some(upstream) = self.list.get_mut(index) else {
            return;
        };
        let cookies = &mut upstream.cookies;
        let State::Sent { cookie, .. } = &mut cookies.state else {
            return;
        };
        // It may have been renewed meanwhile.
        if cookie.client() != sent.client {
            return;
        }
        match echo {
            CookieEcho::Cookie(given) if given.has_server() => {
                *cookie = given;
            }
            // Some servers echo any option.
            CookieEcho::Cookie(_) | CookieEcho::Wrong => {}
            CookieEcho::Absent if cookies.is_open() => cookies.leave_out(now + FIRST_PAUSE),
            CookieEcho::Absent => {}
        }
    }

    /// The upstream has answered a query without a cookie, after an error response to one that had one, or silence: unless
    /// it has given one, it cannot read them.
    pub(in crate::forward) fn reads_no_cookie(&mut self, index: usize, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index)
            && upstream.cookies.is_open()
        {
            upstream.cookies.leave_out(now + FIRST_PAUSE);
        }
    }

    /// A response for `name` has no cookie, although the upstream had given one, or the one that it gave was wrong at once.
    pub(in crate::forward) fn cookie_missing(&mut self, index: usize, name: u64, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index)
            && let Some(until) = upstream.cookies.missing.add(name, now)
        {
            upstream.cookies.leave_out(until);
        }
    }

    /// The upstream answers queries without a cookie, and none with one: it may be another server now.
    pub(super) fn forget_cookie(&mut self, index: usize) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.cookies = Cookies::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::forward::upstreams::tests::two;

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn sent(cookie: UpstreamCookie) -> SentCookie {
        SentCookie {
            client: cookie.client(),
            expected: cookie.has_server(),
        }
    }

    /// The upstream gives a server cookie of so many octets.
    fn give(upstreams: &mut Upstreams, octets: usize, now: Instant) -> UpstreamCookie {
        let cookie = upstreams.cookie(0, OWN, now).unwrap();
        let given = cookie.with_server(&vec![9; octets]);
        upstreams.cookie_echoed(0, sent(cookie), CookieEcho::Cookie(given), now);
        given
    }

    #[test]
    fn each_upstream_and_address_has_a_cookie_of_its_own_for_a_day() {
        let now = Instant::now();
        let mut upstreams = two();
        let given = give(&mut upstreams, 16, now);
        assert_eq!(upstreams.cookie(0, OWN, now), Some(given));
        let other = upstreams.cookie(1, OWN, now).unwrap();
        assert_ne!(other.client(), given.client());
        assert!(!other.has_server());
        let moved = upstreams.cookie(0, OTHER, now).unwrap();
        assert_ne!(moved.client(), given.client());
        assert!(!moved.has_server());
        let given = give(&mut upstreams, 32, now);
        let last = now + LIFE - Duration::from_secs(1);
        assert_eq!(upstreams.cookie(0, OWN, last), Some(given));
        let renewed = upstreams.cookie(0, OWN, now + LIFE).unwrap();
        assert_ne!(renewed.client(), given.client());
        // A response to an earlier query changes nothing.
        upstreams.cookie_echoed(0, sent(given), CookieEcho::Cookie(given), now + LIFE);
        assert_eq!(upstreams.cookie(0, OWN, now + LIFE), Some(renewed));
    }

    #[test]
    fn an_upstream_without_cookies_is_asked_without_and_later_with_a_new_one() {
        let now = Instant::now();
        for reads in [true, false] {
            let mut upstreams = two();
            let cookie = upstreams.cookie(0, OWN, now).unwrap();
            match reads {
                true => upstreams.cookie_echoed(0, sent(cookie), CookieEcho::Absent, now),
                false => upstreams.reads_no_cookie(0, now),
            }
            assert_eq!(upstreams.cookie(0, OWN, now), None);
            let later = now + FIRST_PAUSE;
            let next = upstreams.cookie(0, OWN, later).unwrap();
            assert_ne!(next.client(), cookie.client());
        }
    }

    #[test]
    fn one_that_gave_a_cookie_has_to_leave_it_out_for_different_names() {
        let now = Instant::now();
        let mut upstreams = two();
        let given = give(&mut upstreams, 8, now);
        upstreams.reads_no_cookie(0, now);
        // To a query that was sent before the first response came.
        let early = sent(UpstreamCookie::new(given.client()));
        upstreams.cookie_echoed(0, early, CookieEcho::Absent, now);
        for name in [1, 1, 1, 2] {
            upstreams.cookie_missing(0, name, now);
        }
        assert_eq!(upstreams.cookie(0, OWN, now), Some(given));
        // Another server at its address goes on giving them.
        give(&mut upstreams, 8, now);
        upstreams.cookie_missing(0, 3, now);
        assert_eq!(upstreams.cookie(0, OWN, now), None);
    }

    #[test]
    fn an_upstream_that_echoes_the_option_gives_no_cookie() {
        let now = Instant::now();
        let mut upstreams = two();
        let cookie = upstreams.cookie(0, OWN, now).unwrap();
        upstreams.cookie_echoed(0, sent(cookie), CookieEcho::Cookie(cookie), now);
        assert_eq!(upstreams.cookie(0, OWN, now), Some(cookie));
    }
}
