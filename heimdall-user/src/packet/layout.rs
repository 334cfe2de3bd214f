//! Where things are in a frame, and how to turn it round.
//!
//! ```text
//! Ethernet  dst(6) src(6) [TPID(2) TCI(2)]×0–2 type(2)
//! IPv4      ver|ihl tos len(2) id(2) frag(2) ttl proto csum(2) src(4) dst(4)   RFC 791
//! IPv6      ver|class|flow(4) len(2) next hop src(16) dst(16)                   RFC 8200
//! UDP       src(2) dst(2) len(2) csum(2)                                        RFC 768
//! ```

use core::{
    mem::swap,
    net::{IpAddr, Ipv4Addr},
};

use super::SourceFilter;
use crate::checksum;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tag protocol identifiers of IEEE 802.1Q and 802.1ad.
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const PROTO_UDP: u8 = 17;
const TTL: u8 = 64;

/// Octets in front of the DNS message in an IPv4 packet without tags: the least that there are.
const PLAIN: usize = ETHERNET + IPV4 + UDP;

/// Version 4 and a header without options.
const VERSION_IHL: u8 = 0x45;
/// That, and no traffic class.
const VERSION_IHL_TOS: u16 = (VERSION_IHL as u16) << 8;
/// A packet that is never fragmented needs no ID (RFC 6864 section 4.1).
const DONT_FRAGMENT: u16 = 0x4000;
const TTL_PROTOCOL: u16 = (TTL as u16) << 8 | PROTO_UDP as u16;

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// Headers or lengths that cannot be read; not what the XDP program steers.
    Length,
    /// A wrong IPv4 or UDP checksum.
    Checksum,
    /// An address that no reply may go to, or none of ours.
    Source,
}

/// Where the headers of a checked frame are.
///
/// If [`read`](Self::read) returned `Ok`, the headers it stands for are within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the IP header.
    ip: u8,
    /// Offset of the DNS message, after the UDP header.
    dns: u8,
    /// Octets of the DNS message; padding after it is none of it.
    dns_len: u16,
}

impl Layout {
    /// Checks a received frame. Padding after the IP packet is allowed. With `verify_checksums`,
    /// the IPv4 header's and UDP's checksums have to be right.
    ///
    /// # Errors
    /// [`BadPacket`] says why the frame has to be dropped.
    #[inline(always)]
    pub fn read(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        // No frame that is good is shorter.
        let headers: &[u8; PLAIN] = at(frame, 0)?;
        let [.., t0, t1] = *at::<ETHERNET>(headers, 0)?;
        match u16::from_be_bytes([t0, t1]) {
            // With an offset that is known when this is compiled.
            ETHERTYPE_IPV4 => Self::read_ipv4(frame, ETHERNET, sources, verify_checksums),
            _ => Self::read_others(frame, sources, verify_checksums),
        }
    }

    /// Checks a frame with VLAN tags, or of IPv6.
    #[inline(never)]
    fn read_others(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let mut ip = ETHERNET;
        let mut ethertype = u16::from_be_bytes(*at(frame, ip - 2)?);
        for _ in 0..2 {
            if matches!(ethertype, VLAN | QINQ) {
                ip += VLAN_TAG;
                ethertype = u16::from_be_bytes(*at(frame, ip - 2)?);
            }
        }
        match ethertype {
            ETHERTYPE_IPV4 => Self::read_ipv4(frame, ip, sources, verify_checksums),
            ETHERTYPE_IPV6 => Self::read_ipv6(frame, ip, sources, verify_checksums),
            _ => Err(BadPacket::Length),
        }
    }

    /// Checks what follows the Ethernet header, from `ip` on.
    #[inline(always)]
    fn read_ipv4(
        frame: &[u8],
        ip: usize,
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let header: &[u8; IPV4] = at(frame, ip)?;
        // No options, no fragment; what else stands there does not matter.
        let [version, _, l0, l1, _, _, f0, f1, _, protocol, ..] = *header;
        let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff;
        if version != VERSION_IHL || fragment != 0 || protocol != PROTO_UDP {
            return Err(BadPacket::Length);
        }
        let addresses: &[u8; 8] = at(header, 12)?;
        if !sources.allows_v4(*at(addresses, 0)?) {
            return Err(BadPacket::Source);
        }
        let sum = checksum::of_words(header);
        if verify_checksums && checksum::fold(sum) != checksum::NOTHING_LEFT {
            return Err(BadPacket::Checksum);
        }
        let udp_len = u16::from_be_bytes([l0, l1]).checked_sub(IPV4 as u16);
        let addresses = verify_checksums.then(|| checksum::of_words(addresses));
        Self::read_udp(frame, ip, ip + IPV4, udp_len, addresses, true)
    }

