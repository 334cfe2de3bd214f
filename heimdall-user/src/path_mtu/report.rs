//! A router's report that a packet is too large, as a raw socket receives it.

use std::net::IpAddr;

use crate::checksum;

/// A report about a reply of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Where the reply was sent.
    pub(super) client: IpAddr,
    /// The MTU of the link that it did not fit on, as reported.
    pub(super) mtu: u32,
    /// Octets of the reply's IP packet.
    pub(super) len: u32,
}

/// The protocol number of UDP, and octets of its header.
const UDP: u8 = 17;
const UDP_LEN: usize = 8;
/// The QR bit in the third octet of a DNS header.
const QR: u8 = 0x80;

/// Reads an IPv4 packet with "fragmentation needed and DF set" (RFC 792, RFC 1191 section 4):
///
/// ```text
/// | IP header | type 3 (1) | code 4 (1) | checksum (2) | unused (2) | next-hop MTU (2) | IP header | 8 octets and more |
/// ```
///
/// `None`: it is something else, or not about a reply from one of the `ports`.
pub(super) fn read_v4(packet: &[u8], ports: &[u16]) -> Option<Report> {
    let (_, icmp) = packet.split_at_checked(ipv4_header_len(packet)?)?;
    let ([3, 4, _, _, _, _, high, low], quoted) = icmp.split_first_chunk::<8>()? else {
        return None;
    };
    if checksum::fold(checksum::add(0, icmp)) != checksum::CORRECT {
        return None;
    }
    let (header, rest) = quoted.split_at_checked(ipv4_header_len(quoted)?)?;
    // What follows the header in a later fragment has no ports.
    if *header.get(9)? != UDP || number(header, 6)? & 0x1fff != 0 {
        return None;
    }
    let client: [u8; 4] = *header.get(16..)?.first_chunk()?;
    is_reply(rest, ports).then_some(Report {
        client: IpAddr::from(client),
        mtu: u16::from_be_bytes([*high, *low]).into(),
        len: number(header, 2)?.into(),
    })
}

/// Reads an ICMPv6 message "packet too big" (RFC 4443 section 3.2), whose checksum the kernel has verified:
///
/// ```text
/// | type 2 (1) | code (1) | checksum (2) | MTU (4) | IP header | as much of the packet as fits |
/// ```
///
/// `None`: as [`read_v4`].
pub(super) fn read_v6(icmp: &[u8], ports: &[u16]) -> Option<Report> {
    let ([2, _, _, _, mtu @ ..], quoted) = icmp.split_first_chunk::<8>()? else {
        return None;
    };
    let (header, rest) = quoted.split_first_chunk::<40>()?;
    if header.first()? >> 4 != 6 || *header.get(6)? != UDP {
        return None;
    }
    let client: [u8; 16] = *header.last_chunk()?;
    is_reply(rest, ports).then_some(Report {
        client: IpAddr::from(client),
        mtu: u32::from_be_bytes(*mtu),
        len: 40 + u32::from(number(header, 4)?),
    })
}

/// A number of two octets.
fn number(octets: &[u8], at: usize) -> Option<u16> {
    let octets = octets.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*octets))
}

/// Octets of an IPv4 header, options included.
fn ipv4_header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    (first >> 4 == 4 && first & 0x0f >= 5).then_some(usize::from(first & 0x0f) * 4)
}

