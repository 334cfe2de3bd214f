//! The report as metrics of Prometheus.
//!
//! A counter's name, help and type are those of its definition, so a new one appears by itself. Here is only what
//! does not follow from that: which counters are one family with a label that distinguishes them, and the labels of
//! the threads. Names follow <https://prometheus.io/docs/practices/naming/>. Reading them writes nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    process::ProcessUse,
    report::{InterfaceReport, QueueReport, Report, SocketReport, WorkerReport},
    tier::TierState,
    upstreams::{UpstreamReport, UpstreamState},
};
use crate::{
    config::Upstream,
    heartbeat,
    http::{Families, Labels},
    latency::Distribution,
    log,
    stats::Described,
    xdp::Drops,
};

/// Response codes that have a counter of their own in a core.
const RCODES: [&str; 9] = [
    "noerror",
    "formerr",
    "servfail",
    "nxdomain",
    "notimp",
    "refused",
    "badvers",
    "badcookie",
    "other",
];

/// Where a counter belongs: its family, and the label that distinguishes it in that.
struct Place {
    family: String,
    /// Of a family of several counters.
    label: Option<(&'static str, String)>,
    /// Of such a family.
    help: &'static str,
}

impl Place {
    fn alone(family: String) -> Self {
        Self {
            family,
            label: None,
            help: "",
        }
    }

    fn among(
        family: &str,
        label: &'static str,
        value: impl Into<String>,
        help: &'static str,
    ) -> Self {
        Self {
            family: family.to_owned(),
            label: Some((label, value.into())),
            help,
        }
    }
}

/// For how long the drops of an interface are kept. Reading them takes the kernel's lock of the network configuration, so
/// somebody who asks for the metrics again and again would delay others that need it.
const DROPS_KEPT: Duration = Duration::from_secs(1);

/// The drops of the interfaces that were read lately.
static DROPS: KeptDrops = KeptDrops(Mutex::new(Vec::new()));

struct KeptDrops(Mutex<Vec<(String, Instant, Arc<Drops>)>>);

impl KeptDrops {
    /// The drops of an interface, which are read unless they were lately.
    fn of(&self, interface: &str, now: Instant, read: impl FnOnce() -> Drops) -> Arc<Drops> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, at, _)| now.saturating_duration_since(*at) < DROPS_KEPT);
        if let Some((_, _, drops)) = kept.iter().find(|(name, ..)| name == interface) {
            return Arc::clone(drops);
        }
        let drops = Arc::new(read());
        kept.push((interface.to_owned(), now, Arc::clone(&drops)));
        drops
    }
}

