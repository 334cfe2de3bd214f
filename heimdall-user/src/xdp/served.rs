//! The destinations that the XDP program steers.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// The destinations to steer on an interface that has `addresses`, for the listen addresses `listen`.
///
/// 0.0.0.0 stands for the interface's IPv4 addresses and `[::]` for its IPv6 ones, link-local
/// included; `[::]` does not stand for IPv4 too. Any other address is served as it is, because it may
/// be routed here without being the interface's own (anycast, loopback). The result has no scope
/// ids.
pub fn served(listen: &[SocketAddr], addresses: &[IpAddr]) -> BTreeSet<SocketAddr> {
    let mut served = BTreeSet::new();
    for listen in listen {
        let (ip, port) = (listen.ip(), listen.port());
        if ip.is_unspecified() {
            let same_family = addresses.iter().filter(|own| own.is_ipv4() == ip.is_ipv4());
            served.extend(same_family.map(|own| SocketAddr::new(*own, port)));
        } else {
            served.insert(SocketAddr::new(ip, port));
        }
    }
    served
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Addresses separated by spaces, of any type that parses.
    fn list<C: FromIterator<T>, T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> C {
        text.split_whitespace()
            .map(|one| one.parse().unwrap())
            .collect()
    }

    #[test]
    fn listen_addresses_become_destinations() {
        let own: Vec<IpAddr> = list("192.0.2.1 198.51.100.1 2001:db8::1 fe80::1");
        let cases = [
            ("", ""),
            ("0.0.0.0:53", "192.0.2.1:53 198.51.100.1:53"),
            ("[::]:53", "[2001:db8::1]:53 [fe80::1]:53"),
            ("0.0.0.0:53 192.0.2.1:53", "192.0.2.1:53 198.51.100.1:53"),
            ("192.0.2.1:53 192.0.2.1:5353", "192.0.2.1:53 192.0.2.1:5353"),
            // not the interface's own: anycast
            ("203.0.113.53:53", "203.0.113.53:53"),
            ("[fe80::1%3]:53", "[fe80::1]:53"),
        ];
        for (listen, expected) in cases {
            let listen: Vec<SocketAddr> = list(listen);
            assert_eq!(served(&listen, &own), list(expected), "{listen:?}");
        }
    }

    #[test]
    fn an_interface_without_addresses_serves_no_wildcard() {
        let listen: Vec<SocketAddr> = list("0.0.0.0:53 [::]:53");
        assert!(served(&listen, &[]).is_empty());
    }
}
