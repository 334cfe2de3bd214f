//! The XDP program on one interface: loading, attaching, its maps and counters.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap},
    programs::{ProgramError, Xdp},
};
use heimdall_ebpf::{
    COUNTERS_MAP, Disposition, FRAGS_GLOBAL, LINKS_MAP, Link as FrameLink, MAX_LINKS,
    MAX_NEIGHBOURS, MAX_QUEUES, MAX_ROUTES, MAX_SERVED, NEIGHBOURS_MAP, PROGRAM,
    ROUTE_CHECK_GLOBAL, ROUTES_MAP, SERVED_MAP, SOCKETS_MAP, ServedKey, link_entry,
    tier::{
        TIER_BUCKETS_GLOBAL, TIER_BUCKETS_MAP, TIER_ENTRIES_GLOBAL, TIER_ENTRIES_MAP, TIER_HITS_MAP,
    },
};

use super::{
    Interface, XdpError,
    attach::{self, AttachMode, AttachPolicy},
    error::errno,
    frags,
    grace::GracePeriod,
    link::{Link, LinkInfo},
    tier::{TierMaps, TierSize, hit_counters, possible_cpus},
};

/// The XDP program on one interface, with maps of its own.
///
/// It stays attached exactly as long as this exists: a bpf_link holds it, which the kernel removes
/// with its last descriptor, even after SIGKILL. Two servers may share the link while one takes over from the
/// other: the one that comes [replaces](Self::replace) the program, and if it fails the other one
/// [restores](Self::restore) its own. Needs Linux 5.9.
pub struct Program {
    interface: String,
    id: u32,
    program: OwnedFd,
    mode: AttachMode,
    sockets: XskMap<MapData>,
    served: HashMap<MapData, [u8; ServedKey::SIZE], u32>,
    /// The entries of `served`.
    addresses: BTreeMap<[u8; ServedKey::SIZE], u32>,
    link_entries: Array<MapData, [u8; FrameLink::SIZE]>,
    /// Those that addresses refer to.
    links: Vec<FrameLink>,
    counters: PerCpuArray<MapData, u64>,
    tier: Option<TierMaps>,
    why_no_tier: Option<String>,
    grace: Arc<GracePeriod>,
    link: Link,
}

/// What the program does besides steering.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgramOptions {
    /// It has a hot tier of this size.
    pub tier: Option<TierSize>,
    /// It looks up the route of each reply, and sets the next hop's MAC address. Needs Linux 5.11.
    pub route_check: bool,
}

impl Program {
    /// Loads the program and attaches it to `interface`. It passes every packet until it has
    /// addresses to serve ([`Program::set_served`]) and sockets ([`Program::register`]).
    ///
    /// With [`ProgramOptions::tier`] it has a hot tier of that size, unless the kernel refuses the program with it
    /// ([`Program::why_no_tier`]): then it steers alone.
    ///
    /// Some drivers reset the link on this: [`Interface::wait_carrier`].
    ///
    /// # Errors
    ///
    /// [`XdpError::Occupied`] if a program is attached already, [`XdpError::NoPrivilege`],
    /// [`XdpError::KernelTooOld`], [`XdpError::Load`], [`XdpError::Attach`].
    pub fn attach(
        interface: &Interface,
        policy: AttachPolicy,
        options: ProgramOptions,
    ) -> Result<Self, XdpError> {
        // Before the program is loaded, which takes its time.
        attach::refuse_if_occupied(interface)?;
        Self::put(interface, options, |program| {
            attach::attach(program, interface, policy)
        })
    }

    /// Loads the program and puts it in the place of the one that `link` has on `interface`, as
    /// [`attach`](Self::attach) puts it on an interface without one. The mode stays, and the NIC is not reset: no packet
    /// is lost. What the other program has steered before is in its sockets' rings.
    ///
    /// # Errors
    ///
    /// [`XdpError::Replace`], [`XdpError::NoPrivilege`], [`XdpError::Load`]; the other program stays.
    pub fn replace(
        interface: &Interface,
        link: Link,
        options: ProgramOptions,
    ) -> Result<Self, XdpError> {
        Self::put(interface, options, |program| {
            let mode = attach::replace(program, interface, &link)?;
            Ok((link, mode))
        })
    }

