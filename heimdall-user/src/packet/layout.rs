//! Where the headers and the DNS message are in a received frame.

use core::{net::IpAddr, ops::Range};

use super::{
    Packet, SourceFilter,
    wire::{ethernet, get, ipv4, ipv6, udp},
};
use crate::checksum;

/// Octets in front of the DNS message in an IPv4 packet without tags: the least that there are.
pub(super) const SHORTEST_HEADERS: usize = ethernet::LEN + ipv4::LEN + udp::LEN;

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPacket {
    /// Headers or lengths that cannot be read; not what the XDP program steers.
    Length,
    /// A wrong IPv4 or UDP checksum.
    Checksum,
    /// An address that no reply may go to, or a frame to a group of hosts.
    Source,
}

/// Where the headers of a checked frame are.
///
/// If [`read`](Self::read) returned `Ok`, its headers are within the frame.
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
    /// [`BadPacket`]: the frame has to be dropped.
    #[inline(always)]
    pub fn read(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        // No frame that is good is shorter.
        let headers: &[u8; SHORTEST_HEADERS] = frame.first_chunk().ok_or(BadPacket::Length)?;
        match u16_in(headers, ethernet::TYPE)? {
            // With an offset that is known when this is compiled.
            ethernet::TYPE_IPV4 => Self::read_ipv4(frame, ethernet::LEN, sources, verify_checksums),
            _ => Self::read_slow(frame, sources, verify_checksums),
        }
    }

    /// Checks a frame with VLAN tags, or of IPv6.
    #[inline(never)]
    fn read_slow(
        frame: &[u8],
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let mut ip = ethernet::LEN;
        let mut ethertype = u16_in(frame, ip - 2..ip)?;
        for _ in 0..2 {
            if ethernet::TAGS.contains(&ethertype) {
                ip += ethernet::TAG_LEN;
                ethertype = u16_in(frame, ip - 2..ip)?;
            }
        }
        match ethertype {
            ethernet::TYPE_IPV4 => Self::read_ipv4(frame, ip, sources, verify_checksums),
            ethernet::TYPE_IPV6 => Self::read_ipv6(frame, ip, sources, verify_checksums),
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
        let header: &[u8; ipv4::LEN] = field(frame, ip..ip + ipv4::LEN)?;
        // No options, no fragment; the other fields do not matter.
        let is_fragment = u16_in(header, ipv4::FRAGMENT)? & ipv4::IS_FRAGMENT != 0;
        if *field(header, ipv4::VERSION_IHL)? != [ipv4::WITHOUT_OPTIONS]
            || is_fragment
            || *field(header, ipv4::PROTOCOL)? != [udp::PROTOCOL]
        {
            return Err(BadPacket::Length);
        }
        if !sources.allows_v4(*field(header, ipv4::SOURCE)?) {
            return Err(BadPacket::Source);
        }
        let sum = checksum::of_words(header);
        if verify_checksums && checksum::fold(sum) != checksum::CORRECT {
            return Err(BadPacket::Checksum);
        }
        let udp_len = u16_in(header, ipv4::TOTAL_LENGTH)?.checked_sub(ipv4::LEN as u16);
        let addresses: &[u8; 8] = field(header, ipv4::ADDRESSES)?;
        let addresses = verify_checksums.then(|| checksum::of_words(addresses));
        Self::read_udp(frame, ip, ip + ipv4::LEN, udp_len, addresses, true)
    }

    /// Checks what follows the Ethernet header, from `ip` on.
    fn read_ipv6(
        frame: &[u8],
        ip: usize,
        sources: &SourceFilter,
        verify_checksums: bool,
    ) -> Result<Self, BadPacket> {
        let header: &[u8; ipv6::LEN] = field(frame, ip..ip + ipv6::LEN)?;
        let [version] = *field(header, ipv6::VERSION)?;
        if version >> 4 != 6 || *field(header, ipv6::NEXT_HEADER)? != [udp::PROTOCOL] {
            return Err(BadPacket::Length);
        }
        if !sources.allows_v6(*field(header, ipv6::SOURCE)?) {
            return Err(BadPacket::Source);
        }
        let udp_len = Some(u16_in(header, ipv6::PAYLOAD_LENGTH)?);
        let addresses: &[u8; 32] = field(header, ipv6::ADDRESSES)?;
        let addresses = verify_checksums.then(|| checksum::of_words(addresses));
        Self::read_udp(frame, ip, ip + ipv6::LEN, udp_len, addresses, false)
    }

    /// Checks what follows the IP header, from `start` on, `udp_len` octets. `addresses` is the sum of the
    /// IP header's addresses, if the checksum is to be checked.
    #[inline(always)]
    fn read_udp(
        frame: &[u8],
        ip: usize,
        start: usize,
        udp_len: Option<u16>,
        addresses: Option<u64>,
        v4: bool,
    ) -> Result<Self, BadPacket> {
        let udp_len = udp_len.ok_or(BadPacket::Length)?;
        let segment = frame
            .get(start..start + usize::from(udp_len))
            .ok_or(BadPacket::Length)?;
        let header: &[u8; udp::LEN] = segment.first_chunk().ok_or(BadPacket::Length)?;
        if u16_in(header, udp::LENGTH)? != udp_len {
            return Err(BadPacket::Length);
        }
        // A packet to one host in a frame to many must not be answered (RFC 1122 section
        // 3.2.1.3): the reply's source would be a group's address.
        if (frame.first()).is_none_or(|first| first & ethernet::GROUP != 0) {
            return Err(BadPacket::Source);
        }
        if let Some(addresses) = addresses {
            let pseudo = checksum::add_u16(addresses, udp::PROTOCOL.into());
            let pseudo = checksum::add_u16(pseudo, udp_len);
            if !udp_sum_is_good(segment, *field(header, udp::CHECKSUM)?, pseudo, v4) {
                return Err(BadPacket::Checksum);
            }
        }
        Ok(Self {
            ip: ip as u8,
            dns: (start + udp::LEN) as u8,
            dns_len: udp_len - udp::LEN as u16,
        })
    }

    /// Offset of the DNS message in the frame.
    #[inline(always)]
    fn dns(&self) -> usize {
        usize::from(self.dns)
    }

    /// Octets of the DNS message.
    #[inline(always)]
    pub fn dns_len(&self) -> usize {
        usize::from(self.dns_len)
    }

    /// The sender's address.
    #[inline]
    pub(crate) fn source(&self, frame: &[u8]) -> IpAddr {
        source_address(frame.get(..self.dns()).unwrap_or_default(), self.ip.into())
    }

    /// The query's octets.
    #[inline(always)]
    pub fn query<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match frame.get(self.dns()..self.dns() + self.dns_len()) {
            Some(query) => query,
            None => no_query(),
        }
    }

    /// Splits the frame into headers and a buffer for the reply, which cannot make the IP packet exceed
    /// `mtu`, nor the frame its end. `None`: it is not the frame that was read.
    #[inline(always)]
    pub fn open<'a>(&self, frame: &'a mut [u8], mtu: usize) -> Option<Packet<'a>> {
        let end = frame.len().min(usize::from(self.ip) + mtu);
        let (headers, buf) = frame.get_mut(..end)?.split_at_mut_checked(self.dns())?;
        Some(Packet {
            headers,
            ip: self.ip.into(),
            buf,
        })
    }
}

