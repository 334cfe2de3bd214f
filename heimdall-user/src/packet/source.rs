//! Which senders a reply may go to.

use std::net::IpAddr;

/// Refuses senders that no reply may go to: multicast, broadcast, loopback and unspecified
/// addresses, and the interface's own ones (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7).
#[derive(Clone, Debug, Default)]
pub struct SourceFilter {
    v4: Vec<u32>,
    v6: Vec<[u8; 16]>,
}

impl SourceFilter {
    /// A filter for an interface with these addresses, its subnets' broadcast addresses among
    /// them.
    pub fn new(own: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut filter = Self::default();
        for address in own {
            match address {
                IpAddr::V4(v4) => filter.v4.push(v4.into()),
                IpAddr::V6(v6) => filter.v6.push(v6.octets()),
            }
        }
        filter
    }

    /// Whether a reply may go to this IPv4 address.
    #[expect(
        clippy::manual_contains,
        reason = "contains is made for many: it takes longer for the two that there are"
    )]
    #[inline(always)]
    pub fn allows_v4(&self, source: u32) -> bool {
        let first = source >> 24;
        first != 0 && first != 127 && first < 224 && !self.v4.iter().any(|own| *own == source)
    }

    /// Whether a reply may go to this IPv6 address.
    #[inline(always)]
    pub fn allows_v6(&self, source: [u8; 16]) -> bool {
        let [first, ..] = source;
        // The unspecified and the loopback address, and the deprecated IPv4-compatible ones.
        let low = matches!(source, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..]);
        first != 0xff && !low && !self.v6.contains(&source)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn refuses_what_must_not_be_answered() {
        let filter = SourceFilter::new(
            ["10.0.0.1", "10.0.0.255", "fe80::1"].map(|own| own.parse().expect("address")),
        );
        for (address, allowed) in [
            ("10.0.0.2", true),
            ("10.0.0.1", false),
            ("10.0.0.255", false),
            ("0.0.0.0", false),
            ("127.0.0.1", false),
            ("224.0.0.251", false),
            ("255.255.255.255", false),
            ("223.255.255.254", true),
        ] {
            assert_eq!(
                filter.allows_v4(address.parse::<Ipv4Addr>().expect("address").into()),
                allowed,
                "{address}"
            );
        }
        for (address, allowed) in [
            ("fe80::2", true),
            ("fe80::1", false),
            ("::", false),
            ("::1", false),
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
}
