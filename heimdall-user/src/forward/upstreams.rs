//! The state of the upstreams, and the choice of the one to query first.
//!
//! The list is in order of preference. An upstream is set aside for [`HOLD_OFF`] on evidence about
//! the upstream itself: it cannot be reached (a refused datagram or connection, an ICMP error, no route), or
//! [`IN_A_ROW`] different questions in a row timed out, or had it close their connections, without a response of any
//! kind in between. One such question is no evidence: the servers of its zone may be silent. Any response,
//! whatever its code, ends this.
//!
//! After that time a single query, the probe, goes to the upstream again. When all are set aside, the
//! one that responded last is queried first, and then the others in their order.
//!
//! The timeout follows from the measured round-trip times (RFC 6298 section 2). Whether to leave out
//! the OPT record follows from the outcomes of queries with one (RFC 6891 section 6.2.2).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{UpstreamAddress, UpstreamCounters, UpstreamMetrics, UpstreamTransport};
use crate::maintenance::UpstreamState;

/// Time for which an upstream that failed is set aside.
const HOLD_OFF: Duration = Duration::from_secs(10);

/// Different questions in a row that have to end alike before that is evidence about the upstream.
const IN_A_ROW: usize = 3;

/// Longest timeout that follows from measured round-trip times; the operator may set a longer one.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// For how long queries go without EDNS to an upstream that cannot read it.
const PLAIN_FOR: Duration = Duration::from_secs(300);

/// The upstreams of one thread.
#[derive(Debug)]
pub(super) struct Upstreams {
    list: Vec<Upstream>,
    heard_last: usize,
    min_timeout: Duration,
}

#[derive(Debug)]
struct Upstream {
    address: UpstreamAddress,
    metrics: Arc<UpstreamMetrics>,
    held_until: Option<Instant>,
    /// When it last sent a response.
    heard: Option<Instant>,
    /// Questions since then that got no response.
    silence: Row,
    rtt: Option<Rtt>,
    /// It has answered a query with EDNS.
    answers_edns: bool,
    /// Questions since then that it answered only without EDNS.
    plain_answers: Row,
    plain_until: Option<Instant>,
    /// Why TLS with it fails.
    problem: Option<String>,
}

impl Upstream {
    fn set_aside(&mut self, now: Instant) {
        self.held_until = Some(now + HOLD_OFF);
        self.metrics.set_failed(now);
    }
}

/// Hashes of different questions in a row that ended alike.
#[derive(Debug, Default)]
struct Row(Vec<u64>);

impl Row {
    /// Adds a question. Whether there are enough of them.
    fn add(&mut self, question: u64) -> bool {
        if self.0.len() < IN_A_ROW && !self.0.contains(&question) {
            self.0.push(question);
        }
        self.0.len() >= IN_A_ROW
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The smoothed round-trip time and its variation (RFC 6298 section 2).
#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    fn first(sample: Duration) -> Self {
        Self {
            smoothed: sample,
            variation: sample / 2,
        }
    }

    fn add(self, sample: Duration) -> Self {
        let deviation = self.smoothed.abs_diff(sample);
        Self {
            smoothed: (self.smoothed * 7 + sample) / 8,
            variation: (self.variation * 3 + deviation) / 4,
        }
    }

    fn timeout(self) -> Duration {
        self.smoothed + self.variation * 4
    }
}

