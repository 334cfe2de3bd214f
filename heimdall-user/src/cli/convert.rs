//! `heimdall convert`: settings from another server's configuration.

use std::{fs, path::PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::print;
use crate::{
    config::{Config, Flags, Host},
    convert::{Kind, OnDisk, Outcome, Rejection},
    log, server,
};

const EXAMPLES: &str = "\
Examples:
  heimdall convert /etc/unbound/unbound.conf
  heimdall convert /etc/dnsmasq.conf --output heimdall.toml && heimdall check --config heimdall.toml
  heimdall convert dnsdist.yml --from dnsdist --output heimdall.toml --force
  heimdall convert /etc/unbound/unbound.conf --upstream tls://dns.quad9.net@9.9.9.9

The settings go to stdout, or to the file of --output. Behind each value is the statement that it comes from, with file and
line; a comment at the top names those that do something which Heimdall will not do, one at the end those that need no
counterpart. What Heimdall would reject on this host is left out, and named as well. Names to be blocked go to files
beside that of --output, FILE.nxdomain.txt and so on. Files that unbound or dnsmasq include are read, too.
Nothing else is read or changed, and no server is asked.";

/// Make settings from the configuration of unbound, dnsmasq, dnsdist (YAML) or the C library (resolv.conf)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Convert {
    /// The configuration: unbound.conf, dnsmasq.conf, dnsdist.yml or resolv.conf
    file: PathBuf,

    /// Whose configuration it is [default: what the file's name says, or else its content]
    #[arg(long, value_enum, value_name = "KIND")]
    from: Option<Kind>,

    /// Write the settings to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Overwrite files that exist
    #[arg(long, requires = "output")]
    force: bool,

    /// Resolver to forward to, if the configuration has none for all names (repeatable)
    #[arg(long, value_name = "ADDR[:PORT]")]
    upstream: Vec<String>,
}

impl Convert {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let text = OnDisk::text(&self.file)?;
        let kind = match self.from {
            Some(kind) => kind,
            None => Kind::detect(&self.file, &text)?,
        };
        let draft = kind.convert(&self.file, &text, &self.upstream, &OnDisk)?;
        let host = Host::read();
        let outcome = draft.finish(self.output.as_deref(), &|text| check(text, &host))?;
        self.write(&outcome)?;
        let Outcome { lost, unneeded, .. } = &outcome;
        log::print_error(&format!(
            "heimdall: {}: statements that do something which Heimdall will not do: {lost}; that need no counterpart: \
             {unneeded}; comments name them",
            self.file.display()
        ));
        match outcome.rejected {
            Some(why) => Err(anyhow!(
                "`heimdall check` rejects the settings on this host: {why}"
            )),
            None => Ok(()),
        }
    }

    fn write(&self, outcome: &Outcome) -> anyhow::Result<()> {
        let Some(output) = &self.output else {
            return print(&outcome.text);
        };
        let lists = outcome.lists.iter();
        let lists = lists.map(|list| (list.path(output), list.text()));
        let mut files: Vec<(PathBuf, String)> = lists.collect();
        // The last, so that whoever waits for it finds the lists.
        files.push((output.clone(), outcome.text.clone()));
        if let Some((path, _)) = files.iter().find(|(path, _)| !self.force && path.exists()) {
            return Err(anyhow!(
                "{} exists; give another path, or --force",
                path.display()
            ));
        }
        for (path, text) in files {
            fs::write(&path, text).map_err(|error| {
                let named = match path == *output {
                    true => String::new(),
                    false => format!(", a list of {}", output.display()),
                };
                anyhow!(
                    "cannot write {}{named}: {error}; make the directory, or give another path",
                    path.display()
                )
            })?;
        }
        Ok(())
    }
}

/// As `heimdall check`.
fn check(text: &str, host: &Host) -> Result<(), Rejection> {
    let config = Config::from_text(&Flags::default(), text, host);
    let config = config.map_err(|error| Rejection::read(&error.to_string()))?;
    let checked = server::check(&config);
    checked
        .map(drop)
        .map_err(|error| Rejection::read(&error.to_string()))
}
