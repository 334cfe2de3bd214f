//! Frames from the wire.

use std::{cell::RefCell, net::IpAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use heimdall_user::{
    answer::Core,
    cache::{Cache, MIN_BYTES},
    checksum,
    dns::{NameHasher, reply::ReplySettings},
    packet::{Layout, SourceFilter},
    tap::Tap,
};

use frames::Worker;

#[path = "../../benches/frames.rs"]
#[expect(dead_code, reason = "not all of it is for this target")]
mod frames;

/// The largest frame that an interface's memory holds.
const FRAME: usize = 2048;

/// A frame that is accepted is read as etherparse reads it, and the reply in it is a frame to its
/// sender, with right checksums: with any payload, and with the engine's reply.
pub fn packet_view(frame: &[u8]) {
    let frame = &frame[..frame.len().min(FRAME)];
    worker(&frame[..frame.len().min(frames::FRAME)]);
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
        assert!(packet.buf.len() >= query.len().min(1500 - 48));
        let len = packet.buf.len().min(query.len().max(12));
        let reply = packet.buf[..len].to_vec();
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

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::new(Worker::disconnected(
        Core::new(
            Cache::new(MIN_BYTES).expect("memory"),
            NameHasher::default(),
            ReplySettings::new(1232, true),
            Default::default(),
            Default::default(),
            Default::default(),
        ),
        1,
        true,
        Tap::default(),
    ));
}

/// A worker replies to a frame, or discards it.
fn worker(frame: &[u8]) {
    let reply = WORKER.with_borrow_mut(|worker| {
        let memory = &mut worker.memory.frames[0];
        memory.octets[..frame.len()].copy_from_slice(frame);
        memory.octets[frame.len()..].fill(0xee);
        memory.len = frame.len();
        worker.begin();
        worker.answer(0..1);
        worker.complete();
        let memory = &worker.memory;
        let reply = &memory.frames[0];
        match (&memory.replied[..], &memory.discarded[..]) {
            ([0], []) => Some(reply.octets[..reply.len].to_vec()),
            ([], [0]) => None,
            other => panic!("not once: {other:?}"),
        }
    });
    let Some(reply) = reply else { return };
    let asked = Seen::of(frame).expect("etherparse accepts it, too");
    let replied = Seen::of(&reply).expect("a frame again");
    assert_eq!(replied.source, asked.destination);
    assert_eq!(replied.destination, asked.source);
    assert_eq!(replied.payload[..2], asked.payload[..2], "the ID");
    assert_eq!(replied.payload[2] & 0x80, 0x80, "a response");
    assert!(replied.sums_are_right, "checksums of {reply:02x?}");
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
