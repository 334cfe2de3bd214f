//! `heimdall withdraw`: take the service addresses of a server that does not run from the host.

use std::net::IpAddr;

use anyhow::{anyhow, bail, ensure};
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::print;
use crate::{
    anycast,
    config::{Config, Flags, Host},
    control::{self, ControlCommand, ControlError},
};

const EXAMPLES: &str = "\
Examples:
  heimdall withdraw --config /etc/heimdall/heimdall.toml

A server withdraws its service addresses ([anycast]) by itself when it ends. One that was killed cannot, so routers go on sending
queries to this host: the systemd unit runs this command after every end. It takes the addresses from their interface, and the
routes that deliver packets for them away, whether they are there or not. It needs CAP_NET_ADMIN.
Exit code 0: none of them is left. 1: a server runs, which withdraws them by itself (heimdall drain), or may run, as its control
socket takes connections; or one could not be removed.";

/// Take the service addresses of a server that was killed from this host
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Withdraw {
    #[command(flatten)]
    settings: OfServer,
}

/// All flags that the server may have been started with, as the file alone may be no complete settings. The help has those that
/// matter.
#[derive(Debug)]
struct OfServer(Flags);

impl Args for OfServer {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command).mut_args(|arg| {
            let matters = ["config", "control"].contains(&arg.get_id().as_str());
            arg.hide(!matters)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OfServer {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Flags::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Withdraw {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let flags = self.settings.0;
        ensure!(
            flags.config.is_some(),
            "give --config FILE: it names the service addresses"
        );
        let config = Config::load(&flags, &Host::read())?;
        match control::ask(&config.control, &ControlCommand::Ready) {
            Err(ControlError::NotRunning(_)) => {}
            Ok(_) | Err(ControlError::Refused(_)) => bail!(
                "a server runs with the control socket {}, and announces its addresses by itself; run `heimdall drain`",
                config.control.display()
            ),
            // One that does run answers still, or will.
            Err(error) => bail!("cannot tell whether a server runs: {error}; end it first"),
        }
        let options = &config.anycast;
        if options.addresses.is_empty() {
            return print("there are no service addresses\n");
        }
        let mut announced = anycast::held(&options.addresses);
        announced.retain(|held| held.interface == options.interface);
        anycast::withdraw(&options.interface, &options.addresses)
            .map_err(|error| anyhow!(error))?;
        let list = options.addresses.iter();
        match announced.is_empty() {
            true => print(&format!(
                "none of these is left on this host: {}\n",
                text(list)
            )),
            false => {
                let was = |ip: &&IpAddr| announced.iter().any(|held| held.ip == **ip);
                print(&format!("withdrawn: {}\n", text(list.filter(was))))
            }
        }
    }
}

fn text<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    let list: Vec<String> = addresses.map(IpAddr::to_string).collect();
    list.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn withdraw(arguments: &[&str]) -> Withdraw {
        let command = Withdraw::augment_args(Command::new("withdraw"));
        let arguments = [&["withdraw"], arguments].concat();
        let matches = command.try_get_matches_from(arguments).unwrap();
        Withdraw::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn the_help_has_the_flags_that_matter_and_others_are_taken() {
        let mut command = Withdraw::augment_args(Command::new("withdraw"));
        let help = command.render_long_help().to_string();
        for flag in ["--config", "--control"] {
            assert!(help.contains(flag), "{help}");
        }
        for flag in ["--idle", "--upstream", "--tier"] {
            assert!(!help.contains(flag), "{help}");
        }
        let given = withdraw(&["--config", "a.toml", "--upstream", "192.0.2.1"]);
        assert!(given.settings.0.settings.contains_key("--upstream"));
    }

    #[test]
    fn without_a_file_there_are_no_addresses() {
        let error = withdraw(&[]).execute().unwrap_err().to_string();
        assert_eq!(error, "give --config FILE: it names the service addresses");
    }
}
