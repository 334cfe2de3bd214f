//! The document that describes a running server, collected from all counters: docs/stats.md has its schema.

#[cfg(test)]
mod schema;
mod start;

use std::{fmt, process::id, slice, sync::Arc};

use arc_swap::ArcSwap;
use serde_json::{Map, Value, json};

use super::{cores::CoreCounters, process, tier::HotTier, upstreams::UpstreamReport};
use crate::{
    forward::ForwardCounters, log, socket::SocketCounters, tap::Observations,
    worker::WorkerCounters,
};
pub(super) use start::Start;

/// Version of the schema. Within a version fields are only added.
const VERSION: u32 = 1;

/// Where all counters are.
pub(super) struct Report {
    pub(super) start: Start,
    /// Replaced when something changes.
    pub(super) xdp: Option<Arc<ArcSwap<XdpReport>>>,
    pub(super) tier: Option<Arc<HotTier>>,
    /// One for each thread.
    pub(super) sockets: Vec<SocketReport>,
    /// One set for each thread.
    pub(super) forwarder: Vec<Arc<ForwardCounters>>,
    pub(super) upstreams: Vec<UpstreamReport>,
    pub(super) observations: Arc<Observations>,
}

pub(super) struct XdpReport {
    pub(super) interfaces: Vec<InterfaceReport>,
    pub(super) workers: Vec<WorkerReport>,
}

pub(super) struct InterfaceReport {
    pub(super) name: String,
    /// `up`, `down`, `gone` or `failed`.
    pub(super) state: &'static str,
    /// Why no program is attached.
    pub(super) reason: Option<String>,
    /// How the program is attached: `native` or `generic`.
    pub(super) attach: Option<&'static str>,
    pub(super) program_id: Option<u32>,
    /// Whether the hot tier is `on` or `off` there, and why; with a program.
    pub(super) tier: Option<(&'static str, Option<String>)>,
    /// Reads the program's verdicts, summed over the CPUs.
    pub(super) verdicts: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
}

pub(super) struct WorkerReport {
    pub(super) interface: String,
    pub(super) queue: u32,
    /// `running`, `restarting` or `gone`.
    pub(super) state: &'static str,
    /// Why it does not run.
    pub(super) reason: Option<String>,
    /// How often it was started again.
    pub(super) restarts: u64,
    /// `zero-copy` or `copy`.
    pub(super) mode: Option<&'static str>,
    pub(super) cpu: Option<usize>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) core: CoreCounters,
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
        Self {
            start: Start::now(),
            observations: Arc::new(Observations::new(&crate::tap::TapOptions::default())),
            xdp: None,
            tier: None,
            sockets: Vec::new(),
            forwarder: Vec::new(),
            upstreams: UpstreamReport::all(&[address.into()], &[vec![metrics]]),
        }
    }

    /// The counters of this moment.
    pub(super) fn json(&self) -> Value {
        let mut is_xdp = false;
        let (interfaces, workers) = match &self.xdp {
            Some(xdp) => {
                let xdp = xdp.load();
                is_xdp = xdp.workers.iter().any(|worker| worker.state == "running");
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
            "backend": if is_xdp { "xdp" } else { "socket" },
            "interfaces": interfaces,
            "workers": workers,
            "tier": self.tier.as_ref().map(|tier| tier.state().json()),
            "sockets": sockets(&self.sockets),
            "socket_threads": socket_threads(&self.sockets),
            "forwarder": forwarder(&self.forwarder),
            "upstreams": self.upstreams.iter().map(UpstreamReport::json).collect::<Vec<_>>(),
            "latency": self.latency_json(),
            "process": process::json(),
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
        let xdp: u64 = workers().map(|worker| worker.counters.received.get()).sum();
        let tier = self.tier.as_ref().map_or(0, |tier| tier.state().hits());
        let sum = |count: fn(&CoreCounters) -> u64| cores().map(count).sum::<u64>();
        let upstream = |count: fn(&ForwardCounters) -> u64| {
            self.forwarder
                .iter()
                .map(|thread| count(thread))
                .sum::<u64>()
        };
        format!(
            "{} queries ({tier} in the kernel, {xdp} over AF_XDP, {udp} over UDP, {tcp} over TCP), {} hits, {} misses, {} dropped; \
             upstream: {} queries, {} timeouts, {} errors, {} stale answers, {} SERVFAIL; {} log lines lost",
            tier + xdp + udp + tcp,
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
            "state": self.state,
            "reason": self.reason,
            "attach": self.attach,
            "program_id": self.program_id,
            "tier": self.tier.as_ref().map(|(state, reason)| json!({ "state": state, "reason": reason })),
            "verdicts": Value::Object(counts((self.verdicts)())),
        })
    }
}

