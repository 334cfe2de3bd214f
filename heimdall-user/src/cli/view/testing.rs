//! A server's documents for tests.

use serde_json::{Value, json};

use super::{Period, Reading};

/// Seconds between two documents.
pub(in crate::cli) const SECONDS: u64 = 2;

/// The document after `times` times [`SECONDS`], with equal counts in each.
pub(in crate::cli) fn document(times: u64) -> Value {
    let n = |count: u64| json!(count * times);
    let uptime = (SECONDS * times) as f64;
    let latency = json!({
        "count": n(100), "mean_us": 14.2, "p50_us": 11.0, "p90_us": 20.5, "p99_us": 45, "p999_us": 310,
        "max_us": 2_345, "buckets": [[10.0, n(60)], [20.0, n(30)], [50.0, n(9)], [3000.0, n(1)]],
    });
    let slow = json!({
        "count": n(10), "mean_us": 9_100, "p50_us": 8_200, "p90_us": 21_000, "p99_us": 48_000,
        "p999_us": 812_000, "max_us": 1_900_000,
    });
    json!({
        "version": 1,
        "build": { "version": "0.1.0" },
        "pid": 4711,
        "started": 1_699_999_798.0,
        "time": 1_699_999_798.0 + uptime,
        "uptime": uptime,
        "backend": "xdp",
        "process": { "cpu_seconds": 0.68 * times as f64, "resident_bytes": 220_200_960, "open_files": 61, "threads": 9 },
        "interfaces": [{
            "name": "eth0", "state": "up", "reason": null, "attach": "native", "program_id": 12,
            "verdicts": { "steered": n(20_000), "not_ip": n(6), "no_socket": 0 },
        }],
        "workers": [
            {
                "interface": "eth0", "queue": 0, "state": "running", "reason": null, "restarts": 0,
                "mode": "zero-copy", "cpu": 2, "received": n(14_000), "answered": n(13_900), "overflow": 0,
                "sleeps": n(2_000), "hits": n(13_600), "misses": n(280), "truncated": n(4),
                "types": { "a": n(9_000), "aaaa": n(4_000), "https": n(1_000), "mx": 0 },
                "rcodes": { "noerror": n(12_900), "nxdomain": n(1_000), "servfail": 0 },
                "cache": { "entries": 90_123, "insertions": n(275), "evictions": 0, "hit_ratio": 0.9798 },
                "dropped": { "runt": n(20), "bad_checksum": n(100), "rate_limited": 0 },
                "frames": { "total": 4096, "fill": 2048, "tx": 3, "pending": 7, "free": 2038, "missing": 0 },
                "ring": { "rx_ring_full": n(30), "rx_dropped": n(2), "tx_ring_empty_descs": n(5) },
            },
            {
                "interface": "eth0", "queue": 1, "state": "restarting",
                "reason": "cannot bind an AF_XDP socket: Device or resource busy", "restarts": 3,
                "mode": "copy", "cpu": null, "received": n(6_000), "answered": n(5_950),
                "hits": n(5_800), "misses": n(120),
                "types": { "a": n(6_000) }, "rcodes": { "noerror": n(5_950) },
                "cache": { "entries": 40_000, "insertions": n(120), "evictions": n(60) },
                "dropped": { "rate_limited": n(80) },
                "frames": { "total": 4096, "pending": 2 },
                "ring": { "rx_ring_full": 0, "rx_dropped": 0 },
            },
        ],
        "sockets": {
            "udp_received": n(3_600), "udp_answered": n(3_560), "tcp_connections": n(40),
            "tcp_received": n(400), "tcp_answered": n(390), "pending": 3, "hits": n(3_805), "misses": n(195),
            "types": { "a": n(4_000) }, "rcodes": { "noerror": n(3_940), "refused": n(10) },
            "cache": { "entries": 12_000, "insertions": n(195), "evictions": 0 },
            "dropped": {},
        },
        "socket_threads": [],
        "forwarder": {
            "requests": n(595), "coalesced": n(12), "sent_udp": n(630), "sent_tcp": n(10), "answers": n(630),
            "timeouts": n(4), "upstream_errors": n(1), "rejected": { "id": n(3) }, "servfail": n(1),
            "stale": n(5), "in_flight": 12,
            "shed": { "client": n(7), "zone": 0, "oldest": 0 },
            "cache": { "hits": n(60), "entries": 150_000, "insertions": n(630), "evictions": 0 },
            "nxdomain_hits": n(2), "nxdomain_cut_hits": 0,
        },
        "upstreams": [
            {
                "address": "192.0.2.53:53", "routes": [".", "corp.example."], "state": "up", "rtt_us": 8_312, "in_flight": 11,
                "queries": n(600), "timeouts": n(2), "errors": n(1), "latency": slow,
                "error_kinds": { "servfail": n(1), "unreachable": 0 }, "forged": 0,
            },
            {
                "address": "[2001:db8::53]:53", "state": "failed", "rtt_us": null, "in_flight": 1,
                "queries": n(40), "timeouts": n(2), "errors": 0, "problem": "it does not respond",
            },
        ],
        "latency": { "hits": latency, "misses": slow },
        "popular": {
            "sampled": 123_456, "one_in": 64, "half_life": 60, "dropped": 0,
            "names": [
                { "name": "www.example.com.", "count": 2_500 },
                { "name": "\u{1b}[2J\u{7}evil.example.", "count": 1_000 },
                { "name": format!("{}.example.", "a-very-long-label-".repeat(8)), "count": 10 },
            ],
            "types": [{ "name": "A", "count": 8_000 }, { "name": "AAAA", "count": 2_000 }],
            "clients": [{ "name": "192.0.2.7", "count": 6_000 }, { "name": "2001:db8::7", "count": 4_000 }],
        },
        "log": { "lost": n(1) },
        "added_later": { "new_count": n(8) },
    })
}

/// The document of a server with a hot tier.
pub(in crate::cli) fn with_tier(mut document: Value, times: u64) -> Value {
    let n = |count: u64| json!(count * times);
    let tier = json!({
        "state": "on", "reason": null, "entries": 812, "capacity": 10_000, "bytes": 6_000_000,
        "hits": n(5_000), "types": { "a": n(4_000), "aaaa": n(1_000) },
        "rcodes": { "noerror": n(4_900), "nxdomain": n(100) },
        "nominations": n(150), "nominations_dropped": 0, "nominations_outdated": n(1), "promotions": n(20), "replacements": n(12),
        "demotions": n(8), "passed": { "not_held": n(900), "due": n(2), "off": 0 },
    });
    if let Some(fields) = document.as_object_mut() {
        fields.insert("tier".to_owned(), tier);
    }
    if let Some(Value::Object(interface)) = document.pointer_mut("/interfaces/0") {
        let on = json!({ "state": "on", "reason": null });
        interface.insert("tier".to_owned(), on);
    }
    document
}

/// Two readings, [`SECONDS`] apart.
pub(in crate::cli) fn readings() -> [Reading; 2] {
    [100, 101].map(|times| Reading::new(document(times)))
}

/// What was counted between the two.
pub(in crate::cli) fn period() -> Period {
    let [before, now] = readings();
    now.since(Some(&before))
}
