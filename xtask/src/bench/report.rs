//! What a run tells: tables, comparisons, JSON.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    C100, C300, CLIENTS_A_QUEUE, Contestant, FIXED, Latencies, SHARED, Sample, X100, X300, XFIXED,
    XHALF,
};

/// All that was measured.
pub(super) struct Report {
    pub(super) settings: Vec<(String, String)>,
    pub(super) versions: Vec<(String, String)>,
    pub(super) missing: Vec<String>,
    pub(super) results: Vec<(Contestant, Vec<Sample>)>,
}

/// What an early prototype of Heimdall was measured at, elsewhere.
const EARLY: &str = "early prototype: 25,429 answers/s at 300 clients, mean 1.0 ms, p99 2.1 ms, \
p99.9 3.8 ms, no loss (before its zero-copy parser: 20,553, 8.6 ms)";

/// The middle of several values, and the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Median {
    pub(super) middle: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Median {
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let middle = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Some(Self { middle, low, high })
    }
}

/// A title, and columns with a heading, the name of a figure and its decimals.
struct Table(String, Vec<(&'static str, &'static str, usize)>);

fn tables() -> Vec<Table> {
    let latencies = |title: &str, first: &'static str, keys: Latencies| {
        let headings = [first, "mean ms", "p50", "p99", "p99.9", "lost %"];
        let decimals = [0, 3, 3, 3, 3, 3];
        let columns = (headings.into_iter().zip(keys).zip(decimals))
            .map(|((heading, key), decimals)| (heading, key, decimals));
        Table(title.to_owned(), columns.collect())
    };
    let alone = [
        Table(
            "Highest rate, answers/s, with at least so much answered (kxdpgun, open loop)".into(),
            vec![
                ("10 k names, 99.9 %", "uniform 99.9", 0),
                ("99 %", "uniform 99", 0),
                ("Zipf, 99.9 %", "zipf 99.9", 0),
                ("99 %", "zipf 99", 0),
                ("1 M names, 99.9 %", "million 99.9", 0),
                ("99 %", "million 99", 0),
            ],
        ),
        Table(
            "CPU seconds per million answers, at 0.9 of its highest rate and at 300,000/s (kxdpgun)"
                .into(),
            vec![
                ("0.9: answers/s", "near", 0),
                ("process", "near process", 2),
                ("receive", "near receive", 2),
                ("whole core", "near cores", 2),
                ("at 300,000: answers/s", "equal", 0),
                ("process", "equal process", 2),
                ("receive", "equal receive", 2),
                ("whole core", "equal cores", 2),
            ],
        ),
        Table(
            "CPU seconds per million answers, at 25,429/s (kxdpgun); without load; memory".into(),
            vec![
                ("answers/s", "early", 0),
                ("process", "early process", 2),
                ("receive", "early receive", 2),
                ("whole core", "early cores", 2),
                ("idle, % of a core", "idle", 2),
                ("memory, MB", "resident", 0),
            ],
        ),
        latencies("100 clients (dnsperf, closed loop)", "answers/s", C100),
        latencies("300 clients (dnsperf, closed loop)", "answers/s", C300),
        latencies(
            "300 clients at 25,429 queries/s (dnsperf)",
            "answers/s",
            FIXED,
        ),
        latencies("100 clients (on AF_XDP, closed loop)", "answers/s", X100),
        latencies("300 clients (on AF_XDP, closed loop)", "answers/s", X300),
        latencies(
            "300 clients at 25,429 queries/s (on AF_XDP)",
            "answers/s",
            XFIXED,
        ),
        latencies(
            "300 clients at half of the highest rate of kxdpgun's uniform load (on AF_XDP)",
            "answers/s",
            XHALF,
        ),
    ];
    let shared = SHARED.into_iter().map(|(queues, keys)| {
        let title = format!(
            "{queues} {}, each on a core that it shares with its {CLIENTS_A_QUEUE} clients (on AF_XDP, closed loop)",
            if queues == 1 { "queue" } else { "queues" }
        );
        latencies(&title, "answers/s", keys)
    });
    alone.into_iter().chain(shared).collect()
}

impl Report {
    /// A figure of a contestant's over all rounds.
    pub(super) fn median(&self, who: Contestant, key: &str) -> Option<Median> {
        let (_, samples) = self.results.iter().find(|(other, _)| *other == who)?;
        let values = samples.iter().filter_map(|sample| sample.get(key));
        Median::of(values.copied().collect())
    }

