//! Frames from the wire.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use heimdall_user::{
    checksum,
    packet::{Layout, SourceFilter},
};

/// The largest frame that an interface's memory holds.
const FRAME: usize = 2048;

/// A frame that is accepted is read as etherparse reads it, and its reply is a frame to its sender, with
/// right checksums.
pub fn packet_view(frame: &[u8]) {
    let frame = &frame[..frame.len().min(FRAME)];
    let sources = SourceFilter::new([IpAddr::from([10, 53, 0, 1])]);
    for verify in [true, false] {
        let Ok(layout) = Layout::read(frame, &sources, verify) else {
            continue;
        };
        let query = layout.query(frame).to_vec();
        assert_eq!(query.len(), layout.dns_len());
        let asked = Seen::of(frame).expect("etherparse reads it, too");
        assert_eq!(asked.payload, query);

        let mut octets = frame.to_vec();
        octets.resize(FRAME, 0xee);
        let packet = layout.open(&mut octets, 1500).expect("the same frame");
        assert_eq!(asked.source, (packet.source(), packet.source_port()));
        assert!(packet.room.len() >= query.len().min(1500 - 48));
        let len = packet.room.len().min(query.len().max(12));
        let reply = packet.room[..len].to_vec();
        let sum = checksum::add(0, &reply);
        let Some(end) = packet.into_reply(len, sum) else {
            continue;
        };
        let replied = Seen::of(&octets[..end]).expect("the reply is a frame");
        assert_eq!(replied.source, asked.destination);
        assert_eq!(replied.destination, asked.source);
        assert_eq!(replied.payload, reply);
        assert!(
            replied.sums_are_right,
            "checksums of {:02x?}",
            &octets[..end]
        );
    }
}

/// A packet as etherparse sees it.
struct Seen {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    payload: Vec<u8>,
    sums_are_right: bool,
}

impl Seen {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(TransportSlice::Udp(udp)) = packet.transport else {
            return None;
        };
        let header = udp.to_header();
        let (from, to, sums_are_right) = match packet.net? {
            NetSlice::Ipv4(ip) => {
                let v4 = ip.header().to_header();
                let sum = header.calc_checksum_ipv4(&v4, udp.payload()).ok()?;
                (
                    IpAddr::from(v4.source),
                    IpAddr::from(v4.destination),
                    v4.calc_header_checksum() == v4.header_checksum && sum == header.checksum,
                )
            }
            NetSlice::Ipv6(ip) => {
                let v6 = ip.header().to_header();
                let sum = header.calc_checksum_ipv6(&v6, udp.payload()).ok()?;
                (
                    IpAddr::from(v6.source),
                    IpAddr::from(v6.destination),
                    sum == header.checksum,
                )
            }
            NetSlice::Arp(_) => return None,
        };
        Some(Self {
            source: (from, header.source_port),
            destination: (to, header.destination_port),
            payload: udp.payload().to_vec(),
            sums_are_right,
        })
    }
}
