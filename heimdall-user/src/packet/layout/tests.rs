#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use etherparse::{Ethernet2Header, IpHeaders, NetSlice, SlicedPacket, TransportSlice, UdpHeader};

use super::*;

#[derive(Clone, Copy, Debug)]
struct Shape {
    v6: bool,
    tags: usize,
    padded: bool,
}

fn shapes() -> impl Iterator<Item = Shape> {
    (0..12).map(|i| Shape {
        v6: i & 1 == 1,
        padded: i & 2 == 2,
        tags: i / 4,
    })
}

/// A query of `len` octets as a client would send it.
fn frame(shape: Shape, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let (ip, ethertype) = if shape.v6 {
        let mut header = etherparse::Ipv6Header {
            hop_limit: 7,
            next_header: etherparse::IpNumber::UDP,
            ..Default::default()
        };
        header.source = "2001:db8::c"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets();
        header.destination = "2001:db8::5"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets();
        header.payload_length = (8 + len) as u16;
        (IpHeaders::Ipv6(header, Default::default()), [0x86, 0xdd])
    } else {
        let mut header = etherparse::Ipv4Header::new(
            (8 + len) as u16,
            7,
            etherparse::IpNumber::UDP,
            [10, 0, 0, 9],
            [10, 0, 0, 1],
        )
        .unwrap();
        header.header_checksum = header.calc_header_checksum();
        (IpHeaders::Ipv4(header, Default::default()), [0x08, 0x00])
    };
    let udp = match &ip {
        IpHeaders::Ipv4(header, _) => {
            UdpHeader::with_ipv4_checksum(4000, 53, header, &payload).unwrap()
        }
        IpHeaders::Ipv6(header, _) => {
            UdpHeader::with_ipv6_checksum(4000, 53, header, &payload).unwrap()
        }
    };
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in 0..shape.tags {
        let tpid = if shape.tags == 2 && tag == 0 {
            [0x88, 0xa8]
        } else {
            [0x81, 0x00]
        };
        bytes.extend_from_slice(&tpid);
        bytes.extend_from_slice(&[0x60, 10 + tag as u8]);
    }
    bytes.extend_from_slice(&ethertype);
    ip.write(&mut bytes).unwrap();
    udp.write(&mut bytes).unwrap();
    bytes.extend_from_slice(&payload);
    if shape.padded {
        bytes.extend_from_slice(&[0xaa; 46]);
    }
    bytes
}

/// Every reply length in every shape, checked by an independent parser.
#[test]
fn every_reply_is_well_formed() {
    for shape in shapes() {
        for len in 12..=1452 {
            let mut buf = frame(shape, 29);
            let layout = Layout::read(&buf, &SourceFilter::default(), true).unwrap();
            buf.resize(2048, 0x55);
            let source = layout.source(&buf);
            let opened = layout.open(&mut buf, 1500).unwrap();
            assert_eq!(opened.source(), source);
            assert_eq!(
                (layout.dns_len(), opened.source_port()),
                (29, 4000),
                "{shape:?}"
            );
            let from = if shape.v6 { "2001:db8::c" } else { "10.0.0.9" };
            assert_eq!(opened.source().to_string(), from);
            for (i, octet) in opened.buf[..len].iter_mut().enumerate() {
                *octet = (i * 7) as u8;
            }
            let sum = checksum::add(0, &opened.buf[..len]);
            let total = opened.into_reply(len, sum).unwrap();
            let packet = SlicedPacket::from_ethernet(&buf[..total]).unwrap();
            let ethernet = Ethernet2Header::from_slice(&buf).unwrap().0;
            assert_eq!((ethernet.destination[5], ethernet.source[5]), (2, 1));
            assert_eq!(packet.vlan_ids().len(), shape.tags);
            let Some(TransportSlice::Udp(udp)) = packet.transport else {
                panic!("no UDP in {shape:?}")
            };
            assert_eq!((udp.source_port(), udp.destination_port()), (53, 4000));
            assert_eq!(usize::from(udp.length()), 8 + len);
            assert_eq!(udp.payload().len(), len);
            assert_ne!(udp.checksum(), 0);
            let expected = match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.calc_header_checksum(), header.header_checksum);
                    assert_eq!(
                        (header.source, header.destination),
                        ([10, 0, 0, 1], [10, 0, 0, 9])
                    );
                    assert_eq!(usize::from(header.total_len), 28 + len);
                    udp.to_header()
                        .calc_checksum_ipv4(&header, udp.payload())
                        .unwrap()
                }
                NetSlice::Ipv6(ip) => {
                    assert_eq!(ip.header().source()[15], 5);
                    assert_eq!(ip.header().destination()[15], 0xc);
                    assert_eq!(usize::from(ip.header().payload_length()), 8 + len);
                    udp.to_header()
                        .calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                        .unwrap()
                }
                NetSlice::Arp(_) => panic!("ARP"),
            };
            assert_eq!(
                udp.checksum(),
                if expected == 0 { 0xffff } else { expected },
                "{shape:?} {len}"
            );
        }
    }
}

