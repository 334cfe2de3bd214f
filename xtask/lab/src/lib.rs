//! The lab: two hosts on one machine, made of network namespaces and a veth pair, with real
//! servers and real clients in them. End-to-end tests, the demo and the benchmarks run in one.
//!
//! - [`Lab`]: the namespaces, and commands and sockets in them.
//! - [`Namespace`]: one by itself, for labs with more hosts.
//! - [`Process`], and by name [`Heimdall`], [`Knot`] and [`Resolver`] (others): servers.
//! - [`Kdig`], [`Kxdpgun`] and [`ClosedLoop`] (dnsperf): clients, and what they measured.
//! - [`Frames`] and [`QueryFrame`]: frames that no ordinary client sends.
//! - [`ScriptedUpstream`]: an upstream that does as a test wants, also without a lab.
//! - [`Authority`]: certificates for servers.
//! - [`Disk`]: a file system that can be full. [`Scratch`]: a path for a file. `debugger`: what a debugger does to threads of a server (x86-64).
//! - [`LoadedProgram`]: the XDP program, for packets that no NIC receives.
//! - [`message`]: DNS messages over hickory-proto.
//! - [`page`]: the blocks of the documents, for the tests that run them.
//! - [`Browser`] and [`StatusServer`]: a headless Chromium, and documents for the status page, also without a lab.
//!
//! ```text
//!  client namespace                       server namespace
//!  kdig, kxdpgun, dnsperf, raw frames     heimdall, and its upstream on 127.0.0.1:5300
//!  10.53.0.2, fd53::2  ── hdcN ─ veth ─ hdsN ── 10.53.0.1, fd53::1
//! ```
//!
//! Where Heimdall's hot tier is on, an XDP program on the client's interface receives what it sends
//! ([`Lab::receive_xdp_tx`]).
//!
//! Each user makes a lab of its own; everything is removed when it is dropped. Needs root.

// A lab may panic when something is wrong with it.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod browser;
mod clients;
#[cfg(target_arch = "x86_64")]
pub mod debugger;
mod disk;
mod frames;
mod heimdall;
mod knot;
pub mod message;
mod namespace;
pub mod page;
mod peers;
mod process;
mod program;
mod receive;
pub mod rich;
mod scratch;
mod status;
mod tls;
mod upstream;

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use aya::programs::xdp::XdpLink;
pub use browser::Browser;
pub use clients::{ClosedLoop, Kdig, Kxdpgun};
pub use disk::Disk;
pub use frames::{Frames, QueryFrame};
pub use heimdall::{Heimdall, sum};
pub use knot::{HOSTS, Knot};
pub use namespace::Namespace;
pub use peers::{Resolver, wait_for_answer};
pub use process::{Process, in_own_process};
pub use program::{BoundSocket, LoadedProgram, XDP_PASS, XDP_REDIRECT, XDP_TX};
pub use scratch::Scratch;
pub use status::{Availability, Sample, StatusServer};
pub use tls::{Authority, Certified};
pub use upstream::{Received, ScriptedUpstream, Step, by_label};

/// The server's IPv4 address.
pub const SERVER_V4: &str = "10.53.0.1";
/// The server's IPv6 address.
pub const SERVER_V6: &str = "fd53::1";
/// The client's IPv4 address.
pub const CLIENT_V4: &str = "10.53.0.2";
/// The client's IPv6 address.
pub const CLIENT_V6: &str = "fd53::2";
/// Where the upstream listens, in the server namespace.
pub const UPSTREAM: &str = "127.0.0.1:5300";

/// Whether a test that needs the lab can run. Without root it says that it is skipped, and in CI,
/// where nothing may be, it panics.
///
/// # Panics
/// In CI without root.
pub fn available(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(env::var_os("CI").is_none(), "{test}: CI has to run as root");
        // Past the test harness, which would keep it from the terminal.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {test}: it needs root, for network namespaces and XDP programs"
        );
    }
    root
}

/// Two namespaces and the veth pair between them.
#[derive(Debug)]
pub struct Lab {
    /// Name of the client's namespace.
    pub client: String,
    /// Name of the server's namespace.
    pub server: String,
    /// The client's interface.
    pub client_if: String,
    /// The server's interface.
    pub server_if: String,
    /// The XDP program on the client's interface.
    receiver: Mutex<Option<XdpLink>>,
}

impl Lab {
    /// Makes a lab. Namespaces of processes that no longer run are removed first.
    ///
    /// # Errors
    /// `ip` or `ethtool` is missing or fails, for instance without root.
    pub fn new() -> Result<Self> {
        Self::with_queues(1)
    }

    /// Makes a lab whose interfaces have `queues` rx and tx queues. A packet's flow selects one.
    pub fn with_queues(queues: u32) -> Result<Self> {
        let lab = Self::with_interfaces(|number| [format!("hdc{number}"), format!("hds{number}")])?;
        lab.connect(queues)?;
        Ok(lab)
    }