    /// Everything for a reader, in Markdown.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Table(title, columns) in tables() {
            if let Some(table) = self.table(&columns) {
                let _ = writeln!(text, "{title}\n\n{table}");
            }
        }
        let _ = writeln!(text, "{EARLY}\n");
        for line in self.comparisons() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "\n{}", machine_line());
        for (title, list) in [("Versions", &self.versions), ("Settings", &self.settings)] {
            let list: Vec<String> = list
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            let _ = writeln!(text, "{title}: {}", list.join(", "));
        }
        if !self.missing.is_empty() {
            let _ = writeln!(text, "Left out, not installed: {}", self.missing.join(", "));
        }
        text
    }

    /// Those who have any of the figures; nothing, if nobody has.
    fn table(&self, columns: &[(&str, &str, usize)]) -> Option<String> {
        let known =
            |key: &str| (self.results.iter()).any(|(who, _)| self.median(*who, key).is_some());
        let columns: Vec<_> = columns.iter().filter(|(_, key, _)| known(key)).collect();
        if columns.is_empty() {
            return None;
        }
        let headings = columns.iter().map(|(heading, ..)| (*heading).to_owned());
        let mut rows = vec![
            [String::new()]
                .into_iter()
                .chain(headings)
                .collect::<Vec<_>>(),
        ];
        for (who, _) in &self.results {
            let medians: Vec<Option<Median>> =
                (columns.iter().map(|(_, key, _)| self.median(*who, key))).collect();
            if medians.iter().all(Option::is_none) {
                continue;
            }
            let cells = medians
                .into_iter()
                .zip(&columns)
                .map(|(median, (.., decimals))| {
                    median.map_or("–".to_owned(), |median| cell(median, *decimals))
                });
            rows.push([who.name()].into_iter().chain(cells).collect());
        }
        Some(align(&rows))
    }

    /// Ratios between Heimdall, its limit and the others; no verdicts.
    fn comparisons(&self) -> Vec<String> {
        let ratio = |a: Contestant, b: Contestant, key: &str| -> Option<f64> {
            let ratio = self.median(a, key)?.middle / self.median(b, key)?.middle;
            ratio.is_finite().then_some(ratio)
        };
        let mut lines = Vec::new();
        let (xdp, echo) = (Contestant::HeimdallXdp, Contestant::Echo);
        for (what, key) in [
            ("10 k names", "uniform 99.9"),
            ("Zipf", "zipf 99.9"),
            ("1 M names", "million 99.9"),
        ] {
            if let Some(ratio) = ratio(xdp, echo, key) {
                lines.push(format!(
                    "heimdall-xdp / echo, rate at 99.9 %, {what}: {:.1} % (target: 95 % or more)",
                    100.0 * ratio
                ));
            }
        }
        for (what, at) in [("at 300,000/s", "equal"), ("at 25,429/s", "early")] {
            for (part, key) in [("process", "process"), ("whole core", "cores")] {
                if let Some(ratio) = ratio(xdp, echo, &format!("{at} {key}")) {
                    lines.push(format!(
                        "heimdall-xdp / echo, CPU an answer, {part}, {what}: {ratio:.2} (target: 1.25 or less)"
                    ));
                }
            }
        }
        if let Some(ratio) = ratio(xdp, echo, XHALF[3]) {
            lines.push(format!(
                "heimdall-xdp / echo, p99 at half of the highest rate: {ratio:.2} (target: 2 or less)"
            ));
        }
        for (key, decimals, target) in [
            (X300[0], 0, "254,290 or more"),
            (X300[3], 3, "less than 1.05"),
            (XFIXED[1], 3, "0.1 or less"),
            (XFIXED[3], 3, "0.21 or less"),
        ] {
            if let Some(median) = self.median(xdp, key) {
                let figure = cell(median, decimals);
                lines.push(format!("heimdall-xdp, {key}: {figure} (target: {target})"));
            }
        }
        let [(_, one), more @ ..] = SHARED;
        for who in [xdp, echo] {
            for (queues, keys) in more {
                let rate = |key| self.median(who, key).map(|median| median.middle);
                if let (Some(first), Some(all)) = (rate(one[0]), rate(keys[0])) {
                    lines.push(format!(
                        "{}, {queues} queues / 1 queue, cores shared with clients, answers/s: {:.2}",
                        who.name(),
                        all / first
                    ));
                }
            }
        }
        let mut rates = |one: Contestant, others: &[Contestant]| {
            for &other in others {
                if let Some(ratio) = ratio(one, other, "uniform 99.9") {
                    lines.push(format!(
                        "{} / {}, rate at 99.9 %: {ratio:.2}",
                        one.name(),
                        other.name()
                    ));
                }
            }
        };
        use Contestant::{
            Dnsdist, Dnsmasq, HeimdallSockets, KnotXdp, Kresd, PdnsRecursor, Unbound,
        };
        rates(
            xdp,
            &[KnotXdp, Unbound, Dnsdist, Kresd, PdnsRecursor, Dnsmasq],
        );
        rates(HeimdallSockets, &[Unbound, Dnsdist, Dnsmasq]);
        lines
    }

    /// Everything for a program: medians, and each round.
    pub(super) fn json(&self) -> Result<Value> {
        let mut results = serde_json::Map::new();
        for (who, samples) in &self.results {
            let keys = samples.iter().flat_map(Sample::keys);
            let medians: serde_json::Map<String, Value> = keys
                .filter_map(|key| {
                    let Median { middle, low, high } = self.median(*who, key)?;
                    let value = json!({ "median": middle, "low": low, "high": high });
                    Some(((*key).to_owned(), value))
                })
                .collect();
            results.insert(who.name(), json!({ "medians": medians, "rounds": samples }));
        }
        let map = |list: &[(String, String)]| -> serde_json::Map<String, Value> {
            list.iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect()
        };
        let (cpu, cores, kernel) = machine();
        Ok(json!({
            "machine": { "cpu": cpu, "cores": cores, "kernel": kernel },
            "versions": map(&self.versions),
            "settings": map(&self.settings),
            "not_installed": self.missing,
            "results": results,
            "reference": EARLY,
            "comparisons": self.comparisons(),
        }))
    }
}

