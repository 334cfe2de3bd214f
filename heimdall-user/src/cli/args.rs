//! Arguments of the subcommands that talk to a running server.

use std::path::PathBuf;

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
