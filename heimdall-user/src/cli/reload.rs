//! `heimdall reload`: apply changes of the policy without a restart.

use clap::Args;
use serde_json::Value;

use super::{args::ServerArgs, print};
use crate::control::{self, ControlCommand};

const EXAMPLES: &str = "\
Examples:
  heimdall check --config /etc/heimdall/heimdall.toml && heimdall reload
  kill -HUP PID       the same, with the outcome in the server's log

It reads the settings again, from the file and flags that the server was started with, and the files that
they name, and applies changes of the tables that docs/settings.md marks with `reload`: access, limits,
cookies, identity, local data and blocklists. Queries are answered under the old policy until the new one
is ready; if it has an error, the old one stays. Other settings that changed need a restart, and are
named. Exit code 0: the new policy is in use. 1: it is not, and a line on stderr says why.";

/// Apply changes of the policy: access, limits, cookies, local data, blocklists
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Reload {
    #[command(flatten)]
    server: ServerArgs,
}

impl Reload {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let outcome = control::ask(&self.server.path()?, &ControlCommand::Reload)?;
        let done = outcome.get("reloaded").and_then(Value::as_str);
        print(&format!("{}\n", done.unwrap_or("reloaded")))
    }
}
