//! Facts about the host that defaults and checks depend on.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Facts about the host that defaults and checks depend on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Addresses of all interfaces except for link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Link-local IPv6 addresses, each with the index of its interface.
    pub link_local: Vec<(Ipv6Addr, u32)>,
    /// Cores in the process's CPU affinity mask.
    pub cores: BTreeSet<usize>,
    /// Default path of the control socket.
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

    /// Reads them from the kernel. Those that cannot be read are left empty, and not checked.
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

/// The default path of the control socket: for root in `/run/heimdall`, for others in their own
/// runtime directory, if they have one.
pub(crate) fn default_control() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/run/heimdall/control.sock"));
    }
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty())?;
    Some(Path::new(&directory).join("heimdall.sock"))
}
