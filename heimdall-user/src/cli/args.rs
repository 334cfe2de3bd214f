//! Arguments of the subcommands that talk to a running server.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    config::{Problem, default_control},
    maintenance::{BadName, Scope},
};

/// The server to talk to.
#[derive(Args, Debug)]
pub(super) struct ServerArgs {
    /// The server's control socket [default: /run/heimdall/control.sock for root, otherwise
    /// $XDG_RUNTIME_DIR/heimdall.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl ServerArgs {
    /// The path of its control socket.
    pub(super) fn path(self) -> Result<PathBuf, Problem> {
        self.control
            .or_else(default_control)
            .ok_or(Problem::NoControl)
    }
}

/// A time: seconds, or a number with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(number.len()..).unwrap_or_default() {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("give seconds, or a number with ms, s, min or h".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "give seconds, or a number with ms, s, min or h".to_owned())?;
    let seconds = number * unit;
    if (0.1..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("give a time from 100 ms to 24 h".to_owned())
    }
}

/// The cached answers that a command is about.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(super) struct ScopeArgs {
    /// Answers for this name, of all types
    #[arg(value_parser = name)]
    name: Option<Scope>,

    /// Answers for this name and all names below it
    #[arg(long, value_parser = zone)]
    zone: Option<Scope>,

    /// All answers
    #[arg(long)]
    all: bool,
}

fn name(text: &str) -> Result<Scope, BadName> {
    Scope::name(text)
}

fn zone(text: &str) -> Result<Scope, BadName> {
    Scope::zone(text)
}

impl ScopeArgs {
    /// The scope, if one is given.
    pub(super) fn scope(self) -> Option<Scope> {
        let all = self.all.then_some(Scope::All);
        self.name.or(self.zone).or(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        for (text, milliseconds) in [("2", 2000), ("0.5s", 500), ("100ms", 100), ("1min", 60_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["", "s", "0", "-1", "1 s", "25h", "10d", "inf", "NaN"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
