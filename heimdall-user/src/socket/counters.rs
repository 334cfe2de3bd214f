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
        /// Connections accepted for plain TCP.
        tcp_connections,
        /// Connections over plain TCP now.
        tcp_open: gauge,
        /// Messages received over plain TCP.
        tcp_received,
        /// Messages answered over plain TCP.
        tcp_answered,
        /// Connections closed because they were idle, those of TLS included.
        tcp_closed_idle,
        /// Connections closed to make room for others, those of TLS included.
        tcp_closed_full,
        /// Connections handed over to a successor.
        tcp_handed_over,
        /// Connections taken over from a predecessor.
        tcp_adopted,
        /// Connections of a predecessor that were closed because there was no room for them.
        tcp_adopted_closed,
        /// Connections closed after their last replies because the server ends, those of TLS included. A successor gets
        /// none of TLS.
        tcp_drained,
        /// Connections closed because their queries were not answered, or their replies not taken, when the server's
        /// time to end was over, those of TLS included.
        tcp_drained_late,
        /// Connections accepted for TLS.
        tls_connections,
        /// Connections over TLS now, handshakes included.
        tls_open: gauge,
        /// TLS handshakes that have succeeded.
        tls_handshakes,
        /// TLS handshakes that have resumed an earlier session; they are among those that have succeeded.
        tls_resumed,
        /// Messages received over TLS.
        tls_received,
        /// Messages answered over TLS.
        tls_answered,
        /// TLS handshakes that failed because what the client sent was not TLS, or broke its rules.
        tls_failed_malformed,
        /// TLS handshakes that failed because client and server have no version, cipher suite or group in common.
        tls_failed_incompatible,
        /// TLS handshakes that failed because the client wanted another protocol than DNS (ALPN).
        tls_failed_alpn,
        /// TLS handshakes that the client ended with an alert, most often because it does not trust the certificate.
        tls_failed_rejected,
        /// TLS handshakes during which the client closed the connection.
        tls_failed_closed,
        /// TLS handshakes that took too long.
        tls_failed_timeout,
        /// TLS handshakes that were ended to make room for others.
        tls_failed_no_room,
        /// Connections that were closed because there is no certificate.
        tls_failed_no_certificate,
        /// Queries that wait for the forwarder now.
        pending: gauge,
        /// Queries that got SERVFAIL because too many wait for the forwarder, or its queue is full.
        overflow,
    }
}
