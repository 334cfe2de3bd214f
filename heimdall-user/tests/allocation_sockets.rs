//! The socket front allocates nothing for datagrams that the cache answers, nor for those that are
//! refused or dropped.
//!
//! It has a thread of its own, so what the whole process allocates is counted; this file holds
//! one test only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod counting;

use std::{net::UdpSocket, sync::Arc, time::Duration};

use counting::of_all_threads as allocations;
use heimdall_user::{
    answer::Core,
    cache::Cache,
    clock::Clock,
    dns::{Answer, NameHasher, TtlLimits, reply::ReplySettings},
    exit::OnExit,
    forward::{ForwardOptions, ForwarderBuilder, Mailbox},
    front::Resources,
    maintenance::Maintenance,
    socket::{Listeners, SocketFront},
    stats::AnswerCounters,
    tap::Tap,
};

/// A query for `name.` type A.
fn query(name: &str) -> Vec<u8> {
    let mut dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    dns.push(name.len() as u8);
    dns.extend_from_slice(name.as_bytes());
    dns.extend_from_slice(b"\0\0\x01\0\x01");
    dns
}

#[test]
fn batches_do_not_allocate() {
    let hasher = NameHasher::default();
    let server = ReplySettings::new(1232, true);
    let counters = Arc::<AnswerCounters>::default();
    let mut core = Core::new(
        Cache::new(1 << 20).unwrap(),
        hasher.clone(),
        server,
        Arc::default(),
        counters.clone(),
        Arc::default(),
    );
    let clock = Clock::start();
    core.begin(clock.now());
    let queries: Vec<_> = (0..100).map(|i| query(&format!("name{i}"))).collect();
    for msg in &queries {
        let read = core.read(msg).unwrap();
        let mut response = msg.clone();
        response[2] = 0x81;
        response[7] = 1;
        response.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\x01\x02\x03");
        let answer =
            Answer::from_response(&response, &msg[12..], 0, &TtlLimits::default()).unwrap();
        core.insert(&read, msg, &answer);
    }
    let mailbox = Arc::new(Mailbox::new(4).unwrap());
    let settings = ForwardOptions {
        upstreams: vec![std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into()],
        ..ForwardOptions::default()
    };
    let forwarder = ForwarderBuilder::new(&settings, vec![mailbox.clone()], hasher).unwrap();
    let forwarder = forwarder.start().unwrap();
    let ring = mailbox.clone();
    let resources = Resources {
        core,
        maintenance: Maintenance::new(move || ring.wake()),
        forwarder: forwarder.handle(),
        mailbox,
        front: 0,
        clock,
        latency: Arc::default(),
        tap: Tap::default(),
    };
    // One socket is bound to a wildcard, and reports destination addresses; the other is not.
    let addresses = ["0.0.0.0:0", "[::1]:0"].map(|address| address.parse().unwrap());
    let listeners = Listeners::bind(&addresses, &mut Vec::new()).unwrap();
    let ports = listeners.local_addresses();
    let front = SocketFront::start("sockets", listeners, resources, OnExit::default()).unwrap();

    let clients = [
        ("127.0.0.1:0", ports[0].port()),
        ("[::1]:0", ports[1].port()),
    ];
    let clients = clients.map(|(any, port)| {
        let socket = UdpSocket::bind(any).unwrap();
        socket
            .connect((socket.local_addr().unwrap().ip(), port))
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        socket
    });
    let mut malformed = query("malformed");
    malformed[12] = 0xc0;
    let mut reply = [0; 2048];
    let mut round = || {
        for client in &clients {
            client.send(&malformed[..5]).unwrap();
            client.send(&malformed).unwrap();
            for msg in &queries {
                client.send(msg).unwrap();
            }
            for _ in 0..queries.len() + 1 {
                client.recv(&mut reply).unwrap();
            }
        }
    };
    // Allocations of threads that start.
    round();
    let before = allocations();
    round();
    assert_eq!(allocations() - before, 0);
    assert_eq!(counters.hits.get(), 4 * 100);
    drop(std::hint::black_box(vec![1]));
    assert!(allocations() > before, "the count counts");
    drop(front);
    drop(forwarder);
}
