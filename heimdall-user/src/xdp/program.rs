//! The XDP program on one interface: loading, attaching, its maps and counters.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap},
    programs::{ProgramError, Xdp, loaded_links, loaded_programs},
    util::KernelVersion,
};
use heimdall_ebpf::{
    COUNTERS_MAP, Disposition, MAC_MAP, MAX_QUEUES, MAX_SERVED, PROGRAM, SERVED_MAP, SOCKETS_MAP,
    ServedKey, mac_word,
    tier::{
        TIER_BUCKETS_GLOBAL, TIER_BUCKETS_MAP, TIER_ENTRIES_GLOBAL, TIER_ENTRIES_MAP, TIER_HITS_MAP,
    },
};

use super::{
    Interface, XdpError,
    error::errno,
    link::{self, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE},
    nic::Attached,
    tier::{TierMaps, TierSize, hit_counters, possible_cpus},
};

/// The object that `cargo xtask ebpf` builds from the sources beside it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../heimdall-ebpf/heimdall.bpf.o"
));

/// Which modes [`Program::attach`] may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachPolicy {
    /// Native if the driver can, else generic.
    NativeThenGeneric,
    /// Generic, whatever the driver can.
    GenericOnly,
}

/// The mode in which the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel makes an skb.
    Native,
    /// In the network stack, on an skb: works with every driver, but most of the gain is lost.
    Generic {
        /// Why it is not native, as text.
        why: String,
    },
}

impl AttachMode {
    /// `native` or `generic`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic { .. } => "generic",
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Generic { why } => write!(f, "generic (not native: {why})"),
        }
    }
}

/// The XDP program on one interface, with maps of its own.
///
/// It stays attached exactly as long as this exists: a bpf_link holds it, which the kernel removes
/// with its last descriptor, even after SIGKILL. Needs Linux 5.9.
pub struct Program {
    interface: String,
    id: u32,
    mode: AttachMode,
    sockets: XskMap<MapData>,
    served: HashMap<MapData, [u8; ServedKey::SIZE], u8>,
    /// The keys in `served`.
    keys: BTreeSet<[u8; ServedKey::SIZE]>,
    mac: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    tier: Option<TierMaps>,
    why_no_tier: Option<String>,
    _link: OwnedFd,
}

