#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::*;
use crate::socket::{Listeners, mtu, path::Local};

/// A listener as the front has them, and the address that a client sends to.
fn listener(bind: &str, asked: &str) -> (UdpSocket, SocketAddr) {
    let mut listeners = Listeners::bind(&[bind.parse().unwrap()], &mut Vec::new()).unwrap();
    let port = listeners.local_addresses()[0].port();
    let ip: IpAddr = asked.parse().unwrap();
    (listeners.udp.remove(0), SocketAddr::new(ip, port))
}

/// A client, connected: it receives only from the address that it sends to.
fn client(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(server).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}

fn heard(client: &UdpSocket) -> Vec<u8> {
    let mut buf = vec![0; 65_535];
    let len = client.recv(&mut buf).unwrap();
    buf.truncate(len);
    buf
}

/// Has everything sent back as it came.
fn echo(batch: &mut DatagramBatch) {
    let received: Vec<_> = batch
        .received()
        .map(|(path, msg)| (path.unwrap(), msg.len()))
        .collect();
    for (slot, (path, len)) in received.iter().enumerate() {
        batch.reply(slot, *len, path);
    }
}

/// `len` octets that differ from those of other lengths.
fn message(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + len) as u8).collect()
}

#[test]
fn mixed_sizes_over_both_families_and_many_addresses() {
    let mut batch = DatagramBatch::new();
    for (bind, asked) in [
        ("0.0.0.0:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.9.8.7"),
        ("[::]:0", "::1"),
        ("127.0.0.5:0", "127.0.0.5"),
        ("[::1]:0", "::1"),
    ] {
        let (socket, server) = listener(bind, asked);
        assert_eq!(batch.receive(&socket, 0), Err(Errno::EAGAIN));
        let clients = [client(server), client(server)];
        let sizes = [0, 1, 12, 511, 1232, BUFFER_LEN, 3];
        // Twice: the second batch has buffers of the same length as the first.
        for _ in 0..2 {
            for &size in &sizes {
                for client in &clients {
                    client.send(&message(size)).unwrap();
                }
            }
            assert_eq!(batch.receive(&socket, 0), Ok(14), "{asked}");
            for (at, (path, msg)) in batch.received().enumerate() {
                let Path { peer, local } = path.unwrap();
                assert_eq!(peer.port(), clients[at % 2].local_addr().unwrap().port());
                let expected = match server.ip() {
                    _ if !bind.starts_with("0.0.0.0") && !bind.starts_with("[::]") => Local::Bound,
                    IpAddr::V4(v4) => Local::V4(v4),
                    IpAddr::V6(v6) => Local::V6(v6, 0),
                };
                assert_eq!(local, expected);
                assert_eq!(msg, message(sizes[at / 2]));
            }
            echo(&mut batch);
            let sent = batch.send(std::slice::from_ref(&socket), |_, _| {
                panic!("nothing is too large")
            });
            assert_eq!((sent.sent, sent.failed), (14, 0));
            for &size in &sizes {
                for client in &clients {
                    assert_eq!(heard(client), message(size));
                }
            }
        }
    }
}

#[test]
fn a_burst_is_larger_than_a_batch() {
    let (socket, server) = listener("0.0.0.0:0", "127.0.0.1");
    let client = client(server);
    for id in 0..2 * BATCH + 3 {
        client.send(&[id as u8]).unwrap();
    }
    let mut batch = DatagramBatch::new();
    let mut counts = Vec::new();
    while let Ok(count) = batch.receive(&socket, 0) {
        echo(&mut batch);
        assert_eq!(
            batch.send(std::slice::from_ref(&socket), |_, _| None).sent,
            count
        );
        counts.push(count);
    }
    assert_eq!(counts, [BATCH, BATCH, 3]);
    for id in 0..2 * BATCH + 3 {
        assert_eq!(heard(&client), [id as u8]);
    }
}

