//! What the XDP program steers on a port.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use heimdall_ebpf::{Link, MAX_LINKS, Tags};

use super::{Address, layers::PortLink};

/// The links of a port, and the destinations that are served at each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// For [`Program::set_links`](super::Program::set_links).
    pub(crate) links: Vec<Link>,
    /// For [`Program::set_served`](super::Program::set_served). No scope ids.
    pub(crate) addresses: BTreeMap<SocketAddr, u32>,
    /// Pairs of a link and a MAC address beyond [`MAX_LINKS`].
    pub(crate) left_out: usize,
}

impl Served {
    /// For the listen addresses `listen`, on a port with these links, on a host with these addresses. The tags of the VLANs
    /// with the indices `stripped` do not arrive at the program: neither their links nor their addresses are served.
    ///
    /// 0.0.0.0 stands for the links' IPv4 addresses and `[::]` for their IPv6 ones, link-local included; `[::]` does not stand
    /// for IPv4 too. Any other address is served at the link that has it. If the host has it elsewhere (anycast, loopback), it
    /// is served at all of them. One that the host does not have is left to the kernel, which may forward its packets.
    pub(crate) fn new(
        links: &[PortLink],
        listen: &[SocketAddr],
        addresses: &[Address],
        stripped: &[u32],
    ) -> Self {
        let mut served = Self::default();
        // Each link with the bits of its entries.
        let mut bits = Vec::new();
        for link in links {
            let tagged = link.tags != Tags::ANY && link.tags != Tags::NONE;
            if tagged && stripped.contains(&link.index) {
                continue;
            }
            let mut mask = 0;
            for entry in link.entries() {
                match u32::try_from(served.links.len()) {
                    Ok(bit) if bit < MAX_LINKS => {
                        mask |= 1 << bit;
                        served.links.push(entry);
                    }
                    _ => served.left_out += 1,
                }
            }
            bits.push((link, mask));
        }
        let at = |is_one: &dyn Fn(&PortLink) -> bool| -> u32 {
            let those = bits.iter().filter(|(link, _)| is_one(link));
            those.fold(0, |all, (_, mask)| all | mask)
        };
        // A link without owners has its own addresses, of which wildcards do not speak.
        let has = |link: &PortLink, interface: u32| {
            link.index == interface || link.owners.contains(&interface)
        };
        let is_stripped = |ip: IpAddr| {
            let mut of_vlans = addresses
                .iter()
                .filter(|one| stripped.contains(&one.interface));
            of_vlans.any(|one| one.ip == ip)
        };
        let mut add = |ip: IpAddr, port: u16, mask: u32| {
            if mask != 0 && !is_stripped(ip) {
                *served
                    .addresses
                    .entry(SocketAddr::new(ip, port))
                    .or_default() |= mask;
            }
        };
        for listen in listen {
            let (ip, port) = (listen.ip().to_canonical(), listen.port());
            let scope = match listen {
                SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id()),
                _ => None,
            };
            if ip.is_unspecified() {
                let same = addresses
                    .iter()
                    .filter(|one| one.ip.is_ipv4() == ip.is_ipv4());
                for own in same {
                    add(
                        own.ip,
                        port,
                        at(&|link| link.owners.contains(&own.interface)),
                    );
                }
                continue;
            }
            let owns = |link: &PortLink| {
                let mut own = addresses.iter().filter(|one| one.ip == ip);
                own.any(|one| has(link, one.interface))
            };
            let mask = match (scope, at(&owns)) {
                (Some(scope), _) => at(&|link| has(link, scope) && owns(link)),
                (None, 0) if addresses.iter().any(|one| one.ip == ip) => at(&|_| true),
                (None, owners) => owners,
            };
            add(ip, port, mask);
        }
        served
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use heimdall_ebpf::mac_word;

    use super::*;

    fn link(index: u32, tags: Tags, macs: &[u8]) -> PortLink {
        PortLink {
            index,
            owners: vec![index],
            macs: macs.iter().map(|last| [2, 0, 0, 0, 0, *last]).collect(),
            tags,
            vrf: 1,
            mtu: 1500,
        }
    }

    /// `ADDRESS@INTERFACE`, separated by blanks.
    fn addresses(text: &str) -> Vec<Address> {
        let one = |one: &str| {
            let (ip, interface) = one.split_once('@').unwrap();
            Address::of_tests(ip.parse().unwrap(), interface.parse().unwrap())
        };
        text.split_whitespace().map(one).collect()
    }

    /// The served addresses as `ADDRESS=LINKS`, in order.
    fn shown(links: &[PortLink], listen: &str, host: &str, stripped: &[u32]) -> String {
        let listen: Vec<SocketAddr> = listen
            .split_whitespace()
            .map(|one| one.parse().unwrap())
            .collect();
        let served = Served::new(links, &listen, &addresses(host), stripped);
        let addresses = served.addresses.iter();
        let addresses = addresses.map(|(address, links)| format!("{address}={links:b}"));
        addresses.collect::<Vec<_>>().join(" ")
    }

    /// Those of eth0 (2), its VLAN (5), another NIC (3) and lo (1).
    const HOST: &str = "127.0.0.1@1 203.0.113.53@1 192.0.2.1@2 2001:db8::1@2 fe80::1@2 \
                        198.51.100.5@5 fe80::1@5 192.0.2.129@3";

