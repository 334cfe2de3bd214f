//! Programs that replace each other on an interface, on veth pairs in network namespaces of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod namespace;

use std::{
    collections::BTreeSet,
    iter,
    net::UdpSocket,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use heimdall_user::xdp::{
    AttachPolicy, Interface, Link, Program, ProgramOptions, TierSize, XdpError,
    xsk::{Frame, Xsk},
};
use namespace::ip;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// `. IN NS`, after the ID.
const QUERY: &[u8] = b"\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";

/// The ID's offset in a frame.
const ID: usize = 42;

/// A veth's ring holds 256 packets.
const MAX_IN_FLIGHT: usize = 200;

/// Runs `test` in a new network namespace, which has a veth pair hdr0, hdr1.
fn in_namespace(name: &str, test: fn()) {
    let commands = [
        "link add hdr0 type veth peer name hdr1",
        "addr add 192.0.2.1/24 dev hdr0",
        "link set hdr0 up",
        "link set hdr1 up",
    ];
    namespace::run(name, &commands, test);
}

/// Mode and id of the XDP program on hdr0, as `ip` has them: mode 1 is native, 2 generic.
fn attached() -> Option<(u64, u64)> {
    let links: Value = serde_json::from_str(&ip("-d -j link show hdr0")).unwrap();
    let xdp = &links[0]["xdp"];
    Some((xdp["mode"].as_u64()?, xdp["prog"]["id"].as_u64()?))
}

fn attach(policy: AttachPolicy) -> Program {
    Program::attach(
        &Interface::find("hdr0").unwrap(),
        policy,
        ProgramOptions::default(),
    )
    .unwrap()
}

/// Replaces the program of another owner, as another process would that has got its link.
fn replace(link: OwnedFd, tier: Option<TierSize>) -> Program {
    let link = Link::inherit(link).unwrap();
    let options = ProgramOptions {
        tier,
        ..ProgramOptions::default()
    };
    Program::replace(&Interface::find("hdr0").unwrap(), link, options).unwrap()
}

#[test]
fn the_mode_and_the_link_stay_and_the_last_owner_takes_them_away() {
    in_namespace("the_mode_and_the_link_stay", || {
        for (policy, mode) in [
            (AttachPolicy::NativeThenGeneric, 1),
            (AttachPolicy::GenericOnly, 2),
        ] {
            let first = attach(policy);
            let link = first.link_info().unwrap();
            assert_eq!(link.program, first.id());
            let second = replace(first.duplicate_link().unwrap(), Some(TierSize::new(100)));
            assert_eq!(second.why_no_tier(), None);
            assert_ne!(second.id(), first.id());
            assert_eq!(second.attach_mode().name(), first.attach_mode().name());
            assert_eq!(attached(), Some((mode, second.id().into())));
            for program in [&first, &second] {
                let now = program.link_info().unwrap();
                assert_eq!((now.id, now.program), (link.id, second.id()));
            }
            first.restore().unwrap();
            assert_eq!(attached(), Some((mode, first.id().into())));
            first.restore().unwrap();
            second.restore().unwrap();
            assert_eq!(attached(), Some((mode, second.id().into())));
            // The program is there although its owner is gone.
            let id = second.id();
            drop(second);
            assert_eq!(attached(), Some((mode, id.into())));
            let third = replace(first.duplicate_link().unwrap(), None);
            drop(first);
            assert_eq!(attached(), Some((mode, third.id().into())));
            drop(third);
            assert_eq!(attached(), None);
        }
    });
}

#[test]
fn a_link_of_another_interface_is_not_used() {
    in_namespace("a_link_of_another_interface", || {
        let program = attach(AttachPolicy::GenericOnly);
        let link = || Link::inherit(program.duplicate_link().unwrap()).unwrap();
        let refused = |interface: &str| {
            let other = Interface::find(interface).unwrap();
            let replaced = Program::replace(&other, link(), ProgramOptions::default());
            assert!(matches!(replaced, Err(XdpError::Replace { .. })));
            assert_eq!(program.link_info().unwrap().program, program.id());
        };
        refused("hdr1");
        // In another namespace another interface has the index.
        let index = nix::net::if_::if_nametoindex("hdr0").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                ip(&format!(
                    "link add hdr8 index {index} type veth peer name hdr9"
                ));
                refused("hdr8");
            });
        });
        let gone = link();
        ip("link del hdr0");
        assert_eq!(gone.info().unwrap().interface, 0);
        assert!(matches!(program.restore(), Err(XdpError::Replace { .. })));
        let no_link = std::fs::File::open("/dev/null").unwrap();
        assert!(Link::inherit(no_link.into()).is_err());
    });
}

/// The program with the socket that it steers to, and a socket of the kernel for what it passes.
struct Receiver {
    xsk: Xsk,
    free: Vec<Frame>,
    kernel: UdpSocket,
    /// Numbers of the packets that have arrived.
    steered: BTreeSet<u16>,
    passed: BTreeSet<u16>,
}

impl Receiver {
    fn new(program: &mut Program) -> Self {
        let (mut xsk, mut free) = Xsk::open("hdr0", 0, 1024, 1500, None).unwrap();
        xsk.refill(&mut free);
        program
            .set_served(&[("192.0.2.1:53".parse().unwrap(), 1)].into())
            .unwrap();
        program.register(0, xsk.as_fd()).unwrap();
        let kernel = UdpSocket::bind("192.0.2.1:53").unwrap();
        kernel.set_nonblocking(true).unwrap();
        Self {
            xsk,
            free,
            kernel,
            steered: BTreeSet::new(),
            passed: BTreeSet::new(),
        }
    }

