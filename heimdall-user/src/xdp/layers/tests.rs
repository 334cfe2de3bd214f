//! Lists of links as the kernel gives them, written as text, and what follows from them.
#![allow(clippy::unwrap_used)]

use netlink_packet_route::link::{
    BondPortState, BridgePortState, InfoBondPort, InfoBridgePort, InfoData, InfoMacVlan,
    InfoPortData, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, MacVlanMode, Prop,
    VlanProtocol,
};

use super::{super::StrippedVlans, *};

/// One link: `INDEX NAME [KIND] [WORDS]`, where words are `on=INDEX`, `in=INDEX` (member), `mac=LAST`, `mtu=N`, `id=N`, `ad`,
/// `down`, `backup`, `blocked`, `source`, `elsewhere`, `alt=NAME`, `ppp`. The last octet of its MAC address is its index
/// unless given.
fn link(text: &str) -> LinkMessage {
    let mut words = text.split_whitespace().peekable();
    let index: u32 = words.next().unwrap().parse().unwrap();
    let name = words.next().unwrap();
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.link_layer_type = LinkLayerType::Ether;
    link.header.flags = LinkFlags::Up;
    let (mut mac, mut mtu) = (index as u8, 1500);
    let (mut kind, mut data, mut port) = (None, Vec::new(), Vec::new());
    for word in words {
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u32>().unwrap();
        match word {
            "on" => link.attributes.push(LinkAttribute::Link(number())),
            "in" => link.attributes.push(LinkAttribute::Controller(number())),
            "elsewhere" => link.attributes.push(LinkAttribute::LinkNetNsId(0)),
            "alt" => {
                let name = Prop::AltIfName(value.to_owned());
                link.attributes.push(LinkAttribute::PropList(vec![name]));
            }
            "mac" => mac = number() as u8,
            "mtu" => mtu = number(),
            "down" => link.header.flags = LinkFlags::empty(),
            "ppp" => link.header.link_layer_type = LinkLayerType::Ppp,
            "id" => data.push(InfoVlan::Id(number() as u16)),
            "ad" => data.push(InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)),
            "active" | "backup" => {
                let state = match word {
                    "active" => BondPortState::Active,
                    _ => BondPortState::Backup,
                };
                let state = InfoBondPort::BondPortState(state);
                port = vec![
                    LinkInfo::PortKind(InfoPortKind::Bond),
                    LinkInfo::PortData(InfoPortData::BondPort(vec![state])),
                ];
            }
            "forwarding" | "blocked" => {
                let state = match word {
                    "forwarding" => BridgePortState::Forwarding,
                    _ => BridgePortState::Blocking,
                };
                let state = InfoBridgePort::State(state);
                port = vec![
                    LinkInfo::PortKind(InfoPortKind::Bridge),
                    LinkInfo::PortData(InfoPortData::BridgePort(vec![state])),
                ];
            }
            "source" => {
                let mode = InfoMacVlan::Mode(MacVlanMode::Source);
                port = vec![LinkInfo::Data(InfoData::MacVlan(vec![mode]))];
            }
            _ => kind = Some(InfoKind::from(word)),
        }
    }
    if name == "lo" {
        link.header.link_layer_type = LinkLayerType::Loopback;
    }
    let mut info: Vec<LinkInfo> = kind.map(LinkInfo::Kind).into_iter().collect();
    if !data.is_empty() {
        info.push(LinkInfo::Data(InfoData::Vlan(data)));
    }
    info.extend(port);
    link.attributes.extend([
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, mac]),
        LinkAttribute::LinkInfo(info),
    ]);
    link
}

fn links(text: &str) -> Vec<LinkMessage> {
    text.split(';').map(link).collect()
}

/// The ports of these names, each as `NAME<SERVES: LINKS`, a link as `INDEX/OWNERS mac MACS tags TAGS mtu N`.
fn shown(text: &str, names: &[&str]) -> String {
    show(&Layers::of(&links(text), names.iter().copied()))
}

