//! The forwarder's counters.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use crate::{latency::Histogram, stats::counters};

counters! {
    /// The counters of a forwarder thread.
    pub struct ForwardCounters {
        /// Requests taken from the fronts.
        requests,
        /// Refreshes of answers about to expire, among the requests.
        refreshes,
        /// Requests for a question that was in flight already.
        coalesced,
        /// Queries sent over UDP.
        sent_udp,
        /// Queries sent over TCP.
        sent_tcp,
        /// TCP connections to upstreams that are open now.
        connections: gauge,
        /// TCP connections to upstreams that were opened.
        connections_opened,
        /// TLS handshakes with upstreams.
        tls_handshakes,
        /// TLS handshakes that resumed a session, among them.
        tls_resumed,
        /// Queries over TCP that were sent once more on another connection, because theirs broke.
        moved,
        /// Answers accepted.
        answers,
        /// Attempts without an acceptable response in time.
        timeouts,
        /// Datagrams from another address than the upstream's.
        rejected_source,
        /// Responses with a wrong ID.
        rejected_id,
        /// Responses to another question.
        rejected_question,
        /// Responses that cannot be read.
        rejected_malformed,
        /// Responses with another client subnet than the query's.
        rejected_subnet,
        /// Attempts that an upstream ended with an error: a response code that is no answer, a
        /// refused or broken connection.
        upstream_errors,
        /// Queries repeated without EDNS because the upstream could not read the first.
        retried_plain,
        /// Look-ups that ended with a truncated answer, because no upstream sent the whole of it over
        /// TCP.
        truncated,
        /// Requests that got SERVFAIL.
        servfail,
        /// Requests that got SERVFAIL, or a stale answer, because of a cached failure, without an
        /// upstream query.
        failure_hits,
        /// Requests that got SERVFAIL, or a stale answer, because one of their zones is dead, without an
        /// upstream query.
        zone_failure_hits,
        /// Look-ups that were shed because their client prefix held more than its quota.
        shed_client,
        /// Look-ups that were shed because a zone above them held more than its quota.
        shed_zone,
        /// Look-ups that were shed because they were the oldest.
        shed_oldest,
        /// Requests that got a stale answer.
        stale,
        /// Requests answered from the thread's cache, under their own question.
        cache_hits,
        /// Requests answered NXDOMAIN from the thread's cache, for another type of the name.
        nxdomain_hits,
        /// Requests answered NXDOMAIN from the thread's cache, for a name above theirs.
        nxdomain_cut_hits,
        /// Answers now in the thread's cache.
        cache_entries: gauge,
        /// Answers inserted into the thread's cache.
        cache_insertions,
        /// Answers that were evicted before they expired.
        cache_evictions,
        /// Requests that were rejected because the queue was full.
        queue_full,
        /// Questions in flight now.
        in_flight: gauge,
        /// Queries that could not be sent because this host had no socket or port left.
        socket_errors,
    }
}

counters! {
    /// What a forwarder thread knows of an upstream.
    pub struct UpstreamCounters {
        /// Queries sent to the upstream.
        queries,
        /// Attempts at the upstream that timed out.
        timeouts,
        /// Attempts that the upstream ended with an error: a response code that is no answer, a refused or
        /// broken connection.
        errors,
        /// Queries that wait for the upstream, as of the last second.
        in_flight: gauge,
        /// The smoothed round-trip time in microseconds, over UDP unless the upstream is asked by TCP only; 0 before the first
        /// response.
        rtt_us: gauge,
        /// Until when the upstream counts as failed, in milliseconds of the monotonic clock; 0 unless it was set aside and has
        /// not responded since.
        failed_until: gauge,
    }
}

/// For how long the failure of an upstream tells something about it. Longer than an upstream is set aside, as the next
/// query may come some time after that; a query that fails renews it. But an upstream that no query is sent to, because
/// another one works, may have come back.
const FAILED_FOR: Duration = Duration::from_secs(60);

/// Milliseconds since a time in the past, the same for all threads.
fn millis(at: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Not 0, even for a time before the first call.
    at.saturating_duration_since(*START).as_millis() as u64 + 1
}

/// How an upstream is, by what became of the queries to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// There were none, or none for long after it failed.
    Unknown,
    /// It was not set aside since its last response.
    Works,
    /// It was set aside.
    Failed,
}

/// An upstream as a forwarder thread sees it. The thread is the only writer.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Its counters.
    pub counters: UpstreamCounters,
    /// How long its responses took.
    pub(crate) latency: Histogram,
    /// Why TLS with it fails.
    problem: ArcSwapOption<String>,
}

impl UpstreamMetrics {
    /// The upstream was set aside.
    pub(crate) fn set_failed(&self, now: Instant) {
        self.counters.failed_until.set(millis(now + FAILED_FOR));
    }

    /// TLS with the upstream fails for this reason, or does not fail any more.
    pub(crate) fn set_problem(&self, problem: Option<String>) {
        self.problem.store(problem.map(Arc::new));
    }

    /// Why TLS with the upstream fails.
    pub(crate) fn problem(&self) -> Option<Arc<String>> {
        self.problem.load_full()
    }

    /// The upstream has responded.
    pub(crate) fn clear_failed(&self) {
        self.counters.failed_until.set(0);
    }

    /// How the upstream is by the thread's queries. It follows from the time, as the thread may sleep.
    pub(crate) fn condition(&self, now: Instant) -> Condition {
        match self.counters.failed_until.get() {
            0 if self.counters.queries.get() > 0 => Condition::Works,
            until if millis(now) < until => Condition::Failed,
            _ => Condition::Unknown,
        }
    }
}