/// The metrics of this moment.
pub(super) fn families(report: &Report) -> Families {
    let mut families = Families::default();
    let to = &mut families;
    to.info(
        "heimdall_build",
        "The program.",
        &[("version", env!("CARGO_PKG_VERSION"))],
    );
    let digest = report.policy.load().digest.to_string();
    let help =
        "A digest of the settings that decide answers: hosts that answer alike have the same.";
    to.info("heimdall_config", help, &[("digest", &digest)]);
    if let Some(xdp) = &report.xdp {
        let xdp = xdp.load();
        xdp.interfaces
            .iter()
            .for_each(|interface| insert_interface(to, interface));
        xdp.workers
            .iter()
            .for_each(|worker| insert_worker(to, worker));
    }
    if let Some(tier) = &report.tier {
        insert_tier(to, &tier.state());
    }
    if let Some(path_mtus) = &report.path_mtus {
        let place = |name| Place::alone(format!("heimdall_path_mtu_{name}"));
        insert(to, path_mtus.described(), &[], place);
    }
    if let Some(time) = report.tls.as_ref().and_then(|tls| tls.not_after()) {
        let help = "When the certificate of TLS expires, in seconds since 1970.";
        to.gauge(
            "heimdall_tls_certificate_not_after_seconds",
            help,
            &[],
            time,
        );
    }
    for (thread, socket) in report.sockets.iter().enumerate() {
        insert_socket(to, thread, socket);
    }
    for (thread, counters) in report.forwarder.iter().enumerate() {
        let thread = thread.to_string();
        insert(
            to,
            counters.described(),
            &[("thread", thread.as_str())],
            forwarder_place,
        );
    }
    (report.upstreams)()
        .iter()
        .for_each(|upstream| insert_upstream(to, upstream));
    if let Some(anycast) = report.anycast.get() {
        let help = "Whether the service addresses are announced.";
        let announced = u64::from(anycast.status().announced);
        to.gauge("heimdall_anycast_announced", help, &[], announced);
        let help = "Announcements and withdrawals of the service addresses.";
        to.counter("heimdall_anycast_changes", help, &[], anycast.changes());
    }
    let stuck = "Threads that have made no progress for ten seconds.";
    let count = heartbeat::stuck().len() as u64;
    to.gauge("heimdall_stuck_threads", stuck, &[], count);
    let lost = "Lines that could not be logged.";
    to.counter("heimdall_log_lost_lines", lost, &[], log::lost());
    for (result, (_, latency)) in ["hit", "miss"].into_iter().zip(report.latency()) {
        let help = "From a batch of queries to their replies: hits, from a front's cache; misses, through the forwarder.";
        let labels = [("result", result)];
        insert_histogram(
            to,
            "heimdall_reply_latency_seconds",
            help,
            &labels,
            &latency,
        );
    }
    for (output, written, dropped) in report.observations.outputs() {
        let labels = [("output", output)];
        let help = "Sampled messages written by dnstap and the query log.";
        to.counter("heimdall_samples_written", help, &labels, written);
        let help = "Sampled messages that dnstap and the query log lost, because the reader was too slow or gone.";
        to.counter("heimdall_samples_dropped", help, &labels, dropped);
    }
    if let Ok(used) = ProcessUse::read() {
        insert_process(to, &used);
    }
    families
}