fn show(layers: &Layers) -> String {
    let ports = layers.ports.iter().map(|port| {
        let links = port.links.iter().map(|link| {
            let owners = link.owners.iter().map(u32::to_string);
            let macs = link.macs.iter().map(|[.., last]| last.to_string());
            let tags = match link.tags {
                Tags::ANY => "any".to_owned(),
                Tags::NONE => "none".to_owned(),
                tags => format!("{tags:x?}").replace("Tags(", "").replace(')', ""),
            };
            let vrf = match link.vrf {
                LOOPBACK => String::new(),
                vrf => format!(" vrf {vrf}"),
            };
            let owners = owners.collect::<Vec<_>>().join(",");
            let macs = macs.collect::<Vec<_>>().join(",");
            format!(
                "{}/{owners} mac {macs} {tags} {}{vrf}",
                link.index, link.mtu
            )
        });
        let mut links: Vec<String> = links.collect();
        links.extend(port.idle.clone().map(|idle| format!("({idle})")));
        let name = &port.interface.name;
        format!("{name}<{}: {}", port.serves.join(","), links.join(", "))
    });
    let refused = layers.refused.iter().map(|(_, error)| format!("! {error}"));
    ports.chain(refused).collect::<Vec<_>>().join("; ")
}

#[test]
fn vlans_above_a_port_become_links_of_their_own() {
    for (text, names, expected) in [
        ("2 eth0", &["eth0"][..], "eth0<eth0: 2/2 mac 2 none 1500"),
        (
            "2 eth0;3 eth1;5 v vlan id=5 on=2 mac=2;6 w vlan id=6 on=3;8 d vlan id=8 on=2 down;10 vrf0 vrf;\
             11 x vlan id=7 on=2 mac=9 in=10;12 in vlan id=3 on=5 mac=2;13 m macvlan on=5",
            &["eth0"],
            "eth0<eth0: 2/2 mac 2 none 1500, 5/ mac 2 8005 1500, 11/ mac 9,2 8007 1500 vrf 10, \
             12/ mac 2 80058003 1500, 13/ mac 13 8005 1500",
        ),
        // One that is configured has an owner, by whom wildcards stand for its addresses.
        (
            "2 eth0;5 v vlan id=5 on=2 mac=2;6 w vlan id=6 on=2 mac=2",
            &["eth0", "v"],
            "eth0<eth0,v: 2/2 mac 2 none 1500, 5/5 mac 2 8005 1500, 6/ mac 2 8006 1500",
        ),
        // Without the NIC, its other VLANs are nobody's.
        (
            "2 eth0;5 v vlan id=5 on=2 mac=2;6 w vlan id=6 on=2 mac=2",
            &["v"],
            "eth0<v: 5/5 mac 2 8005 1500",
        ),
        (
            "2 eth0 in=7 active;3 eth1 in=7 backup;7 bond0 bond mac=2;9 v vlan id=9 on=7 mac=2",
            &["bond0"],
            "eth0<bond0: 7/7 mac 2 none 1500, 9/ mac 2 8009 1500; \
             eth1<bond0: (eth1 is a backup, or blocked, in bond0)",
        ),
    ] {
        let links = links(text);
        let mut layers = Layers::of(&links, names.iter().copied());
        for port in &mut layers.ports {
            port.separate_vlans_among(&links);
        }
        assert_eq!(show(&layers), expected, "{text}");
    }
}

