//! Where things are in a frame, and how to turn it round.
//!
//! ```text
//! Ethernet  dst(6) src(6) [TPID(2) TCI(2)]×0–2 type(2)
//! IPv4      ver|ihl tos len(2) id(2) frag(2) ttl proto csum(2) src(4) dst(4)   RFC 791
//! IPv6      ver|class|flow(4) len(2) next hop src(16) dst(16)                   RFC 8200
//! UDP       src(2) dst(2) len(2) csum(2)                                        RFC 768
//! ```

use core::{mem::swap, net::IpAddr};

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
    #[inline(always)]
    pub fn read(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let ethertype = u16::from_be_bytes(*at(frame, ETHERNET - 2)?);
        if matches!(ethertype, VLAN | QINQ) {
            return Self::read_tagged(frame, sources, verify_checksums);
        }
        // With an offset that is known when this is compiled.
        Self::read_ip(frame, ETHERNET, ethertype, sources, verify_checksums)
    }

    #[inline(never)]
    fn read_tagged(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let mut ip = ETHERNET + VLAN_TAG;
        let mut ethertype = u16::from_be_bytes(*at(frame, ip - 2)?);
        if matches!(ethertype, VLAN | QINQ) {
            ip += VLAN_TAG;
            ethertype = u16::from_be_bytes(*at(frame, ip - 2)?);
        }
        Self::read_ip(frame, ip, ethertype, sources, verify_checksums)
    }

    /// Checks what follows the Ethernet header, from `ip` on.
    #[inline(always)]
    fn read_ip(
        frame: &[u8],
        ip: usize,
        ethertype: u16,
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        match ethertype {
            ETHERTYPE_IPV4 => {
                let header: &[u8; IPV4] = at(frame, ip)?;
                // No options, no fragment; what else stands there does not matter.
                let first = u64::from_be_bytes(*at(header, 0)?);
                let second = u64::from_be_bytes(*at(header, 8)?);
                let protocol = (second >> 48) as u8;
                if first & 0xff00_0000_0000_3fff != 0x4500_0000_0000_0000 || protocol != PROTO_UDP {
                    return Err(BadPacket::Length);
                }
                if !sources.allows_v4(second as u32) {
                    return Err(BadPacket::Source);
                }
                if verify_checksums
                    && checksum::fold(checksum::add(0, header)) != checksum::NOTHING_LEFT
                {
                    return Err(BadPacket::Checksum);
                }
                let udp_len = ((first >> 32) as u16).checked_sub(IPV4 as u16);
                let addresses = checksum::add(0, at::<8>(header, 12)?);
                let addresses = verify_checksums.then_some(addresses);
                Self::read_udp(frame, ip, ip + IPV4, udp_len, addresses, true)
            }
            ETHERTYPE_IPV6 => {
                let header: &[u8; IPV6] = at(frame, ip)?;
                let [version, _, _, _, l0, l1, next, _, ..] = *header;
                if version >> 4 != 6 || next != PROTO_UDP {
                    return Err(BadPacket::Length);
                }
                if !sources.allows_v6(*at(header, 8)?) {
                    return Err(BadPacket::Source);
                }
                let udp_len = Some(u16::from_be_bytes([l0, l1]));
                let addresses = checksum::add(0, at::<32>(header, 8)?);
                let addresses = verify_checksums.then_some(addresses);
                Self::read_udp(frame, ip, ip + IPV6, udp_len, addresses, false)
            }
            _ => Err(BadPacket::Length),
        }
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
        // Ports, length, checksum.
        let header = u64::from_be_bytes(*at(segment, 0)?);
        if (header >> 16) as u16 != udp_len {
            return Err(BadPacket::Length);
        }
        // A packet to one host in a frame to many is not for us to answer (RFC 1122 section
        // 3.2.1.3): the reply's source would be a group's address.
        let [group] = *at(frame, 0)?;
        let source_port = (header >> 48) as u16;
        if source_port == 0 || group & 1 != 0 {
            return Err(BadPacket::Source);
        }
        if let Some(addresses) = addresses {
            let pseudo = checksum::add_u16(checksum::add_u16(addresses, PROTO_UDP.into()), udp_len);
            if !udp_sum_is_good(segment, header as u16, pseudo, v4) {
                return Err(BadPacket::Checksum);
            }
        }
        Ok(Self {
            ip: ip as u8,
            dns: (udp + UDP) as u8,
            dns_len: udp_len - UDP as u16,
            source_port,
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

    /// The sender's address.
    #[inline(always)]
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        let ip = usize::from(self.ip);
        if usize::from(self.dns - self.ip) == IPV4 + UDP {
            IpAddr::from(*at(frame, ip + 12).unwrap_or(&[0; 4]))
        } else {
            IpAddr::from(*at(frame, ip + 8).unwrap_or(&[0; 16]))
        }
    }

    /// The sender's port.
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        self.source_port
    }

    /// The query's octets.
    #[inline(always)]
    pub fn query<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match frame.get(self.dns()..self.dns() + self.dns_len()) {
            Some(query) => query,
            None => nothing(),
        }
    }

    /// Room for the reply: from the start of the DNS message to the end of the frame, or to where
    /// the IP packet would exceed `mtu`.
    #[inline(always)]
    pub fn reply_room<'a>(&self, frame: &'a mut [u8], mtu: usize) -> &'a mut [u8] {
        let end = frame.len().min(usize::from(self.ip) + mtu);
        match frame.get_mut(self.dns()..end) {
            Some(room) => room,
            None => nothing(),
        }
    }

    /// Makes the frame that brought the query carry a reply of `dns_len` octets, which stand where
    /// the query stood and add up to `dns_sum` ([`checksum::add`]): addresses and ports swapped, VLAN
    /// tags kept, lengths and checksums set. Returns the length of the frame, or `None` if the frame
    /// is not the one that was read.
    #[inline(always)]
    pub fn turn_round(&self, frame: &mut [u8], dns_len: usize, dns_sum: u64) -> Option<usize> {
        /// An IPv4 packet without tags: no other layout has the DNS message at this offset.
        const PLAIN: usize = ETHERNET + IPV4 + UDP;
        let end = self.dns() + dns_len;
        let udp_len = u16::try_from(UDP + dns_len).ok()?;
        let headers = frame.get_mut(..end)?.get_mut(..self.dns())?;
        match <&mut [u8; PLAIN]>::try_from(&mut *headers) {
            Ok(headers) => turn(headers, ETHERNET, udp_len, dns_sum)?,
            Err(_) => turn_others(headers, self.ip.into(), udp_len, dns_sum)?,
        }
        Some(end)
    }
}

