//! The client subnet option, which upstream queries carry if the operator set one:
//! [RFC 7871 section 6](https://www.rfc-editor.org/rfc/rfc7871#section-6).
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! |                OPTION-CODE = 8                |
//! |                 OPTION-LENGTH                 |
//! |                    FAMILY                     |  1: IPv4, 2: IPv6
//! | SOURCE PREFIX-LENGTH  |  SCOPE PREFIX-LENGTH  |  in bits; the scope is 0 in queries
//! /                    ADDRESS                    /  as many octets as the prefix needs, other bits 0
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```

use std::net::IpAddr;

use super::edns::option::CLIENT_SUBNET;

/// Octets of an option's code and length.
const OPTION_HEAD: usize = 4;
/// Octets before the address.
const FIXED: usize = 4;

/// A client subnet, as the option that goes upstream.
#[derive(Debug)]
pub(crate) struct ClientSubnet(Box<[u8]>);

impl ClientSubnet {
    /// The subnet that holds `address`, of the first `prefix` bits; more than the address has
    /// count as all.
    pub(crate) fn new(address: IpAddr, prefix: u8) -> Self {
        let (family, octets) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (2, address.octets().to_vec()),
        };
        let prefix = prefix.min((octets.len() * 8) as u8);
        let address = octets.iter().zip(0u8..).map_while(|(octet, place)| {
            let bits = prefix.saturating_sub(place * 8).min(8);
            let mask = !(0xff_u16 >> bits) as u8;
            (bits > 0).then_some(octet & mask)
        });
        let len = FIXED as u8 + prefix.div_ceil(8);
        let [code_high, code_low] = CLIENT_SUBNET.to_be_bytes();
        let head = [code_high, code_low, 0, len, 0, family, prefix, 0];
        Self(head.into_iter().chain(address).collect())
    }

    /// The whole option.
    pub(super) fn option(&self) -> &[u8] {
        &self.0
    }

    /// Whether a response's option, `data`, speaks of this subnet; the scope is the upstream's to
    /// choose (section 7.3).
    pub(crate) fn is_echoed(&self, data: &[u8]) -> bool {
        let ours = self.0.split_at_checked(OPTION_HEAD + FIXED);
        let theirs = data.split_at_checked(FIXED);
        match (ours, theirs) {
            (
                Some(([_, _, _, _, family @ .., prefix, _], address)),
                Some(([their_family @ .., their_prefix, _], their_address)),
            ) => family == their_family && prefix == their_prefix && address == their_address,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn subnet(address: &str, prefix: u8) -> ClientSubnet {
        ClientSubnet::new(address.parse().unwrap(), prefix)
    }

    #[test]
    fn sends_no_more_than_the_prefix() {
        let cases: [(&str, u8, &[u8]); 7] = [
            ("192.0.2.255", 24, &[0, 1, 24, 0, 192, 0, 2]),
            ("192.0.2.255", 25, &[0, 1, 25, 0, 192, 0, 2, 128]),
            ("192.0.2.255", 20, &[0, 1, 20, 0, 192, 0, 0]),
            ("192.0.2.255", 32, &[0, 1, 32, 0, 192, 0, 2, 255]),
            ("192.0.2.255", 99, &[0, 1, 32, 0, 192, 0, 2, 255]),
            ("192.0.2.255", 0, &[0, 1, 0, 0]),
            (
                "2001:db8:ffff::",
                35,
                &[0, 2, 35, 0, 0x20, 1, 0xd, 0xb8, 0xe0],
            ),
        ];
        for (address, prefix, data) in cases {
            let head = [0, 8, 0, data.len() as u8];
            assert_eq!(subnet(address, prefix).option(), [&head[..], data].concat());
        }
        let all = subnet("2001:db8::1", 128);
        assert_eq!(all.option().len(), OPTION_HEAD + FIXED + 16);
    }

    #[test]
    fn an_echoed_subnet_differs_in_its_scope_only() {
        let subnet = subnet("192.0.2.1", 24);
        assert!(subnet.is_echoed(&[0, 1, 24, 0, 192, 0, 2]));
        assert!(subnet.is_echoed(&[0, 1, 24, 16, 192, 0, 2]));
        let others: [&[u8]; 7] = [
            &[0, 2, 24, 0, 192, 0, 2],
            &[1, 1, 24, 0, 192, 0, 2],
            &[0, 1, 23, 0, 192, 0, 2],
            &[0, 1, 24, 0, 192, 0, 3],
            &[0, 1, 24, 0, 192, 0, 2, 0],
            &[0, 1, 24, 0, 192, 0],
            &[0, 1],
        ];
        for other in others {
            assert!(!subnet.is_echoed(other), "{other:?}");
        }
    }
}
