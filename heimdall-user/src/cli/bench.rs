//! `heimdall bench`: what this machine gives at most.

use clap::{Args, Subcommand};

use super::run::serve;
use crate::config::{Backend, Config, Flags, Host, InterfaceConfig, ListenAddr, UpstreamAddr};

const EXAMPLES: &str = "\
Examples:
  heimdall bench echo --interface eth0 --listen 192.0.2.1:53
  heimdall bench echo --interface eth0:0

Put DNS queries on it as on a server (kxdpgun, dnsperf): what comes back is each query itself,
with addresses and ports swapped and the bit set that makes it a response. So the rate is that of the
rings, the kernel and the NIC, and a server that does nothing but answer cannot be faster. `heimdall
stats` shows its counters. TERM and INT stop it.";

/// Find out what this machine gives at most
#[derive(Args, Debug)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Echo(Echo),
}

/// Send DNS queries back over AF_XDP as they came, without a look at them
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Echo {
    /// Take this interface's receive queues, like eth0 or eth0:0-3 (repeatable)
    #[arg(long, required = true, value_name = "IF[:QUEUES]")]
    interface: Vec<InterfaceConfig>,

    /// Take queries to this address and port (repeatable) [default: port 53 of all addresses]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<ListenAddr>,

    /// Unix socket for `heimdall stats` [default: as for `heimdall run`]
    #[arg(long, value_name = "PATH")]
    control: Option<std::path::PathBuf>,

    /// Read [xdp] settings from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

impl Bench {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let What::Echo(echo) = self.what;
        // What is not steered goes to the sockets, as ever; nobody is asked for it.
        let nobody: UpstreamAddr = "192.0.2.1".parse()?;
        let flags = Flags {
            interface: echo.interface,
            listen: echo.listen,
            upstream: vec![nobody],
            backend: Some(Backend::Xdp),
            config: echo.config,
            control: echo.control,
            ..Flags::default()
        };
        let settings = move || {
            let mut config = Config::load(&flags, &Host::read())?;
            config.xdp.echo = true;
            Ok(config)
        };
        serve(settings, None)
    }
}
