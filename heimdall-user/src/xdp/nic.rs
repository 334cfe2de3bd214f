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

use super::{
    Address, XdpError,
    ethtool::{self, Stripping},
    hardware::{self, Channels},
    kind, layers,
    tier::possible_cpus,
};
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
    /// Send queues in use, as far as that is known. What an AF_XDP socket sends leaves by the queue of its number, and the kernel
    /// does not look whether there is one. virtio_net turns on more queue pairs while an XDP program is attached, if it has one
    /// to spare for each possible CPU: their send queues are for the program alone (`is_xdp_raw_buffer_queue`,
    /// drivers/net/virtio_net.c), and not counted here. On them packets of sockets in copy mode are never reported as sent,
    /// and zero-copy ends in a crash, if the program goes before the socket (both seen on Linux 7.3).
    pub(crate) send_queues: u32,
}

/// Receive queues that AF_XDP cannot serve.
#[derive(Clone, Debug)]
pub(crate) struct UnusableQueues {
    /// Which they are, and what happens to their packets.
    pub(crate) effect: String,
    /// What makes AF_XDP serve them.
    pub(crate) remedy: String,
}

/// VLANs whose tags a NIC strips before the XDP program runs: a reply to such a frame would leave without its tag. None if the NIC
/// leaves tags in the frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrippedVlans {
    /// Indices of the VLANs on top of the NIC, or on top of the bond, team or bridge that it is a member of, and of what is
    /// above them.
    pub links: Vec<u32>,
    /// Names of the VLANs.
    pub(crate) names: Vec<String>,
    /// The command after which tags stay in the frame.
    pub command: String,
}

impl StrippedVlans {
    /// Those of the NIC with this name and index, among these links.
    pub(super) fn read(name: &str, index: u32, links: &[LinkMessage]) -> Self {
        let stripping = ethtool::vlan_stripping(name).unwrap_or_default();
        Self::of(name, stripping, layers::behind_tags(links, index))
    }

    /// What comes of it.
    pub(crate) fn effect(&self) -> String {
        format!(
            "the NIC removes the VLAN tags of {} before the XDP program runs: the sockets serve the addresses of these VLANs, \
             and queries to other addresses that arrive there get no reply",
            self.names.join(", ")
        )
    }

    pub(super) fn of(name: &str, stripping: Stripping, behind: [Vec<&LinkMessage>; 2]) -> Self {
        let mut stripped = Self::default();
        // What ethtool calls them.
        let features = ["rxvlan", "rx-vlan-stag-hw-parse"];
        for ((links, feature), strips) in behind.into_iter().zip(features).zip(stripping) {
            if !strips || links.is_empty() {
                continue;
            }
            if stripped.command.is_empty() {
                stripped.command = format!("ethtool -K {name}");
            }
            stripped.command.push_str(&format!(" {feature} off"));
            let vlans = links.iter().filter(|link| kind::vlan(link).is_some());
            let names = vlans.filter_map(|link| kind::name(link));
            stripped.names.extend(names.map(str::to_owned));
            stripped
                .links
                .extend(links.iter().map(|link| link.header.index));
        }
        stripped
    }
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

