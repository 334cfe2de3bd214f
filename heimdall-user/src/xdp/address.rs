//! The IP addresses of this network namespace.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::XdpError;
use crate::netlink;

/// An address of some interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub(crate) ip: IpAddr,
    /// Index of its interface; 0 if none has it.
    pub(crate) interface: u32,
    /// Whether other hosts can reach it: its scope is global.
    pub(crate) global: bool,
    /// The kernel does not use it yet, as it does not know whether another host has it (RFC 4862, section 5.4).
    pub(crate) tentative: bool,
    /// Broadcast addresses that come with it.
    broadcasts: [Option<Ipv4Addr>; 2],
}

impl Address {
    /// All addresses, of both families, link-local ones included; not those that another host turned out to have.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel does not list them.
    pub fn all() -> Result<Vec<Self>, XdpError> {
        let messages = netlink::addresses()
            .map_err(|error| XdpError::system("list addresses over netlink", error))?;
        Ok(messages.into_iter().filter_map(Self::read).collect())
    }

    /// The broadcast addresses that the kernel knows because of this address: the one that was given
    /// with it (`brd`), and the one of its prefix, if that has room for one (`fib_add_ifaddr`).
    pub fn broadcasts(&self) -> impl Iterator<Item = IpAddr> {
        self.broadcasts.into_iter().flatten().map(IpAddr::V4)
    }

    /// The host's own by a route alone, as `ip route add local` makes them.
    pub(crate) fn is_routed_here(ip: IpAddr) -> bool {
        // Without a route there is an error.
        netlink::is_local(ip).unwrap_or(false)
    }

    /// An address that no interface has.
    pub(crate) fn without_interface(ip: IpAddr) -> Self {
        Self {
            ip,
            interface: 0,
            global: true,
            tentative: false,
            broadcasts: [None; 2],
        }
    }

    /// A global address without a broadcast address.
    #[cfg(test)]
    pub(super) fn of_tests(ip: IpAddr, interface: u32) -> Self {
        Self {
            interface,
            ..Self::without_interface(ip)
        }
    }

    fn read(message: AddressMessage) -> Option<Self> {
        let (mut local, mut prefix, mut broadcast) = (None, None, None);
        // The header has room for the first eight flags only.
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(ip),
                // The prefix is that of the peer, where there is one.
                AddressAttribute::Address(ip) => prefix = Some(ip),
                AddressAttribute::Broadcast(ip) => broadcast = Some(ip),
                AddressAttribute::Flags(all) => flags = all,
                _ => {}
            }
        }
        if flags.contains(AddressFlags::Dadfailed) {
            return None;
        }
        let directed = match prefix {
            Some(IpAddr::V4(ip)) if message.header.prefix_len < 31 => {
                let hosts = u32::MAX >> message.header.prefix_len;
                Some(Ipv4Addr::from_bits(ip.to_bits() | hosts))
            }
            _ => None,
        };
        Some(Self {
            ip: local.or(prefix)?,
            interface: message.header.index,
            global: message.header.scope == AddressScope::Universe,
            tentative: flags.contains(AddressFlags::Tentative)
                && !flags.contains(AddressFlags::Optimistic),
            broadcasts: [broadcast, directed],
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use netlink_packet_route::address::AddressHeaderFlags;

    use super::*;

    #[test]
    fn addresses_that_another_host_may_have_are_not_used() {
        let is_used = |message| Address::read(message).is_some_and(|address| !address.tentative);
        for (flags, expected) in [
            (AddressFlags::Permanent, true),
            (AddressFlags::Permanent | AddressFlags::Tentative, false),
            (AddressFlags::Tentative | AddressFlags::Optimistic, true),
            (AddressFlags::Permanent | AddressFlags::Dadfailed, false),
        ] {
            let mut message = AddressMessage::default();
            let ip = "2001:db8::1".parse().unwrap();
            message.attributes = vec![
                AddressAttribute::Address(ip),
                AddressAttribute::Flags(flags),
            ];
            assert_eq!(is_used(message.clone()), expected, "{flags:?}");
            message.attributes.pop();
            message.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits() as u8);
            assert_eq!(is_used(message), expected, "{flags:?}");
        }
    }

    #[test]
    fn a_prefix_has_a_broadcast_address_if_it_has_room_for_one() {
        for (local, peer, length, broadcast, expected) in [
            ("10.0.0.1", "10.0.0.1", 24, None, "10.0.0.255"),
            (
                "10.0.0.1",
                "10.0.0.1",
                24,
                Some("10.0.0.63"),
                "10.0.0.63 10.0.0.255",
            ),
            ("10.1.2.3", "10.1.2.3", 8, None, "10.255.255.255"),
            ("10.0.0.1", "10.0.0.1", 30, None, "10.0.0.3"),
            ("10.0.0.0", "10.0.0.0", 31, None, ""),
            ("10.0.0.1", "10.0.0.1", 32, None, ""),
            ("10.0.0.1", "10.9.0.1", 24, None, "10.9.0.255"),
            ("2001:db8::1", "2001:db8::1", 24, None, ""),
        ] {
            let mut message = AddressMessage::default();
            message.header.prefix_len = length;
            message.attributes = vec![AddressAttribute::Address(peer.parse().unwrap())];
            if local != peer || local.contains('.') {
                let local = AddressAttribute::Local(local.parse().unwrap());
                message.attributes.push(local);
            }
            let broadcast = broadcast.map(|ip| AddressAttribute::Broadcast(ip.parse().unwrap()));
            message.attributes.extend(broadcast);
            let address = Address::read(message).unwrap();
            assert_eq!(address.ip.to_string(), local);
            let found: Vec<String> = address.broadcasts().map(|ip| ip.to_string()).collect();
            assert_eq!(found.join(" "), expected, "{local}/{length}");
        }
    }
}
