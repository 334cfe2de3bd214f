//! The cost of an AF_XDP socket's rings a frame, as root: `cargo bench -p benches --bench rings`.
//!
//! Batches of 64 queries go from a socket at one end of a veth pair to one at the other, in copy mode,
//! and the frames are reaped. One thread does everything: the kernel's work, including both copies and
//! the XDP program, happens during the kick. Before there is a socket at the other end, the kernel's
//! network stack drops the packets there, because they are for another link address.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use benches::{
    batch::{self, BATCH},
    fixture::{frame, name},
    network,
};
use criterion::{Criterion, criterion_group, criterion_main};
use heimdall_ebpf::Link;
use heimdall_user::xdp::{
    AttachPolicy, Interface, Program, ProgramOptions,
    xsk::{Frame, Xsk},
};

/// Time for the packets of a batch to arrive; normally they need none.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Calls `take` until it has got a whole batch.
fn take_batch(mut take: impl FnMut() -> usize) {
    let mut taken = take();
    if taken < BATCH {
        let start = Instant::now();
        while taken < BATCH {
            assert!(start.elapsed() < TIMEOUT, "packets are lost");
            taken += take();
        }
    }
}

struct Sender {
    xsk: Xsk,
    frames: Vec<Frame>,
    packet: Vec<u8>,
}

impl Sender {
    fn open(interface: &str) -> Self {
        let (xsk, frames) = Xsk::open(interface, 0, BATCH as u32, 1500, None).unwrap();
        let mut packet = frame(&name(7), true);
        // The Ethernet header, and the total length in the IPv4 header.
        packet.truncate(14 + usize::from(u16::from_be_bytes([packet[16], packet[17]])));
        Self {
            xsk,
            frames,
            packet,
        }
    }

    /// The times of `send` and `kick`.
    fn send(&mut self) -> [Duration; 2] {
        for frame in &mut self.frames {
            self.xsk.edit(frame, |octets| {
                octets[..self.packet.len()].copy_from_slice(&self.packet);
                Some(self.packet.len())
            });
        }
        let start = Instant::now();
        self.xsk.send(&mut self.frames);
        let sent = Instant::now();
        while self.xsk.kick().unwrap() {}
        [sent - start, sent.elapsed()]
    }

    fn reap(&mut self) -> Duration {
        let start = Instant::now();
        take_batch(|| self.xsk.reap(&mut self.frames));
        start.elapsed()
    }
}

struct Receiver {
    xsk: Xsk,
    frames: Vec<Frame>,
    _program: Program,
}

impl Receiver {
    fn open(interface: &str) -> Self {
        let (mut xsk, mut frames) = Xsk::open(interface, 0, 4 * BATCH as u32, 1500, None).unwrap();
        let interface = Interface::find(interface).unwrap();
        let mut program = Program::attach(
            &interface,
            AttachPolicy::NativeThenGeneric,
            ProgramOptions::default(),
        )
        .unwrap();
        // The address in the fixture's frames.
        let link = Link::any_tags([2, 0, 0, 0, 0, 1], 1);
        program.set_links(&[link]).unwrap();
        // The fixture's server.
        program
            .set_served(&[(([10, 0, 0, 1], 53).into(), 1)].into())
            .unwrap();
        program.register(0, xsk.as_fd()).unwrap();
        xsk.refill(&mut frames);
        Self {
            xsk,
            frames,
            _program: program,
        }
    }

    /// The times of `receive` and `refill`.
    fn receive(&mut self) -> [Duration; 2] {
        let start = Instant::now();
        take_batch(|| self.xsk.receive(&mut self.frames));
        let received = Instant::now();
        self.xsk.refill(&mut self.frames);
        [received - start, received.elapsed()]
    }
}

/// The stages of a batch.
const STAGES: [&str; 5] = ["send", "kick", "receive", "refill", "reap"];

fn rings(c: &mut Criterion) {
    if !network::enter("rings") {
        return;
    }
    let mut group = c.benchmark_group("a frame of 64");
    let mut sender = Sender::open(network::NEAR);
    group.bench_function("kick, the other end drops", |b| {
        b.iter_custom(|frames| {
            batch::time(frames, || {
                let [_, kick] = sender.send();
                sender.reap();
                kick
            })
        })
    });
    let mut receiver = Receiver::open(network::FAR);
    let mut round = || {
        let [send, kick] = sender.send();
        let [receive, refill] = receiver.receive();
        [send, kick, receive, refill, sender.reap()]
    };
    for (stage, what) in STAGES.into_iter().enumerate() {
        group.bench_function(what, |b| {
            b.iter_custom(|frames| batch::time(frames, || round()[stage]))
        });
    }
    group.finish();

    let mut group = c.benchmark_group("nothing to do");
    let Receiver { xsk, frames, .. } = &mut receiver;
    group.bench_function("receive", |b| b.iter(|| xsk.receive(frames)));
    group.bench_function("reap", |b| b.iter(|| xsk.reap(frames)));
    group.bench_function("unsent", |b| b.iter(|| xsk.unsent()));
    group.bench_function("fill_needs_wakeup", |b| b.iter(|| xsk.fill_needs_wakeup()));
    group.bench_function("kick", |b| b.iter(|| xsk.kick()));
}

criterion_group!(benches, rings);
criterion_main!(benches);
