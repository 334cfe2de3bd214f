//! Packet vectors through the real XDP program, in the real kernel (BPF_PROG_TEST_RUN).
//!
//! `HEIMDALL_EBPF_OBJECT` names another object to test than the committed one: CI tests the one that it
//! has just rebuilt. Frames are built by etherparse, an implementation independent of the program.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::SocketAddr;

use aya::{EbpfLoader, TestRunOptions, programs::TestRun as _, util::KernelVersion};
use etherparse::PacketBuilder;
use heimdall_ebpf::{
    Disposition::{self, *},
    FRAGS_GLOBAL, Link, MAX_LINKS, MAX_STEERED, Tags,
};
use lab::{BoundSocket, LoadedProgram, XDP_PASS, XDP_REDIRECT};

const V4: &str = LoadedProgram::V4;
const V6: &str = LoadedProgram::V6;
/// The interface's own MAC address.
const MAC: [u8; 6] = LoadedProgram::MAC;
const ETHERNET: usize = 14;
/// `. IN NS`, the shortest query.
const QUERY: [u8; 17] = [0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
const TAGGINGS: [&[u16]; 5] = [
    &[],
    &[0x8100],
    &[0x88a8],
    &[0x88a8, 0x8100],
    &[0x8100, 0x8100],
];

struct Kernel(LoadedProgram);

impl Kernel {
    fn load() -> Self {
        Self::load_with(0)
    }

    /// With this value of [`FRAGS_GLOBAL`].
    fn load_with(frags: u32) -> Self {
        let mut loader = EbpfLoader::new();
        loader.override_global(FRAGS_GLOBAL, &frags, true);
        Self(LoadedProgram::load(&mut loader))
    }

    fn with_socket(mut self) -> (Self, BoundSocket) {
        let socket = self.0.open_socket();
        (self, socket)
    }

    /// Runs the program over `frame`. Returns its action, and the one disposition that it counted.
    fn run(&self, frame: &[u8]) -> (u32, Disposition) {
        self.try_run(frame, None).unwrap()
    }

    /// The same with a first buffer of so many octets. `None`: the kernel is older than 6.18, and makes it as long as it can.
    fn try_run(&self, frame: &[u8], first: Option<u32>) -> Option<(u32, Disposition)> {
        let before = self.0.counters();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = first.map(|first| [0, first, 0, 0, 0, 0].map(u32::to_ne_bytes).concat());
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: context.as_deref(),
            ..TestRunOptions::default()
        };
        let action = match self.0.program().test_run(options) {
            Ok(result) => result.return_value,
            Err(_) if first.is_some() && !has_short_buffers() => return None,
            Err(error) => panic!("{error}"),
        };
        let after = self.0.counters();
        let counted: Vec<Disposition> = Disposition::ALL
            .into_iter()
            .filter(|v| after[*v as usize] != before[*v as usize])
            .collect();
        assert_eq!(counted.len(), 1, "one packet, one disposition: {counted:?}");
        assert_eq!(after[counted[0] as usize] - before[counted[0] as usize], 1);
        Some((action, counted[0]))
    }

    /// Runs `frame` and requires `disposition`, and the action that belongs to it.
    #[track_caller]
    fn expect(&self, what: &str, frame: &[u8], disposition: Disposition) {
        let action = if disposition == Steered {
            XDP_REDIRECT
        } else {
            XDP_PASS
        };
        assert_eq!(
            self.run(frame),
            (action, disposition),
            "{what}: {frame:02x?}"
        );
    }
}

/// Whether a test run takes the length of the first buffer.
fn has_short_buffers() -> bool {
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 18, 0)
}

