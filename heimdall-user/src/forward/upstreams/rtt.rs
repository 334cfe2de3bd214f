//! Round-trip times, and what follows from them: timeouts (RFC 6298 section 2), the time after which a look-up may ask
//! another upstream, and which upstream is the fastest.

use std::time::Duration;

use super::{Group, Upstreams};

/// Longest timeout that follows from measured round-trip times; the operator may set a longer one.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// Below this a second query gains nothing.
const MIN_HEDGE: Duration = Duration::from_millis(5);

/// The round-trip times of an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    /// The smoothed round-trip time and its variation, as in RFC 6298.
    smoothed: Duration,
    variation: Duration,
    /// An estimate of the time that 95 of 100 responses do not exceed.
    p95: Duration,
    /// The smoothed time with those of questions that another upstream answered first.
    cost: Duration,
}

impl Rtt {
    pub(super) fn first(sample: Duration) -> Self {
        Self {
            smoothed: sample,
            variation: sample / 2,
            p95: sample * 2,
            cost: sample,
        }
    }

    pub(super) fn add(self, sample: Duration) -> Self {
        let deviation = self.smoothed.abs_diff(sample);
        Self {
            smoothed: smooth(self.smoothed, sample),
            variation: (self.variation * 3 + deviation) / 4,
            // At rest if one sample of 20 is above it.
            p95: if sample > self.p95 {
                self.raised()
            } else {
                self.p95 - self.p95 / 320
            },
            cost: smooth(self.cost, sample),
        }
    }

    /// The estimate of p95 after a response that took longer.
    fn raised(self) -> Duration {
        self.p95 + self.p95 * 19 / 320
    }

    pub(super) fn smoothed(self) -> Duration {
        self.smoothed
    }

    pub(super) fn p95(self) -> Duration {
        self.p95
    }

    /// What a query costs, in nanoseconds.
    pub(super) fn cost(self) -> u64 {
        self.cost.as_nanos() as u64
    }

    fn timeout(self) -> Duration {
        self.smoothed + self.variation * 4
    }
}

fn smooth(known: Duration, sample: Duration) -> Duration {
    (known * 7 + sample) / 8
}

/// Timeouts.
impl Upstreams {
    /// A response over UDP, or on an established connection to an upstream that is asked over those only, took `rtt`. No query has the
    /// ID of another one on the same socket, so there is no ambiguity to which one it belongs (RFC 6298 section 3).
    pub(in crate::forward) fn measured(&mut self, index: usize, rtt: Duration) {
        if let Some(upstream) = self.list.get_mut(index) {
            let first = || Rtt::first(rtt);
            let rtt = upstream.rtt.map_or_else(first, |known| known.add(rtt));
            upstream
                .metrics
                .counters
                .rtt_us
                .set(rtt.smoothed.as_micros() as u64);
            upstream.rtt = Some(rtt);
        }
    }

    /// Another upstream answered a question that this one has been asked this time ago.
    pub(in crate::forward) fn was_slower(&mut self, index: usize, waited: Duration) {
        let upstream = self.list.get_mut(index);
        if let Some(rtt) = upstream.and_then(|upstream| upstream.rtt.as_mut()) {
            rtt.cost = smooth(rtt.cost, waited.max(rtt.cost));
            // Its time will not be measured; without it the estimate would sink.
            if waited > rtt.p95 {
                rtt.p95 = rtt.raised();
            }
        }
    }

    /// Time to wait for a response over UDP, `least` or more.
    pub(in crate::forward) fn timeout(&self, index: usize, least: Duration) -> Duration {
        let measured = self.list.get(index).and_then(|upstream| upstream.rtt);
        let measured = measured.map_or(Duration::ZERO, Rtt::timeout);
        measured.min(MAX_TIMEOUT).max(least)
    }

    /// Time that a try of a look-up has, in a group whose upstreams have `least` or more.
    ///
    /// A new connection takes longer. It is established as well while another upstream is asked, so only one that no other
    /// can replace gets that time.
    pub(in crate::forward) fn try_timeout(
        &self,
        group: &Group,
        index: usize,
        tcp: bool,
        least: Duration,
    ) -> Duration {
        let timeout = self.timeout(index, least);
        let is_impatient =
            || self.is_stream(index) && (self.is_aside(index) || self.others_work(group, index));
        match !tcp || is_impatient() {
            true => timeout,
            false => timeout * self.round_trips(index).max(2),
        }
    }

    /// Time after which a query is slower than most. `None`: that is not known yet.
    pub(in crate::forward) fn hedge_after(&self, index: usize) -> Option<Duration> {
        let rtt = self.list.get(index)?.rtt?;
        Some(rtt.p95().max(MIN_HEDGE))
    }
}

/// Latency.
impl Upstreams {
    /// A response, whatever its code, took this time; the first on a connection from its opening on.
    pub(in crate::forward) fn responded(&self, index: usize, took: Duration) {
        if let Some(upstream) = self.list.get(index) {
            upstream.metrics.latency.record(took, 1);
        }
    }
}
