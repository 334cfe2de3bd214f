//! Which eviction policy keeps the most useful answers: `cargo bench -p benches --bench eviction`.
//!
//! Caches of equal-sized entries, one for each policy and Heimdall's own with as many, see the
//! same requests. Only hits of the crowd's requests are counted, not those of a scan or flood. Nothing
//! expires. Prints tables in Markdown and draws
//! `docs/eviction.svg`.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod heimdall;
mod plot;
mod policies;
mod traces;

use std::time::Instant;

use heimdall::Heimdall;
use policies::{Fifo, Lru, Name, Policy, S3Fifo, Sieve};
use traces::{NAMES, PHASE, Trace, WARM_UP};

/// Octets of Heimdall's caches; they hold about 1 % and 10 % of the names.
const BUDGETS: [usize; 2] = [1_225_000, 11_700_000];
/// Requests of the crowd that make one point of a curve.
const WINDOW: usize = 10_000;
/// "After" a flood is these many windows.
const AFTER: usize = 20;

#[derive(Clone, Copy)]
enum Contender {
    Lru,
    Fifo,
    Clock,
    Sieve,
    /// Percent of the small queue, and hits there after which an entry is promoted.
    S3Fifo(usize, u8),
    Heimdall,
}

const CONTENDERS: [Contender; 11] = [
    Contender::Lru,
    Contender::Fifo,
    Contender::Clock,
    Contender::Sieve,
    Contender::S3Fifo(5, 1),
    Contender::S3Fifo(10, 1),
    Contender::S3Fifo(20, 1),
    Contender::S3Fifo(5, 2),
    Contender::S3Fifo(10, 2),
    Contender::S3Fifo(20, 2),
    Contender::Heimdall,
];

impl Contender {
    fn label(self) -> String {
        match self {
            Self::Lru => "LRU".into(),
            Self::Fifo => "FIFO".into(),
            Self::Clock => "CLOCK".into(),
            Self::Sieve => "SIEVE".into(),
            Self::S3Fifo(small, promotion) => format!("S3-FIFO {small} % ≥ {promotion}"),
            Self::Heimdall => "Heimdall".into(),
        }
    }

    /// An empty cache: Heimdall's of `bytes` octets, any other of `capacity` entries.
    fn cache(self, capacity: usize, bytes: usize, names: usize) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru::new(capacity, names)),
            Self::Fifo => Box::new(Fifo::new(capacity, names, 0)),
            Self::Clock => Box::new(Fifo::new(capacity, names, 1)),
            Self::Sieve => Box::new(Sieve::new(capacity, names)),
            Self::S3Fifo(small, promotion) => {
                Box::new(S3Fifo::new(capacity, names, small, promotion))
            }
            Self::Heimdall => Box::new(Heimdall::new(bytes)),
        }
    }
}

/// The results of one trace and one size.
struct Column {
    label: String,
    /// Hit ratios, by contender.
    ratios: Vec<f64>,
}

