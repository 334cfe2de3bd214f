//! `heimdall drain`: end a running server as TERM does, and wait for it.

use anyhow::ensure;
use clap::Args;

use super::{args::ServerArgs, print};
use crate::control::{self, ControlCommand};

const EXAMPLES: &str = "\
Examples:
  heimdall drain
  heimdall drain --control /run/heimdall/control.sock && systemctl status heimdall

Packets pass to the kernel's stack from then on, queries that were received are answered, TCP connections are closed when
their replies were sent, and the process ends: all within `stop-timeout`. The command returns when that is done. A service
manager sees an end with exit code 0, after which it does not start the server again (a socket unit does with the next query).
It is for root and the server's user; the group of the control socket may not end the server. To replace a server by another one,
restart the service, or start the other one with `heimdall run --take-over`.
If another process was taking over, that serves on, and the command says which.
Exit code 0: it has drained. 1: no server runs, or it ended in another way.";

/// End the running server: answer what waits, and stop
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Drain {
    #[command(flatten)]
    server: ServerArgs,
}

impl Drain {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let answer = control::ask(&self.server.path()?, &ControlCommand::Drain)?;
        ensure!(
            answer.get("drained").is_some(),
            "the server ended before all was drained; see its log"
        );
        match answer.get("successor") {
            Some(pid) => print(&format!(
                "drained; process {pid}, which was taking over, serves on\n"
            )),
            None => print("drained\n"),
        }
    }
}
