//! What came of it: a table, and what is wrong.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::{Result, bail};
use lab::sum;
use serde_json::Value;

use super::{SNAPSHOT, clients::Tally, watch::Sample};

/// How much anonymous memory may grow after the warm-up, in KiB.
const GROWTH: u64 = 4096;
/// How much of the popular names' hit rate a flood may cost.
const COST: f64 = 0.1;
/// How many of the queries may be lost or failed.
const LOSS: f64 = 0.001;

/// Questions for popular names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hits {
    /// From clients.
    pub(super) sent: u64,
    /// Of them, those that came to the upstream.
    pub(super) came: u64,
}

impl Hits {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            came: self.came - earlier.came,
        }
    }

    fn rate(self) -> f64 {
        1.0 - self.came as f64 / self.sent.max(1) as f64
    }
}

/// All that was seen.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Popular UDP, tail, flaky, flood, and TCP.
    pub(super) tallies: [Tally; 5],
    /// The first wrong replies.
    pub(super) wrong: Vec<String>,
    /// Quiet, flood, quiet, and so on.
    pub(super) turns: Vec<Hits>,
    /// One a second after the warm-up.
    pub(super) samples: Vec<Sample>,
    /// Before the first query, and after the last.
    pub(super) ends: [Sample; 2],
    /// Counters that are never so.
    pub(super) broken: Vec<String>,
    /// Commands that were run.
    pub(super) commands: u64,
    pub(super) stats: Value,
    /// Age of the snapshot at the end.
    pub(super) snapshot: Duration,
}

impl Outcome {
    /// Prints the table.
    ///
    /// # Errors
    /// Something is wrong.
    pub(super) fn tell(&self) -> Result<()> {
        let titles = ["popular", "asked once", "failing", "flood", "TCP"];
        println!(
            "\n{:12} {:>9} {:>9} {:>8} {:>8} {:>8} {:>6} {:>6}",
            "", "asked", "right", "TC", "stale", "SERVFAIL", "lost", "wrong"
        );
        for (title, tally) in titles.iter().zip(&self.tallies) {
            let [asked, right, cut, stale, failed, lost, wrong] = counts(tally);
            println!(
                "{title:12} {asked:>9} {right:>9} {cut:>8} {stale:>8} {failed:>8} {lost:>6} {wrong:>6}"
            );
        }
        println!("\nPopular names answered without the upstream:");
        for (at, turn) in self.turns.iter().enumerate() {
            let title = if at % 2 == 1 { "flood" } else { "quiet" };
            println!(
                "  {title:8} {:>6.2} %  of {}",
                100.0 * turn.rate(),
                turn.sent
            );
        }
        let [start, end] = self.ends;
        println!(
            "\nMemory       anonymous {} KiB after the warm-up, {} half-way, at most {}; RSS {} KiB at the end",
            self.base(),
            self.samples[self.samples.len() / 2].anonymous,
            self.peak(),
            end.rss
        );
        println!(
            "Open files   {} before, at most {}, {} after",
            start.files,
            self.samples
                .iter()
                .map(|sample| sample.files)
                .max()
                .unwrap_or_default(),
            end.files
        );
        println!(
            "Threads      {} before, {} after",
            start.threads, end.threads
        );
        let forwarder = &self.stats["forwarder"];
        println!(
            "Caches       {} insertions, {} evictions in the queues'; {}, {} in the forwarder's",
            sum(&self.stats, "cache/insertions"),
            sum(&self.stats, "cache/evictions"),
            forwarder["cache"]["insertions"],
            forwarder["cache"]["evictions"],
        );
        println!(
            "Upstream     {} UDP, {} TCP, {} timeouts",
            forwarder["sent_udp"], forwarder["sent_tcp"], forwarder["timeouts"]
        );
        println!(
            "Commands     {} flushes and dumps; the last snapshot is {:.1} s old",
            self.commands,
            self.snapshot.as_secs_f64()
        );
        let problems = self.problems();
        if !problems.is_empty() {
            bail!("{}", problems.join("\n       "));
        }
        println!("\nNothing is wrong.");
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
        let mut problems = self.wrong.clone();
        problems.extend(self.broken.iter().cloned());
        let [popular, tail, flaky, flood, tcp] = self.tallies.each_ref().map(counts);
        for (title, [asked, _, _, stale, failed, lost, _], most) in [
            ("popular names", popular, LOSS),
            ("names asked once", tail, LOSS),
            ("questions over TCP", tcp, LOSS),
            // The server is to say so when the upstream does not answer.
            ("failing names", with_failed_right(flaky), LOSS),
            // It may turn some away.
            ("the flood", with_failed_right(flood), 10.0 * LOSS),
        ] {
            let bad = stale + failed + lost;
            if asked == 0 || bad as f64 > (most * asked as f64).max(1.0) {
                problems.push(format!(
                    "{title}: {lost} lost, {failed} SERVFAIL and {stale} stale of {asked}"
                ));
            }
        }
        for (at, flood) in self.turns.iter().enumerate().skip(1).step_by(2) {
            let before = self.turns[at - 1].rate();
            let after = self.turns.get(at + 1).map_or(before, |turn| turn.rate());
            if flood.rate().min(after) < before - COST {
                problems.push(format!(
                    "flood {}: popular names were answered without the upstream {:.1} % before, {:.1} % under, {:.1} % after it",
                    at / 2 + 1, 100.0 * before, 100.0 * flood.rate(), 100.0 * after
                ));
            }
        }
        let [start, end] = self.ends;
        let grown = self.peak().saturating_sub(self.base());
        if grown > GROWTH {
            problems.push(format!("anonymous memory has grown by {grown} KiB"));
        }
        if end.files > start.files {
            problems.push(format!("{} open files became {}", start.files, end.files));
        }
        if end.threads != start.threads {
            problems.push(format!("{} threads became {}", start.threads, end.threads));
        }
        if sum(&self.stats, "cache/evictions") == 0 {
            problems.push("nothing was evicted: the cache is too large for this load".to_owned());
        }
        if self.snapshot > Duration::from_secs(3 * SNAPSHOT) {
            problems.push(format!("the last snapshot is {:?} old", self.snapshot));
        }
        problems
    }
}

/// Asked, right, cut, stale, failed, lost, wrong.
fn counts(tally: &Tally) -> [u64; 7] {
    [
        &tally.asked,
        &tally.right,
        &tally.cut,
        &tally.stale,
        &tally.failed,
        &tally.lost,
        &tally.wrong,
    ]
    .map(|count| count.load(Relaxed))
}

/// The same where neither stale answers nor SERVFAIL are bad.
fn with_failed_right([asked, right, cut, stale, failed, lost, wrong]: [u64; 7]) -> [u64; 7] {
    [asked, right + stale + failed, cut, 0, 0, lost, wrong]
}
