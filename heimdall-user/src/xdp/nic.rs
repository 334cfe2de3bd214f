//! A network interface: its name, queues, MTU and MAC address, its IP addresses and VLANs.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use heimdall_ebpf::{Link, MAX_QUEUES};
use netlink_packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage, LinkXdp, XdpAttached};

use super::{Address, XdpError, ethtool, hardware, kind, layers};
use crate::netlink;

/// Polling interval of [`Interface::wait_carrier`].
const CARRIER_INTERVAL: Duration = Duration::from_millis(10);

/// An Ethernet interface of this network namespace, as of its look-up.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Name, as `ip link` shows it.
    pub name: String,
    /// Index, 1 or more.
    pub(crate) index: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether it is administratively up (IFF_UP), with or without carrier.
    pub(crate) up: bool,
    /// Receive queues in use, 1 or more. The kernel binds AF_XDP sockets to queues below this
    /// number (and to send-only ones, if there are more of those).
    pub rx_queues: u32,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// The program's id.
    pub(super) id: u32,
    /// Whether it is in generic mode.
    pub(super) generic: bool,
}

impl Interface {
    /// Looks an interface up by name, whatever is above or below it: see [`Layers`](super::Layers).
    ///
    /// # Errors
    ///
    /// [`XdpError::UnknownInterface`], [`XdpError::NotEthernet`], and [`XdpError::System`] if the kernel does not answer.
    pub fn find(name: &str) -> Result<Self, XdpError> {
        let link = link(name)?;
        if link.header.link_layer_type != LinkLayerType::Ether {
            return Err(XdpError::NotEthernet {
                interface: name.to_owned(),
            });
        }
        Ok(Self::read(&link))
    }

    pub(super) fn read(link: &LinkMessage) -> Self {
        let name = kind::name(link).unwrap_or_default();
        Self {
            index: link.header.index,
            mtu: kind::mtu(link),
            mac: kind::mac(link),
            up: kind::is_up(link),
            rx_queues: rx_queues(name, link.header.index),
            name: name.to_owned(),
        }
    }

    /// Its frames to its MAC address, whatever their tags: for [`Program::set_links`](super::Program::set_links).
    pub fn link(&self) -> Link {
        Link::any_tags(self.mac, self.index)
    }

    /// The queues of it to serve, all by default, if AF_XDP can serve them. Nothing is opened.
    ///
    /// # Errors
    ///
    /// [`XdpError::NoQueue`].
    pub(crate) fn queues(&self, wanted: Option<&BTreeSet<u32>>) -> Result<Vec<u32>, XdpError> {
        let numbers: Vec<u32> = match wanted {
            Some(numbers) => numbers.iter().copied().collect(),
            None => (0..self.rx_queues.min(MAX_QUEUES)).collect(),
        };
        if let Some(&queue) = numbers.iter().find(|queue| **queue >= self.rx_queues) {
            return Err(XdpError::NoQueue {
                interface: self.name.clone(),
                queue,
                queues: self.rx_queues,
            });
        }
        Ok(numbers)
    }

    /// The interface's current addresses of both families, link-local ones included.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list them.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, XdpError> {
        let all = Address::all()?.into_iter();
        let mine = all.filter(|address| address.interface == self.index);
        Ok(mine.map(|address| address.ip).collect())
    }

    /// Indices of the VLAN interfaces on top of this one, or on top of the bond, team or bridge that it is a
    /// member of, and of what is above them, whose tags the NIC strips before the XDP program runs: a reply to such a frame
    /// would leave without its tag. Empty if the NIC leaves tags in the frame.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list its links.
    pub fn stripped_vlans(&self) -> Result<Vec<u32>, XdpError> {
        if !ethtool::strips_vlan_tags(&self.name).unwrap_or_default() {
            return Ok(Vec::new());
        }
        let links = kind::links()?;
        let vlans = layers::behind_tags(&links, self.index).into_iter();
        Ok(vlans.map(|link| link.header.index).collect())
    }

    /// The name of its driver, if that tells it.
    pub(crate) fn driver(&self) -> Option<String> {
        Some(hardware::driver(&self.name).ok()?.name)
    }

    /// Whether the interface has a carrier now.
    ///
    /// # Errors
    ///
    /// [`XdpError::UnknownInterface`] if the interface went away.
    pub(crate) fn has_carrier(&self) -> Result<bool, XdpError> {
        Ok(link(&self.name)?
            .attributes
            .contains(&LinkAttribute::Carrier(1)))
    }

    /// Waits for a carrier, for `timeout` at most; returns whether there is one. Some drivers reset the
    /// link when a program is attached.
    ///
    /// # Errors
    ///
    /// [`XdpError::UnknownInterface`] if the interface went away.
    pub fn wait_carrier(&self, timeout: Duration) -> Result<bool, XdpError> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.has_carrier()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(CARRIER_INTERVAL);
        }
    }

    /// What the interface lacks for busy polling, with the commands that set it. `None`: nothing, or
    /// sysfs does not show it.
    pub(crate) fn busy_poll_advice(&self) -> Option<String> {
        let directory = sysfs(&self.name, self.index).ok()?;
        let lacks = lacks_for_busy_polling(Path::new(&directory));
        let commands = lacks.map(|(file, value)| format!("echo {value} > {directory}/{file}"));
        let commands: Vec<String> = commands.collect();
        if commands.is_empty() {
            return None;
        }
        Some(format!(
            "{}: packets also arrive without busy polling, which then costs more than it saves; stop that \
             with: {}",
            self.name,
            commands.join("; ")
        ))
    }

    /// The XDP programs on the interface.
    pub(super) fn xdp_programs(&self) -> Result<Vec<Attached>, XdpError> {
        Ok(programs(&link(&self.name)?))
    }
}