impl Upstreams {
    /// `min_timeout` is the least time that an upstream has to respond.
    pub(super) fn new(addresses: &[UpstreamAddress], min_timeout: Duration) -> Self {
        let list = addresses.iter().map(|address| Upstream {
            address: address.clone(),
            metrics: Arc::default(),
            held_until: None,
            heard: None,
            silence: Row::default(),
            rtt: None,
            answers_edns: false,
            plain_answers: Row::default(),
            plain_until: None,
            problem: None,
        });
        Self {
            list: list.collect(),
            heard_last: 0,
            min_timeout,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.list
            .get(index)
            .map(|upstream| upstream.address.address)
    }

    /// Whether the upstream is asked over TLS.
    pub(super) fn is_tls(&self, index: usize) -> bool {
        let transport = self
            .list
            .get(index)
            .map(|upstream| &upstream.address.transport);
        matches!(transport, Some(UpstreamTransport::Tls(_)))
    }

    /// Whether the upstream is asked over connections only.
    pub(super) fn is_stream(&self, index: usize) -> bool {
        let transport = self
            .list
            .get(index)
            .map(|upstream| &upstream.address.transport);
        transport.is_some_and(|transport| *transport != UpstreamTransport::Udp)
    }

    pub(super) fn counters(&self, index: usize) -> Option<&UpstreamCounters> {
        let upstream = self.list.get(index);
        upstream.map(|upstream| &upstream.metrics.counters)
    }

    /// Counters and latency of each upstream.
    pub(super) fn metrics(&self) -> Vec<Arc<UpstreamMetrics>> {
        let metrics = self.list.iter().map(|upstream| &upstream.metrics);
        metrics.cloned().collect()
    }

    /// The upstream to query first.
    pub(super) fn first(&mut self, now: Instant) -> usize {
        let first = self.next_first(now);
        self.begin_probe(first, now);
        first
    }

    /// The upstream that [`first`](Self::first) would choose. Nothing changes.
    pub(super) fn next_first(&self, now: Instant) -> usize {
        let mut all = 0..self.list.len();
        all.find(|index| self.is_open(*index, now))
            .unwrap_or(self.heard_last)
    }

    /// The upstream to query after `index`: the next that is not set aside, or else the next.
    pub(super) fn after(&mut self, index: usize, now: Instant) -> usize {
        let len = self.list.len().max(1);
        let mut others = (1..len).map(|step| (index + step) % len);
        let after = others
            .find(|other| self.is_open(*other, now))
            .unwrap_or((index + 1) % len);
        self.begin_probe(after, now);
        after
    }

    /// Whether the upstream is not set aside, or that time is over: then the next query is the probe.
    fn is_open(&self, index: usize, now: Instant) -> bool {
        let upstream = self.list.get(index);
        upstream.is_some_and(|upstream| upstream.held_until.is_none_or(|until| now >= until))
    }

    /// The upstream was chosen. If the time is over for which it was set aside, the query is the probe: no other
    /// goes there until it has ended.
    fn begin_probe(&mut self, index: usize, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index)
            && upstream.held_until.is_some_and(|until| now >= until)
        {
            upstream.held_until = Some(now + HOLD_OFF);
        }
    }

    /// The states of all, in order.
    pub(super) fn states(&self, now: Instant) -> Vec<UpstreamState> {
        let states = self.list.iter().enumerate();
        states
            .map(|(index, upstream)| UpstreamState {
                address: upstream.address.address,
                transport: upstream.address.transport.name(),
                set_aside: (upstream.held_until)
                    .and_then(|until| until.checked_duration_since(now))
                    .filter(|left| !left.is_zero()),
                rtt: upstream.rtt.map(|rtt| rtt.smoothed),
                timeout: self.timeout(index),
                plain: self.is_plain(index, now),
            })
            .collect()
    }

    /// The upstream sent a response, whatever its code.
    pub(super) fn heard(&mut self, index: usize, now: Instant) {
        self.heard_last = index;
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.heard = Some(now);
            upstream.held_until = None;
            upstream.metrics.clear_failed();
            upstream.silence.clear();
            if upstream.problem.take().is_some() {
                upstream.metrics.set_problem(None);
                tracing::info!("upstream {}: TLS works again", upstream.address);
            }
        }
    }

    /// Whether the upstream sent a response after `then`.
    pub(super) fn heard_since(&self, index: usize, then: Instant) -> bool {
        let heard = self.list.get(index).and_then(|upstream| upstream.heard);
        heard.is_some_and(|heard| heard > then)
    }

    /// Whether any upstream sent a response within the last `time`.
    pub(super) fn heard_within(&self, now: Instant, time: Duration) -> bool {
        let heard = self.list.iter().filter_map(|upstream| upstream.heard).max();
        heard.is_some_and(|heard| now.saturating_duration_since(heard) <= time)
    }

    /// TLS with the upstream has failed. Gives its address and the problem if that is a new one.
    pub(super) fn tls_failed(
        &mut self,
        index: usize,
        problem: String,
    ) -> Option<(&UpstreamAddress, &str)> {
        let upstream = self.list.get_mut(index)?;
        if upstream.problem.as_deref() == Some(problem.as_str()) {
            return None;
        }
        upstream.metrics.set_problem(Some(problem.clone()));
        let problem = upstream.problem.insert(problem);
        Some((&upstream.address, problem))
    }

    /// The upstream cannot be reached.
    pub(super) fn unreachable(&mut self, index: usize, now: Instant) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.set_aside(now);
        }
    }

    /// A query for `question`, sent at `sent`, timed out, or made the upstream close its connection.
    pub(super) fn gave_nothing(
        &mut self,
        index: usize,
        question: u64,
        sent: Instant,
        now: Instant,
    ) {
        if let Some(upstream) = self.list.get_mut(index)
            && upstream.heard.is_none_or(|heard| heard <= sent)
            && upstream.silence.add(question)
        {
            upstream.set_aside(now);
        }
    }
}

