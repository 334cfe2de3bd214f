//! What `heimdall stats` and `heimdall top` show: the server's document, and the difference of two.
//!
//! A [`Reading`] is the document at a moment, a [`Period`] what was counted between two of them, and a
//! [`View`] that in the terms in which people look at it. Nothing here prints, waits or knows a terminal. A field that is
//! absent counts as zero or as unknown, and texts, which may come from clients, are made harmless when a view
//! is made ([`format::clean`]).

mod difference;
pub(super) mod format;
mod latency;
mod reading;

use serde_json::Value;

pub(super) use difference::is_count;
use format::clean;
pub(super) use latency::Latency;
pub(super) use reading::{Period, Reading};

/// A name and its count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Count {
    pub(super) name: String,
    pub(super) count: u64,
}

/// Messages by transport.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Transports {
    /// In the kernel, by the hot tier.
    pub(super) tier: u64,
    pub(super) xdp: u64,
    pub(super) udp: u64,
    pub(super) tcp: u64,
    pub(super) tls: u64,
}

impl Transports {
    pub(super) fn all(self) -> u64 {
        self.tier + self.xdp + self.udp + self.tcp + self.tls
    }
}

/// An interface with an XDP program.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) attach: Option<String>,
    /// The hot tier's state there: `on`, or `off` and why.
    pub(super) tier: Option<String>,
    pub(super) tier_reason: Option<String>,
}

/// The hot tier.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tier {
    pub(super) state: String,
    pub(super) reason: Option<String>,
    /// Answers in it now.
    pub(super) entries: u64,
    pub(super) hits: u64,
}

/// The service addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Services {
    /// `announced` or `withdrawn`.
    pub(super) state: String,
    /// Why not, or not all of them.
    pub(super) reason: Option<String>,
}

/// A worker, or a thread of the sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Front {
    /// The name of its queue, `eth0:3`, or `worker-1 (8 queues)`; `sockets`, or `sockets:1`.
    pub(super) name: String,
    /// The interface, and the number in it.
    pub(super) place: (String, u64),
    pub(super) core: Option<u64>,
    /// `zero-copy`, `copy`, or `socket`.
    pub(super) mode: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) queries: Transports,
    pub(super) replies: Transports,
    pub(super) hits: u64,
    pub(super) misses: u64,
    /// Queries without a reply.
    pub(super) dropped: u64,
    /// Packets that the kernel dropped before the worker.
    pub(super) lost: u64,
    /// Queries that wait for the forwarder now.
    pub(super) waiting: u64,
    /// The queues of a worker that has several.
    pub(super) queues: Vec<Queue>,
}

impl Front {
    /// The queues of a worker that has several, as rows below its own. What the worker counts for all together, such as hits,
    /// is not in them.
    pub(super) fn rows_below(&self) -> impl Iterator<Item = Self> {
        let row = |queue: &Queue| Self {
            name: queue.name.clone(),
            place: queue.place.clone(),
            core: self.core,
            mode: queue.mode.clone(),
            state: queue.state.clone(),
            reason: queue.reason.clone(),
            queries: Transports {
                xdp: queue.received,
                ..Transports::default()
            },
            replies: Transports {
                xdp: queue.answered,
                ..Transports::default()
            },
            lost: queue.lost,
            waiting: queue.waiting,
            ..Self::default()
        };
        self.queues.iter().map(row)
    }
}

/// A queue that shares its worker with others.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Queue {
    /// `eth0:3`.
    pub(super) name: String,
    /// The interface, and the number in it.
    pub(super) place: (String, u64),
    /// `worker-1`.
    pub(super) worker: String,
    /// Why it has that worker.
    pub(super) placement: String,
    pub(super) mode: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) received: u64,
    pub(super) answered: u64,
    /// Packets that the kernel dropped before the worker.
    pub(super) lost: u64,
    /// Queries that wait for the forwarder now.
    pub(super) waiting: u64,
}

/// The caches of the fronts, or those of the forwarder.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cache {
    pub(super) entries: u64,
    pub(super) insertions: u64,
    pub(super) evictions: u64,
}

/// What the forwarder did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Forwarder {
    pub(super) requests: u64,
    pub(super) cache_hits: u64,
    pub(super) coalesced: u64,
    /// Queries to upstreams.
    pub(super) sent: u64,
    pub(super) answers: u64,
    pub(super) timeouts: u64,
    pub(super) errors: u64,
    pub(super) stale: u64,
    pub(super) servfail: u64,
    pub(super) shed: u64,
    pub(super) rejected: u64,
    /// Questions in flight now.
    pub(super) in_flight: u64,
}