    /// Loads the program, and has `attach` put it on the interface.
    fn put(
        interface: &Interface,
        options: ProgramOptions,
        attach: impl FnOnce(BorrowedFd<'_>) -> Result<(Link, AttachMode), XdpError>,
    ) -> Result<Self, XdpError> {
        let grace = GracePeriod::new()
            .map(Arc::new)
            .map_err(|error| XdpError::system("load an XDP program", error))?;
        let frags = frags::supported();
        let (loaded, why_no_tier) = match load(options, frags, &grace) {
            // Whatever it is, a lack of privileges included, it may not concern the program without.
            Err(error) if options.tier.is_some() => {
                let without = ProgramOptions {
                    tier: None,
                    ..options
                };
                (load(without, frags, &grace)?, Some(refusal(error)))
            }
            loaded => (loaded?, None),
        };
        let Loaded { mut ebpf, tier } = loaded;
        let program: &Xdp = ebpf
            .program(PROGRAM)
            .ok_or_else(|| missing(PROGRAM))?
            .try_into()
            .map_err(program_error)?;
        let id = program.info().map_err(program_error)?.id();
        let fd = program.fd().map_err(program_error)?.as_fd();
        let fd = fd
            .try_clone_to_owned()
            .map_err(|error| XdpError::system("keep the XDP program", error))?;
        let (link, mode) = attach(fd.as_fd())?;
        let mut program = Self {
            interface: interface.name.clone(),
            id,
            program: fd,
            mode,
            sockets: take_map(&mut ebpf, SOCKETS_MAP)?,
            served: take_map(&mut ebpf, SERVED_MAP)?,
            addresses: BTreeMap::new(),
            link_entries: take_map(&mut ebpf, LINKS_MAP)?,
            links: Vec::new(),
            counters: take_map(&mut ebpf, COUNTERS_MAP)?,
            tier,
            why_no_tier,
            grace,
            link,
        };
        program.set_links(&[interface.link()])?;
        Ok(program)
    }

    /// Puts this program back onto the interface, after another one has [replaced](Self::replace) it. Without
    /// effect if it is there.
    ///
    /// # Errors
    ///
    /// [`XdpError::Replace`]: the interface is gone, or its driver refuses.
    pub fn restore(&self) -> Result<(), XdpError> {
        self.link
            .update(self.program.as_fd())
            .map_err(|error| XdpError::Replace {
                interface: self.interface.clone(),
                why: error.to_string(),
            })
    }

    /// A descriptor of the link, for another server, which shares the link then.
    ///
    /// # Errors
    ///
    /// Too many descriptors are open.
    pub fn duplicate_link(&self) -> io::Result<OwnedFd> {
        self.link.duplicate()
    }

    /// What the link holds now: another server may have replaced this program.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn link_info(&self) -> io::Result<LinkInfo> {
        self.link.info()
    }

    /// Returns when each run of an XDP program has ended that had begun before the call, on every CPU: some 10 ms. What
    /// these runs steered is in the sockets' rings then.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`], [`XdpError::NoPrivilege`]: it is not known whether some still run.
    pub fn wait_for_runs(&self) -> Result<(), XdpError> {
        (self.grace.wait())
            .map_err(|error| XdpError::system("wait for running XDP programs", error))
    }

    /// The maps of the hot tier, for whoever fills them. `None`: it has none, or they have been taken.
    pub(crate) fn take_tier(&mut self) -> Option<TierMaps> {
        self.tier.take()
    }

    /// Why there is no hot tier although one was asked for.
    pub fn why_no_tier(&self) -> Option<&str> {
        self.why_no_tier.as_deref()
    }

    /// The mode in which it is attached.
    pub fn attach_mode(&self) -> &AttachMode {
        &self.mode
    }

    /// The program's id, as `bpftool prog` and `ip link` show it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Registers the AF_XDP socket that serves `queue`. The kernel removes the entry when the socket
    /// closes. The socket must be bound to that
    /// queue of this interface, else the kernel drops the packets steered to it.
    ///
    /// # Errors
    ///
    /// [`XdpError::QueueOutOfRange`], or [`XdpError::System`] if `xsk` is no AF_XDP socket.
    pub fn register(&mut self, queue: u32, xsk: BorrowedFd<'_>) -> Result<(), XdpError> {
        if queue >= MAX_QUEUES {
            let interface = self.interface.clone();
            return Err(XdpError::QueueOutOfRange {
                interface,
                queue,
                limit: MAX_QUEUES,
            });
        }
        self.sockets
            .set(queue, xsk.as_raw_fd(), 0)
            .map_err(|error| XdpError::map("give the XDP program an AF_XDP socket", error))
    }

    /// Removes the socket of `queue`: the queue's packets pass to the kernel.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`].
    pub fn unregister(&mut self, queue: u32) -> Result<(), XdpError> {
        self.sockets
            .unset(queue)
            .map_err(|error| XdpError::map("take an AF_XDP socket from the XDP program", error))
    }

