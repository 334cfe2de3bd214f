//! `heimdall reload`: take the policy anew, without a pause.

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::{ask::Running, print};
use crate::control;

const EXAMPLES: &str = "\
Examples:
  heimdall check --config /etc/heimdall/heimdall.toml && heimdall reload
  kill -HUP PID       the same, with the outcome in the server's log

Read anew, from the file and flags that the server was started with: [access], [rate-limit],
[cookies], [identity], [local] and [[blocklist]], and the files that they name. Queries are answered
under the old policy until the new one is ready; if it has an error, the old one stays. All other
settings need a restart. Exit code 0: the new policy holds. 1: it does not, and stderr says why.";

/// Read the policy anew: access, limits, cookies, local data, blocklists
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Reload {
    #[command(flatten)]
    server: Running,
}

impl Reload {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let path = self.server.path()?;
        let outcome = control::ask(&path, "reload")?;
        let text = |key: &str| outcome.get(key).and_then(Value::as_str);
        if let Some(why) = text("failed") {
            bail!("not reloaded, the old policy stays: {why}");
        }
        print(&format!("{}\n", text("reloaded").unwrap_or("reloaded")))
    }
}