/// An untagged UDP datagram to `destination`.
fn datagram(destination: &str, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC);
    let destination: SocketAddr = destination.parse().unwrap();
    let ip = match destination {
        SocketAddr::V4(v4) => ethernet.ipv4([192, 0, 2, 99], v4.ip().octets(), 64),
        SocketAddr::V6(v6) => {
            let source: std::net::Ipv6Addr = "2001:db8::99".parse().unwrap();
            ethernet.ipv6(source.octets(), v6.ip().octets(), 64)
        }
    };
    let mut frame = Vec::new();
    ip.udp(40_000, destination.port())
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Puts VLAN tags behind the Ethernet addresses, the outermost first: the VLANs 1 and 2.
fn tag(frame: &[u8], protocols: &[u16]) -> Vec<u8> {
    let stack: Vec<_> = protocols.iter().copied().zip(1..).collect();
    tag_with(frame, &stack, 0)
}

/// Puts tags with these protocols and VLANs there; `priority` has the four bits above the VLAN.
fn tag_with(frame: &[u8], stack: &[(u16, u16)], priority: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for (protocol, vlan) in stack {
        tagged.extend(protocol.to_be_bytes());
        tagged.extend((vlan | priority).to_be_bytes());
    }
    tagged.extend(&frame[12..]);
    tagged
}

/// Pads to Ethernet's least frame, and one byte more than that needs.
fn pad(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(60.max(frame.len() + 1), 0xa5);
    frame
}

fn add16(frame: &mut [u8], at: usize, by: i16) {
    let value = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add_signed(by);
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn queries_to_served_addresses_are_steered() {
    if !lab::available("queries_to_served_addresses_are_steered") {
        return;
    }
    let (kernel, _socket) = Kernel::load().with_socket();
    for destination in [V4, V6] {
        for tags in TAGGINGS {
            for payload in [&QUERY[..], &QUERY[..12], &[0; 512], &[0; 1400]] {
                let frame = tag(&datagram(destination, payload), tags);
                let what = format!("{destination} {tags:04x?} {} bytes", payload.len());
                kernel.expect(&what, &frame, Steered);
                kernel.expect(&format!("{what}, padded"), &pad(frame), Steered);
            }
        }
    }
}

#[test]
fn packets_that_do_not_fit_a_frame_pass() {
    if !lab::available("packets_that_do_not_fit_a_frame_pass") {
        return;
    }
    for frags in [0, 1] {
        let (kernel, _socket) = Kernel::load_with(frags).with_socket();
        for destination in [V4, V6] {
            for tags in TAGGINGS {
                let headers = datagram(destination, &[]).len() + 4 * tags.len();
                for (len, disposition) in [
                    (MAX_STEERED, Steered),
                    (MAX_STEERED + 1, TooLong),
                    (3000, TooLong),
                    // Of more than a page, so in two buffers, and in three.
                    (5000, TooLong),
                    (9000, TooLong),
                ] {
                    let padded = |mut frame: Vec<u8>| {
                        frame.resize(len, 0xa5);
                        frame
                    };
                    let what = format!("{destination} {tags:04x?} {len} octets, frags {frags}");
                    let query = padded(tag(&datagram(destination, &QUERY), tags));
                    kernel.expect(&format!("padded, {what}"), &query, disposition);
                    let message = vec![0; len - headers];
                    let query = tag(&datagram(destination, &message), tags);
                    // The rest is not in the first buffer.
                    let disposition = if len > 4096 { BadLength } else { disposition };
                    kernel.expect(&what, &query, disposition);
                }
            }
        }
    }
}

#[test]
fn packets_in_several_short_buffers_pass() {
    if !lab::available("packets_in_several_short_buffers_pass") {
        return;
    }
    let (kernel, _socket) = Kernel::load_with(1).with_socket();
    for destination in [V4, V6] {
        for len in [200, MAX_STEERED, 5000] {
            let mut frame = datagram(destination, &QUERY);
            frame.resize(len, 0xa5);
            let Some(result) = kernel.try_run(&frame, Some(128)) else {
                println!("SKIPPED: test runs have no short first buffer before Linux 6.18");
                return;
            };
            assert_eq!(result, (XDP_PASS, TooLong), "{destination} {len}");
        }
    }
}

#[test]
fn without_a_socket_queries_pass() {
    if !lab::available("without_a_socket_queries_pass") {
        return;
    }
    let kernel = Kernel::load();
    kernel.expect("without a socket", &datagram(V4, &QUERY), NoSocket);
    let (kernel, socket) = kernel.with_socket();
    kernel.expect("with a socket", &datagram(V4, &QUERY), Steered);
    drop(socket);
    kernel.expect("its socket is closed", &datagram(V4, &QUERY), NoSocket);
}

#[test]
fn only_frames_to_the_own_mac_address_are_steered() {
    if !lab::available("only_frames_to_the_own_mac_address_are_steered") {
        return;
    }
    let (mut kernel, _socket) = Kernel::load().with_socket();
    for destination in [V4, V6] {
        for tags in TAGGINGS {
            let frame = tag(&datagram(destination, &QUERY), tags);
            for at in 0..6 {
                for bit in 0..8 {
                    let mut other = frame.clone();
                    other[at] ^= 1 << bit;
                    let what = format!("{destination} {tags:04x?}, bit {bit} of octet {at}");
                    kernel.expect(&what, &other, OtherMac);
                }
            }
            let mut sender = frame.clone();
            sender[6..12].fill(0xfe);
            kernel.expect("any sender", &sender, Steered);
            sender[6] |= 1;
            kernel.expect("a group as sender", &sender, OtherMac);
        }
        for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
            let mut frame = datagram(destination, &QUERY);
            frame[..6].copy_from_slice(&mac);
            kernel.expect("a group or zero address", &frame, OtherMac);
        }
        // The served address is checked first, and so counted.
        let mut other = datagram("192.0.2.9:53", &QUERY);
        other[0] ^= 1;
        kernel.expect("another address", &other, NotServed);
    }
    kernel.0.set_link(0, Link::any_tags([2, 0, 0, 0, 0, 7], 1));
    let mut frame = datagram(V4, &QUERY);
    kernel.expect("the previous address", &frame, OtherMac);
    frame[5] = 7;
    kernel.expect("the new address", &frame, Steered);
}

