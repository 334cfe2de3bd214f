//! A period as text: sections of aligned rows, with the tables among them.

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::{
    sections::{BEGINNING, END, Row, Section},
    tables,
};
use crate::cli::view::{
    Count, Period, View,
    format::{clean, fit, grouped, octets, percent, rate, seconds, span},
    is_count,
};

/// The period's counts, if it is the time since the start, or else its rates.
pub(super) fn render(period: &Period) -> String {
    let view = View::new(period);
    let counts = Counts::new(period);
    let mut blocks = vec![head(&view, period)];
    blocks.extend(services(&view));
    blocks.extend(stuck(period));
    blocks.extend(counts.sections(BEGINNING));
    blocks.extend(tables::tables(&view));
    blocks.extend(counts.sections(END));
    blocks.extend(counts.rest());
    blocks.join("\n")
}

fn head(view: &View, period: &Period) -> String {
    let mut facts = vec![view.server.clone(), format!("backend {}", view.backend)];
    facts.extend(view.pid.map(|pid| format!("pid {pid}")));
    facts.push(format!("up {}", span(view.uptime)));
    let cpu = view.cpu_seconds.filter(|_| view.seconds > 0.0);
    facts.extend(cpu.map(|cpu| format!("{:.1} % of a core", cpu / view.seconds * 100.0)));
    facts.extend(view.memory.map(octets));
    let digest = period.document.get("config_digest").and_then(Value::as_str);
    facts.extend(digest.map(|digest| format!("digest {}", clean(digest))));
    let what = if view.is_since_start {
        "Counts since the start.".to_owned()
    } else {
        format!("Rates over {}.", seconds(view.seconds))
    };
    format!("{}\n{what}\n", facts.join(", "))
}

/// Whether the service addresses are announced, and why not, if there are any.
fn services(view: &View) -> Option<String> {
    let services = view.services.as_ref()?;
    let reason = services.reason.as_ref();
    let because = reason.map(|reason| format!(": {reason}"));
    let because = because.unwrap_or_default();
    Some(format!("service addresses  {}{because}\n", services.state))
}

/// The threads that make no progress, if there are any.
fn stuck(period: &Period) -> Option<String> {
    let threads = period.document.get("stuck")?.as_array()?.iter();
    let names: Vec<String> = threads.filter_map(Value::as_str).map(clean).collect();
    let line = || format!("STUCK, without progress for 10 s: {}\n", names.join(", "));
    (!names.is_empty()).then(line)
}

/// The sums that rows are taken from.
struct Counts {
    sums: Value,
    /// Seconds to divide by, for rates.
    seconds: Option<f64>,
}

/// A line of a section: its name, its number with the unit, and its share.
type Line = (String, String, String);

impl Counts {
    fn new(period: &Period) -> Self {
        let mut sums = Map::new();
        sums.insert("fronts".to_owned(), period.fronts());
        sums.insert("workers".to_owned(), period.workers());
        sums.insert("interfaces".to_owned(), period.interfaces());
        for (name, value) in period.document.as_object().into_iter().flatten() {
            if value.is_object() {
                sums.insert(name.clone(), value.clone());
            }
        }
        Self {
            sums: Value::Object(sums),
            seconds: (!period.is_since_start).then_some(period.seconds),
        }
    }

    fn get(&self, pointer: &str) -> u64 {
        let value = self.sums.pointer(pointer);
        value.and_then(Value::as_u64).unwrap_or_default()
    }

    /// The sections that have a row that is not zero.
    fn sections(&self, sections: &'static [Section]) -> impl Iterator<Item = String> {
        sections.iter().filter_map(|section| self.section(section))
    }