    /// Makes a lab of two NICs of this namespace that are connected to each other. In the lab both are `eth0`; the kernel
    /// takes them back, perhaps under other names, when it is dropped.
    ///
    /// # Errors
    /// `ip` is missing or fails, for instance because there is no such NIC.
    pub fn with_nics(client: &str, server: &str) -> Result<Self> {
        let lab = Self::with_interfaces(|_| ["eth0", "eth0"].map(String::from))?;
        for (namespace, nic) in [(&lab.client, client), (&lab.server, server)] {
            ip(&format!("link set {nic} netns {namespace} name eth0"))?;
        }
        lab.set_up()?;
        Ok(lab)
    }

    /// Makes the namespaces of a lab whose interfaces will have the names that its number gives: the client's, the server's.
    fn with_interfaces(names: impl Fn(u32) -> [String; 2]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_stale();
        let pid = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [client_if, server_if] = names(number);
        let lab = Self {
            client: format!("heimdall-{pid}-{number}-c"),
            server: format!("heimdall-{pid}-{number}-s"),
            client_if,
            server_if,
            receiver: Mutex::default(),
        };
        for namespace in [&lab.client, &lab.server] {
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(lab)
    }

    /// Makes the veth pair, with `queues` queues: again, after a test has deleted it.
    ///
    /// # Errors
    /// There is one, or `ip` or `ethtool` fails.
    pub fn connect(&self, queues: u32) -> Result<()> {
        let Self {
            client,
            server,
            client_if,
            server_if,
            ..
        } = self;
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        ip(&format!(
            "link add name {server_if} netns {server} {queues} \
             type veth peer name {client_if} netns {client} {queues}"
        ))?;
        for (namespace, interface) in [(server, server_if), (client, client_if)] {
            let mut ethtool = self.exec(namespace, "ethtool");
            ethtool.args(["-K", interface, "gro", "on"]);
            run(ethtool.args(vlan_offload("off")))?;
        }
        self.set_up()?;
        // The program went with the client's interface.
        if self.receiver().take().is_some() {
            self.receive_xdp_tx()?;
        }
        Ok(())
    }

    /// Gives both interfaces their addresses, and sets them up.
    fn set_up(&self) -> Result<()> {
        for (namespace, interface, v4, v6) in [
            (&self.server, &self.server_if, SERVER_V4, SERVER_V6),
            (&self.client, &self.client_if, CLIENT_V4, CLIENT_V6),
        ] {
            ip(&format!("-n {namespace} addr add {v4}/24 dev {interface}"))?;
            ip(&format!(
                "-n {namespace} -6 addr add {v6}/64 dev {interface} nodad"
            ))?;
            ip(&format!("-n {namespace} link set {interface} up"))?;
        }
        Ok(())
    }

    /// From now on the client receives what the server sends with XDP_TX: a veth needs an XDP program for that.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn receive_xdp_tx(&self) -> Result<()> {
        let mut receiver = self.receiver();
        if receiver.is_none() {
            *receiver = Some(self.in_client(|| receive::attach(&self.client_if))??);
        }
        Ok(())
    }

