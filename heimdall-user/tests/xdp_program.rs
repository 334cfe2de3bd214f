//! Packet vectors through the real XDP program in the kernel (BPF_PROG_TEST_RUN, Linux 5.15).
//!
//! Needs root. `HEIMDALL_EBPF_OBJECT` names another object to test than the committed one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    env, fs,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, TestRun, TestRunOptions,
    maps::{HashMap, PerCpuArray, XskMap},
    programs::Xdp,
};
use heimdall_ebpf::{PROGRAM, SERVED, SOCKETS, VERDICTS, Verdict};
use heimdall_user::xdp::{program::OBJECT, socket::Xsk};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

const V4: [u8; 4] = [192, 0, 2, 53];
const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(env::var_os("CI").is_none(), "CI has to run as root");
        eprintln!("SKIPPED: needs root to load an XDP program");
    }
    root
}

fn key(address: &[u8], port: u16) -> [u8; 20] {
    let mut key = [0; 20];
    match address.len() {
        4 => {
            key[10..12].fill(0xff);
            key[12..16].copy_from_slice(address);
        }
        _ => key[..16].copy_from_slice(address),
    }
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key
}

/// The program, serving port 53 of [`V4`] and [`V6`].
struct Rig {
    ebpf: Ebpf,
    _socket: Option<Xsk>,
    /// The loopback interface has one queue, and the queue one socket.
    _alone: MutexGuard<'static, ()>,
}

static LOOPBACK: Mutex<()> = Mutex::new(());

impl Rig {
    fn new(with_socket: bool) -> Self {
        let alone = LOOPBACK.lock().unwrap_or_else(PoisonError::into_inner);
        let object = env::var_os("HEIMDALL_EBPF_OBJECT")
            .map(|path| fs::read(path).expect("HEIMDALL_EBPF_OBJECT"));
        let mut ebpf = Ebpf::load(object.as_deref().unwrap_or(OBJECT)).unwrap();
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();
        let mut served: HashMap<_, [u8; 20], u8> =
            ebpf.map_mut(SERVED).unwrap().try_into().unwrap();
        served.insert(key(&V4, 53), 0, 0).unwrap();
        served.insert(key(&V6, 53), 0, 0).unwrap();
        let socket = with_socket.then(|| {
            let (xsk, _frames) = Xsk::open("lo", 0, 64, false).unwrap();
            let mut sockets: XskMap<_> = ebpf.map_mut(SOCKETS).unwrap().try_into().unwrap();
            sockets
                .set(0, std::os::fd::AsRawFd::as_raw_fd(&xsk.as_fd()), 0)
                .unwrap();
            xsk
        });
        Self {
            ebpf,
            _socket: socket,
            _alone: alone,
        }
    }

    fn counts(&self) -> Vec<u64> {
        let verdicts: PerCpuArray<_, u64> = self.ebpf.map(VERDICTS).unwrap().try_into().unwrap();
        (0..verdicts.len())
            .map(|i| verdicts.get(&i, 0).unwrap().iter().sum())
            .collect()
    }

    /// What the program does with a packet, and the one counter that it raises.
    fn run(&self, packet: &[u8]) -> (u32, Verdict) {
        let before = self.counts();
        let program: &Xdp = self.ebpf.program(PROGRAM).unwrap().try_into().unwrap();
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).unwrap();
        assert_eq!(
            &out[..result.data_size_out as usize],
            packet,
            "the program changes nothing"
        );
        let after = self.counts();
        let raised: Vec<usize> = (0..after.len())
            .filter(|i| after[*i] != before[*i])
            .collect();
        assert_eq!(raised.len(), 1, "one verdict a packet");
        assert_eq!(after[raised[0]], before[raised[0]] + 1);
        (result.return_value, Verdict::ALL[raised[0]])
    }
}

/// A packet, and what can be wrong with it.
#[derive(Clone)]
struct Packet {
    tags: Vec<[u8; 2]>,
    v6: bool,
    destination: Vec<u8>,
    port: u16,
    dns: Vec<u8>,
    /// Changes to the packet from the IP header on.
    edits: Vec<(usize, u8)>,
    padding: usize,
    cut: usize,
}

impl Packet {
    fn v4() -> Self {
        let dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01".to_vec();
        Self {
            tags: vec![],
            v6: false,
            destination: V4.to_vec(),
            port: 53,
            dns,
            edits: vec![],
            padding: 0,
            cut: 0,
        }
    }

