//! The layers of interfaces: on which of them the packets of a configured one arrive, and how they look there.
//!
//! A bond, a VLAN or a macvlan has no packets of its own. They arrive on other interfaces, the *ports*, which the program
//! is attached to and the sockets are bound to. What the IP stack knows as an interface is a *link* at each of its ports: some MAC
//! addresses and VLAN tags. All of it follows from the kernel's list of links, by [`Layers::of`]; nothing is remembered, so
//! that the caller has only to call again when something changes.
//!
//! Two directions: downwards from a configured interface to its ports ([`paths`]), and upwards from it to the bond, team or
//! bridge that it is a member of, which is what gets its packets ([`climb`]).

#[cfg(test)]
mod tests;

use heimdall_ebpf::{Link, Tags, mac_word};
use netlink_packet_route::link::{InfoKind, LinkLayerType, LinkMessage};

use super::{Interface, XdpError, kind};

/// Most layers above one another (MAX_NEST_DEV in include/linux/netdevice.h).
const MAX_DEPTH: usize = 8;

/// The index of the loopback interface, and of the FIB's rules without a VRF.
const LOOPBACK: u32 = 1;

/// The ports of all configured interfaces.
#[derive(Debug, Default)]
pub struct Layers {
    /// The ports, each once.
    pub ports: Vec<Port>,
    /// The configured interfaces that AF_XDP cannot serve now, and why.
    pub refused: Vec<(String, XdpError)>,
}

/// An interface on which packets arrive.
#[derive(Clone, Debug)]
pub struct Port {
    /// The interface itself.
    pub interface: Interface,
    /// The configured interfaces whose packets arrive on it.
    pub serves: Vec<String>,
    /// Where these packets go. None: nothing is to be steered now, because of `idle`.
    pub(crate) links: Vec<PortLink>,
    /// Why a link takes no packets here at present.
    pub(crate) idle: Option<String>,
    /// The name of an interface above this one that has to be set up before its packets are taken.
    pub(crate) down: Option<String>,
}

/// An interface of the IP stack at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortLink {
    /// Its index.
    pub(crate) index: u32,
    /// The interfaces whose addresses it takes: itself, and its member that was configured.
    pub(crate) owners: Vec<u32>,
    /// The destination MAC addresses that it takes.
    pub(crate) macs: Vec<[u8; 6]>,
    pub(crate) tags: Tags,
    /// Index of its VRF; 1 without one.
    pub(crate) vrf: u32,
    /// The least MTU of the layers, in octets.
    pub(crate) mtu: u32,
}

impl Port {
    /// Makes each VLAN on top of it, and what is on top of those, a link of its own, whose routes are its own, too. Links that
    /// took frames with any tags take those without. The new ones have no owners: no wildcard stands for their addresses.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list its links.
    pub(crate) fn separate_vlans(&mut self) -> Result<(), XdpError> {
        self.separate_vlans_among(&kind::links()?);
        Ok(())
    }

    fn separate_vlans_among(&mut self, links: &[LinkMessage]) {
        let any = self.links.iter_mut().filter(|link| link.tags == Tags::ANY);
        if any.map(|link| link.tags = Tags::NONE).count() == 0 {
            return;
        }
        let index = self.interface.index;
        let behind = behind_tags(links, index).into_iter().flatten();
        for name in behind.filter_map(kind::name) {
            for (path, link) in resolve(links, name).unwrap_or_default() {
                let is_known = |one: &PortLink| (one.index, one.tags) == (link.index, link.tags);
                let is_here = path.port.header.index == index && path.idle.is_none();
                if is_here && !self.links.iter().any(is_known) {
                    self.links.push(PortLink {
                        owners: Vec::new(),
                        ..link
                    });
                }
            }
        }
    }
}

impl PortLink {
    /// The entries of the program's map: one for each MAC address.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Link> {
        self.macs.iter().map(|mac| Link {
            mac: mac_word(*mac),
            tags: self.tags,
            interface: self.index,
            vrf: self.vrf,
            zero: 0,
        })
    }
}

impl Layers {
    /// The ports of the interfaces with these names, as they are now.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list its links.
    pub fn read<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, XdpError> {
        Ok(Self::of(&kind::links()?, names))
    }

