//! The reply to a packet, written over it.

use core::{mem::swap, net::IpAddr};

use super::{
    layout::{SHORTEST_HEADERS, source_address},
    wire::{ethernet, get, ipv4, ipv6, udp},
};
use crate::checksum;

/// Time to live, or hop limit, of replies.
const TTL: u8 = 64;

/// A packet that is being answered.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The headers in front of the DNS message; [`SHORTEST_HEADERS`] octets only with IPv4 and no tags.
    pub(super) headers: &'a mut [u8],
    /// Offset of the IP header.
    pub(super) ip: usize,
    /// The query, and space for the reply over and behind it.
    pub buf: &'a mut [u8],
}

impl Packet<'_> {
    /// The sender's address.
    #[inline(always)]
    pub fn source(&self) -> IpAddr {
        match <&[u8; SHORTEST_HEADERS]>::try_from(&*self.headers) {
            Ok(headers) => source_address(headers, ethernet::LEN),
            Err(_) => source_address(self.headers, self.ip),
        }
    }

    /// The sender's port.
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        let header: &[u8; udp::LEN] = self.headers.last_chunk().unwrap_or(&[0; udp::LEN]);
        u16::from_be_bytes(*get(header, udp::SOURCE_PORT).unwrap_or(&[0; 2]))
    }

    /// Makes the packet carry the reply in the first `dns_len` octets of `buf`, whose sum is `dns_sum`
    /// ([`checksum::add`]): addresses and ports swapped, VLAN tags kept, lengths and
    /// checksums set. Returns the length of the frame, or `None` if no packet can be that long.
    #[inline(always)]
    pub fn into_reply(self, dns_len: usize, dns_sum: u64) -> Option<usize> {
        let ipv4_len = u16::try_from(ipv4::LEN + udp::LEN + dns_len).ok()?;
        let udp_len = ipv4_len - ipv4::LEN as u16;
        let len = self.headers.len() + dns_len;
        match <&mut [u8; SHORTEST_HEADERS]>::try_from(&mut *self.headers) {
            Ok(headers) => write_headers(headers, ethernet::LEN, udp_len, dns_sum)?,
            Err(_) => write_headers_slow(self.headers, self.ip, udp_len, dns_sum)?,
        }
        Some(len)
    }
}

#[inline(never)]
fn write_headers_slow(headers: &mut [u8], ip: usize, udp_len: u16, dns_sum: u64) -> Option<()> {
    write_headers(headers, ip, udp_len, dns_sum)
}

/// Makes the query's headers the reply's; the IP header begins at `ip`.
///
/// Addresses and ports stay in network byte order: swapping needs no conversion.
#[inline(always)]
fn write_headers(headers: &mut [u8], ip: usize, udp_len: u16, dns_sum: u64) -> Option<()> {
    let (ethernet, headers) = headers.split_at_mut_checked(ip)?;
    write_ethernet(ethernet.first_chunk_mut()?);
    let (ip_header, udp_header) = headers.split_last_chunk_mut::<{ udp::LEN }>()?;
    let addresses = match <&mut [u8; ipv4::LEN]>::try_from(&mut *ip_header) {
        Ok(header) => write_ipv4(header, udp_len)?,
        Err(_) => write_ipv6(ip_header.first_chunk_mut()?, udp_len),
    };
    let (ports, rest) = udp_header.split_first_chunk_mut::<4>()?;
    let swapped = u32::from_ne_bytes(*ports).rotate_left(16);
    *ports = swapped.to_ne_bytes();
    // The length is in the header and in the pseudo-header.
    let numbers = [udp::PROTOCOL.into(), udp_len, udp_len];
    let known = addresses + dns_sum + u64::from(swapped);
    let sum = numbers.into_iter().fold(known, checksum::add_u16);
    let [l0, l1] = udp_len.to_be_bytes();
    let [c0, c1] = checksum::finish_udp(sum);
    *rest.first_chunk_mut()? = [l0, l1, c0, c1];
    Some(())
}

/// Swaps the addresses.
#[inline(always)]
fn write_ethernet(addresses: &mut [u8; 12]) {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *addresses;
    *addresses = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
}

/// Swaps the addresses and writes the fields before them; returns the addresses' sum.
///
/// A packet that is never fragmented needs no identification (RFC 6864 section 4.1).
#[inline(always)]
fn write_ipv4(header: &mut [u8; ipv4::LEN], udp_len: u16) -> Option<u64> {
    // Version and IHL, and no type of service.
    const VERSION_IHL_TOS: u16 = (ipv4::WITHOUT_OPTIONS as u16) << 8;
    const TTL_PROTOCOL: u16 = (TTL as u16) << 8 | udp::PROTOCOL as u16;
    let (fixed, addresses) = header.split_first_chunk_mut::<12>()?;
    let addresses: &mut [u8; 8] = addresses.first_chunk_mut()?;
    *addresses = u64::from_ne_bytes(*addresses).rotate_left(32).to_ne_bytes();
    let addresses = checksum::of_words(addresses);
    let len = (ipv4::LEN as u16).wrapping_add(udp_len);
    let numbers = [VERSION_IHL_TOS, len, ipv4::DONT_FRAGMENT, TTL_PROTOCOL];
    let sum = numbers.into_iter().fold(addresses, checksum::add_u16);
    let ([v0, v1], [l0, l1]) = (VERSION_IHL_TOS.to_be_bytes(), len.to_be_bytes());
    let ([f0, f1], [t0, t1]) = (
        ipv4::DONT_FRAGMENT.to_be_bytes(),
        TTL_PROTOCOL.to_be_bytes(),
    );
    let [c0, c1] = checksum::finish(sum);
    *fixed = [v0, v1, l0, l1, 0, 0, f0, f1, t0, t1, c0, c1];
    Some(addresses)
}

/// Swaps the addresses and writes the fields before them; returns the addresses' sum.
#[inline(always)]
fn write_ipv6(header: &mut [u8; ipv6::LEN], udp_len: u16) -> u64 {
    let [l0, l1] = udp_len.to_be_bytes();
    let (fixed, addresses) = header.split_at_mut(ipv6::SOURCE.start);
    // Version 6, no traffic class, no flow label.
    fixed.copy_from_slice(&[0x60, 0, 0, 0, l0, l1, udp::PROTOCOL, TTL]);
    if let ([source, destination], _) = addresses.as_chunks_mut::<16>() {
        swap(source, destination);
    }
    checksum::add(0, addresses)
}
