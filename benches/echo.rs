//! The yardstick of the benchmarks: sends DNS queries back over AF_XDP.
//!
//! It steers as Heimdall does, with the same XDP program, and uses the same rings and frames. Each packet
//! gets its addresses and ports swapped and its QR bit set; nothing is parsed, checked or looked up. So
//! the rate is that of the kernel, the rings and the NIC.

use std::{net::SocketAddr, sync::mpsc, thread};

use anyhow::{Context, Result, bail};
use clap::Parser;
use heimdall_user::xdp::{
    AttachMode, AttachPolicy, Interface, Program, served,
    xsk::{BATCH, Frame, Xsk},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

#[derive(Parser)]
#[command(
    name = "echo",
    about = "Sends DNS queries back over AF_XDP: what a server on this machine cannot exceed",
    after_help = "\
A reply is the query with addresses and ports swapped and the QR bit set. Each receive queue has a thread
on a core of its own, as far as there are cores, that sleeps in poll whenever it has received nothing.
All other packets pass to the kernel. It runs until a signal ends it."
)]
struct Args {
    /// Serve all receive queues of this interface
    #[arg(long, value_name = "IF")]
    interface: String,

    /// Take queries to this address and port (repeatable) [default: port 53 of the interface's addresses]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
}

/// Frames of a queue, as in Heimdall's default of `xdp.frames`.
const FRAMES: u32 = 4096;

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.listen.is_empty() {
        args.listen = vec!["0.0.0.0:53".parse()?, "[::]:53".parse()?];
    }
    let interface = Interface::find(&args.interface)?;
    let mut program = Program::attach(&interface, AttachPolicy::NativeThenGeneric)?;
    let native = *program.attach_mode() == AttachMode::Native;
    let cores = sched_getaffinity(Pid::from_raw(0))?;
    let cores = (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap_or_default());
    let (failed, failure) = mpsc::channel();
    for (queue, core) in (0..interface.rx_queues).zip(cores.cycle()) {
        let (mut xsk, mut frames) = Xsk::open(&interface.name, queue, FRAMES, native)?;
        xsk.refill(&mut frames);
        program.register(queue, xsk.as_fd())?;
        println!(
            "queue {queue}: {} XDP, {}",
            program.attach_mode(),
            xsk.mode()
        );
        let failed = failed.clone();
        thread::spawn(move || failed.send(serve(xsk, frames, core)));
    }
    drop(failed);
    program.set_served(&served(&args.listen, &interface.addresses()?))?;
    failure.recv().context("all threads panicked")?
}

/// Serves a queue on a core until its socket fails.
fn serve(mut xsk: Xsk, mut free: Vec<Frame>, core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("cannot run on core {core}"))?;
    let (mut received, mut replies) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    loop {
        while xsk.reap(&mut free) == BATCH {}
        xsk.refill(&mut free);
        if xsk.fill_needs_wakeup() {
            xsk.wake_fill()?;
        }
        let count = xsk.receive(&mut received);
        for mut frame in received.drain(..) {
            let mut is_reply = false;
            xsk.edit(&mut frame, |octets| {
                is_reply = echo(octets).is_some();
                None
            });
            if is_reply {
                replies.push(frame);
            } else {
                free.push(frame);
            }
        }
        xsk.send(&mut replies);
        xsk.kick()?;
        if count == 0 {
            sleep(&mut xsk)?;
        }
    }
}

/// Sleeps until a packet arrives; 1 ms if the kernel has to be woken again to send.
fn sleep(xsk: &mut Xsk) -> Result<()> {
    let timeout = if xsk.unsent() > 0 {
        PollTimeout::from(1u8)
    } else {
        PollTimeout::NONE
    };
    let mut fds = [PollFd::new(xsk.as_fd(), PollFlags::POLLIN)];
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

const ETHERNET: usize = 14;
/// QR in the third octet of a DNS header.
const QR: u8 = 0x80;

/// Makes a response of a DNS query over UDP, untagged, by its addresses, ports and QR bit. `None`: the
/// frame is something else, and has not been changed.
#[inline]
fn echo(frame: &mut [u8]) -> Option<()> {
    let (ethernet, packet) = frame.split_first_chunk_mut::<ETHERNET>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
    let v4 = [t0, t1] == [0x08, 0x00];
    let segment = match [t0, t1] {
        [0x08, 0x00] => {
            let (header, segment) = packet.split_first_chunk_mut::<20>()?;
            swap_halves(header.last_chunk_mut::<8>()?);
            segment
        }
        [0x86, 0xdd] => {
            let (header, segment) = packet.split_first_chunk_mut::<40>()?;
            swap_halves(header.last_chunk_mut::<32>()?);
            segment
        }
        _ => return None,
    };
    let [p0, p1, q0, q1, _, _, c0, c1, _, _, flags, ..] = segment.first_chunk_mut::<20>()?;
    (*p0, *p1, *q0, *q1) = (*q0, *q1, *p0, *p1);
    if v4 {
        // No checksum (RFC 768): that of a sender on this host is partial, and nothing here completes it.
        *flags |= QR;
        (*c0, *c1) = (0, 0);
    } else if *flags & QR == 0 {
        *flags |= QR;
        // The sum has grown by 0x8000, so its complement shrinks (RFC 1624).
        let (sum, carry) = (!u16::from_be_bytes([*c0, *c1])).overflowing_add(0x8000);
        [*c0, *c1] = (!(sum + u16::from(carry))).to_be_bytes();
    }
    *ethernet = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1];
    Some(())
}

#[inline]
fn swap_halves(octets: &mut [u8]) {
    let (source, destination) = octets.split_at_mut(octets.len() / 2);
    source.swap_with_slice(destination);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn comes_back_with_a_right_checksum_or_none() {
        for number in 0..2000u16 {
            let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            query[..2].copy_from_slice(&number.to_be_bytes());
            query.extend_from_slice(b"\x01x\0\0\x01\0\x01");
            let ethernet = PacketBuilder::ethernet2([1; 6], [2; 6]);
            let ip = if number % 2 == 0 {
                ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            } else {
                ethernet.ipv6([1; 16], [2; 16], 64)
            };
            let mut frame = Vec::new();
            ip.udp(4000 + number, 53).write(&mut frame, &query).unwrap();
            let before = frame.clone();
            echo(&mut frame).unwrap();
            query[2] |= 0x80;
            let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let Some(TransportHeader::Udp(udp)) = &headers.transport else {
                panic!("no UDP");
            };
            assert_eq!((udp.source_port, udp.destination_port), (53, 4000 + number));
            let sum = match headers.net.as_ref().unwrap() {
                etherparse::NetHeaders::Ipv4(ip, _) => {
                    assert_eq!((ip.source, ip.destination), ([10, 0, 0, 2], [10, 0, 0, 1]));
                    assert_eq!(udp.checksum, 0, "none");
                    continue;
                }
                etherparse::NetHeaders::Ipv6(ip, _) => {
                    assert_eq!((ip.source, ip.destination), ([2; 16], [1; 16]));
                    udp.calc_checksum_ipv6(ip, &query)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(udp.checksum, sum.unwrap(), "{number}");
            assert_eq!((&frame[..6], &frame[6..12]), (&before[6..12], &before[..6]));
        }
        let mut arp = vec![0; 60];
        assert_eq!(echo(&mut arp), None);
        assert_eq!(echo(&mut []), None);
    }
}
