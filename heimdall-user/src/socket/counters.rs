//! The counters of the socket front's threads.

use crate::stats::counters;

counters! {
    /// A thread's counters, in addition to those of its answer core.
    pub(crate) struct SocketCounters {
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
        /// Connections closed because the table was full.
        tcp_closed_full,
        /// Queries that wait for the forwarder now.
        pending: gauge,
        /// Queries that got SERVFAIL because too many wait for the forwarder, or its queue is full.
        overflow,
    }
}
