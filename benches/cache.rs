//! Costs of a cached answer, in time and in memory: `cargo bench -p benches --bench cache`.
//!
//! `cached answer` is the part of a hit that is DNS: `Core::read` and `Core::answer`, one query at
//! a time or 64 together as a worker has them. `bare cache` is `Cache::get` alone, with keys hashed
//! beforehand. Both are reported a query.
//!
//! A worker's queries are in frames that the processor's caches do not hold; what it costs to fetch
//! them is the network's, and `hit` has it. Here queries are drawn up front, a million in a row, so
//! that the processor sees the next ones coming, and copied one after another into 64 small buffers
//! that stay warm. That copy is in the figures; `copy` is the copy alone. A million, so that it is
//! not the same few entries that are found again and again. The look-ups do not depend on one
//! another, so that also one at a time the processor begins the next before it has ended the last.
//!
//! With `HEIMDALL_PLOT=docs/hit-cost.svg` the medians of `cached answer` are drawn, too; the path
//! counts from the repository's root.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod plot;
mod population;

use std::{
    env,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use heimdall_user::{
    answer::{Client, Core, Hint, Transport},
    cache::{Cache, Key},
    clock::Now,
    dns::{Answer, NameHasher, TtlLimits, reply::ReplySettings},
    front::PREFETCH_DISTANCE,
    stats::{AnswerCounters, DropCounters},
};
use population::{Item, mix};

const SIZES: [usize; 5] = [1_000, 10_000, 100_000, 1_000_000, 5_000_000];
const BATCH: usize = 64;
/// Few in a debug build, where nothing is measured.
const DRAWS: usize = if cfg!(debug_assertions) {
    1 << 14
} else {
    1 << 20
};
/// Size of the caches whose hits are timed, so that no name is evicted.
const OCTETS_PER_NAME: usize = 192;
/// With this many, a cache is nearly full.
const OCTETS_PER_NAME_FULL: usize = 123;
const CLIENT: Client = Client::new(
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    Transport::Udp {
        source_port: 40_000,
    },
);
/// The group whose medians are drawn, and the measurements in it.
const CACHED_ANSWER: &str = "cached answer";
const DISTRIBUTIONS: [&str; 2] = ["uniform", "Zipf"];
const WAYS: [&str; 2] = ["one at a time", "in batches of 64"];

/// A query, and its key's hash.
struct Draw {
    hash: u64,
    len: u8,
    question_end: u8,
    octets: [u8; 70],
}

impl Draw {
    fn new(item: &Item, hasher: &NameHasher) -> Self {
        let query = item.query();
        let mut octets = [0; 70];
        octets[..query.len()].copy_from_slice(&query);
        Self {
            hash: Key::new(hasher, &item.question, 0).hash,
            len: query.len() as u8,
            question_end: 12 + item.question.len() as u8,
            octets,
        }
    }

    fn key(&self) -> Key<'_> {
        Key {
            hash: self.hash,
            question: &self.octets[12..self.question_end.into()],
            flags: 0,
        }
    }

    /// Copies the query to the slot in which it will be answered.
    fn place<'a>(&self, slot: &'a mut Slot) -> &'a [u8] {
        *slot.0.first_chunk_mut().unwrap() = self.octets;
        &slot.0[..self.len.into()]
    }
}

/// A buffer for a query and its reply. An odd number of cache lines, so that the slots share out the
/// processor's nearest cache evenly.
#[repr(align(64))]
struct Slot([u8; 320]);

type Slots = [Slot; BATCH];

/// Numbers of the names that are queried.
fn numbers(distribution: &str, names: usize) -> Vec<usize> {
    let random = (0..DRAWS as u64).map(|i| mix(!i));
    if distribution == "uniform" {
        return random.map(|random| random as usize % names).collect();
    }
    // s = 1: the rate of queries for a name is in inverse proportion to its rank.
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=names)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let fraction = |random: u64| (random >> 11) as f64 / (1u64 << 53) as f64;
    let ranks = random.map(|random| sums.partition_point(|upto| *upto <= fraction(random) * sum));
    // Neighbours in the log are not equally popular.
    ranks.map(|rank| rank * 7_368_787 % names).collect()
}

