//! The yardstick of the benchmarks: sends DNS queries back, over AF_XDP or from its XDP program.
//!
//! It shares nothing with Heimdall but the kernel: an XDP program of its own, the rings through xsk-rs, and
//! the smallest loop that there can be. Each query gets its addresses and ports swapped and its QR bit set;
//! nothing is parsed, checked or looked up. So what it takes is what the kernel, the rings and the NIC take.
#![allow(clippy::indexing_slicing)]

use std::{
    num::NonZeroU32,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::XskMap,
    programs::{Xdp, xdp::XdpMode},
};
use clap::{Parser, ValueEnum};
use echo_ebpf::{HEADERS, MAX_QUEUES, SOCKETS_MAP, STEER, TX, make_reply};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    setsockopt_impl, sockopt_impl,
    sys::socket::setsockopt,
    unistd::Pid,
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

#[derive(Parser)]
#[command(
    name = "echo",
    about = "Sends DNS queries back: what a server on this machine cannot exceed",
    after_help = "\
A reply is the query with addresses and ports swapped, the QR bit set and no checksum. It answers all
queries over UDP to port 53 in IPv4, whatever their address: use it in a network namespace, or on an
interface for measurements. All other packets pass to the kernel.

Over AF_XDP each receive queue has a thread on a core of its own, as far as there are cores. It takes a
batch of up to 64 packets, sends them with one call, and sleeps in poll as soon as none is there. As
XDP_TX it has no thread. It runs until a signal ends it."
)]
struct Args {
    /// Answer on this interface
    #[arg(long, value_name = "IF")]
    interface: String,

    /// Where to answer
    #[arg(long, value_enum, default_value_t = Mode::Xsk)]
    mode: Mode,

    /// Serve the first N receive queues
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_QUEUES)))]
    queues: u32,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    /// In a thread, over AF_XDP
    Xsk,
    /// In the XDP program, with XDP_TX
    Tx,
}

/// The XDP programs, which `cargo xtask ebpf` builds.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/echo-ebpf/echo.bpf.o"));

/// Frames of a queue, and entries of each of its rings.
const FRAMES: u32 = 4096;
/// Octets of a frame.
const FRAME_SIZE: u32 = 2048;
/// Packets that are sent with one call.
const BATCH: usize = 64;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

sockopt_impl!(
    /// How many packets one call sends in copy mode; by default 32 (Linux 6.17, `if_xdp.h`).
    TxBudget, SetOnly, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, u32);

fn main() -> Result<()> {
    let args = Args::parse();
    let mut ebpf = Ebpf::load(OBJECT)?;
    let (failed, failure) = mpsc::channel();
    if args.mode == Mode::Xsk {
        let sockets = ebpf.map_mut(SOCKETS_MAP).context("no XSKMAP")?;
        let mut sockets = XskMap::try_from(sockets)?;
        let cores = sched_getaffinity(Pid::from_raw(0))?;
        let cores = (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap_or_default());
        for (queue, core) in (0..args.queues).zip(cores.cycle()) {
            let echo = Echo::open(&args.interface, queue)?;
            sockets.set(queue, echo.rx.fd().as_raw_fd(), 0)?;
            let failed = failed.clone();
            thread::spawn(move || failed.send(echo.serve(core)));
        }
    }
    let name = if args.mode == Mode::Xsk { STEER } else { TX };
    let program = ebpf.program_mut(name).context("no XDP program")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    let attached = program.attach(&args.interface, XdpMode::Default);
    attached.with_context(|| format!("cannot attach an XDP program to {}", args.interface))?;
    // `failed` is still there, so this waits for a failure, or for ever.
    failure.recv()?
}

/// A queue's rings. A frame is in exactly one of them, or in the batch that a loop below holds; it goes
/// round from fill to rx to tx to completion to fill.
struct Echo {
    umem: Umem,
    fill: FillQueue,
    rx: RxQueue,
    tx: TxQueue,
    completion: CompQueue,
}

