//! A document as a busy server sends it, with counts that grow smoothly from second to second.

use serde_json::{Map, Value, json};

/// What the server serves, and for how long it has run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Interfaces, whose names are eth0, eth1 and so on.
    pub interfaces: u32,
    /// Queues of each interface.
    pub queues: u32,
    /// Seconds since the start.
    pub uptime: u32,
}

/// When the server was started, in seconds since 1970.
const STARTED: f64 = 1_790_000_000.0;
/// Queries a second that one queue gets.
const QUEUE_RATE: f64 = 14_600.0;

const TYPES: &[(&str, f64)] = &[
    ("a", 0.558),
    ("ns", 0.001),
    ("cname", 0.0),
    ("soa", 0.002),
    ("ptr", 0.021),
    ("mx", 0.004),
    ("txt", 0.011),
    ("aaaa", 0.268),
    ("srv", 0.002),
    ("ds", 0.0),
    ("https", 0.132),
    ("other", 0.001),
];
const RCODES: &[(&str, f64)] = &[
    ("noerror", 0.8627),
    ("formerr", 0.0),
    ("servfail", 0.0006),
    ("nxdomain", 0.1363),
    ("refused", 0.0004),
    ("badvers", 0.0),
    ("other", 0.0),
];
const NAMES: &[(&str, f64)] = &[
    ("www.example.com.", 0.0714),
    ("api.push.example.net.", 0.0522),
    ("time.example.org.", 0.0391),
    ("cdn.assets.example.com.", 0.0344),
    ("outlook.mail.example.", 0.0287),
    ("connectivity-check.example.net.", 0.0242),
    ("telemetry.eu-central-1.cloud.example.", 0.0201),
    ("updates.example.org.", 0.0163),
    ("img4.static.example.com.", 0.0129),
    ("17.2.0.10.in-addr.arpa.", 0.0098),
];
const CLIENTS: &[(&str, f64)] = &[
    ("10.20.4.17", 0.0611),
    ("10.20.4.9", 0.0433),
    ("2001:db8:20:4::/64", 0.0402),
    ("10.31.0.254", 0.0318),
    ("192.168.7.20", 0.0107),
    ("10.20.9.61", 0.0093),
];

impl Sample {
    /// The document.
    pub fn document(&self) -> Value {
        let interfaces: Vec<_> = (0..self.interfaces).collect();
        let queues = interfaces
            .iter()
            .flat_map(|interface| (0..self.queues).map(move |queue| (*interface, queue)));
        let workers: Vec<_> = queues.map(|(nic, queue)| self.worker(nic, queue)).collect();
        let sum = |nic: Option<u32>, field: &str| -> u64 {
            let name = nic.map(|nic| format!("eth{nic}"));
            let of_nic = |worker: &&Value| {
                name.as_ref()
                    .is_none_or(|name| worker["interface"] == **name)
            };
            let counts = workers
                .iter()
                .filter(of_nic)
                .map(|worker| worker[field].as_u64());
            counts.map(Option::unwrap_or_default).sum()
        };
        let steered = QUEUE_RATE * f64::from(self.queues);
        let misses = 0.017 * QUEUE_RATE * f64::from(self.interfaces * self.queues) + 6.0;
        let seconds = f64::from(self.uptime);
        json!({
            "version": 1,
            "build": { "version": "0.1.0", "revision": "b1cd257" },
            "pid": 4711,
            "started": STARTED,
            "time": STARTED + seconds,
            "uptime": seconds,
            "backend": "xdp",
            "interfaces": interfaces.iter().map(|interface| json!({
                "name": format!("eth{interface}"),
                "state": "up",
                "reason": null,
                "attach": "native",
                "program_id": 118 + interface,
                "verdicts": {
                    "steered": sum(Some(*interface), "received"),
                    "not_ip": self.count(3.0, 1.0),
                    "too_many_tags": 0,
                    "not_udp": self.count(212.0, 2.0),
                    "ipv4_options": 0,
                    "fragment": self.count(0.4, 0.0),
                    "not_served": self.count(96.0, 3.0),
                    "no_socket": 0,
                },
            })).collect::<Vec<_>>(),
            "workers": workers,
            "sockets": self.sockets(),
            "socket_threads": [],
            "forwarder": self.forwarder(misses),
            "upstreams": [
                self.upstream("9.9.9.9:53", "up", 0.93 * misses, 8_410, 0.2),
                self.upstream("149.112.112.112:53", "up", 0.04 * misses, 12_900, 0.1),
                self.upstream("[2620:fe::fe]:53", "failed", 0.4, 31_700, 0.4),
            ],
            "latency": {
                "hits": latency(sum(None, "hits"), 3.1),
                "misses": latency(sum(None, "misses"), 9_320.0),
            },
            "popular": {
                "sampled": self.count(228.0, 0.0),
                "one_in": 256,
                "half_life": 60,
                "names": popular(NAMES, steered),
                "types": popular(&[("A", 0.558), ("AAAA", 0.268), ("HTTPS", 0.132), ("PTR", 0.042)], steered),
                "clients": popular(CLIENTS, steered),
                "dropped": 0,
            },
            "dnstap": { "written": self.count(570.0, 0.0), "dropped": 0, "state": "connected" },
            "process": {
                "cpu_seconds": (self.grown(1.34, 0.0) * 100.0).round() / 100.0,
                "resident_bytes": 691_322_880,
                "open_files": 71,
                "threads": 9,
            },
            "log": { "lost": 0 },
        })
    }

