//! Where things are in a frame, and how to turn it round.
//!
//! ```text
//! Ethernet  dst(6) src(6) [TPID(2) TCI(2)]×0–2 type(2)
//! IPv4      ver|ihl tos len(2) id(2) frag(2) ttl proto csum(2) src(4) dst(4)   RFC 791
//! IPv6      ver|class|flow(4) len(2) next hop src(16) dst(16)                   RFC 8200
//! UDP       src(2) dst(2) len(2) csum(2)                                        RFC 768
//! ```

use core::{mem::swap, net::IpAddr};

use super::{SourceFilter, checksum};

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

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// Headers or lengths that cannot be read; not what the XDP program steers.
    Length,
    /// A wrong IPv4 or UDP checksum.
    Checksum,
    /// A source address or port that no reply may go to.
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
    source_port: u16,
}

impl Layout {
    /// Checks a received frame. Padding after the IP packet is allowed. With `verify_checksums`,
    /// the IPv4 header's and UDP's checksums have to be right.
    ///
    /// # Errors
    /// [`BadPacket`] says why the frame has to be dropped.
    #[inline]
    pub fn read(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let mut ip = ETHERNET;
        let mut ethertype = u16::from_be_bytes(*at(frame, ip - 2)?);
        for _ in 0..2 {
            if !matches!(ethertype, VLAN | QINQ) {
                break;
            }
            ip += VLAN_TAG;
            ethertype = u16::from_be_bytes(*at(frame, ip - 2)?);
        }
        let v4 = ethertype == ETHERTYPE_IPV4;
        // The sum of the addresses, in UDP's pseudo-header.
        let pseudo;
        let dns;
        let udp_len;
        let mut good_ip_sum = true;
        if v4 {
            let header: &[u8; IPV4] = at(frame, ip)?;
            let [
                v,
                i,
                l0,
                l1,
                d0,
                d1,
                f0,
                f1,
                _,
                protocol,
                ..,
                s0,
                s1,
                s2,
                s3,
                _,
                _,
                _,
                _,
            ] = *header;
            // No options, no fragment; what else stands there does not matter.
            let first = u64::from_be_bytes([v, i, l0, l1, d0, d1, f0, f1]);
            if first & 0xff00_0000_0000_3fff != 0x4500_0000_0000_0000 || protocol != PROTO_UDP {
                return Err(BadPacket::Length);
            }
            if !sources.allows_v4([s0, s1, s2, s3]) {
                return Err(BadPacket::Source);
            }
            udp_len = u16::from_be_bytes([l0, l1]).checked_sub(IPV4 as u16);
            dns = ip + IPV4 + UDP;
            pseudo = checksum::add(0, at::<8>(frame, ip + 12)?);
            good_ip_sum =
                !verify_checksums || checksum::fold(checksum::add(0, header)) == [0xff, 0xff];
        } else if ethertype == ETHERTYPE_IPV6 {
            let [version, _, _, _, l0, l1, next, _, ..] = *at::<IPV6>(frame, ip)?;
            if version >> 4 != 6 || next != PROTO_UDP {
                return Err(BadPacket::Length);
            }
            if !sources.allows_v6(*at(frame, ip + 8)?) {
                return Err(BadPacket::Source);
            }
            udp_len = Some(u16::from_be_bytes([l0, l1]));
            dns = ip + IPV6 + UDP;
            pseudo = checksum::add(0, at::<32>(frame, ip + 8)?);
        } else {
            return Err(BadPacket::Length);
        }
        let udp_len = udp_len.ok_or(BadPacket::Length)?;
        let segment = frame
            .get(dns - UDP..dns - UDP + usize::from(udp_len))
            .ok_or(BadPacket::Length)?;
        let [p0, p1, _, _, u0, u1, c0, c1] = *at(segment, 0)?;
        if u16::from_be_bytes([u0, u1]) != udp_len {
            return Err(BadPacket::Length);
        }
        // A packet to one host in a frame to many is not for us to answer (RFC 1122 section
        // 3.2.1.3): the reply's source would be a group's address.
        let [group] = *at(frame, 0)?;
        let source_port = u16::from_be_bytes([p0, p1]);
        if source_port == 0 || group & 1 != 0 {
            return Err(BadPacket::Source);
        }
        if verify_checksums {
            let pseudo =
                checksum::add_u16(checksum::add_u16(pseudo, u16::from(PROTO_UDP)), udp_len);
            if !good_ip_sum || !udp_sum_is_good(segment, [c0, c1], pseudo, v4) {
                return Err(BadPacket::Checksum);
            }
        }
        Ok(Self {
            ip: ip as u8,
            dns: dns as u8,
            dns_len: udp_len - UDP as u16,
            source_port,
        })
    }

    /// Offset of the DNS message in the frame.
    #[inline]
    pub fn dns(&self) -> usize {
        usize::from(self.dns)
    }

    /// Octets of the DNS message.
    #[inline]
    pub fn dns_len(&self) -> usize {
        usize::from(self.dns_len)
    }

