//! `heimdall withdraw`: take the service addresses of a server that does not run from the host.

use anyhow::{anyhow, ensure};
use clap::Args;

use super::print;
use crate::{
    anycast,
    config::{Config, Flags, Host},
    control::{self, ControlCommand},
};

const EXAMPLES: &str = "\
Examples:
  heimdall withdraw --config /etc/heimdall/heimdall.toml

A server withdraws its service addresses ([anycast]) by itself when it ends. One that was killed cannot, so routers go on sending
queries to this host: the systemd unit runs this command after every end. It takes the addresses from their interface, and the
routes that deliver packets for them away, whether they are there or not. It needs CAP_NET_ADMIN.
Exit code 0: none of them is left. 1: a server runs, which withdraws them by itself (heimdall drain); or one could not be removed.";

/// Take the service addresses of a server that was killed from this host
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Withdraw {
    #[command(flatten)]
    flags: Flags,
}

impl Withdraw {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let config = Config::load(&self.flags, &Host::read())?;
        let runs = control::ask(&config.control, &ControlCommand::Ready).is_ok();
        ensure!(
            !runs,
            "a server runs with the control socket {}, and announces its addresses by itself; run `heimdall drain`",
            config.control.display()
        );
        let options = &config.anycast;
        anycast::withdraw(&options.interface, &options.addresses)
            .map_err(|error| anyhow!(error))?;
        let list: Vec<String> = options.addresses.iter().map(ToString::to_string).collect();
        match list.is_empty() {
            true => print("there are no service addresses\n"),
            false => print(&format!("withdrawn: {}\n", list.join(", "))),
        }
    }
}