/// The hit ratio of the crowd's requests in each window after the warm-up.
fn curve(trace: &Trace, cache: &mut dyn Policy) -> Vec<f64> {
    let (mut asked, mut hits) = (0, 0);
    let mut curve = Vec::new();
    for &name in &trace.requests {
        let hit = cache.access(name);
        if (name as usize) < NAMES {
            asked += 1;
            hits += usize::from(hit);
            if asked % WINDOW == 0 {
                curve.push(hits as f64 / WINDOW as f64);
                hits = 0;
            }
        }
    }
    curve.split_off(WARM_UP / WINDOW)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Markdown, a row for each contender. The last column is the mean over the others of the misses
/// divided by LRU's, the first row's.
fn print_table(columns: &[Column]) {
    let mut header = vec![String::from("policy")];
    header.extend(columns.iter().map(|column| column.label.clone()));
    header.push("misses / LRU's".into());
    let widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    let first = CONTENDERS.map(|contender| contender.label().chars().count());
    let first = first.into_iter().max().unwrap();
    let print = |cells: &[String]| {
        print!("| {:first$} |", cells[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            print!(" {cell:>width$} |");
        }
        println!();
    };
    print(&header);
    print!("|{}|", "-".repeat(first + 2));
    for width in &widths[1..] {
        print!("{}:|", "-".repeat(width + 1));
    }
    println!();
    for (row, contender) in CONTENDERS.iter().enumerate() {
        let relative = columns
            .iter()
            .map(|column| (1.0 - column.ratios[row]) / (1.0 - column.ratios[0]));
        let relative = mean(&relative.collect::<Vec<_>>());
        let mut cells = vec![contender.label()];
        let ratios = columns.iter().map(|column| column.ratios[row]);
        cells.extend(ratios.map(|ratio| format!("{:.2}", 100.0 * ratio)));
        cells.push(format!("{relative:.3}"));
        print(&cells);
    }
    println!();
}

/// Quick checks: hits and misses that were counted by hand, and which policies withstand a scan.
fn check() {
    const CAPACITY: usize = 20;
    const ALL: usize = 1000;
    let outcome = |contender: Contender, requests: &[Name]| -> String {
        let mut cache = contender.cache(3, 0, ALL);
        let hits = requests.iter().map(|name| cache.access(*name));
        hits.map(|hit| if hit { 'h' } else { '.' }).collect()
    };
    let requests = [1, 2, 3, 1, 4, 2, 1, 3];
    assert_eq!(outcome(Contender::Lru, &requests), "...h..h.");
    assert_eq!(outcome(Contender::Fifo, &requests), "...h.h.h");
    assert_eq!(outcome(Contender::Clock, &requests), "...h..h.");
    assert_eq!(outcome(Contender::Sieve, &requests), "...h..h.");
    for contender in CONTENDERS {
        let mut cache = contender.cache(CAPACITY, 0, ALL);
        for name in (0..5).flat_map(|name| [name; 4]).chain(5..ALL as Name) {
            cache.access(name);
        }
        let cached = (0..5).filter(|name| cache.access(*name)).count();
        match contender {
            Contender::Lru | Contender::Fifo | Contender::Clock => assert_eq!(cached, 0),
            Contender::Sieve | Contender::S3Fifo(..) => assert_eq!(cached, 5),
            // Its smallest cache holds them all.
            Contender::Heimdall => assert_eq!(cached, 5),
        }
    }
}

fn main() {
    check();
    // `cargo test` runs this program, too.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let start = Instant::now();
    let capacities = BUDGETS.map(Heimdall::capacity);
    let curves = |trace: &Trace| {
        [0, 1].map(|size| {
            eprintln!("{:>4} s  {}", start.elapsed().as_secs(), trace.label);
            let (capacity, bytes) = (capacities[size], BUDGETS[size]);
            let curves = CONTENDERS.map(|contender| {
                let mut cache = contender.cache(capacity, bytes, trace.names());
                curve(trace, &mut *cache)
            });
            (percent(capacity), curves)
        })
    };

    let mut steady = Vec::new();
    let traces: [fn() -> Trace; 6] = [
        || traces::steady("0.8", 0.8),
        || traces::steady("1.0", 1.0),
        || traces::steady("1.2", 1.2),
        traces::scan,
        traces::bursts,
        traces::change,
    ];
    for trace in traces {
        let trace = trace();
        for (percent, curves) in curves(&trace) {
            steady.push(Column {
                label: format!("{}, {percent}", trace.label),
                ratios: curves.iter().map(|curve| mean(curve)).collect(),
            });
        }
    }
    println!(
        "Hits in per cent; caches of {} and {} entries, {NAMES} names; a number is Zipf's s\n",
        capacities[0], capacities[1]
    );
    print_table(&steady);

    let mut floods = Vec::new();
    for trace in [
        traces::flood("each name once", 1),
        traces::flood("each name twice", 2),
    ] {
        let curves = curves(&trace);
        let mut columns = Vec::new();
        for (percent, curves) in &curves {
            let third = PHASE / WINDOW;
            for (phase, windows) in [
                ("before", 0..third),
                ("under", third..2 * third),
                ("after", 2 * third..2 * third + AFTER),
            ] {
                let ratios = curves.iter().map(|curve| mean(&curve[windows.clone()]));
                columns.push(Column {
                    label: format!("{phase}, {percent}"),
                    ratios: ratios.collect(),
                });
            }
        }
        println!("Flood, {}\n", trace.label);
        print_table(&columns);
        let [(_, smaller), _] = curves;
        floods.push((trace.label, smaller));
    }
    plot::draw(&steady, &floods).unwrap();
}

/// A capacity as a share of the names.
fn percent(capacity: usize) -> String {
    format!("{:.0} %", 100.0 * capacity as f64 / NAMES as f64)
}