/// A link with exactly these tags, the outermost first.
fn link(last: u8, tags: &[(u16, u16)]) -> Link {
    let tags = tags.iter().fold(Tags::NONE, |tags, (protocol, vlan)| {
        tags.push(*protocol == 0x88a8, *vlan)
    });
    Link {
        tags,
        ..Link::any_tags([2, 0, 0, 0, 0, last], 1)
    }
}

#[test]
fn a_vlans_frames_are_those_with_its_tags() {
    const STACKS: [&[(u16, u16)]; 8] = [
        &[],
        &[(0x8100, 1)],
        &[(0x8100, 2)],
        &[(0x8100, 0)],
        &[(0x88a8, 1)],
        &[(0x8100, 1), (0x8100, 2)],
        &[(0x8100, 2), (0x8100, 1)],
        &[(0x88a8, 1), (0x8100, 2)],
    ];
    if !lab::available("a_vlans_frames_are_those_with_its_tags") {
        return;
    }
    let (mut kernel, _socket) = Kernel::load().with_socket();
    for own in STACKS {
        kernel.0.set_link(0, link(2, own));
        for stack in STACKS {
            for priority in [0, 0xf000] {
                let expected = if stack == own { Steered } else { OtherMac };
                for destination in [V4, V6] {
                    let frame = tag_with(&datagram(destination, &QUERY), stack, priority);
                    let what = format!("{stack:04x?} at {own:04x?}, priority {priority:04x}");
                    kernel.expect(&what, &frame, expected);
                    let mut other = frame;
                    other[5] = 7;
                    kernel.expect(&format!("{what}, other MAC"), &other, OtherMac);
                }
            }
        }
    }
}

