//! A miss allocates nothing in the steady state, from the front's engine over the forwarder's thread and
//! back. The upstream's thread does not count; all others do.
//!
//! This file holds one test only, because it counts what the whole process allocates.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod counting;

use std::{
    io::{Read as _, Write as _},
    mem,
    net::{TcpListener, UdpSocket},
    os::fd::AsFd as _,
    sync::Arc,
    thread,
};

use counting::of_all_threads as allocations;
use frames::Worker;
use heimdall_user::{
    answer::Core,
    cache::Cache,
    dns::{NameHasher, reply::ReplySettings},
    forward::{ForwardOptions, ForwarderBuilder, Mailbox, UpstreamAddress, UpstreamTransport},
    front::BATCH,
    stats::AnswerCounters,
    tap::Tap,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[path = "../../benches/frames.rs"]
#[expect(
    unreachable_pub,
    dead_code,
    reason = "it is public in the benches, and not all of it is used here"
)]
mod frames;

/// Batches until every table and list has the size that it keeps. The upstream answers half of them [at once](Pace), which
/// takes the most memory.
const WARM_UP: usize = 200;

const COUNTED: usize = 200;

/// A query for a name with this number, type A, in a UDP packet over IPv4 without a UDP checksum.
fn frame(number: usize) -> Vec<u8> {
    let mut dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x0b".to_vec();
    dns.extend_from_slice(format!("name{number:07}").as_bytes());
    dns.extend_from_slice(b"\x07example\x03com\0\0\x01\0\x01");
    let udp_len = (8 + dns.len()) as u16;
    let ip_len = (20 + udp_len).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend_from_slice(&[
        0x45, 0, ip_len[0], ip_len[1], 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ]);
    frame.extend_from_slice(&[0x9c, 0x40, 0, 53]);
    frame.extend_from_slice(&udp_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&dns);
    frame
}

/// When an upstream replies. Of two batches the queries of the first get their replies one by one, so that the forwarder's
/// turns are short; those of the second all at once when the last has come, as on a host where the upstream or the forwarder
/// waits for a core.
struct Pace<T> {
    queries: usize,
    replies: Vec<T>,
}

impl<T> Pace<T> {
    fn new() -> Self {
        Self {
            queries: 0,
            replies: Vec::new(),
        }
    }

    /// Takes the reply to the next query. Gives those that are due.
    fn add(&mut self, reply: T) -> Vec<T> {
        let at_once = self.queries / BATCH % 2 == 1;
        self.queries += 1;
        self.replies.push(reply);
        let is_due = !at_once || self.queries.is_multiple_of(BATCH);
        if is_due {
            mem::take(&mut self.replies)
        } else {
            Vec::new()
        }
    }
}

/// Answers every query: one address, or an alias and an address.
fn serve(upstream: &UdpSocket) {
    counting::leave_this_thread_out();
    let (mut msg, mut pace) = ([0; 1500], Pace::new());
    while let Ok((len, client)) = upstream.recv_from(&mut msg) {
        if len < 12 {
            return;
        }
        for (reply, client) in pace.add((reply(&msg[..len]), client)) {
            upstream.send_to(&reply, client).unwrap();
        }
    }
}

/// As [`serve`], over TCP.
fn serve_connections(listener: &TcpListener) {
    counting::leave_this_thread_out();
    let (mut stream, _) = listener.accept().unwrap();
    let (mut len, mut pace) = ([0; 2], Pace::new());
    while stream.read_exact(&mut len).is_ok() {
        let mut msg = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut msg).unwrap();
        let reply = reply(&msg);
        let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
        stream.write_all(&pace.add(framed).concat()).unwrap();
    }
}

