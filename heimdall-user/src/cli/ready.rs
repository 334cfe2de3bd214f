//! `heimdall ready`: whether a running server can answer queries.

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::{args::ServerArgs, print};
use crate::control::{self, ControlCommand};

const EXAMPLES: &str = "\
Examples:
  heimdall ready
  heimdall ready || echo \"take this host out of the load balancer\"

For the checks of load balancers. A server is ready if no thread that all queries need has ended or is
stuck, and one of the upstreams that most queries need works: the same as the status page's /readyz. Service addresses ([anycast])
are announced under further conditions; `heimdall stats` says whether they are.
Do not restart the server by it: it is not ready, either, while its upstreams do not respond; `WatchdogSec=` in the systemd unit
restarts one that is stuck.
Exit code 0: it is ready. 1: it is not, or none answers within 3 s; a line on stderr says why.";

/// Tell whether the running server can answer queries
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ready {
    #[command(flatten)]
    server: ServerArgs,
}

impl Ready {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let answer = control::ask(&self.server.path()?, &ControlCommand::Ready)?;
        if answer.get("ready") == Some(&Value::Bool(true)) {
            return print("ready\n");
        }
        match answer.get("reason").and_then(Value::as_str) {
            Some(reason) => bail!("the server is not ready: {reason}"),
            None => bail!("the server is not ready"),
        }
    }
}
