//! What the forwarder counts.

use crate::stats::counters;

counters! {
    /// What one forwarder thread counts.
    pub struct ForwardCounters {
        /// Requests taken from the fronts.
        requests,
        /// Requests to get an answer anew before its life was over, among the requests.
        refreshes,
        /// Requests that joined an upstream query that was under way.
        coalesced,
        /// Queries sent over UDP.
        sent_udp,
        /// Queries sent over TCP.
        sent_tcp,
        /// Answers accepted.
        answers,
        /// Tries that brought no acceptable response in time.
        timeouts,
        /// Datagrams from another address than the one asked.
        rejected_source,
        /// Responses with a wrong ID.
        rejected_id,
        /// Responses to another question.
        rejected_question,
        /// Responses that cannot be read.
        rejected_malformed,
        /// Responses that speak of another client subnet than the query did.
        rejected_subnet,
        /// Tries that an upstream ended with an error: a response code that is no answer, a
        /// refused or broken connection.
        upstream_errors,
        /// Queries repeated without EDNS because the upstream could not read the first.
        retried_plain,
        /// Look-ups that ended with a truncated answer, the whole of which came from no upstream
        /// over TCP.
        truncated,
        /// Requests that got SERVFAIL.
        servfail,
        /// Requests that got SERVFAIL, or an answer whose life is over, because of an earlier
        /// failure, without an upstream query.
        failure_hits,
        /// Requests that got SERVFAIL, or a stale answer, because no name below one of their zones
        /// can be resolved, without an upstream query.
        zone_failure_hits,
        /// Look-ups that a client prefix had to end to make room: it held more than its quota.
        shed_client,
        /// Look-ups that were ended to make room because they were below a zone that held more than
        /// its quota.
        shed_zone,
        /// Look-ups that were ended to make room because they were the oldest.
        shed_oldest,
        /// Requests that got an answer whose life is over.
        stale,
        /// Requests answered from the thread's cache, under their own question.
        cache_hits,
        /// Requests answered NXDOMAIN from the thread's cache, for another type of the name.
        nxdomain_hits,
        /// Requests answered NXDOMAIN from the thread's cache, for a name above theirs.
        nxdomain_cut_hits,
        /// Answers now in the thread's cache.
        cache_entries,
        /// Answers put in the thread's cache.
        cache_insertions,
        /// Answers that made room for others while they were of use.
        cache_evictions,
        /// Requests that were turned away because the queue was full.
        queue_full,
        /// Upstream queries under way now.
        in_flight,
        /// Queries that could not be sent for want of a socket or a port on this host.
        socket_errors,
    }
}
