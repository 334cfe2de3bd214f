//! Which upstream is asked first.
//!
//! The list is in order of preference. An upstream that did not answer, or could not be reached,
//! is passed over for [`HOLD_OFF`]; then one query, and only one, tries it first again, and what
//! becomes of that decides for all others. When all are being passed over, the one that worked
//! last is asked. A response code such as SERVFAIL says something about a name, not about the
//! upstream, and changes nothing here.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long an upstream that failed is not asked first.
const HOLD_OFF: Duration = Duration::from_secs(10);

/// The upstreams of one thread.
#[derive(Debug)]
pub(super) struct Upstreams {
    list: Vec<Upstream>,
    worked_last: usize,
    /// When a response of any of them came last, whatever it said.
    heard: Option<Instant>,
}

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    held_until: Option<Instant>,
}

impl Upstreams {
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let list = addresses.iter().map(|&address| Upstream {
            address,
            held_until: None,
        });
        Self {
            list: list.collect(),
            worked_last: 0,
            heard: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.list.get(index).map(|upstream| upstream.address)
    }

    /// The one to ask first.
    pub(super) fn first(&mut self, now: Instant) -> usize {
        for (index, upstream) in self.list.iter_mut().enumerate() {
            match upstream.held_until {
                None => return index,
                Some(until) if now >= until => {
                    // This query is the probe; the next ones keep away until it has come back.
                    upstream.held_until = Some(now + HOLD_OFF);
                    return index;
                }
                Some(_) => {}
            }
        }
        self.worked_last
    }

    /// The one to ask after `index`.
    pub(super) fn after(&self, index: usize) -> usize {
        (index + 1) % self.list.len().max(1)
    }

    /// Notes that a response came, whatever it said.
    pub(super) fn heard(&mut self, _index: usize, now: Instant) {
        self.heard = Some(now);
    }

    /// Whether any upstream has responded to anything in this time.
    pub(super) fn heard_within(&self, now: Instant, time: Duration) -> bool {
        self.heard
            .is_some_and(|heard| now.saturating_duration_since(heard) <= time)
    }

    pub(super) fn worked(&mut self, index: usize) {
        self.worked_last = index;
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.held_until = None;
        }
    }

    pub(super) fn failed(&mut self, index: usize, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.held_until = Some(now + HOLD_OFF);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_failed_upstream_is_passed_over_then_probed_once() {
        let now = Instant::now();
        let mut upstreams =
            Upstreams::new(&["127.0.0.1:1", "127.0.0.1:2"].map(|a| a.parse().unwrap()));
        assert_eq!(upstreams.first(now), 0);
        upstreams.failed(0, now);
        upstreams.worked(1);
        assert_eq!(upstreams.first(now), 1);
        let later = now + HOLD_OFF;
        assert_eq!(upstreams.first(later), 0, "the probe");
        assert_eq!(upstreams.first(later), 1, "one probe only");
        upstreams.worked(0);
        assert_eq!(upstreams.first(later), 0);
        upstreams.failed(0, later);
        upstreams.failed(1, later);
        assert_eq!(
            upstreams.first(later),
            0,
            "all failed: the one that worked last"
        );
        assert_eq!(upstreams.after(1), 0);
    }
}