/// The processor's name, how many cores, and the kernel's release.
fn machine() -> (String, usize, String) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = (info.lines())
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown")
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = lab::run(Command::new("uname").arg("-r")).unwrap_or_default();
    (cpu, cores, kernel.trim().to_owned())
}

fn machine_line() -> String {
    let (cpu, cores, kernel) = machine();
    format!("Machine: {cpu}, {cores} cores, Linux {kernel}")
}

/// A median, with its spread if there is one.
fn cell(median: Median, decimals: usize) -> String {
    let Median { middle, low, high } = median;
    let number = |value: f64| thousands(&format!("{value:.decimals$}"));
    if number(low) == number(high) {
        number(middle)
    } else {
        format!("{} ({}–{})", number(middle), number(low), number(high))
    }
}

/// 1234567.8 as 1,234,567.8.
fn thousands(number: &str) -> String {
    let whole = number.split('.').next().unwrap_or_default().len();
    let mut text = String::new();
    for (place, digit) in number.chars().enumerate() {
        if place > 0 && place < whole && (whole - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rows, of which the first is the heading, as an aligned Markdown table.
fn align(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(2)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "| {cell:width$} |")
            } else {
                write!(text, " {cell:>width$} |")
            };
        }
        text.push('\n');
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                text.push_str(if column == 0 { "|-" } else { "-" });
                text.push_str(&"-".repeat(*width));
                text.push_str(if column == 0 { "-|" } else { ":|" });
            }
            text.push('\n');
        }
    }
    text
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
    }

    #[test]
    fn cells() {
        assert_eq!(thousands("1234567.8"), "1,234,567.8");
        assert_eq!(thousands("123"), "123");
        let median = |values: &[f64]| Median::of(values.to_vec()).unwrap();
        assert_eq!(
            cell(median(&[1e5, 1.2e5, 1.1e5]), 0),
            "110,000 (100,000–120,000)"
        );
        assert_eq!(cell(median(&[1.234, 1.2341]), 2), "1.23");
    }

    #[test]
    fn tables_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(
            align(&[row(["", "rate"]), row(["one", "1,000"])]),
            "|     |  rate |\n|-----|------:|\n| one | 1,000 |\n"
        );
    }

    #[test]
    fn reports_what_there_is() {
        let sample = |rate| Sample::from([("uniform 99.9", rate)]);
        let report = Report {
            settings: vec![("queues".into(), "1".into())],
            versions: vec![],
            missing: vec!["kresd".into()],
            results: vec![
                (
                    Contestant::HeimdallXdp,
                    vec![Sample::from([
                        ("uniform 99.9", 190_000.0),
                        (SHARED[0].1[0], 200_000.0),
                        (SHARED[1].1[0], 380_000.0),
                    ])],
                ),
                (Contestant::Echo, vec![sample(200_000.0)]),
            ],
        };
        let text = report.text();
        assert!(text.contains("| heimdall-xdp |"), "{text}");
        assert!(
            text.contains("rate at 99.9 %, 10 k names: 95.0 %"),
            "{text}"
        );
        assert!(!text.contains("100 clients (dnsperf"), "{text}");
        let shared = text.split("shares with its").nth(1).unwrap();
        assert!(!shared.contains("| echo"), "it has no figure: {text}");
        assert!(
            text.contains(
                "heimdall-xdp, 2 queues / 1 queue, cores shared with clients, answers/s: 1.90"
            ),
            "{text}"
        );
        assert!(text.contains("25,429 answers/s at 300 clients") && text.contains("kresd"));
        let json = report.json().unwrap();
        assert_eq!(
            json["results"]["echo"]["medians"]["uniform 99.9"]["median"],
            200_000.0
        );
        assert!(
            super::super::plot::rates(&report)
                .unwrap()
                .contains("heimdall-xdp")
        );
    }
}
