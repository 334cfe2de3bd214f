//! The command line: one file a subcommand.
//!
//! Subcommands read flags, call the library and print; they hold no logic of their own. What goes
//! wrong ends here, as one line on stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod ask;
mod check;
mod dump;
mod flush;
mod reload;
mod run;
mod stats;
mod table;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::anyhow;
use clap::{Parser, Subcommand};

use crate::log;

const EXAMPLES: &str = "\
Examples:
  Answer on kernel sockets, on any machine, without privileges:
    heimdall run --backend socket --listen 127.0.0.1:5300 --upstream 9.9.9.9
  Answer on AF_XDP on all receive queues of eth0, as root:
    heimdall run --interface eth0 --upstream 9.9.9.9 --upstream 149.112.112.112
  See whether a file is good, and what it means:
    heimdall check --config /etc/heimdall/heimdall.toml
  Look into the running server:
    heimdall stats
  Give it new rules without a pause:
    heimdall reload
  Have it forget what it knows of a zone:
    heimdall flush --zone example.com";

/// A DNS caching front on AF_XDP.
#[derive(Debug, Parser)]
#[command(name = "heimdall", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Stats(stats::Stats),
    Reload(reload::Reload),
    Flush(flush::Flush),
    Dump(dump::Dump),
}

/// Runs the command that the process was given.
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse().map(|cli| cli.command) {
        Ok(Command::Run(run)) => run.execute(),
        Ok(Command::Check(check)) => check.execute(),
        Ok(Command::Stats(stats)) => stats.execute(),
        Ok(Command::Reload(reload)) => reload.execute(),
        Ok(Command::Flush(flush)) => flush.execute(),
        Ok(Command::Dump(dump)) => dump.execute(),
        // Wrong usage ends here, with exit code 2.
        Err(wrong) if wrong.use_stderr() => wrong.exit(),
        // The help, or the version.
        Err(asked) => printed(asked.print().and_then(|()| io::stdout().flush())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every error of the library says in its own line what caused it.
            log::print_error(&format!("heimdall: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints to stdout. A reader that has seen enough (`heimdall stats | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What a write to stdout that failed means for the command.
fn printed(outcome: io::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow!("cannot write the output: {error}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
