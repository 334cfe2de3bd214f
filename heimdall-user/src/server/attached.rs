//! An interface with its XDP program, and the addresses served on it, which follow the interface's state.

use std::{
    collections::BTreeSet,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use heimdall_ebpf::MAX_SERVED;
use tracing::warn;

use super::{steering::SteeringCheck, tier::InterfaceTier};
use crate::{
    doctor::STRIPPED,
    packet::SourceFilter,
    xdp::{Address, Interface, Program, XdpError, served},
};

/// An interface with its program.
pub(super) struct Attached {
    pub(super) interface: Interface,
    program: Mutex<Program>,
    /// Senders that are not answered.
    pub(super) sources: Arc<ArcSwap<SourceFilter>>,
    /// The MTU in octets.
    pub(super) mtu: Arc<AtomicU32>,
    pub(super) tier: InterfaceTier,
    /// Addresses to serve, wildcards among them.
    listen: Vec<SocketAddr>,
    steering: Mutex<SteeringCheck>,
    /// Nothing is steered any more, as nothing arrived.
    given_up: AtomicBool,
    /// The last state of the interface that was logged, so that it is not repeated at each change.
    logged: Mutex<Vec<String>>,
}

impl Attached {
    /// A program that steers nothing yet, and serves `listen` from the first
    /// [`follow`](Self::follow) on.
    pub(super) fn new(
        interface: Interface,
        program: Program,
        listen: Vec<SocketAddr>,
        tier: InterfaceTier,
    ) -> Self {
        Self {
            mtu: Arc::new(AtomicU32::new(interface.mtu)),
            interface,
            program: Mutex::new(program),
            tier,
            sources: Arc::default(),
            listen,
            steering: Mutex::default(),
            given_up: AtomicBool::new(false),
            logged: Mutex::default(),
        }
    }

    pub(super) fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the state of the interface and its addresses, and updates what follows from it: what to
    /// serve, which senders to refuse, the MAC address and the MTU.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refuses an answer or a map's entry.
    pub(super) fn follow(&self) -> Result<(), XdpError> {
        let interface = Interface::find(&self.interface.name)?;
        self.mtu.store(interface.mtu, Ordering::Relaxed);
        let all = Address::all()?;
        let own = all.iter().map(|address| address.ip);
        let senders = own.chain(all.iter().flat_map(Address::broadcasts));
        let senders = SourceFilter::new(senders);
        self.tier.follow(interface.mtu, &senders);
        self.sources.store(Arc::new(senders));

        let ips_of = |index: &dyn Fn(u32) -> bool| -> Vec<IpAddr> {
            let those = all.iter().filter(|address| index(address.interface));
            those.map(|address| address.ip).collect()
        };
        let mut addresses = served(&self.listen, &ips_of(&|index| index == interface.index));
        let mut notes = Vec::new();
        let vlans = interface.stripped_vlans()?;
        if !vlans.is_empty() {
            let held_back = ips_of(&|index| vlans.contains(&index));
            addresses.retain(|address| !held_back.contains(&address.ip()));
            notes.push(format!(
                "{STRIPPED}; run `ethtool -K {} rxvlan off`",
                interface.name
            ));
        }
        if addresses.is_empty() {
            notes.push(
                "no address to serve: a wildcard stands for the interface's own addresses, and it has \
                 none that AF_XDP can serve; the sockets answer, or name addresses with --listen"
                    .to_owned(),
            );
        }
        if self.given_up.load(Ordering::Relaxed) {
            addresses.clear();
        }
        let left_out = {
            let mut program = self.program();
            program.set_mac(interface.mac)?;
            program.set_served(&addresses)?
        };
        if left_out > 0 {
            notes.push(format!(
                "{left_out} of {} addresses are left to the sockets: AF_XDP serves {MAX_SERVED}",
                addresses.len()
            ));
        }
        self.log_new(notes);
        Ok(())
    }

    /// Logs those of the notes that were not among the last ones.
    pub(super) fn log_new(&self, notes: Vec<String>) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut *logged, notes);
        for note in logged.iter().filter(|note| !before.contains(note)) {
            warn!("{}: {note}", self.interface.name);
        }
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
        if let Err(error) = self.program().set_served(&BTreeSet::new()) {
            warn!("{error}");
        }
    }

    /// Stops steering if no steered packet arrives. `workers` returns how many packets have
    /// reached the workers' sockets so far, also those that the kernel dropped because a ring was full, and how often
    /// the workers slept. To be called about once a second.
    pub(super) fn check_steering(&self, workers: impl FnOnce() -> (u64, u64)) {
        if self.given_up.load(Ordering::Relaxed) {
            return;
        }
        // In this order: packets that are counted as steered have arrived when arrivals are read.
        let Ok([steered, ..]) = self.program().counters() else {
            return;
        };
        let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        let (arrived, slept) = workers();
        if let Some(lost) = steering.observe(steered, arrived, slept) {
            self.give_up(lost);
        }
    }
}