    /// The ports of the interfaces with these names, among these links.
    pub(super) fn of<'a>(links: &[LinkMessage], names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut layers = Self::default();
        for name in names {
            match resolve(links, name) {
                Ok(found) => {
                    for (path, link) in found {
                        layers.add(name, &path, link);
                    }
                }
                Err(error) => layers.refused.push((name.to_owned(), error)),
            }
        }
        layers
    }

    /// The names of the ports, and of the configured interfaces without one.
    pub(crate) fn names(&self) -> Vec<String> {
        let ports = self.ports.iter().map(|port| &port.interface.name);
        let refused = self.refused.iter().map(|(name, _)| name);
        ports.chain(refused).cloned().collect()
    }

    /// Takes out what has this name: a port, or a configured interface without one, and why it has none. `None`: neither.
    pub(crate) fn take(&mut self, name: &str) -> Option<Result<Port, XdpError>> {
        let mut ports = self.ports.iter();
        if let Some(at) = ports.position(|port| port.interface.name == name) {
            return Some(Ok(self.ports.swap_remove(at)));
        }
        let mut refused = self.refused.iter();
        let at = refused.position(|(refused, _)| refused == name)?;
        Some(Err(self.refused.swap_remove(at).1))
    }

    fn add(&mut self, name: &str, path: &Path<'_>, link: PortLink) {
        let index = path.port.header.index;
        let known = |port: &Port| port.interface.index == index;
        let at = self.ports.iter().position(known).unwrap_or_else(|| {
            self.ports.push(Port {
                interface: Interface::read(path.port),
                serves: Vec::new(),
                links: Vec::new(),
                idle: None,
                down: None,
            });
            self.ports.len() - 1
        });
        let Some(port) = self.ports.get_mut(at) else {
            return;
        };
        if !port.serves.iter().any(|one| one == name) {
            port.serves.push(name.to_owned());
        }
        if let Some(idle) = &path.idle {
            // What an operator can set up matters more than a backup.
            if path.down.is_some() || port.down.is_none() {
                port.idle = Some(idle.clone());
                port.down.clone_from(&path.down);
            }
            return;
        }
        let mut links = port.links.iter_mut();
        match links.find(|one| (one.index, one.tags) == (link.index, link.tags)) {
            // A bond, and a member of it, are both configured.
            Some(known) => {
                extend(&mut known.owners, link.owners);
                extend(&mut known.macs, link.macs);
            }
            None => port.links.push(link),
        }
    }
}

fn extend<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

/// Where the packets of an interface arrive, and what is known on the way there.
struct Path<'a> {
    port: &'a LinkMessage,
    tags: Tags,
    /// Frames with other tags are not for the interface.
    exact: bool,
    macs: Vec<[u8; 6]>,
    mtu: u32,
    /// Why it gets nothing from there now.
    idle: Option<String>,
    /// The interface that is down, if that is why.
    down: Option<String>,
}

impl Path<'_> {
    /// Notes what an interface above all others of the path means for it.
    fn pass(&mut self, link: &LinkMessage) {
        self.mtu = self.mtu.min(kind::mtu(link));
        if !kind::is_up(link) {
            self.idle = Some(format!("{} is down", shown(link)));
            self.down = Some(shown(link).to_owned());
        }
    }

    /// Notes that the path leads through a member of a bond, team or bridge.
    fn pass_member(&mut self, member: &LinkMessage, master: &LinkMessage) {
        if !kind::is_active_member(member) {
            let (member, master) = (shown(member), shown(master));
            self.idle = Some(format!("{member} is a backup, or blocked, in {master}"));
            self.down = None;
        }
    }
}

/// The ports of one interface, and what it is there.
fn resolve<'a>(
    links: &'a [LinkMessage],
    name: &str,
) -> Result<Vec<(Path<'a>, PortLink)>, XdpError> {
    let link = links.iter().find(|link| kind::is_called(link, name));
    let link = link.ok_or_else(|| {
        let present: Vec<&str> = links.iter().filter_map(kind::name).collect();
        XdpError::UnknownInterface {
            name: name.to_owned(),
            present: present.join(", "),
        }
    })?;
    let mut paths = paths(links, link, 0)?;
    let owners = climb(links, link, &mut paths);
    let index = owners.first().copied().unwrap_or(link.header.index);
    let top = with_index(links, Some(index));
    let vrf = top.and_then(|top| with_index(links, kind::master(top)));
    let vrf = vrf.filter(|vrf| kind::of(vrf) == Some(&InfoKind::Vrf));
    let vrf = vrf.map_or(LOOPBACK, |vrf| vrf.header.index);
    let found = paths.into_iter().map(|path| {
        let link = PortLink {
            index,
            owners: owners.clone(),
            macs: path.macs.clone(),
            tags: if path.exact { path.tags } else { Tags::ANY },
            vrf,
            mtu: path.mtu,
        };
        (path, link)
    });
    Ok(found.collect())
}