/// Some payload makes the sum come out as zero, which must be sent as 0xffff.
#[test]
fn a_zero_checksum_is_sent_as_all_ones() {
    for v6 in [false, true] {
        let mut buf = frame(
            Shape {
                v6,
                tags: 0,
                padded: false,
            },
            29,
        );
        let layout = Layout::read(&buf, &SourceFilter::default(), true).unwrap();
        buf.resize(200, 0);
        let at = layout.dns();
        buf[at..at + 12].fill(0);
        let packet = layout.open(&mut buf, 1500).unwrap();
        packet.into_reply(12, 0).unwrap();
        let sum = [buf[at - 2], buf[at - 1]];
        let mut buf = frame(
            Shape {
                v6,
                tags: 0,
                padded: false,
            },
            29,
        );
        buf.resize(200, 0);
        buf[at..at + 12].fill(0);
        // Adding the checksum itself to the data makes the new checksum zero.
        buf[at..at + 2].copy_from_slice(&sum);
        let packet = layout.open(&mut buf, 1500).unwrap();
        packet.into_reply(12, checksum::add(0, &sum)).unwrap();
        assert_eq!([buf[at - 2], buf[at - 1]], [0xff, 0xff]);
    }
}

#[test]
fn refuses_every_truncation_and_every_flipped_bit() {
    for shape in shapes() {
        let whole = frame(
            Shape {
                padded: false,
                ..shape
            },
            40,
        );
        for len in 0..whole.len() {
            assert_eq!(
                Layout::read(&whole[..len], &SourceFilter::default(), true),
                Err(BadPacket::Length),
                "{shape:?} {len}"
            );
        }
        let ip = 14 + 4 * shape.tags;
        for at in ip..whole.len() {
            // Fields outside every checksum: IPv6 traffic class, flow label and hop limit.
            if shape.v6 && matches!(at - ip, 0..4 | 7) {
                continue;
            }
            for bit in 0..8 {
                let mut bad = whole.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    Layout::read(&bad, &SourceFilter::default(), true).is_err(),
                    "{shape:?} octet {at} bit {bit}"
                );
            }
        }
    }
}

#[test]
fn accepts_absent_and_partial_checksums() {
    for shape in shapes() {
        let mut partial = frame(shape, 40);
        let udp = Layout::read(&partial, &SourceFilter::default(), true)
            .unwrap()
            .dns()
            - 8;
        let addresses = if shape.v6 {
            udp - 32..udp
        } else {
            udp - 8..udp
        };
        let pseudo = checksum::add_u16(
            checksum::add_u16(checksum::add(0, &partial[addresses]), 17),
            48,
        );
        partial[udp + 6..udp + 8].copy_from_slice(&checksum::fold(pseudo));
        assert!(
            Layout::read(&partial, &SourceFilter::default(), true).is_ok(),
            "partial, {shape:?}"
        );
        partial[udp + 6..udp + 8].fill(0);
        assert_eq!(
            Layout::read(&partial, &SourceFilter::default(), true).is_ok(),
            !shape.v6,
            "absent, {shape:?}"
        );
        partial[udp + 6..udp + 8].fill(0x77);
        assert_eq!(
            Layout::read(&partial, &SourceFilter::default(), true),
            Err(BadPacket::Checksum)
        );
        assert!(
            Layout::read(&partial, &SourceFilter::default(), false).is_ok(),
            "not verified"
        );
    }
}

#[test]
fn refuses_senders_that_must_not_be_answered() {
    let mut group = frame(
        Shape {
            v6: false,
            tags: 0,
            padded: false,
        },
        40,
    );
    group[0] |= 1;
    assert_eq!(
        Layout::read(&group, &SourceFilter::default(), false),
        Err(BadPacket::Source)
    );
    let good = frame(
        Shape {
            v6: true,
            tags: 1,
            padded: true,
        },
        40,
    );
    let own = SourceFilter::new(["2001:db8::c".parse().unwrap()]);
    assert_eq!(Layout::read(&good, &own, true), Err(BadPacket::Source));
}