/// Timeouts.
impl Upstreams {
    /// A response over UDP, or on an established connection to an upstream that is asked over those only, took `rtt`. No query has the
    /// ID of another one on the same socket, so there is no ambiguity to which one it belongs (RFC 6298 section 3).
    pub(super) fn measured(&mut self, index: usize, rtt: Duration) {
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

    /// Time to wait for a response over UDP.
    pub(super) fn timeout(&self, index: usize) -> Duration {
        let measured = self.list.get(index).and_then(|upstream| upstream.rtt);
        let measured = measured.map_or(Duration::ZERO, Rtt::timeout);
        measured.min(MAX_TIMEOUT).max(self.min_timeout)
    }
}

/// Latency.
impl Upstreams {
    /// A response, whatever its code, took this time; the first on a connection from its opening on.
    pub(super) fn responded(&self, index: usize, took: Duration) {
        if let Some(upstream) = self.list.get(index) {
            upstream.metrics.latency.record(took, 1);
        }
    }
}

/// EDNS.
impl Upstreams {
    /// The upstream answered a query with EDNS.
    pub(super) fn answered_edns(&mut self, index: usize) {
        if let Some(upstream) = self.list.get_mut(index) {
            upstream.answers_edns = true;
            upstream.plain_until = None;
            upstream.plain_answers.clear();
        }
    }

    /// The upstream answered a query for `question` without EDNS that was sent at `sent`.
    pub(super) fn answered_plain(&mut self, index: usize, question: u64, sent: Instant) {
        // A query that was sent without EDNS at once is no new evidence.
        if !self.is_plain(index, sent)
            && let Some(upstream) = self.list.get_mut(index)
            && upstream.plain_answers.add(question)
        {
            upstream.plain_until = Some(sent + PLAIN_FOR);
        }
    }

    /// Whether queries go to the upstream without EDNS at once.
    pub(super) fn is_plain(&self, index: usize, now: Instant) -> bool {
        let upstream = self.list.get(index);
        upstream.is_some_and(|upstream| upstream.plain_until.is_some_and(|until| now < until))
    }

    /// Whether the upstream has ever answered a query with EDNS.
    pub(super) fn answers_edns(&self, index: usize) -> bool {
        (self.list.get(index)).is_some_and(|upstream| upstream.answers_edns)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::forward::Condition;

    const SECOND: Duration = Duration::from_secs(1);
    const LEAST: Duration = Duration::from_millis(650);

    fn two() -> Upstreams {
        Upstreams::new(
            &["127.0.0.1:1", "127.0.0.1:2"].map(|a| a.parse::<SocketAddr>().unwrap().into()),
            LEAST,
        )
    }

    #[test]
    fn an_unreachable_upstream_is_set_aside_then_probed_once() {
        let now = Instant::now();
        let mut upstreams = two();
        assert_eq!(upstreams.first(now), 0);
        upstreams.unreachable(0, now);
        upstreams.heard(1, now);
        assert_eq!(upstreams.first(now), 1);
        let set_aside = |now| {
            upstreams
                .states(now)
                .iter()
                .map(|state| state.set_aside)
                .collect()
        };
        let states: Vec<_> = set_aside(now);
        assert_eq!(states, [Some(HOLD_OFF), None]);
        let later = now + HOLD_OFF;
        let states: Vec<_> = set_aside(later);
        assert_eq!(states, [None, None]);
        for _ in 0..2 {
            assert_eq!(upstreams.next_first(later), 0, "a look is no probe");
        }
        assert_eq!(upstreams.first(later), 0, "the probe");
        assert_eq!(upstreams.first(later), 1, "one probe only");
        upstreams.heard(0, later);
        assert_eq!(upstreams.first(later), 0);
        upstreams.unreachable(0, later);
        upstreams.unreachable(1, later);
        assert_eq!(upstreams.first(later), 0, "all: the one heard last");
        assert_eq!(upstreams.after(1, later), 0);
    }

    #[test]
    fn a_failure_is_published_until_a_response_or_for_a_minute() {
        let now = Instant::now();
        let mut upstreams = two();
        let metrics = upstreams.metrics();
        let conditions =
            |now| [0, 1].map(|index: usize| metrics.get(index).unwrap().condition(now));
        assert_eq!(conditions(now), [Condition::Unknown; 2], "no queries");
        for upstream in &metrics {
            upstream.counters.queries.add(1);
        }
        assert_eq!(conditions(now), [Condition::Works; 2]);
        upstreams.unreachable(0, now);
        upstreams.unreachable(1, now);
        assert_eq!(conditions(now), [Condition::Failed; 2]);
        // The first is asked again and fails again; the second gets no query.
        let probe = now + SECOND * 30;
        assert_eq!(upstreams.first(probe), 0);
        upstreams.unreachable(0, probe);
        let later = now + SECOND * 59;
        assert_eq!(conditions(later), [Condition::Failed; 2]);
        let later = now + SECOND * 60;
        assert_eq!(conditions(later), [Condition::Failed, Condition::Unknown]);
        upstreams.heard(0, later);
        assert_eq!(conditions(later), [Condition::Works, Condition::Unknown]);
    }

    #[test]
    fn the_next_one_is_not_set_aside_if_another_is_left() {
        let now = Instant::now();
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into());
        let mut upstreams = Upstreams::new(&addresses, LEAST);
        assert_eq!(
            [0, 1, 2].map(|index| upstreams.after(index, now)),
            [1, 2, 0]
        );
        upstreams.unreachable(1, now);
        assert_eq!(
            [0, 1, 2].map(|index| upstreams.after(index, now)),
            [2, 2, 0]
        );
        upstreams.unreachable(2, now);
        assert_eq!(
            [0, 1, 2].map(|index| upstreams.after(index, now)),
            [1, 0, 0]
        );
        let later = now + HOLD_OFF;
        assert_eq!(upstreams.after(0, later), 1, "the probe");
        assert_eq!(upstreams.after(0, later), 2, "the probe of the other");
        assert_eq!(upstreams.first(later), 0);
    }

