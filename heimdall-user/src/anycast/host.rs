//! The addresses and routes of the host. What is there already, or gone already, is no error: others may change it, too.

use std::{io, net::IpAddr};

use netlink_packet_route::{address::AddressAttribute, link::LinkFlags};
use nix::libc;
use thiserror::Error;

use super::AnycastState;
use crate::netlink;

/// Why the host is not as it should be.
#[derive(Debug, Error)]
pub(crate) enum AnycastError {
    /// There is no interface, and none can be made.
    #[error(
        "there is no interface {interface}, and it cannot be made ({source}); {}",
        advice(source)
    )]
    NoInterface {
        /// Its name.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// Nobody announces the addresses of an interface that is down.
    #[error("the interface {interface} is down; run `ip link set {interface} up`")]
    Down {
        /// Its name.
        interface: String,
    },
    /// An address was withdrawn, and an interface has it all the same.
    #[error(
        "{address} is still on interface {interface}, where the server did not put it; if it is the host's own address, take it out of \
         [anycast]; otherwise run `ip address del {address} dev {interface}`",
        address = .0.with_prefix(), interface = .0.interface
    )]
    Left(Held),
    /// An address cannot be added or removed.
    #[error("cannot {what} {ip} {to} {interface}: {source}{}", permission(source))]
    Address {
        /// `add` or `remove`.
        what: &'static str,
        /// The address.
        ip: IpAddr,
        /// `to` or `from`.
        to: &'static str,
        /// Where.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// The route of an address cannot be added or removed.
    #[error(
        "cannot {what} the local route of {ip}, without which queries during a withdrawal are lost: {source}{}",
        permission(source)
    )]
    Route {
        /// `add` or `remove`.
        what: &'static str,
        /// The address.
        ip: IpAddr,
        /// Why not.
        source: io::Error,
    },
}

/// What to do without an interface.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "this kernel has no dummy interfaces: write interface = \"lo\" in [anycast], or make one of another kind \
             (`ip link add anycast0 type bridge && ip link set anycast0 up`)"
        }
        _ => {
            "run `ip link add NAME type dummy` and `ip link set NAME up`, or start the server with CAP_NET_ADMIN"
        }
    }
}

fn permission(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; the server needs CAP_NET_ADMIN",
        // Of an IPv6 address or route.
        Some(libc::EACCES) => "; IPv6 is disabled there (sysctl net.ipv6.conf.*.disable_ipv6)",
        _ => "",
    }
}

/// The addresses, and the interface that they are on while they are announced.
#[derive(Debug)]
pub(super) struct Host {
    interface: String,
    /// None any more once they were left to another server.
    addresses: Vec<IpAddr>,
}

impl Host {
    pub(super) fn new(interface: String, addresses: Vec<IpAddr>) -> Self {
        Self {
            interface,
            addresses,
        }
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// For the log.
    pub(super) fn list(&self) -> String {
        let list: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        list.join(", ")
    }

    /// Leaves all to another server.
    pub(super) fn forget(&mut self) {
        self.addresses.clear();
    }

    /// Gives the interface the addresses. It is made if there is none.
    ///
    /// # Errors
    /// The first that fails; the others are added.
    pub(super) fn announce(&mut self) -> Result<(), AnycastError> {
        let routes = self.each(|ip| set_route(ip, true));
        let index = self.make_interface()?;
        let addresses = self.each(|ip| {
            let added = netlink::add_address(index, ip);
            unless(added, libc::EEXIST).map_err(|source| AnycastError::Address {
                what: "add",
                ip,
                to: "to",
                interface: self.interface.clone(),
                source,
            })
        });
        addresses.and(routes)
    }

    /// Takes the addresses from the interface. Packets for them are delivered all the same.
    ///
    /// # Errors
    /// The first that fails; the others are removed.
    pub(super) fn withdraw(&self) -> Result<(), AnycastError> {
        let routes = self.each(|ip| set_route(ip, true));
        remove_addresses(&self.interface, &self.addresses)?;
        none_left(&self.addresses)?;
        routes
    }

    /// Takes the addresses and their routes away.
    ///
    /// # Errors
    /// The first that fails; the others are removed.
    pub(super) fn end(&self) -> Result<(), AnycastError> {
        withdraw(&self.interface, &self.addresses)
    }

    /// Takes away what a predecessor leaves and is not wanted any more.
    pub(super) fn drop_others(&self, left: &AnycastState) {
        let moved = left.interface != self.interface;
        let mut addresses = left.addresses.clone();
        if moved {
            // Its routes are wanted.
            let kept = self.addresses.iter().copied();
            let kept: Vec<IpAddr> = kept.filter(|ip| addresses.contains(ip)).collect();
            if let Err(problem) = remove_addresses(&left.interface, &kept) {
                tracing::warn!("anycast: {problem}");
            }
        }
        addresses.retain(|ip| !self.addresses.contains(ip));
        if let Err(problem) = withdraw(&left.interface, &addresses) {
            tracing::warn!("anycast: {problem}");
        }
    }

    /// The index of the interface.
    fn make_interface(&self) -> Result<u32, AnycastError> {
        let link = || netlink::link(&self.interface);
        let made = link().or_else(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => {
                unless(netlink::make_dummy(&self.interface), libc::EEXIST)?;
                link()
            }
            _ => Err(error),
        });
        let interface = self.interface.clone();
        match made {
            Ok(link) if link.header.flags.contains(LinkFlags::Up) => Ok(link.header.index),
            Ok(_) => Err(AnycastError::Down { interface }),
            Err(source) => Err(AnycastError::NoInterface { interface, source }),
        }
    }