impl Echo {
    /// Opens a socket on a queue, and gives all frames to its fill ring.
    fn open(interface: &str, queue: u32) -> Result<Self> {
        let ring = QueueSize::new(FRAMES)?;
        let umem = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_SIZE)?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()?;
        let count = NonZeroU32::new(FRAMES).context("no frames")?;
        let (umem, frames) = Umem::new(umem, count, false)?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            // Zero-copy, if the driver has it.
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: no other socket is created on this UMEM.
        let opened = unsafe { Socket::new(config, &umem, &interface.parse()?, queue) };
        let (tx, rx, rings) = opened.with_context(|| format!("cannot use queue {queue}"))?;
        let (mut fill, completion) = rings.context("the UMEM has no rings")?;
        // SAFETY: the frames are of this UMEM, and nothing accesses them any more.
        unsafe { fill.produce(&frames) };
        let echo = Self {
            umem,
            fill,
            rx,
            tx,
            completion,
        };
        // Without it one call sends half a batch, and the next one the rest.
        let _ = setsockopt(&echo.socket(), TxBudget, &(BATCH as u32));
        Ok(echo)
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket in `self` exists.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Answers on a core until the socket fails.
    fn serve(mut self, core: usize) -> Result<()> {
        let mut cores = CpuSet::new();
        cores
            .set(core)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
            .with_context(|| format!("cannot run on core {core}"))?;
        let mut batch = [FrameDesc::default(); BATCH];
        // Frames that were sent, and how many of them are not in the fill ring yet.
        let (mut sent, mut held) = (batch, 0);
        loop {
            if held == 0 {
                // SAFETY: descriptors are only written.
                held = unsafe { self.completion.consume(&mut sent) };
            }
            // A ring takes all or none: it has entries for all frames, but the kernel may not have
            // published yet which ones it has consumed.
            // SAFETY: the kernel has sent these frames, and nothing else accesses them.
            if unsafe { self.fill.produce(&sent[..held]) } == held {
                held = 0;
            }
            // SAFETY: descriptors are only written.
            let count = unsafe { self.rx.consume(&mut batch) };
            if count == 0 {
                self.sleep()?;
                continue;
            }
            for frame in &mut batch[..count] {
                // SAFETY: the frame came out of the rx ring of this UMEM, and is in no ring now.
                let mut data = unsafe { self.umem.data_mut(frame) };
                if let Some(packet) = data.contents_mut().first_chunk_mut::<HEADERS>() {
                    make_reply(packet);
                }
            }
            // SAFETY: the frames are of this UMEM, and nothing accesses them any more.
            while unsafe { self.tx.produce(&batch[..count]) } == 0 {
                self.tx.wakeup()?;
            }
            if self.tx.needs_wakeup() {
                self.tx.wakeup()?;
            }
        }
    }

    /// Sleeps until a packet arrives; 1 ms at most if packets are still to be sent, which poll does, too.
    fn sleep(&mut self) -> Result<()> {
        let timeout = if self.tx.nb_free_exact() < FRAMES {
            PollTimeout::from(1u8)
        } else {
            PollTimeout::NONE
        };
        let mut fds = [PollFd::new(self.socket(), PollFlags::POLLIN)];
        poll(&mut fds, timeout)?;
        let failed = PollFlags::POLLERR | PollFlags::POLLNVAL;
        if fds[0]
            .revents()
            .is_some_and(|events| events.intersects(failed))
        {
            bail!("the AF_XDP socket failed; is the interface gone?");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use aya::{TestRunOptions, programs::TestRun as _};
    use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};

    use super::*;

    fn query(ports: [u16; 2], flags: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let message = [
            1, 2, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1,
        ];
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(ports[0], ports[1])
            .write(&mut frame, &message)
            .unwrap();
        frame
    }

    #[test]
    fn the_programs_answer_queries_and_pass_the_rest() {
        const TEST: &str = "the_programs_answer_queries_and_pass_the_rest";
        if !lab::available(TEST) {
            return;
        }
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let mut run = |name: &str, frame: &[u8]| {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            let _ = program.load();
            let mut out = vec![0; frame.len()];
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            };
            let action = program.test_run(options).unwrap().return_value;
            (action, out)
        };
        let (action, reply) = run(TX, &query([4000, 53], 1));
        assert_eq!(action, 3, "XDP_TX");
        let headers = PacketHeaders::from_ethernet_slice(&reply).unwrap();
        let Some(TransportHeader::Udp(udp)) = &headers.transport else {
            panic!("no UDP");
        };
        assert_eq!((udp.source_port, udp.destination_port), (53, 4000));
        assert_eq!(udp.checksum, 0, "none");
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &headers.net else {
            panic!("no IPv4");
        };
        assert_eq!((ip.source, ip.destination), ([10, 0, 0, 2], [10, 0, 0, 1]));
        let sum = ip.calc_header_checksum();
        assert_eq!(ip.header_checksum, sum);
        assert_eq!(reply[..12], [[1; 6], [2; 6]].concat(), "to the sender");
        assert_eq!(reply[42..46], [1, 2, 0x81, 0], "only QR has changed");
        for other in [
            query([4000, 54], 1),
            query([4000, 53], 0x81),
            query([4000, 53], 1)[..HEADERS - 1].to_vec(),
        ] {
            for name in [STEER, TX] {
                assert_eq!(run(name, &other), (2, other.clone()), "{name}: XDP_PASS");
            }
        }
        // Without a socket in the map the steering program passes a query, too.
        assert_eq!(run(STEER, &query([4000, 53], 1)).0, 2);
    }
}
