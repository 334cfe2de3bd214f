//! What the checks judge: the host's files, its interfaces, and what would be run.

use heimdall_ebpf::PROGRAM;

use std::collections::BTreeSet;

use super::{
    nic::{near, sysfs},
    system::System,
};
use crate::{
    config::{Backend, Config, InterfaceConfig},
    privileges,
    worker::{Load, place},
    xdp::{AttachedProgram, Details, Layers, UnusableQueues, bpf_call_error, candidates, xsk},
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
    /// How many of them AF_XDP can serve.
    pub(super) usable_queues: u32,
    /// Which of them it cannot serve. `None`: it can serve all.
    pub(super) unusable_queues: Option<UnusableQueues>,
    /// Octets of a frame of its sockets.
    pub(super) frame_size: u32,
    /// Why an interface above it takes no packets there now.
    pub(super) idle: Option<String>,
    /// The interface above it that is down, if that is why.
    pub(super) down: Option<String>,
    /// `None`: the kernel tells nothing of it.
    pub(super) details: Option<Details>,
}

/// What the checks judge.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) system: System,
    pub(super) config: Config,
    /// The ports of those of the settings, or of those that could be served, if the settings name none; and those that have
    /// no ports. Empty for the backend `socket`.
    pub(super) nics: Vec<Nic>,
    /// The error of opening an AF_XDP socket.
    pub(super) af_xdp: Option<i32>,
    /// The error of the system call bpf for a command that does not exist.
    pub(super) bpf: Option<i32>,
    /// The ids of this process's XDP programs if it is a server; `None` in a command.
    pub(super) server: Option<Vec<u32>>,
    /// The ids of the XDP programs of the server behind the control socket, none without a server; `None`: they are not known.
    pub(super) beside: Option<Vec<u32>>,
    /// What the sandbox leaves open in this process, and why. Nothing in a command.
    pub(super) unrestricted: Vec<String>,
}

impl Facts {
    /// Reads the host. Nothing is changed, bound or attached.
    pub(super) fn gather(
        config: &Config,
        server: Option<Vec<u32>>,
        beside: Option<Vec<u32>>,
    ) -> Self {
        Self {
            system: System::host(),
            config: config.clone(),
            nics: nics(config),
            af_xdp: xsk::open_error(),
            bpf: bpf_call_error(),
            server,
            beside,
            unrestricted: privileges::unrestricted(),
        }
    }

    /// A program's name. A server knows its own programs even without CAP_SYS_ADMIN, which the kernel wants
    /// for the names of others.
    pub(super) fn program_name<'a>(&self, program: &'a AttachedProgram) -> Option<&'a str> {
        match self.is_of_server(program) {
            Some(true) => Some(PROGRAM),
            _ => program.name.as_deref(),
        }
    }

    /// Whether it is a program of this server, or of the one behind the control socket. `None`: that is not known.
    pub(super) fn is_of_server(&self, program: &AttachedProgram) -> Option<bool> {
        let ids = self.server.as_ref().or(self.beside.as_ref())?;
        Some(ids.contains(&program.id))
    }

    /// Whether a server has its program on an interface, and so AF_XDP sockets at its queues. The kernel takes none of these
    /// away (`ethtool_set_channels`).
    pub(super) fn is_served(&self, details: &Details) -> bool {
        let mut programs = details.programs.iter();
        programs.any(|program| self.program_name(program) == Some(PROGRAM))
    }

    /// Queues that workers are to serve.
    pub(super) fn queues(&self) -> usize {
        match self.config.wants_xdp() {
            true => self.nics.iter().map(|nic| nic.count()).sum(),
            false => 0,
        }
    }

    /// Octets of their frames: of the largest, as an interface with another MTU than others is rare.
    pub(super) fn frame_size(&self) -> u32 {
        let sizes = self.nics.iter().map(|nic| nic.frame_size);
        sizes.max().unwrap_or(xsk::frame_size(0))
    }

    /// Workers that serve them.
    pub(super) fn workers(&self) -> usize {
        self.config.xdp.workers(self.queues())
    }

    /// The workers that serve an interface, by their numbers, each with its queues, as a start places them.
    pub(super) fn placed(&self, nic: &Nic) -> Vec<(usize, BTreeSet<usize>)> {
        let all = self.nics.iter().map(|nic| nic.count()).sum();
        let mut loads: Vec<Load> = (0..self.config.xdp.workers(all))
            .map(|number| Load {
                cpu: self.config.xdp.cpu(number),
                queues: 0,
            })
            .collect();
        for one in &self.nics {
            let queues = one.queues.as_deref().unwrap_or_default();
            let directory = one.sysfs(&self.system);
            let near = near(&self.system, &one.name, directory.as_deref(), queues);
            let mut served = vec![BTreeSet::new(); loads.len()];
            for ((worker, _), queue) in place(&loads, &near).into_iter().zip(queues) {
                if let (Some(load), Some(served)) = (loads.get_mut(worker), served.get_mut(worker))
                {
                    load.queues += 1;
                    served.insert(*queue as usize);
                }
            }
            if one.name == nic.name {
                let served = served.into_iter().enumerate();
                return served.filter(|(_, queues)| !queues.is_empty()).collect();
            }
        }
        Vec::new()
    }

    /// The cores of the workers that serve an interface.
    pub(super) fn cores(&self, nic: &Nic) -> BTreeSet<usize> {
        let workers = self.placed(nic).into_iter();
        workers
            .filter_map(|(worker, _)| self.config.xdp.cpu(worker))
            .collect()
    }

    /// Threads that work for queries: workers, socket threads, forwarder threads. Each has a cache.
    pub(super) fn threads(&self) -> usize {
        self.workers() + self.config.socket.threads + self.config.forward.threads
    }

    /// The kernel's version. (0, 0) if it is not known.
    pub(super) fn kernel(&self) -> (u32, u32) {
        self.system.kernel()
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

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Directories of the control group (cgroup v2) of this process and of those above it.
pub(super) fn groups(system: &System) -> Vec<String> {
    let group = system.line("/proc/self/cgroup", "0::/").unwrap_or_default();
    upwards(GROUPS, &group)
}

/// The same in the hierarchy of a controller of cgroup v1; none if there is no such hierarchy.
pub(super) fn legacy_groups(system: &System, controller: &str) -> Vec<String> {
    let text = system.read("/proc/self/cgroup").unwrap_or_default();
    let group = text.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(":/")?;
        let mut controllers = controllers.split(',');
        controllers.any(|one| one == controller).then_some(group)
    });
    let group = group.map(|group| upwards(&format!("{GROUPS}/{controller}"), group));
    group.unwrap_or_default()
}

