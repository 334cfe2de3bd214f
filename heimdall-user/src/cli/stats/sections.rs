//! The words for what the server counts, and the order in which people read it.
//!
//! Fields that are not listed here, as newer servers may have them, are shown under their names at the end.

/// A group of rows.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) rows: &'static [Row],
}

/// Rows for counts. Pointers begin with `/fronts` (workers and sockets together), `/workers`, `/sockets`, `/interfaces`
/// (each summed), or a field of the document.
pub(super) enum Row {
    /// A part of the section's total, which is the sum of its parts.
    Part(&'static str, &'static str),
    /// A count, or a state, beside the total.
    Other(&'static str, &'static str),
    /// A part for each count of an object, the highest first, under its name in capitals.
    Parts(&'static str),
    /// A date, in seconds since 1970.
    Date(&'static str, &'static str),
}

use Row::{Date, Other, Part, Parts};

/// What comes before the tables.
pub(super) const BEGINNING: &[Section] = &[
    Section {
        title: "QUERIES",
        rows: &[
            Part("/tier/hits", "in the kernel (hot tier)"),
            Part("/workers/received", "over AF_XDP"),
            Part("/sockets/udp_received", "over UDP"),
            Part("/sockets/tcp_received", "over TCP"),
            Part("/sockets/tls_received", "over TLS"),
        ],
    },
    Section {
        title: "CACHE",
        rows: &[
            Part("/fronts/hits", "answered (hits)"),
            Part("/fronts/misses", "forwarded (misses)"),
            Other("/tier/hits", "of the hits by the hot tier"),
            Other("/fronts/cache/entries", "answers in it now"),
            Other("/fronts/cache/insertions", "answers inserted"),
            Other("/fronts/cache/evictions", "evicted before they expired"),
        ],
    },
    Section {
        title: "REPLIES",
        rows: &[
            Part("/tier/hits", "in the kernel (hot tier)"),
            Part("/workers/answered", "over AF_XDP"),
            Part("/sockets/udp_answered", "over UDP"),
            Part("/sockets/tcp_answered", "over TCP"),
            Part("/sockets/tls_answered", "over TLS"),
            Other("/fronts/truncated", "truncated, too large for UDP"),
            Other("/fronts/slipped", "truncated, over the rate limit"),
            Other("/fronts/prohibited", "REFUSED by the access list"),
            Other("/fronts/overflow", "SERVFAIL, too many wait"),
            Other("/fronts/local", "from local data, not cached yet"),
            Other("/fronts/blocked", "by a blocklist, not cached yet"),
            Other("/sockets/udp_send_failed", "not accepted by the kernel"),
        ],
    },
    Section {
        title: "RESPONSE CODES",
        rows: &[Parts("/fronts/rcodes")],
    },
    Section {
        title: "TYPES",
        rows: &[Parts("/fronts/types")],
    },
    Section {
        title: "QUERIES WITHOUT A REPLY",
        rows: &[
            Part("/fronts/dropped/runt", "shorter than a DNS header"),
            Part("/fronts/dropped/response", "a response, not a query"),
            Part(
                "/fronts/dropped/service_port",
                "from the port of a known service",
            ),
            Part("/fronts/dropped/bad_length", "contradictory lengths"),
            Part("/fronts/dropped/bad_checksum", "wrong checksum"),
            Part("/fronts/dropped/bad_source", "from an impossible address"),
            Part(
                "/fronts/dropped/access",
                "client dropped by the access list",
            ),
            Part("/fronts/dropped/rate_limited", "over the rate limit"),
            Part("/fronts/dropped/no_room", "no room for the reply"),
        ],
    },
    Section {
        title: "LOST BY THE KERNEL BEFORE A WORKER",
        rows: &[
            Part(
                "/workers/ring/rx_ring_full",
                "rx ring full: worker too slow",
            ),
            Part("/workers/ring/rx_dropped", "no buffer, or packet too large"),
            Other(
                "/workers/ring/rx_fill_ring_empty_descs",
                "fill ring found empty",
            ),
            Other("/workers/ring/rx_invalid_descs", "invalid in the fill ring"),
            Other("/workers/ring/tx_invalid_descs", "invalid in the tx ring"),
            Other(
                "/workers/ring/tx_ring_empty_descs",
                "tx ring found empty (normal)",
            ),
        ],
    },
    Section {
        title: "FORWARDER, REQUESTS",
        rows: &[
            Other("/forwarder/requests", "from workers and sockets"),
            Other("/forwarder/refreshes", "of these to refresh an answer"),
            Other("/forwarder/cache/hits", "answered from the shared cache"),
            Other(
                "/forwarder/nxdomain_hits",
                "NXDOMAIN, known from another type",
            ),
            Other(
                "/forwarder/nxdomain_cut_hits",
                "NXDOMAIN, known from a name above",
            ),
            Other("/forwarder/coalesced", "joined a look-up in flight"),
            Other("/forwarder/stale", "got a stale answer"),
            Other("/forwarder/failure_hits", "failed shortly before"),
            Other("/forwarder/zone_failure_hits", "below a dead zone"),
            Other("/forwarder/servfail", "got SERVFAIL"),
            Other("/forwarder/queue_full", "rejected, the queue was full"),
        ],
    },
    Section {
        title: "FORWARDER, UPSTREAM QUERIES",
        rows: &[
            Part("/forwarder/sent_udp", "sent over UDP"),
            Part("/forwarder/sent_tcp", "sent over TCP"),
            Other("/forwarder/moved", "sent again, the connection broke"),
            Other("/forwarder/answers", "answers accepted"),
            Other("/forwarder/aliases_followed", "for the target of an alias"),
            Other("/forwarder/timeouts", "timeouts"),
            Other("/forwarder/upstream_errors", "errors"),
            Other("/forwarder/hedged", "to a second upstream, the first slow"),
            Other("/forwarder/hedges_won", "of these answered first"),
            Other("/forwarder/probes", "probes of upstreams set aside"),
            Other("/forwarder/retried_plain", "repeated without EDNS"),
            Other("/forwarder/retried_cookie", "repeated with a cookie"),
            Other("/forwarder/truncated", "truncated, and none over TCP"),
            Other("/forwarder/socket_errors", "no socket or port"),
            Other("/forwarder/in_flight", "look-ups in flight now"),
            Other("/forwarder/connections", "TCP connections now"),
            Other("/forwarder/connections_opened", "TCP connections opened"),
            Other("/forwarder/tls_handshakes", "TLS handshakes"),
            Other("/forwarder/tls_resumed", "TLS sessions resumed"),
        ],
    },
    Section {
        title: "RESPONSES NOT ACCEPTED",
        rows: &[
            Part("/forwarder/rejected/source", "from another address"),
            Part("/forwarder/rejected/id", "wrong ID"),
            Part("/forwarder/rejected/question", "another question"),
            Part("/forwarder/rejected/malformed", "unreadable"),
            Part("/forwarder/rejected/subnet", "another client subnet"),
            Part("/forwarder/rejected/case", "other letters (0x20)"),
            Part("/forwarder/rejected/cookie", "another cookie, or none"),
        ],
    },
    Section {
        title: "LOOK-UPS ENDED TO MAKE ROOM",
        rows: &[
            Part("/forwarder/shed/client", "of a client prefix"),
            Part("/forwarder/shed/zone", "below a zone"),
            Part("/forwarder/shed/upstream", "that wait for an upstream"),
            Part("/forwarder/shed/oldest", "the oldest"),
        ],
    },
];

/// What comes after the tables.
pub(super) const END: &[Section] = &[
    Section {
        title: "SHARED CACHE",
        rows: &[
            Other("/forwarder/cache/entries", "answers in it now"),
            Other("/forwarder/cache/insertions", "answers inserted"),
            Other("/forwarder/cache/evictions", "evicted before they expired"),
        ],
    },
    Section {
        title: "HOT TIER",
        rows: &[
            Other("/tier/entries", "answers in it now"),
            Other("/tier/capacity", "answers that it holds at most"),
            Other("/tier/bytes", "octets of these"),
            Other("/tier/promotions", "answers promoted"),
            Other("/tier/replacements", "of these newer ones of a question"),
            Other("/tier/demotions", "demoted: expired, or not popular"),
            Other("/tier/nominations", "nominated by workers"),
            Other(
                "/tier/nominations_dropped",
                "nominations lost, too many wait",
            ),
            Other(
                "/tier/nominations_outdated",
                "nominations outdated by a change",
            ),
        ],
    },
    Section {
        title: "LEFT TO WORKERS BY THE HOT TIER",
        rows: &[
            Part("/tier/passed/not_held", "not in it"),
            Part("/tier/passed/not_plain", "not a plain query"),
            Part("/tier/passed/long_name", "name too long"),
            Part("/tier/passed/due", "due for refresh"),
            Part("/tier/passed/sampled", "one in 1024 hits, for the cache"),
            Part("/tier/passed/client", "client not allowed"),
            Part("/tier/passed/non_recursive", "without RD"),
            Part("/tier/passed/checksum", "wrong checksum"),
            Part("/tier/passed/too_large", "reply too large"),
            Part("/tier/passed/no_tailroom", "no room behind the packet"),
            Part("/tier/passed/outdated", "answer outdated"),
            Part("/tier/passed/off", "tier off, or changing"),
        ],
    },
    Section {
        title: "TCP",
        rows: &[
            Other("/sockets/tcp_open", "connections now"),
            Other("/sockets/tcp_connections", "connections"),
            Other("/sockets/tcp_closed_idle", "closed, idle"),
            Other("/sockets/tcp_closed_full", "closed to make room"),
            Other("/sockets/tcp_handed_over", "handed over to a successor"),
            Other("/sockets/tcp_adopted", "taken over from a predecessor"),
            Other(
                "/sockets/tcp_adopted_closed",
                "of a predecessor, closed: no room",
            ),
            Other("/sockets/tcp_drained", "closed, the server ends"),
            Other(
                "/sockets/tcp_drained_late",
                "closed with replies outstanding",
            ),
        ],
    },
    Section {
        title: "TLS",
        rows: &[
            Other("/sockets/tls_open", "connections now"),
            Other("/sockets/tls_connections", "connections"),
            Other("/sockets/tls_handshakes", "handshakes"),
            Other("/sockets/tls_resumed", "of these resumed a session"),
            Date("/tls/certificate/not_before", "certificate valid from"),
            Date("/tls/certificate/not_after", "certificate valid until"),
        ],
    },
    Section {
        title: "TLS HANDSHAKES THAT FAILED",
        rows: &[
            Part("/sockets/tls_failed/malformed", "not TLS, or broken"),
            Part(
                "/sockets/tls_failed/incompatible",
                "no common version or cipher",
            ),
            Part("/sockets/tls_failed/alpn", "another protocol wanted (ALPN)"),
            Part(
                "/sockets/tls_failed/rejected",
                "by the client, with an alert",
            ),
            Part("/sockets/tls_failed/closed", "the client closed it"),
            Part("/sockets/tls_failed/timeout", "took too long"),
            Part("/sockets/tls_failed/no_room", "ended to make room"),
            Part(
                "/sockets/tls_failed/no_certificate",
                "there is no certificate",
            ),
        ],
    },
    Section {
        title: "XDP PROGRAM",
        rows: &[
            Part("/interfaces/verdicts/steered", "steered to a worker"),
            Part("/interfaces/verdicts/answered", "answered: hot tier"),
            Part("/interfaces/verdicts/not_served", "passed: not to us"),
            Part("/interfaces/verdicts/not_udp", "passed: not UDP"),
            Part("/interfaces/verdicts/not_ip", "passed: not IP"),
            Part("/interfaces/verdicts/fragment", "passed: fragment"),
            Part("/interfaces/verdicts/ipv4_options", "passed: IPv4 options"),
            Part(
                "/interfaces/verdicts/ipv6_extension",
                "passed: IPv6 extension header",
            ),
            Part(
                "/interfaces/verdicts/other_mac",
                "passed: other MAC address",
            ),
            Part("/interfaces/verdicts/too_many_tags", "passed: VLAN tags"),
            Part("/interfaces/verdicts/bad_length", "passed: lengths"),
            Part("/interfaces/verdicts/not_query", "passed: not a query"),
            Part("/interfaces/verdicts/too_long", "passed: too long"),
            Part(
                "/interfaces/verdicts/other_route",
                "passed: route by another interface",
            ),
            Part(
                "/interfaces/verdicts/neighbour",
                "passed: MAC address of the next hop",
            ),
            Part("/interfaces/verdicts/no_socket", "passed: no worker"),
        ],
    },
    Section {
        title: "WORKERS",
        rows: &[
            Other("/workers/restarts", "started again"),
            Other("/workers/sleeps", "sleeps"),
            Other("/workers/busy_polls", "polls of the NIC"),
            Other("/workers/tx_wakeups", "kernel woken to send"),
            Other("/workers/fill_wakeups", "kernel woken to receive"),
            Other("/workers/frames/total", "frames"),
            Other("/workers/frames/fill", "frames to receive into"),
            Other("/workers/frames/tx", "frames being sent"),
            Other("/workers/frames/pending", "frames of queries that wait"),
            Other("/workers/frames/free", "frames unused"),
            Other("/workers/frames/missing", "frames missing: a bug"),
            Other("/sockets/pending", "queries at the sockets that wait"),
        ],
    },
    Section {
        title: "PATH MTU",
        rows: &[
            Other("/path_mtu/entries", "clients with a smaller one now"),
            Other("/path_mtu/learnt", "reports by ICMP"),
            Other("/path_mtu/ignored", "reports ignored"),
            Other("/path_mtu/evicted", "clients evicted"),
        ],
    },
    Section {
        title: "PROCESS",
        rows: &[
            Other("/process/open_files", "open files"),
            Other("/process/threads", "threads"),
            Other("/sandbox/system_calls", "system calls left to it"),
        ],
    },
    Section {
        title: "LOG",
        rows: &[Other("/log/lost", "lines lost")],
    },
];
