//! A port with its XDP program, and the addresses served on it, which follow the state of the interfaces that it serves.

use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use heimdall_ebpf::{MAX_LINKS, MAX_SERVED};
use tracing::warn;

use super::{preflight::layers, steering::SteeringCheck, tier::InterfaceTier};
use crate::{
    config::{Config, InterfaceConfig},
    packet::SourceFilter,
    xdp::{
        Address, AttachMode, Interface, Program, Served, XdpError,
        xsk::{NoZeroCopy, Xsk},
    },
};

/// What AF_XDP is to serve, on the ports of these interfaces.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) interfaces: Vec<InterfaceConfig>,
    /// Wildcards among them.
    pub(super) addresses: Vec<SocketAddr>,
    /// Those of `[anycast]`, which are served after they were withdrawn, too: routers learn of it later.
    services: Vec<IpAddr>,
    /// Replies follow the kernel's routes.
    pub(super) route_check: bool,
}

impl Wanted {
    pub(super) fn new(config: &Config, addresses: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            interfaces: config.interfaces.clone(),
            addresses,
            services: config.anycast.addresses.clone(),
            route_check: config.xdp.route_check,
        })
    }

    /// The addresses to serve that no interface has; `own` are those that one has. Each with whether the host has it all the
    /// same, by a route or as a service.
    fn elsewhere(&self, own: &[Address]) -> BTreeMap<IpAddr, bool> {
        let whole = self
            .addresses
            .iter()
            .filter(|listen| !matches!(listen, SocketAddr::V6(v6) if v6.scope_id() != 0));
        let named = whole.map(|listen| listen.ip().to_canonical());
        let absent = named.filter(|ip| !ip.is_unspecified() && own.iter().all(|one| one.ip != *ip));
        absent.map(|ip| (ip, self.is_here(ip))).collect()
    }

    fn is_here(&self, ip: IpAddr) -> bool {
        self.services.contains(&ip) || Address::is_routed_here(ip)
    }
}

/// A port with its program.
pub(super) struct Attached {
    pub(super) interface: Interface,
    wanted: Arc<Wanted>,
    program: Mutex<Program>,
    /// Senders that are not answered.
    pub(super) sources: Arc<ArcSwap<SourceFilter>>,
    /// The largest IP packet of a reply in octets: the least MTU of the port and of the links on it.
    pub(super) mtu: Arc<AtomicU32>,
    /// The port's own MTU in octets, which decides how large frames are.
    port_mtu: AtomicU32,
    /// Why none of its queues is to be bound in zero-copy mode, once that is known.
    no_zero_copy: OnceLock<NoZeroCopy>,
    pub(super) tier: InterfaceTier,
    steering: Mutex<SteeringCheck>,
    /// Nothing is steered any more, as nothing arrived.
    given_up: AtomicBool,
    /// Nothing is steered, as the server is to end, or another one serves the interface.
    retired: AtomicBool,
    /// The addresses to serve that no interface has, as in [`Wanted::elsewhere`].
    elsewhere: Mutex<BTreeMap<IpAddr, bool>>,
    /// The last state of the interface that was logged, so that it is not repeated at each change.
    logged: Mutex<Vec<String>>,
}