/// A resolver that misses are forwarded to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Upstream {
    pub(super) address: String,
    /// The zones of its routes.
    pub(super) routes: Vec<String>,
    pub(super) state: String,
    /// Why it is set aside.
    pub(super) problem: Option<String>,
    pub(super) rtt_us: Option<f64>,
    pub(super) in_flight: u64,
    pub(super) queries: u64,
    pub(super) timeouts: u64,
    pub(super) errors: u64,
    /// The errors by kind, those that happened, and forged responses.
    pub(super) error_kinds: Vec<Count>,
    pub(super) latency: Option<Latency>,
}

impl Upstream {
    /// The zones of its routes in words, unless it is for the names without one alone.
    pub(super) fn routes_in_words(&self) -> Option<String> {
        /// Zones that are named.
        const MOST: usize = 8;
        if matches!(self.routes.as_slice(), [] | [_]) && self.routes.iter().all(|zone| zone == ".")
        {
            return None;
        }
        let mut words: Vec<String> = self.routes.iter().take(MOST).cloned().collect();
        if let Some(more) = self.routes.len().checked_sub(MOST + 1) {
            words.push(format!("{} more", more + 1));
        }
        Some(words.join(", "))
    }

    /// What went wrong, by kind, in words.
    pub(super) fn errors_in_words(&self) -> Option<String> {
        let kinds = self.error_kinds.iter();
        let words: Vec<_> = kinds
            .map(|kind| format!("{} {}", kind.name, kind.count))
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// What is asked most, by a sample of the queries of the last minutes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Popular {
    /// The N of "one query in N is sampled"; `None`: the server samples none.
    pub(super) one_in: Option<u64>,
    /// Of how many queries the counts are.
    pub(super) queries: u64,
    pub(super) names: Vec<Count>,
    pub(super) types: Vec<Count>,
    pub(super) clients: Vec<Count>,
}

/// A period in the terms of an operator. Counts and latencies are those of the period; what is described as "now",
/// and the popular names, are those of its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) seconds: f64,
    pub(super) is_since_start: bool,
    pub(super) server: String,
    pub(super) pid: Option<u64>,
    pub(super) backend: String,
    /// Seconds since the start.
    pub(super) uptime: f64,
    /// Seconds since 1970.
    pub(super) time: f64,
    /// CPU seconds, if they are known.
    pub(super) cpu_seconds: Option<f64>,
    /// Octets, if they are known.
    pub(super) memory: Option<u64>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) fronts: Vec<Front>,
    pub(super) tier: Option<Tier>,
    pub(super) services: Option<Services>,
    /// Whether the server listens for TLS.
    pub(super) serves_tls: bool,
    pub(super) queries: Transports,
    pub(super) replies: Transports,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) cache: Cache,
    pub(super) types: Vec<Count>,
    pub(super) rcodes: Vec<Count>,
    pub(super) dropped: Vec<Count>,
    /// Packets that the kernel dropped before a worker had them.
    pub(super) lost: u64,
    pub(super) latency_of_hits: Option<Latency>,
    pub(super) latency_of_misses: Option<Latency>,
    pub(super) forwarder: Forwarder,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) popular: Option<Popular>,
}

impl View {
    pub(super) fn new(period: &Period) -> Self {
        let document = &period.document;
        let fronts = fronts(document);
        let totals = period.fronts();
        let version = text(document, "/build/version").unwrap_or_default();
        let sum = |of: fn(&Front) -> u64| fronts.iter().map(of).sum::<u64>();
        let tier = tier(document);
        let by_tier = Transports {
            tier: tier.as_ref().map_or(0, |tier| tier.hits),
            ..Transports::default()
        };
        let with_tier =
            |of: fn(&Front) -> Transports| transports(fronts.iter().map(of).chain([by_tier]));
        Self {
            seconds: period.seconds,
            is_since_start: period.is_since_start,
            server: format!("heimdall {version}").trim_end().to_owned(),
            pid: number(document, "/pid"),
            backend: text(document, "/backend").unwrap_or_default(),
            uptime: float(document, "/uptime").unwrap_or_default(),
            time: float(document, "/time").unwrap_or_default(),
            cpu_seconds: float(document, "/process/cpu_seconds"),
            memory: number(document, "/process/resident_bytes"),
            interfaces: items(document, "/interfaces").map(interface).collect(),
            queries: with_tier(|front| front.queries),
            replies: with_tier(|front| front.replies),
            hits: sum(|front| front.hits) + by_tier.tier,
            misses: sum(|front| front.misses),
            cache: Cache {
                entries: count(&totals, "/cache/entries"),
                insertions: count(&totals, "/cache/insertions"),
                evictions: count(&totals, "/cache/evictions"),
            },
            types: counts(&totals, "/types"),
            rcodes: counts(&totals, "/rcodes"),
            dropped: counts(&totals, "/dropped"),
            lost: sum(|front| front.lost),
            latency_of_hits: Latency::new(document.pointer("/latency/hits")),
            latency_of_misses: Latency::new(document.pointer("/latency/misses")),
            forwarder: forwarder(document),
            upstreams: upstreams(document),
            popular: popular(document),
            serves_tls: document.pointer("/tls/listen").is_some(),
            services: services(document),
            tier,
            fronts,
        }
    }

