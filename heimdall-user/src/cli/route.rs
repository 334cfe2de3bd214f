//! `heimdall route`: which route a name takes, and which upstream.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::{args::ServerArgs, print, trace::render};
use crate::{
    config::{Config, Flags, Host},
    control::{self, ControlCommand, TraceQuery},
    server,
};

const EXAMPLES: &str = "\
Examples:
  heimdall route www.corp.example
  heimdall route 7.1.10.in-addr.arpa PTR
  heimdall route --json www.example.com | jq -r '.steps[-1].first'
  heimdall route --config new.toml www.corp.example

It shows the zone of the route, the line of the file that it comes from, and its upstreams, with the one that the server
would ask first now; or what answers the name without an upstream. The caches are left out: `heimdall trace` has them. With
--config it reads the settings of a file instead of asking a server. Nothing is sent.";

/// Show which upstreams a name is forwarded to
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Route {
    /// The queried name
    name: String,

    /// The queried type: A, AAAA, HTTPS and so on, or TYPE and its number. DS records have the route of the name above
    #[arg(value_name = "TYPE", default_value = "A")]
    qtype: String,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    /// Take the settings of this file, without a running server
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    config: Option<PathBuf>,

    #[command(flatten)]
    server: ServerArgs,
}

impl Route {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let query = TraceQuery::new(&self.name, &self.qtype, None);
        let query = query.map_err(|error| anyhow!(error))?;
        let route = match self.config {
            Some(config) => {
                let flags = Flags {
                    config: Some(config),
                    ..Flags::default()
                };
                server::planned_route(&Config::load(&flags, &Host::read())?, &query)?
            }
            None => control::ask(&self.server.path()?, &ControlCommand::Route(query))?,
        };
        print(&match self.json {
            true => format!("{}\n", serde_json::to_string_pretty(&route)?),
            false => render(&route),
        })
    }
}
