//! What an interface is and how it is set, beyond what serving it needs: for `doctor`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkMessage};

use super::{
    Address, Layers, StrippedVlans, XdpError, attach,
    genl::{self, XdpFeatures},
    hardware::{self, Channels, Driver, Offloads, RingSizes, Rss},
    kind,
    layers::{self, PortLink},
    nic,
};
use crate::netlink;

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachedProgram {
    pub(crate) id: u32,
    /// It is in generic mode.
    pub(crate) generic: bool,
    /// `None`: this process may not see it.
    pub(crate) name: Option<String>,
    /// How to remove it.
    pub(crate) remedy: String,
}

/// The kernel's counters of an interface (IFLA_STATS64).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkCounters {
    pub(crate) rx_packets: u64,
    /// Received with errors, or lost by the device for lack of buffers.
    pub(crate) rx_lost: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_lost: u64,
}

/// What is known of an interface. What the driver or the kernel does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) carrier: bool,
    pub(crate) driver: Option<Driver>,
    pub(crate) channels: Option<Channels>,
    pub(crate) rings: Option<RingSizes>,
    pub(crate) offloads: Option<Offloads>,
    /// Of UDP over IPv4 and over IPv6.
    pub(crate) hashes_ports: [Option<bool>; 2],
    pub(crate) rss: Option<Rss>,
    pub(crate) steering_rules: Option<u32>,
    pub(crate) xdp: Option<XdpFeatures>,
    /// Name and kind of the bond, team or bridge that it is a member of.
    pub(crate) master: Option<(String, String)>,
    /// Names of the VLANs on top of it, or on top of what it is a member of.
    pub(crate) vlans: Vec<String>,
    pub(crate) stripped: StrippedVlans,
    pub(crate) programs: Vec<AttachedProgram>,
    /// One of the addresses that are served on it from which the kernel sends packets to hosts beyond its networks out of
    /// another interface, and that one's name.
    pub(crate) elsewhere: Option<(IpAddr, String)>,
    /// The VRFs in which routes from these addresses are looked up; `lo` stands for none.
    pub(crate) vrfs: Vec<String>,
    pub(crate) counters: LinkCounters,
}

impl Details {
    /// Reads them; `served` is what gets its packets. Nothing needs a privilege, except for the names of programs.
    ///
    /// # Errors
    /// [`XdpError::UnknownInterface`], or the kernel does not list its links.
    pub(crate) fn read(name: &str, served: &[PortLink]) -> Result<Self, XdpError> {
        let link = nic::link(name)?;
        let links = kind::links()?;
        let index = link.header.index;
        let with_index = |index: u32| links.iter().find(|link| link.header.index == index);
        let master = kind::master(&link).and_then(with_index);
        let kind_of = |link: &LinkMessage| kind::of(link).map(InfoKind::to_string);
        let vlans = layers::behind_tags(&links, index).into_iter().flatten();
        let vlans = vlans.filter(|link| kind::of(link) == Some(&InfoKind::Vlan));
        let own_name = |link: &LinkMessage| kind::name(link).map(str::to_owned);
        let programs = nic::programs(&link).into_iter().map(|attached| {
            let (name, remedy) = attach::owner(name, attached);
            AttachedProgram {
                id: attached.id,
                generic: attached.generic,
                name,
                remedy,
            }
        });
        Ok(Self {
            name: name.to_owned(),
            index,
            up: kind::is_up(&link),
            carrier: link.attributes.contains(&LinkAttribute::Carrier(1)),
            driver: hardware::driver(name).ok(),
            channels: Channels::read(name).ok(),
            rings: hardware::rings(name).ok(),
            offloads: hardware::offloads(name).ok(),
            hashes_ports: hardware::hashes_ports(name),
            rss: hardware::rss(name).ok(),
            steering_rules: hardware::steering_rules(name).ok(),
            xdp: genl::xdp_features(index).ok(),
            master: master.and_then(|link| Some((own_name(link)?, kind_of(link)?))),
            vlans: vlans.filter_map(own_name).collect(),
            stripped: StrippedVlans::read(name, index, &links),
            programs: programs.collect(),
            elsewhere: elsewhere(served, &links)?,
            vrfs: vrfs(served, &links),
            counters: counters(&link),
        })
    }
}

/// Hosts on the Internet, by which default routes are found out: root servers (<https://root-servers.org>). Nothing is
/// sent to them.
const BEYOND: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];

/// See [`Details::elsewhere`].
fn elsewhere(
    served: &[PortLink],
    links: &[LinkMessage],
) -> Result<Option<(IpAddr, String)>, XdpError> {
    for address in Address::all()?.into_iter().filter(|address| address.global) {
        // Replies leave by the interface that takes the port's packets.
        let owns = |link: &&PortLink| link.owners.contains(&address.interface);
        let Some(index) = served.iter().find(owns).map(|link| link.index) else {
            continue;
        };
        let from = address.ip;
        let to = BEYOND.iter().find(|to| to.is_ipv4() == from.is_ipv4());
        let other = to.and_then(|to| netlink::route(from, *to).ok());
        // Of a VRF's routes the kernel may name the VRF.
        let other = other.filter(|other| *other != index);
        let other = links
            .iter()
            .find(|link| other == Some(link.header.index))
            .filter(|link| kind::of(link) != Some(&InfoKind::Vrf));
        if let Some(other) = other.and_then(kind::name) {
            return Ok(Some((from, other.to_owned())));
        }
    }
    Ok(None)
}

/// See [`Details::vrfs`].
fn vrfs(served: &[PortLink], links: &[LinkMessage]) -> Vec<String> {
    let mut indices: Vec<u32> = served.iter().map(|link| link.vrf).collect();
    indices.sort_unstable();
    indices.dedup();
    let indices = indices.into_iter();
    let found = indices.filter_map(|index| links.iter().find(|link| link.header.index == index));
    found.filter_map(kind::name).map(str::to_owned).collect()
}

fn counters(link: &LinkMessage) -> LinkCounters {
    let stats = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(*stats),
            _ => None,
        });
    let stats = stats.unwrap_or_default();
    LinkCounters {
        rx_packets: stats.rx_packets,
        // Drivers count what they miss among the errors, or not: the larger one is not counted twice.
        rx_lost: stats.rx_errors.max(stats.rx_missed_errors),
        tx_packets: stats.tx_packets,
        tx_lost: stats.tx_errors,
    }
}

/// Names of the interfaces that AF_XDP can serve and that have an address that other hosts reach.
///
/// # Errors
/// [`XdpError::System`] if the kernel does not list addresses or links.
pub(crate) fn candidates() -> Result<Vec<String>, XdpError> {
    let mut indexes: Vec<u32> = Address::all()?
        .iter()
        .filter(|address| address.global)
        .map(|address| address.interface)
        .collect();
    indexes.sort_unstable();
    indexes.dedup();
    let links = kind::links()?;
    let names = links
        .iter()
        .filter(|link| indexes.contains(&link.header.index))
        .filter_map(kind::name);
    Ok(names
        .filter(|name| Layers::of(&links, [*name]).refused.is_empty())
        .map(str::to_owned)
        .collect())
}
