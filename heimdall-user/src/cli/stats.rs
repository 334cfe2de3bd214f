//! `heimdall stats`: the running server's counters, as text or as JSON.

use clap::Args;
use serde_json::{Map, Value};

use super::{args::ServerArgs, print, table::Table};
use crate::control::{self, ControlCommand};

const EXAMPLES: &str = "\
Examples:
  heimdall stats
  heimdall stats --json | jq '.workers[] | {queue, hits, misses}'
  heimdall stats --control /run/heimdall/control.sock

Counts are since the server's start. The text leaves out zeros where it lists reasons, types and the
like; the JSON has every field.";

/// Show the running server's counters
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stats {
    #[command(flatten)]
    server: ServerArgs,

    /// Print the JSON document instead of text
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let path = self.server.path()?;
        let stats = control::ask(&path, &ControlCommand::Stats)?;
        let text = if self.json {
            let mut text = serde_json::to_string_pretty(&stats)?;
            text.push('\n');
            text
        } else {
            render(&stats)
        };
        print(&text)
    }
}

/// The document as text: lists as tables, objects as names and values.
fn render(stats: &Value) -> String {
    let mut text = String::new();
    for (title, value) in stats.as_object().into_iter().flatten() {
        let section = match value {
            Value::Array(items) if items.is_empty() => continue,
            Value::Array(items) => list(items),
            Value::Object(fields) => object(fields),
            value => {
                text.push_str(&format!("{title}: {}\n", scalar(value)));
                continue;
            }
        };
        text.push_str(&format!("\n{}\n{section}", title.to_uppercase()));
    }
    text
}

/// A row for each item, and below it its nested counts, a line each.
fn list(items: &[Value]) -> String {
    let mut table = Table::default();
    let mut details = Vec::new();
    for item in items.iter().filter_map(Value::as_object) {
        if details.is_empty() {
            table.row(
                item.iter()
                    .filter(|(_, value)| !value.is_object())
                    .map(|(key, _)| key.clone()),
            );
        }
        table.row(item.values().filter(|value| !value.is_object()).map(scalar));
        details.push(parts(item, "    "));
    }
    // The table's lines are its head and one for each item.
    let lines = table.to_string();
    let mut lines = lines.lines();
    let mut text = format!("  {}\n", lines.next().unwrap_or_default());
    for (line, details) in lines.zip(details) {
        text.push_str(&format!("  {line}\n{details}"));
    }
    text
}

/// Names and values, then the nested counts.
fn object(fields: &Map<String, Value>) -> String {
    let mut table = Table::default();
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_object()) {
        table.row([format!("  {key}"), scalar(value)]);
    }
    format!("{table}{}", parts(fields, "  "))
}

/// The counts of each nested object that are not zero, one line for each object that has any.
fn parts(fields: &Map<String, Value>, indent: &str) -> String {
    let mut text = String::new();
    for (key, value) in fields {
        let Some(counts) = value.as_object() else {
            continue;
        };
        let counts: Vec<String> = counts
            .iter()
            .filter(|(_, count)| count.as_u64() != Some(0))
            .map(|(name, count)| format!("{name} {}", scalar(count)))
            .collect();
        if !counts.is_empty() {
            text.push_str(&format!("{indent}{key}: {}\n", counts.join(", ")));
        }
    }
    text
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_tables_and_zeros_are_left_out() {
        let stats = json!({
            "backend": "xdp",
            "interfaces": [
                { "name": "veth0", "attach": "native", "program_id": 12, "verdicts": { "steered": 7, "not_ip": 0 } },
            ],
            "workers": [
                { "interface": "veth0", "queue": 0, "mode": "copy", "received": 1000, "dropped": { "runt": 0 } },
                { "interface": "veth0", "queue": 10, "mode": "copy", "received": 5, "dropped": { "runt": 2, "bad_checksum": 1 } },
            ],
            "sockets": { "udp_received": 3, "dropped": {} },
        });
        let text = "\
backend: xdp

INTERFACES
  name   attach  program_id
  veth0  native          12
    verdicts: steered 7

WORKERS
  interface  queue  mode  received
  veth0          0  copy      1000
  veth0         10  copy         5
    dropped: runt 2, bad_checksum 1

SOCKETS
  udp_received  3
";
        assert_eq!(render(&stats), text);
    }
}