    /// Checks what follows the Ethernet header, from `ip` on.
    fn read_ipv6(
        frame: &[u8],
        ip: usize,
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let header: &[u8; IPV6] = at(frame, ip)?;
        let [version, _, _, _, l0, l1, next, _, ..] = *header;
        if version >> 4 != 6 || next != PROTO_UDP {
            return Err(BadPacket::Length);
        }
        let addresses: &[u8; 32] = at(header, 8)?;
        if !sources.allows_v6(*at(addresses, 0)?) {
            return Err(BadPacket::Source);
        }
        let udp_len = Some(u16::from_be_bytes([l0, l1]));
        let addresses = verify_checksums.then(|| checksum::of_words(addresses));
        Self::read_udp(frame, ip, ip + IPV6, udp_len, addresses, false)
    }

    /// Checks what follows the IP header, from `udp` on, `udp_len` octets. `addresses` is the sum of the
    /// IP header's addresses, if the checksum is to be checked.
    #[inline(always)]
    fn read_udp(
        frame: &[u8],
        ip: usize,
        udp: usize,
        udp_len: Option<u16>,
        addresses: Option<u64>,
        v4: bool,
    ) -> Result<Self, BadPacket> {
        let udp_len = udp_len.ok_or(BadPacket::Length)?;
        let segment = frame
            .get(udp..udp + usize::from(udp_len))
            .ok_or(BadPacket::Length)?;
        let [_, _, _, _, l0, l1, c0, c1] = *at(segment, 0)?;
        if u16::from_be_bytes([l0, l1]) != udp_len {
            return Err(BadPacket::Length);
        }
        // A packet to one host in a frame to many is not for us to answer (RFC 1122 section
        // 3.2.1.3): the reply's source would be a group's address.
        let [group] = *at(frame, 0)?;
        if group & 1 != 0 {
            return Err(BadPacket::Source);
        }
        if let Some(addresses) = addresses {
            let pseudo = checksum::add_u16(checksum::add_u16(addresses, PROTO_UDP.into()), udp_len);
            if !udp_sum_is_good(segment, [c0, c1], pseudo, v4) {
                return Err(BadPacket::Checksum);
            }
        }
        Ok(Self {
            ip: ip as u8,
            dns: (udp + UDP) as u8,
            dns_len: udp_len - UDP as u16,
        })
    }

    /// Offset of the DNS message in the frame.
    #[inline(always)]
    pub fn dns(&self) -> usize {
        usize::from(self.dns)
    }

    /// Octets of the DNS message.
    #[inline(always)]
    pub fn dns_len(&self) -> usize {
        usize::from(self.dns_len)
    }

    /// The query's octets.
    #[inline(always)]
    pub fn query<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match frame.get(self.dns()..self.dns() + self.dns_len()) {
            Some(query) => query,
            None => nothing(),
        }
    }

    /// The sender's address, in the frame that was read.
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        match frame.get(..self.dns()) {
            Some(headers) => source(headers, self.ip.into()),
            None => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// Takes the frame apart to be answered; no reply makes the IP packet exceed `mtu`, nor the frame
    /// its end. `None`: it is not the frame that was read.
    #[inline(always)]
    pub fn open<'a>(&self, frame: &'a mut [u8], mtu: usize) -> Option<Packet<'a>> {
        let end = frame.len().min(usize::from(self.ip) + mtu);
        let (headers, room) = frame.get_mut(..end)?.split_at_mut_checked(self.dns())?;
        let ip = self.ip.into();
        Some(Packet { headers, ip, room })
    }
}

/// A packet that is being answered.
#[derive(Debug)]
pub struct Packet<'a> {
    /// What stands in front of the DNS message. Only where there are no tags and IPv4 are they as few
    /// as [`PLAIN`].
    headers: &'a mut [u8],
    /// Offset of the IP header.
    ip: usize,
    /// The query, and room for the reply behind it and over it.
    pub room: &'a mut [u8],
}

impl Packet<'_> {
    /// The sender's address.
    #[inline(always)]
    pub fn source(&self) -> IpAddr {
        match <&[u8; PLAIN]>::try_from(&*self.headers) {
            Ok(headers) => source(headers, ETHERNET),
            Err(_) => source(self.headers, self.ip),
        }
    }

    /// The sender's port.
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        let [p0, p1, ..] = *self.headers.last_chunk::<UDP>().unwrap_or(&[0; UDP]);
        u16::from_be_bytes([p0, p1])
    }

    /// Makes the packet carry a reply of `dns_len` octets, which stand at the room's start and add up
    /// to `dns_sum` ([`checksum::add`]): addresses and ports swapped, VLAN tags kept, lengths and
    /// checksums set. Returns the length of the frame, or `None` if no packet can be so long.
    #[inline(always)]
    pub fn turn_round(self, dns_len: usize, dns_sum: u64) -> Option<usize> {
        let udp_len = u16::try_from(IPV4 + UDP + dns_len).ok()? - IPV4 as u16;
        let len = self.headers.len() + dns_len;
        match <&mut [u8; PLAIN]>::try_from(&mut *self.headers) {
            Ok(headers) => turn(headers, ETHERNET, udp_len, dns_sum)?,
            Err(_) => turn_others(self.headers, self.ip, udp_len, dns_sum)?,
        }
        Some(len)
    }
}