    /// `/config.json`.
    pub fn configuration() -> Value {
        json!({
            "interface": ["eth0"],
            "listen": ["192.0.2.53:53", "[2001:db8::53]:53"],
            "upstream": ["9.9.9.9:53", "149.112.112.112:53", "[2620:fe::fe]:53"],
            "backend": "auto",
            "control": "/run/heimdall/control.sock",
            "max-udp-size": 1232,
            "cache": { "size": "128M", "snapshot": "/var/lib/heimdall/cache.snapshot", "max-ttl": 86400, "nxdomain-cut": false },
            "forward": { "threads": 1, "timeout-ms": 1000, "attempts": 3, "client-subnet": null },
            "xdp": { "cpus": [0, 1, 2, 3], "frames": 8192, "idle": "sleep", "verify-checksums": true },
            "access": { "allow": ["10.0.0.0/8", "192.168.0.0/16", "2001:db8::/32"], "refuse": [], "drop": ["10.66.0.0/16"] },
            "blocklist": [{ "file": "/etc/heimdall/blocked.txt", "action": "nxdomain" }],
        })
    }

    /// `/doctor.json`.
    pub fn findings() -> Value {
        let finding = |check: &str,
                       level: &str,
                       subject: &str,
                       finding: &str,
                       why: &str,
                       fix: Option<&str>| {
            json!({ "check": check, "level": level, "subject": subject, "finding": finding, "why": why, "fix": fix })
        };
        json!([
            finding(
                "kernel",
                "good",
                "Linux 6.1.0",
                "has all that Heimdall uses",
                "",
                None
            ),
            finding(
                "rss-hash",
                "warn",
                "eth0",
                "UDP is hashed by addresses only (sd)",
                "All queries of a resolver farm behind one address land in one queue.",
                Some("ethtool -N eth0 rx-flow-hash udp4 sdfn"),
            ),
            finding(
                "vlan-offload",
                "bad",
                "eth0",
                "rx-vlan-offload is on, and the interface has VLANs",
                "The NIC removes tags before the XDP program runs, so replies to clients in VLANs get lost.",
                Some("ethtool -K eth0 rxvlan off"),
            ),
            finding(
                "bpf-jit",
                "good",
                "host",
                "the JIT compiler is on",
                "",
                None
            ),
        ])
    }

    fn worker(&self, nic: u32, queue: u32) -> Value {
        let number = nic * self.queues + queue;
        let phase = f64::from(number) * 0.4;
        let rate = QUEUE_RATE * (1.0 + 0.12 * phase.sin());
        let count = |share: f64| self.count(rate * share, phase);
        let limited = match queue {
            2 => (4_600.0 * self.burst()) as u64,
            _ => 0,
        };
        json!({
            "interface": format!("eth{nic}"),
            "queue": queue,
            "state": "running",
            "reason": null,
            "restarts": 0,
            "mode": "zero-copy",
            "cpu": queue,
            "received": count(1.0) + limited,
            "answered": count(0.9998),
            "overflow": 0,
            "tx_wakeups": count(0.21),
            "sleeps": count(0.19),
            "frames": { "total": 8192, "fill": 6104, "tx": 17, "pending": 11, "free": 2060, "missing": 0 },
            "ring": {
                "rx_dropped": 0,
                "rx_ring_full": if queue == 2 { (310.0 * self.burst()) as u64 } else { 0 },
                "rx_fill_ring_empty_descs": 0,
                "rx_invalid_descs": 0,
                "tx_invalid_descs": 0,
                "tx_ring_empty_descs": count(0.003),
            },
            "hits": count(0.983),
            "misses": count(0.0168),
            "truncated": count(0.0004),
            "prohibited": 0,
            "slipped": limited / 2,
            "local": count(0.00004),
            "blocked": count(0.00012),
            "types": counts(TYPES, count),
            "rcodes": counts(RCODES, count),
            "cache": { "entries": 421_730 + number, "insertions": count(0.0167), "evictions": count(0.0031), "hit_ratio": 0.9832 },
            "dropped": {
                "runt": 0,
                "response": count(0.000_004),
                "service_port": 0,
                "bad_length": 0,
                "bad_checksum": if number == 0 { 3 } else { 0 },
                "bad_source": 0,
                "access": 0,
                "rate_limited": limited,
                "no_room": 0,
            },
        })
    }