/// The XDP programs on an interface.
pub(super) fn programs(link: &LinkMessage) -> Vec<Attached> {
    let mut programs = Vec::new();
    for attribute in &link.attributes {
        let LinkAttribute::Xdp(xdp) = attribute else {
            continue;
        };
        let generic = xdp.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
        for nla in xdp {
            // One program: PROG_ID. One in each mode: an id each, and no PROG_ID.
            let (id, generic) = match nla {
                LinkXdp::ProgId(id) => (*id, generic),
                LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => (*id, false),
                LinkXdp::SkbProgId(id) => (*id, true),
                _ => continue,
            };
            let attached = Attached { id, generic };
            if id != 0 && !programs.contains(&attached) {
                programs.push(attached);
            }
        }
    }
    programs
}

/// The files of an interface's directory in sysfs that keep packets from arriving by busy polling
/// alone, and what to write to each.
///
/// See <https://docs.kernel.org/networking/napi.html#irq-mitigation>.
pub(crate) fn lacks_for_busy_polling(
    directory: &Path,
) -> impl Iterator<Item = (&'static str, u32)> {
    // Kernels before 5.12 have no `threaded`.
    let files = [
        ("napi_defer_hard_irqs", 2, true),
        ("gro_flush_timeout", 200_000, true),
        ("threaded", 0, false),
    ];
    files.into_iter().filter_map(move |(file, value, if_zero)| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        ((text.trim() == "0") == if_zero).then_some((file, value))
    })
}

pub(super) fn link(name: &str) -> Result<LinkMessage, XdpError> {
    netlink::link(name).map_err(|error| match error.raw_os_error() {
        // ERANGE, EINVAL: a name that is too long, or empty.
        Some(libc::ENODEV | libc::ERANGE | libc::EINVAL) => XdpError::UnknownInterface {
            name: name.to_owned(),
            present: interface_names(),
        },
        _ => XdpError::system("read interfaces over netlink", error),
    })
}

/// Addresses on the loopback interface or a dummy that other hosts can reach (anycast), each with
/// its interface's name. No listen wildcard includes them.
///
/// # Errors
///
/// [`XdpError::System`] if the kernel does not list addresses or links.
pub fn addresses_without_link() -> Result<Vec<(IpAddr, String)>, XdpError> {
    let links = kind::links()?;
    let holder = |index| {
        let mut holders = links.iter().filter(|link| kind::holds_addresses_only(link));
        kind::name(holders.find(|link| link.header.index == index)?).map(str::to_owned)
    };
    let global = Address::all()?.into_iter().filter(|address| address.global);
    Ok(global
        .filter_map(|address| Some((address.ip, holder(address.interface)?)))
        .collect())
}

fn interface_names() -> String {
    let names = nix::net::if_::if_nameindex().map(|interfaces| {
        let names = interfaces
            .iter()
            .map(|one| one.name().to_string_lossy().into_owned());
        names.collect::<Vec<_>>().join(", ")
    });
    names.unwrap_or_default()
}

/// From the driver, else from sysfs if that shows this namespace, else 1: most drivers that report
/// nothing have one queue.
fn rx_queues(name: &str, index: u32) -> u32 {
    ethtool::rx_queues(name)
        .or_else(|_| rx_queues_in_sysfs(name, index))
        .map_or(1, |n| n.max(1))
}

fn rx_queues_in_sysfs(name: &str, index: u32) -> io::Result<u32> {
    let mut queues = 0;
    for entry in fs::read_dir(format!("{}/queues", sysfs(name, index)?))? {
        queues += u32::from(entry?.file_name().as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(queues)
}

/// The interface's directory in sysfs, which may show another network namespace.
fn sysfs(name: &str, index: u32) -> io::Result<String> {
    let directory = format!("/sys/class/net/{name}");
    if fs::read_to_string(format!("{directory}/ifindex"))?.trim() != index.to_string() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(directory)
}
