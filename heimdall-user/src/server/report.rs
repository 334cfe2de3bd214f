//! The document that describes a running server, collected from all counters: docs/stats.md has its schema.

#[cfg(test)]
mod schema;
mod start;
mod workers;

use std::{
    fmt,
    process::id,
    slice,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};

use super::{cores::CoreCounters, process, tier::HotTier, tls::Tls, upstreams::UpstreamReport};
use crate::{
    answer::policy::Policy, anycast::AnycastReport, forward::ForwardCounters, heartbeat, log,
    path_mtu::PathMtuCounters, privileges, socket::SocketCounters, tap::Observations,
};
pub(super) use start::Start;
pub(super) use workers::{QueueReport, WorkerReport};

/// Version of the schema. Within a version fields are only added.
const VERSION: u32 = 1;

/// Where all counters are.
pub(super) struct Report {
    pub(super) start: Start,
    /// The one in force.
    pub(super) policy: Arc<ArcSwap<Policy>>,
    /// Replaced when something changes.
    pub(super) xdp: Option<Arc<ArcSwap<XdpReport>>>,
    pub(super) tier: Option<Arc<HotTier>>,
    pub(super) path_mtus: Option<Arc<PathMtuCounters>>,
    pub(super) tls: Option<Arc<Tls>>,
    /// One for each thread.
    pub(super) sockets: Vec<SocketReport>,
    /// One set for each thread.
    pub(super) forwarder: Vec<Arc<ForwardCounters>>,
    /// Those of the moment: a reload may change them.
    pub(super) upstreams: Box<dyn Fn() -> Vec<UpstreamReport> + Send + Sync>,
    pub(super) observations: Arc<Observations>,
    /// Set once the service addresses may be announced.
    pub(super) anycast: OnceLock<AnycastReport>,
}

pub(super) struct XdpReport {
    pub(super) interfaces: Vec<InterfaceReport>,
    pub(super) workers: Vec<WorkerReport>,
}

pub(super) struct InterfaceReport {
    pub(super) name: String,
    /// The configured interfaces whose packets arrive on it.
    pub(super) serves: Vec<String>,
    /// `up`, `down`, `standby`, `gone` or `failed`.
    pub(super) state: &'static str,
    /// Why no program is attached, or nothing is steered.
    pub(super) reason: Option<String>,
    /// How the program is attached: `native` or `generic`.
    pub(super) attach: Option<&'static str>,
    pub(super) program_id: Option<u32>,
    /// Whether the hot tier is `on` or `off` there, and why; with a program.
    pub(super) tier: Option<(&'static str, Option<String>)>,
    /// Reads the program's verdicts, summed over the CPUs.
    pub(super) verdicts: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
}

pub(super) struct SocketReport {
    pub(super) counters: Arc<SocketCounters>,
    pub(super) core: CoreCounters,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}

impl Report {
    /// One of a server with one upstream and nothing else.
    #[cfg(test)]
    pub(super) fn of_upstream(
        address: impl Into<crate::forward::UpstreamAddress>,
        metrics: Arc<crate::forward::UpstreamMetrics>,
    ) -> Self {
        let address = address.into();
        let upstreams = move || {
            vec![UpstreamReport {
                address: address.clone(),
                threads: [Arc::clone(&metrics)].into(),
                zones: vec![[0].into()],
            }]
        };
        Self {
            start: Start::now(),
            policy: Arc::default(),
            observations: Arc::new(Observations::new(&crate::tap::TapOptions::default())),
            xdp: None,
            tier: None,
            path_mtus: None,
            tls: None,
            sockets: Vec::new(),
            forwarder: Vec::new(),
            upstreams: Box::new(upstreams),
            anycast: OnceLock::new(),
        }
    }

