//! A packet sent back with as little work as can be: what a server's replies are measured against.

const ETHERNET: usize = 14;
/// QR in the third octet of a DNS header.
const QR: u8 = 0x80;

/// Turns a DNS query over UDP round, untagged, and makes it a response by its QR bit alone. `None`: it
/// is something else, and has not been changed.
#[inline]
pub fn echo(frame: &mut [u8]) -> Option<()> {
    let (ethernet, packet) = frame.split_first_chunk_mut::<ETHERNET>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
    let v4 = [t0, t1] == [0x08, 0x00];
    let segment = match [t0, t1] {
        [0x08, 0x00] => {
            let (header, segment) = packet.split_first_chunk_mut::<20>()?;
            swap_halves(header.last_chunk_mut::<8>()?);
            segment
        }
        [0x86, 0xdd] => {
            let (header, segment) = packet.split_first_chunk_mut::<40>()?;
            swap_halves(header.last_chunk_mut::<32>()?);
            segment
        }
        _ => return None,
    };
    let [p0, p1, q0, q1, _, _, c0, c1, _, _, flags, ..] = segment.first_chunk_mut::<20>()?;
    (*p0, *p1, *q0, *q1) = (*q0, *q1, *p0, *p1);
    if v4 {
        // None: that of a sender on this host is half done, and nobody here finishes it.
        *flags |= QR;
        (*c0, *c1) = (0, 0);
    } else if *flags & QR == 0 {
        *flags |= QR;
        // The sum has grown by 0x8000, so its complement shrinks (RFC 1624).
        let (sum, carry) = (!u16::from_be_bytes([*c0, *c1])).overflowing_add(0x8000);
        [*c0, *c1] = (!(sum + u16::from(carry))).to_be_bytes();
    }
    *ethernet = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1];
    Some(())
}

#[inline]
fn swap_halves(octets: &mut [u8]) {
    let (source, destination) = octets.split_at_mut(octets.len() / 2);
    source.swap_with_slice(destination);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn comes_back_with_a_right_checksum_or_none() {
        for number in 0..2000u16 {
            let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            query[..2].copy_from_slice(&number.to_be_bytes());
            query.extend_from_slice(b"\x01x\0\0\x01\0\x01");
            let ethernet = PacketBuilder::ethernet2([1; 6], [2; 6]);
            let ip = if number % 2 == 0 {
                ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            } else {
                ethernet.ipv6([1; 16], [2; 16], 64)
            };
            let mut frame = Vec::new();
            ip.udp(4000 + number, 53).write(&mut frame, &query).unwrap();
            let before = frame.clone();
            echo(&mut frame).unwrap();
            query[2] |= 0x80;
            let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let Some(TransportHeader::Udp(udp)) = &headers.transport else {
                panic!("no UDP");
            };
            assert_eq!((udp.source_port, udp.destination_port), (53, 4000 + number));
            let sum = match headers.net.as_ref().unwrap() {
                etherparse::NetHeaders::Ipv4(ip, _) => {
                    assert_eq!((ip.source, ip.destination), ([10, 0, 0, 2], [10, 0, 0, 1]));
                    assert_eq!(udp.checksum, 0, "none");
                    continue;
                }
                etherparse::NetHeaders::Ipv6(ip, _) => {
                    assert_eq!((ip.source, ip.destination), ([2; 16], [1; 16]));
                    udp.calc_checksum_ipv6(ip, &query)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(udp.checksum, sum.unwrap(), "{number}");
            assert_eq!((&frame[..6], &frame[6..12]), (&before[6..12], &before[..6]));
        }
        let mut arp = vec![0; 60];
        assert_eq!(echo(&mut arp), None);
        assert_eq!(echo(&mut []), None);
    }
}