/// Adds counters with these labels.
fn insert(
    families: &mut Families,
    counters: Vec<Described>,
    labels: Labels<'_>,
    place: impl Fn(&'static str) -> Place,
) {
    for counter in counters {
        let Place {
            family,
            label,
            help,
        } = place(counter.name);
        let own = label.as_ref().map(|(name, value)| (*name, value.as_str()));
        let labels: Vec<_> = labels.iter().copied().chain(own).collect();
        let help = if own.is_some() { help } else { counter.help };
        match counter.gauge {
            true => families.gauge(&family, help, &labels, counter.value),
            false => families.counter(&family, help, &labels, counter.value),
        }
    }
}

fn insert_interface(families: &mut Families, interface: &InterfaceReport) {
    let name = interface.name.as_str();
    let labels = [("interface", name)];
    let up = u64::from(matches!(interface.state, "up" | "standby"));
    let help = "Whether the interface is up and the XDP program attached.";
    families.gauge("heimdall_interface_up", help, &labels, up);
    if let Some(mode) = interface.attach {
        let labels = [("interface", name), ("mode", mode)];
        let help = "How the XDP program is attached.";
        families.info("heimdall_interface_program", help, &labels);
    }
    for (verdict, count) in (interface.verdicts)() {
        let labels = [("interface", name), ("verdict", verdict)];
        let help = "Packets by what the XDP program did with them: steered to a worker, or passed to the kernel \
                    for a reason.";
        families.counter("heimdall_xdp_packets", help, &labels, count);
    }
    let drops = DROPS.of(name, Instant::now(), || Drops::read(name));
    for &(counter, count) in &drops.kernel {
        let labels = [("interface", name), ("counter", counter)];
        let help = "Packets that the interface lost, by the kernel's counter. Some count the same packets.";
        families.counter("heimdall_interface_lost_packets", help, &labels, count);
    }
    for (counter, count) in &drops.driver {
        let labels = [("interface", name), ("counter", counter.as_str())];
        let help = "The driver's counters of lost packets and errors, summed over queues.";
        families.counter("heimdall_interface_driver_losses", help, &labels, *count);
    }
}

fn insert_worker(families: &mut Families, worker: &WorkerReport) {
    let number = worker.number.to_string();
    let labels = [("worker", number.as_str())];
    for queue in &worker.queues {
        insert_queue(families, &labels, worker.cpu, queue);
    }
    insert(families, worker.counters.described(), &labels, worker_place);
    let labels = [&[("front", "xdp")][..], &labels].concat();
    insert(
        families,
        worker.core.answers.described(),
        &labels,
        core_place,
    );
    insert(families, worker.core.drops.described(), &labels, drop_place);
}

fn insert_queue(
    families: &mut Families,
    worker: Labels<'_>,
    cpu: Option<usize>,
    queue: &QueueReport,
) {
    let number = queue.queue.to_string();
    let own = [
        ("interface", queue.interface.as_str()),
        ("queue", number.as_str()),
    ];
    let labels = [worker, &own].concat();
    let up = u64::from(queue.state == "running");
    let help = "Whether the worker serves the queue.";
    families.gauge("heimdall_worker_up", help, &labels, up);
    let help =
        "How often the queue was served again, after a failure or the return of its interface.";
    families.counter("heimdall_worker_restarts", help, &labels, queue.restarts);
    if let Some(mode) = queue.mode {
        let cpu = cpu.map(|cpu| cpu.to_string()).unwrap_or_default();
        let labels = [&labels[..], &[("mode", mode), ("cpu", cpu.as_str())]].concat();
        let help = "The mode of the queue's AF_XDP socket, and the core of its worker.";
        families.info("heimdall_worker_socket", help, &labels);
    }
    insert(families, queue.counters.described(), &labels, worker_place);
}

fn insert_tier(families: &mut Families, tier: &TierState) {
    let help = "Whether the hot tier is on.";
    families.gauge(
        "heimdall_tier_up",
        help,
        &[],
        u64::from(tier.why_off().is_none()),
    );
    let place = |name| Place::alone(format!("heimdall_tier_{name}"));
    insert(families, tier.own(), &[], place);
    for (reason, count) in tier.passed() {
        let help = "Queries that the hot tier left to workers, by reason.";
        let labels = [("reason", reason)];
        families.counter("heimdall_tier_passed_queries", help, &labels, count);
    }
    insert(families, tier.of_core(), &[("front", "tier")], core_place);
}

fn insert_socket(families: &mut Families, thread: usize, socket: &SocketReport) {
    let thread = thread.to_string();
    let thread = [("thread", thread.as_str())];
    insert(families, socket.counters.described(), &thread, socket_place);
    let labels = [&[("front", "socket")][..], &thread].concat();
    insert(
        families,
        socket.core.answers.described(),
        &labels,
        core_place,
    );
    insert(families, socket.core.drops.described(), &labels, drop_place);
}

fn insert_histogram(
    families: &mut Families,
    name: &str,
    help: &str,
    labels: Labels<'_>,
    latency: &Distribution,
) {
    let total = (latency.sum(), latency.count());
    families.histogram(name, help, labels, total, latency.buckets());
}

fn insert_upstream(families: &mut Families, upstream: &UpstreamReport) {
    let address = Upstream(&upstream.address).to_string();
    let labels = [("upstream", address.as_str())];
    let up = u64::from(upstream.state() != UpstreamState::Failed);
    let help = "0 if the upstream is set aside, 1 if it works or was not needed yet.";
    families.gauge("heimdall_upstream_up", help, &labels, up);
    if let Some(rtt) = upstream.rtt_us() {
        let help = "The smoothed round-trip time of the upstream.";
        families.real_gauge(
            "heimdall_upstream_rtt_seconds",
            help,
            &labels,
            rtt as f64 / 1e6,
        );
    }
    insert_histogram(
        families,
        "heimdall_upstream_latency_seconds",
        "How long the responses of the upstream took, to all threads together.",
        &labels,
        &upstream.latency(),
    );
    for (thread, metrics) in upstream.threads.iter().enumerate() {
        let thread = thread.to_string();
        let labels = [&labels[..], &[("thread", thread.as_str())]].concat();
        let mut counters = metrics.counters.described();
        // These are above.
        counters.retain(|counter| !["rtt_us", "set_aside"].contains(&counter.name));
        let place = |name| Place::alone(format!("heimdall_upstream_{name}"));
        insert(families, counters, &labels, place);
    }
}

/// By the names that all Prometheus clients use.
fn insert_process(families: &mut Families, used: &ProcessUse) {
    let help = "Time in user and system mode.";
    families.real_counter("process_cpu_seconds", help, &[], used.cpu_seconds);
    let help = "Resident memory.";
    families.gauge(
        "process_resident_memory_bytes",
        help,
        &[],
        used.resident_bytes,
    );
    let help = "Virtual memory.";
    families.gauge(
        "process_virtual_memory_bytes",
        help,
        &[],
        used.virtual_bytes,
    );
    let help = "Open files.";
    families.gauge("process_open_fds", help, &[], used.open_files);
    if let Some(limit) = used.max_files {
        let help = "Files that may be open.";
        families.gauge("process_max_fds", help, &[], limit);
    }
    families.gauge("process_threads", "Threads.", &[], used.threads);
    let help = "When the process was started, since 1970.";
    families.real_gauge("process_start_time_seconds", help, &[], used.started);
}

fn core_place(name: &'static str) -> Place {
    if let Some(kind) = name.strip_prefix("type_") {
        let help = "Queries by type.";
        return Place::among("heimdall_queries", "type", mnemonic(kind), help);
    }
    match name {
        "hits" | "misses" => Place::alone(format!("heimdall_cache_{name}")),
        _ if RCODES.contains(&name) => {
            let help = "Replies by response code.";
            Place::among("heimdall_replies", "rcode", mnemonic(name), help)
        }
        _ if name.starts_with("cache_") => Place::alone(format!("heimdall_{name}")),
        _ => Place::alone(format!("heimdall_replies_{name}")),
    }
}

fn drop_place(name: &'static str) -> Place {
    let help = "Queries without a reply, by reason.";
    Place::among("heimdall_dropped_queries", "reason", name, help)
}

fn worker_place(name: &'static str) -> Place {
    match name.strip_prefix("frames_") {
        // The sum of the others.
        Some("total") => Place::alone("heimdall_worker_umem_frames".to_owned()),
        Some(place) => {
            let help = "Frames (packet buffers) by where they are.";
            Place::among("heimdall_worker_frames", "place", place, help)
        }
        None => Place::alone(format!("heimdall_worker_{name}")),
    }
}

fn socket_place(name: &'static str) -> Place {
    match name.strip_prefix("tls_failed_") {
        Some(reason) => {
            let help = "TLS handshakes that failed, by reason.";
            Place::among("heimdall_socket_tls_failed", "reason", reason, help)
        }
        None => Place::alone(format!("heimdall_socket_{name}")),
    }
}

fn forwarder_place(name: &'static str) -> Place {
    for (prefix, family, label, help) in [
        (
            "sent_",
            "heimdall_forwarder_sent_queries",
            "protocol",
            "Queries sent to upstreams.",
        ),
        (
            "rejected_",
            "heimdall_forwarder_rejected_responses",
            "reason",
            "Responses that were ignored, by reason.",
        ),
        (
            "shed_",
            "heimdall_forwarder_shed_lookups",
            "holder",
            "Look-ups that were ended to make room, by the holder that had most.",
        ),
    ] {
        if let Some(value) = name.strip_prefix(prefix) {
            return Place::among(family, label, value, help);
        }
    }
    Place::alone(format!("heimdall_forwarder_{name}"))
}

/// As the registries of DNS write types and response codes.
fn mnemonic(name: &str) -> String {
    match name {
        "other" => name.to_owned(),
        name => name.to_ascii_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_once_a_second() {
        let kept = KeptDrops(Mutex::new(Vec::new()));
        let start = Instant::now();
        let mut reads = Vec::new();
        for (millis, interface) in [(0, "a"), (0, "b"), (999, "a"), (1000, "a"), (1500, "b")] {
            let now = start + Duration::from_millis(millis);
            kept.of(interface, now, || {
                reads.push((millis, interface));
                Drops::default()
            });
        }
        assert_eq!(reads, [(0, "a"), (0, "b"), (1000, "a"), (1500, "b")]);
    }
}
