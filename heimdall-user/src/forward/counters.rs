//! The forwarder's counters.

use std::sync::Arc;

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
        /// Queries for the target of an alias that an upstream did not follow.
        aliases_followed,
        /// Attempts without an acceptable response in time.
        timeouts,
        /// Queries sent to a second upstream because the first took longer than usual.
        hedged,
        /// Of those, the ones that were answered first.
        hedges_won,
        /// Queries sent to find out whether an upstream that is set aside works again; no look-up waits for them.
        probes,
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
        /// Responses that change the case of the question's letters, which was chosen at random.
        rejected_case,
        /// Responses with another cookie than the query's, or without one from an upstream that gives cookies.
        rejected_cookie,
        /// Attempts that an upstream ended with an error: a response code that is no answer, a
        /// refused or broken connection.
        upstream_errors,
        /// Queries repeated without EDNS because the upstream could not read the first.
        retried_plain,
        /// Queries repeated with the cookie that came with the response BADCOOKIE.
        retried_cookie,
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
        /// Look-ups that were shed because more than its quota waited for their upstream.
        shed_upstream,
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
        /// Attempts that ended because the upstream could not be reached, among the errors.
        unreachable,
        /// Attempts that ended because TLS failed, among the errors.
        tls_failures,
        /// Attempts for which the upstream closed its connections, among the errors.
        closed,
        /// Responses of SERVFAIL, among the errors.
        servfail,
        /// Responses of REFUSED, among the errors.
        refused,
        /// Responses of FORMERR, among the errors.
        formerr,
        /// Responses of NOTIMP, among the errors.
        notimp,
        /// Responses of other codes that are no answer, among the errors.
        other_rcodes,
        /// Responses that are no answer whatever their code says, such as those with malformed records, among the errors.
        malformed,
        /// Attempts that went on in another way because too many responses did not belong to their query.
        forged,
        /// Queries sent to find out whether the upstream works again.
        probes,
        /// Queries that wait for the upstream, as of the last second.
        in_flight: gauge,
        /// The smoothed round-trip time in microseconds, over UDP unless the upstream is asked by TCP only; 0 before the first
        /// response.
        rtt_us: gauge,
        /// 1 while the upstream is set aside.
        set_aside: gauge,
    }
}

/// How an upstream is, by what became of the queries to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// There were none.
    Unknown,
    /// It is not set aside.
    Works,
    /// It is set aside.
    Failed,
}

/// An upstream as a forwarder thread sees it. The thread is the only writer.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Its counters.
    pub counters: UpstreamCounters,
    /// How long its responses took.
    pub(crate) latency: Histogram,
    /// Why it is set aside.
    problem: ArcSwapOption<String>,
}

impl UpstreamMetrics {
    /// The upstream is set aside for this reason, or is not set aside any more.
    pub(crate) fn set_problem(&self, problem: Option<String>) {
        self.counters.set_aside.set(problem.is_some().into());
        self.problem.store(problem.map(Arc::new));
    }

    /// Why the upstream is set aside.
    pub(crate) fn problem(&self) -> Option<Arc<String>> {
        self.problem.load_full()
    }

    /// How the upstream is by the thread's queries.
    pub(crate) fn condition(&self) -> Condition {
        if self.counters.set_aside.get() > 0 {
            Condition::Failed
        } else if self.counters.queries.get() > 0 {
            Condition::Works
        } else {
            Condition::Unknown
        }
    }
}
