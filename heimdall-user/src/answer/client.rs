//! A client, and the terms on which it gets its reply.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use super::{cookie::CookieStatus, policy::Policy};
use crate::dns::{
    Query,
    edns::ServerCookie,
    reply::{self, ReplySettings},
};

/// Who sent a query, as far as it matters to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// An IPv4 address is mapped (RFC 4291 section 2.5.5.2). A number is passed in registers.
    pub(super) address: u128,
    pub(super) transport: Transport,
}

impl Client {
    /// A client with this address, which may be forged if the query came in a datagram.
    #[inline(always)]
    pub const fn new(address: IpAddr, transport: Transport) -> Self {
        let mapped = match address {
            IpAddr::V4(v4) => V4_MAPPED | v4.to_bits() as u128,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        Self {
            address: mapped,
            transport,
        }
    }

    /// What carried the query.
    pub(crate) fn transport(self) -> Transport {
        self.transport
    }

    /// The client's address, an IPv4 address mapped.
    pub(crate) fn mapped_address(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address)
    }

    /// The client's address; over UDP it may be forged.
    pub(crate) fn address(self) -> IpAddr {
        self.mapped_address().to_canonical()
    }
}

/// The prefix of IPv4-mapped addresses, `::ffff:0:0/96`.
pub(super) const V4_MAPPED: u128 = 0xffff << 32;

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
    /// A stream that is encrypted, [RFC 7858](https://www.rfc-editor.org/rfc/rfc7858): replies are padded for clients
    /// that pad.
    Tls,
}

impl Transport {
    /// Whether the client's address may be forged, and the reply has to fit into a datagram.
    #[inline(always)]
    pub(super) fn is_datagram(self) -> bool {
        matches!(self, Self::Udp { .. })
    }
}

/// Time for which the connection of a client may be idle (RFC 7766 section 6.2.3 asks for a few seconds). Clients that
/// ask are told ([RFC 7828](https://www.rfc-editor.org/rfc/rfc7828)).
pub(crate) const STREAM_IDLE: Duration = Duration::from_secs(10);

/// The terms on which a client gets its reply. Two words, so that they are passed in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// Largest reply, in octets.
    pub(super) limit: usize,
    /// The reply's COOKIE option.
    pub(super) cookie: Option<&'a ReplyCookie>,
}

impl<'a> Terms<'a> {
    /// The terms of a client that is within its rate limit.
    #[inline(always)]
    pub(super) fn new(
        server: &ReplySettings,
        query: &Query,
        client: Client,
        cookie: Option<&'a ReplyCookie>,
    ) -> Self {
        let limit = match client.transport {
            Transport::Udp { .. } => reply::udp_limit(query, server),
            Transport::Tcp | Transport::Tls => usize::from(u16::MAX),
        };
        Self { limit, cookie }
    }

    /// Whether the client has proved that its address is not forged.
    #[inline(always)]
    pub(super) fn is_verified(self) -> bool {
        self.cookie.is_some_and(|cookie| cookie.verified)
    }
}

/// A reply's COOKIE option (RFC 7873 section 4).
#[derive(Debug)]
pub(super) struct ReplyCookie {
    /// The client's cookie, and the server's after it.
    pub(super) octets: [u8; 24],
    /// The query had a valid server cookie, so the client's address is not forged.
    pub(super) verified: bool,
}

impl ReplyCookie {
    /// Checks the query's cookie, and makes the reply's (RFC 7873 section 5.2). `None`: cookies are off,
    /// or the query has none.
    #[inline(never)]
    pub(super) fn new(
        policy: &Policy,
        query: &Query,
        msg: &[u8],
        client: Client,
        unix: u32,
    ) -> Option<Self> {
        let maker = &policy.cookies.as_ref()?.maker;
        let cookie = query.edns?.cookie(msg)?;
        let new = || maker.make(&cookie.client, client.address(), unix);
        let (verified, server) = match cookie.server {
            ServerCookie::Sixteen(server) => {
                match maker.check(&cookie.client, &server, client.address(), unix) {
                    CookieStatus::Valid => (true, server),
                    CookieStatus::Renew => (true, new()),
                    CookieStatus::Invalid => (false, new()),
                }
            }
            ServerCookie::Absent | ServerCookie::Foreign => (false, new()),
        };
        let mut octets = [0; 24];
        let (first, second) = octets.split_at_mut(cookie.client.len());
        first.copy_from_slice(&cookie.client);
        second.copy_from_slice(&server);
        Some(Self { octets, verified })
    }
}