/// The ports of `link`, which has `depth` layers above it.
fn paths<'a>(
    links: &'a [LinkMessage],
    link: &'a LinkMessage,
    depth: usize,
) -> Result<Vec<Path<'a>>, XdpError> {
    let refuse = |what: String, remedy: String| {
        Err(XdpError::Virtual {
            interface: shown(link).to_owned(),
            what,
            remedy,
        })
    };
    let listen = || format!("name the addresses of {} with --listen", shown(link));
    let to_sockets = || "leave it to the sockets (--backend socket, or auto)".to_owned();
    let below = || with_index(links, kind::parent(link));
    if depth > MAX_DEPTH {
        let what = format!("there are more than {MAX_DEPTH} layers above it");
        return refuse(what, to_sockets());
    }
    if kind::holds_addresses_only(link) {
        let members = options(members(links, link));
        let give = if members.is_empty() {
            "give the interface on which they arrive".to_owned()
        } else {
            format!("use {members}")
        };
        let what = "no packet of another host arrives on it".to_owned();
        return refuse(what, format!("{give}, and {}", listen()));
    }
    let kind = kind::of(link);
    let mut paths = match kind {
        Some(InfoKind::Bond | InfoKind::Team) => {
            let mut all = Vec::new();
            for member in members(links, link) {
                // What cannot be a port leaves its packets to the sockets.
                for mut path in paths(links, member, depth + 1).unwrap_or_default() {
                    path.pass_member(member, link);
                    all.push(path);
                }
            }
            if all.is_empty() {
                return refuse(
                    "it has no member that AF_XDP can serve".to_owned(),
                    format!("add one: ip link set dev NIC master {}", shown(link)),
                );
            }
            all
        }
        Some(InfoKind::Vlan) => {
            let Some((below, (service, id))) = below().zip(kind::vlan(link)) else {
                return refuse(elsewhere("VLAN"), to_sockets());
            };
            let mut paths = paths(links, below, depth + 1)?;
            for path in &mut paths {
                if path.tags.count() == Tags::MAX {
                    let what = format!("its packets have more than {} VLAN tags", Tags::MAX);
                    return refuse(what, to_sockets());
                }
                path.tags = path.tags.push(service, id);
                path.exact = true;
                path.macs.insert(0, kind::mac(link));
            }
            paths
        }
        Some(InfoKind::MacVlan) => {
            let Some(below) = below() else {
                return refuse(elsewhere("macvlan"), to_sockets());
            };
            if kind::is_by_source(link) {
                let what = "a macvlan of mode source chooses packets by their sender".to_owned();
                return refuse(what, to_sockets());
            }
            let mut paths = paths(links, below, depth + 1)?;
            for path in &mut paths {
                path.exact = true;
                path.macs = vec![kind::mac(link)];
            }
            paths
        }
        Some(InfoKind::Bridge) => {
            let members = options(members(links, link));
            let give = if members.is_empty() {
                "give its ports".to_owned()
            } else {
                format!("use {members}")
            };
            return refuse("packets arrive on the ports of the bridge".to_owned(), give);
        }
        Some(InfoKind::IpVlan) => {
            let below = below().map_or("the interface below", shown);
            let what = format!("it shares the MAC address of {below}");
            return refuse(what, format!("use --interface {below}, and {}", listen()));
        }
        Some(kind @ (InfoKind::MacVtap | InfoKind::IpVtap)) => {
            let what = format!("packets of a {kind} go to the program that has it open");
            return refuse(what, "use another interface".to_owned());
        }
        Some(kind) if is_tunnel(kind) => {
            let what = format!("its packets arrive inside of others ({kind})");
            return refuse(what, to_sockets());
        }
        _ if link.header.link_layer_type != LinkLayerType::Ether => {
            return Err(XdpError::NotEthernet {
                interface: shown(link).to_owned(),
            });
        }
        // A port: whether it is up is no matter of layers.
        _ => {
            return Ok(vec![Path {
                port: link,
                tags: Tags::NONE,
                exact: false,
                macs: vec![kind::mac(link)],
                mtu: kind::mtu(link),
                idle: None,
                down: None,
            }]);
        }
    };
    for path in &mut paths {
        path.pass(link);
        let mut macs = Vec::new();
        extend(&mut macs, std::mem::take(&mut path.macs));
        path.macs = macs;
    }
    Ok(paths)
}

