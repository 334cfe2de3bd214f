//! The XDP program, packet by packet, in the kernel itself (BPF_PROG_TEST_RUN), as root:
//! `cargo bench -p benches --bench xdp`.
//!
//! The times are the kernel's own: the mean of many runs in whole nanoseconds, including its loop around
//! the program. The program only decides; no packet is redirected.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::{Ipv6Addr, SocketAddr};

use aya::{EbpfLoader, TestRunOptions, programs::TestRun as _};
use benches::{
    fixture::{name, query},
    network,
};
use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use heimdall_ebpf::FRAGS_GLOBAL;
use heimdall_user::xdp::xsk::Xsk;
use lab::{LoadedProgram, XDP_PASS, XDP_REDIRECT};

const OTHER: &str = "192.0.2.2:53";

/// A query to `destination`, as it comes from the wire.
fn frame(destination: SocketAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], LoadedProgram::MAC);
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

/// The program for packets in one buffer, or also for packets in several.
fn load(frags: bool, xsk: &Xsk) -> LoadedProgram {
    let frags = u32::from(frags);
    let mut loader = EbpfLoader::new();
    loader.override_global(FRAGS_GLOBAL, &frags, true);
    let mut program = LoadedProgram::load(&mut loader);
    program.set_socket(xsk.as_fd());
    program
}

fn program(c: &mut Criterion) {
    if !network::enter("xdp") {
        return;
    }
    let (xsk, _frames) = Xsk::open(network::NEAR, 0, 64, 1500, None).unwrap();
    let [v4, v6, other] = [LoadedProgram::V4, LoadedProgram::V6, OTHER]
        .map(|address| frame(address.parse().unwrap()));
    let mut arp = v4.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut group = c.benchmark_group("XDP");
    for (frags, for_packets) in [(false, ""), (true, ", for packets in several buffers")] {
        let loaded = load(frags, &xsk);
        let run = |frame: &[u8], repeat| {
            let options = TestRunOptions {
                data_in: Some(frame),
                repeat,
                ..TestRunOptions::default()
            };
            loaded.program().test_run(options).unwrap()
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
