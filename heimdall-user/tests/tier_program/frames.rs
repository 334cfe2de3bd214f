//! Queries and the frames that carry them.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use heimdall_user::checksum;
use lab::LoadedProgram;

/// Addresses that the program serves.
pub(crate) const V4: &str = LoadedProgram::V4;
pub(crate) const V6: &str = LoadedProgram::V6;

/// Clients that the default access list allows: 10.7.0.99 and fd00:2::99.
pub(crate) const CLIENT_V4: [u8; 4] = [10, 7, 0, 99];
pub(crate) const CLIENT_V6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];
pub(crate) const PORT: u16 = 40_000;

/// The interface's MAC address, and the client's.
pub(crate) const MAC: [u8; 6] = LoadedProgram::MAC;
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0x11, 0, 0x22, 0, 1];

pub(crate) const ETHERNET: usize = 14;

pub(crate) const TAGGINGS: [&[u16]; 4] = [&[], &[0x8100], &[0x88a8], &[0x88a8, 0x8100]];

/// An OPT record: payload size, and the octets between it and RDLENGTH: rcode, version, flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    pub(crate) size: u16,
    pub(crate) fields: [u8; 4],
}

impl Opt {
    /// One with DO or without.
    pub(crate) fn new(size: u16, dnssec_ok: bool) -> Self {
        let fields = [0, 0, if dnssec_ok { 0x80 } else { 0 }, 0];
        Self { size, fields }
    }
}

/// A query with these header flags for a question in wire form.
pub(crate) fn query(flags: u16, question: &[u8], opt: Option<Opt>) -> Vec<u8> {
    let mut message = vec![0xbe, 0xef];
    message.extend(flags.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())]);
    message.extend(question);
    if let Some(Opt { size, fields }) = opt {
        message.extend([0, 0, 41]);
        message.extend(size.to_be_bytes());
        message.extend(fields);
        message.extend([0, 0]);
    }
    message
}

/// A question in wire form.
pub(crate) fn question(labels: &[&[u8]], qtype: u16) -> Vec<u8> {
    let mut question = Vec::new();
    for label in labels {
        question.push(label.len() as u8);
        question.extend(*label);
    }
    question.push(0);
    question.extend(qtype.to_be_bytes());
    question.extend([0, 1]);
    question
}

/// A datagram from the client to `to`, with right checksums.
pub(crate) fn datagram(to: &str, message: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, MAC);
    let to: SocketAddr = to.parse().unwrap();
    let ip = match to.ip() {
        IpAddr::V4(v4) => ethernet.ipv4(CLIENT_V4, v4.octets(), 61),
        IpAddr::V6(v6) => ethernet.ipv6(CLIENT_V6, v6.octets(), 61),
    };
    let mut frame = Vec::new();
    ip.udp(PORT, to.port()).write(&mut frame, message).unwrap();
    frame
}

/// Puts VLAN tags behind the Ethernet addresses, the outermost first.
pub(crate) fn tag(frame: &[u8], protocols: &[u16]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for (vlan, protocol) in (1_u16..).zip(protocols) {
        tagged.extend(protocol.to_be_bytes());
        tagged.extend(vlan.to_be_bytes());
    }
    tagged.extend(&frame[12..]);
    tagged
}

/// Where UDP's checksum is in an untagged frame.
pub(crate) fn udp_checksum_at(frame: &[u8]) -> usize {
    ETHERNET + if is_v4(frame) { 20 } else { 40 } + 6
}

pub(crate) fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}

/// Makes the UDP checksum of an untagged frame the sum of the pseudo-header alone, as it is in a packet from the
/// same host.
pub(crate) fn make_partial(frame: &mut [u8]) {
    let at = udp_checksum_at(frame);
    let addresses = if is_v4(frame) { 26..34 } else { 22..54 };
    let sum = checksum::add(0, &frame[addresses]);
    let length = u16::from_be_bytes([frame[at - 2], frame[at - 1]]);
    let sum = checksum::add_u16(checksum::add_u16(sum, 17), length);
    frame[at..at + 2].copy_from_slice(&checksum::fold(sum));
}
