//! A datagram's two addresses, and their encoding as socket address and control message.
//!
//! The kernel's structures are octets here, read and written field by field: whatever length or kind
//! it reports, nothing is read beyond their end.

use std::{
    mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use nix::libc;

/// The source address of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// The one that the socket is bound to.
    Bound,
    V4(Ipv4Addr),
    /// With the interface's number, or 0 to leave it to the route.
    V6(Ipv6Addr, u32),
}

/// A datagram's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) peer: SocketAddr,
    pub(super) local: Local,
}

/// A `sockaddr_in` or a `sockaddr_in6`. Both begin with the family and the port.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct SocketName([u8; NAME]);

const NAME: usize = mem::size_of::<libc::sockaddr_in6>();

impl SocketName {
    pub(super) const EMPTY: Self = Self([0; NAME]);

    /// The address in the first `len` octets; `None` if there is none.
    pub(super) fn decode(&self, len: usize) -> Option<SocketAddr> {
        let octets = self.0.get(..len)?;
        let family = u16::from_ne_bytes(*array(octets, 0)?);
        let port = u16::from_be_bytes(*array(octets, 2)?);
        match i32::from(family) {
            libc::AF_INET => {
                let address = Ipv4Addr::from(*array::<4>(octets, 4)?);
                Some(SocketAddrV4::new(address, port).into())
            }
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(*array(octets, 4)?);
                let address = Ipv6Addr::from(*array::<16>(octets, 8)?);
                let scope = u32::from_ne_bytes(*array(octets, 24)?);
                Some(SocketAddrV6::new(address, port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// Writes an address; returns its length.
    pub(super) fn encode(&mut self, address: SocketAddr) -> usize {
        let octets = &mut self.0;
        match address {
            SocketAddr::V4(v4) => {
                put(octets, 0, (libc::AF_INET as u16).to_ne_bytes());
                put(octets, 2, v4.port().to_be_bytes());
                put(octets, 4, v4.ip().octets());
                put(octets, 8, [0; 8]);
                mem::size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                put(octets, 0, (libc::AF_INET6 as u16).to_ne_bytes());
                put(octets, 2, v6.port().to_be_bytes());
                put(octets, 4, v6.flowinfo().to_ne_bytes());
                put(octets, 8, v6.ip().octets());
                put(octets, 24, v6.scope_id().to_ne_bytes());
                mem::size_of::<libc::sockaddr_in6>()
            }
        }
    }
}

/// The control message with the local address of a datagram: IP_PKTINFO (ip(7)) or IPV6_PKTINFO
/// (ipv6(7)). No other is enabled on the sockets, so it is the first.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct ControlMessages([u8; CONTROL]);

/// Fields of the kernel's `struct cmsghdr`: length, level, type, data.
const LEVEL: usize = mem::size_of::<usize>();
const TYPE: usize = LEVEL + 4;
const DATA: usize = TYPE + 4;
const _: () = assert!(DATA == mem::size_of::<libc::cmsghdr>());

const V4: usize = mem::size_of::<libc::in_pktinfo>();
const V6: usize = mem::size_of::<libc::in6_pktinfo>();
const CONTROL: usize = space(V6);

/// Octets of a control message with `len` octets of data (CMSG_SPACE).
const fn space(len: usize) -> usize {
    DATA + len.next_multiple_of(mem::size_of::<usize>())
}

impl ControlMessages {
    pub(super) const EMPTY: Self = Self([0; CONTROL]);

    /// The source address for a reply, from the message in the first `len` octets.
    pub(super) fn decode(&self, len: usize) -> Local {
        self.0.get(..len).and_then(read).unwrap_or(Local::Bound)
    }

    /// Writes a message; returns its length, 0 if none is needed.
    pub(super) fn encode(&mut self, local: &Local) -> usize {
        match local {
            Local::Bound => 0,
            Local::V4(address) => {
                self.begin(V4, libc::IPPROTO_IP, libc::IP_PKTINFO);
                // No interface is named: the kernel chooses the route.
                put(&mut self.0, DATA, [0; V4]);
                put(&mut self.0, DATA + 4, address.octets());
                space(V4)
            }
            Local::V6(address, interface) => {
                self.begin(V6, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
                put(&mut self.0, DATA, address.octets());
                put(&mut self.0, DATA + 16, interface.to_ne_bytes());
                space(V6)
            }
        }
    }

    fn begin(&mut self, len: usize, level: i32, kind: i32) {
        put(&mut self.0, 0, (DATA + len).to_ne_bytes());
        put(&mut self.0, LEVEL, level.to_ne_bytes());
        put(&mut self.0, TYPE, kind.to_ne_bytes());
    }
}

fn read(octets: &[u8]) -> Option<Local> {
    let len = usize::from_ne_bytes(*array(octets, 0)?);
    let level = i32::from_ne_bytes(*array(octets, LEVEL)?);
    let kind = i32::from_ne_bytes(*array(octets, TYPE)?);
    let data = octets.get(DATA..len)?;
    match (level, kind) {
        // `ipi_spec_dst` is the local address that the datagram came to.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            Some(Local::V4(Ipv4Addr::from(*array::<4>(data, 4)?)))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let address = Ipv6Addr::from(*array::<16>(data, 0)?);
            let interface = u32::from_ne_bytes(*array(data, 16)?);
            from_v6(address, interface)
        }
        _ => None,
    }
}

/// Link-local addresses exist on every interface, so for these, and only these, the interface is
/// named. A multicast address cannot be a source.
fn from_v6(address: Ipv6Addr, interface: u32) -> Option<Local> {
    if address.is_multicast() {
        None
    } else if address.is_unicast_link_local() {
        Some(Local::V6(address, interface))
    } else {
        Some(Local::V6(address, 0))
    }
}

fn array<const N: usize>(octets: &[u8], at: usize) -> Option<&[u8; N]> {
    octets.get(at..)?.first_chunk()
}

/// Every offset that is written to is a constant within the bounds.
fn put<const N: usize>(octets: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = octets.get_mut(at..at + N) {
        field.copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:5353", "[fe80::1%7]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = SocketName([0xff; NAME]);
            let len = name.encode(address);
            assert_eq!(name.decode(len), Some(address));
            assert_eq!(name.decode(len - 9), None, "cut short");
            assert_eq!(name.decode(len + 99), None, "longer than the structure");
        }
        assert_eq!(SocketName::EMPTY.decode(16), None, "no family");
    }

    #[test]
    fn controls_round_trip_to_the_source_of_a_reply() {
        let v4 = Local::V4(Ipv4Addr::new(192, 0, 2, 1));
        let v6 = |text: &str, interface| Local::V6(text.parse().unwrap(), interface);
        for (local, expected) in [
            (v4, v4),
            (v6("2001:db8::1", 7), v6("2001:db8::1", 0)),
            (v6("fe80::1", 7), v6("fe80::1", 7)),
            (v6("ff02::1", 7), Local::Bound),
        ] {
            let mut control = ControlMessages([0xff; CONTROL]);
            let len = control.encode(&local);
            assert_eq!(control.decode(len), expected);
            for bad in [0, 1, DATA - 1, DATA, DATA + 5, CONTROL + 1, usize::MAX] {
                assert_eq!(control.decode(bad), Local::Bound, "{bad} octets");
            }
        }
        let mut control = ControlMessages::EMPTY;
        assert_eq!(control.encode(&Local::Bound), 0);
    }

    #[test]
    fn unknown_controls_are_ignored() {
        let mut control = ControlMessages::EMPTY;
        let len = control.encode(&Local::V4(Ipv4Addr::LOCALHOST));
        let good = control;
        for bad in [0, 1, DATA - 1, DATA, DATA + 7, len + 1, usize::MAX] {
            put(&mut control.0, 0, bad.to_ne_bytes());
            assert_eq!(control.decode(len), Local::Bound, "a length of {bad}");
        }
        for at in [LEVEL, TYPE] {
            control = good;
            control.0[at] ^= 0x55;
            assert_eq!(control.decode(len), Local::Bound, "another level or type");
        }
    }
}
