//! Replies of every length, dissected by etherparse.

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use heimdall_ebpf::tier::{MAX_BODY, MIN_BODY};

use crate::{
    frames::{
        CLIENT_MAC, CLIENT_V4, CLIENT_V6, ETHERNET, MAC, Opt, PORT, TAGGINGS, V4, V6, datagram,
        query, question, tag,
    },
    kernel::Kernel,
    worker::{self, Content},
};

/// Checks every header of a reply, and returns its DNS message.
#[track_caller]
fn dissect<'a>(reply: &'a [u8], tags: &[u16]) -> &'a [u8] {
    let packet = SlicedPacket::from_ethernet(reply).unwrap();
    let ethernet = packet
        .link
        .unwrap()
        .to_header()
        .unwrap()
        .ethernet2()
        .unwrap();
    assert_eq!((ethernet.destination, ethernet.source), (CLIENT_MAC, MAC));
    let vlans: Vec<u16> = (packet.link_exts.iter())
        .map(|tag| match tag {
            LinkExtSlice::Vlan(tag) => tag.vlan_identifier().value(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(vlans.iter().copied().eq(1..=tags.len() as u16), "{vlans:?}");
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        panic!("not UDP");
    };
    let header = udp.to_header();
    assert_eq!((header.source_port, header.destination_port), (53, PORT));
    assert_ne!(header.checksum, 0);
    let (len, checksum) = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            assert_eq!((ip.source, ip.destination), ([192, 0, 2, 1], CLIENT_V4));
            assert_eq!((ip.time_to_live, ip.dont_fragment), (64, true));
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let checksum = header.calc_checksum_ipv4(&ip, udp.payload()).unwrap();
            (usize::from(ip.total_len), checksum)
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            assert_eq!((ip.destination, ip.hop_limit), (CLIENT_V6, 64));
            let checksum = header.calc_checksum_ipv6(&ip, udp.payload()).unwrap();
            (40 + usize::from(ip.payload_length), checksum)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(header.checksum, checksum);
    assert_eq!(reply.len(), ETHERNET + 4 * tags.len() + len, "no padding");
    udp.payload()
}

#[test]
fn replies_of_every_length_are_well_formed() {
    if !lab::available("replies_of_every_length_are_well_formed") {
        return;
    }
    let mut kernel = Kernel::load();
    // Questions of odd and of even length.
    let names: [&[&[u8]]; 2] = [&[b"a", b"net"], &[b"ab", b"net"]];
    for (name, labels) in names.into_iter().enumerate() {
        let question = question(labels, 1);
        for len in MIN_BODY..=MAX_BODY {
            let content = Content {
                age: if len % 3 == 0 { 0 } else { 60 },
                ..Content::of_len(len)
            };
            kernel.put(name as u32, 0, &content.entry(&question, 0));
            for opt in [None, Some(Opt::new(1232, false))] {
                let message = query(0x0100, &question, opt);
                for to in [V4, V6] {
                    for tags in TAGGINGS {
                        let frame = tag(&datagram(to, &message), tags);
                        let mut padded = frame.clone();
                        // To Ethernet's least frame, or beyond the reply.
                        padded.resize(60.max(frame.len() + len % 2 * 500), 0xa5);
                        let expected = worker::reply(&frame, &content, 1500);
                        for query in [&frame, &padded] {
                            assert_eq!(kernel.reply(query), expected);
                        }
                        let message = dissect(&expected, tags);
                        let opt = if opt.is_some() { 11 } else { 0 };
                        assert_eq!(message.len(), 12 + question.len() + len + opt);
                    }
                }
            }
        }
    }
}
