//! What the checks judge: the host's files, its interfaces, and what would be run.

use heimdall_ebpf::PROGRAM;

use super::system::System;
use crate::{
    config::{Backend, Config},
    xdp::{AttachedProgram, Details, Interface, XdpError, bpf_call_error, candidates, xsk},
};

/// The kernel's numbers of capabilities (linux/capability.h).
pub(super) mod capability {
    pub(in crate::doctor) const NET_BIND_SERVICE: u32 = 10;
    pub(in crate::doctor) const NET_ADMIN: u32 = 12;
    pub(in crate::doctor) const NET_RAW: u32 = 13;
    pub(in crate::doctor) const IPC_LOCK: u32 = 14;
    pub(in crate::doctor) const SYS_ADMIN: u32 = 21;
    pub(in crate::doctor) const PERFMON: u32 = 38;
    pub(in crate::doctor) const BPF: u32 = 39;
}

/// An interface that AF_XDP is to serve, or could.
#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) name: String,
    /// The queues to serve; or why it cannot be served.
    pub(super) queues: Result<Vec<u32>, String>,
    /// Its receive queues.
    pub(super) rx_queues: u32,
    /// `None`: the kernel tells nothing of it.
    pub(super) details: Option<Details>,
    /// How many workers the interfaces before it have.
    pub(super) first_worker: usize,
}

/// What the checks judge.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) system: System,
    pub(super) config: Config,
    /// Those of the settings; or those that could be served, if the settings name none. Empty for the
    /// backend `socket`.
    pub(super) nics: Vec<Nic>,
    /// The error of opening an AF_XDP socket.
    pub(super) af_xdp: Option<i32>,
    /// The error of the system call bpf for a command that does not exist.
    pub(super) bpf: Option<i32>,
    /// The ids of this process's XDP programs if it is a server; `None` in a command.
    pub(super) server: Option<Vec<u32>>,
}

impl Facts {
    /// Reads the host. Nothing is changed, bound or attached.
    pub(super) fn gather(config: &Config, server: Option<Vec<u32>>) -> Self {
        Self {
            system: System::host(),
            config: config.clone(),
            nics: nics(config),
            af_xdp: xsk::open_error(),
            bpf: bpf_call_error(),
            server,
        }
    }

    /// A program's name. A server knows its own programs even without CAP_SYS_ADMIN, which the kernel wants
    /// for the names of others.
    pub(super) fn program_name<'a>(&self, program: &'a AttachedProgram) -> Option<&'a str> {
        let own = self.server.iter().flatten().any(|id| *id == program.id);
        match own {
            true => Some(PROGRAM),
            false => program.name.as_deref(),
        }
    }

    /// Whether AF_XDP is to be used.
    pub(super) fn wants_xdp(&self) -> bool {
        self.config.backend != Backend::Socket && !self.config.interfaces.is_empty()
    }

    /// Queues that workers are to serve.
    pub(super) fn queues(&self) -> usize {
        match self.wants_xdp() {
            true => self.nics.iter().map(|nic| nic.count()).sum(),
            false => 0,
        }
    }

    /// Threads that work for queries: workers, socket threads, forwarder threads. Each has a cache.
    pub(super) fn threads(&self) -> usize {
        self.queues() + self.config.socket.threads + self.config.forward.threads
    }

    /// The kernel's version. (0, 0) if it is not known.
    pub(super) fn kernel(&self) -> (u32, u32) {
        let release = self.system.read("/proc/sys/kernel/osrelease");
        let release = release.unwrap_or_default();
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        (next(), next())
    }

    /// Whether this process has a capability. `None`: that is not known.
    pub(super) fn has(&self, capability: u32) -> Option<bool> {
        let effective = self.system.line("/proc/self/status", "CapEff:")?;
        let effective = u64::from_str_radix(&effective, 16).ok()?;
        Some(effective >> capability & 1 != 0)
    }

    /// The hard limit of this process: `None`: it is not known; `u64::MAX`: there is none.
    pub(super) fn hard_limit(&self, name: &str) -> Option<u64> {
        self.limit(name, 1)
    }

    /// The soft limit of this process, with the same values.
    pub(super) fn soft_limit(&self, name: &str) -> Option<u64> {
        self.limit(name, 0)
    }

    fn limit(&self, name: &str, column: usize) -> Option<u64> {
        let line = self.system.line("/proc/self/limits", name)?;
        match line.split_whitespace().nth(column)? {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    }

    /// The systemd unit of this process, if it is in a service.
    pub(super) fn unit(&self) -> Option<String> {
        let groups = self.system.read("/proc/self/cgroup")?;
        let mut names = groups.lines().filter_map(|line| line.rsplit('/').next());
        names
            .find(|name| name.ends_with(".service"))
            .map(str::to_owned)
    }
}

/// Directories of the control group (cgroup v2) of this process and of those above it.
pub(super) fn groups(system: &System) -> Vec<String> {
    const ROOT: &str = "/sys/fs/cgroup";
    let group = system.line("/proc/self/cgroup", "0::/").unwrap_or_default();
    let mut directories = Vec::new();
    let mut rest = group.as_str();
    while !rest.is_empty() {
        directories.push(format!("{ROOT}/{rest}"));
        rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
    }
    // In a cgroup namespace this is the container's own group, which has limits.
    directories.push(ROOT.to_owned());
    directories
}

impl Nic {
    /// Queues to serve.
    pub(super) fn count(&self) -> usize {
        self.queues.as_ref().map_or(0, Vec::len)
    }

    /// The name of its driver; empty if that is not known.
    pub(super) fn driver(&self) -> &str {
        let driver = self
            .details
            .as_ref()
            .and_then(|details| details.driver.as_ref());
        driver
            .map(|driver| driver.name.as_str())
            .unwrap_or_default()
    }

    /// The cores of its workers.
    pub(super) fn cores(&self, config: &Config) -> Vec<usize> {
        let workers = self.first_worker..self.first_worker + self.count();
        workers
            .filter_map(|worker| config.xdp.cpu(worker))
            .collect()
    }

    /// Its directory in sysfs, which may show the interfaces of another network namespace.
    pub(super) fn sysfs(&self, system: &System) -> Option<String> {
        let directory = format!("/sys/class/net/{}", self.name);
        let index = system.number(&format!("{directory}/ifindex"))?;
        let own = self.details.as_ref()?.index;
        (index == u64::from(own)).then_some(directory)
    }
}

fn nics(config: &Config) -> Vec<Nic> {
    let mut nics = Vec::new();
    if config.backend == Backend::Socket {
        return nics;
    }
    let mut first_worker = 0;
    let mut add = |name: &str, found: Result<(Interface, Vec<u32>), XdpError>| {
        let nic = Nic {
            name: name.to_owned(),
            rx_queues: found.as_ref().map_or(0, |(nic, _)| nic.rx_queues),
            queues: found
                .map(|(_, queues)| queues)
                .map_err(|error| error.to_string()),
            details: Details::read(name).ok(),
            first_worker,
        };
        first_worker += nic.count();
        nics.push(nic);
    };
    for wanted in &config.interfaces {
        add(
            &wanted.name,
            Interface::find_queues(&wanted.name, wanted.queues.as_ref()),
        );
    }
    if config.interfaces.is_empty() {
        for name in candidates().unwrap_or_default() {
            add(&name, Interface::find_queues(&name, None));
        }
    }
    nics
}
