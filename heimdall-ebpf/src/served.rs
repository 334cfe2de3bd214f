//! The key of the served map: one destination address and port.

use core::net::{IpAddr, SocketAddr};

/// A destination that the program steers to AF_XDP.
///
/// There are no wildcards: userspace resolves those to addresses of the interface. The IP version
/// is part of the key, so an IPv6 packet to `::ffff:192.0.2.1` does not match an IPv4 packet to
/// 192.0.2.1. Every byte is a field: the kernel hashes the key as bytes, padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ServedKey {
    /// The address as on the wire; IPv4 as `::ffff:a.b.c.d`. Two words, because the program
    /// builds the key on its stack, where the verifier requires aligned accesses.
    address: [u64; 2],
    /// The port as on the wire.
    port: [u8; 2],
    /// 4 or 6: the version of the packet's IP header.
    version: u16,
    /// Padding, always 0.
    zero: u32,
}

const _: () = assert!(size_of::<ServedKey>() == ServedKey::SIZE);

impl ServedKey {
    /// Size of the key in bytes.
    pub const SIZE: usize = 24;

    /// The key of an IPv4 destination, at port 0; the address as on the wire.
    #[inline(always)]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        let low = u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]);
        Self::new([0, low], 4)
    }

    /// The key of an IPv6 destination, at port 0; the address as on the wire.
    #[inline(always)]
    pub const fn v6(address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_ne_bytes([i, j, k, l, m, n, o, p]);
        Self::new([high, low], 6)
    }

    /// The same address with another port, as on the wire.
    #[inline(always)]
    pub const fn with_port(self, port: [u8; 2]) -> Self {
        Self { port, ..self }
    }

    #[inline(always)]
    const fn new(address: [u64; 2], version: u16) -> Self {
        Self {
            address,
            port: [0; 2],
            version,
            zero: 0,
        }
    }

    /// The key as the kernel sees it, to write into the map from userspace. Padding is 0.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let address = self.address.into_iter().flat_map(u64::to_ne_bytes);
        let fields = address.chain(self.port).chain(self.version.to_ne_bytes());
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }
}

impl From<SocketAddr> for ServedKey {
    /// The key of the packets that a socket bound to `address` would get: an IPv4-mapped IPv6
    /// address stands for IPv4 packets. Scope and flow label are not on the wire.
    fn from(address: SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self::v4(ip.octets()).with_port(port),
            IpAddr::V6(ip) => Self::v6(ip.octets()).with_port(port),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_laid_out_as_the_struct_is() {
        let key = ServedKey::from(SocketAddr::from(([192, 0, 2, 1], 53)));
        let bytes = key.to_bytes();
        assert_eq!(bytes[10..18], [0xff, 0xff, 192, 0, 2, 1, 0, 53]);
        assert_eq!(core::mem::offset_of!(ServedKey, address), 0);
        assert_eq!(core::mem::offset_of!(ServedKey, port), 16);
        assert_eq!(core::mem::offset_of!(ServedKey, version), 18);
    }

    #[test]
    fn a_mapped_listen_address_means_ipv4_packets() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:53".parse().unwrap();
        let ipv4 = ServedKey::v4([192, 0, 2, 1]).with_port([0, 53]);
        assert_eq!(ServedKey::from(mapped), ipv4);
        let SocketAddr::V6(v6) = mapped else {
            unreachable!()
        };
        let on_the_wire = ServedKey::v6(v6.ip().octets()).with_port([0, 53]);
        assert_eq!(on_the_wire.address, ipv4.address);
        assert_ne!(on_the_wire, ipv4);
    }
}