#[test]
fn an_address_is_served_at_the_links_of_its_mask() {
    if !lab::available("an_address_is_served_at_the_links_of_its_mask") {
        return;
    }
    let (mut kernel, _socket) = Kernel::load().with_socket();
    // Each link has a MAC address and a VLAN of its own, but for the last, which has any tags.
    for index in 0..MAX_LINKS {
        kernel
            .0
            .set_link(index, link(index as u8, &[(0x8100, 100 + index as u16)]));
    }
    let last = MAX_LINKS - 1;
    kernel
        .0
        .set_link(last, Link::any_tags([2, 0, 0, 0, 0, last as u8], 1));
    for mask in [0, 1, 0b110, 1 << 16, 1 << last, 0x8000_0001, u32::MAX] {
        kernel.0.serve(mask);
        for index in 0..MAX_LINKS {
            let vlan = 100 + index as u16;
            let mut frame = tag_with(&datagram(V4, &QUERY), &[(0x8100, vlan)], 0);
            frame[5] = index as u8;
            let served = if mask >> index & 1 != 0 {
                Steered
            } else {
                OtherMac
            };
            kernel.expect(&format!("link {index} of {mask:#x}"), &frame, served);
            // The MAC address of one link in the VLAN of another.
            frame[15] ^= 1;
            let served = if index == last { served } else { OtherMac };
            kernel.expect(
                &format!("link {index} of {mask:#x}, other VLAN"),
                &frame,
                served,
            );
        }
    }
    // Two MAC addresses of one link.
    kernel.0.serve(0b11);
    for (index, last) in [(0, 2), (1, 9)] {
        kernel.0.set_link(index, link(last, &[]));
    }
    for (last, expected) in [(2, Steered), (9, Steered), (3, OtherMac)] {
        let mut frame = datagram(V6, &QUERY);
        frame[5] = last;
        kernel.expect("one of two MAC addresses", &frame, expected);
    }
}

/// A change to a frame whose IP header is at the offset given.
type Change = fn(&mut Vec<u8>, usize);

/// Changes to an IPv4 frame. Offsets are those of RFC 791: 0 version and IHL, 2 total length,
/// 6 flags and offset, 9 protocol, 16 destination; UDP from 20.
const IPV4: &[(&str, Change, Disposition)] = &[
    ("a response", |f, ip| f[ip + 30] |= 0x80, NotQuery),
    ("other address", |f, ip| f[ip + 19] ^= 1, NotServed),
    (
        "other address, first byte",
        |f, ip| f[ip + 16] ^= 1,
        NotServed,
    ),
    ("other port", |f, ip| add16(f, ip + 22, 1), NotServed),
    (
        "port with its bytes swapped",
        |f, ip| f[ip + 22..ip + 24].reverse(),
        NotServed,
    ),
    ("version 6 in an IPv4 frame", |f, ip| f[ip] = 0x65, NotIp),
    ("version 0", |f, ip| f[ip] = 0x05, NotIp),
    ("IHL 4", |f, ip| f[ip] = 0x44, BadLength),
    ("IHL 6", |f, ip| f[ip] = 0x46, Ipv4Options),
    ("IHL 15", |f, ip| f[ip] = 0x4f, Ipv4Options),
    ("don't fragment", |f, ip| f[ip + 6] = 0x40, Steered),
    ("more fragments", |f, ip| f[ip + 6] = 0x20, Fragment),
    ("offset 1", |f, ip| f[ip + 7] = 1, Fragment),
    ("offset 0x1000", |f, ip| f[ip + 6] = 0x10, Fragment),
    ("TCP", |f, ip| f[ip + 9] = 6, NotUdp),
    ("ICMP", |f, ip| f[ip + 9] = 1, NotUdp),
    ("UDP-Lite", |f, ip| f[ip + 9] = 136, NotUdp),
    (
        "a TCP fragment with options",
        |f, ip| (f[ip], f[ip + 7], f[ip + 9]) = (0x46, 1, 6),
        NotUdp,
    ),
    (
        "total length 0",
        |f, ip| (f[ip + 2], f[ip + 3]) = (0, 0),
        BadLength,
    ),
    (
        "total length 19",
        |f, ip| (f[ip + 2], f[ip + 3]) = (0, 19),
        BadLength,
    ),
];

