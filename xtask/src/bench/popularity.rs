//! `cargo xtask bench --tier`: the share of queries that the hot tier answers while it fills, under a flood of random
//! names, and after the popular names have become other ones.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use fastrand::Rng;
use indicatif::HumanCount;
use lab::{Heimdall, Lab, sum};
use serde::Serialize;
use serde_json::Value;

use super::{
    Cores,
    contestants::{Contestant, Programs},
    loads::Closed,
    report,
};
use crate::{stop::Stop, zipf::Zipf};

/// Names that are asked for by Zipf's law with s = 1.
const NAMES: usize = 1_000_000;
/// Queries a second for them.
const RATE: u64 = 25_000;
/// Clients, each with one query in flight.
const CLIENTS: u32 = 300;
/// Seconds that a row of the table stands for.
const ROW: usize = 3;

/// A part of the run.
struct Phase {
    title: &'static str,
    seconds: u64,
    /// Whether as many random names, each asked for once, are asked for besides.
    flood: bool,
    /// Which names are popular.
    ranking: u64,
}

const PHASES: [Phase; 4] = [
    Phase {
        title: "empty caches",
        seconds: 30,
        flood: false,
        ranking: 1,
    },
    Phase {
        title: "flood of random names",
        seconds: 21,
        flood: true,
        ranking: 1,
    },
    Phase {
        title: "flood is over",
        seconds: 9,
        flood: false,
        ranking: 1,
    },
    Phase {
        title: "other names are popular",
        seconds: 30,
        flood: false,
        ranking: 2,
    },
];

/// What was counted in about a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Second {
    /// Number of the phase.
    pub(super) phase: usize,
    /// Its end, in seconds since the start of the run.
    pub(super) time: f64,
    /// Its length in seconds.
    length: f64,
    /// Queries for popular and random names.
    queries: u64,
    /// Queries for popular names; a share of `queries`.
    popular: f64,
    /// Queries that the tier answered.
    answered: u64,
    /// Queries that the forwarder was asked for.
    misses: u64,
    promotions: u64,
    demotions: u64,
    /// Entries of the tier at its end.
    entries: u64,
}

/// What a run gives, as it goes into the JSON file.
#[derive(Serialize)]
pub(super) struct Popularity {
    machine: String,
    names: usize,
    rate: u64,
    /// Entries of the tier, at most.
    entries: u64,
    /// The share of queries for as many names as the tier holds, if these are the most popular ones, in per cent.
    pub(super) optimum: f64,
    /// Titles and lengths in seconds.
    pub(super) phases: Vec<(&'static str, u64)>,
    pub(super) seconds: Vec<Second>,
}

impl Second {
    /// Per cent of the queries for popular names that the tier answered.
    pub(super) fn share(&self) -> f64 {
        100.0 * self.answered as f64 / self.popular.max(1.0)
    }

    /// Several of a phase as one.
    fn together(seconds: &[Self]) -> Option<Self> {
        let add = |a: Self, b: &Self| Self {
            length: a.length + b.length,
            queries: a.queries + b.queries,
            popular: a.popular + b.popular,
            answered: a.answered + b.answered,
            misses: a.misses + b.misses,
            promotions: a.promotions + b.promotions,
            demotions: a.demotions + b.demotions,
            ..*b
        };
        let (first, rest) = seconds.split_first()?;
        Some(rest.iter().fold(*first, add))
    }
}

/// The counters at a moment.
struct Counters {
    time: Instant,
    stats: Value,
}

impl Counters {
    fn read(heimdall: &Heimdall) -> Result<Self> {
        Ok(Self {
            stats: heimdall.stats()?,
            time: Instant::now(),
        })
    }

    fn tier(&self, name: &str) -> u64 {
        self.stats["tier"][name].as_u64().unwrap_or_default()
    }

