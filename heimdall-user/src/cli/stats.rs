//! `heimdall stats`: what the running server counts, as text or as JSON, once or again and again.

mod sections;
mod tables;
mod text;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{anyhow, bail};
use clap::{Args, ValueHint};

use super::{
    args::{ServerArgs, duration},
    print,
    view::Reading,
};

const EXAMPLES: &str = "\
Examples:
  heimdall stats                      counts since the server's start
  heimdall stats --since 10s          rates, measured for ten seconds
  heimdall stats --watch              rates each second, until Ctrl-C
  heimdall stats --watch 60 >> log    a line each minute
  heimdall stats --json | jq '.workers[] | {worker, hits, misses}'
  heimdall stats --json > before.json; …; heimdall stats --since before.json

Text leaves out what is zero; the JSON document has every field, and docs/stats.md its schema. Rates are
a second's; latencies are those of the same time, popular names those of the last minutes. `heimdall top`
shows the same on a whole screen.";

/// Show the running server's counts and rates
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stats {
    #[command(flatten)]
    server: ServerArgs,

    /// Print the JSON document instead of text
    #[arg(long, conflicts_with_all = ["watch", "since"])]
    json: bool,

    /// Print rates, measured from now on for TIME (10, 500ms, 2min), or since FILE was saved by `stats --json`
    #[arg(long, value_name = "TIME|FILE", value_parser = since, value_hint = ValueHint::FilePath)]
    since: Option<Since>,

    /// Print rates again and again, each time of the SECONDS before [default: 1]: on a terminal all of
    /// them, elsewhere a line
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
        value_parser = duration, conflicts_with = "since")]
    watch: Option<Duration>,
}

/// The beginning of a measurement.
#[derive(Clone, Debug)]
enum Since {
    Now(Duration),
    File(PathBuf),
}

/// A number, or one with a unit, is a time; a file of such a name is `./10`.
fn since(text: &str) -> Result<Since, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if number.parse::<f64>().is_ok() {
        duration(text).map(Since::Now)
    } else {
        Ok(Since::File(text.into()))
    }
}

impl Stats {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let path = self.server.path()?;
        if let Some(interval) = self.watch {
            return watch::watch(&path, interval);
        }
        let before = match &self.since {
            None => None,
            Some(Since::Now(duration)) => {
                let reading = Reading::ask(&path)?;
                thread::sleep(*duration);
                Some(reading)
            }
            Some(Since::File(file)) => Some(read(file)?),
        };
        let now = Reading::ask(&path)?;
        if self.json {
            let document = serde_json::to_string_pretty(now.document())?;
            return print(&(document + "\n"));
        }
        if before.as_ref().is_some_and(|before| !now.continues(before)) {
            match self.since {
                Some(Since::File(file)) => bail!(
                    "the server has been started since {} was saved, or it is another one: there is nothing to compare",
                    file.display()
                ),
                _ => bail!("the server was started again meanwhile; measure again"),
            }
        }
        print(&text::render(&now.since(before.as_ref())))
    }
}

/// A document that was saved.
fn read(file: &Path) -> anyhow::Result<Reading> {
    let text =
        fs::read(file).map_err(|error| anyhow!("cannot read {}: {error}", file.display()))?;
    let reading = serde_json::from_slice(&text).ok().map(Reading::new);
    match reading.filter(|reading| reading.uptime().is_some()) {
        Some(reading) => Ok(reading),
        None => bail!(
            "{} is no document of a server; save one with `heimdall stats --json`",
            file.display()
        ),
    }
}

#[cfg(test)]
mod tests;