impl Program {
    /// Loads the program and attaches it to `interface`. It passes every packet until it has
    /// addresses to serve ([`Program::set_served`]) and sockets ([`Program::register`]).
    ///
    /// With `tier` it has a hot tier of that size, unless the kernel refuses the program with it
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
        tier: Option<TierSize>,
    ) -> Result<Self, XdpError> {
        refuse_if_occupied(interface)?;
        let (loaded, why_no_tier) = match tier.map(|size| load(Some(size))) {
            None => (load(None)?, None),
            Some(Ok(loaded)) => (loaded, None),
            // Whatever it is, a lack of privileges included, it may not concern the program without.
            Some(Err(error)) => (load(None)?, Some(refusal(error))),
        };
        let Loaded { mut ebpf, tier } = loaded;
        let program: &Xdp = ebpf
            .program(PROGRAM)
            .ok_or_else(|| missing(PROGRAM))?
            .try_into()
            .map_err(program_error)?;
        let id = program.info().map_err(program_error)?.id();
        let fd = program.fd().map_err(program_error)?.as_fd();
        let (link, mode) = attach_link(fd, interface, policy)?;
        let mut program = Self {
            interface: interface.name.clone(),
            id,
            mode,
            sockets: take_map(&mut ebpf, SOCKETS_MAP)?,
            served: take_map(&mut ebpf, SERVED_MAP)?,
            keys: BTreeSet::new(),
            mac: take_map(&mut ebpf, MAC_MAP)?,
            counters: take_map(&mut ebpf, COUNTERS_MAP)?,
            tier,
            why_no_tier,
            _link: link,
        };
        program.set_mac(interface.mac)?;
        Ok(program)
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

    /// Sets the interface's MAC address; frames to another one are passed. [`attach`](Self::attach)
    /// sets the address of that time.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`].
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), XdpError> {
        self.mac
            .set(0, mac_word(mac), 0)
            .map_err(|error| XdpError::map("change the MAC address that XDP serves", error))
    }

    /// Replaces the served addresses, from the next packet on. Only differences are written, so packets
    /// to an address that stays are steered without a gap. Returns how many addresses exceed
    /// [`MAX_SERVED`]: their packets pass to the kernel.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`].
    pub fn set_served(&mut self, addresses: &BTreeSet<SocketAddr>) -> Result<usize, XdpError> {
        let left_out = addresses.len().saturating_sub(MAX_SERVED as usize);
        let wanted: BTreeSet<_> = addresses
            .iter()
            .take(MAX_SERVED as usize)
            .map(|address| ServedKey::from(*address).to_bytes())
            .collect();
        let refused = |error| XdpError::map("change the addresses that XDP serves", error);
        let gone: Vec<_> = self.keys.difference(&wanted).copied().collect();
        for key in gone {
            self.served.remove(&key).map_err(refused)?;
            self.keys.remove(&key);
        }
        for key in wanted {
            if !self.keys.contains(&key) {
                self.served.insert(key, 1, 0).map_err(refused)?;
                self.keys.insert(key);
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

/// Loads the program, with a hot tier of that size or without one.
fn load(tier: Option<TierSize>) -> Result<Loaded, XdpError> {
    let [buckets, entries] = tier.map_or([0; 2], |size| [size.buckets(), size.entries()]);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(TIER_BUCKETS_GLOBAL, &buckets, true)
        .override_global(TIER_ENTRIES_GLOBAL, &entries, true);
    if let Some(size) = tier {
        let hits = u32::try_from(hit_counters(size, possible_cpus()?)).unwrap_or(u32::MAX);
        loader
            .map_max_entries(TIER_BUCKETS_MAP, buckets)
            .map_max_entries(TIER_ENTRIES_MAP, entries)
            .map_max_entries(TIER_HITS_MAP, hits);
    }
    let mut ebpf = loader.load(OBJECT).map_err(load_error)?;
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
        .map(|size| TierMaps::new(&mut ebpf, size))
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
    let Loaded { mut ebpf, tier } = load(Some(size)).unwrap();
    let map = ebpf.map_mut(SERVED_MAP).unwrap();
    let mut addresses = HashMap::<_, [u8; ServedKey::SIZE], u8>::try_from(map).unwrap();
    let key = ServedKey::from(served).to_bytes();
    addresses.insert(key, 1, 0).unwrap();
    let mut own = Array::try_from(ebpf.map_mut(MAC_MAP).unwrap()).unwrap();
    own.set(0, mac_word(mac), 0).unwrap();
    (ebpf, tier.unwrap())
}

/// What the kernel says against the program with the hot tier, without advice for programs as such.
fn refusal(error: XdpError) -> String {
    match error {
        XdpError::Load { reason } => reason,
        other => other.to_string(),
    }
}

/// Attaches in the best mode that `policy` allows and the kernel grants.
fn attach_link(
    program: BorrowedFd<'_>,
    interface: &Interface,
    policy: AttachPolicy,
) -> Result<(OwnedFd, AttachMode), XdpError> {
    let why = match policy {
        AttachPolicy::GenericOnly => "generic mode was configured".to_owned(),
        AttachPolicy::NativeThenGeneric => {
            match link::attach(program, interface.index, XDP_FLAGS_DRV_MODE) {
                Ok(link) => return Ok((link, AttachMode::Native)),
                Err(error) => {
                    // Errors that generic mode would meet, too.
                    attach_obstacle(interface, &error)?;
                    why_not_native(interface, &error)
                }
            }
        }
    };
    match link::attach(program, interface.index, XDP_FLAGS_SKB_MODE) {
        Ok(link) => Ok((link, AttachMode::Generic { why })),
        Err(error) => {
            attach_obstacle(interface, &error)?;
            let why = format!("generic mode: {error}; native mode: {why}");
            Err(XdpError::Attach {
                interface: interface.name.clone(),
                why,
            })
        }
    }
}

/// Why native mode was refused, as text.
fn why_not_native(interface: &Interface, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        Some(libc::ERANGE | libc::EINVAL | libc::E2BIG) => format!(
            "the driver refuses it ({error}), mostly because an MTU is too large; that of {} is {}",
            interface.name, interface.mtu
        ),
        _ => format!("the driver refuses it ({error})"),
    }
}

/// Fails if `error` does not concern the mode that was tried.
fn attach_obstacle(interface: &Interface, error: &io::Error) -> Result<(), XdpError> {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Err(XdpError::NoPrivilege {
            action: "attach an XDP program",
        }),
        // Another program was attached in the meantime.
        Some(libc::EBUSY | libc::EEXIST) => refuse_if_occupied(interface),
        Some(libc::EINVAL) => match KernelVersion::current() {
            Ok(version) if version < KernelVersion::new(5, 9, 0) => Err(XdpError::KernelTooOld {
                version: version.to_string(),
            }),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn refuse_if_occupied(interface: &Interface) -> Result<(), XdpError> {
    let programs = interface.xdp_programs()?;
    let Some(attached) = programs.first().copied() else {
        return Ok(());
    };
    let (name, remedy) = owner(&interface.name, attached);
    let id = attached.id;
    Err(XdpError::Occupied {
        interface: interface.name.clone(),
        program: name.map_or_else(|| id.to_string(), |name| format!("{id} ({name})")),
        remedy,
    })
}

/// The name of a program on an interface, if this process may see it, and how to remove it.
pub(super) fn owner(interface: &str, attached: Attached) -> (Option<String>, String) {
    let Attached { id, generic } = attached;
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| Some(info.name_as_str()?.to_owned()));
    let link = loaded_links()
        .filter_map(Result::ok)
        .find(|link| link.program_id() == id);
    let remedy = match link {
        Some(link) => format!(
            "stop the process that owns it, or run `bpftool link detach id {}`",
            link.id()
        ),
        None => format!(
            "stop the program that owns it, or run `ip link set dev {interface} {} off`",
            if generic { "xdpgeneric" } else { "xdp" }
        ),
    };
    (name, remedy)
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
    XdpError::Load { reason }
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
        _ => XdpError::Load {
            reason: error.to_string().lines().collect::<Vec<_>>().join(" / "),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::objection;

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
