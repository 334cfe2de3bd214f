//! Statements of the section `server` that have no counterpart, and why.

use super::{super::Draft, lexer::Entry, unreadable};

const OF_RESOLVERS: &str = "only a server that asks authoritative servers needs it";
const OF_VALIDATORS: &str = "signatures are not checked: forward to resolvers that check them";
const BY_ITSELF: &str = "nothing has to be set for that";
const OF_THE_UNIT: &str = "the service unit says that";
pub(super) const NO_HTTPS: &str = "DNS over HTTPS and over QUIC are not served";
const OF_THE_LOG: &str = "see `log.level` and `log.format`";

/// Keys with the same reason. A key with a `*` at its end stands for all that begin like it.
const UNNEEDED: &[(&str, &[&str])] = &[
    (
        OF_RESOLVERS,
        &[
            "aggressive-nsec",
            "caps-exempt",
            "caps-whitelist",
            "delay-close",
            "discard-timeout",
            "disable-edns-do",
            "do-not-query-*",
            "edns-buffer-size",
            "fast-server-*",
            "harden-*",
            "infra-*",
            "iter-scrub-*",
            "low-rtt*",
            "max-global-quota",
            "max-query-restarts",
            "max-sent-count",
            "minimal-responses",
            "nat64-prefix",
            "outbound-msg-retry",
            "outgoing-*",
            "prefer-ip4",
            "prefer-ip6",
            "qname-minimisation*",
            "root-hints",
            "target-fetch-policy",
            "udp-connect",
            "unwanted-reply-threshold",
        ],
    ),
    (
        BY_ITSELF,
        &[
            "answer-cookie",
            "deny-any",
            "do-daemonize",
            "do-tcp",
            "do-udp",
            "edns-tcp-keepalive*",
            "hide-identity",
            "hide-version",
            "hide-http-user-agent",
            "hide-trustanchor",
            "interface-automatic*",
            "jostle-timeout",
            "msg-buffer-size",
            "neg-cache-size",
            "num-queries-per-thread",
            "pad-*",
            "prefetch",
            "rrset-cache-slabs",
            "msg-cache-slabs",
            "rrset-roundrobin",
            "serve-expired-reply-ttl",
            "serve-expired-ttl-reset",
            "serve-original-ttl",
            "so-*",
            "ip-freebind",
            "ip-transparent",
            "ip-dscp",
            "stream-wait-size",
            "tcp-idle-timeout",
            "tcp-mss",
            "tcp-reuse-timeout",
            "tcp-auth-query-timeout",
            "incoming-num-tcp",
            "max-reuse-tcp-queries",
            "use-systemd",
            "tls-ciphers",
            "tls-ciphersuites",
            "tls-session-ticket-keys",
            "tls-use-sni",
            "wait-limit*",
        ],
    ),
    (
        OF_VALIDATORS,
        &[
            "ede-serve-expired",
            "key-cache-*",
            "prefetch-key",
            "root-key-sentinel",
            "trust-anchor-signaling",
            "val-*",
            "zonemd-*",
        ],
    ),
    (
        OF_THE_UNIT,
        &["chroot", "pidfile", "username", "use-syslog"],
    ),
    (
        OF_THE_LOG,
        &[
            "ede",
            "extended-statistics",
            "log-destaddr",
            "log-identity",
            "log-local-actions",
            "log-servfail",
            "log-tag-queryreply",
            "log-thread-id",
            "log-time-*",
            "logfile",
            "statistics-*",
            "shm-*",
            "val-log-*",
            "verbosity",
        ],
    ),
];

const LOST: &[(&str, &[&str])] = &[
    (
        OF_VALIDATORS,
        &[
            "auto-trust-anchor-file",
            "dlv-*",
            "domain-insecure",
            "module-config",
            "trust-anchor",
            "trust-anchor-file",
            "trusted-keys-file",
        ],
    ),
    (
        "addresses are not filtered out of answers",
        &["private-address", "private-domain", "response-ip*"],
    ),
    (
        "all clients get the same answers",
        &[
            "access-control-tag*",
            "access-control-view",
            "define-tag",
            "interface-tag*",
            "interface-view",
            "local-zone-override",
            "local-zone-tag",
        ],
    ),
    (
        "give the prefixes of clients in [access]",
        &["interface-action"],
    ),
    (
        "[rate-limit] limits replies over UDP by client network, and not queries",
        &["ip-ratelimit*", "ratelimit*"],
    ),
    (NO_HTTPS, &["http-*", "https-port", "quic-*"]),
    (
        "queries carry no subnet of clients; `forward.client-subnet` is one for all of them",
        &[
            "client-subnet-*",
            "max-client-subnet-*",
            "send-client-subnet",
            "min-client-subnet-ttl",
        ],
    ),
    (
        "aliases are followed, addresses are not made up",
        &["dns64-*"],
    ),
];

/// Keys that have a counterpart, if their value can be read.
const KNOWN: &[&str] = &[
    "cache-max-negative-ttl",
    "cache-max-ttl",
    "cache-min-ttl",
    "do-ip4",
    "do-ip6",
    "identity",
    "log-queries",
    "log-replies",
    "max-udp-size",
    "num-threads",
    "port",
    "serve-expired",
    "serve-expired-client-timeout",
    "serve-expired-ttl",
    "ssl-cert-bundle",
    "ssl-port",
    "ssl-service-key",
    "ssl-service-pem",
    "ssl-upstream",
    "tcp-upstream",
    "tls-cert-bundle",
    "tls-port",
    "tls-service-key",
    "tls-service-pem",
    "tls-upstream",
    "use-caps-for-id",
    "version",
];

/// Notes why a statement has no counterpart.
pub(super) fn note(entry: &Entry, draft: &mut Draft) {
    let statement = &entry.statement;
    match (reason(UNNEEDED, &entry.key), reason(LOST, &entry.key)) {
        (_, Some(why)) => draft.lost(statement, why),
        (Some(why), None) => draft.unneeded(statement, why),
        (None, None) if KNOWN.contains(&entry.key.as_str()) => unreadable(statement, draft),
        (None, None) => draft.lost(statement, "it is not known"),
    }
}

fn reason(table: &[(&'static str, &[&str])], key: &str) -> Option<&'static str> {
    let is = |known: &&str| match known.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => key == *known,
    };
    let mut groups = table.iter();
    let group = groups.find(|(_, keys)| keys.iter().any(is));
    group.map(|(why, _)| *why)
}