/// A directory below `root`, and those above it.
fn upwards(root: &str, directory: &str) -> Vec<String> {
    let mut directories = Vec::new();
    let mut rest = directory;
    while !rest.is_empty() {
        directories.push(format!("{root}/{rest}"));
        rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
    }
    // In a cgroup namespace this is the container's own group, which has limits.
    directories.push(root.to_owned());
    directories
}

/// The control group of this process, if no control groups are mounted where their limits would be seen.
pub(super) fn hidden_group(system: &System) -> Option<String> {
    let text = system.read("/proc/self/cgroup")?;
    let mut groups = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let group = groups.find(|group| *group != "/")?;
    system.names(GROUPS).is_empty().then(|| group.to_owned())
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

    /// Its directory in sysfs, which may show the interfaces of another network namespace.
    pub(super) fn sysfs(&self, system: &System) -> Option<String> {
        sysfs(system, &self.name, self.details.as_ref()?.index)
    }
}

/// The interfaces that the settings name, or that they could: [`Facts::nics`].
pub(super) fn nics(config: &Config) -> Vec<Nic> {
    let mut nics = Vec::new();
    if config.backend == Backend::Socket {
        return nics;
    }
    let configured = config.interfaces.iter().map(|one| one.name.clone());
    let mut names: Vec<String> = configured.collect();
    if names.is_empty() {
        names = candidates().unwrap_or_default();
    }
    let mut layers = Layers::read(names.iter().map(String::as_str)).unwrap_or_default();
    // As a start goes through them: backups first.
    layers.ports.sort_by_key(|port| !port.links.is_empty());
    for port in layers.ports {
        let interface = port.interface;
        let name = interface.name.as_str();
        let wanted = InterfaceConfig::of_port(&config.interfaces, name, &port.serves);
        let queues = interface.queues(wanted.queues.as_ref());
        nics.push(Nic {
            rx_queues: interface.rx_queues,
            usable_queues: interface.usable_queues(),
            unusable_queues: interface.unusable_queues(),
            frame_size: xsk::frame_size(interface.mtu),
            idle: port.idle,
            down: port.down,
            queues: queues.map_err(|error| error.to_string()),
            details: Details::read(name, &port.links).ok(),
            name: interface.name,
        });
    }
    for (name, error) in layers.refused {
        nics.push(Nic {
            rx_queues: 0,
            usable_queues: 0,
            unusable_queues: None,
            frame_size: xsk::frame_size(0),
            idle: None,
            down: None,
            queues: Err(error.to_string()),
            details: Details::read(&name, &[]).ok(),
            name,
        });
    }
    nics
}
