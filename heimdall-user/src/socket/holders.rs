//! The holders of connections, so that a full table closes one of the largest holder, and no network has too many TLS
//! handshakes under way.

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
    /// Its TLS handshake is counted.
    handshake: bool,
}

impl Hold {
    /// Whether both connections are of one network.
    pub(super) fn is_of_network(&self, other: &Self) -> bool {
        self.network == other.network
    }

    /// Whether its TLS handshake is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.handshake
    }
}

impl Holders {
    /// Counts a connection from `peer`.
    pub(super) fn open(&mut self, peer: IpAddr) -> Hold {
        Hold {
            network: self.networks.add(network(peer)),
            address: self.addresses.add(peer),
            handshake: false,
        }
    }

    /// Stops counting a connection.
    pub(super) fn close(&mut self, mut hold: Hold) {
        self.end_handshake(&mut hold);
        self.networks.remove(hold.network);
        self.addresses.remove(hold.address);
    }

    /// Counts the TLS handshake of this connection, until [`end_handshake`](Self::end_handshake). How many its network
    /// has under way with it.
    pub(super) fn begin_handshake(&mut self, hold: &mut Hold) -> usize {
        hold.handshake = true;
        self.addresses.handshakes(hold.address, 1);
        self.networks.handshakes(hold.network, 1)
    }

    /// Stops counting the handshake of this connection, if it is counted.
    pub(super) fn end_handshake(&mut self, hold: &mut Hold) {
        if std::mem::take(&mut hold.handshake) {
            self.addresses.handshakes(hold.address, -1);
            self.networks.handshakes(hold.network, -1);
        }
    }

    /// How many TLS handshakes the address of this connection has under way.
    pub(super) fn handshakes(&self, hold: &Hold) -> usize {
        let count = self.addresses.counts.get(hold.address);
        count.map_or(0, |count| count.handshakes)
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
    counts: Slab<Count>,
}

#[derive(Debug)]
struct Count {
    address: IpAddr,
    connections: usize,
    /// Those of them whose TLS handshake is under way.
    handshakes: usize,
}

impl Counts {
    fn add(&mut self, address: IpAddr) -> usize {
        let counts = &mut self.counts;
        let slot = *self.slots.entry(address).or_insert_with(|| {
            counts.insert(Count {
                address,
                connections: 0,
                handshakes: 0,
            })
        });
        if let Some(count) = self.counts.get_mut(slot) {
            count.connections += 1;
        }
        slot
    }

    fn remove(&mut self, slot: usize) {
        let Some(count) = self.counts.get_mut(slot) else {
            return;
        };
        count.connections -= 1;
        if count.connections == 0 {
            self.slots.remove(&count.address);
            self.counts.remove(slot);
        }
    }

    fn get(&self, slot: usize) -> usize {
        self.counts.get(slot).map_or(0, |count| count.connections)
    }

    /// Adds to the handshakes of a slot. How many there are then.
    fn handshakes(&mut self, slot: usize, more: isize) -> usize {
        let Some(count) = self.counts.get_mut(slot) else {
            return 0;
        };
        count.handshakes = count.handshakes.saturating_add_signed(more);
        count.handshakes
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
        let mut holds = holds;
        let [first, second, third, other, ..] = &mut holds;
        for (hold, handshakes) in [(first, 1), (second, 2), (third, 3), (other, 1)] {
            assert_eq!(holders.begin_handshake(&mut hold.0), handshakes);
        }
        let [(first, _), (second, _), (third, _), (other, _), ..] = &mut holds;
        let of_address = [&*first, second, third].map(|hold| holders.handshakes(hold));
        assert_eq!(of_address, [2, 2, 1]);
        assert!(first.is_of_network(third) && !first.is_of_network(other));
        holders.end_handshake(first);
        holders.end_handshake(first);
        assert!(!first.is_handshaking() && second.is_handshaking());
        assert_eq!(holders.handshakes(second), 1);
        // One that is closed during its handshake is not counted any more.
        for _ in 0..2 {
            let mut again = holders.open("192.0.2.9".parse().unwrap());
            assert_eq!(holders.begin_handshake(&mut again), 3);
            holders.close(again);
        }
        for (hold, _) in holds {
            holders.close(hold);
        }
        assert!(holders.networks.slots.is_empty() && holders.addresses.slots.is_empty());
        assert!(holders.networks.counts.is_empty() && holders.addresses.counts.is_empty());
    }
}