impl Attached {
    /// A program that steers nothing yet, and serves what is `wanted` from the first [`follow`](Self::follow) on.
    pub(super) fn new(
        interface: Interface,
        program: Program,
        wanted: Arc<Wanted>,
        tier: InterfaceTier,
    ) -> Self {
        let no_zero_copy = match program.attach_mode() {
            AttachMode::Native => OnceLock::new(),
            AttachMode::Generic { .. } => {
                NoZeroCopy::device("the XDP program runs in generic mode").into()
            }
        };
        Self {
            no_zero_copy,
            mtu: Arc::new(AtomicU32::new(interface.mtu)),
            port_mtu: AtomicU32::new(interface.mtu),
            interface,
            wanted,
            program: Mutex::new(program),
            tier,
            sources: Arc::default(),
            steering: Mutex::default(),
            given_up: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            elsewhere: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    /// The port's MTU in octets, as last read.
    pub(super) fn port_mtu(&self) -> u32 {
        self.port_mtu.load(Ordering::Relaxed)
    }

    /// Why none of its queues is to be bound in zero-copy mode, if that is known.
    pub(super) fn no_zero_copy(&self) -> Option<NoZeroCopy> {
        self.no_zero_copy.get().cloned()
    }

    /// Keeps what a socket's binding has told of the driver.
    pub(super) fn learn_zero_copy(&self, xsk: &Xsk) {
        if let Some(why) = xsk.why_not_zero_copy().filter(|why| why.of_device) {
            self.no_zero_copy.get_or_init(|| why.clone());
        }
    }

    pub(super) fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the state of the interfaces and their addresses, and updates what follows from it: what to
    /// serve, which senders to refuse, the MAC addresses and the MTU. Nothing is served on what is no port any more.
    ///
    /// # Errors
    /// The kernel refuses an answer or a map's entry.
    pub(super) fn follow(&self) -> Result<(), XdpError> {
        let layers = layers(&self.wanted.interfaces)?;
        let mut ports = layers.ports.into_iter();
        let Some(mut port) = ports.find(|port| port.interface.index == self.interface.index) else {
            return self.program().set_served(&BTreeMap::new()).map(drop);
        };
        if self.wanted.route_check {
            port.separate_vlans()?;
        }
        let mtus = port.links.iter().map(|link| link.mtu);
        let mtu = mtus.fold(port.interface.mtu, u32::min);
        self.mtu.store(mtu, Ordering::Relaxed);
        self.port_mtu.store(port.interface.mtu, Ordering::Relaxed);
        let mut all = Address::all()?;
        let elsewhere = self.wanted.elsewhere(&all);
        let here = elsewhere.iter().filter(|(_, is_here)| **is_here);
        all.extend(here.map(|(ip, _)| Address::without_interface(*ip)));
        *self.elsewhere() = elsewhere;
        let own = all.iter().map(|address| address.ip);
        let senders = own.chain(all.iter().flat_map(Address::broadcasts));
        let senders = SourceFilter::new(senders);
        self.tier.follow(mtu, &senders);
        self.sources.store(Arc::new(senders));

        // As senders they are refused already, so that nothing but this changes once they are used.
        all.retain(|address| !address.tentative);
        let stripped = port.interface.stripped_vlans()?;
        let mut served = Served::new(&port.links, &self.wanted.addresses, &all, &stripped.links);
        let mut notes = Vec::new();
        if !stripped.links.is_empty() {
            notes.push(format!("{}; run `{}`", stripped.effect(), stripped.command));
        }
        if let Some(queues) = port.interface.unusable_queues() {
            notes.push(format!("{}; {}", queues.effect, queues.remedy));
        }
        if served.addresses.is_empty() && !port.links.is_empty() {
            notes.push(
                "no address to serve: a wildcard stands for the interface's own addresses, and it has \
                 none that AF_XDP can serve; the sockets answer, or name addresses with --listen"
                    .to_owned(),
            );
        }
        if served.left_out > 0 {
            notes.push(format!(
                "{} interfaces and MAC addresses are left to the sockets: AF_XDP serves {MAX_LINKS} on one NIC",
                served.left_out
            ));
        }
        if self.given_up.load(Ordering::Relaxed) || self.retired.load(Ordering::Relaxed) {
            served.addresses.clear();
        }
        let left_out = {
            let mut program = self.program();
            program.set_links(&served.links)?;
            program.set_served(&served.addresses)?
        };
        if left_out > 0 {
            notes.push(format!(
                "{left_out} of {} addresses are left to the sockets: AF_XDP serves {MAX_SERVED}",
                served.addresses.len()
            ));
        }
        self.log_new(notes);
        Ok(())
    }

    fn elsewhere(&self) -> MutexGuard<'_, BTreeMap<IpAddr, bool>> {
        self.elsewhere
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows local routes, whose changes are no events here: there may be very many of other routes.
    pub(super) fn check_routes(&self) {
        let differs = |(ip, was_here): (&IpAddr, &bool)| self.wanted.is_here(*ip) != *was_here;
        let has_changed = self.elsewhere().iter().any(differs);
        if has_changed && let Err(error) = self.follow() {
            self.log_new(vec![error.to_string()]);
        }
    }

    /// Logs those of the notes that were not among the last ones.
    pub(super) fn log_new(&self, notes: Vec<String>) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut *logged, notes);
        for note in logged.iter().filter(|note| !before.contains(note)) {
            warn!("{}: {note}", self.interface.name);
        }
    }

    /// Leaves all packets to the sockets, until [`resume`](Self::resume). Runs of the program that have begun before may still steer:
    /// see [`Program::wait_for_runs`].
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn retire(&self) -> Result<(), XdpError> {
        self.retired.store(true, Ordering::Relaxed);
        self.program().set_served(&BTreeMap::new()).map(drop)
    }

    /// Puts the program back onto the interface, if another server has replaced it. It steers from the next
    /// [`follow`](Self::follow) on.
    ///
    /// # Errors
    /// As [`Program::restore`].
    pub(super) fn resume(&self) -> Result<(), XdpError> {
        self.program().restore()?;
        self.retired.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Leaves all packets to the sockets from now on.
    fn give_up(&self, lost: u64) {
        self.given_up.store(true, Ordering::Relaxed);
        self.tier.stop("AF_XDP does not work on the interface");
        warn!(
            "{}: none of the last {lost} queries that were steered reached an AF_XDP socket; the \
             sockets answer from now on. AF_XDP does not work on this interface: use another one, or \
             --backend socket",
            self.interface.name
        );
        if let Err(error) = self.program().set_served(&BTreeMap::new()) {
            warn!("{error}");
        }
    }

    /// Stops steering if no steered packet arrives. `workers` returns how many packets have
    /// reached the workers' sockets so far, also those that the kernel dropped because a ring was full, and how often
    /// the workers have looked at their rings. To be called about once a second.
    pub(super) fn check_steering(&self, workers: impl FnOnce() -> (u64, u64)) {
        if self.given_up.load(Ordering::Relaxed) {
            return;
        }
        // In this order: packets that are counted as steered have arrived when arrivals are read.
        let Ok([steered, ..]) = self.program().counters() else {
            return;
        };
        let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        let (arrived, looked) = workers();
        if let Some(lost) = steering.observe(steered, arrived, looked) {
            self.give_up(lost);
        }
    }
}