#[inline(never)]
fn turn_others(headers: &mut [u8], ip: usize, udp_len: u16, dns_sum: u64) -> Option<()> {
    turn(headers, ip, udp_len, dns_sum)
}

/// Turns the headers in front of a DNS message, of which the IP header begins at `ip`.
#[inline(always)]
fn turn(headers: &mut [u8], ip: usize, udp_len: u16, dns_sum: u64) -> Option<()> {
    let (ethernet, headers) = headers.split_at_mut_checked(ip)?;
    turn_ethernet(ethernet.first_chunk_mut()?);
    let (ip_header, udp) = headers.split_last_chunk_mut::<UDP>()?;
    let addresses = match <&mut [u8; IPV4]>::try_from(&mut *ip_header) {
        Ok(header) => turn_ipv4(header, udp_len)?,
        Err(_) => turn_ipv6(ip_header.first_chunk_mut()?, udp_len),
    };
    let header = u64::from_be_bytes(*udp);
    let ports = (header >> 32) as u32;
    // The length counts twice: in the header and in the pseudo-header.
    let numbers = [
        PROTO_UDP.into(),
        udp_len,
        udp_len,
        (ports >> 16) as u16,
        ports as u16,
    ];
    let sum = numbers
        .into_iter()
        .fold(addresses + dns_sum, checksum::add_u16);
    let field = u16::from_be_bytes(checksum::finish_udp(sum));
    let ports = u64::from(ports.rotate_left(16));
    *udp = (ports << 32 | u64::from(udp_len) << 16 | u64::from(field)).to_be_bytes();
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
fn nothing<'a>() -> &'a mut [u8] {
    &mut []
}

/// Whether a received UDP checksum is right, absent where it may be (IPv4, RFC 768), or half done.
///
/// A sender on this host (veth) leaves the last step to a device that never comes: the field then
/// holds the bare sum of the pseudo-header (Linux `CHECKSUM_PARTIAL`, skbuff.h).
#[inline(always)]
fn udp_sum_is_good(segment: &[u8], field: u16, pseudo: u64, v4: bool) -> bool {
    if field == 0 {
        return v4;
    }
    checksum::fold(checksum::add(pseudo, segment)) == checksum::NOTHING_LEFT
        || field.to_be_bytes() == checksum::fold(pseudo)
}

/// Turns an IPv4 header round; returns the sum of its addresses.
#[inline(always)]
fn turn_ipv4(header: &mut [u8; IPV4], udp_len: u16) -> Option<u64> {
    // Version, header length, and DF: a packet that is never fragmented needs no ID (RFC 6864
    // section 4.1).
    const FIRST: u64 = 0x4500_0000_0000_4000;
    const TTL_PROTOCOL: u16 = (TTL as u16) << 8 | PROTO_UDP as u16;
    let addresses = checksum::add(0, header.last_chunk::<8>()?);
    let [source, destination] =
        [12, 16].map(|place| at(header, place).map(|octets| u32::from_be_bytes(*octets)));
    let len = (IPV4 as u16).saturating_add(udp_len);
    let numbers = [0x4500, 0x4000, TTL_PROTOCOL, len];
    let field = checksum::finish(numbers.into_iter().fold(addresses, checksum::add_u16));
    let second = u64::from(TTL_PROTOCOL) << 48
        | u64::from(u16::from_be_bytes(field)) << 32
        | u64::from(destination.ok()?);
    let (first, rest) = header.split_first_chunk_mut::<8>()?;
    *first = (FIRST | u64::from(len) << 32).to_be_bytes();
    *rest.first_chunk_mut()? = second.to_be_bytes();
    *rest.last_chunk_mut()? = source.ok()?.to_be_bytes();
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
