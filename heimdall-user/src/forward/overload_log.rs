//! The forwarder's log lines about overload, and about TLS upstreams that are not to be trusted.
//!
//! As packets can cause all of them, each kind of line is written at most once in [`PAUSE`], whichever thread
//! has the occasion.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use domain::base::name::Name;
use hashbrown::HashMap;
use tracing::warn;

use super::{
    UpstreamAddress,
    shed::{Scarce, Shedding},
};

const PAUSE: Duration = Duration::from_secs(10);

/// Kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Shed(Scarce),
    DeadZone,
    QueueFull,
    NoPort,
    Tls(usize),
}

/// When each kind of line was written last. The threads share it.
#[derive(Clone, Debug, Default)]
pub(super) struct OverloadLog(Arc<Mutex<HashMap<Kind, Instant>>>);

impl OverloadLog {
    /// Look-ups are about to be shed.
    pub(super) fn shed(&self, scarce: Scarce, shedding: &Shedding<'_>, now: Instant) {
        if !self.is_due(Kind::Shed(scarce), now) {
            return;
        }
        let (what, raise) = match scarce {
            Scarce::Lookups => (
                "forward.max-in-flight look-ups are in flight",
                ", or raise forward.max-in-flight",
            ),
            Scarce::Front(_) => ("too many queries wait for upstreams", ""),
        };
        let Shedding { held, total, .. } = shedding;
        warn!(
            "overload: {what}; {held} of {total} are {}: the oldest of these get SERVFAIL or a stale \
             answer, to make room for others. Limit the client with [rate-limit] or [access], or block \
             the zone with [[blocklist]]{raise}",
            Holder(shedding)
        );
    }

    /// A zone is dead for `queries` of this kind, such as "A".
    pub(super) fn dead_zone(&self, zone: &[u8], queries: &str, now: Instant) {
        if self.is_due(Kind::DeadZone, now) {
            warn!(
                "upstreams answer no {queries} queries for names below {}: those for new names get SERVFAIL \
                 at once, except for a probe from time to time, until one is answered",
                Presentation(zone)
            );
        }
    }

    /// The queue was full `count` times since the start.
    pub(super) fn queue_full(&self, count: u64, now: Instant) {
        if self.is_due(Kind::QueueFull, now) {
            warn!(
                "overload: forward.queue was full, {count} requests so far got SERVFAIL; raise \
                 forward.threads or forward.queue, or limit clients with [rate-limit]"
            );
        }
    }

    /// A query to this upstream could not be sent for lack of a port or an address.
    pub(super) fn no_port(&self, upstream: SocketAddr, now: Instant) {
        if self.is_due(Kind::NoPort, now) {
            warn!(
                "queries to {upstream} cannot be sent: no local port or address is left for them, or a filter \
                 rejects them; widen net.ipv4.ip_local_port_range if `ss -s` shows that many are in use"
            );
        }
    }

    /// TLS with the upstream at this position of the list has failed in another way than before.
    pub(super) fn tls(
        &self,
        index: usize,
        upstream: &UpstreamAddress,
        problem: &str,
        now: Instant,
    ) {
        if self.is_due(Kind::Tls(index), now) {
            warn!("upstream {upstream} gets no queries, TLS with it fails: {problem}");
        }
    }

    fn is_due(&self, kind: Kind, now: Instant) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = written.get(&kind);
        let due = last.is_none_or(|last| now.saturating_duration_since(*last) >= PAUSE);
        if due {
            written.insert(kind, now);
        }
        due
    }
}

/// Describes the holder of the look-ups.
struct Holder<'a>(&'a Shedding<'a>);

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.client, self.0.zone) {
            (Some(client), Some(zone)) => {
                write!(
                    f,
                    "for client prefix {client}, below {}",
                    Presentation(zone)
                )
            }
            (Some(client), None) => write!(f, "for client prefix {client}"),
            (None, Some(zone)) => write!(f, "below {}", Presentation(zone)),
            (None, None) => f.write_str("held by clients and zones of which none has many"),
        }
    }
}

/// A name in presentation format (RFC 1035 section 5.1), unprintable octets escaped.
struct Presentation<'a>(&'a [u8]);

impl fmt::Display for Presentation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Name::from_slice(self.0) {
            Ok(name) => name.fmt_with_dot().fmt(f),
            Err(_) => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shedding<'a>(client: Option<&str>, zone: Option<&'a [u8]>) -> Shedding<'a> {
        Shedding {
            client: client.and_then(|text| text.parse().ok()),
            zone,
            held: 0,
            total: 0,
            slots: Vec::new(),
        }
    }

    #[test]
    fn holders_are_named_and_names_are_escaped() {
        let zone = Some(&b"\x05a\n.\x1bz\x07example\0"[..]);
        for (client, zone, text) in [
            (
                Some("192.0.2.0/24"),
                zone,
                "for client prefix 192.0.2.0/24, below a\\010\\.\\027z.example.",
            ),
            (
                Some("2001:db8::/56"),
                None,
                "for client prefix 2001:db8::/56",
            ),
            (None, Some(&b"\x04dead\0"[..]), "below dead."),
        ] {
            assert_eq!(Holder(&shedding(client, zone)).to_string(), text);
        }
    }

    #[test]
    fn a_kind_of_line_is_written_once_in_a_pause() {
        let log = OverloadLog::default();
        let now = Instant::now();
        assert!(log.is_due(Kind::DeadZone, now));
        assert!(log.is_due(Kind::Shed(Scarce::Lookups), now));
        assert!(!log.clone().is_due(Kind::DeadZone, now), "another thread");
        assert!(!log.is_due(Kind::DeadZone, now + PAUSE / 2));
        assert!(log.is_due(Kind::DeadZone, now + PAUSE));
    }
}
