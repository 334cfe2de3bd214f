//! `heimdall check`: whether the settings are good, and what would be used.

use anyhow::ensure;
use clap::Args;
use tracing::warn;
use tracing_subscriber::EnvFilter;

use super::{print, table::Table, view::Reading};
use crate::{
    config::{self, Backend, Config, Flags, Host, Location},
    doctor,
    log::{self, LogFormat},
    privileges, server,
};

const EXAMPLES: &str = "\
Examples:
  heimdall check --example > heimdall.toml
  heimdall check --config /etc/heimdall/heimdall.toml
  heimdall check --config heimdall.toml --interface eth0:0-3 && systemctl restart heimdall

It prints every setting with its value and where that comes from: a flag, a line of the file, or the
default. Exit code 0: a server with these settings starts; what it would warn of is on stderr. 1: it
does not, or serves no TLS, and a line on stderr says where and why. It reads all files that the settings name, and looks
at the directories and interfaces, and asks a server that runs which XDP programs are its own; it listens on nothing and changes
nothing.";

/// Check the settings, and print what would be used
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    #[command(flatten)]
    flags: Flags,

    /// Print a settings file with all keys, their meaning and their defaults, and check nothing
    #[arg(long)]
    example: bool,
}

impl Check {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        if self.example {
            return print(&config::example());
        }
        let config = Config::load(&self.flags, &Host::read())?;
        let _flush = log::start(EnvFilter::new("warn"), LogFormat::Brief)?;
        privileges::check_user(&config)?;
        let lines = server::check(&config)?;
        for finding in doctor::others_programs(&config, Reading::programs(&config.control)) {
            ensure!(
                config.backend != Backend::Xdp,
                "AF_XDP cannot serve {finding}"
            );
            warn!("AF_XDP could not serve {finding}");
        }
        print(&describe(&config, &lines))
    }
}

/// The settings, a line each, and these lines.
fn describe(config: &Config, lines: &[String]) -> String {
    let mut table = Table::default();
    table.row(["SETTING", "FROM", "VALUE"].map(str::to_owned));
    for setting in config.settings.iter() {
        let from = match setting.location() {
            Location::Unset => "default".to_owned(),
            Location::Flag(flag) => flag.to_owned(),
            Location::File { line, .. } => format!("line {line}"),
        };
        table.row([setting.key.clone(), from, setting.value.clone()]);
    }
    let mut text = format!("{table}\n");
    for line in lines {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str("The settings are good.\n");
    text
}