    /// Takes what has arrived. Returns the number of packets so far.
    fn receive(&mut self) -> usize {
        let mut batch = Vec::new();
        while self.xsk.receive(&mut batch) > 0 {
            for frame in &batch {
                let packet = self.xsk.packet(frame);
                let id = u16::from_be_bytes([packet[ID], packet[ID + 1]]);
                assert!(self.steered.insert(id), "{id} was steered twice");
            }
            self.free.append(&mut batch);
            self.xsk.refill(&mut self.free);
            if self.xsk.fill_needs_wakeup() {
                self.xsk.wake_fill().unwrap();
            }
        }
        let mut buffer = [0; 64];
        while self.kernel.recv(&mut buffer).is_ok() {
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            assert!(self.passed.insert(id), "{id} was passed twice");
        }
        self.steered.len() + self.passed.len()
    }
}

/// Sends numbered queries from the other end of the veth pair, as long as few are on their way. The pair goes away with
/// it.
struct Sender {
    numbers: mpsc::Sender<Range<u16>>,
}

impl Sender {
    fn start(received: &'static AtomicUsize) -> Self {
        let (say, ready) = mpsc::channel();
        let (numbers, wanted) = mpsc::channel::<Range<u16>>();
        let send = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            say.send(nix::unistd::gettid()).unwrap();
            let none = wanted.recv().unwrap();
            ip("addr add 192.0.2.2/24 dev hdr1");
            ip("link set hdr1 up");
            let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
            for id in iter::once(none).chain(&wanted).flatten() {
                while usize::from(id) > received.load(Ordering::Relaxed) + MAX_IN_FLIGHT {
                    thread::sleep(Duration::from_micros(100));
                }
                let query = [&id.to_be_bytes(), QUERY].concat();
                socket.send_to(&query, "192.0.2.1:53").unwrap();
            }
        };
        thread::spawn(send);
        ip(&format!("link set hdr1 netns {}", ready.recv().unwrap()));
        let sender = Self { numbers };
        sender.send(0..0);
        sender
    }

    fn send(&self, numbers: Range<u16>) {
        self.numbers.send(numbers).unwrap();
    }
}

#[test]
fn no_packet_is_lost_while_programs_replace_each_other() {
    const PACKETS: u16 = 20_000;
    const ROUNDS: usize = 20;
    static RECEIVED: AtomicUsize = AtomicUsize::new(0);
    in_namespace("no_packet_is_lost_while_programs_replace", || {
        let mut first = attach(AttachPolicy::NativeThenGeneric);
        let mut receiver = Receiver::new(&mut first);
        let sender = Sender::start(&RECEIVED);
        sender.send(0..PACKETS);
        // Receives until so many packets more have arrived.
        let receive = |receiver: &mut Receiver, more: usize| {
            let wanted = (RECEIVED.load(Ordering::Relaxed) + more).min(PACKETS.into());
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                let now = receiver.receive();
                RECEIVED.store(now, Ordering::Relaxed);
                if now >= wanted {
                    return;
                }
                assert!(Instant::now() < end, "{now} of {wanted} packets");
                thread::yield_now();
            }
        };
        receive(&mut receiver, 500);
        assert_eq!(receiver.passed.len(), 0);
        // It steers nothing: all packets pass.
        let second = replace(first.duplicate_link().unwrap(), None);
        for _ in 0..ROUNDS {
            second.restore().unwrap();
            // What the first program has steered is in the ring.
            second.wait_for_runs().unwrap();
            receive(&mut receiver, 0);
            let steered = receiver.steered.len();
            receive(&mut receiver, 300);
            assert_eq!(receiver.steered.len(), steered);

            first.restore().unwrap();
            first.wait_for_runs().unwrap();
            receive(&mut receiver, 0);
            let passed = receiver.passed.len();
            receive(&mut receiver, 300);
            assert_eq!(receiver.passed.len(), passed);
        }
        receive(&mut receiver, PACKETS.into());
        assert!(receiver.steered.is_disjoint(&receiver.passed));
    });
}

#[test]
fn a_queue_without_its_socket_passes_until_it_has_it_again() {
    static RECEIVED: AtomicUsize = AtomicUsize::new(usize::MAX / 2);
    in_namespace("a_queue_without_its_socket", || {
        let mut program = attach(AttachPolicy::NativeThenGeneric);
        let mut receiver = Receiver::new(&mut program);
        let sender = Sender::start(&RECEIVED);
        let send = |receiver: &mut Receiver, numbers: Range<u16>| {
            let wanted = usize::from(numbers.end);
            sender.send(numbers);
            let end = Instant::now() + Duration::from_secs(20);
            while receiver.receive() < wanted {
                assert!(Instant::now() < end);
                thread::sleep(Duration::from_millis(1));
            }
            [receiver.steered.len(), receiver.passed.len()]
        };
        assert_eq!(send(&mut receiver, 0..10), [10, 0]);
        program.unregister(0).unwrap();
        program.unregister(0).unwrap();
        assert_eq!(send(&mut receiver, 10..30), [10, 20]);
        program.register(0, receiver.xsk.as_fd()).unwrap();
        assert_eq!(send(&mut receiver, 30..70), [50, 20]);
    });
}
