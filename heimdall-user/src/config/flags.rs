//! The flags that `run` and `check` share.

use std::path::PathBuf;

use clap::Args;

use super::{Backend, InterfaceConfig, ListenAddr, Size, UpstreamAddr};
use crate::answer::prefix::Prefix;

/// Settings from the command line. Each overrides the file's key of the same name.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Serve this interface's receive queues by AF_XDP (repeatable)
    ///
    /// QUEUES are numbers and ranges, like 0 or 0-3 or 0,2. Without them all queues are served.
    #[arg(long, value_name = "IF[:QUEUES]")]
    pub interface: Vec<InterfaceConfig>,

    /// Answer on this address and port, by UDP and TCP (repeatable) [default: port 53 of all addresses]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<ListenAddr>,

    /// Ask this resolver for what the cache does not have (repeatable; port 53 unless given)
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub upstream: Vec<UpstreamAddr>,

    /// What carries the packets: auto, xdp or socket [default: auto]
    ///
    /// auto uses AF_XDP on the given interfaces where it can, and says so; xdp does not start
    /// without it; socket needs no privileges beyond the port.
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<Backend>,

    /// Read settings from this TOML file; flags override it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Unix socket for `heimdall stats` [default: /run/heimdall/control.sock for root, otherwise
    /// $XDG_RUNTIME_DIR/heimdall.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Answer clients with these addresses, like 192.0.2.0/24 (repeatable) [default: private and
    /// local addresses]
    ///
    /// Others are refused. Prefixes that hold the whole world make an open resolver.
    #[arg(long, value_name = "PREFIX")]
    pub allow: Vec<Prefix>,

    /// Memory of each thread's cache, like 512K, 64M or 1G [default: 64M]
    #[arg(long, value_name = "BYTES")]
    pub cache_size: Option<Size>,

    /// Keep what upstreams have told in this file, and start with it [default: none]
    ///
    /// It is written every five minutes and when the server stops.
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
}
