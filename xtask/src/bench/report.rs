//! What a run gives: tables, comparisons, JSON.

use std::{collections::BTreeMap, fmt::Write as _, iter, process::Command, thread};

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use indicatif::HumanCount;
use procfs::{CpuInfo, Current as _};
use serde::Serialize;

use super::{
    Contestant, Sample,
    plan::{EQUAL, HALF, LOADS, LOW, Load, MILLION, SHARED, UNIFORM, ZIPF},
};

/// What Heimdall on AF_XDP is to reach, as a ratio of its figure to the echo's.
const TARGETS: [(Load, &str, &str); 8] = [
    (UNIFORM, "99.9 %", "0.95 or more"),
    (ZIPF, "99.9 %", "0.95 or more"),
    (MILLION, "99.9 %", "0.95 or more"),
    (EQUAL, "process", "1.25 or less"),
    (EQUAL, "whole core", "1.25 or less"),
    (LOW, "process", "1.25 or less"),
    (LOW, "whole core", "1.25 or less"),
    (HALF, "p99", "2 or less"),
];

/// All that was measured, as it goes into the JSON file.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) arguments: Vec<String>,
    pub(super) server_cores: Vec<usize>,
    pub(super) generator_cores: Vec<usize>,
    /// How long it took.
    pub(super) seconds: u64,
    pub(super) not_installed: Vec<String>,
    pub(super) results: Vec<Outcome>,
}

/// A contestant's figures.
#[derive(Serialize)]
pub(super) struct Outcome {
    #[serde(skip)]
    pub(super) who: Contestant,
    pub(super) name: String,
    version: String,
    /// Of each figure, over all rounds.
    medians: BTreeMap<String, Median>,
    rounds: Vec<Sample>,
}

/// The middle of several values, and the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Median {
    #[serde(rename = "median")]
    pub(super) middle: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Median {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let middle = f64::midpoint(values[half], values[(values.len() - 1) / 2]);
        Some(Self { middle, low, high })
    }

    /// With its spread, if it has one.
    fn text(self) -> String {
        let [middle, low, high] = [self.middle, self.low, self.high].map(figure);
        if low == high {
            middle
        } else {
            format!("{middle} ({low}–{high})")
        }
    }
}

impl Outcome {
    pub(super) fn new(who: Contestant, rounds: Vec<Sample>) -> Self {
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, value) in rounds.iter().flatten() {
            values.entry(name.clone()).or_default().push(*value);
        }
        let medians = values.into_iter();
        Self {
            who,
            name: who.name(),
            version: who.version(),
            medians: medians
                .filter_map(|(name, values)| Some((name, Median::of(values)?)))
                .collect(),
            rounds,
        }
    }

    pub(super) fn median(&self, load: &Load, column: &str) -> Option<Median> {
        self.medians.get(&load.figure(column)).copied()
    }
}

impl Report {
    /// Everything for a reader, in Markdown.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for load in LOADS.iter().chain(SHARED.iter().map(|(_, load)| load)) {
            let rows: Vec<Vec<String>> =
                self.results.iter().filter_map(|it| row(it, load)).collect();
            if !rows.is_empty() {
                let table = table(load.columns(), rows);
                let _ = writeln!(text, "{}\n\n{table}\n", load.title);
            }
        }
        for line in self.comparisons() {
            let _ = writeln!(text, "{line}");
        }
        if !self.not_installed.is_empty() {
            let names = self.not_installed.join(", ");
            let _ = writeln!(text, "Left out, not installed: {names}");
        }
        text
    }

    /// Ratios between Heimdall and its limit, and between many queues and one.
    fn comparisons(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let ratio = |one: Option<Median>, other: Option<Median>| Some(one?.middle / other?.middle);
        let find = |who| self.results.iter().find(|outcome| outcome.who == who);
        let both = find(Contestant::HeimdallXdp).zip(find(Contestant::Echo));
        for (load, column, target) in &TARGETS {
            if let Some((xdp, echo)) = both
                && let Some(ratio) = ratio(xdp.median(load, column), echo.median(load, column))
            {
                let figure = load.figure(column);
                lines.push(format!(
                    "heimdall-xdp / echo, {figure}: {ratio:.2} (target: {target})"
                ));
            }
        }
        let [(_, single), more @ ..] = &SHARED;
        for outcome in &self.results {
            let rate = |load| outcome.median(load, "answers/s");
            for (queues, load) in more {
                if let Some(ratio) = ratio(rate(load), rate(single)) {
                    let name = &outcome.name;
                    lines.push(format!(
                        "{name}, {queues} queues / 1 queue on shared cores, answers/s: {ratio:.2}"
                    ));
                }
            }
        }
        lines
    }

    /// Everything for a program: medians, and each round.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// The processor, the number of cores, and the kernel's release.
