//! How the program gets onto an interface: in which mode, and what stands against it.

use std::{fmt, io, os::fd::BorrowedFd};

use aya::{
    programs::{loaded_links, loaded_programs},
    util::KernelVersion,
};

use super::{
    Interface, XdpError, frags,
    link::{self, Link, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE},
    nic::Attached,
};

/// The program of libxdp that runs others, one after the other, each in the place of one of its functions:
/// <https://github.com/xdp-project/xdp-tools/blob/main/lib/libxdp/protocol.org>.
///
/// Heimdall's program is not added to it. That takes a new dispatcher, with all programs of the old one, and files in bpffs
/// that keep them; all of it would stay on the interface when the process is killed.
const DISPATCHER: &str = "xdp_dispatcher";

/// Which modes [`Program::attach`](super::Program::attach) may use.
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

/// Attaches in the best mode that `policy` allows and the kernel grants.
///
/// # Errors
///
/// [`XdpError::Occupied`], [`XdpError::NoPrivilege`], [`XdpError::KernelTooOld`], [`XdpError::Attach`].
pub(super) fn attach(
    program: BorrowedFd<'_>,
    interface: &Interface,
    policy: AttachPolicy,
) -> Result<(Link, AttachMode), XdpError> {
    let why = match policy {
        AttachPolicy::GenericOnly => "generic mode was configured".to_owned(),
        AttachPolicy::NativeThenGeneric => {
            match Link::attach(program, interface.index, XDP_FLAGS_DRV_MODE) {
                Ok(link) => return Ok((link, AttachMode::Native)),
                Err(error) => {
                    // Errors that generic mode would meet, too.
                    attach_obstacle(interface, &error)?;
                    why_not_native(interface, &error)
                }
            }
        }
    };
    match Link::attach(program, interface.index, XDP_FLAGS_SKB_MODE) {
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

/// Replaces the program that `link` has on `interface`. The mode stays.
///
/// # Errors
///
/// [`XdpError::Replace`]: the other program stays.
pub(super) fn replace(
    program: BorrowedFd<'_>,
    interface: &Interface,
    link: &Link,
) -> Result<AttachMode, XdpError> {
    let refused = |error: io::Error| XdpError::Replace {
        interface: interface.name.clone(),
        why: error.to_string(),
    };
    let gone = || refused(io::Error::from_raw_os_error(libc::ENOLINK));
    let before = held(interface, link)?.ok_or_else(gone)?;
    link.update(program).map_err(refused)?;
    Ok(if before.generic {
        AttachMode::Generic {
            why: "the program that it replaced was not".to_owned(),
        }
    } else {
        AttachMode::Native
    })
}

/// The program on `interface` that `link` has, if it is this interface that the link is on. The index alone
/// does not tell: in another network namespace another interface has it.
fn held(interface: &Interface, link: &Link) -> Result<Option<Attached>, XdpError> {
    let info = link
        .info()
        .map_err(|error| XdpError::system("read what a bpf_link holds", error))?;
    if info.interface != interface.index {
        return Ok(None);
    }
    let mut programs = interface.xdp_programs()?.into_iter();
    Ok(programs.find(|attached| attached.id == info.program))
}

impl Link {
    /// Takes out of `links` the one that has a program on `interface`.
    ///
    /// # Errors
    ///
    /// The kernel does not say what they hold.
    pub(crate) fn take(
        links: &mut Vec<Self>,
        interface: &Interface,
    ) -> Result<Option<Self>, XdpError> {
        for at in 0..links.len() {
            if let Some(link) = links.get(at)
                && held(interface, link)?.is_some()
            {
                return Ok(Some(links.swap_remove(at)));
            }
        }
        Ok(None)
    }
}

/// Why native mode was refused, as text.
fn why_not_native(interface: &Interface, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        Some(libc::ERANGE | libc::EINVAL | libc::E2BIG) => format!(
            "the driver refuses it ({error}), mostly because an MTU is too large; that of {} is {}{}",
            interface.name,
            interface.mtu,
            if frags::supported() {
                ""
            } else {
                ", and with Linux 5.18 and newer many drivers serve 9000"
            }
        ),
        // `veth_xdp_set`, drivers/net/veth.c.
        Some(libc::ENOSPC) if interface.driver().as_deref() == Some("veth") => {
            let (name, queues) = (&interface.name, interface.rx_queues);
            format!(
                "the peer sends from more queues than the {queues} that {name} receives on; where the peer is, run \
                 `ethtool -L PEER tx {queues}`, and restart"
            )
        }
        Some(libc::ENOSPC) => format!("the driver lacks queues for it ({error})"),
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

/// Fails with [`XdpError::Occupied`] if a program is on the interface.
pub(super) fn refuse_if_occupied(interface: &Interface) -> Result<(), XdpError> {
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
    let name = program_name(id);
    let links: Vec<_> = loaded_links().collect();
    if !links.is_empty() && links.iter().all(Result::is_err) {
        // They are shown to CAP_SYS_ADMIN only, which a server gives up.
        let remedy = "as root, `heimdall doctor` tells whose it is, and how to remove it";
        return (name, remedy.to_owned());
    }
    if name.as_deref() == Some(DISPATCHER) {
        return (name, leave_dispatcher(interface, id));
    }
    let mut links = links.into_iter().filter_map(Result::ok);
    let link = links.find(|link| link.program_id() == id);
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

/// The name of a program, if this process may see it.
fn program_name(id: u32) -> Option<String> {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id)?;
    Some(program.name_as_str()?.to_owned())
}

/// Which programs libxdp's dispatcher runs, and how to remove them.
fn leave_dispatcher(interface: &str, id: u32) -> String {
    let programs: Vec<String> = link::replacements(id)
        .into_iter()
        .map(|id| match program_name(id) {
            Some(name) => format!("{name} ({id})"),
            None => id.to_string(),
        })
        .collect();
    let runs = match programs.as_slice() {
        [] => "runs no program now".to_owned(),
        programs => format!("runs {}", programs.join(", ")),
    };
    format!(
        "libxdp's dispatcher {runs}, and Heimdall's program cannot run in it: stop what uses them and run \
         `xdp-loader unload {interface} --all`, serve another interface, or use --backend socket"
    )
}
