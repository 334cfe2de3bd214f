//! What the operator set: the TOML file, the flags that override it, the defaults, and the checks.
//!
//! The rest of the house sees only [`Config`], whose values are in range and agree with one
//! another. Every error is one line that says where the bad value stands (file, line and key, or
//! the flag), what is wrong with it and what to write instead. This room reads the file and a few
//! facts about the host ([`Host`]); it opens no socket and starts nothing.

mod error;
mod file;
mod flags;
mod policy;
mod resolve;
mod values;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

pub use error::{ConfigError, Place, Problem};
pub use flags::Flags;
pub use policy::{
    BlocklistConfig, CookieConfig, HostsConfig, IdentityConfig, PolicyConfig, RecordConfig,
};
pub use values::{Backend, InterfaceConfig, ListenAddr, Size, UpstreamAddr, Zoned};

use crate::{answer::prefix::Prefix, dns::TtlLimits, file as files};

/// Longest file of settings, in octets.
const MAX_FILE: u64 = 16 << 20;

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Interfaces whose queues are served by AF_XDP, each at most once.
    pub interfaces: Vec<InterfaceConfig>,
    /// Addresses to answer on, by UDP and TCP. Never empty, no port 0.
    pub listen: Vec<SocketAddr>,
    /// Resolvers to ask, in order of preference. Never empty, none of them ourselves.
    pub upstreams: Vec<SocketAddr>,
    /// What carries the packets.
    pub backend: Backend,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Largest UDP reply, in octets: 512 to 4096.
    pub max_udp_size: u16,
    /// Memory of each thread's cache, in octets.
    pub cache_bytes: usize,
    /// Where to keep the cache over a restart, if anywhere.
    pub snapshot: Option<SnapshotConfig>,
    /// Bounds on the lives of answers.
    pub ttl: TtlLimits,
    /// Asking upstream.
    pub forward: ForwardConfig,
    /// What clients and names get. The only part that a reload changes.
    pub policy: PolicyConfig,
    /// The AF_XDP workers.
    pub xdp: XdpConfig,
    /// Where the values stand that only the start can check.
    pub places: Places,
}

/// Where values stand, for errors that show later than when the settings are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Of each interface.
    pub interfaces: Vec<Place>,
    /// Of the control socket's path.
    pub control: Place,
    /// Of the cache's size.
    pub cache_size: Place,
    /// Of the snapshot's path.
    pub snapshot: Place,
}

/// How the cache is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// The file.
    pub path: PathBuf,
    /// Time from one writing of it to the next: a second to a day.
    pub interval: Duration,
}

/// How upstreams are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Threads: 1 to 64.
    pub threads: usize,
    /// How long to wait for an upstream before the next attempt.
    pub timeout: Duration,
    /// Attempts for a question, the first included: 1 to 16.
    pub attempts: u32,
    /// Questions that may wait for a thread.
    pub queue: usize,
    /// Questions that a thread may have under way.
    pub max_in_flight: usize,
    /// Believe the upstream's AD bit: only for a trusted path to a validating resolver.
    pub trust_ad: bool,
    /// How long a client waits before it gets an answer whose life is over, if there is one.
    pub client_response_timeout: Duration,
    /// Seconds after the end of its life for which an answer may still be given; 0: never.
    pub stale_max_age: u32,
    /// Longest time, in seconds, for which a failure is remembered: 1 to 300.
    pub failure_ttl_max: u32,
    /// A name that does not exist stands for all below it.
    pub nxdomain_cut: bool,
    /// The one client subnet that upstreams are told, if any.
    pub client_subnet: Option<Prefix>,
}

/// How AF_XDP workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    /// Cores to pin workers to, in turn; see [`cpu`](Self::cpu). Those that the process may use,
    /// unless some are named.
    pub cpus: Vec<usize>,
    /// UMEM frames of each queue, a power of two.
    pub frames: u32,
    /// How long an idle worker spins before it sleeps.
    pub spin: Duration,
    /// Drop packets with a wrong IPv4 or UDP checksum.
    pub verify_checksums: bool,
    /// Send queries back instead of answering them. For `heimdall bench echo` alone.
    pub echo: bool,
}

impl XdpConfig {
    /// The core of the worker with this number, counted over all interfaces. `None`: it is not
    /// pinned, because the kernel would not say which cores there are.
    pub fn cpu(&self, worker: usize) -> Option<usize> {
        let turn = worker.checked_rem(self.cpus.len())?;
        self.cpus.get(turn).copied()
    }
}

/// What the checks need to know about the machine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Addresses of all interfaces but for link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Link-local IPv6 addresses, each with the index of its interface.
    pub link_local: Vec<(Ipv6Addr, u32)>,
    /// Cores that this process may run on.
    pub cores: BTreeSet<usize>,
    /// Where the control socket goes unless told otherwise.
    pub control: Option<PathBuf>,
}

impl Host {
    /// Whether a packet to this address comes to this host.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        match address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
                self.link_local.contains(&(*v6.ip(), v6.scope_id()))
            }
            other => other.ip().is_loopback() || self.addresses.contains(&other.ip()),
        }
    }

    /// Asks the kernel. What it does not tell is left empty, and the check of it skipped.
    pub fn read() -> Self {
        use nix::{ifaddrs::getifaddrs, sched, unistd::Pid};
        let mut addresses = Vec::new();
        let mut link_local = Vec::new();
        for address in getifaddrs().into_iter().flatten().filter_map(|i| i.address) {
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => addresses.push(v4.ip().into()),
                (None, Some(v6)) if v6.ip().is_unicast_link_local() => {
                    link_local.push((v6.ip(), v6.scope_id()));
                }
                (None, Some(v6)) => addresses.push(v6.ip().into()),
                (None, None) => {}
            }
        }
        let cores = sched::sched_getaffinity(Pid::from_raw(0))
            .map(|set| {
                (0..sched::CpuSet::count())
                    .filter(|&core| set.is_set(core).unwrap_or(false))
                    .collect()
            })
            .unwrap_or_default();
        Self {
            addresses,
            link_local,
            cores,
            control: default_control(),
        }
    }
}

/// Where the control socket is unless told otherwise: for root in `/run/heimdall`, for others in
/// their own runtime directory, if they have one.
pub fn default_control() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/heimdall/control.sock"));
    }
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty())?;
    Some(Path::new(&directory).join("heimdall.sock"))
}

impl Config {
    /// Reads the file that `flags` name, if any, and puts the flags on top of it.
    ///
    /// # Errors
    /// The file cannot be read, or a value in it or in the flags is bad.
    pub fn load(flags: &Flags, host: &Host) -> Result<Self, ConfigError> {
        let text = match &flags.config {
            Some(path) => read(path)?,
            None => String::new(),
        };
        Self::from_text(flags, &text, host)
    }

    /// As [`load`](Self::load), with the file's text already read.
    ///
    /// # Errors
    /// A value in it or in the flags is bad.
    pub fn from_text(flags: &Flags, text: &str, host: &Host) -> Result<Self, ConfigError> {
        let path = flags
            .config
            .as_deref()
            .unwrap_or(Path::new("heimdall.toml"));
        let file = file::parse(path, text)?;
        resolve::resolve(flags, path, text, file, host)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let octets = files::read(path, MAX_FILE).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(octets).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        ConfigError::Bad {
            place: file::place(path, &text, good..good, String::new()),
            problem: Problem::NotUtf8,
        }
    })
}

#[cfg(test)]
mod tests;