pub(super) fn machine() -> String {
    let info = CpuInfo::current().ok();
    let cpu = info.as_ref().and_then(|info| info.model_name(0));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = lab::run(Command::new("uname").arg("-r")).unwrap_or_default();
    let (cpu, kernel) = (cpu.unwrap_or("unknown"), kernel.trim());
    format!("{cpu}, {cores} cores, Linux {kernel}")
}

/// A contestant's row of a load's table, if it has any figure of it.
fn row(outcome: &Outcome, load: &Load) -> Option<Vec<String>> {
    let columns = load.columns().iter();
    let medians: Vec<_> = columns.map(|column| outcome.median(load, column)).collect();
    medians.iter().any(Option::is_some).then(|| {
        let cells = medians
            .into_iter()
            .map(|it| it.map_or("–".to_owned(), Median::text));
        iter::once(outcome.name.clone()).chain(cells).collect()
    })
}

/// From 100 on a whole number with separators, below that with three decimals.
fn figure(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.3}")
    } else {
        HumanCount(value.round() as u64).to_string()
    }
}

/// Rows with a heading as an aligned Markdown table.
fn table(heading: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(iter::once("").chain(heading.iter().copied()));
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let median = |values: &[f64]| Median::of(values.to_vec());
        assert_eq!(median(&[]), None);
        let three = median(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((three.middle, three.low, three.high), (2.0, 1.0, 3.0));
        assert_eq!(median(&[4.0, 1.0]).unwrap().middle, 2.5);
        let text = |values: &[f64]| median(values).unwrap().text();
        assert_eq!(text(&[1e5, 1.2e6, 1.1e5]), "110,000 (100,000–1,200,000)");
        assert_eq!(text(&[1.234, 1.2341]), "1.234");
        assert_eq!(text(&[123.4]), "123");
    }

    #[test]
    fn reports_what_there_is() {
        let rate = UNIFORM.figure("99.9 %");
        let sample = Sample::from([
            (rate.clone(), 190_000.0),
            (SHARED[0].1.figure("answers/s"), 200_000.0),
            (SHARED[1].1.figure("answers/s"), 380_000.0),
        ]);
        let report = Report {
            machine: String::new(),
            arguments: vec![],
            server_cores: vec![1],
            generator_cores: vec![0],
            seconds: 1,
            not_installed: vec!["kresd".into()],
            results: vec![
                Outcome::new(Contestant::HeimdallXdp, vec![sample]),
                Outcome::new(
                    Contestant::Echo,
                    vec![Sample::from([(rate.clone(), 200_000.0)])],
                ),
            ],
        };
        let text = report.text();
        for expected in [
            "| heimdall-xdp | 190,000 |",
            &format!("heimdall-xdp / echo, {rate}: 0.95 (target"),
            "heimdall-xdp, 2 queues / 1 queue on shared cores, answers/s: 1.90",
            "kresd",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!text.contains("100 clients"), "{text}");
        let shared = text.split("sharing their cores").nth(1).unwrap();
        assert!(!shared.contains("| echo"), "it has no figure: {text}");
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["results"][1]["medians"][&rate]["median"], 200_000.0);
        assert!(
            super::super::plot::rates(&report)
                .unwrap()
                .contains("heimdall-xdp")
        );
    }
}
