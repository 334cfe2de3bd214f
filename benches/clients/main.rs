//! DNS clients on AF_XDP, in a closed loop: each sends its next query when the reply to the last one has
//! arrived. They measure rate and latency of a server under a given number of clients; generators on
//! kernel sockets reach their own limit long before the server does.
#![allow(clippy::indexing_slicing)]

mod queries;

use std::{
    collections::VecDeque,
    net::SocketAddrV4,
    os::fd::AsRawFd as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::XskMap,
    programs::{Xdp, xdp::XdpMode},
};
use clap::Parser;
use clients_ebpf::{PORTS, PROGRAM, SOCKETS_MAP};
use hdrhistogram::Histogram;
use heimdall_user::{
    checksum,
    xdp::xsk::{BATCH, Frame, Xsk},
};
use lab::ClosedLoop;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use queries::{DNS, Template, UDP, templates};

#[derive(Parser)]
#[command(
    name = "clients",
    about = "Closed-loop DNS clients on AF_XDP, each with one query in flight",
    after_help = "\
It uses the interface's first queues, with a thread for each that never sleeps: give it a core of its
own, or the core of the server's worker, to which it yields whenever it has nothing to do. All packets
but replies to the clients pass to the kernel. It prints JSON: seconds of latency, and queries a second.

Examples, in a network namespace:
  On the core that the server does not have:
    clients --interface eth0 --server 192.0.2.1:53 --names queries --clients 300 --cores 0
  Two queues, each with half of the clients:
    clients --interface eth0 --server 192.0.2.1:53 --names queries --clients 600 --queues 2 --cores 0,1"
)]
struct Args {
    /// Send from this interface
    #[arg(long, value_name = "IF")]
    interface: String,

    /// Ask this server, a neighbour on the interface's network
    #[arg(long, value_name = "ADDR:PORT")]
    server: SocketAddrV4,

    /// Ask for the names in this file, in turn: lines of a name and a type. Where a third word follows,
    /// the latency is not counted
    #[arg(long, value_name = "FILE")]
    names: PathBuf,

    /// Number of clients on all queues together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..=PORTS.len() as i64))]
    clients: u16,

    /// Number of queues; queries sent from one arrive at the server's queue of the same number
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,

    /// The cores for the queues' threads, in turn [default: wherever the kernel puts them]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,

    /// Send at most N queries a second on all queues together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Length of the measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Ask for each name once, and end when all are answered; --seconds is the longest that this may take
    #[arg(long)]
    once: bool,
}

/// The load generator's XDP program, which `cargo xtask ebpf` builds.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/clients-ebpf/clients.bpf.o"
));

/// The first client's port; the other clients have the ones after it.
const FIRST_PORT: u16 = *PORTS.start();
/// Frames of a queue, half to receive into, half to send from.
const FRAMES: usize = 4096;
/// A reply that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time before the measurement, in which nothing is counted.
const WARM_UP: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    let args = Args::parse();
    let mut ebpf = Ebpf::load(OBJECT)?;
    // First: without a program here a veth drops what a server sends with XDP_TX.
    attach(&mut ebpf, &args.interface)?;
    let templates = templates(&args)?;
    let mut loads = (0..args.queues)
        .map(|queue| Load::new(&args, queue, &templates))
        .collect::<Result<Vec<Load<'_>>>>()?;
    register(&mut ebpf, &loads)?;
    let measured: Result<Vec<Duration>> = thread::scope(|scope| {
        let threads: Vec<_> = (loads.iter_mut().enumerate())
            .map(|(queue, load)| {
                let core = args.cores.iter().cycle().nth(queue).copied();
                let length = Duration::from_secs(args.seconds);
                scope.spawn(move || load.measure(core, length))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| bail!("a queue's thread died"))
        });
        joined.collect()
    });
    let longest = measured?.into_iter().max().unwrap_or_default();
    let (mut answered, mut lost) = (0, 0);
    let mut latencies = histogram()?;
    for load in &loads {
        answered += load.answered;
        lost += load.lost;
        latencies.add(&load.latencies)?;
    }
    let measured = ClosedLoop {
        rate: answered as f64 / longest.as_secs_f64(),
        sent: answered + lost,
        ..ClosedLoop::new(&latencies, lost, 1.0)
    };
    println!("{}", serde_json::to_string_pretty(&measured)?);
    Ok(())
}