    fn section(&self, section: &Section) -> Option<String> {
        let mut parts = Vec::new();
        let mut others = Vec::new();
        let mut dates: Vec<Line> = Vec::new();
        for row in section.rows {
            match row {
                Row::Part(pointer, words) => {
                    parts.push((pointer, words.to_string(), self.get(pointer)))
                }
                Row::Other(pointer, words) => {
                    others.push((pointer, words.to_string(), self.get(pointer)))
                }
                Row::Parts(pointer) => {
                    let each = each(self.sums.pointer(pointer));
                    parts.extend(each.map(|count| (pointer, count.name, count.count)));
                }
                Row::Date(pointer, words) => {
                    let date = date(self.get(pointer));
                    dates.extend(date.map(|date| (words.to_string(), date, String::new())));
                }
            }
        }
        let whole: u64 = parts.iter().map(|(_, _, count)| count).sum();
        let part = |(pointer, words, count): (&&str, String, u64)| {
            let share = percent(count, whole).unwrap_or_default();
            (words, self.number(pointer, count), share)
        };
        let other = |(pointer, words, count): (&&str, String, u64)| {
            (words, self.number(pointer, count), String::new())
        };
        let is_used = |(_, _, count): &(&&str, String, u64)| *count > 0;
        let lines: Vec<Line> = parts
            .into_iter()
            .filter(is_used)
            .map(part)
            .chain(others.into_iter().filter(is_used).map(other))
            .chain(dates)
            .collect();
        let total = (whole > 0).then(|| self.number("/count", whole));
        (!lines.is_empty()).then(|| write(section.title, total.unwrap_or_default(), &lines))
    }

    /// A count as it is or as a rate, a state as it is.
    fn number(&self, pointer: &str, count: u64) -> String {
        let is_count = pointer.split('/').all(is_count);
        match self.seconds {
            None => grouped(count),
            Some(seconds) if is_count && seconds > 0.0 => {
                format!("{}/s", rate(count as f64 / seconds))
            }
            Some(_) => format!("{}  ", grouped(count)),
        }
    }

    /// What no section lists.
    fn rest(&self) -> Option<String> {
        let mut listed: BTreeSet<String> =
            OTHERWISE.iter().map(|name| (*name).to_owned()).collect();
        for row in BEGINNING.iter().chain(END).flat_map(|section| section.rows) {
            let (Row::Part(pointer, _)
            | Row::Other(pointer, _)
            | Row::Parts(pointer)
            | Row::Date(pointer, _)) = row;
            listed.insert((*pointer).to_owned());
            // What workers or sockets count is also in the sum of all.
            for part in ["/workers", "/sockets"] {
                let of_fronts = pointer
                    .strip_prefix(part)
                    .map(|rest| format!("/fronts{rest}"));
                listed.extend(of_fronts);
            }
        }
        let mut lines = Vec::new();
        self.unlisted("", &self.sums, &listed, &mut lines);
        (!lines.is_empty()).then(|| write("OTHER", String::new(), &lines))
    }

    fn unlisted(&self, at: &str, value: &Value, listed: &BTreeSet<String>, into: &mut Vec<Line>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let pointer = format!("{at}/{name}");
            if listed.contains(&pointer) {
                continue;
            }
            if let Some(count) = value.as_u64().filter(|count| *count > 0) {
                let words = pointer.trim_start_matches("/fronts");
                let words = words.trim_start_matches('/').replace(['_', '/'], " ");
                into.push((clean(&words), self.number(&pointer, count), String::new()));
            }
            self.unlisted(&pointer, value, listed, into);
        }
    }
}

/// What is shown otherwise, or means nothing as a sum.
const OTHERWISE: [&str; 14] = [
    // In the sum of all fronts.
    "/workers",
    "/sockets",
    "/tier/types",
    "/tier/rcodes",
    "/fronts/worker",
    "/fronts/queue",
    "/fronts/cpu",
    "/interfaces/program_id",
    "/build",
    "/latency",
    "/popular",
    "/process/cpu_seconds",
    "/process/resident_bytes",
    "/upstreams",
];

/// Counts of an object that are not zero, the highest first, their names in capitals.
fn each(value: Option<&Value>) -> impl Iterator<Item = Count> {
    let fields = value.and_then(Value::as_object);
    let count = |(name, count): (&String, &Value)| Count {
        name: clean(&name.to_uppercase()),
        count: count.as_u64().unwrap_or_default(),
    };
    let mut counts: Vec<_> = fields.into_iter().flatten().map(count).collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.count));
    counts.into_iter()
}

/// A date in seconds since 1970; `None` if there is none.
fn date(seconds: u64) -> Option<String> {
    /// The first second of the year 10000, which the format does not have.
    const END: u64 = 253_402_300_800;
    let is_date = (1..END).contains(&seconds);
    is_date.then(|| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// A section's lines, in columns that are the same for all sections.
fn write(title: &str, total: String, lines: &[Line]) -> String {
    let mut text = format!("{title:<38}{total:>16}").trim_end().to_owned() + "\n";
    for (words, number, share) in lines {
        let line = format!("  {:<36}{number:>16}{share:>10}", fit(words, 36));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