/// Changes to an IPv6 frame. Offsets are those of RFC 8200: 4 payload length, 6 next header,
/// 24 destination; UDP from 40.
const IPV6: &[(&str, Change, Disposition)] = &[
    ("a response", |f, ip| f[ip + 50] |= 0x80, NotQuery),
    ("other address", |f, ip| f[ip + 39] ^= 1, NotServed),
    (
        "other address, first byte",
        |f, ip| f[ip + 24] ^= 1,
        NotServed,
    ),
    (
        "other address, middle byte",
        |f, ip| f[ip + 32] ^= 1,
        NotServed,
    ),
    ("other port", |f, ip| add16(f, ip + 42, 1), NotServed),
    ("version 4 in an IPv6 frame", |f, ip| f[ip] = 0x45, NotIp),
    (
        "traffic class and flow label",
        |f, ip| {
            f[ip] = 0x6f;
            f[ip + 3] = 0xff
        },
        Steered,
    ),
    ("TCP", |f, ip| f[ip + 6] = 6, NotUdp),
    ("ICMPv6", |f, ip| f[ip + 6] = 58, NotUdp),
    ("no next header", |f, ip| f[ip + 6] = 59, NotUdp),
    ("Hop-by-Hop", |f, ip| f[ip + 6] = 0, Ipv6Extension),
    ("Routing", |f, ip| f[ip + 6] = 43, Ipv6Extension),
    ("Fragment", |f, ip| f[ip + 6] = 44, Fragment),
    ("ESP", |f, ip| f[ip + 6] = 50, Ipv6Extension),
    ("AH", |f, ip| f[ip + 6] = 51, Ipv6Extension),
    ("Destination Options", |f, ip| f[ip + 6] = 60, Ipv6Extension),
    ("Mobility", |f, ip| f[ip + 6] = 135, Ipv6Extension),
    ("HIP", |f, ip| f[ip + 6] = 139, Ipv6Extension),
    ("Shim6", |f, ip| f[ip + 6] = 140, Ipv6Extension),
    ("experiment 253", |f, ip| f[ip + 6] = 253, Ipv6Extension),
    ("experiment 254", |f, ip| f[ip + 6] = 254, Ipv6Extension),
    (
        "payload length 0 (jumbogram)",
        |f, ip| (f[ip + 4], f[ip + 5]) = (0, 0),
        BadLength,
    ),
];

/// Changes of IP's length and of UDP's.
const LENGTHS: &[(&str, i16, i16, Disposition)] = &[
    ("IP length one short", -1, 0, BadLength),
    ("IP length one long", 1, 0, BadLength),
    ("UDP length one short", 0, -1, BadLength),
    ("UDP length one long", 0, 1, BadLength),
    ("UDP length 0", 0, -(8 + QUERY.len() as i16), BadLength),
    ("both lengths one short", -1, -1, Steered),
    ("both lengths beyond the frame", 99, 99, BadLength),
    ("11 bytes of DNS", -6, -6, BadLength),
    ("12 bytes of DNS", -5, -5, Steered),
];

#[test]
fn frames_that_cannot_be_answered_in_place_pass() {
    if !lab::available("frames_that_cannot_be_answered_in_place_pass") {
        return;
    }
    let (kernel, _socket) = Kernel::load().with_socket();
    let expect = |what: &str, frame: Vec<u8>, disposition| {
        kernel.expect(what, &frame, disposition);
        kernel.expect(&format!("{what}, padded"), &pad(frame), disposition);
    };
    for (destination, vectors, ip_length, udp_length) in [(V4, IPV4, 2, 24), (V6, IPV6, 4, 44)] {
        for tags in TAGGINGS {
            let ip = ETHERNET + 4 * tags.len();
            let frame = tag(&datagram(destination, &QUERY), tags);
            for (what, change, disposition) in vectors {
                let mut frame = frame.clone();
                change(&mut frame, ip);
                let what = format!("{destination} {tags:04x?} {what}");
                expect(&what, frame, *disposition);
            }
            for (what, by_ip, by_udp, disposition) in LENGTHS {
                let mut frame = frame.clone();
                add16(&mut frame, ip + ip_length, *by_ip);
                add16(&mut frame, ip + udp_length, *by_udp);
                let what = format!("{destination} {tags:04x?} {what}");
                expect(&what, frame, *disposition);
            }
        }
    }
}

