//! `heimdall reload`: apply changes of the settings without a restart.

use clap::Args;
use serde_json::Value;

use super::{args::ServerArgs, print};
use crate::control::{self, ControlCommand};

const EXAMPLES: &str = "\
Examples:
  heimdall reload --dry-run           what would change, and how; nothing is changed
  heimdall reload
  heimdall reload --dry-run --json | jq -r '.changes[] | select(.applied == \"restart\") | .key'
  kill -HUP PID                       the same, with the outcome in the server's log

It reads the settings again, from the file and flags that the server was started with, and the files that
they name. Each change is applied in one of three ways, which docs/settings.md tells of each key:

  in place    the running server changes it: access, limits, local data, blocklists, routes and upstreams,
              the certificate of TLS, the log level
  take-over   another server in the same process starts with the new settings and takes over from the
              running one: addresses, interfaces, caches, threads, and all others
  restart     not at all: the control socket and the format of the log. The old value stays

No query is lost, and if anything fails nothing has changed. After a take-over the statistics begin at
zero. Exit code 0: the new settings are in use, except for those that need a restart. 1: they are not, or
the certificate is not, and a line on stderr says why. With --dry-run 1 means that a reload would fail.

Lines that begin with \"warning: \" say which of the settings have no effect, or may not do what was meant;
heimdall check says the same.";

/// Apply changes of the settings without a restart
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Reload {
    #[command(flatten)]
    server: ServerArgs,

    /// Say what differs from the settings in force and how it would be applied, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print the JSON document instead of text
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let dry_run = self.dry_run;
        let outcome = control::ask(&self.server.path()?, &ControlCommand::Reload { dry_run })?;
        print(&match self.json {
            true => format!("{outcome}\n"),
            false => describe(&outcome),
        })
    }
}

/// What was done or would be done, then each change and each warning.
fn describe(outcome: &Value) -> String {
    let text = |value: &Value, field: &str| {
        let text = value.get(field).and_then(Value::as_str);
        text.map(str::to_owned)
    };
    let done = text(outcome, "reloaded").or_else(|| text(outcome, "dry_run"));
    let mut lines = done.unwrap_or_default() + "\n";
    let changes = outcome.get("changes").and_then(Value::as_array);
    for change in changes.into_iter().flatten() {
        let [text, applied] = ["text", "applied"].map(|field| text(change, field));
        let (text, applied) = (text.unwrap_or_default(), applied.unwrap_or_default());
        lines.push_str(&format!("  {text} ({applied})\n"));
    }
    let warnings = outcome.get("warnings").and_then(Value::as_array);
    let warnings = warnings.into_iter().flatten().filter_map(Value::as_str);
    for warning in warnings {
        lines.push_str(&format!("warning: {warning}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_change_and_each_warning_is_a_line() {
        let outcome = json!({
            "reloaded": "reloaded: …",
            "changes": [
                { "key": "listen", "text": "listen: [] -> [\"[::]:53\"]", "applied": "take-over" },
                { "key": "log.format", "text": "log.format: \"text\" -> \"json\"", "applied": "restart" },
            ],
            "warnings": ["forward.hedge: …", "[access]: …"],
        });
        assert_eq!(
            describe(&outcome),
            "reloaded: …\n  listen: [] -> [\"[::]:53\"] (take-over)\n  log.format: \"text\" -> \"json\" (restart)\n\
             warning: forward.hedge: …\nwarning: [access]: …\n"
        );
        assert_eq!(
            describe(&json!({ "dry_run": "nothing would change", "changes": [] })),
            "nothing would change\n"
        );
    }
}
