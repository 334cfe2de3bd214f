//! What a run gives: tables, comparisons, JSON.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    iter,
    process::Command,
    thread,
};

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use indicatif::HumanCount;
use procfs::{CpuInfo, Current as _};
use serde::Serialize;

use super::{Contestant, Sample, plan::Load};

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
    /// In the order of their tables.
    #[serde(skip)]
    pub(super) loads: Vec<Load>,
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
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let middle = f64::midpoint(values[half], values[(values.len() - 1) / 2]);
        Some(Self { middle, low, high })
    }

    /// With its spread, if it has one.
    pub(super) fn text(self) -> String {
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

    pub(super) fn median(&self, load: Load, column: &str) -> Option<Median> {
        self.medians.get(&load.figure(column)).copied()
    }

    /// The median of the ratios to another contestant's figure in the same round.
    fn ratio(&self, other: &Self, figure: &str) -> Option<f64> {
        let rounds = self.rounds.iter().zip(&other.rounds);
        let ratios = rounds.filter_map(|(own, other)| Some(own.get(figure)? / other.get(figure)?));
        Some(Median::of(ratios.collect())?.middle)
    }
}

impl Report {
    /// Everything for a reader, in Markdown.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut families: Vec<Vec<Load>> = Vec::new();
        for load in &self.loads {
            match families
                .iter_mut()
                .find(|of| of[0].family() == load.family())
            {
                Some(family) => family.push(*load),
                None => families.push(vec![*load]),
            }
        }
        for family in families {
            let _ = match &family[..] {
                // Many rates: a table for each column.
                [first, _, _, ..] => first.columns().iter().try_for_each(|column| {
                    let heading = family.iter().filter_map(|load| Some(load.rate()?.title()));
                    let figures = family.iter().map(|load| load.figure(column));
                    let title = format!("{}, {column}", first.family());
                    self.write_table(&mut text, &title, heading.collect(), figures.collect())
                }),
                few => few.iter().try_for_each(|load| {
                    let heading = load.columns().iter().map(|&column| column.to_owned());
                    let figures = load.columns().iter().map(|column| load.figure(column));
                    self.write_table(
                        &mut text,
                        &load.title(),
                        heading.collect(),
                        figures.collect(),
                    )
                }),
            };
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

    /// Ratios between many queues and one, and between Heimdall with observers and without.
    fn comparisons(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let of = |who| self.results.iter().find(|it| it.who == who);
        if let Some((observed, plain)) =
            of(Contestant::HeimdallXdpObserved).zip(of(Contestant::HeimdallXdp))
        {
            for load in &self.loads {
                for figure in load.columns().iter().map(|column| load.figure(column)) {
                    if let Some(ratio) = observed.ratio(plain, &figure) {
                        lines.push(format!("observed / not observed, {figure}: {ratio:.3}"));
                    }
                }
            }
        }
        for outcome in &self.results {
            let rate = |queues| outcome.median(Load::Shared(queues), "answers/s");
            for queues in [2, 4] {
                if let Some((many, one)) = rate(queues).zip(rate(1)) {
                    let (name, ratio) = (&outcome.name, many.middle / one.middle);
                    lines.push(format!(
                        "{name}, {queues} queues / 1 queue on shared cores, answers/s: {ratio:.2}"
                    ));
                }
            }
        }
        lines
    }

    /// A table of the contestants that have any of the figures: medians, their spread, and their ratio to
    /// the echo's.
    fn write_table(
        &self,
        text: &mut String,
        title: &str,
        heading: Vec<String>,
        figures: Vec<String>,
    ) -> fmt::Result {
        let echo = self.results.iter().find(|it| it.who == Contestant::Echo);
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN);
        table.set_header(iter::once(String::new()).chain(heading));
        for outcome in &self.results {
            let cell = |figure: &String| {
                let mut cell = outcome.medians.get(figure)?.text();
                let echo = echo.filter(|echo| echo.who != outcome.who);
                let ratio = echo.and_then(|echo| outcome.ratio(echo, figure));
                if let Some(ratio) = ratio.filter(|it| it.is_finite()) {
                    let _ = write!(cell, " ×{ratio:.2}");
                }
                Some(cell)
            };
            let cells: Vec<_> = figures.iter().map(cell).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|it| it.unwrap_or("–".to_owned()));
                table.add_row(iter::once(outcome.name.clone()).chain(cells));
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        match table.row_count() {
            0 => Ok(()),
            _ => writeln!(text, "{title}\n\n{table}\n"),
        }
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

/// From 100 on a whole number with separators, below that with three decimals.
fn figure(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.3}")
    } else {
        HumanCount(value.round() as u64).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            plan::{self, NameSet, Rate},
            plot,
        },
        *,
    };

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
        let search = Load::Search(NameSet::Uniform);
        let rate = search.figure("99.9 %");
        let cost = Load::Cost(Rate::Fixed(25_000));
        let sample = Sample::from([
            (rate.clone(), 190_000.0),
            (Load::Shared(1).figure("answers/s"), 200_000.0),
            (Load::Shared(2).figure("answers/s"), 380_000.0),
            (cost.figure("process"), 2.5),
        ]);
        let report = Report {
            machine: String::new(),
            arguments: vec![],
            server_cores: vec![1],
            generator_cores: vec![0],
            seconds: 1,
            not_installed: vec!["kresd".into()],
            loads: plan::all(false),
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
            "| heimdall-xdp | 190,000 ×0.95 |",
            "| echo         |       200,000 |",
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
        let plots = [
            plot::rates(&report).unwrap(),
            plot::curves(&report, &[1000, 25_000]).unwrap(),
        ];
        for plot in plots {
            assert!(plot.contains("heimdall-xdp"), "{plot}");
            assert!(!plot.contains("p99"), "not measured: {plot}");
        }
    }
}
