//! What an interface is and how it is set, beyond what serving it needs: for `doctor`.

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkMessage};

use super::{
    Address, Interface, XdpError,
    genl::{self, XdpFeatures},
    hardware::{self, Channels, Driver, Offloads, RingSizes, Rss},
    kind, nic, program,
};

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
    /// Names of the VLANs on top of it, or on top of its master.
    pub(crate) vlans: Vec<String>,
    pub(crate) programs: Vec<AttachedProgram>,
    pub(crate) counters: LinkCounters,
}

impl Details {
    /// Reads them. Nothing needs a privilege, except for the names of programs.
    ///
    /// # Errors
    /// [`XdpError::UnknownInterface`], or the kernel does not list its links.
    pub(crate) fn read(name: &str) -> Result<Self, XdpError> {
        let link = nic::link(name)?;
        let links = kind::links()?;
        let index = link.header.index;
        let with_index = |index: u32| links.iter().find(|link| link.header.index == index);
        let master = kind::master(&link).and_then(with_index);
        let kind_of = |link: &LinkMessage| kind::of(link).map(InfoKind::to_string);
        let vlans = nic::vlans(&links, index, kind::master(&link));
        let own_name = |link: &LinkMessage| kind::name(link).map(str::to_owned);
        let programs = nic::programs(&link).into_iter().map(|attached| {
            let (name, remedy) = program::owner(name, attached);
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
            up: link.header.flags.contains(LinkFlags::Up),
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
            programs: programs.collect(),
            counters: counters(&link),
        })
    }
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
        .filter(|name| Interface::find(name).is_ok())
        .map(str::to_owned)
        .collect())
}
