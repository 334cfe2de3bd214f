//! `heimdall dump`: the cached answers, as text or as JSON.

use std::{
    io::{self, BufWriter, ErrorKind, Write},
    sync::mpsc::channel,
    thread,
};

use anyhow::anyhow;
use clap::Args;
use serde_json::Value;

use super::{
    args::{ScopeArgs, ServerArgs},
    printed,
};
use crate::{
    control::{self, ControlCommand, ControlError},
    maintenance::Scope,
};

const EXAMPLES: &str = "\
Examples:
  heimdall dump www.example.com
  heimdall dump --zone example.com
  heimdall dump --json | jq -r 'select(.type == \"AAAA\") | .name'

Above the records of each answer is a line with its question, its response code, the seconds until it
expires (negative: it is stale, and kept in case that no upstream answers), and the cache that it is
in: `forwarder`, `sockets`, or a queue like eth0:0. The same answer may be in several. `hot tier` behind
it says that the XDP program has an answer to the question, too. With --json each answer is one object on
a line of its own.";

/// Show the cached answers: of a name, of a zone, or all
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Dump {
    #[command(flatten)]
    answers: ScopeArgs,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerArgs,
}

impl Dump {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let request = ControlCommand::Dump(self.answers.scope().unwrap_or(Scope::All));
        let path = self.server.path()?;
        // The server closes the connection to a slow reader, so its output is buffered here.
        let (to, documents) = channel();
        let connection = thread::spawn(move || {
            control::ask_each(&path, &request, |document| {
                to.send(document).map_err(|_| ErrorKind::BrokenPipe.into())
            })
        });
        let mut end = None;
        let mut out = BufWriter::new(io::stdout().lock());
        for document in documents {
            if let Some(entries) = document.get("entries") {
                end = entries.as_u64();
                break;
            }
            let written = if self.json {
                writeln!(out, "{document}")
            } else {
                out.write_all(text(&document).as_bytes())
            };
            match written {
                // The reader has closed the pipe.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => printed(written)?,
            }
        }
        printed(out.flush())?;
        let connection = connection
            .join()
            .map_err(|_| anyhow!("the thread that reads from the server panicked"))?;
        match connection {
            // In the middle of an entry, or between two.
            Err(ControlError::Ask { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => {}
            Ok(()) if end.is_some() => return Ok(()),
            Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        Err(anyhow!(
            "the server closed the connection before the dump was complete; it does so if it stops, or \
             if its output is not read for half a second"
        ))
    }
}

/// An entry as a line of comment and its records.
fn text(entry: &Value) -> String {
    let word = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("?");
    let number = |key: &str| entry.get(key).and_then(Value::as_i64).unwrap_or_default();
    let list = |key: &str| {
        let items = entry
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        items.filter_map(Value::as_str)
    };
    let mut text = format!("; {} {} {}", word("name"), word("class"), word("type"));
    for flag in list("flags") {
        text.push_str(&format!(" +{flag}"));
    }
    let in_tier = entry.get("tier").and_then(Value::as_bool);
    text.push_str(&format!(
        ": {}, {} s left, in {}{}\n",
        word("rcode"),
        number("ttl"),
        word("cache"),
        if in_tier == Some(true) {
            ", hot tier"
        } else {
            ""
        }
    ));
    for record in list("records") {
        text.push_str(&format!("{record}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_reads_like_a_zone_file() {
        let entry = json!({
            "cache": "forwarder", "name": "example.com.", "class": "IN", "type": "A",
            "flags": ["DO"], "rcode": "NOERROR", "ttl": -3, "records": ["a", "b"],
        });
        let expected = "; example.com. IN A +DO: NOERROR, -3 s left, in forwarder\na\nb\n";
        assert_eq!(text(&entry), expected);
        let entry = json!({
            "cache": "eth0:0", "name": "example.com.", "class": "IN", "type": "A", "flags": [],
            "rcode": "NOERROR", "ttl": 9, "tier": true, "records": [],
        });
        let expected = "; example.com. IN A: NOERROR, 9 s left, in eth0:0, hot tier\n";
        assert_eq!(text(&entry), expected);
    }
}