    /// What was counted since then.
    fn since(&self, earlier: &Self, start: Instant, phase: usize) -> Second {
        let grown = |name: &str| self.tier(name) - earlier.tier(name);
        let by_workers = |name: &str| sum(&self.stats, name) - sum(&earlier.stats, name);
        let queries = grown("hits") + by_workers("received");
        let part = if PHASES[phase].flood { 0.5 } else { 1.0 };
        Second {
            phase,
            time: (self.time - start).as_secs_f64(),
            length: (self.time - earlier.time).as_secs_f64(),
            queries,
            popular: part * queries as f64,
            answered: grown("hits"),
            misses: by_workers("misses"),
            promotions: grown("promotions"),
            demotions: grown("demotions"),
            entries: self.tier("entries"),
        }
    }
}

/// Measures; a third as long if it has to be quick.
pub(super) fn run(
    programs: &Programs,
    cores: &Cores,
    quick: bool,
    stop: &Stop,
) -> Result<Popularity> {
    let directory = tempfile::tempdir()?;
    let length = |phase: &Phase| {
        if quick {
            phase.seconds / 3
        } else {
            phase.seconds
        }
    };
    println!("writing queries for {} names", HumanCount(NAMES as u64));
    let zipf = Zipf::new(NAMES);
    let mut files = Vec::new();
    for (number, phase) in PHASES.iter().enumerate() {
        let path = directory.path().join(number.to_string());
        fs::write(&path, queries(phase, &zipf, number as u64, length(phase)))?;
        files.push(path);
    }
    let running = Contestant::HeimdallTier.start(programs, cores)?;
    running.meter.settle()?;
    let heimdall = running.heimdall().context("Heimdall does not run")?;
    let start = Instant::now();
    let mut seconds = Vec::new();
    for (number, (phase, names)) in PHASES.iter().zip(&files).enumerate() {
        stop.check()?;
        println!("{}, {} s", phase.title, length(phase));
        let load = Load {
            lab: &running.lab,
            cores,
            names,
            program: &programs.clients,
            rate: if phase.flood { 2 * RATE } else { RATE },
            seconds: length(phase),
        };
        seconds.extend(load.observe(heimdall, start, number)?);
    }
    let entries = heimdall.stats()?["tier"]["capacity"].as_u64();
    let entries = entries.context("the tier does not say how many entries it has at most")?;
    Ok(Popularity {
        machine: report::machine(),
        names: NAMES,
        rate: RATE,
        entries,
        optimum: 100.0 * zipf.share(entries as usize),
        phases: PHASES.iter().map(|it| (it.title, length(it))).collect(),
        seconds,
    })
}

/// The queries of a phase: as many as it can take.
fn queries(phase: &Phase, zipf: &Zipf, seed: u64, seconds: u64) -> String {
    let mut hosts: Vec<usize> = (0..NAMES).collect();
    Rng::with_seed(phase.ranking).shuffle(&mut hosts);
    let mut random = Rng::with_seed(seed);
    let mut text = String::new();
    // The warm-up of the generator, for which no time is set, comes first.
    for _ in 0..RATE * (seconds + 1) {
        let host = hosts[zipf.draw(&mut random)];
        let _ = writeln!(text, "n{host}.wild.example.com. A");
        if phase.flood {
            let number = random.u64(..);
            let _ = writeln!(text, "f{number:016x}.wild.example.com. A");
        }
    }
    text
}

/// The load of a phase.
struct Load<'a> {
    lab: &'a Lab,
    cores: &'a Cores,
    names: &'a Path,
    program: &'a Path,
    rate: u64,
    seconds: u64,
}

impl Load<'_> {
    /// Puts it on the server, and reads the server's counters every second meanwhile.
    fn observe(&self, heimdall: &Heimdall, start: Instant, phase: usize) -> Result<Vec<Second>> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let observer = scope.spawn(|| {
                let mut seconds = Vec::new();
                let mut before = Counters::read(heimdall)?;
                while !over.load(Relaxed) {
                    thread::sleep(Duration::from_secs(1));
                    let now = Counters::read(heimdall)?;
                    let second = now.since(&before, start, phase);
                    before = now;
                    // The generator takes its time to start.
                    if second.queries as f64 > 0.5 * self.rate as f64 * second.length {
                        seconds.push(second);
                    }
                }
                anyhow::Ok(seconds)
            });
            let load = Closed {
                lab: self.lab,
                cores: self.cores,
                names: self.names,
                clients: CLIENTS,
                rate: Some(self.rate),
                seconds: self.seconds,
                once: false,
            };
            let measured = load.on_xdp(self.program);
            over.store(true, Relaxed);
            let seconds = observer
                .join()
                .map_err(|_| anyhow!("a thread panicked"))??;
            let measured = measured?;
            let answered = HumanCount(measured.rate as u64);
            println!("  {answered} answers/s, {} lost", measured.lost);
            Ok(seconds)
        })
    }
}

