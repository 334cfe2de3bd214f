//! Which endpoints an interface serves.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use heimdall_ebpf::Served;

/// The endpoints to steer on an interface that has the addresses `own`: a listen address as it is
/// if the interface has it, a wildcard as all the interface's addresses of its family. Nothing
/// else, or a router would take the DNS that it forwards for its own.
pub fn endpoints(listen: &[SocketAddr], own: &[IpAddr]) -> BTreeSet<Served> {
    let matches = |listen: &SocketAddr, own: &IpAddr| match listen.ip() {
        wildcard if wildcard.is_unspecified() => wildcard.is_ipv4() == own.is_ipv4(),
        address => address == *own,
    };
    let served = |own: &IpAddr, port: u16| match own {
        IpAddr::V4(v4) => Served::v4(v4.octets(), port.to_be_bytes()),
        IpAddr::V6(v6) => Served::v6(v6.octets(), port.to_be_bytes()),
    };
    listen
        .iter()
        .flat_map(|listen| {
            own.iter()
                .filter(|own| matches(listen, own))
                .map(|own| served(own, listen.port()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn served(listen: &[&str], own: &[&str]) -> BTreeSet<Served> {
        let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let own: Vec<IpAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
        endpoints(&listen, &own)
    }

    #[test]
    fn wildcards_become_the_interfaces_addresses() {
        let own = ["10.0.0.1", "10.0.0.2", "fe80::1"];
        let four = served(&["0.0.0.0:53"], &own);
        assert_eq!(
            four,
            [
                Served::v4([10, 0, 0, 1], [0, 53]),
                Served::v4([10, 0, 0, 2], [0, 53])
            ]
            .into()
        );
        let six = served(&["[::]:5353"], &own);
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(six, [Served::v6(link_local, 5353u16.to_be_bytes())].into());
    }

    #[test]
    fn other_interfaces_addresses_are_not_served() {
        assert_eq!(
            served(&["10.0.0.9:53", "10.0.0.1:53"], &["10.0.0.1"]).len(),
            1
        );
        assert!(served(&["0.0.0.0:53"], &[]).is_empty());
    }
}