/// Whether a quoted datagram, of which there may be the header alone, is a reply of this server.
fn is_reply(datagram: &[u8], ports: &[u16]) -> bool {
    let Some(([port0, port1, ..], message)) = datagram.split_first_chunk::<UDP_LEN>() else {
        return false;
    };
    let port = u16::from_be_bytes([*port0, *port1]);
    let is_response = message.get(2).is_none_or(|flags| flags & QR != 0);
    ports.contains(&port) && is_response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
    use proptest::prelude::*;

    use super::*;

    const CLIENT_V4: [u8; 4] = [198, 51, 100, 7];
    const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    const SERVER_V4: [u8; 4] = [192, 0, 2, 1];
    const SERVER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    /// Octets of the message of a reply.
    const MESSAGE: usize = 1200;

    /// A reply from this port, from its IP header on.
    fn reply(v6: bool, port: u16, flags: u8) -> Vec<u8> {
        let mut message = vec![0; MESSAGE];
        message[2] = flags;
        let mut packet = Vec::new();
        let builder = match v6 {
            false => PacketBuilder::ipv4(SERVER_V4, CLIENT_V4, 64),
            true => PacketBuilder::ipv6(SERVER_V6, CLIENT_V6, 64),
        };
        builder
            .udp(port, 40_000)
            .write(&mut packet, &message)
            .unwrap();
        packet
    }

    /// A router's report of it over IPv4.
    fn report_v4(mtu: u16, quoted: &[u8]) -> Vec<u8> {
        let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 254], SERVER_V4, 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(header))
            .write(&mut packet, quoted)
            .unwrap();
        packet
    }

    /// One over IPv6, from the ICMP header on.
    fn report_v6(mtu: u32, quoted: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6(CLIENT_V6, SERVER_V6, 64)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu })
            .write(&mut packet, quoted)
            .unwrap();
        packet.split_off(40)
    }

    #[test]
    fn reports_about_replies_are_read() {
        let v4 = reply(false, 53, 0x85);
        let expected = Report {
            client: CLIENT_V4.into(),
            mtu: 1100,
            len: 20 + 8 + MESSAGE as u32,
        };
        // RFC 792 wants eight octets of the datagram, RFC 1812 more.
        for quoted in [20 + 8, 20 + 8 + 2, 20 + 8 + 3, v4.len()] {
            let report = report_v4(1100, &v4[..quoted]);
            assert_eq!(read_v4(&report, &[853, 53]), Some(expected), "{quoted}");
        }
        let v6 = reply(true, 53, 0x85);
        let expected = Report {
            client: CLIENT_V6.into(),
            mtu: 1290,
            len: 40 + 8 + MESSAGE as u32,
        };
        for quoted in [40 + 8, 1232 - 8] {
            let report = report_v6(1290, &v6[..quoted]);
            assert_eq!(read_v6(&report, &[53]), Some(expected), "{quoted}");
        }
    }

    #[test]
    fn other_messages_are_ignored() {
        let v4 = reply(false, 53, 0x85);
        let good = report_v4(1100, &v4[..128]);
        let (icmp, inner) = (20, 20 + 8);
        // Without a checksum that fits, as in a damaged packet; and with one.
        for (what, at, value) in [
            ("another type", icmp, 11),
            ("another code", icmp + 1, 3),
            ("another version", inner, 0x65),
            ("a header that is too short", inner, 0x44),
            ("TCP", inner + 9, 6),
            ("a later fragment", inner + 7, 1),
            ("another port", inner + 21, 54),
            ("a query", inner + 20 + 8 + 2, 0),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(read_v4(&bad, &[53]), None, "{what}");
            bad[icmp + 2..icmp + 4].fill(0);
            let sum = checksum::finish(checksum::add(0, &bad[icmp..]));
            bad[icmp + 2..icmp + 4].copy_from_slice(&sum);
            assert_eq!(read_v4(&bad, &[53]), None, "{what}, right checksum");
        }
        let mut damaged = good.clone();
        damaged[icmp + 7] ^= 1;
        assert_eq!(read_v4(&damaged, &[53]), None, "checksum");
        assert_eq!(read_v4(&good, &[]), None, "no port");

        let v6 = reply(true, 53, 0x85);
        let good = report_v6(1300, &v6[..128]);
        let inner = 8;
        for (what, at, value) in [
            ("another type", 0, 1),
            ("another version", inner, 0x45),
            ("an extension header", inner + 6, 44),
            ("another port", inner + 41, 54),
            ("a query", inner + 40 + 8 + 2, 0),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(read_v6(&bad, &[53]), None, "{what}");
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_read_or_ignored(octets: Vec<u8>, cut in 0..200usize, flip in 0..1600usize, bit in 0..8) {
            let v4 = report_v4(1100, &reply(false, 53, 0x85)[..128]);
            let v6 = report_v6(1300, &reply(true, 53, 0x85)[..128]);
            for good in [v4, v6] {
                let mut bad = good;
                if let Some(octet) = bad.get_mut(flip / 8) {
                    *octet ^= 1_u8 << bit;
                }
                bad.truncate(cut);
                let _ = (read_v4(&bad, &[53]), read_v6(&bad, &[53]));
            }
            let _ = (read_v4(&octets, &[53]), read_v6(&octets, &[53]));
        }
    }
}