    #[test]
    fn of_a_nic_alone() {
        let nic = [link(2, Tags::ANY, &[2])];
        for (listen, expected) in [
            ("", ""),
            ("0.0.0.0:53", "192.0.2.1:53=1"),
            ("[::]:53", "[2001:db8::1]:53=1 [fe80::1]:53=1"),
            ("0.0.0.0:53 192.0.2.1:53", "192.0.2.1:53=1"),
            (
                "192.0.2.1:53 192.0.2.1:5353",
                "192.0.2.1:53=1 192.0.2.1:5353=1",
            ),
            ("[::ffff:192.0.2.1]:53", "192.0.2.1:53=1"),
            // Anycast; the VLAN's, by name; another NIC's; another host's.
            ("203.0.113.53:53", "203.0.113.53:53=1"),
            ("198.51.100.5:53", "198.51.100.5:53=1"),
            ("192.0.2.129:53", "192.0.2.129:53=1"),
            ("192.0.2.77:53", ""),
            ("[fe80::1%2]:53", "[fe80::1]:53=1"),
            ("[fe80::1%3]:53", ""),
            ("[fe80::7%2]:53", ""),
        ] {
            assert_eq!(shown(&nic, listen, HOST, &[]), expected, "{listen:?}");
        }
        assert_eq!(shown(&nic, "0.0.0.0:53 [::]:53", "", &[]), "");
        assert_eq!(shown(&[], "0.0.0.0:53 203.0.113.53:53", HOST, &[]), "");
    }

    #[test]
    fn of_a_nic_and_its_vlan() {
        let both = [
            link(2, Tags::ANY, &[2]),
            link(5, Tags::NONE.push(false, 5), &[2]),
        ];
        for (listen, expected) in [
            ("0.0.0.0:53", "192.0.2.1:53=1 198.51.100.5:53=10"),
            ("[::]:53", "[2001:db8::1]:53=1 [fe80::1]:53=11"),
            ("198.51.100.5:53", "198.51.100.5:53=10"),
            ("203.0.113.53:53", "203.0.113.53:53=11"),
            ("[fe80::1%5]:53", "[fe80::1]:53=10"),
        ] {
            assert_eq!(shown(&both, listen, HOST, &[]), expected, "{listen:?}");
        }
    }

    #[test]
    fn of_a_link_without_owners_only_named_addresses_are_served() {
        let mut vlan = link(5, Tags::NONE.push(false, 5), &[2]);
        vlan.owners = Vec::new();
        let both = [link(2, Tags::NONE, &[2]), vlan];
        for (listen, expected) in [
            ("0.0.0.0:53", "192.0.2.1:53=1"),
            ("198.51.100.5:53", "198.51.100.5:53=10"),
            ("192.0.2.1:53", "192.0.2.1:53=1"),
            ("203.0.113.53:53", "203.0.113.53:53=11"),
            ("[fe80::1%5]:53", "[fe80::1]:53=10"),
        ] {
            assert_eq!(shown(&both, listen, HOST, &[]), expected, "{listen:?}");
        }
    }

    #[test]
    fn where_tags_are_stripped_vlans_are_left_out() {
        let both = [
            link(5, Tags::NONE.push(false, 5), &[2]),
            link(2, Tags::ANY, &[2]),
        ];
        for (listen, expected) in [
            ("0.0.0.0:53", "192.0.2.1:53=1"),
            ("198.51.100.5:53", ""),
            ("203.0.113.53:53", "203.0.113.53:53=1"),
            // The VLAN has it, too.
            ("[::]:53", "[2001:db8::1]:53=1"),
        ] {
            assert_eq!(shown(&both, listen, HOST, &[5]), expected, "{listen:?}");
        }
        let vlan = &both[..1];
        assert_eq!(shown(vlan, "0.0.0.0:53 203.0.113.53:53", HOST, &[5]), "");
    }

    #[test]
    fn the_addresses_of_a_member_are_those_of_its_bond() {
        let mut bond = link(7, Tags::ANY, &[2]);
        bond.owners = vec![7, 2];
        let host = "192.0.2.7@7 192.0.2.2@2 192.0.2.3@3";
        let served = shown(&[bond], "0.0.0.0:53", host, &[]);
        assert_eq!(served, "192.0.2.2:53=1 192.0.2.7:53=1");
    }

    #[test]
    fn a_link_has_an_entry_for_each_mac_address() {
        let bridge = [link(7, Tags::ANY, &[2, 7]), link(8, Tags::NONE, &[8])];
        let host = addresses("192.0.2.7@7 192.0.2.8@8");
        let listen = ["0.0.0.0:53".parse().unwrap()];
        let served = Served::new(&bridge, &listen, &host, &[]);
        let masks: Vec<u32> = served.addresses.into_values().collect();
        assert_eq!(masks, [0b011, 0b100]);
        let macs: Vec<u64> = served.links.iter().map(|link| link.mac).collect();
        assert_eq!(macs, [2, 7, 8].map(|last| mac_word([2, 0, 0, 0, 0, last])));
        assert_eq!(served.left_out, 0);
    }

    #[test]
    fn links_beyond_the_map_are_left_out() {
        let many: Vec<PortLink> = (0..40)
            .map(|id| link(100 + id, Tags::NONE.push(false, 1 + id as u16), &[2]))
            .collect();
        let host = addresses("192.0.2.31@131 192.0.2.32@132");
        let listen = ["0.0.0.0:53".parse().unwrap()];
        let served = Served::new(&many, &listen, &host, &[]);
        assert_eq!((served.links.len(), served.left_out), (32, 8));
        let expected = BTreeMap::from([("192.0.2.31:53".parse().unwrap(), 1 << 31)]);
        assert_eq!(served.addresses, expected);
    }
}