    /// Does it for all addresses. Returns the first error.
    fn each(
        &self,
        change: impl Fn(IpAddr) -> Result<(), AnycastError>,
    ) -> Result<(), AnycastError> {
        each(&self.addresses, change)
    }
}

/// Takes the addresses of a server that does not run, and their routes, from the host.
///
/// # Errors
/// The first that fails; the others are removed.
pub(crate) fn withdraw(interface: &str, addresses: &[IpAddr]) -> Result<(), AnycastError> {
    let removed = remove_addresses(interface, addresses);
    removed.and(each(addresses, |ip| set_route(ip, false)))
}

fn remove_addresses(interface: &str, addresses: &[IpAddr]) -> Result<(), AnycastError> {
    // Without an interface there is nothing to remove.
    let Ok(link) = netlink::link(interface) else {
        return Ok(());
    };
    each(addresses, |ip| {
        let removed = netlink::remove_address(link.header.index, ip);
        unless(removed, libc::EADDRNOTAVAIL).map_err(|source| AnycastError::Address {
            what: "remove",
            ip,
            to: "from",
            interface: interface.to_owned(),
            source,
        })
    })
}

/// Checks that no interface has one of them. Somebody else may have added it to another one, or with another prefix.
fn none_left(addresses: &[IpAddr]) -> Result<(), AnycastError> {
    match held(addresses).into_iter().next() {
        Some(left) => Err(AnycastError::Left(left)),
        None => Ok(()),
    }
}

/// An address that an interface has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) ip: IpAddr,
    /// Of its prefix.
    bits: u8,
    pub(crate) interface: String,
}

impl Held {
    /// As `ip address` writes it.
    pub(crate) fn with_prefix(&self) -> String {
        format!("{}/{}", self.ip, self.bits)
    }

    /// Whether its prefix has other addresses, as that of an address by which a host is reached has.
    pub(crate) fn is_in_network(&self) -> bool {
        self.bits < if self.ip.is_ipv4() { 32 } else { 128 }
    }
}

/// Which of these addresses the host's interfaces have now. None, if the kernel does not tell.
pub(crate) fn held(addresses: &[IpAddr]) -> Vec<Held> {
    let messages = netlink::addresses().unwrap_or_default().into_iter();
    let wanted = messages.filter_map(|message| {
        let mut attributes = message.attributes.iter();
        let ip = attributes.find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => {
                addresses.contains(ip).then_some(*ip)
            }
            _ => None,
        })?;
        let index = message.header.index;
        Some(Held {
            ip,
            bits: message.header.prefix_len,
            interface: netlink::name_of(index).unwrap_or_else(|| index.to_string()),
        })
    });
    wanted.collect()
}

fn set_route(ip: IpAddr, wanted: bool) -> Result<(), AnycastError> {
    let (what, outcome) = match wanted {
        true => ("add", unless(netlink::add_local_route(ip), libc::EEXIST)),
        false => (
            "remove",
            unless(netlink::remove_local_route(ip), libc::ESRCH),
        ),
    };
    outcome.map_err(|source| AnycastError::Route { what, ip, source })
}

fn each(
    addresses: &[IpAddr],
    change: impl Fn(IpAddr) -> Result<(), AnycastError>,
) -> Result<(), AnycastError> {
    let outcomes: Vec<_> = addresses.iter().map(|ip| change(*ip)).collect();
    outcomes.into_iter().collect()
}

/// The outcome of a change; `already` is the error of one that is not needed.
fn unless(outcome: io::Result<()>, already: i32) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(already) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn advice_for_an_address_that_is_left_does_not_cut_the_host_off() {
        let own = Held {
            ip: Ipv4Addr::new(10, 53, 0, 1).into(),
            bits: 24,
            interface: "eth0".to_owned(),
        };
        assert!(own.is_in_network());
        assert_eq!(
            AnycastError::Left(own).to_string(),
            "10.53.0.1/24 is still on interface eth0, where the server did not put it; if it is the host's own address, take it \
             out of [anycast]; otherwise run `ip address del 10.53.0.1/24 dev eth0`"
        );
        let service = |ip: IpAddr, bits| Held {
            ip,
            bits,
            interface: "lo".to_owned(),
        };
        assert!(!service(Ipv4Addr::new(192, 0, 2, 53).into(), 32).is_in_network());
        assert!(!service(Ipv6Addr::LOCALHOST.into(), 128).is_in_network());
        assert!(service(Ipv6Addr::LOCALHOST.into(), 64).is_in_network());
    }

    #[test]
    fn addresses_of_the_host_are_found_with_their_interface() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let found = held(&[loopback, Ipv4Addr::new(192, 0, 2, 1).into()]);
        // A network namespace may have none at all.
        for one in &found {
            assert_eq!((one.ip, one.interface.as_str()), (loopback, "lo"));
            assert_eq!(one.with_prefix(), "127.0.0.1/8");
        }
        assert!(held(&[]).is_empty());
    }
}
