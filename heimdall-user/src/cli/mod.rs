//! The command line: one file for each subcommand.
//!
//! Subcommands read flags, call the library and print; they hold no logic of their own. Every error
//! ends here, as one line on stderr. Exit codes: 0 success, 1 failure, 2 wrong usage.

mod args;
mod check;
mod convert;
mod doctor;
#[cfg(test)]
mod documents;
mod drain;
mod dump;
mod flush;
mod ready;
mod reload;
mod route;
mod run;
mod stats;
mod table;
mod top;
mod trace;
mod view;
mod withdraw;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::anyhow;
use clap::{Arg, CommandFactory as _, Parser, Subcommand, ValueHint};

use crate::log;

const EXAMPLES: &str = "\
Examples:
  Answer on kernel sockets, on any machine, without privileges:
    heimdall run --backend socket --listen 127.0.0.1:5300 --upstream 9.9.9.9
  Answer on AF_XDP on all receive queues of eth0, as root:
    heimdall run --interface eth0 --upstream 9.9.9.9 --upstream 149.112.112.112
  Make a settings file, and check it after editing:
    heimdall check --example > heimdall.toml
    heimdall check --config heimdall.toml
  Or make it from the configuration of unbound, dnsmasq or dnsdist:
    heimdall convert /etc/unbound/unbound.conf --output heimdall.toml
  See what on this host slows it down, or keeps it from working:
    heimdall doctor --config heimdall.toml
  Show what the running server does: on the whole screen, or as text:
    heimdall top
    heimdall stats
  Apply changes of its settings without a restart, and see first what they would do:
    heimdall reload --dry-run && heimdall reload
  Have a new program take over from it, without losing a query:
    heimdall run --config heimdall.toml --take-over
  Remove a zone from its caches:
    heimdall flush --zone example.com
  Explain what a client's query gets:
    heimdall trace www.example.com A --client 192.0.2.7
  See which upstream is asked for a name:
    heimdall route www.corp.example

Exit codes: 0 success, 1 failure (a line on stderr says why), 2 wrong usage.";

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
    Convert(convert::Convert),
    Doctor(doctor::Doctor),
    Stats(stats::Stats),
    Top(top::Top),
    Ready(ready::Ready),
    Reload(reload::Reload),
    Drain(drain::Drain),
    Withdraw(withdraw::Withdraw),
    Flush(flush::Flush),
    Dump(dump::Dump),
    Trace(trace::Trace),
    Route(route::Route),
}

/// The definition of the command line, from which man pages and completions are made.
pub fn command() -> clap::Command {
    // Without a hint, shells offer names of files; without the one for files, bash puts a space behind a directory.
    let hinted = |arg: Arg| match arg.get_value_hint() {
        ValueHint::Unknown
            if arg.get_action().takes_values() && arg.get_possible_values().is_empty() =>
        {
            arg.value_hint(ValueHint::Other)
        }
        ValueHint::AnyPath => arg.value_hint(ValueHint::FilePath),
        _ => arg,
    };
    Cli::command().mut_subcommands(|command| command.mut_args(hinted))
}

/// Runs the command that the process's arguments give.
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse().map(|cli| cli.command) {
        Ok(Command::Run(run)) => run.execute(),
        Ok(Command::Check(check)) => check.execute(),
        Ok(Command::Convert(convert)) => convert.execute(),
        // Its exit codes tell what it found.
        Ok(Command::Doctor(doctor)) => return doctor.execute(),
        Ok(Command::Stats(stats)) => stats.execute(),
        Ok(Command::Top(top)) => top.execute(),
        Ok(Command::Ready(ready)) => ready.execute(),
        Ok(Command::Reload(reload)) => reload.execute(),
        Ok(Command::Drain(drain)) => drain.execute(),
        Ok(Command::Withdraw(withdraw)) => withdraw.execute(),
        Ok(Command::Flush(flush)) => flush.execute(),
        Ok(Command::Dump(dump)) => dump.execute(),
        Ok(Command::Trace(trace)) => trace.execute(),
        Ok(Command::Route(route)) => route.execute(),
        // Wrong usage ends here, with exit code 2.
        Err(wrong) if wrong.use_stderr() => wrong.exit(),
        // The help, or the version.
        Err(help) => printed(help.print().and_then(|()| io::stdout().flush())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The library's errors name their causes in the same line.
            log::print_error(&format!("heimdall: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints to stdout. A closed pipe (`heimdall stats | head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The outcome of a command whose write to stdout had this outcome.
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
    #![allow(clippy::unwrap_used)]

    use super::command;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_says_what_a_reload_applies() {
        let mut command = command();
        let reload = command.find_subcommand_mut("reload").unwrap();
        let long = reload.render_help().to_string();
        for what in [
            "in place",
            "access",
            "routes",
            "take-over",
            "addresses",
            "restart",
        ] {
            assert!(
                long.split("Examples:").nth(1).unwrap().contains(what),
                "{long}"
            );
        }
    }
}