    /// A count as a rate per second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        if self.seconds > 0.0 {
            count as f64 / self.seconds
        } else {
            0.0
        }
    }
}

fn transports(each: impl Iterator<Item = Transports>) -> Transports {
    each.fold(Transports::default(), |sum, one| Transports {
        tier: sum.tier + one.tier,
        xdp: sum.xdp + one.xdp,
        udp: sum.udp + one.udp,
        tcp: sum.tcp + one.tcp,
        tls: sum.tls + one.tls,
    })
}

fn interface(value: &Value) -> Interface {
    Interface {
        name: text(value, "/name").unwrap_or_default(),
        state: text(value, "/state").unwrap_or_default(),
        reason: text(value, "/reason"),
        attach: text(value, "/attach"),
        tier: text(value, "/tier/state"),
        tier_reason: text(value, "/tier/reason"),
    }
}

fn tier(document: &Value) -> Option<Tier> {
    let value = document
        .pointer("/tier")
        .filter(|value| value.is_object())?;
    Some(Tier {
        state: text(value, "/state").unwrap_or_default(),
        reason: text(value, "/reason"),
        entries: count(value, "/entries"),
        hits: count(value, "/hits"),
    })
}

fn services(document: &Value) -> Option<Services> {
    let value = document.get("anycast")?;
    let state = match value.get("announced")?.as_bool()? {
        true => "announced",
        false => "withdrawn",
    };
    Some(Services {
        state: state.to_owned(),
        reason: text(value, "/reason"),
    })
}

/// The workers, and then the threads of the sockets.
fn fronts(document: &Value) -> Vec<Front> {
    let workers = items(document, "/workers").map(|worker| {
        let (name, place) = match text(worker, "/interface") {
            Some(interface) => {
                let queue = count(worker, "/queue");
                (format!("{interface}:{queue}"), (interface, queue))
            }
            None => {
                let number = count(worker, "/worker");
                let queues = items(worker, "/queues").count();
                let name = format!("worker-{number} ({queues} queues)");
                (name, ("worker".to_owned(), number))
            }
        };
        Front {
            name,
            place,
            queues: shared_queues(worker),
            core: number(worker, "/cpu"),
            mode: text(worker, "/mode").unwrap_or_default(),
            state: text(worker, "/state").unwrap_or_default(),
            reason: text(worker, "/reason"),
            queries: Transports {
                xdp: count(worker, "/received"),
                ..Transports::default()
            },
            replies: Transports {
                xdp: count(worker, "/answered"),
                ..Transports::default()
            },
            lost: count(worker, "/ring/rx_ring_full") + count(worker, "/ring/rx_dropped"),
            waiting: count(worker, "/frames/pending"),
            ..front(worker)
        }
    });
    let socket = |name: String, number: u64, thread: &Value| Front {
        name,
        place: ("sockets".to_owned(), number),
        mode: "socket".to_owned(),
        // The server does not go on without them.
        state: "running".to_owned(),
        queries: Transports {
            udp: count(thread, "/udp_received"),
            tcp: count(thread, "/tcp_received"),
            tls: count(thread, "/tls_received"),
            ..Transports::default()
        },
        replies: Transports {
            udp: count(thread, "/udp_answered"),
            tcp: count(thread, "/tcp_answered"),
            tls: count(thread, "/tls_answered"),
            ..Transports::default()
        },
        waiting: count(thread, "/pending"),
        ..front(thread)
    };
    let mut threads: Vec<_> = items(document, "/socket_threads")
        .map(|thread| {
            let number = count(thread, "/thread");
            socket(format!("sockets:{number}"), number, thread)
        })
        .collect();
    if threads.is_empty() {
        let sockets = document.pointer("/sockets");
        threads.extend(sockets.map(|sockets| socket("sockets".to_owned(), 0, sockets)));
    }
    workers.chain(threads).collect()
}

/// The queues of a worker, if it has several.
fn shared_queues(worker: &Value) -> Vec<Queue> {
    let queues: Vec<&Value> = items(worker, "/queues").collect();
    if queues.len() < 2 {
        return Vec::new();
    }
    let place = |queue: &Value| {
        let interface = text(queue, "/interface").unwrap_or_default();
        (interface, count(queue, "/queue"))
    };
    let one = |queue: &&Value| Queue {
        name: format!("{}:{}", place(queue).0, place(queue).1),
        place: place(queue),
        worker: format!("worker-{}", count(worker, "/worker")),
        placement: text(queue, "/placement").unwrap_or_default(),
        mode: text(queue, "/mode").unwrap_or_default(),
        state: text(queue, "/state").unwrap_or_default(),
        reason: text(queue, "/reason"),
        received: count(queue, "/received"),
        answered: count(queue, "/answered"),
        lost: count(queue, "/ring/rx_ring_full") + count(queue, "/ring/rx_dropped"),
        waiting: count(queue, "/frames/pending"),
    };
    queues.iter().map(one).collect()
}