    /// Sets which frames are steered: those of these links, [`MAX_LINKS`] at most. [`attach`](Self::attach) sets the
    /// interface's own, with any tags. If other interfaces or tags are among them than before, no address is served until
    /// the next [`set_served`](Self::set_served).
    ///
    /// # Errors
    ///
    /// [`XdpError::System`].
    pub fn set_links(&mut self, links: &[FrameLink]) -> Result<(), XdpError> {
        let identity = |link: &FrameLink| (link.interface, link.tags);
        let same = links.iter().map(identity);
        if !same.eq(self.links.iter().map(identity)) {
            self.set_served(&BTreeMap::new())?;
        }
        for (number, link) in (0..MAX_LINKS).zip(links) {
            if usize::try_from(number).is_ok_and(|at| self.links.get(at) == Some(link)) {
                continue;
            }
            self.link_entries
                .set(link_entry(1 << number), link.to_bytes(), 0)
                .map_err(|error| XdpError::map("change the links that XDP serves", error))?;
        }
        self.links = links.to_vec();
        Ok(())
    }

    /// Replaces the served addresses, from the next packet on; of the links that each is served at, the first one is bit 0.
    /// Only differences are written, so packets to an address that stays are steered without a gap. Returns how many addresses
    /// exceed [`MAX_SERVED`]: their packets pass to the kernel.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`].
    pub fn set_served(&mut self, addresses: &BTreeMap<SocketAddr, u32>) -> Result<usize, XdpError> {
        let left_out = addresses.len().saturating_sub(MAX_SERVED as usize);
        let wanted: BTreeMap<_, u32> = addresses
            .iter()
            .take(MAX_SERVED as usize)
            .map(|(address, links)| (ServedKey::from(*address).to_bytes(), *links))
            .collect();
        let refused = |error| XdpError::map("change the addresses that XDP serves", error);
        let known = self.addresses.keys();
        let gone: Vec<_> = known
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        for key in gone {
            self.served.remove(&key).map_err(refused)?;
            self.addresses.remove(&key);
        }
        for (key, links) in wanted {
            if self.addresses.get(&key) != Some(&links) {
                self.served.insert(key, links, 0).map_err(refused)?;
                self.addresses.insert(key, links);
            }
        }
        Ok(left_out)
    }

    /// How many packets got each disposition since the program was loaded, summed over the CPUs;
    /// indexed by [`Disposition`].
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the map cannot be read.
    pub fn counters(&self) -> Result<[u64; Disposition::COUNT], XdpError> {
        let mut counts = [0; Disposition::COUNT];
        for (disposition, count) in Disposition::ALL.into_iter().zip(&mut counts) {
            let per_cpu = self
                .counters
                .get(&(disposition as u32), 0)
                .map_err(|error| XdpError::map("read the XDP program's counters", error))?;
            *count = per_cpu.iter().sum();
        }
        Ok(counts)
    }
}

/// A program in the kernel that is not attached yet.
struct Loaded {
    ebpf: Ebpf,
    tier: Option<TierMaps>,
}

/// Loads the program, for packets in several buffers or for single ones.
fn load(
    options: ProgramOptions,
    frags: bool,
    grace: &Arc<GracePeriod>,
) -> Result<Loaded, XdpError> {
    let ProgramOptions { tier, route_check } = options;
    let object = frags::object(frags);
    let frags = u32::from(frags);
    let [buckets, entries] = tier.map_or([0; 2], |size| [size.buckets(), size.entries()]);
    let checks_routes = u32::from(route_check);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(TIER_BUCKETS_GLOBAL, &buckets, true)
        .override_global(TIER_ENTRIES_GLOBAL, &entries, true)
        .override_global(FRAGS_GLOBAL, &frags, true)
        .override_global(ROUTE_CHECK_GLOBAL, &checks_routes, true);
    if let Some(size) = tier {
        let hits = u32::try_from(hit_counters(size, possible_cpus()?)).unwrap_or(u32::MAX);
        loader
            .map_max_entries(TIER_BUCKETS_MAP, buckets)
            .map_max_entries(TIER_ENTRIES_MAP, entries)
            .map_max_entries(TIER_HITS_MAP, hits);
    }
    if route_check {
        loader
            .map_max_entries(ROUTES_MAP, MAX_ROUTES)
            .map_max_entries(NEIGHBOURS_MAP, MAX_NEIGHBOURS);
    }
    let mut ebpf = loader.load(&object).map_err(load_error)?;
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| missing(PROGRAM))?
        .try_into()
        .map_err(program_error)?;
    program.load().map_err(match tier {
        Some(_) => refused,
        None => program_error,
    })?;
    let tier = tier
        .map(|size| TierMaps::new(&mut ebpf, size, grace))
        .transpose()?;
    Ok(Loaded { ebpf, tier })
}

