//! The XDP program: loaded, attached to one interface, told what to steer.
//!
//! It is attached by a bpf_link (Linux 5.9), which goes when its file descriptor does: whether
//! Heimdall stops or is killed, no program stays behind.

use std::{
    collections::BTreeSet,
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, XskMap},
    programs::{
        Xdp,
        links::FdLink,
        xdp::{XdpLink, XdpMode},
    },
};
use heimdall_ebpf::{MAX_QUEUES, PROGRAM, SERVED, SOCKETS, Served, VERDICTS, Verdict};
use thiserror::Error;

use super::nic::{Interface, NicError};

/// The object that `cargo xtask ebpf` built and that is committed beside its source.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../heimdall-ebpf/heimdall.bpf.o");

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver: before the kernel makes a socket buffer.
    Native,
    /// In the network stack: works with every driver, and is slower.
    Generic,
}

impl AttachMode {
    /// The mode's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why XDP cannot be used on an interface.
#[derive(Debug, Error)]
pub enum XdpError {
    /// The interface cannot be used.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// Someone else's program is there.
    #[error(
        "interface {interface} already has an XDP program, {name} (id {id}): stop the program that owns it, or remove \
         it with: ip link set dev {interface} xdp off"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Its program's name.
        name: String,
        /// Its program's number, as bpftool shows it.
        id: u32,
    },
    /// No such queue.
    #[error(
        "interface {interface} has no queue {queue}: it has {queues}, numbered from 0; see ethtool -l {interface}"
    )]
    NoQueue {
        /// The interface.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// Queues that there are.
        queues: u32,
    },
    /// Frames would not hold the interface's packets.
    #[error(
        "interface {interface} has an MTU of {mtu}, and AF_XDP frames hold {max}: ip link set dev {interface} mtu {max}"
    )]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest that fits.
        max: u32,
    },
    /// No right to.
    #[error(
        "no permission to load an XDP program on {interface}: run as root, or give CAP_NET_ADMIN, CAP_NET_RAW and \
         CAP_BPF, or use --backend socket"
    )]
    Privilege {
        /// The interface.
        interface: String,
    },
    /// The kernel would attach the program, but only so that it outlives its owner.
    #[error(
        "this kernel attaches XDP programs only for good, without bpf_link: Linux 5.9 is needed, or use --backend socket"
    )]
    NoLink,
    /// The kernel refused.
    #[error("cannot {what} on {interface}: {source}; use --backend socket to run without XDP")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The program on one interface.
pub struct Program {
    interface: String,
    mode: AttachMode,
    why_not_native: Option<String>,
    id: u32,
    served: BTreeSet<Served>,
    served_map: HashMap<MapData, ServedKey, u8>,
    sockets: XskMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    // Dropping it detaches the program, and so comes before the rest is torn down.
    _link: FdLink,
    _ebpf: Ebpf,
}

/// [`Served`] as the octets that the kernel compares.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct ServedKey([u8; 20]);

const _: () = assert!(size_of::<ServedKey>() == size_of::<Served>());

// SAFETY: an array of octets has no padding, and every value of it is valid.
unsafe impl aya::Pod for ServedKey {}

impl From<Served> for ServedKey {
    fn from(served: Served) -> Self {
        let [p0, p1] = served.port;
        let mut key = [0; 20];
        for (to, from) in key
            .iter_mut()
            .zip(served.address.into_iter().chain([p0, p1]))
        {
            *to = from;
        }
        Self(key)
    }
}

