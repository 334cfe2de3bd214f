//! `heimdall trace`: what a query would get, and why.

use std::net::IpAddr;

use anyhow::anyhow;
use clap::Args;
use serde_json::Value;

use super::{args::ServerArgs, print, view::format::clean};
use crate::control::{self, ControlCommand, TraceQuery};

const EXAMPLES: &str = "\
Examples:
  heimdall trace www.example.com
  heimdall trace www.example.com AAAA --client 192.0.2.7
  heimdall trace --json ads.example | jq -r .verdict

It shows, in the order in which the server decides: access and rate limit, if a client is given; local
data, blocklists and special names, with the line of the file that an answer comes from; the caches'
entries for the name; failures; and which upstream is asked next. The last line is what a query with RD
and without EDNS gets now. Nothing is sent, counted or changed. Queries for names on long lists take
longer, as the lists are read again to find the line.";

/// Explain what a query would get, and why
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Trace {
    /// The queried name
    name: String,

    /// The queried type: A, AAAA, HTTPS and so on, or TYPE and its number
    #[arg(value_name = "TYPE", default_value = "A")]
    qtype: String,

    /// The address of the client that asks; without it, access and rate limit are left out
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerArgs,
}

impl Trace {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let query = TraceQuery::new(&self.name, &self.qtype, self.client);
        let query = query.map_err(|error| anyhow!(error))?;
        let trace = control::ask(&self.server.path()?, &ControlCommand::Trace(query))?;
        print(&match self.json {
            true => format!("{}\n", serde_json::to_string_pretty(&trace)?),
            false => render(&trace),
        })
    }
}

/// A step's name, and beside it its text; the verdict below.
pub(super) fn render(trace: &Value) -> String {
    let word = |value: &Value, key: &str| {
        let word = value.get(key).and_then(Value::as_str);
        clean(word.unwrap_or_default())
    };
    let list = |value: &Value, key: &str| {
        let list = value.get(key).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut text = format!("{} {}", word(trace, "name"), word(trace, "type"));
    match trace.get("client").and_then(Value::as_str) {
        Some(client) => text.push_str(&format!(", asked by {}\n\n", clean(client))),
        None => text.push_str("\n\n"),
    }
    for step in list(trace, "steps") {
        let mut name = word(&step, "step");
        for line in list(&step, "text") {
            let line = clean(line.as_str().unwrap_or_default());
            text.push_str(&format!("  {name:<13}  {line}\n"));
            name.clear();
        }
    }
    format!("{text}\n=> {}\n", word(trace, "verdict"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_have_their_text_beside_them() {
        let trace = json!({
            "name": "www.example.", "type": "A", "client": "192.0.2.7",
            "steps": [
                { "step": "access", "text": ["allowed"], "decision": "allowed" },
                { "step": "cache", "text": ["one", "two"], "entries": [] },
            ],
            "verdict": "NOERROR from the cache of sockets",
        });
        let text = "\
www.example. A, asked by 192.0.2.7

  access         allowed
  cache          one
                 two

=> NOERROR from the cache of sockets
";
        assert_eq!(render(&trace), text);
    }

    #[test]
    fn a_trace_does_not_control_the_terminal() {
        let trace = json!({
            "name": "a\x1b[2J", "type": "A", "client": "\x1b",
            "steps": [{ "step": "ca\x1bche", "text": ["one\ntwo\x1b"] }],
            "verdict": "\x1b[1m",
        });
        let text = render(&trace);
        assert!(text.contains("one\\010two\\027"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}