impl Popularity {
    /// A row for every few seconds, in Markdown.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN);
        table.set_header([
            "",
            "s",
            "queries/s",
            "in the kernel %",
            "misses %",
            "entries",
            "promotions/s",
            "demotions/s",
        ]);
        for (number, (title, _)) in self.phases.iter().enumerate() {
            let of_phase = |second: &&Second| second.phase == number;
            let seconds: Vec<Second> = self.seconds.iter().filter(of_phase).copied().collect();
            for (row, chunk) in seconds.chunks(ROW).enumerate() {
                let Some(of) = Second::together(chunk) else {
                    continue;
                };
                let rate = |count: u64| HumanCount((count as f64 / of.length) as u64).to_string();
                table.add_row([
                    if row == 0 {
                        (*title).to_owned()
                    } else {
                        String::new()
                    },
                    format!("{:.0}", of.time),
                    rate(of.queries),
                    format!("{:.1}", of.share()),
                    format!("{:.1}", 100.0 * of.misses as f64 / of.queries.max(1) as f64),
                    HumanCount(of.entries).to_string(),
                    rate(of.promotions),
                    rate(of.demotions),
                ]);
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "The hot tier with {} entries, {} names by Zipf's law. In the kernel: of the queries for these names.\n\n{table}\n\n\
             Answered in the kernel, if it held the most popular names: {:.1} %\n",
            HumanCount(self.entries),
            HumanCount(self.names as u64),
            self.optimum
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(phase: usize, time: f64, answered: u64) -> Second {
        Second {
            phase,
            time,
            length: 1.0,
            queries: 1000,
            popular: 500.0,
            answered,
            misses: 10,
            promotions: 3,
            demotions: 2,
            entries: answered,
        }
    }

    #[test]
    fn seconds_make_rows() {
        let popularity = Popularity {
            machine: String::new(),
            names: NAMES,
            rate: RATE,
            entries: 10_000,
            optimum: 68.0,
            phases: vec![("first", 4), ("second", 1)],
            seconds: (1..=4)
                .map(|time| second(0, f64::from(time), 100))
                .chain([second(1, 5.0, 250)])
                .collect(),
        };
        let text = popularity.text();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(str::trim).collect())
            .skip(2)
            .collect();
        assert_eq!(rows.len(), 3, "{text}");
        assert_eq!(rows[0][1..6], ["first", "3", "1,000", "20.0", "1.0"]);
        assert_eq!(rows[1][1..5], ["", "4", "1,000", "20.0"]);
        assert_eq!(rows[2][1..5], ["second", "5", "1,000", "50.0"]);
        let plot = super::super::plot::shares(&popularity).unwrap();
        assert!(
            plot.contains("second") && plot.contains("optimum"),
            "{plot}"
        );
    }

    #[test]
    fn a_flood_is_every_other_query() {
        let zipf = Zipf::new(NAMES);
        let text = queries(&PHASES[1], &zipf, 1, 0);
        let floods = text.lines().filter(|line| line.starts_with('f')).count();
        assert_eq!(2 * floods, text.lines().count());
        assert_eq!(floods as u64, RATE);
        // The most popular name of one ranking is none of the other's.
        let most = |phase: &Phase| {
            let text = queries(phase, &zipf, 1, 0);
            let mut counts = std::collections::HashMap::new();
            for line in text.lines() {
                *counts.entry(line.to_owned()).or_insert(0) += 1;
            }
            counts
                .into_iter()
                .max_by_key(|(_, count)| *count)
                .unwrap()
                .0
        };
        assert_eq!(most(&PHASES[0]), most(&PHASES[2]));
        assert_ne!(most(&PHASES[0]), most(&PHASES[3]));
    }
}
