//! Whether queries can be answered: for load balancers, and for daemons that announce an anycast address.
//!
//! The forwarder finds out by clients' queries whether an upstream works. But a server that is not ready gets none,
//! so while no upstream works a query of its own goes to each, at most once a second and only when somebody asks
//! whether the server is ready.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::net::TcpStream;

use super::{report::Report, threads::Threads, upstreams::UpstreamState};
use crate::{
    config::Upstream,
    forward::{UpstreamAddress, UpstreamTransport},
};

/// Time between two queries to an upstream.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// For how long a response shows that an upstream works.
const PROBE_VALID: Duration = Duration::from_secs(10);

/// Age of a query from which its response, when it is seen only then, shows nothing. Longer than the time between two
/// checks of a load balancer, which would otherwise never see one.
const MAX_PROBE_AGE: Duration = Duration::from_secs(60);

/// Datagrams that are read for a response, of which others may have forged some.
const MAX_DATAGRAMS: usize = 8;

/// Answers the question whether queries can be answered.
pub(super) struct Readiness {
    report: Arc<Report>,
    threads: Arc<Threads>,
    /// One for each upstream.
    probes: Vec<Probe>,
    /// All upstreams had failed, and none has responded to a client's query since. Without clients the forwarder
    /// forgets the failures, but the upstreams work no better.
    in_doubt: bool,
}

/// The queries to an upstream.
struct Probe {
    upstream: UpstreamAddress,
    /// One that has no response.
    outstanding: Option<Outstanding>,
    /// When the last one was sent, or could not be.
    sent: Option<Instant>,
    /// When a response was seen.
    answered: Option<Instant>,
}

/// What an upstream is to respond to.
enum Outstanding {
    /// A query with this ID.
    Query(UdpSocket, u16),
    /// A connection, which it is to accept.
    Connection(TcpStream),
}

impl Readiness {
    pub(super) fn new(report: Arc<Report>, threads: Arc<Threads>) -> Self {
        let probes = report.upstreams.iter().map(|upstream| Probe {
            upstream: upstream.address.clone(),
            outstanding: None,
            sent: None,
            answered: None,
        });
        Self {
            probes: probes.collect(),
            in_doubt: false,
            report,
            threads,
        }
    }

    /// # Errors
    /// Why queries cannot be answered.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), String> {
        if let Some(thread) = self.threads.failed() {
            return Err(format!("the {thread} thread has ended"));
        }
        let is = |state| {
            let mut upstreams = self.report.upstreams.iter();
            upstreams.any(|upstream| upstream.state(now) == state)
        };
        let (works, unknown) = (is(UpstreamState::Up), is(UpstreamState::Unused));
        self.in_doubt = !works && (self.in_doubt || !unknown);
        if !self.in_doubt {
            return Ok(());
        }
        let mut works = false;
        for (probe, upstream) in self.probes.iter_mut().zip(&self.report.upstreams) {
            // A connection is no sign that TLS works.
            works |= upstream.problem().is_none() && probe.works(now);
        }
        if works {
            return Ok(());
        }
        let upstreams = self
            .probes
            .iter()
            .map(|probe| Upstream(&probe.upstream).to_string());
        let list: Vec<_> = upstreams.collect();
        Err(format!("no upstream responds: {}", list.join(", ")))
    }
}

impl Probe {
    /// Whether the upstream has responded lately. If it is time, it is asked again.
    fn works(&mut self, now: Instant) -> bool {
        let age = |at: Instant| now.saturating_duration_since(at);
        // The response may have arrived soon after the query, when no check was made.
        if self.sent.is_some_and(|at| age(at) >= MAX_PROBE_AGE) {
            self.outstanding = None;
        }
        if self.outstanding.as_ref().is_some_and(has_response) {
            self.answered = Some(now);
            self.outstanding = None;
        }
        if self.sent.is_none_or(|at| age(at) >= PROBE_INTERVAL) {
            self.sent = Some(now);
            // One that cannot be sent gets no response.
            self.outstanding = send(&self.upstream).ok();
        }
        self.answered.is_some_and(|at| age(at) < PROBE_VALID)
    }
}

/// Asks for the root's name servers, which every resolver has; or opens a connection, if the upstream is asked over
/// those only.
fn send(upstream: &UpstreamAddress) -> io::Result<Outstanding> {
    let address = upstream.address;
    if upstream.transport != UpstreamTransport::Udp {
        return TcpStream::connect(address).map(Outstanding::Connection);
    }
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    let id: u16 = rand::random();
    let [high, low] = id.to_be_bytes();
    // RFC 1035 section 4.1: RD, one question; the root, NS, IN.
    socket.send(&[high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1])?;
    Ok(Outstanding::Query(socket, id))
}

