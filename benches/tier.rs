//! The hot tier of the XDP program, packet by packet, in the kernel itself (BPF_PROG_TEST_RUN), as root:
//! `cargo bench -p benches --bench tier`.
//!
//! Times are the kernel's own. What is passed on is run many times in one call, so that the difference between two
//! such lines is exact. What is answered is another packet afterwards, so each run is a call of its own, and its
//! time has that of the kernel's clock in it, which the line "a packet that is no IP" shows, and of code that the
//! processor has not predicted yet.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use aya::{
    EbpfLoader, Pod, TestRunOptions,
    maps::{
        Array,
        lpm_trie::{Key as Prefix, LpmTrie},
    },
    programs::TestRun as _,
};
use benches::network;
use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use heimdall_ebpf::tier::{
    Bucket, CLIENT_ANSWERED, ClientKey, Config, Entry, Key, MAX_BODY, SLOTS, Slot,
    TIER_BUCKETS_GLOBAL, TIER_BUCKETS_MAP, TIER_CLIENTS_MAP, TIER_CONFIG_MAP, TIER_ENTRIES_GLOBAL,
    TIER_ENTRIES_MAP, TIER_HITS_MAP,
};
use heimdall_user::{checksum, xdp::xsk::Xsk};
use lab::{LoadedProgram, XDP_PASS, XDP_REDIRECT, XDP_TX};

const V4: &str = LoadedProgram::V4;
const V6: &str = LoadedProgram::V6;

/// The number of entries; only the first is used.
const ENTRIES: u32 = 10_000;

/// A value of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value<T>(T);

// SAFETY: the layouts have no padding, and each is used with the map that it is for.
unsafe impl<T: Copy + 'static> Pod for Value<T> {}

struct Kernel(LoadedProgram);

impl Kernel {
    /// The program with a tier of one bucket, or without a tier; test packets arrive at the socket's queue.
    fn load(buckets: u32, xsk: &Xsk) -> Self {
        let cpus = aya::util::nr_cpus().unwrap() as u32;
        let mut loader = EbpfLoader::new();
        loader
            .override_global(TIER_BUCKETS_GLOBAL, &buckets, true)
            .override_global(TIER_ENTRIES_GLOBAL, &ENTRIES, true)
            .map_max_entries(TIER_ENTRIES_MAP, ENTRIES)
            .map_max_entries(TIER_HITS_MAP, ENTRIES * cpus);
        let mut loaded = LoadedProgram::load(&mut loader);
        loaded.set_socket(xsk.as_fd());
        let map = loaded.ebpf.map_mut(TIER_CLIENTS_MAP).unwrap();
        let mut clients = LpmTrie::<_, [u32; 5], u8>::try_from(map).unwrap();
        // As with the default access list: private and local networks, and the host's own addresses on top.
        for (prefix, bits) in [
            ("127.0.0.0", 8),
            ("10.0.0.0", 8),
            ("172.16.0.0", 12),
            ("192.168.0.0", 16),
            ("169.254.0.0", 16),
            ("192.0.2.0", 24),
            ("192.0.2.1", 32),
            ("192.0.2.255", 32),
            ("::1", 128),
            ("fc00::", 7),
            ("fe80::", 10),
            ("2001:db8::", 32),
            ("2001:db8::1", 128),
        ] {
            let key = match prefix.parse().unwrap() {
                IpAddr::V4(v4) => ClientKey::v4(v4.octets()),
                IpAddr::V6(v6) => ClientKey::v6(v6.octets()),
            };
            let prefix = Prefix::new(ClientKey::VERSION_BITS + bits, key.0);
            clients.insert(&prefix, CLIENT_ANSWERED, 0).unwrap();
        }
        if buckets > 0 {
            let count = loaded
                .program()
                .info()
                .unwrap()
                .verified_instruction_count();
            println!("the verifier walked through {count:?} instructions");
        }
        let mut kernel = Self(loaded);
        kernel.set(
            TIER_CONFIG_MAP,
            Config {
                generation: 1,
                flags: Config::VERIFY_CHECKSUMS,
                mtu: 1500,
                udp_size: 1232,
                ..Config::default()
            },
        );
        kernel
    }

