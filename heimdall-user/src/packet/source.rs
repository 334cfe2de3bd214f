//! The senders that no reply may go to.

use std::net::{IpAddr, Ipv4Addr};

/// Refuses senders that no reply may go to: multicast, broadcast, loopback and unspecified
/// addresses, and the host's own ones (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7).
///
/// What else passes is up to the access list, as it is for a kernel socket: the kernel takes
/// 240.0.0.0/4 and 0.0.0.0/8 except for their last and first address (`ip_route_input_slow`, Linux 5.3).
#[derive(Clone, Debug)]
pub struct SourceFilter {
    /// Refused addresses, sorted.
    v4: Vec<[u8; 4]>,
    /// Which values the last six bits of `v4` have, a bit each: few senders share theirs.
    v4_ends: u64,
    /// Refused addresses in memory order of their octets, sorted.
    v6: Vec<u128>,
}

impl Default for SourceFilter {
    /// The filter of a host without addresses.
    fn default() -> Self {
        Self::new([])
    }
}

impl SourceFilter {
    /// A filter for a host with these addresses, its subnets' broadcast addresses among them.
    pub fn new(own: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut v4 = vec![Ipv4Addr::UNSPECIFIED.octets(), Ipv4Addr::BROADCAST.octets()];
        let mut v6 = Vec::new();
        for address in own {
            match address {
                IpAddr::V4(address) => v4.push(address.octets()),
                IpAddr::V6(address) => v6.push(u128::from_ne_bytes(address.octets())),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        let v4_ends = v4.iter().fold(0, |ends, address| ends | end_bit(*address));
        Self { v4, v4_ends, v6 }
    }

    /// The refused addresses as prefixes, each by its first address and its length: what
    /// [`allows_v4`](Self::allows_v4) and [`allows_v6`](Self::allows_v6) refuse, and nothing else.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let blocks_v4 = [([127, 0, 0, 0], 8), ([224, 0, 0, 0], 4)];
        let blocks_v4 = blocks_v4.map(|(first, len)| (IpAddr::from(first), len));
        let low = |high: u16| (IpAddr::from([0, 0, 0, 0, 0, high, 0, 0]), 96);
        let multicast = (IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8);
        let blocks_v6 = [multicast, low(0), low(0xff), low(0xff00), low(0xffff)];
        let v4 = self.v4.iter().map(|own| (IpAddr::from(*own), 32));
        let v6 = self
            .v6
            .iter()
            .map(|own| (IpAddr::from(own.to_ne_bytes()), 128));
        blocks_v4.into_iter().chain(blocks_v6).chain(v4).chain(v6)
    }

    /// Whether a reply may go to this IPv4 address.
    #[inline(always)]
    pub(super) fn allows_v4(&self, source: [u8; 4]) -> bool {
        let [first, ..] = source;
        let refused = || self.v4_ends & end_bit(source) != 0 && self.is_refused_v4(source);
        first != 127 && first & 0xf0 != 0xe0 && !refused()
    }

    #[cold]
    #[inline(never)]
    fn is_refused_v4(&self, source: [u8; 4]) -> bool {
        self.v4.binary_search(&source).is_ok()
    }

    /// Whether a reply may go to this IPv6 address.
    #[inline(always)]
    pub(super) fn allows_v6(&self, source: [u8; 16]) -> bool {
        let [first, ..] = source;
        // The unspecified and the loopback address, the deprecated IPv4-compatible ones, and the
        // IPv4-mapped ones, which are never on a wire (RFC 6890 section 2.2.3).
        let low = matches!(
            source,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 | 0xff, 0 | 0xff, ..]
        );
        first != 0xff && !low && self.v6.binary_search(&u128::from_ne_bytes(source)).is_err()
    }
}

/// The bit of an address's last six bits.
#[inline(always)]
fn end_bit([.., last]: [u8; 4]) -> u64 {
    1 << (last % 64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Whether the first bits of two addresses are the same.
    fn shares(len: u8, one: IpAddr, other: IpAddr) -> bool {
        let (one, other, width) = match (one, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                (u128::from(one.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        (one ^ other) >> (width - len) == 0
    }

    #[test]
    fn refuses_what_must_not_be_answered() {
        let filter = SourceFilter::new(
            ["10.0.0.1", "10.0.0.255", "fe80::1"].map(|own| own.parse().expect("address")),
        );
        for (address, allowed) in [
            ("10.0.0.2", true),
            ("10.0.0.1", false),
            ("10.0.0.255", false),
            ("10.0.0.65", true),
            ("10.1.0.1", true),
            ("0.0.0.1", true),
            ("0.255.255.255", true),
            ("240.0.0.1", true),
            ("255.255.255.254", true),
            ("0.0.0.0", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("224.0.0.251", false),
            ("239.255.255.255", false),
            ("255.255.255.255", false),
            ("223.255.255.254", true),
        ] {
            assert_eq!(
                filter.allows_v4(address.parse::<Ipv4Addr>().expect("address").octets()),
                allowed,
                "{address}"
            );
        }
        for (address, allowed) in [
            ("fe80::2", true),
            ("fe80::1", false),
            ("::", false),
            ("::1", false),
            ("::ffff:10.0.0.2", false),
            ("ff02::fb", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(
                filter.allows_v6(address.parse::<Ipv6Addr>().expect("address").octets()),
                allowed,
                "{address}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_refused_prefixes_are_those_that_are_refused(v4: u32, v6: [u8; 16], zeros in 0..=12usize, own: bool) {
            let v4 = Ipv4Addr::from(v4);
            // Few addresses begin with zeros by chance.
            let mut octets = v6;
            octets.iter_mut().take(zeros).for_each(|octet| *octet = 0);
            octets[10] = [0, 0xff, 1][usize::from(v6[10] % 3)];
            octets[11] = [0, 0xff, 1][usize::from(v6[11] % 3)];
            let v6 = Ipv6Addr::from(octets);
            let own = [IpAddr::from(v4), IpAddr::from(v6)].into_iter().filter(|_| own);
            let filter = SourceFilter::new(own);
            for (address, allowed) in [
                (IpAddr::from(v4), filter.allows_v4(v4.octets())),
                (IpAddr::from(v6), filter.allows_v6(octets)),
            ] {
                let refused = filter.refused().any(|(first, len)| shares(len, first, address));
                prop_assert_eq!(refused, !allowed, "{}", address);
            }
        }
    }
}