    fn sockets(&self) -> Value {
        let count = |rate: f64| self.count(rate, 4.0);
        json!({
            "udp_received": count(212.0),
            "udp_answered": count(212.0),
            "udp_send_failed": 0,
            "tcp_connections": count(31.0),
            "tcp_received": count(44.0),
            "tcp_answered": count(44.0),
            "tcp_closed_idle": count(2.0),
            "tcp_closed_full": 0,
            "pending": 2,
            "overflow": 0,
            "hits": count(250.0),
            "misses": count(6.0),
            "truncated": 0,
            "types": counts(TYPES, |share| count(256.0 * share)),
            "rcodes": counts(RCODES, |share| count(256.0 * share)),
            "cache": { "entries": 20_114, "insertions": count(6.0), "evictions": 0, "hit_ratio": 0.9766 },
            "dropped": { "runt": 0, "response": 0, "rate_limited": 0 },
        })
    }

    fn forwarder(&self, misses: f64) -> Value {
        let count = |share: f64| self.count(misses * share, 5.0);
        let timeouts = count(0.004) + (160.0 * self.burst()) as u64;
        json!({
            "requests": count(1.0),
            "refreshes": count(0.11),
            "coalesced": count(0.012),
            "sent_udp": count(0.97),
            "sent_tcp": count(0.002),
            "answers": count(0.966),
            "timeouts": timeouts,
            "rejected": { "source": 0, "id": 0, "question": 0, "malformed": 4, "subnet": 0 },
            "upstream_errors": count(0.0008),
            "retried_plain": 0,
            "truncated": 0,
            "servfail": count(0.0006),
            "failure_hits": count(0.0005),
            "zone_failure_hits": 0,
            "shed": { "client": 0, "zone": 0, "oldest": 0 },
            "stale": count(0.0002),
            "cache": { "hits": count(0.021), "entries": 448_102, "insertions": count(0.95), "evictions": 0 },
            "queue_full": 0,
            "in_flight": 17,
            "socket_errors": 0,
        })
    }

    fn upstream(&self, address: &str, state: &str, rate: f64, rtt_us: u64, lost: f64) -> Value {
        json!({
            "address": address,
            "state": state,
            "problem": (state == "failed").then_some("it does not respond"),
            "rtt_us": rtt_us,
            "in_flight": (rate / 100.0) as u64,
            "queries": self.count(rate, 5.0),
            "timeouts": self.count(lost, 0.0),
            "errors": self.count(lost, 0.0),
            "error_kinds": { "servfail": self.count(lost, 0.0), "refused": 0 },
            "latency": latency(self.count(rate, 5.0), rtt_us as f64),
        })
    }

    /// The count of something that happens about `rate` times a second.
    fn count(&self, rate: f64, phase: f64) -> u64 {
        self.grown(rate, phase) as u64
    }

    fn grown(&self, rate: f64, phase: f64) -> f64 {
        let seconds = f64::from(self.uptime);
        let slow = 9.0 * (1.0 - (seconds / 50.0 + phase).cos());
        let fast = 0.3 * (1.0 - (seconds / 8.0).cos());
        (rate * (seconds + slow + fast)).max(0.0)
    }

    /// Grows from 0 to 1 within some seconds, 100 s before the fifth minute ends.
    fn burst(&self) -> f64 {
        (1.0 + ((f64::from(self.uptime) - 200.0) / 6.0).tanh()) / 2.0
    }
}

fn latency(count: u64, mean_us: f64) -> Value {
    let times = |factor: f64| (mean_us * factor * 10.0).round() / 10.0;
    // The share of times up to a factor of the mean.
    let shares = [
        (0.5, 0.25),
        (0.86, 0.55),
        (1.52, 0.92),
        (3.7, 0.992),
        (11.4, 0.9995),
        (140.0, 1.0),
    ];
    let mut below = 0;
    let buckets = shares.map(|(factor, share)| {
        let up_to = (count as f64 * share) as u64;
        let bucket = json!([times(factor), up_to - below]);
        below = up_to;
        bucket
    });
    json!({
        "count": count,
        "mean_us": times(1.0),
        "p50_us": times(0.86),
        "p90_us": times(1.52),
        "p99_us": times(3.7),
        "p999_us": times(11.4),
        "max_us": times(140.0),
        "buckets": buckets,
    })
}

fn counts(shares: &[(&str, f64)], count: impl Fn(f64) -> u64) -> Map<String, Value> {
    let count = |(name, share): &(&str, f64)| ((*name).to_owned(), json!(count(*share)));
    shares.iter().map(count).collect()
}

fn popular(shares: &[(&str, f64)], rate: f64) -> Vec<Value> {
    let item = |(name, share): &(&str, f64)| json!({ "name": name, "count": (86.0 * rate * share) as u64 });
    shares.iter().map(item).collect()
}