/// Follows `link` to the bond, team or bridge that gets its packets. Returns the indices of those and of the link, the
/// uppermost first.
fn climb(links: &[LinkMessage], link: &LinkMessage, paths: &mut [Path<'_>]) -> Vec<u32> {
    let mut owners = vec![link.header.index];
    let mut member = link;
    while let Some(master) = with_index(links, kind::master(member))
        && owners.len() <= MAX_DEPTH
        && let Some(InfoKind::Bond | InfoKind::Team | InfoKind::Bridge) = kind::of(master)
    {
        for path in paths.iter_mut() {
            path.pass_member(member, master);
            path.pass(master);
            // A bridge takes frames to the MAC address of any port, and of its own.
            if kind::of(master) == Some(&InfoKind::Bridge) {
                extend(&mut path.macs, vec![kind::mac(master)]);
            }
        }
        owners.insert(0, master.header.index);
        member = master;
    }
    owners
}

/// The interfaces whose packets have VLAN tags where they arrive at the interface with this index: VLANs on top of it, or
/// on top of the bond, team or bridge that it is a member of, and what is above these. First those whose outermost tag is of
/// 802.1Q, then those of 802.1ad.
pub(super) fn behind_tags(links: &[LinkMessage], index: u32) -> [Vec<&LinkMessage>; 2] {
    let Some(link) = with_index(links, Some(index)) else {
        return [Vec::new(), Vec::new()];
    };
    // Indices of what gets packets from there: untagged, with a tag of 802.1Q, and of 802.1ad.
    let mut reached = [climb(links, link, &mut []), Vec::new(), Vec::new()];
    for _ in 0..MAX_DEPTH {
        for link in links {
            for from in 0..reached.len() {
                let below = reached.get(from).map_or(&[][..], Vec::as_slice);
                if !is_above(links, link, |index| below.contains(index)) {
                    continue;
                }
                // The first tag of a path is the outermost one.
                let to = match kind::vlan(link) {
                    Some((service, _)) if from == 0 => 1 + usize::from(service),
                    _ => from,
                };
                if let Some(above) = reached.get_mut(to) {
                    extend(above, vec![link.header.index]);
                }
            }
        }
    }
    let [_, customer, service] = reached;
    [customer, service].map(|behind| {
        let links = links.iter();
        links
            .filter(|link| behind.contains(&link.header.index))
            .collect()
    })
}

/// Whether an interface is on top of one of those that `is_below` tells, or has one as a member.
fn is_above(links: &[LinkMessage], link: &LinkMessage, is_below: impl Fn(&u32) -> bool) -> bool {
    match kind::of(link) {
        Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan) => {
            kind::parent(link).is_some_and(|parent| is_below(&parent))
        }
        Some(InfoKind::Bond | InfoKind::Team | InfoKind::Bridge) => {
            members(links, link).any(|member| is_below(&member.header.index))
        }
        _ => false,
    }
}

fn with_index(links: &[LinkMessage], index: Option<u32>) -> Option<&LinkMessage> {
    links.iter().find(|link| Some(link.header.index) == index)
}

fn members<'a>(
    links: &'a [LinkMessage],
    master: &LinkMessage,
) -> impl Iterator<Item = &'a LinkMessage> {
    let index = master.header.index;
    let members = links.iter();
    members.filter(move |link| kind::master(link) == Some(index))
}

/// The options of the command line that give these interfaces.
fn options<'a>(links: impl Iterator<Item = &'a LinkMessage>) -> String {
    let options = links.map(|link| format!("--interface {}", shown(link)));
    options.collect::<Vec<_>>().join(" ")
}

fn shown(link: &LinkMessage) -> &str {
    kind::name(link).unwrap_or("an interface")
}

fn elsewhere(kind: &str) -> String {
    format!("the interface below the {kind} is in another network namespace")
}

/// Whether packets arrive inside of packets of another protocol, or of other hosts.
fn is_tunnel(kind: &InfoKind) -> bool {
    matches!(
        kind,
        InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::BareUdp
            | InfoKind::GreTap
            | InfoKind::GreTap6
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::ErSpan
            | InfoKind::Ip6ErSpan
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::Vti
            | InfoKind::Vti6
            | InfoKind::Xfrm
            | InfoKind::Wireguard
            | InfoKind::Gtp
            | InfoKind::MacSec
            | InfoKind::Amt
            | InfoKind::BatAdv
            | InfoKind::Hsr
            | InfoKind::Dsa
            | InfoKind::RmNet
    )
}