    /// The counters of this moment.
    pub(super) fn json(&self) -> Value {
        let mut is_xdp = false;
        let (interfaces, workers) = match &self.xdp {
            Some(xdp) => {
                let xdp = xdp.load();
                is_xdp = xdp.workers.iter().any(WorkerReport::serves);
                (
                    xdp.interfaces.iter().map(InterfaceReport::json).collect(),
                    xdp.workers.iter().map(WorkerReport::json).collect(),
                )
            }
            None => (Vec::new(), Vec::new()),
        };
        let mut document = json!({
            "version": VERSION,
            "build": { "version": env!("CARGO_PKG_VERSION") },
            "pid": id(),
            "started": self.start.unix(),
            "time": start::unix_now(),
            "uptime": self.start.uptime(),
            "config_digest": self.policy.load().digest.to_string(),
            "backend": if is_xdp { "xdp" } else { "socket" },
            "interfaces": interfaces,
            "workers": workers,
            "tier": self.tier.as_ref().map(|tier| tier.state().json()),
            "path_mtu": self.path_mtus.as_ref().map(|counters| Value::Object(counts(counters.list()))),
            "tls": self.tls.as_ref().map(|tls| tls.json()),
            "sockets": sockets(&self.sockets),
            "socket_threads": socket_threads(&self.sockets),
            "forwarder": forwarder(&self.forwarder),
            "upstreams": (self.upstreams)().iter().map(UpstreamReport::json).collect::<Vec<_>>(),
            "anycast": self.anycast.get().map(anycast),
            "latency": self.latency_json(),
            "process": process::json(),
            "sandbox": privileges::json(),
            "stuck": stuck(),
            "log": { "lost": log::lost() },
        });
        if let Some(fields) = document.as_object_mut() {
            self.observations.insert_into(fields);
        }
        document
    }

    /// The most important counters, in a line.
    pub(super) fn summary(&self) -> String {
        let xdp = self.xdp.as_ref().map(|xdp| xdp.load_full());
        let workers = || xdp.iter().flat_map(|xdp| &xdp.workers);
        let cores = || {
            workers()
                .map(|worker| &worker.core)
                .chain(self.sockets.iter().map(|thread| &thread.core))
        };
        let sockets = |count: fn(&SocketCounters) -> u64| {
            let threads = self.sockets.iter();
            threads.map(|thread| count(&thread.counters)).sum::<u64>()
        };
        let udp = sockets(|thread| thread.udp_received.get());
        let tcp = sockets(|thread| thread.tcp_received.get());
        let tls = sockets(|thread| thread.tls_received.get());
        let xdp: u64 = workers().map(WorkerReport::received).sum();
        let tier = self.tier.as_ref().map_or(0, |tier| tier.state().hits());
        let sum = |count: fn(&CoreCounters) -> u64| cores().map(count).sum::<u64>();
        let upstream = |count: fn(&ForwardCounters) -> u64| {
            self.forwarder
                .iter()
                .map(|thread| count(thread))
                .sum::<u64>()
        };
        format!(
            "{} queries ({tier} in the kernel, {xdp} over AF_XDP, {udp} over UDP, {tcp} over TCP, {tls} over TLS), {} hits, {} misses, {} dropped; \
             upstream: {} queries, {} timeouts, {} errors, {} stale answers, {} SERVFAIL; {} log lines lost",
            tier + xdp + udp + tcp + tls,
            tier + sum(|core| core.answers.hits.get()),
            sum(|core| core.answers.misses.get()),
            sum(|core| core.drops.list().iter().map(|(_, count)| count).sum()),
            upstream(|thread| thread.sent_udp.get() + thread.sent_tcp.get()),
            upstream(|thread| thread.timeouts.get()),
            upstream(|thread| thread.upstream_errors.get()),
            upstream(|thread| thread.stale.get()),
            upstream(|thread| thread.servfail.get()),
            log::lost(),
        )
    }
}

impl InterfaceReport {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "serves": self.serves,
            "state": self.state,
            "reason": self.reason,
            "attach": self.attach,
            "program_id": self.program_id,
            "tier": self.tier.as_ref().map(|(state, reason)| json!({ "state": state, "reason": reason })),
            "verdicts": Value::Object(counts((self.verdicts)())),
        })
    }
}

