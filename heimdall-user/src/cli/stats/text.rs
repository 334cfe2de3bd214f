//! A period as text: sections of aligned rows, and tables.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::sections::{BEGINNING, END, Row, Section};
use crate::cli::{
    table::Table,
    view::{
        Count, Front, Latency, Period, View,
        format::{clean, fit, grouped, micros, octets, percent, rate, seconds, span},
        is_count,
    },
};

/// Rows of a list of popular names.
const POPULAR: usize = 10;

/// The longest name in a table.
const NAME_WIDTH: usize = 60;

/// The period's counts, if it is the time since the start, or else its rates.
pub(super) fn render(period: &Period) -> String {
    let view = View::new(period);
    let counts = Counts::new(period);
    let mut blocks = vec![head(&view)];
    blocks.extend(counts.sections(BEGINNING));
    blocks.extend(tables(&view));
    blocks.extend(counts.sections(END));
    blocks.extend(counts.rest());
    blocks.join("\n")
}

fn head(view: &View) -> String {
    let mut facts = vec![view.server.clone(), format!("backend {}", view.backend)];
    facts.extend(view.pid.map(|pid| format!("pid {pid}")));
    facts.push(format!("up {}", span(view.uptime)));
    let cpu = view.cpu_seconds.filter(|_| view.seconds > 0.0);
    facts.extend(cpu.map(|cpu| format!("{:.1} % of a core", cpu / view.seconds * 100.0)));
    facts.extend(view.memory.map(octets));
    let what = if view.is_since_start {
        "Counts since the start.".to_owned()
    } else {
        format!("Rates over {}.", seconds(view.seconds))
    };
    format!("{}\n{what}\n", facts.join(", "))
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
            let (Row::Part(pointer, _) | Row::Other(pointer, _) | Row::Parts(pointer)) = row;
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
const OTHERWISE: [&str; 11] = [
    // In the sum of all fronts.
    "/workers",
    "/sockets",
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

fn tables(view: &View) -> Vec<String> {
    let mut tables = Vec::new();
    tables.extend(latency(view));
    tables.extend(upstreams(view));
    tables.extend(interfaces(view));
    tables.push(titled("QUEUES AND SOCKETS", &fronts(view)));
    if let Some(popular) = &view.popular {
        let lists = [
            ("NAMES", &popular.names),
            ("TYPES ASKED", &popular.types),
            ("CLIENTS", &popular.clients),
        ];
        for (title, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            let mut table = Table::default();
            for one in list.iter().take(POPULAR) {
                let share = percent(one.count, popular.queries).unwrap_or_default();
                table.row([fit(&one.name, NAME_WIDTH), share]);
            }
            let title = format!("POPULAR {title} OF THE LAST MINUTES");
            tables.push(titled(&title, &table));
        }
    }
    tables
}

fn titled(title: &str, table: &Table) -> String {
    let mut text = format!("{title}\n");
    for line in table.to_string().lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

fn row<const N: usize>(table: &mut Table, cells: [&str; N]) {
    table.row(cells.map(str::to_owned));
}

/// A value that may be unknown.
fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn latency(view: &View) -> Option<String> {
    let mut of: Vec<(String, &Latency)> = Vec::new();
    of.extend(
        view.latency_of_hits
            .iter()
            .map(|latency| ("hits".to_owned(), latency)),
    );
    of.extend(
        view.latency_of_misses
            .iter()
            .map(|latency| ("misses".to_owned(), latency)),
    );
    for upstream in &view.upstreams {
        of.extend(
            upstream
                .latency
                .iter()
                .map(|latency| (upstream.address.clone(), latency)),
        );
    }
    of.retain(|(_, latency)| **latency != Latency::default());
    let mut table = Table::default();
    row(
        &mut table,
        ["of", "mean", "p50", "p90", "p99", "p99.9", "max"],
    );
    for (name, latency) in &of {
        let values = latency.list().map(|(_, value)| known(value.map(micros)));
        table.row([name.clone()].into_iter().chain(values));
    }
    (!of.is_empty()).then(|| titled("LATENCY", &table))
}

fn upstreams(view: &View) -> Option<String> {
    let mut table = Table::default();
    let unit = if view.is_since_start { "" } else { "/s" };
    let [queries, timeouts, errors] =
        ["queries", "timeouts", "errors"].map(|what| format!("{what}{unit}"));
    row(
        &mut table,
        [
            "upstream",
            "state",
            "RTT",
            "in flight",
            &queries,
            &timeouts,
            &errors,
        ],
    );
    for upstream in &view.upstreams {
        table.row([
            upstream.address.clone(),
            upstream.state.clone(),
            known(upstream.rtt_us.map(micros)),
            grouped(upstream.in_flight),
            number(view, upstream.queries),
            number(view, upstream.timeouts),
            number(view, upstream.errors),
        ]);
    }
    (!view.upstreams.is_empty()).then(|| titled("UPSTREAMS", &table))
}

fn interfaces(view: &View) -> Option<String> {
    let mut table = Table::default();
    row(&mut table, ["interface", "state", "XDP", "why"]);
    for interface in &view.interfaces {
        table.row([
            interface.name.clone(),
            interface.state.clone(),
            known(interface.attach.clone()),
            interface.reason.clone().unwrap_or_default(),
        ]);
    }
    (!view.interfaces.is_empty()).then(|| titled("INTERFACES", &table))
}

fn fronts(view: &View) -> Table {
    let mut table = Table::default();
    let unit = if view.is_since_start { "" } else { "/s" };
    let [queries, replies, dropped, lost] =
        ["queries", "replies", "dropped", "lost"].map(|what| format!("{what}{unit}"));
    row(
        &mut table,
        [
            "queue", "core", "mode", "state", &queries, &replies, "hits", &dropped, &lost,
            "waiting", "why",
        ],
    );
    for front in &view.fronts {
        table.row([
            front.name.clone(),
            known(front.core.map(|core| core.to_string())),
            front.mode.clone(),
            front.state.clone(),
            number(view, front.queries.all()),
            number(view, front.replies.all()),
            hits(front),
            number(view, front.dropped),
            number(view, front.lost),
            grouped(front.waiting),
            front.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn hits(front: &Front) -> String {
    known(percent(front.hits, front.hits + front.misses))
}

/// A count, or its rate.
fn number(view: &View, count: u64) -> String {
    if view.is_since_start {
        grouped(count)
    } else {
        rate(view.rate(count))
    }
}