impl Program {
    /// Loads the program and attaches it to an interface: native, or else generic. It steers
    /// nothing yet.
    ///
    /// # Errors
    /// [`XdpError`]; nothing is attached then.
    pub fn attach(interface: &Interface) -> Result<Self, XdpError> {
        if let Some(id) = interface.xdp_program {
            return Err(XdpError::Occupied {
                interface: interface.name.clone(),
                name: program_name(id),
                id,
            });
        }
        let refused = |what, source: io::Error| refusal(interface, what, source);
        let mut ebpf = Ebpf::load(OBJECT)
            .map_err(|error| refused("create the XDP program's maps", os_error(&error)))?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| refused("find the XDP program", io::ErrorKind::NotFound.into()))?;
        program
            .load()
            .map_err(|error| refused("load the XDP program", os_error(&error)))?;
        let id = program
            .info()
            .map_err(|error| refused("ask for the XDP program", os_error(&error)))?
            .id();
        let (link, mode, why_not_native) =
            match program.attach_to_if_index(interface.index, XdpMode::Driver) {
                Ok(link) => (link, AttachMode::Native, None),
                Err(error) => {
                    let native = os_error(&error);
                    if matches!(
                        native.raw_os_error(),
                        Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::EACCES)
                    ) {
                        return Err(refused("attach the XDP program", native));
                    }
                    let link = program
                        .attach_to_if_index(interface.index, XdpMode::Skb)
                        .map_err(|error| refused("attach the XDP program", os_error(&error)))?;
                    (
                        link,
                        AttachMode::Generic,
                        Some(format!("the driver did not take the program ({native})")),
                    )
                }
            };
        let link: XdpLink = program
            .take_link(link)
            .map_err(|error| refused("hold the XDP program", os_error(&error)))?;
        let link = FdLink::try_from(link).map_err(|_| XdpError::NoLink)?;
        let mut take = |name: &'static str| {
            ebpf.take_map(name).ok_or_else(|| {
                refused(
                    "find the XDP program's maps",
                    io::ErrorKind::NotFound.into(),
                )
            })
        };
        let (served_map, sockets, verdicts) = (take(SERVED)?, take(SOCKETS)?, take(VERDICTS)?);
        let map_refused =
            |error: MapError| refused("open the XDP program's maps", os_error(&error));
        Ok(Self {
            interface: interface.name.clone(),
            mode,
            why_not_native,
            id,
            served: BTreeSet::new(),
            served_map: served_map.try_into().map_err(map_refused)?,
            sockets: sockets.try_into().map_err(map_refused)?,
            verdicts: verdicts.try_into().map_err(map_refused)?,
            _link: link,
            _ebpf: ebpf,
        })
    }

    /// How it is attached.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Why it is not attached in native mode, in words.
    pub fn why_not_native(&self) -> Option<&str> {
        self.why_not_native.as_deref()
    }

    /// Its number, as bpftool and `ip link` show it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Gives a queue's packets to an AF_XDP socket, until that is closed.
    ///
    /// # Errors
    /// [`XdpError`]
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        debug_assert!(queue < MAX_QUEUES);
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|error| self.kernel("put the socket into the XSKMAP", os_error(&error)))
    }

    /// Makes exactly these endpoints be steered. What is served already is not interrupted.
    ///
    /// # Errors
    /// [`XdpError`]
    pub fn serve(&mut self, endpoints: BTreeSet<Served>) -> Result<(), XdpError> {
        for gone in self.served.difference(&endpoints) {
            self.served_map
                .remove(&ServedKey::from(*gone))
                .map_err(|error| self.kernel("stop to steer an address", os_error(&error)))?;
        }
        for new in endpoints.difference(&self.served) {
            self.served_map
                .insert(ServedKey::from(*new), 0, 0)
                .map_err(|error| {
                    refusal_by_name(&self.interface, "steer an address", os_error(&error))
                })?;
        }
        self.served = endpoints;
        Ok(())
    }

    /// What the program made of the packets so far, summed over all CPUs.
    pub fn verdicts(&self) -> Vec<(&'static str, u64)> {
        Verdict::ALL
            .iter()
            .map(|verdict| {
                let per_cpu = self.verdicts.get(&(*verdict as u32), 0);
                (
                    verdict.name(),
                    per_cpu
                        .map(|counts| counts.iter().sum())
                        .unwrap_or_default(),
                )
            })
            .collect()
    }

    fn kernel(&self, what: &'static str, source: io::Error) -> XdpError {
        refusal_by_name(&self.interface, what, source)
    }
}

/// Name of a loaded program.
fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "of unknown name".to_owned())
}

fn refusal(interface: &Interface, what: &'static str, source: io::Error) -> XdpError {
    if source.raw_os_error() == Some(libc::EBUSY)
        && let Some(id) = Interface::find(&interface.name)
            .ok()
            .and_then(|now| now.xdp_program)
    {
        return XdpError::Occupied {
            interface: interface.name.clone(),
            name: program_name(id),
            id,
        };
    }
    refusal_by_name(&interface.name, what, source)
}

fn refusal_by_name(interface: &str, what: &'static str, source: io::Error) -> XdpError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => XdpError::Privilege {
            interface: interface.to_owned(),
        },
        _ => XdpError::Kernel {
            what,
            interface: interface.to_owned(),
            source,
        },
    }
}

/// The operating system's error at the root of another one, or its words if there is none.
fn os_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return io::Error::from_raw_os_error(code);
        }
        next = error.source();
    }
    io::Error::other(
        error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
    )
}