#[test]
fn ports_and_links_follow_from_the_list() {
    const BOND: &str = "2 eth0 in=7 active mac=7;3 eth1 in=7 backup mac=7;7 bond0 bond";
    let vlan_on_bond = format!("{BOND};9 bond0.9 vlan id=9 on=7 mac=7");
    let macvlan_on_bond = format!("{BOND};9 m macvlan on=7");
    let cases: &[(&str, &[&str], &str)] = &[
        ("2 eth0", &["eth0"], "eth0<eth0: 2/2 mac 2 any 1500"),
        (
            "2 eth0 veth on=9",
            &["eth0"],
            "eth0<eth0: 2/2 mac 2 any 1500",
        ),
        (
            "2 eth0 alt=enp0s2",
            &["enp0s2"],
            "eth0<enp0s2: 2/2 mac 2 any 1500",
        ),
        // A port that is down is still one.
        ("2 eth0 down", &["eth0"], "eth0<eth0: 2/2 mac 2 any 1500"),
        (
            "2 eth0;3 eth1",
            &["eth1", "eth0"],
            "eth1<eth1: 3/3 mac 3 any 1500; eth0<eth0: 2/2 mac 2 any 1500",
        ),
        // Bonds and teams.
        (
            BOND,
            &["bond0"],
            "eth0<bond0: 7/7 mac 7 any 1500; eth1<bond0: (eth1 is a backup, or blocked, in bond0)",
        ),
        (
            "2 eth0 in=7 active;3 eth1 in=7 active;7 bond0 bond mac=2",
            &["bond0"],
            "eth0<bond0: 7/7 mac 2 any 1500; eth1<bond0: 7/7 mac 3 any 1500",
        ),
        (
            "2 eth0 in=7 active;7 bond0 bond down",
            &["bond0"],
            "eth0<bond0: (bond0 is down)",
        ),
        (
            "2 eth0 in=7;3 eth1 in=7;7 team0 team",
            &["team0"],
            "eth0<team0: 7/7 mac 2 any 1500; eth1<team0: 7/7 mac 3 any 1500",
        ),
        // A member stands for its bond; both together are one link.
        (BOND, &["eth0"], "eth0<eth0: 7/7,2 mac 7 any 1500"),
        (
            BOND,
            &["eth1"],
            "eth1<eth1: (eth1 is a backup, or blocked, in bond0)",
        ),
        (
            BOND,
            &["bond0", "eth0"],
            "eth0<bond0,eth0: 7/7,2 mac 7 any 1500; \
             eth1<bond0: (eth1 is a backup, or blocked, in bond0)",
        ),
        // A member that cannot be a port.
        (
            "2 eth0 in=7 active;3 vx0 vxlan in=7 active;7 bond0 bond",
            &["bond0"],
            "eth0<bond0: 7/7 mac 2 any 1500",
        ),
        // VLANs.
        (
            "2 eth0;5 eth0.5 vlan id=5 on=2 mac=2 mtu=1400",
            &["eth0.5"],
            "eth0<eth0.5: 5/5 mac 2 8005 1400",
        ),
        (
            "2 eth0;5 eth0.5 vlan id=5 on=2",
            &["eth0", "eth0.5"],
            "eth0<eth0,eth0.5: 2/2 mac 2 any 1500, 5/5 mac 5,2 8005 1500",
        ),
        (
            "2 eth0;5 eth0.5 vlan id=5 on=2 down",
            &["eth0", "eth0.5"],
            "eth0<eth0,eth0.5: 2/2 mac 2 any 1500, (eth0.5 is down)",
        ),
        (
            "2 eth0;5 s vlan id=100 ad on=2 mac=2;6 c vlan id=6 on=5 mac=2",
            &["c"],
            "eth0<c: 6/6 mac 2 c0648006 1500",
        ),
        (
            &vlan_on_bond,
            &["bond0.9"],
            "eth0<bond0.9: 9/9 mac 7 8009 1500; \
             eth1<bond0.9: (eth1 is a backup, or blocked, in bond0)",
        ),
        // Macvlans, also on top of others.
        (
            "2 eth0;5 m macvlan on=2",
            &["m"],
            "eth0<m: 5/5 mac 5 none 1500",
        ),
        (
            "2 eth0;5 v vlan id=5 on=2;6 m macvlan on=5",
            &["m", "eth0"],
            "eth0<m,eth0: 6/6 mac 6 8005 1500, 2/2 mac 2 any 1500",
        ),
        (
            &macvlan_on_bond,
            &["m"],
            "eth0<m: 9/9 mac 9 none 1500; eth1<m: (eth1 is a backup, or blocked, in bond0)",
        ),
        // A bridge's port takes the bridge's MAC address, too.
        (
            "2 eth0 in=7 forwarding;7 br0 bridge",
            &["eth0"],
            "eth0<eth0: 7/7,2 mac 2,7 any 1500",
        ),
        (
            "2 eth0 in=7 blocked;7 br0 bridge",
            &["eth0"],
            "eth0<eth0: (eth0 is a backup, or blocked, in br0)",
        ),
        (
            "2 eth0 in=7 active;7 bond0 bond in=8 forwarding mac=2;8 br0 bridge",
            &["bond0"],
            "eth0<bond0: 8/8,7 mac 2,8 any 1500",
        ),
        // A VLAN on a bridge's port gets its frames before the bridge.
        (
            "2 eth0 in=7 blocked;7 br0 bridge;5 v vlan id=5 on=2 mac=2",
            &["v"],
            "eth0<v: 5/5 mac 2 8005 1500",
        ),
        // VRFs.
        (
            "2 eth0 in=9;9 red vrf",
            &["eth0"],
            "eth0<eth0: 2/2 mac 2 any 1500 vrf 9",
        ),
        (
            "2 eth0;5 v vlan id=5 on=2 mac=2 in=9;9 red vrf",
            &["v"],
            "eth0<v: 5/5 mac 2 8005 1500 vrf 9",
        ),
        (
            "2 eth0 in=7 forwarding;7 br0 bridge in=9 mac=2;9 red vrf",
            &["eth0"],
            "eth0<eth0: 7/7,2 mac 2 any 1500 vrf 9",
        ),
    ];
    for (text, names, expected) in cases {
        assert_eq!(shown(text, names), *expected, "{text:?} {names:?}");
    }
}