#[test]
fn longer_queries_arrive_cut() {
    let (socket, server) = listener("0.0.0.0:0", "127.0.0.1");
    let client = client(server);
    client.send(&message(BUFFER_LEN + 1)).unwrap();
    let mut batch = DatagramBatch::new();
    assert_eq!(batch.receive(&socket, 0), Ok(1));
    assert_eq!(
        batch.received().next().unwrap().1,
        &message(BUFFER_LEN + 1)[..BUFFER_LEN]
    );
}

#[test]
fn a_reply_that_fails_does_not_stop_the_others() {
    let (socket, server) = listener("[::1]:0", "::1");
    // As if a path's MTU were this small.
    mtu::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU, 1280).unwrap();
    let client = client(server);
    for size in 1..=10 {
        client.send(&message(size)).unwrap();
    }
    let mut batch = DatagramBatch::new();
    assert_eq!(batch.receive(&socket, 0), Ok(10));
    let large = [0, 3, 4, 6, 9];
    let paths: Vec<_> = batch.received().map(|(path, _)| path.unwrap()).collect();
    for (slot, path) in paths.iter().enumerate() {
        let len = match slot {
            slot if large.contains(&slot) => 1280 - 40 - 8 + 1,
            // Slot 5 gets no reply at all.
            5 => continue,
            // A datagram to port 0 cannot be sent.
            7 => {
                batch.slots[slot].name.encode("[::1]:0".parse().unwrap());
                1
            }
            _ => slot + 1,
        };
        batch.reply(slot, len, path);
    }
    let mut asked = Vec::new();
    let sent = batch.send(std::slice::from_ref(&socket), |slot, buf| {
        asked.push(slot);
        buf[0] = slot as u8;
        match slot {
            // Nothing shorter, or nothing that is short enough: both fail.
            4 => None,
            6 if asked.iter().filter(|&&asked| asked == 6).count() == 1 => Some(1280 - 40 - 8),
            9 => Some(1280 - 40 - 8 + 1),
            _ => Some(12),
        }
    });
    assert_eq!(asked, large);
    assert_eq!(sent, Sent { sent: 6, failed: 3 });
    let heard: Vec<_> = (0..6)
        .map(|_| heard(&client))
        .map(|msg| (msg.len(), msg[0]))
        .collect();
    let echoed = |len: usize| (len, message(len)[0]);
    assert_eq!(
        heard,
        [(12, 0), echoed(2), echoed(3), (12, 3), (1232, 6), echoed(9)]
    );
}

#[test]
fn composed_replies_leave_from_their_own_socket_and_address() {
    let (sockets, servers): (Vec<_>, Vec<_>) = [(); 2]
        .map(|()| listener("0.0.0.0:0", "127.0.0.1"))
        .into_iter()
        .unzip();
    let mut batch = DatagramBatch::new();
    // Runs of three for each socket.
    let socket_of = |at: usize| at / 3 % 2;
    let clients: Vec<_> = (0..BATCH)
        .map(|at| {
            let address = [127, 0, 1, at as u8 + 1].into();
            let server = SocketAddr::new(address, servers[socket_of(at)].port());
            (client(server), server.ip())
        })
        .collect();
    // Twice: all is free again.
    for _ in 0..2 {
        for (at, client) in clients.iter().enumerate() {
            let path = path(client);
            // One that is not queued leaves its slot to the next.
            assert_eq!(batch.compose(socket_of(at + 3), path.peer), at);
            assert_eq!(batch.compose(socket_of(at), path.peer), at);
            let message = message(at);
            batch.buffer(at)[..at].copy_from_slice(&message);
            batch.reply(at, at, &path);
        }
        let full = batch.compose(0, path(&clients[0]).peer);
        assert!(batch.buffer(full).is_empty(), "no such slot");
        assert_eq!(batch.send(&sockets, |_, _| None).sent, BATCH);
        for (at, (client, _)) in clients.iter().enumerate() {
            assert_eq!(heard(client), message(at));
        }
    }
}

/// The path to a client from the address that it sends to.
fn path((client, from): &(UdpSocket, IpAddr)) -> Path {
    let IpAddr::V4(from) = from else { panic!() };
    Path {
        peer: client.local_addr().unwrap(),
        local: Local::V4(*from),
    }
}
