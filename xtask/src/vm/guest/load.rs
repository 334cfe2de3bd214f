//! Bursts of queries over UDP, from several ports.
//!
//! Clients that send one query at a time would find a worker that has one to answer at a time. Here the kernel gets the
//! queries of a burst in one call (UDP GSO, udp(7)), so they arrive together.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hickory_proto::rr::RecordType;
use lab::{Lab, SERVER_V4, message};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

/// Queries of a burst; the kernel takes 64 at once.
const BURST: usize = 32;
/// Bursts, which are sent again and again: each has names of its own.
const BURSTS: usize = 16;
/// Ports that bursts are sent from, for the NIC's hash to spread.
const PORTS: usize = 16;
/// Bursts that are on the way at a time, in which a ring of 256 packets has room.
const IN_FLIGHT: usize = 4;
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many queries were sent, and how many replies of NOERROR came.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Load {
    pub(super) sent: u64,
    pub(super) answered: u64,
}

/// Sends bursts from the lab's client, for a time.
pub(super) fn run(lab: &Lab, time: Duration) -> Result<Load> {
    lab.in_client(|| send(time))?
}

fn send(time: Duration) -> Result<Load> {
    let bursts: Vec<Vec<u8>> = (0..BURSTS).map(burst).collect();
    let sockets = (0..PORTS).map(|_| open(bursts[0].len() / BURST));
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    let mut load = Load::default();
    let mut numbers = (0..BURSTS).cycle();
    let end = Instant::now() + time;
    for sockets in sockets.chunks(IN_FLIGHT).cycle() {
        if Instant::now() >= end {
            break;
        }
        let mut sent = Vec::with_capacity(IN_FLIGHT);
        for (socket, number) in sockets.iter().zip(&mut numbers) {
            socket.send(&bursts[number]).context("a burst")?;
            load.sent += BURST as u64;
            sent.push((socket, number));
        }
        for (socket, number) in sent {
            load.answered += replies(socket, number);
        }
    }
    Ok(load)
}

fn open(query: usize) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((SERVER_V4, 53))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&socket, UdpGsoSegment, &(query as i32)).context("no UDP GSO (Linux 4.18)")?;
    Ok(socket)
}

/// Queries of the same length one after another. The ID is the query's number.
fn burst(number: usize) -> Vec<u8> {
    let query = |at| {
        let id = number * BURST + at;
        let name = format!("n{}.example.com", 1000 + id);
        message::octets(&message::query(id as u16, &name, RecordType::A))
    };
    (0..BURST).flat_map(query).collect()
}

/// Waits for the replies to a burst; how many came.
fn replies(socket: &UdpSocket, number: usize) -> u64 {
    let mut buffer = [0; 512];
    let mut answered = 0;
    while answered < BURST as u64 {
        let Ok(len) = socket.recv(&mut buffer) else {
            break;
        };
        answered += u64::from(is_reply(&buffer[..len], number));
    }
    answered
}

/// Whether a message is a reply of NOERROR (RFC 1035, section 4.1.1) to a query of this burst.
fn is_reply(message: &[u8], number: usize) -> bool {
    matches!(message, [high, low, flags, code, ..]
        if usize::from(u16::from_be_bytes([*high, *low])) / BURST == number && flags & 0x80 != 0 && code & 0xf == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_queries_of_one_length_whose_replies_are_known() {
        let bursts: Vec<_> = (0..BURSTS).map(burst).collect();
        let len = bursts[0].len() / BURST;
        for (number, burst) in bursts.iter().enumerate() {
            assert_eq!(burst.len(), len * BURST);
            for query in burst.chunks(len) {
                assert!(!is_reply(query, number), "it is the query");
                let mut reply = query.to_vec();
                reply[2] |= 0x80;
                assert!(is_reply(&reply, number) && !is_reply(&reply, number + 1));
                reply[3] |= 2;
                assert!(!is_reply(&reply, number), "SERVFAIL");
            }
        }
    }
}
