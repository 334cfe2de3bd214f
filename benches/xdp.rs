//! The XDP program, packet by packet, in the kernel itself (BPF_PROG_TEST_RUN), as root:
//! `cargo bench -p benches --bench xdp`.
//!
//! The times are the kernel's own: the mean of many runs in whole nanoseconds, including its loop around
//! the program. The program only decides; no packet is redirected.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::{Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Array, HashMap, XskMap},
    programs::{TestRun as _, Xdp},
};
use benches::{
    fixture::{name, query},
    network,
};
use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use heimdall_ebpf::{FRAGS_GLOBAL, LINKS_MAP, Link, PROGRAM, SERVED_MAP, SOCKETS_MAP, ServedKey};
use heimdall_user::xdp::xsk::Xsk;

const OBJECT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../heimdall-ebpf/heimdall.bpf.o"
);

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// The interface's MAC address.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A query to `destination`, as it comes from the wire.
fn frame(destination: SocketAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC);
    let ip = match destination {
        SocketAddr::V4(v4) => ethernet.ipv4([192, 0, 2, 99], v4.ip().octets(), 64),
        SocketAddr::V6(v6) => ethernet.ipv6(Ipv6Addr::LOCALHOST.octets(), v6.ip().octets(), 64),
    };
    let mut frame = Vec::new();
    ip.udp(40_000, destination.port())
        .write(&mut frame, &query(&name(7), true))
        .unwrap();
    frame
}

const V4: &str = "192.0.2.1:53";
const V6: &str = "[2001:db8::1]:53";
const OTHER: &str = "192.0.2.2:53";

/// The program that serves [`V4`] and [`V6`], for packets in one buffer, or also for packets in several.
fn load(frags: bool, xsk: &Xsk) -> Ebpf {
    let frags = u32::from(frags);
    let mut ebpf = EbpfLoader::new()
        .override_global(FRAGS_GLOBAL, &frags, true)
        .load_file(OBJECT)
        .unwrap();
    let map = ebpf.map_mut(SERVED_MAP).unwrap();
    let mut served = HashMap::<_, [u8; ServedKey::SIZE], u32>::try_from(map).unwrap();
    for address in [V4, V6] {
        let key = ServedKey::from(address.parse::<SocketAddr>().unwrap()).to_bytes();
        served.insert(key, 1, 0).unwrap();
    }
    let map = ebpf.map_mut(LINKS_MAP).unwrap();
    let mut links = Array::<_, [u8; Link::SIZE]>::try_from(map).unwrap();
    links.set(0, Link::any_tags(MAC, 1).to_bytes(), 0).unwrap();
    // Test packets arrive at queue 0.
    let mut sockets = XskMap::try_from(ebpf.map_mut(SOCKETS_MAP).unwrap()).unwrap();
    sockets.set(0, xsk.as_fd().as_raw_fd(), 0).unwrap();
    let program: &mut Xdp = ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    ebpf
}

fn program(c: &mut Criterion) {
    if !network::enter("xdp") {
        return;
    }
    let (xsk, _frames) = Xsk::open(network::NEAR, 0, 64, 1500, None).unwrap();
    let [v4, v6, other] = [V4, V6, OTHER].map(|address| frame(address.parse().unwrap()));
    let mut arp = v4.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut group = c.benchmark_group("XDP");
    for (frags, for_packets) in [(false, ""), (true, ", for packets in several buffers")] {
        let ebpf = load(frags, &xsk);
        let program: &Xdp = ebpf.program(PROGRAM).unwrap().try_into().unwrap();
        let run = |frame: &[u8], repeat| {
            let options = TestRunOptions {
                data_in: Some(frame),
                repeat,
                ..TestRunOptions::default()
            };
            program.test_run(options).unwrap()
        };
        for (what, frame, action) in [
            ("IPv4 query, steered", &v4, XDP_REDIRECT),
            ("IPv6 query, steered", &v6, XDP_REDIRECT),
            (
                "IPv4 query to an address not served, passed",
                &other,
                XDP_PASS,
            ),
            ("ARP, passed", &arp, XDP_PASS),
        ] {
            assert_eq!(run(frame, 1).return_value, action, "{what}");
            group.bench_function(format!("{what}{for_packets}"), |b| {
                b.iter_custom(|runs| {
                    let runs = u32::try_from(runs).unwrap();
                    run(frame, runs).duration * runs
                })
            });
        }
    }
}

criterion_group!(benches, program);
criterion_main!(benches);