    #[test]
    fn different_questions_in_a_row_set_an_upstream_aside() {
        let start = Instant::now();
        let at = |seconds| start + SECOND * seconds;
        let mut upstreams = two();
        for second in 1..9 {
            upstreams.gave_nothing(0, 7, at(second - 1), at(second));
        }
        upstreams.gave_nothing(0, 8, at(9), at(10));
        assert_eq!(upstreams.first(at(10)), 0, "two questions");
        upstreams.heard(0, at(11));
        upstreams.gave_nothing(0, 9, at(12), at(13));
        assert_eq!(upstreams.first(at(13)), 0, "a response in between");
        upstreams.gave_nothing(0, 10, at(12), at(13));
        upstreams.gave_nothing(0, 11, at(10), at(13));
        assert_eq!(upstreams.first(at(13)), 0, "sent before the response");
        upstreams.gave_nothing(0, 12, at(12), at(13));
        assert_eq!(upstreams.first(at(13)), 1);
        assert_eq!(upstreams.first(at(23)), 0, "the probe");
        upstreams.gave_nothing(0, 13, at(23), at(24));
        assert_eq!(upstreams.first(at(33)), 1, "set aside again");
        upstreams.heard(0, at(33));
        assert_eq!(upstreams.first(at(33)), 0);
    }

    #[test]
    fn a_response_of_any_upstream_counts() {
        let now = Instant::now();
        let mut upstreams = two();
        assert!(!upstreams.heard_within(now, SECOND));
        upstreams.heard(1, now);
        assert!(upstreams.heard_within(now + SECOND, SECOND));
        assert!(!upstreams.heard_within(now + SECOND * 2, SECOND));
    }

    #[test]
    fn timeouts_follow_round_trips_within_bounds() {
        let mut upstreams = two();
        let millis = Duration::from_millis;
        assert_eq!(upstreams.timeout(0), LEAST);
        upstreams.measured(0, millis(5));
        assert_eq!(upstreams.timeout(0), LEAST);
        upstreams.measured(1, millis(600));
        assert_eq!(upstreams.timeout(1), millis(1_800), "three times the first");
        upstreams.measured(1, millis(1_100));
        assert_eq!(upstreams.timeout(1), MAX_TIMEOUT);
        for _ in 0..50 {
            upstreams.measured(1, millis(1_100));
        }
        assert!((millis(1_090)..millis(1_200)).contains(&upstreams.timeout(1)));
        for _ in 0..50 {
            upstreams.measured(1, millis(1));
        }
        assert_eq!(upstreams.timeout(1), LEAST);
        let slow = Upstreams::new(&[SocketAddr::from(([127, 0, 0, 1], 1)).into()], SECOND * 5);
        assert_eq!(slow.timeout(0), SECOND * 5, "as configured");
    }

    #[test]
    fn edns_is_left_out_after_plain_answers_in_a_row_and_used_again_later() {
        let start = Instant::now();
        let mut upstreams = two();
        for question in [1, 1, 1, 2] {
            upstreams.answered_plain(0, question, start);
        }
        assert!(!upstreams.is_plain(0, start), "two questions");
        upstreams.answered_edns(0);
        assert!(upstreams.answers_edns(0) && !upstreams.answers_edns(1));
        for question in [3, 4, 5] {
            assert!(!upstreams.is_plain(0, start));
            upstreams.answered_plain(0, question, start);
        }
        assert!(upstreams.is_plain(0, start) && !upstreams.is_plain(1, start));
        // Queries that go plain anyway do not put off the next try.
        upstreams.answered_plain(0, 6, start + PLAIN_FOR / 2);
        let end = start + PLAIN_FOR;
        assert!(!upstreams.is_plain(0, end));
        upstreams.answered_plain(0, 7, end);
        assert!(upstreams.is_plain(0, end), "it still cannot");
        upstreams.answered_edns(0);
        assert!(!upstreams.is_plain(0, end));
    }
}