fn draws(distribution: &str, names: usize, hasher: &NameHasher) -> Vec<Draw> {
    let numbers = numbers(distribution, names).into_iter();
    numbers.map(|i| Draw::new(&Item::new(i), hasher)).collect()
}

fn answer(item: &Item) -> Answer {
    Answer::from_response(&item.response(), &item.question, 0, &TtlLimits::default()).unwrap()
}

/// A cache that holds the first `names` names.
fn cache(names: usize, hasher: &NameHasher) -> Cache {
    let mut cache = Cache::new(names * OCTETS_PER_NAME).unwrap();
    cache.populate();
    for item in (0..names).map(Item::new) {
        cache.insert(&Key::new(hasher, &item.question, 0), &answer(&item), 0);
    }
    // Hardly any was evicted from a full bucket.
    assert!(cache.entries() as usize > names - names / 1000);
    cache
}

fn core(cache: Cache, hasher: &NameHasher) -> Core {
    let server = ReplySettings::new(1232, false);
    let counters = Arc::new(AnswerCounters::default());
    let drops = Arc::new(DropCounters::default());
    let mut core = Core::new(
        cache,
        hasher.clone(),
        server,
        Arc::default(),
        counters,
        drops,
    );
    // So that the TTLs have to be lowered, as in all hits but those of the first second.
    core.begin(Now {
        seconds: 60,
        ..Now::default()
    });
    core
}

fn answer_one_at_a_time(core: &mut Core, draws: &[Draw], slots: &mut Slots) {
    for (draw, slot) in draws.iter().zip(slots) {
        let query = core.read(draw.place(slot)).unwrap();
        black_box(core.answer(&query, &mut slot.0, CLIENT));
    }
}

fn answer_in_batches(core: &mut Core, draws: &[Draw], slots: &mut Slots) {
    let mut place = draws.iter().zip(&mut *slots);
    let queries: [_; BATCH] = std::array::from_fn(|_| {
        let (draw, slot) = place.next().unwrap();
        let query = core.read(draw.place(slot)).unwrap();
        core.prefetch(&query);
        query
    });
    let mut hints = [Hint::default(); BATCH];
    let mut slots = slots.iter_mut();
    for step in 0..BATCH + PREFETCH_DISTANCE {
        if let (Some(query), Some(hint)) = (queries.get(step), hints.get_mut(step)) {
            *hint = core.prefetch_entry(query);
        }
        if let Some(at) = step.checked_sub(PREFETCH_DISTANCE) {
            let slot = slots.next().unwrap();
            black_box(core.answer_at(hints[at], &queries[at], &mut slot.0, CLIENT));
        }
    }
}

fn get_one_at_a_time(cache: &mut Cache, draws: &[Draw], _: &mut Slots) {
    for draw in draws {
        black_box(cache.get(&draw.key(), 60));
    }
}

fn get_in_batches(cache: &mut Cache, draws: &[Draw], _: &mut Slots) {
    for draw in draws {
        cache.prefetch(draw.hash);
    }
    let mut hints = [Hint::default(); BATCH];
    for step in 0..draws.len() + PREFETCH_DISTANCE {
        if let (Some(draw), Some(hint)) = (draws.get(step), hints.get_mut(step)) {
            *hint = cache.prefetch_entry(draw.hash);
        }
        if let Some(at) = step.checked_sub(PREFETCH_DISTANCE) {
            black_box(cache.get_at(hints[at], draws[at].key(), 60));
        }
    }
}

/// Work on a batch.
type Work<T> = fn(&mut T, &[Draw], &mut Slots);