/// What all fronts count.
fn front(value: &Value) -> Front {
    let dropped = counts(value, "/dropped");
    Front {
        hits: count(value, "/hits"),
        misses: count(value, "/misses"),
        dropped: dropped.iter().map(|reason| reason.count).sum(),
        ..Front::default()
    }
}

fn forwarder(document: &Value) -> Forwarder {
    let of = |name: &str| count(document, &format!("/forwarder/{name}"));
    let sum = |name: &str| -> u64 {
        let counts = counts(document, &format!("/forwarder/{name}"));
        counts.iter().map(|count| count.count).sum()
    };
    Forwarder {
        requests: of("requests"),
        cache_hits: of("cache/hits") + of("nxdomain_hits") + of("nxdomain_cut_hits"),
        coalesced: of("coalesced"),
        sent: of("sent_udp") + of("sent_tcp"),
        answers: of("answers"),
        timeouts: of("timeouts"),
        errors: of("upstream_errors"),
        stale: of("stale"),
        servfail: of("servfail"),
        shed: sum("shed"),
        rejected: sum("rejected"),
        in_flight: of("in_flight"),
    }
}

fn upstreams(document: &Value) -> Vec<Upstream> {
    let upstream = |value: &Value| Upstream {
        address: text(value, "/address").unwrap_or_default(),
        routes: items(value, "/routes")
            .filter_map(|zone| zone.as_str().map(clean))
            .collect(),
        state: text(value, "/state").unwrap_or_default(),
        problem: text(value, "/problem"),
        rtt_us: float(value, "/rtt_us"),
        in_flight: count(value, "/in_flight"),
        queries: count(value, "/queries"),
        timeouts: count(value, "/timeouts"),
        errors: count(value, "/errors"),
        error_kinds: error_kinds(value),
        latency: Latency::new(value.pointer("/latency")),
    };
    items(document, "/upstreams").map(upstream).collect()
}

fn error_kinds(upstream: &Value) -> Vec<Count> {
    let kinds = upstream.pointer("/error_kinds").and_then(Value::as_object);
    let kinds = kinds.into_iter().flatten();
    let kinds = kinds.map(|(name, value)| (clean(name), value.as_u64()));
    let forged = number(upstream, "/forged");
    let all = kinds.chain([("forged".to_owned(), forged)]);
    let happened = all.filter_map(|(name, count)| {
        let count = count.filter(|count| *count > 0)?;
        let words = match name.as_str() {
            "servfail" | "refused" | "formerr" | "notimp" => name.to_uppercase(),
            "tls" => "TLS".to_owned(),
            "other_rcodes" => "other codes".to_owned(),
            _ => name,
        };
        Some(Count { name: words, count })
    });
    happened.collect()
}

fn popular(document: &Value) -> Option<Popular> {
    let value = document
        .pointer("/popular")
        .filter(|value| value.is_object())?;
    // The one text of an item is what was counted.
    let list = |pointer: &str| -> Vec<Count> {
        let item = |item: &Value| Count {
            name: item
                .as_object()
                .and_then(|fields| fields.values().find_map(Value::as_str))
                .map(clean)
                .unwrap_or_default(),
            count: count(item, "/count"),
        };
        items(value, pointer).map(item).collect()
    };
    let types = list("/types");
    Some(Popular {
        one_in: number(value, "/one_in"),
        // There are few other types than the listed ones.
        queries: types.iter().map(|one| one.count).sum(),
        names: list("/names"),
        types,
        clients: list("/clients"),
    })
}

/// A count; zero if it is absent.
fn count(value: &Value, pointer: &str) -> u64 {
    number(value, pointer).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer)?.as_u64()
}

fn float(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer)?.as_f64()
}

/// A text that is safe to print.
fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(clean)
}

/// The items of a list; none if it is absent.
fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// The counts of an object that are not zero, the highest first.
fn counts(value: &Value, pointer: &str) -> Vec<Count> {
    let fields = value.pointer(pointer).and_then(Value::as_object);
    let count = |(name, count): (&String, &Value)| Count {
        name: clean(name),
        count: count.as_u64().unwrap_or_default(),
    };
    let mut counts: Vec<_> = fields.into_iter().flatten().map(count).collect();
    counts.retain(|count| count.count > 0);
    // Stable: equal ones stay in the document's order.
    counts.sort_by_key(|count| std::cmp::Reverse(count.count));
    counts
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
