//! The results: a table, and what is wrong.

use std::{iter, time::Duration};

use anyhow::{Result, bail};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use lab::sum;
use serde_json::Value;

use super::{
    POOL, SNAPSHOT_INTERVAL,
    answers::Ledger,
    clients::{Count, Tally},
    watch::Sample,
};

/// How much anonymous memory may grow after the warm-up, in KiB.
pub(super) const MAX_GROWTH: u64 = 4096;
/// How much of the popular names' hit rate a flood may cost.
const MAX_COST: f64 = 0.1;
/// How many of the queries for popular names the hot tier answers at least: a veth leaves those to workers whose reply is much
/// longer.
const MIN_IN_KERNEL: f64 = 0.02;
/// How many of the queries may be lost or failed.
const MAX_LOSS: f64 = 0.001;

/// Questions for popular names: from clients, and those of them that came to the upstream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hits {
    sent: u64,
    missed: u64,
}

impl Hits {
    pub(super) fn so_far(ledger: &Ledger) -> Self {
        let [sent, missed] = [&ledger.sent, &ledger.missed]
            .map(|count| count.load(std::sync::atomic::Ordering::Relaxed));
        Self { sent, missed }
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            missed: self.missed - earlier.missed,
        }
    }

    /// Percent that were answered without the upstream.
    fn percent(self) -> f64 {
        100.0 * (1.0 - self.missed as f64 / self.sent.max(1) as f64)
    }
}

/// Prints what became of the queries of each kind of client.
pub(super) fn print_tallies(tallies: &[Tally; 5]) {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let counts = [
        "asked",
        "right",
        "truncated",
        "stale",
        "SERVFAIL",
        "lost",
        "wrong",
    ];
    table.set_header(iter::once("").chain(counts));
    let titles = ["popular", "asked once", "failing", "flood", "TCP"];
    for (title, tally) in titles.iter().zip(tallies) {
        let counts = tally.iter().map(u64::to_string);
        table.add_row(iter::once((*title).to_owned()).chain(counts));
    }
    println!("{table}");
}

/// All that was seen.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// By kind of client.
    pub(super) tallies: [Tally; 5],
    /// The first wrong replies, and counters that are never so.
    pub(super) problems: Vec<String>,
    /// Quiet, flood, quiet, and so on.
    pub(super) phases: Vec<Hits>,
    /// One a second after the warm-up.
    pub(super) samples: Vec<Sample>,
    /// Before the first query, and after the last.
    pub(super) ends: [Sample; 2],
    pub(super) stats: Value,
    /// Age of the snapshot at the end.
    pub(super) snapshot: Duration,
}

impl Report {
    /// Prints the table.
    ///
    /// # Errors
    /// Something is wrong.
    pub(super) fn print(&self) -> Result<()> {
        print_tallies(&self.tallies);
        println!("\nPopular names answered without the upstream:");
        for (hits, title) in self.phases.iter().zip(["quiet", "flood"].iter().cycle()) {
            println!("  {title:8} {:>6.2} %  of {}", hits.percent(), hits.sent);
        }
        let [start, end] = &self.ends;
        let files = self.samples.iter().map(|sample| sample.files).max();
        let forwarder = &self.stats["forwarder"];
        println!(
            "
Memory       anonymous {} KiB after the warm-up, {} half-way, at most {}; RSS {} KiB at the end
Open files   {} before, at most {}, {} after
Threads      {} before, {} after
Caches       {} insertions, {} evictions in the queues'; {}, {} in the forwarder's
Hot tier     {} answers, {} promotions, {} demotions",
            self.base(),
            self.samples[self.samples.len() / 2].anonymous,
            self.peak(),
            end.rss,
            start.files,
            files.unwrap_or_default(),
            end.files,
            start.threads.len(),
            end.threads.len(),
            sum(&self.stats, "cache/insertions"),
            sum(&self.stats, "cache/evictions"),
            forwarder["cache"]["insertions"],
            forwarder["cache"]["evictions"],
            self.stats["tier"]["hits"],
            self.stats["tier"]["promotions"],
            self.stats["tier"]["demotions"],
        );
        let problems = self.problems();
        if !problems.is_empty() {
            bail!("{}", problems.join("\n       "));
        }
        Ok(())
    }

    /// Anonymous memory after the warm-up, in KiB.
    fn base(&self) -> u64 {
        self.samples.first().map_or(0, |sample| sample.anonymous)
    }

    /// The most anonymous memory since then, and at the end, in KiB.
    fn peak(&self) -> u64 {
        let samples = self.samples.iter().chain(&self.ends[1..]);
        let anonymous = samples.map(|sample| sample.anonymous);
        anonymous.max().unwrap_or_default()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        let [popular, tail, flaky, flood, tcp] = &self.tallies;
        let all = &[Count::Lost, Count::Failed, Count::Stale][..];
        for (title, tally, bad, most) in [
            ("popular names", popular, all, MAX_LOSS),
            ("names asked once", tail, all, MAX_LOSS),
            ("questions over TCP", tcp, all, MAX_LOSS),
            // The server is to say so when the upstream does not answer.
            ("failing names", flaky, &all[..1], MAX_LOSS),
            // It may reject some.
            ("the flood", flood, &all[..1], 10.0 * MAX_LOSS),
        ] {
            let asked = tally[Count::Asked as usize];
            let counts = bad.iter().map(|count| (tally[*count as usize], *count));
            let sum: u64 = counts.clone().map(|(number, _)| number).sum();
            if asked == 0 || sum as f64 > (most * asked as f64).max(1.0) {
                let counts: Vec<_> = counts.collect();
                problems.push(format!("{title}: of {asked} queries {counts:?}"));
            }
        }
        // A flood is between two quiet phases.
        for phases in self.phases.windows(3).step_by(2) {
            let [before, flood, after] = [0, 1, 2].map(|phase| phases[phase].percent());
            if flood.min(after) < before - 100.0 * MAX_COST {
                problems.push(format!(
                    "popular names were answered without the upstream {before:.1} % before a flood, {flood:.1} % under and {after:.1} % after it"
                ));
            }
        }
        let [start, end] = &self.ends;
        let grown = self.peak().saturating_sub(self.base());
        if grown > MAX_GROWTH {
            problems.push(format!("anonymous memory has grown by {grown} KiB"));
        }
        if end.files > start.files + POOL {
            problems.push(format!("{} open files became {}", start.files, end.files));
        }
        if end.threads != start.threads {
            problems.push(format!(
                "the threads {:?} became {:?}",
                start.threads, end.threads
            ));
        }
        if sum(&self.stats, "cache/evictions") == 0 {
            problems.push("nothing was evicted: the cache is too large for this load".to_owned());
        }
        let in_kernel = self.stats["tier"]["hits"].as_u64().unwrap_or_default();
        let popular = popular[Count::Asked as usize];
        if (in_kernel as f64) < MIN_IN_KERNEL * popular as f64 {
            problems.push(format!(
                "the hot tier answered {in_kernel} of {popular} queries for popular names"
            ));
        }
        if self.snapshot > Duration::from_secs(3 * SNAPSHOT_INTERVAL) {
            problems.push(format!("the last snapshot is {:?} old", self.snapshot));
        }
        problems
    }
}
