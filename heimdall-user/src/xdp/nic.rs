//! A network interface: what it is called, how it is built, which addresses it has.

use std::{
    fs, io,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use nix::ifaddrs::getifaddrs;

use super::{XdpError, ethtool, netlink};

/// How often [`Interface::wait_carrier`] looks.
const CARRIER_INTERVAL: Duration = Duration::from_millis(10);

/// An Ethernet interface of this network namespace, as it was when it was looked up.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Name, as `ip link` shows it.
    pub name: String,
    /// Index, 1 or more.
    pub index: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether it is set up (IFF_UP), carrier or not.
    pub up: bool,
    /// Receive queues in use, 1 or more. The kernel binds AF_XDP sockets to queues below this
    /// number (and to send-only ones, if there are more of those).
    pub rx_queues: u32,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// The program's id.
    pub(super) id: u32,
    /// Is it in generic mode?
    pub(super) generic: bool,
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    ///
    /// [`XdpError::UnknownInterface`], [`XdpError::NotEthernet`], and [`XdpError::System`] if the
    /// kernel does not answer.
    pub fn find(name: &str) -> Result<Self, XdpError> {
        let link = link(name)?;
        if !matches!(
            link.header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Loopback
        ) {
            return Err(XdpError::NotEthernet {
                interface: name.to_owned(),
            });
        }
        let mut interface = Self {
            name: name.to_owned(),
            index: link.header.index,
            mtu: 0,
            mac: [0; 6],
            up: link.header.flags.contains(LinkFlags::Up),
            rx_queues: rx_queues(name, link.header.index),
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                LinkAttribute::Address(mac) => interface.mac = mac.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(interface)
    }

    /// The addresses that the interface has now, both families, link-local ones included.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list them.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, XdpError> {
        let all = getifaddrs()
            .map_err(|errno| XdpError::system("list the addresses of interfaces", errno.into()))?;
        // IPv4 addresses go by their label, which may have a suffix: `eth0:backup`.
        let is_mine = |label: &str| label.split(':').next() == Some(self.name.as_str());
        let mine = all.filter(|entry| is_mine(&entry.interface_name));
        Ok(mine
            .filter_map(|entry| {
                let address = entry.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
            })
            .collect())
    }

    /// The broadcast addresses of its subnets; none if the kernel does not list them.
    pub fn broadcasts(&self) -> Vec<IpAddr> {
        let mine = getifaddrs()
            .into_iter()
            .flatten()
            .filter(|entry| entry.interface_name == self.name);
        mine.filter_map(|entry| Some(IpAddr::from(entry.broadcast?.as_sockaddr_in()?.ip())))
            .collect()
    }

    /// Whether the interface has a carrier now.
    ///
    /// # Errors
    ///
    /// [`XdpError::UnknownInterface`] if the interface went away.
    pub fn has_carrier(&self) -> Result<bool, XdpError> {
        Ok(link(&self.name)?
            .attributes
            .contains(&LinkAttribute::Carrier(1)))
    }

    /// Waits until the interface has a carrier, for `timeout` at most; says whether it has.
    /// Attaching XDP takes it away for a moment with some drivers.
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

    /// The XDP programs on the interface; empty if it is free.
    pub(super) fn xdp_programs(&self) -> Result<Vec<Attached>, XdpError> {
        let mut programs = Vec::new();
        for attribute in link(&self.name)?.attributes {
            let LinkAttribute::Xdp(xdp) = attribute else {
                continue;
            };
            let generic = xdp.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
            for nla in xdp {
                // One program: PROG_ID. One in each mode: an id each, and no PROG_ID.
                let (id, generic) = match nla {
                    LinkXdp::ProgId(id) => (id, generic),
                    LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => (id, false),
                    LinkXdp::SkbProgId(id) => (id, true),
                    _ => continue,
                };
                let attached = Attached { id, generic };
                if id != 0 && !programs.contains(&attached) {
                    programs.push(attached);
                }
            }
        }
        Ok(programs)
    }
}

fn link(name: &str) -> Result<LinkMessage, XdpError> {
    netlink::link(name).map_err(|error| match error.raw_os_error() {
        // ERANGE, EINVAL: a name longer than a name can be, or none.
        Some(libc::ENODEV | libc::ERANGE | libc::EINVAL) => XdpError::UnknownInterface {
            name: name.to_owned(),
            present: interface_names(),
        },
        _ => XdpError::system("read interfaces over netlink", error),
    })
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

/// The driver knows; where it does not tell, sysfs does, if it shows this namespace; else there is
/// one queue, as with most drivers that have no choice.
fn rx_queues(name: &str, index: u32) -> u32 {
    ethtool::rx_queues(name)
        .or_else(|_| rx_queues_in_sysfs(name, index))
        .map_or(1, |n| n.max(1))
}

fn rx_queues_in_sysfs(name: &str, index: u32) -> io::Result<u32> {
    let dir = format!("/sys/class/net/{name}");
    if fs::read_to_string(format!("{dir}/ifindex"))?.trim() != index.to_string() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut queues = 0;
    for entry in fs::read_dir(format!("{dir}/queues"))? {
        queues += u32::from(entry?.file_name().as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(queues)
}