/// The program with a hot tier, loaded and attached nowhere, for test runs: it serves one address, in frames to one
/// MAC address.
///
/// # Panics
/// The kernel refuses anything.
#[cfg(test)]
pub(crate) fn load_for_tests(size: TierSize, mac: [u8; 6], served: SocketAddr) -> (Ebpf, TierMaps) {
    #![allow(clippy::unwrap_used)]
    let grace = Arc::new(GracePeriod::new().unwrap());
    let options = ProgramOptions {
        tier: Some(size),
        ..ProgramOptions::default()
    };
    let Loaded { mut ebpf, tier } = load(options, frags::supported(), &grace).unwrap();
    let map = ebpf.map_mut(SERVED_MAP).unwrap();
    let mut addresses = HashMap::<_, [u8; ServedKey::SIZE], u32>::try_from(map).unwrap();
    let key = ServedKey::from(served).to_bytes();
    addresses.insert(key, 1, 0).unwrap();
    let map = ebpf.map_mut(LINKS_MAP).unwrap();
    let mut links = Array::<_, [u8; FrameLink::SIZE]>::try_from(map).unwrap();
    links
        .set(0, FrameLink::any_tags(mac, 1).to_bytes(), 0)
        .unwrap();
    (ebpf, tier.unwrap())
}

/// What the kernel says against the program with the hot tier, without advice for programs as such.
fn refusal(error: XdpError) -> String {
    match error {
        XdpError::Load { reason, .. } => reason,
        other => other.to_string(),
    }
}

pub(super) fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, XdpError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    M::try_from(map).map_err(|error| load_error(error.into()))
}

pub(super) fn missing(name: &str) -> XdpError {
    XdpError::Load {
        reason: format!("the object has no {name}"),
        passing: false,
    }
}

fn program_error(error: ProgramError) -> XdpError {
    load_error(error.into())
}

/// The error of a program that the verifier may have refused, which it does with EACCES, too.
fn refused(error: ProgramError) -> XdpError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return program_error(error);
    };
    let reason = match objection(&verifier_log.to_string()) {
        Some(objection) => format!("{io_error}: {objection}"),
        None => io_error.to_string(),
    };
    XdpError::Load {
        reason,
        passing: is_passing(io_error.raw_os_error()),
    }
}

/// The line of the verifier's log that says what it refuses: the last one but for its statistics.
fn objection(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 4] = [
        "processed ",
        "verification time ",
        "stack depth ",
        "mark_precise",
    ];
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
}

fn load_error(error: EbpfError) -> XdpError {
    match errno(&error) {
        Some(libc::EPERM | libc::EACCES) => XdpError::NoPrivilege {
            action: "load an XDP program",
        },
        code => XdpError::Load {
            reason: error.to_string().lines().collect::<Vec<_>>().join(" / "),
            passing: is_passing(code),
        },
    }
}

/// Whether a later attempt may succeed: memory or descriptors are short, or a signal came in between.
fn is_passing(code: Option<i32>) -> bool {
    use libc::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM};
    matches!(code, Some(ENOMEM | EMFILE | ENFILE | EAGAIN | EINTR))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{process::Command, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::xdp::link::XDP_FLAGS_DRV_MODE;

    #[test]
    fn without_frags_it_is_loaded_and_a_driver_refuses_a_large_mtu() {
        if !lab::available("without_frags_it_is_loaded") {
            return;
        }
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let link = "link add hdp0 type veth peer name hdp1 mtu 9000";
            lab::run(Command::new("ip").args(link.split(' '))).unwrap();
            let index = Interface::find("hdp0").unwrap().index;
            let grace = Arc::new(GracePeriod::new().unwrap());
            let attach = |frags| {
                let Loaded { ebpf, .. } = load(ProgramOptions::default(), frags, &grace).unwrap();
                let program: &Xdp = ebpf.program(PROGRAM).unwrap().try_into().unwrap();
                let program = program.fd().unwrap().as_fd();
                Link::attach(program, index, XDP_FLAGS_DRV_MODE).map(drop)
            };
            let error = attach(false).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ERANGE), "{error}");
            if frags::supported() {
                attach(true).unwrap();
            }
        };
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn the_verifiers_objection_is_found() {
        let log = "0: R1=ctx() R10=fp0\n; at (frame.rs:3)\n5: (85) call bpf_xdp_store_bytes#190\n\
                   unknown func bpf_xdp_store_bytes#190\nverification time 43 usec\nstack depth 0\n\
                   processed 6 insns (limit 1000000) max_states_per_insn 0\n\n";
        assert_eq!(objection(log), Some("unknown func bpf_xdp_store_bytes#190"));
        assert_eq!(objection("processed 0 insns\n"), None);
        assert_eq!(objection(""), None);
    }
}