#[test]
fn what_has_no_port_is_refused_with_what_to_give_instead() {
    let cases = [
        (
            "2 eth0;3 eth1",
            "eth9",
            "there is no interface eth9; use one of: eth0, eth1",
        ),
        (
            "1 lo",
            "lo",
            "AF_XDP cannot serve lo: no packet of another host arrives on it; give the interface on \
             which they arrive, and name the addresses of lo with --listen",
        ),
        ("4 any dummy", "any", "addresses of any with --listen"),
        (
            "2 eth0 in=9;9 red vrf",
            "red",
            "use --interface eth0, and name the addresses of red with --listen",
        ),
        (
            "2 eth0 in=7;3 eth1 in=7;7 br0 bridge",
            "br0",
            "AF_XDP cannot serve br0: packets arrive on the ports of the bridge; use --interface eth0 \
             --interface eth1",
        ),
        ("7 br0 bridge", "br0", "; give its ports"),
        (
            "7 br0 bridge;8 v vlan id=5 on=7",
            "v",
            "AF_XDP cannot serve br0",
        ),
        (
            "7 bond0 bond",
            "bond0",
            "AF_XDP cannot serve bond0: it has no member that AF_XDP can serve",
        ),
        (
            "7 bond0 bond;8 v vlan id=5 on=7",
            "v",
            "cannot serve bond0: it has no member",
        ),
        ("2 vx vxlan in=7;7 bond0 bond", "bond0", "it has no member"),
        (
            "5 v vlan id=5 on=2 elsewhere",
            "v",
            "is in another network namespace",
        ),
        (
            "5 m macvlan on=2 elsewhere",
            "m",
            "is in another network namespace",
        ),
        ("2 eth0;5 m macvlan on=2 source", "m", "by their sender"),
        (
            "2 eth0;5 i ipvlan on=2",
            "i",
            "use --interface eth0, and name the addresses of i with --listen",
        ),
        (
            "2 eth0;5 t macvtap on=2",
            "t",
            "go to the program that has it open",
        ),
        (
            "2 eth0;5 vx0 vxlan on=2",
            "vx0",
            "AF_XDP cannot serve vx0: its packets arrive inside of others (vxlan); leave it to the \
             sockets (--backend socket, or auto)",
        ),
        ("5 wg0 wireguard ppp", "wg0", "inside of others (wireguard)"),
        (
            "5 tun0 tun ppp",
            "tun0",
            "tun0 is not an Ethernet interface",
        ),
        (
            "2 e;3 a vlan id=1 on=2;4 b vlan id=2 on=3;5 c vlan id=3 on=4",
            "c",
            "more than 2 VLAN tags",
        ),
        (
            "2 eth0;3 c macvlan on=2;4 d macvlan on=3;5 e macvlan on=4;6 f macvlan on=5;7 g macvlan on=6;\
             8 h macvlan on=7;9 i macvlan on=8;10 j macvlan on=9;11 k macvlan on=10;12 l macvlan on=11",
            "l",
            "cannot serve c: there are more than 8 layers above it",
        ),
    ];
    for (text, name, expected) in cases {
        let layers = Layers::of(&links(text), [name]);
        assert!(layers.ports.is_empty(), "{text}");
        let [(refused, error)] = layers.refused.as_slice() else {
            panic!("{text}: {layers:?}");
        };
        assert_eq!(refused, name);
        let error = error.to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn links_in_a_circle_end() {
    // The kernel makes none.
    for circle in [
        "2 a vlan id=1 on=3;3 b macvlan on=2",
        "2 a bond in=3;3 b bond in=2",
        "2 a bond in=2",
    ] {
        let layers = Layers::of(&links(circle), ["a"]);
        assert!(
            layers.ports.is_empty() && layers.refused.len() == 1,
            "{circle}"
        );
    }
    let circle = links("2 a in=3;3 b bridge in=2");
    assert_eq!(Layers::of(&circle, ["a"]).ports.len(), 1);
}

#[test]
fn ports_are_taken_by_their_names_and_refusals_by_those_of_the_settings() {
    let list = links("2 eth0 in=7 active;7 bond0 bond;8 br0 bridge");
    let mut layers = Layers::of(&list, ["bond0", "br0"]);
    assert_eq!(layers.names(), ["eth0", "br0"]);
    assert_eq!(layers.take("eth0").unwrap().unwrap().serves, ["bond0"]);
    let refused = layers.take("br0").unwrap();
    assert!(matches!(refused, Err(XdpError::Virtual { .. })));
    for name in ["eth0", "bond0", "br0"] {
        assert!(layers.take(name).is_none(), "{name}");
    }
}

#[test]
fn what_is_behind_tags_is_on_top_of_a_vlan_above_the_port_or_its_masters() {
    let list = links(
        "2 eth0 in=7;7 bond0 bond;3 eth1;5 a vlan id=5 on=7;6 b vlan id=6 on=5;8 c vlan id=8 on=2;\
         9 d vlan id=9 on=3;10 m macvlan on=2;11 n vlan id=3 on=10;12 br5 bridge;\
         13 e vlan id=5 on=3 in=12;14 x ipvlan on=12;15 s vlan id=100 ad on=3;16 q vlan id=6 on=15",
    );
    let names = |index| {
        behind_tags(&list, index).map(|links| {
            let names = links.into_iter().map(|link| kind::name(link).unwrap());
            names.collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(names(2), ["a b c n", ""]);
    assert_eq!(names(3), ["d br5 e x", "s q"]);
    assert_eq!(names(99), ["", ""]);
}

#[test]
fn which_vlans_are_stripped_depends_on_the_outermost_tag() {
    let list = links(
        "2 eth0;5 v vlan id=5 on=2;6 s vlan id=100 ad on=2;7 q vlan id=6 on=6;8 m macvlan on=5",
    );
    let customer = "ethtool -K eth0 rxvlan off";
    let service = "ethtool -K eth0 rx-vlan-stag-hw-parse off";
    let both = "ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off";
    for (stripping, indices, names, command) in [
        ([false, false], &[][..], "", ""),
        ([true, false], &[5, 8], "v", customer),
        ([false, true], &[6, 7], "s, q", service),
        ([true, true], &[5, 8, 6, 7], "v, s, q", both),
    ] {
        let stripped = StrippedVlans::of("eth0", stripping, behind_tags(&list, 2));
        assert_eq!(stripped.links, indices, "{stripping:?}");
        assert_eq!(stripped.names.join(", "), names, "{stripping:?}");
        assert_eq!(stripped.command, command, "{stripping:?}");
    }
    // A command for tags that no VLAN has would be of no use.
    let list = links("2 eth0;5 v vlan id=5 on=2");
    let stripped = StrippedVlans::of("eth0", [true, true], behind_tags(&list, 2));
    assert_eq!(stripped.command, customer);
}

#[test]
fn an_interface_that_is_down_is_named_and_a_backup_is_none() {
    for (text, name, down) in [
        ("2 eth0;5 m macvlan on=2", "m", None),
        ("2 eth0;5 m macvlan on=2 down", "m", Some("m")),
        (
            "2 eth0 in=7 active;7 bond0 bond down",
            "bond0",
            Some("bond0"),
        ),
        ("2 eth0 in=7 backup;7 bond0 bond", "bond0", None),
        (
            "2 eth0 in=7 backup;7 bond0 bond;8 v vlan id=5 on=7 down",
            "v",
            Some("v"),
        ),
    ] {
        let layers = Layers::of(&links(text), [name]);
        let port = layers.ports.first().unwrap();
        assert_eq!(port.down.as_deref(), down, "{text}");
    }
}