    /// The sender's address.
    #[inline]
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        let ip = usize::from(self.ip);
        if usize::from(self.dns - self.ip) == IPV4 + UDP {
            IpAddr::from(*at(frame, ip + 12).unwrap_or(&[0; 4]))
        } else {
            IpAddr::from(*at(frame, ip + 8).unwrap_or(&[0; 16]))
        }
    }

    /// The sender's port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        self.source_port
    }

    /// The query's octets.
    #[inline]
    pub fn query<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame
            .get(self.dns()..self.dns() + self.dns_len())
            .unwrap_or_default()
    }

    /// Room for the reply: from the start of the DNS message to the end of the frame, or to where
    /// the IP packet would exceed `mtu`.
    #[inline]
    pub fn reply_room<'a>(&self, frame: &'a mut [u8], mtu: usize) -> &'a mut [u8] {
        let end = frame.len().min(usize::from(self.ip) + mtu);
        frame.get_mut(self.dns()..end).unwrap_or_default()
    }

    /// Makes the frame that brought the query carry a reply of `dns_len` octets, which stand where
    /// the query stood: addresses and ports swapped, VLAN tags kept, lengths and checksums set.
    /// Returns the length of the frame, or `None` if the frame is not the one that was read.
    #[inline]
    pub fn turn_round(&self, frame: &mut [u8], dns_len: usize) -> Option<usize> {
        let ip = usize::from(self.ip);
        let end = self.dns() + dns_len;
        let frame = frame.get_mut(..end)?;
        let udp_len = u16::try_from(UDP + dns_len).ok()?;
        let (ethernet, packet) = frame.split_at_mut_checked(ip)?;
        let macs: &mut [u8; 12] = ethernet.first_chunk_mut()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *macs;
        *macs = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
        let (ip_header, segment) = packet.split_at_mut_checked(self.dns() - ip - UDP)?;
        let addresses = match <&mut [u8; IPV4]>::try_from(&mut *ip_header) {
            Ok(header) => turn_ipv4(header, udp_len),
            Err(_) => turn_ipv6(ip_header.first_chunk_mut()?, udp_len),
        };
        let (udp, message) = segment.split_first_chunk_mut::<UDP>()?;
        let [s0, s1, d0, d1, ..] = *udp;
        let [l0, l1] = udp_len.to_be_bytes();
        // The length counts twice: in the header and in the pseudo-header.
        let numbers = [
            PROTO_UDP.into(),
            udp_len,
            udp_len,
            u16::from_be_bytes([s0, s1]),
            u16::from_be_bytes([d0, d1]),
        ];
        let sum = numbers.into_iter().fold(addresses, checksum::add_u16);
        let [c0, c1] = checksum::finish_udp(checksum::add(sum, message));
        *udp = [d0, d1, s0, s1, l0, l1, c0, c1];
        Some(end)
    }
}

/// Whether a received UDP checksum is right, absent where it may be (IPv4, RFC 768), or half done.
///
/// A sender on this host (veth) leaves the last step to a device that never comes: the field then
/// holds the bare sum of the pseudo-header (Linux `CHECKSUM_PARTIAL`, skbuff.h).
#[inline]
fn udp_sum_is_good(segment: &[u8], field: [u8; 2], pseudo: u64, v4: bool) -> bool {
    if field == [0, 0] {
        return v4;
    }
    checksum::fold(checksum::add(pseudo, segment)) == [0xff, 0xff]
        || field == checksum::fold(pseudo)
}

/// Turns an IPv4 header round; returns the sum of its addresses.
#[inline]
fn turn_ipv4(header: &mut [u8; IPV4], udp_len: u16) -> u64 {
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    // A packet that is never fragmented needs no ID (RFC 6864 section 4.1); DF says so.
    const FIXED: [u8; 12] = [0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, PROTO_UDP, 0, 0];
    let len = (IPV4 as u16).saturating_add(udp_len);
    let [l0, l1] = len.to_be_bytes();
    let addresses = checksum::add(0, &[d0, d1, d2, d3, s0, s1, s2, s3]);
    let [c0, c1] = checksum::finish(checksum::add(checksum::add_u16(addresses, len), &FIXED));
    *header = [
        0x45, 0, l0, l1, 0, 0, 0x40, 0, TTL, PROTO_UDP, c0, c1, d0, d1, d2, d3, s0, s1, s2, s3,
    ];
    addresses
}

/// Turns an IPv6 header round; returns the sum of its addresses.
#[inline]
fn turn_ipv6(header: &mut [u8; IPV6], udp_len: u16) -> u64 {
    let [l0, l1] = udp_len.to_be_bytes();
    let (fixed, addresses) = header.split_at_mut(8);
    fixed.copy_from_slice(&[0x60, 0, 0, 0, l0, l1, PROTO_UDP, TTL]);
    if let ([source, destination], _) = addresses.as_chunks_mut::<16>() {
        swap(source, destination);
    }
    checksum::add(0, addresses)
}

#[inline]
fn at<const N: usize>(bytes: &[u8], offset: usize) -> Result<&[u8; N], BadPacket> {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .ok_or(BadPacket::Length)
}

#[cfg(test)]
mod tests;