    fn v6() -> Self {
        Self {
            v6: true,
            destination: V6.to_vec(),
            ..Self::v4()
        }
    }

    fn edit(mut self, at: usize, value: u8) -> Self {
        self.edits.push((at, value));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tpid in &self.tags {
            bytes.extend_from_slice(tpid);
            bytes.extend_from_slice(&[0, 9]);
        }
        bytes.extend_from_slice(if self.v6 { &[0x86, 0xdd] } else { &[8, 0] });
        let ip = bytes.len();
        let udp_len = ((8 + self.dns.len()) as u16).to_be_bytes();
        if self.v6 {
            bytes.extend_from_slice(&[0x60, 0, 0, 0, udp_len[0], udp_len[1], 17, 64]);
            bytes.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        } else {
            let len = ((28 + self.dns.len()) as u16).to_be_bytes();
            bytes.extend_from_slice(&[
                0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7,
            ]);
        }
        bytes.extend_from_slice(&self.destination);
        bytes.extend_from_slice(&[0x9c, 0x40]);
        bytes.extend_from_slice(&self.port.to_be_bytes());
        bytes.extend_from_slice(&udp_len);
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&self.dns);
        for (at, value) in &self.edits {
            bytes[ip + at] = *value;
        }
        bytes.extend(vec![0xaa; self.padding]);
        bytes.truncate(bytes.len() - self.cut);
        bytes
    }
}

const C_TAG: [u8; 2] = [0x81, 0];
const S_TAG: [u8; 2] = [0x88, 0xa8];

