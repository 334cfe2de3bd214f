//! The forwarder's log lines about overload, and about upstreams that are set aside.
//!
//! As packets can cause the former, each kind of line is written at most once in [`PAUSE`], whichever thread
//! has the occasion. Of an upstream there is one line when the first thread sets it aside, and one when it works again for
//! the last of them; of one that is set aside again within [`PAUSE`] there are none, unless it still is at a probe after that.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use domain::base::name::Name;
use hashbrown::HashMap;
use tracing::{info, warn};

use super::{
    UpstreamAddress,
    shed::{Scarce, Shedding},
    upstreams::Reason,
};

const PAUSE: Duration = Duration::from_secs(10);

/// Kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Shed(Scarce),
    DeadZone,
    QueueFull,
    NoPort,
}

/// What was written. The threads share it.
#[derive(Clone, Debug, Default)]
pub(super) struct OverloadLog {
    /// When each kind of line was written last.
    written: Arc<Mutex<HashMap<Kind, Instant>>>,
    /// Upstreams that are set aside, or were within [`PAUSE`].
    aside: Arc<Mutex<HashMap<String, Aside>>>,
}

/// An upstream that is or was set aside.
#[derive(Debug, Default)]
struct Aside {
    /// How many threads have set it aside.
    threads: usize,
    /// When that was written last.
    written: Option<Instant>,
    /// Why it is set aside, if that is not written yet.
    unwritten: Option<String>,
    /// How often it was set aside, since the last line, without being written.
    omitted: u64,
}

impl Aside {
    fn is_recent(&self, now: Instant) -> bool {
        let written = self.written;
        written.is_some_and(|written| now.saturating_duration_since(written) < PAUSE)
    }

    /// A thread does not set it aside any more. Whether it works again, and that it did not was written.
    fn end(&mut self) -> bool {
        self.threads = self.threads.saturating_sub(1);
        if self.threads > 0 {
            return false;
        }
        let was_written = self.unwritten.take().is_none();
        self.omitted += u64::from(!was_written);
        was_written
    }

    /// The line's text that is to be written now, if one is.
    fn take_due(&mut self, now: Instant) -> Option<String> {
        if self.is_recent(now) {
            return None;
        }
        let mut text = self.unwritten.take()?;
        self.written = Some(now);
        match std::mem::take(&mut self.omitted) {
            0 => {}
            times => text += &format!(" (and {times} times since the last such line)"),
        }
        Some(text)
    }
}

impl OverloadLog {
    /// Look-ups are about to be shed: of those that wait for this upstream, or of all.
    pub(super) fn shed(
        &self,
        scarce: Scarce,
        shedding: &Shedding<'_>,
        upstream: Option<SocketAddr>,
        now: Instant,
    ) {
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
            Holder(shedding, upstream)
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

    /// A thread has set the upstream aside.
    pub(super) fn set_aside(&self, upstream: &UpstreamAddress, reason: &Reason, now: Instant) {
        let text = self.with(upstream, now, |aside| {
            aside.threads += 1;
            if aside.threads > 1 {
                return None;
            }
            aside.unwritten = Some(reason.to_string());
            aside.take_due(now)
        });
        write_aside(upstream, text);
    }

    /// A probe is sent to an upstream, which may be set aside without that being written.
    pub(super) fn still_aside(&self, upstream: &UpstreamAddress, now: Instant) {
        let text = self.with(upstream, now, |aside| aside.take_due(now));
        write_aside(upstream, text);
    }

    /// The upstream, which a thread had set aside for this time, works again.
    pub(super) fn works_again(&self, upstream: &UpstreamAddress, after: Duration, now: Instant) {
        if self.with(upstream, now, Aside::end) {
            info!(
                "upstream {upstream} works again, after {} s",
                after.as_secs()
            );
        }
    }

    /// A thread that had set the upstream aside does not use it any more.
    pub(super) fn forget(&self, upstream: &UpstreamAddress, now: Instant) {
        self.with(upstream, now, Aside::end);
    }

    /// Changes what is known of an upstream. Others that are not set aside any more are forgotten after [`PAUSE`].
    fn with<T>(
        &self,
        upstream: &UpstreamAddress,
        now: Instant,
        change: impl FnOnce(&mut Aside) -> T,
    ) -> T {
        let mut all = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let name = upstream.to_string();
        all.retain(|other, aside| *other == name || aside.threads > 0 || aside.is_recent(now));
        change(all.entry(name).or_default())
    }

    fn is_due(&self, kind: Kind, now: Instant) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let last = written.get(&kind);
        let due = last.is_none_or(|last| now.saturating_duration_since(*last) >= PAUSE);
        if due {
            written.insert(kind, now);
        }
        due
    }
}