fn measure<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    draws: &[Draw],
    subject: &mut T,
    work: Work<T>,
) {
    let mut slots = [const { Slot([0; 320]) }; BATCH];
    let mut batches = draws.chunks_exact(BATCH).cycle();
    group.bench_function(id, |b| {
        b.iter(|| work(subject, batches.next().unwrap(), &mut slots));
    });
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Elements(BATCH as u64))
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}

fn times(c: &mut Criterion, sizes: &[usize]) {
    let hasher = NameHasher::default();
    for &names in sizes {
        let draws = DISTRIBUTIONS.map(|distribution| draws(distribution, names, &hasher));
        let series = |distribution: usize, way: usize| {
            let series = plot::series(DISTRIBUTIONS[distribution], WAYS[way]);
            BenchmarkId::new(series, names)
        };
        let mut cache = cache(names, &hasher);
        let get: [Work<Cache>; 2] = [get_one_at_a_time, get_in_batches];
        let mut bare = group(c, "bare cache");
        for (i, draws) in draws.iter().enumerate() {
            for (way, work) in get.into_iter().enumerate() {
                measure(&mut bare, series(i, way), draws, &mut cache, work);
            }
        }
        bare.finish();
        let mut core = core(cache, &hasher);
        let answer: [Work<Core>; 2] = [answer_one_at_a_time, answer_in_batches];
        let mut whole = group(c, CACHED_ANSWER);
        for (i, draws) in draws.iter().enumerate() {
            for (way, work) in answer.into_iter().enumerate() {
                measure(&mut whole, series(i, way), draws, &mut core, work);
            }
        }
        whole.finish();
    }
}

fn copy(c: &mut Criterion) {
    let draws = draws("uniform", SIZES[0], &NameHasher::default());
    let copy: Work<()> = |(), draws, slots| {
        for (draw, slot) in draws.iter().zip(slots) {
            black_box(draw.place(slot));
        }
    };
    let id = BenchmarkId::from_parameter("copy");
    measure(&mut group(c, "query"), id, &draws, &mut (), copy);
}

/// Prints how many octets of its memory a full cache needs for an entry, beside what they are on
/// the wire.
fn memory(sizes: &[usize]) {
    println!(
        "| names | memory, MiB | entries | octets an entry | reply | 1.5 × reply + 64 | memory ÷ reply | question and body |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let hasher = NameHasher::default();
    for &names in sizes {
        let budget = names * OCTETS_PER_NAME_FULL;
        let mut cache = Cache::new(budget).unwrap();
        let mut on_wire = 0;
        // Now and then a bucket of the index is full. When one entry in a hundred was evicted, the log is
        // full.
        while cache.evictions() * 100 <= cache.entries() {
            let item = Item::new(cache.insertions() as usize);
            let answer = answer(&item);
            on_wire += item.question.len() + answer.as_ref().body().len();
            cache.insert(&Key::new(&hasher, &item.question, 0), &answer, 0);
        }
        let body = on_wire as f64 / cache.insertions() as f64;
        let (reply, entry) = (12.0 + body, budget as f64 / cache.entries() as f64);
        println!(
            "| {names} | {:.1} | {} | {entry:.1} | {reply:.1} | {:.1} | {:.2} | {body:.1} |",
            budget as f64 / f64::from(1 << 20),
            cache.entries(),
            1.5 * reply + 64.0,
            entry / reply,
        );
    }
}

fn main() {
    // As criterion has it: without the argument, only see whether all of it works.
    let sizes = if env::args().any(|arg| arg == "--bench") {
        &SIZES[..]
    } else {
        &SIZES[..2]
    };
    let mut criterion = Criterion::default().configure_from_args();
    copy(&mut criterion);
    times(&mut criterion, sizes);
    criterion.final_summary();
    memory(&sizes[1..]);
    if let Some(path) = env::var_os("HEIMDALL_PLOT") {
        plot::draw(path.as_ref());
    }
}
