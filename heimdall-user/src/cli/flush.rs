//! `heimdall flush`: remove cached answers.

use clap::{Args, Command, CommandFactory, error::ErrorKind};
use serde_json::Value;

use super::{
    Cli,
    args::{ScopeArgs, ServerArgs},
    print,
};
use crate::control::{self, ControlCommand};

const EXAMPLES: &str = "\
Examples:
  heimdall flush www.example.com
  heimdall flush --zone example.com
  heimdall flush --all

It removes the answers from every cache: those of the queues, of the sockets, and of the forwarder, where
failures and stale answers are removed, too. It prints how many there were; an answer in several
caches counts several times. Queries are answered meanwhile.";

/// Remove cached answers: of a name, of a zone, or all
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Flush {
    #[command(flatten)]
    answers: ScopeArgs,

    #[command(flatten)]
    server: ServerArgs,
}

impl Flush {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let Some(scope) = self.answers.scope() else {
            let message = "give a NAME, --zone ZONE or --all";
            let mut cli = Cli::command();
            cli.build();
            let flush = cli.find_subcommand_mut("flush");
            let error =
                |command: &mut Command| command.error(ErrorKind::MissingRequiredArgument, message);
            flush
                .map_or_else(|| error(&mut Cli::command()), error)
                .exit();
        };
        let outcome = control::ask(&self.server.path()?, &ControlCommand::Flush(scope))?;
        let count = outcome.get("flushed").and_then(Value::as_u64);
        print(&format!("{} answers flushed\n", count.unwrap_or_default()))
    }
}