/// Whether a response has arrived, whatever it says.
fn has_response(outstanding: &Outstanding) -> bool {
    let (socket, id) = match outstanding {
        Outstanding::Query(socket, id) => (socket, id),
        Outstanding::Connection(stream) => return stream.peer_addr().is_ok(),
    };
    let mut buf = [0; 12];
    for _ in 0..MAX_DATAGRAMS {
        match socket.recv(&mut buf) {
            Ok(12) if buf.first_chunk() == Some(&id.to_be_bytes()) && buf[2] & 0x80 != 0 => {
                return true;
            }
            Ok(_) => {}
            // Nothing is there, or the port is closed.
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{net::TcpListener, thread};

    use super::*;
    use crate::forward::UpstreamMetrics;

    #[test]
    fn an_upstream_over_connections_works_if_it_accepts_one_and_tls_does_not_fail() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let upstream = UpstreamAddress {
            address: listener.local_addr().unwrap(),
            transport: UpstreamTransport::Tcp,
        };
        let metrics = Arc::<UpstreamMetrics>::default();
        let report = Report::of_upstream(upstream, Arc::clone(&metrics));
        let mut readiness = Readiness::new(Arc::new(report), Threads::new(|| ()));
        let mut now = Instant::now();
        metrics.counters.queries.add(1);
        metrics.set_failed(now);
        while readiness.check(now).is_err() {
            thread::yield_now();
        }
        metrics.set_problem(Some("it has expired".to_owned()));
        assert!(readiness.check(now).is_err());
        metrics.set_problem(None);
        assert_eq!(readiness.check(now), Ok(()));
        // Nothing listens any more.
        drop(listener);
        now += PROBE_VALID;
        metrics.set_failed(now);
        for _ in 0..3 {
            now += PROBE_INTERVAL;
            assert!(readiness.check(now).is_err());
        }
    }

    #[test]
    fn an_upstream_that_is_back_is_noticed_without_clients() {
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        resolver
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let metrics = Arc::<UpstreamMetrics>::default();
        let report = Report::of_upstream(resolver.local_addr().unwrap(), Arc::clone(&metrics));
        let counters = &metrics.counters;
        let mut readiness = Readiness::new(Arc::new(report), Threads::new(|| ()));
        let mut now = Instant::now();
        assert_eq!(readiness.check(now), Ok(()), "nothing is known");
        counters.queries.add(3);
        metrics.set_failed(now);
        let why = readiness.check(now).unwrap_err();
        assert!(why.starts_with("no upstream responds: 127.0.0.1:"), "{why}");
        let mut query = [0; 64];
        let (len, from) = resolver.recv_from(&mut query).unwrap();
        assert_eq!(len, 17);
        // One a second.
        assert!(readiness.check(now + PROBE_INTERVAL / 2).is_err());
        resolver.set_nonblocking(true).unwrap();
        assert!(resolver.recv_from(&mut [0; 64]).is_err());
        // The query itself, and another ID, are no response.
        resolver.send_to(query.get(..len).unwrap(), from).unwrap();
        let [high, low, flags, rest @ ..] = query;
        let response = [&[high, low, flags | 0x80][..], &rest].concat();
        let [other, ..] = query.map(|octet| !octet);
        resolver
            .send_to(&[&[other][..], &response].concat(), from)
            .unwrap();
        assert!(readiness.check(now + PROBE_INTERVAL / 2).is_err());
        resolver.send_to(&response, from).unwrap();
        while readiness.check(now).is_err() {
            thread::yield_now();
        }
        now += PROBE_VALID - Duration::from_millis(1);
        assert_eq!(readiness.check(now), Ok(()));
        now += Duration::from_millis(1);
        assert!(readiness.check(now).is_err());
        // A response that is seen only long after its query.
        let answer = |query: &mut [u8]| {
            let (_, from) = resolver.recv_from(query).unwrap();
            *query.get_mut(2).unwrap() |= 0x80;
            resolver.send_to(query, from).unwrap();
        };
        let mut query = [0; 17];
        // Queries that were sent above.
        resolver.set_nonblocking(true).unwrap();
        while resolver.recv_from(&mut query).is_ok() {}
        resolver.set_nonblocking(false).unwrap();
        for (age, valid) in [
            (MAX_PROBE_AGE - Duration::from_millis(1), true),
            (MAX_PROBE_AGE, false),
        ] {
            now += PROBE_VALID;
            metrics.set_failed(now);
            assert!(readiness.check(now).is_err());
            answer(&mut query);
            now += age;
            metrics.set_failed(now);
            assert_eq!(readiness.check(now).is_ok(), valid, "{age:?}");
            // The query that this check sent.
            resolver.recv_from(&mut query).unwrap();
        }
        // The forwarder has forgotten the failure, and nothing shows that the upstream works.
        now += Duration::from_secs(3600);
        assert!(readiness.check(now).is_err());
        metrics.clear_failed();
        assert_eq!(readiness.check(now), Ok(()));
    }
}