impl WorkerReport {
    fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("interface".to_owned(), json!(self.interface));
        fields.insert("queue".to_owned(), json!(self.queue));
        fields.insert("state".to_owned(), json!(self.state));
        fields.insert("reason".to_owned(), json!(self.reason));
        fields.insert("restarts".to_owned(), json!(self.restarts));
        fields.insert("mode".to_owned(), json!(self.mode));
        fields.insert("cpu".to_owned(), json!(self.cpu));
        insert(&mut fields, self.counters.list(), |name| match name {
            // From XDP_STATISTICS.
            "rx_dropped"
            | "rx_ring_full"
            | "rx_fill_ring_empty_descs"
            | "rx_invalid_descs"
            | "tx_invalid_descs"
            | "tx_ring_empty_descs" => Some(("ring", name)),
            _ => name
                .strip_prefix("frames_")
                .map(|counter| ("frames", counter)),
        });
        insert_core(&mut fields, &[&self.core]);
        Value::Object(fields)
    }
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
    insert(fields, sum(counters), |_| None);
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
    for set in sets {
        match sums.as_mut_slice() {
            [] => sums = set,
            sums => sums
                .iter_mut()
                .zip(set)
                .for_each(|(sum, (_, n))| sum.1 += n),
        }
    }
    sums
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
        let worker = WorkerReport {
            interface: "veth0".to_owned(),
            queue: 3,
            state: "running",
            reason: None,
            restarts: 0,
            mode: Some("copy"),
            cpu: Some(1),
            counters: Arc::default(),
            core: core.clone(),
        };
        worker.counters.frames_total.set(4096);
        let gone = WorkerReport {
            state: "gone",
            reason: Some("there is no such interface".to_owned()),
            mode: None,
            interface: "veth1".to_owned(),
            counters: Arc::default(),
            core: CoreCounters::default(),
            ..worker
        };
        let interface = InterfaceReport {
            name: "veth0".to_owned(),
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
            xdp: Some(Arc::clone(&xdp)),
            tier: None,
            sockets: [core.clone(), core]
                .map(|core| SocketReport {
                    counters: Arc::default(),
                    core,
                })
                .into(),
            forwarder: threads.to_vec(),
            upstreams: UpstreamReport::all(
                &[std::net::SocketAddr::from(([192, 0, 2, 53], 53)).into()],
                &[vec![Arc::default()]],
            ),
            observations: Arc::new(Observations::new(&TapOptions::default())),
        };
        assert_eq!(
            report.summary(),
            "0 queries (0 in the kernel, 0 over AF_XDP, 0 over UDP, 0 over TCP), 6 hits, 3 misses, 6 dropped; \
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
        ] {
            assert_eq!(sockets[field], 0, "{field}");
        }
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
        for field in ["client", "zone", "oldest"] {
            assert_eq!(document["forwarder"]["shed"][field], 0, "{field}");
        }
        assert_eq!(document["forwarder"]["zone_failure_hits"], 0);
        assert_eq!(document["log"]["lost"], 0);
        assert!(document["process"]["threads"].as_u64() > Some(0));
        assert_eq!(document["upstreams"][0]["address"], "192.0.2.53:53");
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