    /// One that does not exist.
    #[cfg(test)]
    pub(crate) fn of_tests(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            index: u32::MAX,
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, 1],
            up: true,
            rx_queues: 1,
            send_queues: 1,
        }
    }

    pub(super) fn read(link: &LinkMessage) -> Self {
        let name = kind::name(link).unwrap_or_default();
        Self {
            index: link.header.index,
            mtu: kind::mtu(link),
            mac: kind::mac(link),
            up: kind::is_up(link),
            rx_queues: rx_queues(name, link.header.index),
            send_queues: send_queues(name, link.header.index),
            name: name.to_owned(),
        }
    }

    /// Its frames to its MAC address, whatever their tags: for [`Program::set_links`](super::Program::set_links).
    pub fn link(&self) -> Link {
        Link::any_tags(self.mac, self.index)
    }

    /// How many queues AF_XDP can serve: it sends replies by the queue that their queries came in.
    pub(crate) fn usable_queues(&self) -> u32 {
        self.rx_queues.min(self.send_queues)
    }

    /// Which receive queues AF_XDP cannot serve. `None`: it can serve all.
    pub(crate) fn unusable_queues(&self) -> Option<UnusableQueues> {
        let (first, last) = (self.usable_queues(), self.rx_queues.checked_sub(1)?);
        if first > last {
            return None;
        }
        let name = &self.name;
        let effect =
            format!("queues {first}-{last} are left to the sockets, as AF_XDP cannot send there");
        let added = self.driver().is_some_and(|driver| driver == "virtio_net");
        let few = possible_cpus().ok().zip(Channels::read(name).ok());
        let few = few.map(|(cpus, channels)| channels.pairs_that_leave_few(cpus as u32));
        Some(match few.filter(|_| added) {
            Some(few) => UnusableQueues {
                effect: format!("{effect}: virtio_net has turned them on for XDP"),
                remedy: format!(
                    "run `ethtool -L {name} combined {few}` before the start, and too few are left for that"
                ),
            },
            None => UnusableQueues {
                effect,
                remedy: format!("give {name} as many queues to send as to receive (ethtool -L)"),
            },
        })
    }

    /// The queues of it to serve, all by default, if AF_XDP can serve them. Nothing is opened.
    ///
    /// # Errors
    ///
    /// [`XdpError::NoQueue`], and [`XdpError::QueueOutOfRange`]: the program has no room for it.
    pub(crate) fn queues(&self, wanted: Option<&BTreeSet<u32>>) -> Result<Vec<u32>, XdpError> {
        let numbers: Vec<u32> = match wanted {
            Some(numbers) => numbers.iter().copied().collect(),
            None => (0..self.usable_queues().min(MAX_QUEUES)).collect(),
        };
        if let Some(&queue) = numbers.iter().find(|queue| **queue >= self.usable_queues()) {
            return Err(XdpError::NoQueue {
                interface: self.name.clone(),
                queue,
                queues: self.usable_queues(),
            });
        }
        if let Some(&queue) = numbers.iter().find(|queue| **queue >= MAX_QUEUES) {
            return Err(XdpError::QueueOutOfRange {
                interface: self.name.clone(),
                queue,
                limit: MAX_QUEUES,
            });
        }
        Ok(numbers)
    }

    /// The queues of it that are to be served and that it has. If it lacks some, an error says so.
    ///
    /// # Errors
    ///
    /// It has none of them, or AF_XDP cannot serve one.
    pub(crate) fn present_queues(
        &self,
        wanted: Option<&BTreeSet<u32>>,
    ) -> Result<(Vec<u32>, Option<XdpError>), XdpError> {
        let error = match self.queues(wanted) {
            Ok(numbers) => return Ok((numbers, None)),
            Err(error) => error,
        };
        let XdpError::NoQueue { queues, .. } = error else {
            return Err(error);
        };
        let wanted = wanted.into_iter().flatten().copied();
        let present: BTreeSet<u32> = wanted.filter(|queue| *queue < queues).collect();
        if present.is_empty() {
            return Err(error);
        }
        Ok((self.queues(Some(&present))?, Some(error)))
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

    /// The VLANs whose tags the NIC strips before the XDP program runs.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list its links.
    pub fn stripped_vlans(&self) -> Result<StrippedVlans, XdpError> {
        Ok(StrippedVlans::read(&self.name, self.index, &kind::links()?))
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
        .or_else(|_| queues_in_sysfs(name, index, "rx-"))
        .map_or(1, |n| n.max(1))
}

/// From sysfs, as drivers count others. If that shows another namespace it is not known.
fn send_queues(name: &str, index: u32) -> u32 {
    queues_in_sysfs(name, index, "tx-").map_or(u32::MAX, |n| n.max(1))
}

fn queues_in_sysfs(name: &str, index: u32, prefix: &str) -> io::Result<u32> {
    let mut queues = 0;
    for entry in fs::read_dir(format!("{}/queues", sysfs(name, index)?))? {
        let is_one = (entry?.file_name().as_encoded_bytes()).starts_with(prefix.as_bytes());
        queues += u32::from(is_one);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn queues_that_are_not_there_or_cannot_be_steered_are_refused() {
        let interface = Interface {
            rx_queues: 300,
            send_queues: 300,
            ..Interface::of_tests("eth0")
        };
        let queues = |numbers: &[u32]| {
            let wanted = numbers.iter().copied().collect();
            let queues = interface.queues(Some(&wanted));
            queues.map_err(|error| error.to_string())
        };
        assert_eq!(interface.queues(None).ok(), Some((0..256).collect()));
        assert_eq!(queues(&[0, 255]), Ok(vec![0, 255]));
        assert_eq!(
            queues(&[0, 290]),
            Err("queue 290 of eth0 cannot be steered; use queues below 256".to_owned())
        );
        assert_eq!(
            queues(&[300]),
            Err("eth0 has no queue 300, but 300, numbered from 0; see ethtool -l eth0".to_owned())
        );
    }

    #[test]
    fn of_the_wanted_queues_those_are_served_that_there_are() {
        let interface = Interface {
            rx_queues: 2,
            send_queues: 2,
            ..Interface::of_tests("eth0")
        };
        let present = |wanted: &[u32]| {
            let wanted: BTreeSet<u32> = wanted.iter().copied().collect();
            interface.present_queues(Some(&wanted))
        };
        let (numbers, absent) = present(&[0, 1, 2, 3]).unwrap();
        assert_eq!(numbers, [0, 1]);
        let absent = absent.unwrap().to_string();
        assert!(absent.contains("eth0 has no queue 2"), "{absent}");
        let (numbers, absent) = present(&[1]).unwrap();
        assert!(numbers == [1] && absent.is_none());
        assert!(matches!(
            present(&[2, 3]),
            Err(XdpError::NoQueue { queue: 2, .. })
        ));
        assert_eq!(interface.present_queues(None).unwrap().0, [0, 1]);
    }
}
