//! What the kernel says of a link: its kind, what it is on top of, what it is a member of.

use netlink_packet_route::link::{
    BondPortState, BridgePortState, InfoBondPort, InfoBridgePort, InfoData, InfoKind, InfoMacVlan,
    InfoPortData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    MacVlanMode, Prop, VlanProtocol,
};

use super::XdpError;
use crate::netlink;

/// All links of this network namespace.
pub(super) fn links() -> Result<Vec<LinkMessage>, XdpError> {
    netlink::links().map_err(|error| XdpError::system("list interfaces over netlink", error))
}

fn find<'a, T>(
    link: &'a LinkMessage,
    what: impl FnMut(&'a LinkAttribute) -> Option<T>,
) -> Option<T> {
    link.attributes.iter().find_map(what)
}

fn info(link: &LinkMessage) -> &[LinkInfo] {
    let info = find(link, |attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info.as_slice()),
        _ => None,
    });
    info.unwrap_or_default()
}

/// The kind of a virtual interface; a NIC has none.
pub(super) fn of(link: &LinkMessage) -> Option<&InfoKind> {
    info(link).iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn data(link: &LinkMessage) -> Option<&InfoData> {
    info(link).iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    })
}

/// Whether a VLAN's tags are of 802.1ad, and its number.
pub(super) fn vlan(link: &LinkMessage) -> Option<(bool, u16)> {
    let Some(InfoData::Vlan(data)) = data(link) else {
        return None;
    };
    let service = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    data.iter().find_map(|one| match one {
        InfoVlan::Id(id) => Some((service, *id)),
        _ => None,
    })
}

/// Whether a macvlan gets frames by their sender, not by their destination.
pub(super) fn is_by_source(link: &LinkMessage) -> bool {
    let mode = InfoMacVlan::Mode(MacVlanMode::Source);
    matches!(data(link), Some(InfoData::MacVlan(data)) if data.contains(&mode))
}

/// Whether the bond, bridge or team that the link is a member of takes what arrives on it: it is no backup, and the
/// spanning tree does not block it. What a team's ports do, the kernel does not tell here.
pub(super) fn is_active_member(link: &LinkMessage) -> bool {
    info(link).iter().all(|info| {
        match info {
        LinkInfo::PortData(InfoPortData::BondPort(data)) => {
            !data.contains(&InfoBondPort::BondPortState(BondPortState::Backup))
        }
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => data.iter().all(|one| {
            !matches!(one, InfoBridgePort::State(state) if *state != BridgePortState::Forwarding)
        }),
        _ => true,
    }
    })
}

/// Index of the interface that a VLAN or macvlan is on top of, if that is in this network namespace.
pub(super) fn parent(link: &LinkMessage) -> Option<u32> {
    let mut parent = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => return None,
            _ => {}
        }
    }
    parent
}

/// Index of the bond, team, bridge or VRF that the interface is a member of.
pub(super) fn master(link: &LinkMessage) -> Option<u32> {
    find(link, |attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

/// Whether no packet of another host arrives on it, and its addresses are reached through other interfaces: the
/// loopback interface, a dummy, a VRF.
pub(super) fn holds_addresses_only(link: &LinkMessage) -> bool {
    link.header.link_layer_type == LinkLayerType::Loopback
        || matches!(of(link), Some(InfoKind::Dummy | InfoKind::Vrf))
}

/// Its name.
pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    find(link, |attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Whether it has this name, or this alternative one.
pub(super) fn is_called(link: &LinkMessage, wanted: &str) -> bool {
    let alternative = |prop: &Prop| matches!(prop, Prop::AltIfName(name) if name == wanted);
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::IfName(name) => name == wanted,
        LinkAttribute::PropList(list) => list.iter().any(alternative),
        _ => false,
    })
}

/// Its MTU in octets.
pub(super) fn mtu(link: &LinkMessage) -> u32 {
    let mtu = find(link, |attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or_default()
}

/// Its MAC address; zero if it has none.
pub(super) fn mac(link: &LinkMessage) -> [u8; 6] {
    let mac = find(link, |attribute| match attribute {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    });
    mac.unwrap_or_default()
}

/// Whether it is administratively up (IFF_UP).
pub(super) fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}
