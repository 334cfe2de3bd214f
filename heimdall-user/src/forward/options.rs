//! The settings of the forwarder.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::{Policy, RouteOptions, TlsOptions, UpstreamAddress, tcp, udp};
use crate::dns::TtlLimits;

/// How the forwarder works.
#[derive(Clone, Debug)]
pub struct ForwardOptions {
    /// The upstream resolvers for names that no other route is for, best first.
    pub upstreams: Vec<UpstreamAddress>,
    /// Routes. That of the root takes the place of `upstreams` and what else is set here for those.
    pub routes: Vec<RouteOptions>,
    /// Which of them is asked first.
    pub policy: Policy,
    /// Share of look-ups, in percent, that may ask a second upstream when the first takes longer than 95 % of its
    /// responses did; 0: none.
    pub hedge: u32,
    /// For those over TLS.
    pub tls: TlsOptions,
    /// Threads. 1 suffices for some ten thousand misses a second.
    pub threads: usize,
    /// Requests that may wait for each thread.
    pub queue: usize,
    /// Questions that each thread may have with upstreams. For one more, the client prefix or zone that
    /// holds most loses its oldest. They share a few sockets and connections.
    pub max_in_flight: usize,
    /// Time that an upstream has to respond, at least: up to 2 s if its round-trip times call for
    /// it. TCP has twice the time, TLS three times.
    pub attempt_timeout: Duration,
    /// Tries that one question gets; one that ends with an error at once is not counted, and there
    /// are fewer of these than upstreams. An attempt whose response is FORMERR continues without EDNS, one
    /// whose response is truncated continues over TCP; so with timeouts of `t` a question is settled
    /// after at most 4 × `attempts` × `t`, commonly; over TLS after 6 × `attempts` × `t`.
    pub attempts: u32,
    /// Bounds on the TTLs of answers.
    pub limits: TtlLimits,
    /// Whether to ask for the target of an alias that an upstream does not follow, as one does that is authoritative
    /// for the alias alone.
    pub follow_aliases: bool,
    /// Ask in random upper and lower case ("0x20"), which responses over UDP have to repeat.
    pub randomize_case: bool,
    /// Send DNS cookies over UDP, and check those of responses (RFC 7873).
    pub cookies: bool,
    /// Ask upstreams for the AD bit. Only for upstreams that validate, on a path that is trusted.
    pub trust_ad: bool,
    /// Octets of each thread's cache, which serves all fronts; 256 KiB at least.
    pub cache_bytes: usize,
    /// Seconds, 1 to 300, for which a question that no upstream answered is not asked again
    /// (RFC 9520 section 3.2). Each further failure in a row doubles the time.
    pub failure_min: u32,
    /// Seconds, 1 to 300, beyond which that time does not grow.
    pub failure_max: u32,
    /// Seconds after it expired for which an answer may still be served when no upstream
    /// gives a newer one (RFC 8767 section 5 suggests 1 to 3 days); 0: never.
    pub stale_max_age: u32,
    /// Time after which a client gets a stale answer, if there is one, while the look-up
    /// continues (RFC 8767 section 5, client response timer: 1.8 s).
    pub client_response_timeout: Duration,
    /// Whether each upstream is probed as soon as it is known, so that it shows without queries of clients whether it responds.
    pub probe_first: bool,
    /// Whether NXDOMAIN for a name also answers for every name below it (RFC 8020). Known names
    /// below it are still served. With several threads, each uses only those NXDOMAIN answers that it cached itself.
    pub nxdomain_cut: bool,
    /// The client subnet, an address and the length of its prefix in bits, that every upstream
    /// query carries (RFC 7871); none by default, and never a client's own. All clients share it, so
    /// an answer for it is right for all of them and can be cached. Bits beyond the prefix are not
    /// sent; 0 bits ask the upstream to use no subnet either.
    pub client_subnet: Option<(IpAddr, u8)>,
}

impl ForwardOptions {
    /// Files that each thread holds for the sockets and connections that questions share, at most.
    pub(crate) fn shared_files(&self) -> usize {
        let all = self.all_routes().flat_map(|route| route.upstreams);
        let upstreams = all.collect::<HashSet<_>>().len();
        udp::max_files(upstreams) + tcp::max_files(upstreams)
    }
}

impl Default for ForwardOptions {
    /// All but the upstreams. `config` takes the defaults of its keys from here.
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            routes: Vec::new(),
            policy: Policy::default(),
            hedge: 0,
            tls: TlsOptions::default(),
            threads: 1,
            queue: 4096,
            max_in_flight: 4096,
            attempt_timeout: Duration::from_millis(1_000),
            attempts: 3,
            limits: TtlLimits::default(),
            follow_aliases: true,
            randomize_case: false,
            cookies: true,
            trust_ad: false,
            cache_bytes: 64 << 20,
            failure_min: 1,
            failure_max: 300,
            stale_max_age: 86_400,
            client_response_timeout: Duration::from_millis(1_800),
            probe_first: false,
            nxdomain_cut: false,
            client_subnet: None,
        }
    }
}