fn write_aside(upstream: &UpstreamAddress, text: Option<String>) {
    if let Some(text) = text {
        warn!("upstream {upstream} is set aside: {text}");
    }
}

/// Describes the holder of the look-ups.
struct Holder<'a>(&'a Shedding<'a>, Option<SocketAddr>);

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self
            .0
            .client
            .map(|client| format!("for client prefix {client}"));
        let zone = (self.0.zone).map(|zone| format!("below {}", Presentation(zone)));
        let upstream = (self.1).map(|upstream| format!("waiting for upstream {upstream}"));
        let parts: Vec<String> = [client, zone, upstream].into_iter().flatten().collect();
        if parts.is_empty() {
            f.write_str("held by clients and zones of which none has many")
        } else {
            f.write_str(&parts.join(", "))
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shedding<'a>(client: Option<&str>, zone: Option<&'a [u8]>) -> Shedding<'a> {
        Shedding {
            upstream: None,
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
        let upstream = Some(([192, 0, 2, 53], 53).into());
        for (client, zone, upstream, text) in [
            (
                Some("192.0.2.0/24"),
                zone,
                None,
                "for client prefix 192.0.2.0/24, below a\\010\\.\\027z.example.",
            ),
            (
                Some("2001:db8::/56"),
                None,
                upstream,
                "for client prefix 2001:db8::/56, waiting for upstream 192.0.2.53:53",
            ),
            (None, Some(&b"\x04dead\0"[..]), None, "below dead."),
            (None, None, upstream, "waiting for upstream 192.0.2.53:53"),
            (
                None,
                None,
                None,
                "held by clients and zones of which none has many",
            ),
        ] {
            let shedding = shedding(client, zone);
            assert_eq!(Holder(&shedding, upstream).to_string(), text);
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

    #[test]
    fn an_upstream_that_flaps_has_a_pair_of_lines_in_a_pause() {
        let mut aside = Aside::default();
        let now = Instant::now();
        let begin = |aside: &mut Aside, now| {
            aside.threads += 1;
            aside.unwritten = Some("why".into());
            aside.take_due(now)
        };
        assert_eq!(begin(&mut aside, now).as_deref(), Some("why"));
        assert!(aside.end());
        for _ in 0..3 {
            assert_eq!(begin(&mut aside, now + PAUSE / 2), None);
            assert!(!aside.end(), "neither is written");
        }
        // It stays so.
        assert_eq!(begin(&mut aside, now + PAUSE / 2), None);
        let text = aside.take_due(now + PAUSE);
        let expected = "why (and 3 times since the last such line)";
        assert_eq!(text.as_deref(), Some(expected));
        assert_eq!(aside.take_due(now + PAUSE * 3), None, "once");
        assert!(aside.end());
    }

    #[test]
    fn upstreams_that_work_are_forgotten() {
        let log = OverloadLog::default();
        let now = Instant::now();
        let [one, two] =
            [1, 2].map(|port| UpstreamAddress::from(SocketAddr::from(([192, 0, 2, 1], port))));
        log.set_aside(&one, &Reason::Refused, now);
        log.works_again(&one, PAUSE, now);
        log.set_aside(&two, &Reason::Refused, now + PAUSE);
        assert_eq!(log.aside.lock().unwrap().len(), 1);
    }
}