    /// Does some work in which a load generator attaches a program of its own to the client's interface.
    pub(crate) fn with_generator<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut receiver = self.receiver();
        let had_program = receiver.take().is_some();
        let result = work();
        // kxdpgun of Debian 12 leaves its program there.
        self.client_ip(&format!("link set dev {} xdp off", self.client_if))?;
        if had_program {
            *receiver = Some(self.in_client(|| receive::attach(&self.client_if))??);
        }
        result
    }

    fn receiver(&self) -> MutexGuard<'_, Option<XdpLink>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `ip` with these arguments, separated by blanks, in the server's namespace.
    pub fn server_ip(&self, arguments: &str) -> Result<String> {
        run(self.on_server("ip").args(arguments.split_whitespace()))
    }

    /// The same in the client's namespace.
    pub fn client_ip(&self, arguments: &str) -> Result<String> {
        run(self.on_client("ip").args(arguments.split_whitespace()))
    }

    /// A command in the server's namespace.
    pub fn on_server(&self, program: impl AsRef<Path>) -> Command {
        self.exec(&self.server, program)
    }

    /// A command in the client's namespace.
    pub fn on_client(&self, program: impl AsRef<Path>) -> Command {
        self.exec(&self.client, program)
    }

    /// Does some work on a thread in the client's namespace: sockets that it opens stay there.
    pub fn in_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        within(&self.client, work)
    }

    /// The same in the server's namespace.
    pub fn in_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        within(&self.server, work)
    }

    fn exec(&self, namespace: &str, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", namespace])
            .arg(program.as_ref());
        command
    }

    /// What `ip -details link` says of the server's interface: `prog/xdp` or `xdpgeneric` in it
    /// means that a program is attached.
    pub fn server_link(&self) -> Result<String> {
        let Self {
            server, server_if, ..
        } = self;
        ip(&format!("-n {server} -details link show dev {server_if}"))
    }

    /// Whether the kernel has an XDP program on the server's interface.
    pub fn has_xdp(&self) -> Result<bool> {
        Ok(self.server_link()?.contains("xdp"))
    }

    /// Turns threaded NAPI on, with the n-th queue's thread of an interface on the n-th of its cores: so the
    /// server's share of the work is not done on the client's cores. To NAPI goes what an XDP program handles, and what the other
    /// end sends without TSO (`veth_skb_is_eligible_for_gro`), which is turned off for that.
    ///
    /// # Errors
    /// The kernel has no threaded NAPI (Linux 5.12).
    pub fn thread_napi(&self, server_cores: &[usize], client_cores: &[usize]) -> Result<()> {
        for (namespace, interface, cores) in [
            (&self.server, &self.server_if, server_cores),
            (&self.client, &self.client_if, client_cores),
        ] {
            let mut ethtool = self.exec(namespace, "ethtool");
            run(ethtool.args(["-K", interface, "tso", "off"]))?;
            let script = format!("echo 1 > /sys/class/net/{interface}/threaded");
            run(self.exec(namespace, "sh").args(["-c", &script]))?;
            let threads = threads_named(&format!("napi/{interface}-"))?;
            for (pid, core) in threads.iter().zip(cores.iter().cycle()) {
                run(Command::new("taskset").args(["-pc", &core.to_string(), pid]))?;
            }
        }
        Ok(())
    }

    /// Process IDs of the server's threaded NAPI, if it is on.
    pub fn server_napi(&self) -> Result<Vec<u32>> {
        let threads = threads_named(&format!("napi/{}-", self.server_if))?;
        Ok(threads.iter().filter_map(|pid| pid.parse().ok()).collect())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.server] {
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

/// Kernel threads whose name is this and a number, such as a NAPI ID, in the order of the numbers.
fn threads_named(prefix: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let Some(number) = name.trim_end().strip_prefix(prefix) {
            let number: u32 = number.parse().unwrap_or_default();
            found.push((number, entry.file_name().to_string_lossy().into_owned()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, pid)| pid).collect())
}

/// Removes the namespaces of processes that no longer run.
fn remove_stale() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("heimdall-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Arguments for `ethtool -K NAME` that set whether VLAN tags are taken out of packets: XDP sees only those that stay there.
pub fn vlan_offload(state: &str) -> [&str; 8] {
    let [rx, tx] = ["rxvlan", "txvlan"];
    let [outer_rx, outer_tx] = ["rx-vlan-stag-hw-parse", "tx-vlan-stag-hw-insert"];
    [rx, state, tx, state, outer_rx, state, outer_tx, state]
}

/// Runs a command to its end; its standard output. It is killed if this thread ends first.
///
/// # Errors
/// It cannot be started, or fails; what it wrote to standard error is part of the error.
pub fn run(command: &mut Command) -> Result<String> {
    process::die_with_parent(command);
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}; is it installed?"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a program that is to be executed. A process of its own writes the file: children that other threads start
/// meanwhile would inherit this one's descriptor for a moment, and nothing executes a file that is open for writing (ETXTBSY).
///
/// # Errors
/// It cannot be copied.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg(from).arg(to)).map(drop)
}

fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Does some work on a thread of its own in a namespace.
fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let enter = || -> Result<()> {
        let file = fs::File::open(Path::new("/run/netns").join(namespace))?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter namespace {namespace}"))
    };
    let worked = thread::scope(|scope| scope.spawn(|| enter().map(|()| work())).join());
    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_keeps_its_program_beside_generators_and_new_interfaces() {
        if !available("the_client_keeps_its_program_beside_generators_and_new_interfaces") {
            return;
        }
        let lab = Lab::new().unwrap();
        let has_program = || {
            let show = format!("-details link show dev {}", lab.client_if);
            lab.client_ip(&show).unwrap().contains("xdp")
        };
        let without = || lab.with_generator(|| Ok(has_program())).unwrap();
        assert!(!has_program() && !without() && !has_program());
        lab.receive_xdp_tx().unwrap();
        assert!(has_program() && !without() && has_program());
        lab.server_ip(&format!("link del {}", lab.server_if))
            .unwrap();
        lab.connect(1).unwrap();
        assert!(has_program());
    }

    #[test]
    fn each_queue_has_a_napi_thread_on_a_core_of_its_own() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if !available("each_queue_has_a_napi_thread_on_a_core_of_its_own") || cores < 2 {
            return;
        }
        let lab = Lab::with_queues(2).unwrap();
        lab.thread_napi(&[0, 1], &[0]).unwrap();
        let core = |pid: &u32| {
            let affinity = run(Command::new("taskset").args(["-cp", &pid.to_string()])).unwrap();
            affinity.trim_end().rsplit(' ').next().map(str::to_owned)
        };
        let cores: Vec<_> = lab.server_napi().unwrap().iter().filter_map(core).collect();
        assert_eq!(cores, ["0", "1"]);
    }
}