/// The address in the IP header at `ip`.
#[inline(always)]
fn source(headers: &[u8], ip: usize) -> IpAddr {
    if headers.len() - ip == IPV4 + UDP {
        IpAddr::from(*at(headers, ip + 12).unwrap_or(&[0; 4]))
    } else {
        IpAddr::from(*at(headers, ip + 8).unwrap_or(&[0; 16]))
    }
}

#[inline(never)]
fn turn_others(headers: &mut [u8], ip: usize, udp_len: u16, dns_sum: u64) -> Option<()> {
    turn(headers, ip, udp_len, dns_sum)
}

/// Turns the headers in front of a DNS message, of which the IP header begins at `ip`.
///
/// What is read stays in the order of the wire, and each field is written by itself: to put several
/// together takes the processor longer than to store them.
#[inline(always)]
fn turn(headers: &mut [u8], ip: usize, udp_len: u16, dns_sum: u64) -> Option<()> {
    let (ethernet, headers) = headers.split_at_mut_checked(ip)?;
    turn_ethernet(ethernet.first_chunk_mut()?);
    let (ip_header, udp) = headers.split_last_chunk_mut::<UDP>()?;
    let addresses = match <&mut [u8; IPV4]>::try_from(&mut *ip_header) {
        Ok(header) => turn_ipv4(header, udp_len)?,
        Err(_) => turn_ipv6(ip_header.first_chunk_mut()?, udp_len),
    };
    let (ports, rest) = udp.split_first_chunk_mut::<4>()?;
    let swapped = u32::from_ne_bytes(*ports).rotate_left(16);
    *ports = swapped.to_ne_bytes();
    // The length counts twice: in the header and in the pseudo-header.
    let numbers = [PROTO_UDP.into(), udp_len, udp_len];
    let known = addresses + dns_sum + u64::from(swapped);
    let sum = numbers.into_iter().fold(known, checksum::add_u16);
    let [l0, l1] = udp_len.to_be_bytes();
    let [c0, c1] = checksum::finish_udp(sum);
    *rest.first_chunk_mut()? = [l0, l1, c0, c1];
    Some(())
}

/// Swaps the addresses.
#[inline(always)]
fn turn_ethernet(addresses: &mut [u8; 12]) {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *addresses;
    *addresses = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
}

/// What there is of a frame that is not the one that was read. A call, for the compiler would
/// prepare for it every time.
#[cold]
#[inline(never)]
fn nothing<'a>() -> &'a [u8] {
    &[]
}

/// Whether a received UDP checksum is right, absent where it may be (IPv4, RFC 768), or half done.
///
/// A sender on this host (veth) leaves the last step to a device that never comes: the field then
/// holds the bare sum of the pseudo-header (Linux `CHECKSUM_PARTIAL`, skbuff.h).
#[inline(always)]
fn udp_sum_is_good(segment: &[u8], field: [u8; 2], pseudo: u64, v4: bool) -> bool {
    if field == [0, 0] {
        return v4;
    }
    checksum::fold(checksum::add(pseudo, segment)) == checksum::NOTHING_LEFT
        || field == checksum::fold(pseudo)
}

/// Turns an IPv4 header round; returns the sum of its addresses.
#[inline(always)]
fn turn_ipv4(header: &mut [u8; IPV4], udp_len: u16) -> Option<u64> {
    let (fixed, addresses) = header.split_first_chunk_mut::<12>()?;
    let addresses: &mut [u8; 8] = addresses.first_chunk_mut()?;
    *addresses = u64::from_ne_bytes(*addresses).rotate_left(32).to_ne_bytes();
    let addresses = checksum::of_words(addresses);
    let len = (IPV4 as u16).wrapping_add(udp_len);
    let numbers = [VERSION_IHL_TOS, len, DONT_FRAGMENT, TTL_PROTOCOL];
    let sum = numbers.into_iter().fold(addresses, checksum::add_u16);
    let ([v0, v1], [l0, l1]) = (VERSION_IHL_TOS.to_be_bytes(), len.to_be_bytes());
    let ([f0, f1], [t0, t1]) = (DONT_FRAGMENT.to_be_bytes(), TTL_PROTOCOL.to_be_bytes());
    let [c0, c1] = checksum::finish(sum);
    *fixed = [v0, v1, l0, l1, 0, 0, f0, f1, t0, t1, c0, c1];
    Some(addresses)
}

/// Turns an IPv6 header round; returns the sum of its addresses.
#[inline(always)]
fn turn_ipv6(header: &mut [u8; IPV6], udp_len: u16) -> u64 {
    let [l0, l1] = udp_len.to_be_bytes();
    let (fixed, addresses) = header.split_at_mut(8);
    fixed.copy_from_slice(&[0x60, 0, 0, 0, l0, l1, PROTO_UDP, TTL]);
    if let ([source, destination], _) = addresses.as_chunks_mut::<16>() {
        swap(source, destination);
    }
    checksum::add(0, addresses)
}

#[inline(always)]
fn at<const N: usize>(bytes: &[u8], offset: usize) -> Result<&[u8; N], BadPacket> {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(BadPacket::Length)
}

#[cfg(test)]
mod tests;