/// Registers the sockets with the program.
fn register(ebpf: &mut Ebpf, loads: &[Load<'_>]) -> Result<()> {
    let sockets = ebpf.map_mut(SOCKETS_MAP).context("no XSKMAP")?;
    let mut sockets = XskMap::try_from(sockets)?;
    for (queue, load) in (0..).zip(loads) {
        sockets.set(queue, load.xsk.as_fd().as_raw_fd(), 0)?;
    }
    Ok(())
}

/// Attaches the program to the interface, as long as `ebpf` lives.
fn attach(ebpf: &mut Ebpf, interface: &str) -> Result<()> {
    let program = ebpf.program_mut(PROGRAM).context("no XDP program")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    let attached = program.attach(interface, XdpMode::Default);
    attached.with_context(|| format!("cannot attach an XDP program to {interface}"))?;
    Ok(())
}

/// One of the clients.
#[derive(Clone, Copy, Default)]
struct Client {
    /// ID of its query in flight.
    id: u16,
    sent: Option<Instant>,
    /// Whether the latency of the query counts.
    counts: bool,
}

/// The clients of one queue.
struct Load<'a> {
    xsk: Xsk,
    /// Frames to receive into.
    empty: Vec<Frame>,
    /// Frames to send from.
    free: Vec<Frame>,
    received: Vec<Frame>,
    outgoing: Vec<Frame>,
    templates: &'a [Template],
    /// The next name.
    next: usize,
    /// How many names are still to be asked for, if each is asked for once.
    left: Option<usize>,
    clients: Vec<Client>,
    /// The first client's port.
    first_port: u16,
    /// Clients that have no query in flight.
    idle: VecDeque<u16>,
    /// Time between two queries, if they are paced.
    pace: Option<Duration>,
    /// When the last reply arrived.
    last: Option<Instant>,
    /// Replies of NOERROR.
    answered: u64,
    /// Queries without a reply, or without one of NOERROR.
    lost: u64,
    /// In nanoseconds.
    latencies: Histogram<u64>,
}

impl<'a> Load<'a> {
    fn new(args: &Args, queue: u16, templates: &'a [Template]) -> Result<Self> {
        let (mut xsk, mut free) =
            Xsk::open(&args.interface, queue.into(), FRAMES as u32, 1500, None)?;
        let mut empty = free.split_off(FRAMES / 2);
        xsk.refill(&mut empty);
        // The clients are spread evenly over the queues.
        let share = |queue: u16| {
            let first = u32::from(args.clients) * u32::from(queue) / u32::from(args.queues);
            first as u16
        };
        let (first, next) = (share(queue), share(queue + 1));
        // The queues do not ask for the same names at the same time.
        let name = |queue: u16| templates.len() * usize::from(queue) / usize::from(args.queues);
        Ok(Self {
            xsk,
            empty,
            free,
            received: Vec::with_capacity(BATCH),
            outgoing: Vec::with_capacity(BATCH),
            templates,
            next: name(queue),
            left: args.once.then(|| name(queue + 1) - name(queue)),
            clients: vec![Client::default(); (next - first).into()],
            first_port: FIRST_PORT + first,
            idle: (0..next - first).collect(),
            pace: args
                .rate
                .map(|rate| Duration::from_secs(1) * args.queues.into() / rate),
            last: None,
            answered: 0,
            lost: 0,
            latencies: histogram()?,
        })
    }

    /// Runs the load on a core, and counts after the warm-up, if names may be asked for again. How long it
    /// took.
    fn measure(&mut self, core: Option<usize>, length: Duration) -> Result<Duration> {
        if let Some(core) = core {
            let mut set = CpuSet::new();
            set.set(core)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
                .with_context(|| format!("cannot run on core {core}"))?;
        }
        if self.left.is_none() {
            self.run(WARM_UP)?;
            (self.answered, self.lost) = (0, 0);
            self.latencies.reset();
        }
        self.run(length)
    }

    /// Sends queries and takes replies for `length`, or until all names are answered. How long it took; if each
    /// name is asked for once, to the last reply: the time-out of a lost one says nothing about the server.
    fn run(&mut self, length: Duration) -> Result<Duration> {
        let start = Instant::now();
        let end = start + length;
        let (mut due, mut check) = (start, start + TIMEOUT / 10);
        loop {
            let now = Instant::now();
            let all_answered = self.left == Some(0) && self.idle.len() == self.clients.len();
            if now >= end || all_answered {
                let last = self.last.filter(|_| self.left.is_some());
                return Ok(last.unwrap_or(now) - start);
            }
            let received = self.xsk.receive(&mut self.received);
            self.take_replies(now);
            if now >= check {
                self.expire(now);
                check = now + TIMEOUT / 10;
            }
            let mut room = BATCH.min(self.idle.len()).min(self.free.len());
            room = room.min(self.left.unwrap_or(room));
            if let Some(pace) = self.pace {
                let mut allowed = 0;
                while allowed < room && due <= now {
                    due += pace;
                    allowed += 1;
                }
                room = allowed;
            }
            if room > 0 {
                self.send(room)?;
            }
            self.xsk.reap(&mut self.free);
            self.xsk.refill(&mut self.empty);
            if self.xsk.fill_needs_wakeup() {
                self.xsk.wake_fill()?;
            }
            if received == 0 && room == 0 {
                // The server's worker may be on this core.
                thread::yield_now();
            }
        }
    }