fn anycast(report: &AnycastReport) -> Value {
    let status = report.status();
    json!({
        "announced": status.announced,
        "reason": status.reason,
        "interface": report.interface(),
        "addresses": report.addresses(),
        "changes": report.changes(),
    })
}

/// The names of the threads that make no progress now.
fn stuck() -> Vec<String> {
    let threads = heartbeat::stuck().into_iter();
    threads.map(|thread| thread.name).collect()
}

/// The threads' counters, summed.
fn sockets(threads: &[SocketReport]) -> Value {
    let mut fields = Map::new();
    insert_sockets(&mut fields, threads);
    Value::Object(fields)
}

/// The counters of each thread, if there are several.
fn socket_threads(threads: &[SocketReport]) -> Vec<Value> {
    let several = if threads.len() > 1 { threads } else { &[] };
    let one = |(number, thread): (usize, &SocketReport)| {
        let mut fields = Map::new();
        fields.insert("thread".to_owned(), json!(number));
        insert_sockets(&mut fields, slice::from_ref(thread));
        Value::Object(fields)
    };
    several.iter().enumerate().map(one).collect()
}

fn insert_sockets(fields: &mut Map<String, Value>, threads: &[SocketReport]) {
    let counters = threads.iter().map(|thread| thread.counters.list());
    insert(fields, sum(counters), |name| {
        let failed = name.strip_prefix("tls_failed_");
        failed.map(|reason| ("tls_failed", reason))
    });
    let cores: Vec<_> = threads.iter().map(|thread| &thread.core).collect();
    insert_core(fields, &cores);
}

/// The threads' counters, summed.
fn forwarder(threads: &[Arc<ForwardCounters>]) -> Value {
    let mut fields = Map::new();
    let sums = sum(threads.iter().map(|thread| thread.list()));
    insert(&mut fields, sums, |name| {
        let rejected = name.strip_prefix("rejected_");
        let cache = || name.strip_prefix("cache_").map(|count| ("cache", count));
        let shed = || name.strip_prefix("shed_").map(|holder| ("shed", holder));
        rejected
            .map(|reason| ("rejected", reason))
            .or_else(cache)
            .or_else(shed)
    });
    Value::Object(fields)
}

