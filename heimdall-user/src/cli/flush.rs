//! `heimdall flush`: forget cached answers.

use clap::{Args, CommandFactory, error::ErrorKind};
use serde_json::Value;

use super::{
    Cli,
    ask::{Running, Which},
    print,
};
use crate::control;

const EXAMPLES: &str = "\
Examples:
  heimdall flush www.example.com
  heimdall flush --zone example.com
  heimdall flush --all

It forgets the answers in every cache: those of the queues, the sockets and the forwarder, where
also failures and answers that are kept beyond their life are forgotten. It says how many there
were, each cache's counted for itself. Queries go on being answered meanwhile.";

/// Forget cached answers: of a name, of a zone, or all
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Flush {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    server: Running,
}

impl Flush {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let Some(scope) = self.which.scope() else {
            let message = "give a NAME, --zone ZONE or --all";
            Cli::command()
                .error(ErrorKind::MissingRequiredArgument, message)
                .exit();
        };
        let request = format!("flush {}", control::words(&scope));
        let outcome = control::ask(&self.server.path()?, &request)?;
        let count = outcome.get("flushed").and_then(Value::as_u64);
        print(&format!("{} answers flushed\n", count.unwrap_or_default()))
    }
}