#[test]
fn every_verdict() {
    if !is_root() {
        return;
    }
    let rig = Rig::new(true);
    let p = Packet::v4;
    let p6 = Packet::v6;
    let udp4 = 20;
    let udp6 = 40;
    let vectors = [
        ("IPv4", p(), Verdict::Steered),
        ("IPv6", p6(), Verdict::Steered),
        (
            "one tag",
            Packet {
                tags: vec![C_TAG],
                ..p()
            },
            Verdict::Steered,
        ),
        (
            "one service tag",
            Packet {
                tags: vec![S_TAG],
                ..p6()
            },
            Verdict::Steered,
        ),
        (
            "two tags",
            Packet {
                tags: vec![S_TAG, C_TAG],
                ..p()
            },
            Verdict::Steered,
        ),
        (
            "two tags over IPv6",
            Packet {
                tags: vec![C_TAG, C_TAG],
                ..p6()
            },
            Verdict::Steered,
        ),
        (
            "three tags",
            Packet {
                tags: vec![S_TAG, C_TAG, C_TAG],
                ..p()
            },
            Verdict::NotIp,
        ),
        ("padded", Packet { padding: 46, ..p() }, Verdict::Steered),
        (
            "padded, IPv6, tagged",
            Packet {
                padding: 46,
                tags: vec![C_TAG],
                ..p6()
            },
            Verdict::Steered,
        ),
        (
            "a header alone",
            Packet {
                dns: vec![0; 12],
                ..p()
            },
            Verdict::Steered,
        ),
        (
            "a header alone, padded",
            Packet {
                dns: vec![0; 12],
                padding: 6,
                ..p6()
            },
            Verdict::Steered,
        ),
        (
            "shorter than a header",
            Packet {
                dns: vec![0; 11],
                padding: 20,
                ..p()
            },
            Verdict::BadLength,
        ),
        (
            "no payload",
            Packet {
                dns: vec![],
                padding: 20,
                ..p6()
            },
            Verdict::BadLength,
        ),
        (
            "large",
            Packet {
                dns: vec![0; 1400],
                ..p()
            },
            Verdict::Steered,
        ),
        (
            "a response",
            p().edit(udp4 + 8 + 2, 0x81),
            Verdict::Response,
        ),
        (
            "a response over IPv6",
            p6().edit(udp6 + 8 + 2, 0x80),
            Verdict::Response,
        ),
        (
            "another opcode",
            p().edit(udp4 + 8 + 2, 0x7f),
            Verdict::Steered,
        ),
        (
            "another port",
            Packet { port: 5353, ..p() },
            Verdict::NotServed,
        ),
        (
            "another address",
            Packet {
                destination: vec![192, 0, 2, 54],
                ..p()
            },
            Verdict::NotServed,
        ),
        (
            "another IPv6 address",
            Packet {
                destination: vec![0x20; 16],
                ..p6()
            },
            Verdict::NotServed,
        ),
        (
            "from port 53 to another",
            p().edit(udp4, 0).edit(udp4 + 1, 53).edit(udp4 + 2, 0x9c),
            Verdict::NotServed,
        ),
        ("TCP", p().edit(9, 6), Verdict::NotUdp),
        ("ICMP", p().edit(9, 1), Verdict::NotUdp),
        ("TCP over IPv6", p6().edit(6, 6), Verdict::NotUdp),
        ("hop-by-hop options", p6().edit(6, 0), Verdict::NotUdp),
        ("IPv6 fragment", p6().edit(6, 44), Verdict::NotUdp),
        ("IPv4 options", p().edit(0, 0x46), Verdict::Ipv4Options),
        (
            "IPv4 header too short",
            p().edit(0, 0x44),
            Verdict::Ipv4Options,
        ),
        ("not version 4", p().edit(0, 0x65), Verdict::Ipv4Options),
        ("not version 6", p6().edit(0, 0x40), Verdict::NotIp),
        ("more fragments", p().edit(6, 0x20), Verdict::Fragment),
        ("fragment offset", p().edit(7, 1), Verdict::Fragment),
        (
            "fragment offset, upper bits",
            p().edit(6, 0x10),
            Verdict::Fragment,
        ),
        ("may be fragmented", p().edit(6, 0), Verdict::Steered),
        ("reserved flag", p().edit(6, 0x80), Verdict::Steered),
        ("IPv4 length one short", p().edit(3, 44), Verdict::BadLength),
        (
            "IPv4 length one over",
            Packet {
                padding: 9,
                ..p().edit(3, 46)
            },
            Verdict::BadLength,
        ),
        (
            "IPv4 length less than a header",
            p().edit(3, 19),
            Verdict::BadLength,
        ),
        (
            "UDP length one short",
            p().edit(udp4 + 5, 24),
            Verdict::BadLength,
        ),
        (
            "UDP length one over",
            Packet {
                padding: 9,
                ..p().edit(udp4 + 5, 26)
            },
            Verdict::BadLength,
        ),
        (
            "IPv6 length one short",
            p6().edit(5, 24),
            Verdict::BadLength,
        ),
        (
            "IPv6 length zero (jumbogram)",
            p6().edit(5, 0),
            Verdict::BadLength,
        ),
        (
            "lengths agree, frame one short",
            Packet { cut: 1, ..p() },
            Verdict::BadLength,
        ),
        (
            "lengths agree, IPv6 frame one short",
            Packet { cut: 1, ..p6() },
            Verdict::BadLength,
        ),
    ];
    for (name, packet, expected) in &vectors {
        let action = if *expected == Verdict::Steered {
            XDP_REDIRECT
        } else {
            XDP_PASS
        };
        assert_eq!(rig.run(&packet.bytes()), (action, *expected), "{name}");
    }
    let mut arp = Packet::v4().bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(rig.run(&arp), (XDP_PASS, Verdict::NotIp), "ARP");
    let seen: Vec<Verdict> = vectors.iter().map(|(_, _, verdict)| *verdict).collect();
    for verdict in Verdict::ALL {
        assert!(
            seen.contains(verdict) || *verdict == Verdict::NoSocket,
            "no vector for {verdict:?}"
        );
    }
}

/// Cut anywhere, a packet is passed and never steered.
#[test]
fn truncated_anywhere() {
    if !is_root() {
        return;
    }
    let rig = Rig::new(true);
    for packet in [
        Packet::v4(),
        Packet::v6(),
        Packet {
            tags: vec![S_TAG, C_TAG],
            ..Packet::v4()
        },
    ] {
        let whole = packet.bytes();
        // The kernel's test run takes no frame shorter than an Ethernet header.
        for len in 14..whole.len() {
            let (action, verdict) = rig.run(&whole[..len]);
            assert_eq!(action, XDP_PASS, "{len} octets: {verdict:?}");
        }
    }
}

#[test]
fn a_queue_without_a_socket_is_passed_to_the_kernel() {
    if !is_root() {
        return;
    }
    let rig = Rig::new(false);
    assert_eq!(
        rig.run(&Packet::v4().bytes()),
        (XDP_PASS, Verdict::NoSocket)
    );
}
