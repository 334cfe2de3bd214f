//! The forwarder's counters.

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
        /// The smoothed round-trip time over UDP in microseconds; 0 before the first response.
        rtt_us: gauge,
        /// 1 from the time that the upstream was set aside until it responds again.
        failed: gauge,
    }
}

/// An upstream as a forwarder thread sees it. The thread is the only writer.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Its counters.
    pub counters: UpstreamCounters,
    /// How long its responses took.
    pub(crate) latency: Histogram,
}
