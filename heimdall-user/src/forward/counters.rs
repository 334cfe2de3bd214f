//! What the forwarder counts.

use crate::stats::counters;

counters! {
    /// What one forwarder thread counts.
    pub struct ForwardCounters {
        /// Requests taken from the fronts.
        requests,
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
        /// Tries that an upstream ended with an error: a response code that is no answer, a
        /// refused or broken connection.
        upstream_errors,
        /// Requests that got SERVFAIL.
        servfail,
        /// Requests that were turned away because the queue was full.
        queue_full,
        /// Upstream queries under way now.
        in_flight,
        /// Queries that could not be sent for want of a socket or a port on this host.
        socket_errors,
    }
}