/// The answer to a query, with a server cookie if that has a cookie.
fn reply(msg: &[u8]) -> Vec<u8> {
    let name = msg[12..].iter().position(|octet| *octet == 0).unwrap();
    let end = 12 + name + 5;
    let mut reply = msg[..end].to_vec();
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    if reply[0] & 1 == 0 {
        reply[7] = 2;
        reply.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01x\xc0\x18");
        let target = (0xc000 | (reply.len() as u16 - 4)).to_be_bytes();
        reply.extend_from_slice(&target);
    } else {
        reply.extend_from_slice(b"\xc0\x0c");
    }
    reply.extend_from_slice(b"\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x01\x02\x03");
    // Behind the fixed octets of the OPT record.
    if let [0, 10, 0, 8 | 24, client @ ..] = &msg[end + 11..] {
        reply[11] = 1;
        reply.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 28, 0, 10, 0, 24]);
        reply.extend_from_slice(&client[..8]);
        reply.extend_from_slice(&[9; 16]);
    }
    reply
}

/// Fronts' queries that miss, a batch at a time: each is replied to before the next one.
fn ask(worker: &mut Worker, mailbox: &Mailbox, queries: &[Vec<u8>]) {
    for (frame, packet) in worker.memory.frames.iter_mut().zip(queries) {
        frame.octets[..packet.len()].copy_from_slice(packet);
        frame.len = packet.len();
    }
    worker.begin();
    worker.answer(0..queries.len());
    worker.complete();
    while worker.waiting() > 0 {
        if mailbox.prepare_to_sleep() {
            let mut ready = [PollFd::new(mailbox.as_fd(), PollFlags::POLLIN)];
            let count = poll(&mut ready, PollTimeout::from(20_000u16)).unwrap();
            assert_eq!(count, 1, "no outcome");
            mailbox.awake();
            mailbox.clear_wakeup();
        }
        while worker.complete() > 0 {}
    }
    assert_eq!(worker.memory.replied.len(), queries.len());
    for frame in &worker.memory.frames {
        // ANCOUNT.
        assert!(frame.octets[42 + 7] > 0, "no answer");
    }
}

/// One after the other, as the allocations of all threads are counted.
#[test]
fn misses_do_not_allocate() {
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let server = thread::spawn(move || serve(&upstream));
    count(address.into());
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(&[0], address)
        .unwrap();
    server.join().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || serve_connections(&listener));
    count(UpstreamAddress {
        address,
        transport: UpstreamTransport::Tcp,
    });
    server.join().unwrap();
}

/// Counts the allocations for misses that this upstream answers.
fn count(upstream: UpstreamAddress) {
    let hasher = NameHasher::default();
    let counters = Arc::<AnswerCounters>::default();
    let core = Core::new(
        Cache::new(1 << 20).unwrap(),
        hasher.clone(),
        ReplySettings::new(1232, true),
        Arc::default(),
        counters.clone(),
        Arc::default(),
    );
    let mailbox = Arc::new(Mailbox::new(2 * BATCH).unwrap());
    let settings = ForwardOptions {
        upstreams: vec![upstream],
        randomize_case: true,
        cache_bytes: 1 << 20,
        ..ForwardOptions::default()
    };
    let forwarder = ForwarderBuilder::new(&settings, vec![mailbox.clone()], hasher).unwrap();
    let forwarder = forwarder.start().unwrap();
    let mut worker = Worker::new(
        core,
        forwarder.handle(),
        mailbox.clone(),
        BATCH,
        false,
        Tap::default(),
    );
    let batches: Vec<Vec<_>> = (0..WARM_UP + COUNTED)
        .map(|batch| (0..BATCH).map(|i| frame(BATCH * batch + i)).collect())
        .collect();
    let (warm_up, counted) = batches.split_at(WARM_UP);
    for queries in warm_up {
        ask(&mut worker, &mailbox, queries);
    }
    let before = allocations();
    for queries in counted {
        ask(&mut worker, &mailbox, queries);
    }
    let allocated = allocations() - before;
    assert_eq!(counters.misses.get() as usize, BATCH * (WARM_UP + COUNTED));
    assert_eq!(allocated, 0, "in {} misses", BATCH * COUNTED);
    drop(std::hint::black_box(vec![1]));
    assert!(allocations() > before, "the count counts");
    drop(forwarder);
}