    /// Matches what was received with queries in flight.
    fn take_replies(&mut self, now: Instant) {
        for frame in self.received.drain(..) {
            let packet = self.xsk.packet(&frame);
            // The program steers nothing shorter, and no other port.
            let &[p0, p1] = &packet[UDP + 2..UDP + 4] else {
                continue;
            };
            let &[i0, i1, _, flags] = &packet[DNS..DNS + 4] else {
                continue;
            };
            let index = u16::from_be_bytes([p0, p1]).wrapping_sub(self.first_port);
            if let Some(client) = self.clients.get_mut(usize::from(index))
                && client.id == u16::from_be_bytes([i0, i1])
                && let Some(sent) = client.sent.take()
            {
                self.last = Some(now);
                let nanoseconds = now.saturating_duration_since(sent).as_nanos();
                if flags & 0xf == 0 {
                    self.answered += 1;
                    if client.counts {
                        self.latencies.saturating_record(nanoseconds as u64);
                    }
                } else {
                    self.lost += 1;
                }
                self.idle.push_back(index);
            }
            self.empty.push(frame);
        }
    }

    /// Counts queries that have been in flight for too long as lost.
    fn expire(&mut self, now: Instant) {
        for (index, client) in (0..).zip(&mut self.clients) {
            if client.sent.is_some_and(|sent| now - sent > TIMEOUT) {
                client.sent = None;
                self.lost += 1;
                self.idle.push_back(index);
            }
        }
    }

    /// Sends the next queries of `count` idle clients.
    fn send(&mut self, count: usize) -> Result<()> {
        let sent = Instant::now();
        for _ in 0..count {
            let (Some(index), Some(mut frame)) = (self.idle.pop_front(), self.free.pop()) else {
                break;
            };
            let client = &mut self.clients[usize::from(index)];
            client.id = client.id.wrapping_add(1);
            client.sent = Some(sent);
            let template = &self.templates[self.next];
            client.counts = template.counts;
            self.left = self.left.map(|left| left - 1);
            self.next = (self.next + 1) % self.templates.len();
            let (port, id) = (self.first_port + index, client.id);
            self.xsk.edit(&mut frame, |octets| {
                let packet = octets.get_mut(..template.frame.len())?;
                packet.copy_from_slice(&template.frame);
                packet[UDP..UDP + 2].copy_from_slice(&port.to_be_bytes());
                packet[DNS..DNS + 2].copy_from_slice(&id.to_be_bytes());
                let sum = checksum::add_u16(checksum::add_u16(template.sum, port), id);
                packet[UDP + 6..UDP + 8].copy_from_slice(&checksum::finish_udp(sum));
                Some(template.frame.len())
            });
            self.outgoing.push(frame);
        }
        self.xsk.send(&mut self.outgoing);
        while self.xsk.kick()? {}
        Ok(())
    }
}

/// For latencies in nanoseconds up to the time-out, to three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(
        1,
        2 * TIMEOUT.as_nanos() as u64,
        3,
    )?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aya::{TestRunOptions, programs::TestRun as _};
    use benches::network;
    use etherparse::{PacketBuilder, PacketBuilderStep};

    use super::*;

    #[test]
    fn the_program_steers_replies_to_clients_and_nothing_else() {
        const TEST: &str = "the_program_steers_replies_to_clients_and_nothing_else";
        if !lab::available(TEST) || !network::enter(TEST) {
            return;
        }
        let (xsk, _frames) = Xsk::open(network::NEAR, 0, 64, 1500, None).unwrap();
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let mut sockets = XskMap::try_from(ebpf.map_mut(SOCKETS_MAP).unwrap()).unwrap();
        // Test packets arrive at queue 0.
        sockets.set(0, xsk.as_fd().as_raw_fd(), 0).unwrap();
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();
        let is_steered = |frame: &[u8]| {
            let options = TestRunOptions {
                data_in: Some(frame),
                ..TestRunOptions::default()
            };
            match program.test_run(options).unwrap().return_value {
                2 => false,
                4 => true,
                action => panic!("XDP action {action}"),
            }
        };
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let v4 = || ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        fn udp(ip: PacketBuilderStep<etherparse::IpHeaders>, port: u16, len: usize) -> Vec<u8> {
            let mut frame = Vec::new();
            ip.udp(53, port).write(&mut frame, &vec![0; len]).unwrap();
            frame
        }
        for (port, steered) in [
            (19_999, false),
            (20_000, true),
            (20_999, true),
            (21_000, false),
        ] {
            assert_eq!(is_steered(&udp(v4(), port, 12)), steered, "port {port}");
        }
        assert!(!is_steered(&udp(v4(), 20_000, 11)), "no whole DNS header");
        let v6 = ethernet().ipv6([1; 16], [2; 16], 64);
        assert!(!is_steered(&udp(v6, 20_000, 12)), "IPv6");
        let mut options = udp(v4(), 20_000, 12);
        options[14] = 0x46;
        assert!(!is_steered(&options), "IPv4 options");
        let mut tcp = Vec::new();
        let segment = v4().tcp(53, 20_000, 1, 1024);
        segment.write(&mut tcp, &[0; 12]).unwrap();
        assert!(!is_steered(&tcp), "TCP");
    }
}
