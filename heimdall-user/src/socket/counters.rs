//! What the socket front counts.

use crate::stats::counters;

counters! {
    /// What the socket front counts, beside what its answer core does.
    pub struct SocketCounters {
        /// Datagrams received.
        udp_received,
        /// Datagrams sent.
        udp_answered,
        /// Replies that the kernel did not take.
        udp_send_failed,
        /// Connections accepted.
        tcp_connections,
        /// Messages received over connections.
        tcp_received,
        /// Messages answered over connections.
        tcp_answered,
        /// Connections closed because they were idle.
        tcp_closed_idle,
        /// Connections closed to make room for others.
        tcp_closed_full,
        /// Queries that wait for the forwarder now.
        pending,
        /// Queries that got SERVFAIL because too many were waiting.
        overflow,
    }
}