    fn set<T: Copy + 'static>(&mut self, map: &str, value: T) {
        let map = self.0.ebpf.map_mut(map).unwrap();
        let mut map = Array::<_, Value<T>>::try_from(map).unwrap();
        map.set(0, Value(value), 0).unwrap();
    }

    /// Holds an answer with a body of so many octets and one TTL for a question.
    fn hold(&mut self, question: &[u8], body_len: usize) {
        let mut body = [0; MAX_BODY];
        for (at, octet) in body[..body_len].iter_mut().enumerate() {
            *octet = at as u8;
        }
        let entry = Entry {
            generation: 1,
            until: u32::MAX,
            received: 0,
            counter: heimdall_ebpf::tier::hit_counter(1, false),
            body_len: body_len as u16,
            counts: [1, 0, 0],
            ttl_offsets: [6, 0, 0, 0, 0, 0, 0, 0],
            ttl_count: 1,
            body_sum: u16::from_ne_bytes(checksum::fold(checksum::add(0, &body[..body_len]))),
            key: Key::new(question, 0).unwrap(),
            body,
            ..Entry::EMPTY
        };
        self.set(TIER_ENTRIES_MAP, entry);
        let mut slots = [Slot::EMPTY; SLOTS];
        slots[0] = Slot::new(entry.key.hash(0), 0);
        self.set(TIER_BUCKETS_MAP, Bucket(slots));
        // Otherwise the map of hits decides how many more runs are answered.
        self.set(TIER_HITS_MAP, 0_u64);
    }

    fn run(&self, frame: &[u8], repeat: u32) -> (u32, Duration) {
        let result = self.0.program().test_run(TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        });
        let result = result.unwrap();
        (result.return_value, result.duration)
    }

    /// Measures a packet that is left unchanged.
    fn passed(&self, c: &mut Criterion, what: &str, frame: &[u8], action: u32) {
        assert_eq!(self.run(frame, 1).0, action, "{what}");
        c.bench_function(what, |b| {
            b.iter_custom(|runs| {
                let runs = u32::try_from(runs).unwrap();
                self.run(frame, runs).1 * runs
            });
        });
    }

    /// Measures a packet, run by run.
    fn single(&self, c: &mut Criterion, what: &str, frame: &[u8], action: u32) {
        assert_eq!(self.run(frame, 1).0, action, "{what}");
        c.bench_function(what, |b| {
            b.iter_custom(|runs| {
                let mut sum = Duration::ZERO;
                for _ in 0..runs {
                    sum += self.run(frame, 1).1;
                }
                sum
            });
        });
    }
}

/// A question for an address whose name has so many octets.
fn question(name_len: usize) -> Vec<u8> {
    let mut question = vec![name_len as u8 - 2];
    question.resize(name_len - 1, b'n');
    question.extend([0, 0, 1, 0, 1]);
    question
}

/// A query in a frame, as it comes from the wire.
fn frame(to: &str, question: &[u8], opt: bool) -> Vec<u8> {
    let mut message = b"\xbe\xef\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    message.extend(question);
    if opt {
        message[11] = 1;
        message.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    }
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], LoadedProgram::MAC);
    let to: SocketAddr = to.parse().unwrap();
    let client: Ipv6Addr = "2001:db8::99".parse().unwrap();
    let ip = match to {
        SocketAddr::V4(v4) => ethernet.ipv4([192, 0, 2, 99], v4.ip().octets(), 64),
        SocketAddr::V6(v6) => ethernet.ipv6(client.octets(), v6.ip().octets(), 64),
    };
    let mut frame = Vec::new();
    ip.udp(40_000, to.port())
        .write(&mut frame, &message)
        .unwrap();
    frame
}

fn tier(c: &mut Criterion) {
    if !network::enter("tier") {
        return;
    }
    let (xsk, _frames) = Xsk::open(network::NEAR, 0, 64, 1500, None).unwrap();
    let without = Kernel::load(0, &xsk);
    for (opt, what) in [(false, "no OPT record"), (true, "OPT record")] {
        let frame = frame(V4, &question(24), opt);
        without.passed(
            c,
            &format!("no tier, {what}: steered"),
            &frame,
            XDP_REDIRECT,
        );
    }
    drop(without);
    let mut kernel = Kernel::load(1, &xsk);
    kernel.hold(&question(20), 16);
    for name_len in [8, 24, 64] {
        for opt in [false, true] {
            let what = format!("not held, name of {name_len} octets, OPT {opt}: steered");
            kernel.passed(c, &what, &frame(V4, &question(name_len), opt), XDP_REDIRECT);
        }
    }
    let mut arp = frame(V4, &question(24), false);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    kernel.single(c, "a packet that is no IP", &arp, XDP_PASS);
    let not_held = frame(V4, &question(24), false);
    kernel.single(c, "not held: steered", &not_held, XDP_REDIRECT);
    for (name_len, body_len) in [
        (8, 16),
        (24, 16),
        (24, 64),
        (24, 128),
        (24, MAX_BODY),
        (64, 16),
    ] {
        kernel.hold(&question(name_len), body_len);
        for (to, opt) in [(V4, false), (V4, true), (V6, true)] {
            let frame = frame(to, &question(name_len), opt);
            let what = format!("answered, name {name_len}, body {body_len}, OPT {opt}, to {to}");
            kernel.single(c, &what, &frame, XDP_TX);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    targets = tier
}
criterion_main!(benches);