/// A field of `octets`, which is `N` octets.
#[inline(always)]
fn field<const N: usize>(octets: &[u8], field: Range<usize>) -> Result<&[u8; N], BadPacket> {
    get(octets, field).ok_or(BadPacket::Length)
}

#[inline(always)]
fn u16_in(octets: &[u8], range: Range<usize>) -> Result<u16, BadPacket> {
    field(octets, range).map(|octets| u16::from_be_bytes(*octets))
}

/// The source address in the IP header, which begins at `ip` and reaches to the UDP header, the last
/// of `headers`.
#[inline(always)]
pub(super) fn source_address(headers: &[u8], ip: usize) -> IpAddr {
    let header = headers.get(ip..).unwrap_or_default();
    if header.len() == ipv4::LEN + udp::LEN {
        IpAddr::from(*get(header, ipv4::SOURCE).unwrap_or(&[0; 4]))
    } else {
        IpAddr::from(*get(header, ipv6::SOURCE).unwrap_or(&[0; 16]))
    }
}

/// The query in a frame that is not the one that was read. A call, because the compiler would
/// otherwise load the empty slice's address for every frame.
#[cold]
#[inline(never)]
fn no_query<'a>() -> &'a [u8] {
    &[]
}

/// Whether a received UDP checksum is right, absent where it may be (IPv4, RFC 768), or partial.
///
/// A sender on this host (veth) leaves the checksum to a device that the packet never reaches: the
/// field then holds the sum of the pseudo-header alone (Linux `CHECKSUM_PARTIAL`, skbuff.h).
#[inline(always)]
fn udp_sum_is_good(segment: &[u8], field: [u8; 2], pseudo: u64, v4: bool) -> bool {
    if field == [0, 0] {
        return v4;
    }
    checksum::fold(checksum::add(pseudo, segment)) == checksum::CORRECT
        || field == checksum::fold(pseudo)
}

#[cfg(test)]
mod tests;