/// The sums of sets of counters that have the same names, in their order.
fn sum(sets: impl Iterator<Item = Vec<(&'static str, u64)>>) -> Vec<(&'static str, u64)> {
    let mut sums = Vec::new();
    sets.for_each(|set| add_counts(&mut sums, set));
    sums
}

/// Adds a set of counters to sums of such.
pub(super) fn add_counts(sums: &mut Vec<(&'static str, u64)>, set: Vec<(&'static str, u64)>) {
    match sums.as_mut_slice() {
        [] => *sums = set,
        sums => sums
            .iter_mut()
            .zip(set)
            .for_each(|(sum, (_, n))| sum.1 += n),
    }
}

/// The counters of answer cores, summed: the cache's counts, the queries' types, the response codes and the
/// drops by reason as objects of their own.
fn insert_core(fields: &mut Map<String, Value>, cores: &[&CoreCounters]) {
    let answers = sum(cores.iter().map(|core| core.answers.list()));
    insert(fields, answers, |name| match name {
        "hits" | "misses" | "truncated" | "prohibited" | "slipped" | "local" | "blocked" => None,
        _ => Some(match name.split_once('_') {
            Some(("cache", count)) => ("cache", count),
            Some(("type", name)) => ("types", name),
            _ => ("rcodes", name),
        }),
    });
    let count = |name| fields.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (hits, misses) = (count("hits"), count("misses"));
    if let Some(cache) = fields.get_mut("cache").and_then(Value::as_object_mut) {
        cache.insert("hit_ratio".to_owned(), json!(ratio(hits, misses)));
    }
    let drops = sum(cores.iter().map(|core| core.drops.list()));
    fields.insert("dropped".to_owned(), Value::Object(counts(drops)));
}

/// The share of hits among the look-ups, to four digits; nothing before the first.
fn ratio(hits: u64, misses: u64) -> Option<f64> {
    let all = hits + misses;
    (all > 0).then(|| (hits as f64 / all as f64 * 1e4).round() / 1e4)
}

/// Inserts counts into the fields, or into the object that `group` returns, under the name that it
/// returns.
fn insert(
    fields: &mut Map<String, Value>,
    counts: Vec<(&'static str, u64)>,
    group: impl Fn(&'static str) -> Option<(&'static str, &'static str)>,
) {
    for (name, count) in counts {
        let Some((group, name)) = group(name) else {
            fields.insert(name.to_owned(), json!(count));
            continue;
        };
        let object = fields.entry(group).or_insert_with(|| json!({}));
        if let Some(object) = object.as_object_mut() {
            object.insert(name.to_owned(), json!(count));
        }
    }
}

fn counts(counts: Vec<(&'static str, u64)>) -> Map<String, Value> {
    let count = |(name, count): (&'static str, u64)| (name.to_owned(), json!(count));
    counts.into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]

    use heimdall_ebpf::Disposition;

    use super::*;
    use crate::tap::TapOptions;

    #[test]
    fn the_document_has_the_fields_that_operators_rely_on() {
        let core = CoreCounters::default();
        core.drops.runt.add(2);
        core.answers.hits.add(2);
        core.answers.misses.add(1);
        let queue = QueueReport::running("veth0", 3, "copy");
        queue.counters.frames_total.set(4096);
        let gone = QueueReport {
            state: "gone",
            reason: Some("there is no such interface".to_owned()),
            mode: None,
            ..QueueReport::running("veth1", 3, "copy")
        };
        let worker = WorkerReport::of(0, core.clone(), vec![queue]);
        let gone = WorkerReport::of(1, CoreCounters::default(), vec![gone]);
        let interface = InterfaceReport {
            name: "veth0".to_owned(),
            serves: vec!["veth0".to_owned()],
            state: "up",
            reason: None,
            attach: Some("native"),
            program_id: Some(12),
            tier: Some(("off", Some("by the settings".to_owned()))),
            verdicts: Box::new(|| {
                let names = Disposition::ALL.map(Disposition::name);
                names.into_iter().map(|name| (name, 5)).collect()
            }),
        };
        let threads: [Arc<ForwardCounters>; 2] = Default::default();
        threads.iter().for_each(|thread| thread.rejected_id.add(2));
        let xdp = Arc::new(ArcSwap::from_pointee(XdpReport {
            interfaces: vec![interface],
            workers: vec![worker, gone],
        }));
        let report = Report {
            start: Start::now(),
            policy: Arc::default(),
            xdp: Some(Arc::clone(&xdp)),
            tier: None,
            path_mtus: Some(Arc::default()),
            tls: None,
            sockets: [core.clone(), core]
                .map(|core| SocketReport {
                    counters: Arc::default(),
                    core,
                })
                .into(),
            forwarder: threads.to_vec(),
            upstreams: Report::of_upstream(
                std::net::SocketAddr::from(([192, 0, 2, 53], 53)),
                Arc::default(),
            )
            .upstreams,
            observations: Arc::new(Observations::new(&TapOptions::default())),
            anycast: OnceLock::new(),
        };
        assert_eq!(
            report.summary(),
            "0 queries (0 in the kernel, 0 over AF_XDP, 0 over UDP, 0 over TCP, 0 over TLS), 6 hits, 3 misses, 6 dropped; \
             upstream: 0 queries, 0 timeouts, 0 errors, 0 stale answers, 0 SERVFAIL; 0 log lines lost"
        );
        let document = report.json();
        schema::assert_documented(&document);
        assert_eq!(document["version"], 1);
        assert_eq!(document["build"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(document["pid"], id());
        let [started, time, uptime] =
            ["started", "time", "uptime"].map(|field| document[field].as_f64().unwrap());
        assert!((0.0..60.0).contains(&uptime), "{uptime}");
        assert!(started <= time && time <= start::unix_now(), "{document}");
        assert_eq!(document["backend"], "xdp");
        assert_eq!(document["interfaces"][0]["state"], "up");
        assert_eq!(document["workers"][0]["reason"], Value::Null);
        assert_eq!(document["workers"][1]["state"], "gone");
        assert_eq!(
            document["workers"][1]["reason"],
            "there is no such interface"
        );
        assert_eq!(document["interfaces"][0]["verdicts"]["steered"], 5);
        assert_eq!(document["interfaces"][0]["tier"]["state"], "off");
        assert_eq!(document["tier"], Value::Null);
        assert_eq!(document["path_mtu"]["learnt"], 0);
        let worker = &document["workers"][0];
        assert_eq!(worker["queue"], 3);
        assert_eq!(worker["dropped"]["runt"], 2);
        assert_eq!(worker["frames"]["total"], 4096);
        for field in [
            "received",
            "answered",
            "truncated",
            "prohibited",
            "slipped",
            "local",
            "blocked",
        ] {
            assert_eq!(worker[field], 0, "{field}");
        }
        for field in ["a", "aaaa", "https", "other"] {
            assert_eq!(worker["types"][field], 0, "{field}");
        }
        assert_eq!(worker["cache"]["evictions"], 0);
        assert_eq!(worker["cache"]["hit_ratio"], 0.6667);
        for field in ["noerror", "refused", "badcookie", "other"] {
            assert_eq!(worker["rcodes"][field], 0, "{field}");
        }
        for field in [
            "rx_dropped",
            "rx_invalid_descs",
            "tx_invalid_descs",
            "rx_ring_full",
            "rx_fill_ring_empty_descs",
            "tx_ring_empty_descs",
        ] {
            assert_eq!(worker["ring"][field], 0, "{field}");
        }
        let sockets = &document["sockets"];
        for field in [
            "udp_received",
            "udp_answered",
            "tcp_connections",
            "tcp_received",
            "tcp_answered",
            "tls_open",
            "tls_handshakes",
        ] {
            assert_eq!(sockets[field], 0, "{field}");
        }
        assert_eq!(sockets["tls_failed"]["no_certificate"], 0);
        assert_eq!(document["tls"], Value::Null);
        // Summed over the threads.
        assert_eq!(
            (&sockets["hits"], &sockets["dropped"]["runt"]),
            (&json!(4), &json!(4))
        );
        assert_eq!(sockets["cache"]["hit_ratio"], 0.6667);
        let thread = &document["socket_threads"][1];
        assert_eq!((&thread["thread"], &thread["hits"]), (&json!(1), &json!(2)));
        assert_eq!(thread["udp_received"], 0);
        assert_eq!(document["forwarder"]["rejected"]["id"], 4);
        assert_eq!(document["forwarder"]["cache"]["hits"], 0);
        for field in ["client", "zone", "upstream", "oldest"] {
            assert_eq!(document["forwarder"]["shed"][field], 0, "{field}");
        }
        assert_eq!(document["forwarder"]["zone_failure_hits"], 0);
        assert_eq!(document["log"]["lost"], 0);
        assert!(document["process"]["threads"].as_u64() > Some(0));
        assert_eq!(document["upstreams"][0]["address"], "192.0.2.53:53");
        assert_eq!(document["upstreams"][0]["routes"], json!(["."]));
        assert_eq!(document["latency"]["hits"]["count"], 0);
        assert_eq!(document["popular"]["one_in"], 256);
        assert_eq!(document["dnstap"]["state"], "off");
        assert_eq!(document["query_log"]["written"], 0);
        // As long as no worker runs, the sockets are all there is.
        xdp.store(Arc::new(XdpReport {
            interfaces: Vec::new(),
            workers: Vec::new(),
        }));
        assert_eq!(report.json()["backend"], "socket");
    }
}
