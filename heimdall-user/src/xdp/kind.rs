//! Kinds of interfaces, and which of them AF_XDP can serve.
//!
//! A virtual interface has no packets of its own: they arrive on a member, a parent or nowhere. On
//! a bond the kernel runs the program on the members, whose packets cannot reach a socket that is
//! bound to the bond (`xsk_rcv_check`); on the others it runs after an skb was made, and costs more
//! than kernel sockets.

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};

use super::{XdpError, netlink};

/// All links of this network namespace.
pub(super) fn links() -> Result<Vec<LinkMessage>, XdpError> {
    netlink::links().map_err(|error| XdpError::system("list interfaces over netlink", error))
}

/// The kind of a virtual interface; a NIC has none.
pub(super) fn of(link: &LinkMessage) -> Option<&InfoKind> {
    let info = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        });
    info?.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// Index of the interface that a VLAN is on top of, if that is in this network namespace.
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

/// Index of the bond or bridge that the interface is a member of.
pub(super) fn master(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        })
}

/// Whether it is the loopback interface or a dummy: addresses on it are reached through other
/// interfaces.
pub(super) fn holds_addresses_only(link: &LinkMessage) -> bool {
    link.header.link_layer_type == LinkLayerType::Loopback || of(link) == Some(&InfoKind::Dummy)
}

/// Its name.
pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

/// Rejects the interface `name` if AF_XDP receives no packet on it.
pub(super) fn check(name: &str, link: &LinkMessage) -> Result<(), XdpError> {
    let refuse = |what: String, remedy: String| {
        Err(XdpError::Virtual {
            interface: name.to_owned(),
            what,
            remedy,
        })
    };
    let listen = format!("name the addresses of {name} with --listen");
    if holds_addresses_only(link) {
        let what = "no packet of another host arrives on it".to_owned();
        return refuse(
            what,
            format!("give the interface on which they arrive, and {listen}"),
        );
    }
    let Some(kind) = of(link) else { return Ok(()) };
    match kind {
        InfoKind::Bond | InfoKind::Team | InfoKind::Bridge => {
            let links = links()?;
            let members = links
                .iter()
                .filter(|one| master(one) == Some(link.header.index))
                .filter_map(self::name);
            let members: Vec<String> = members.map(|one| format!("--interface {one}")).collect();
            let instead = match members.as_slice() {
                [] => "give its members".to_owned(),
                members => format!("use {}", members.join(" ")),
            };
            let what = format!("packets arrive on the members of the {kind}");
            refuse(what, format!("{instead}, and {listen}"))
        }
        InfoKind::Vlan => {
            let links = links()?;
            let below = links
                .iter()
                .find(|one| Some(one.header.index) == parent(link))
                .and_then(self::name)
                .unwrap_or("the interface below");
            let what = format!("packets of the VLAN arrive on {below}");
            refuse(what, format!("use --interface {below}, and {listen}"))
        }
        InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap => {
            let what = format!("packets of the {kind} arrive on the interface below");
            refuse(what, "use --backend socket".to_owned())
        }
        _ => Ok(()),
    }
}