#[test]
fn both_lengths_one_beyond_the_frame_pass_unless_padding_covers_them() {
    if !lab::available("both_lengths_one_beyond_the_frame_pass_unless_padding_covers_them") {
        return;
    }
    let (kernel, _socket) = Kernel::load().with_socket();
    for (destination, ip_length, udp_length) in [(V4, 2, 24), (V6, 4, 44)] {
        for tags in TAGGINGS {
            let mut frame = tag(&datagram(destination, &QUERY), tags);
            let ip = ETHERNET + 4 * tags.len();
            add16(&mut frame, ip + ip_length, 1);
            add16(&mut frame, ip + udp_length, 1);
            let what = format!("{destination} {tags:04x?}");
            kernel.expect(&what, &frame, BadLength);
            frame.push(0);
            kernel.expect(&what, &frame, Steered);
        }
    }
}

/// The kernel takes no test frame below 14 bytes.
#[test]
fn a_frame_cut_anywhere_passes() {
    if !lab::available("a_frame_cut_anywhere_passes") {
        return;
    }
    let (kernel, _socket) = Kernel::load().with_socket();
    for destination in [V4, V6] {
        for tags in TAGGINGS {
            let frame = tag(&datagram(destination, &QUERY), tags);
            for length in ETHERNET..frame.len() {
                let headers = ETHERNET + 4 * tags.len();
                let disposition = if length < headers { NotIp } else { BadLength };
                let what = format!("{destination} {tags:04x?} cut at {length}");
                kernel.expect(&what, &frame[..length], disposition);
            }
        }
    }
}

#[test]
fn other_frames_pass() {
    if !lab::available("other_frames_pass") {
        return;
    }
    let (kernel, _socket) = Kernel::load().with_socket();
    let query = datagram(V4, &QUERY);
    let with_type = |ethertype: u16| {
        let mut frame = query.clone();
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    };
    for (what, ethertype) in [
        ("ARP", 0x0806),
        ("LLDP", 0x88cc),
        ("802.3", 46),
        ("MPLS", 0x8847),
        ("PPPoE", 0x8864),
        ("0x9100", 0x9100),
    ] {
        kernel.expect(what, &with_type(ethertype), NotIp);
        kernel.expect(what, &tag(&with_type(ethertype), &[0x8100]), NotIp);
    }
    for tags in [
        [0x8100; 3],
        [0x88a8, 0x8100, 0x8100],
        [0x88a8; 3],
        [0x8100, 0x8100, 0x88a8],
    ] {
        kernel.expect("three tags", &tag(&query, &tags), TooManyTags);
        kernel.expect(
            "four tags",
            &tag(&tag(&query, &tags), &[0x8100]),
            TooManyTags,
        );
    }
    kernel.expect(
        "IPv6 under IPv4's type",
        &{
            let mut frame = datagram(V6, &QUERY);
            frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
            frame
        },
        NotIp,
    );
    // An IPv4-mapped IPv6 address is not that IPv4 address.
    kernel.expect(
        "mapped",
        &datagram("[::ffff:192.0.2.1]:53", &QUERY),
        NotServed,
    );
    let mut tcp = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 99], [192, 0, 2, 1], 64)
        .tcp(40_000, 53, 1, 1024)
        .write(&mut tcp, &QUERY)
        .unwrap();
    kernel.expect("DNS over TCP", &tcp, NotUdp);
}
