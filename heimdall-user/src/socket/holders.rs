//! The holders of TCP connections, so that a full table closes one of the largest holder.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use slab::Slab;

/// Bits of a network's prefix, as in the defaults of rate limits. A host or a site commonly has all
/// addresses of one.
const V4_NETWORK: u32 = 24;
const V6_NETWORK: u32 = 56;

/// The connections that each client address holds, and each network.
///
/// Networks are compared first, so that a host with a whole network gains nothing by using a new
/// address for each connection; then addresses, to find the largest holder in a network of many
/// clients, such as a LAN.
#[derive(Debug, Default)]
pub(super) struct Holders {
    networks: Counts,
    addresses: Counts,
}

/// A connection's entry, from [`Holders::open`] to [`Holders::close`].
#[derive(Debug)]
pub(super) struct Hold {
    network: usize,
    address: usize,
}

impl Holders {
    /// Counts a connection from `peer`.
    pub(super) fn open(&mut self, peer: IpAddr) -> Hold {
        Hold {
            network: self.networks.add(network(peer)),
            address: self.addresses.add(peer),
        }
    }

    /// Stops counting a connection.
    pub(super) fn close(&mut self, hold: Hold) {
        self.networks.remove(hold.network);
        self.addresses.remove(hold.address);
    }

    /// How many connections the holder of this one has, its network's first: the largest holder
    /// compares greatest.
    pub(super) fn held(&self, hold: &Hold) -> (usize, usize) {
        (
            self.networks.get(hold.network),
            self.addresses.get(hold.address),
        )
    }
}

/// Counts by address. An address keeps its slot as long as its count is not zero.
#[derive(Debug, Default)]
struct Counts {
    slots: HashMap<IpAddr, usize>,
    counts: Slab<(IpAddr, usize)>,
}

impl Counts {
    fn add(&mut self, address: IpAddr) -> usize {
        let slot = *self
            .slots
            .entry(address)
            .or_insert_with(|| self.counts.insert((address, 0)));
        if let Some((_, count)) = self.counts.get_mut(slot) {
            *count += 1;
        }
        slot
    }

    fn remove(&mut self, slot: usize) {
        let Some((address, count)) = self.counts.get_mut(slot) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.slots.remove(address);
            self.counts.remove(slot);
        }
    }

    fn get(&self, slot: usize) -> usize {
        self.counts.get(slot).map_or(0, |(_, count)| *count)
    }
}

/// The first address of the network that `address` is in.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() & (u32::MAX << (32 - V4_NETWORK))).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits() & (u128::MAX << (128 - V6_NETWORK))).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_and_addresses_are_counted_until_they_close() {
        let mut holders = Holders::default();
        let mut open = |text: &str| holders.open(text.parse().unwrap());
        let holds = [
            ("192.0.2.1", (3, 2)),
            ("192.0.2.1", (3, 2)),
            ("192.0.2.200", (3, 1)),
            ("192.0.3.1", (1, 1)),
            ("2001:db8:0:1::1", (2, 1)),
            ("2001:db8:0:ff::1", (2, 1)),
            ("2001:db8:0:100::1", (1, 1)),
        ]
        .map(|(text, held)| (open(text), held));
        for (hold, held) in &holds {
            assert_eq!(holders.held(hold), *held);
        }
        for (hold, _) in holds {
            holders.close(hold);
        }
        assert!(holders.networks.slots.is_empty() && holders.addresses.slots.is_empty());
        assert!(holders.networks.counts.is_empty() && holders.addresses.counts.is_empty());
    }
}
