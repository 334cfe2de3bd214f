//! Sends the queries to a server and gathers what comes back.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::Result;
use lab::message;

use super::{query::TC, reply::Reply};

/// Rounds: how long a reply is waited for, and queries in flight at a time. Some messages rightly
/// get no reply, so the first wait is short, and what got none is sent again.
const ROUNDS: [(Duration, usize); 2] = [
    (Duration::from_millis(400), 16),
    (Duration::from_secs(3), 128),
];

/// What one server said to a query: nothing, something unreadable, or a reply.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) udp: Option<Result<Reply, String>>,
    /// The reply over TCP, if that over UDP was truncated.
    pub(super) tcp: Option<Result<Reply, String>>,
}

/// Sends all the queries to a server, as a client that asks again over TCP.
pub(super) fn ask_all(server: SocketAddr, queries: &[Vec<u8>]) -> Result<Vec<Said>> {
    let mut said = vec![Said::default(); queries.len()];
    let mut buffer = vec![0; 65_536];
    for (timeout, window) in ROUNDS {
        // A socket for each round: what comes late for one is not taken for the next.
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let open: Vec<usize> = (0..said.len())
            .filter(|at| said[*at].udp.is_none())
            .collect();
        let mut open = open.into_iter();
        let mut waiting: HashMap<[u8; 2], (usize, Instant)> = HashMap::new();
        loop {
            while waiting.len() < window {
                let Some(at) = open.next() else { break };
                // A refusal by ICMP shows as an error of the next call; there is no reply then.
                let _ = socket.send(&queries[at]);
                // Without an ID no reply could be told from others.
                if let Some(id) = queries[at].first_chunk() {
                    waiting.insert(*id, (at, Instant::now()));
                }
            }
            if waiting.is_empty() {
                break;
            }
            if let Ok(len) = socket.recv(&mut buffer)
                && let Some(id) = buffer[..len].first_chunk::<2>()
                && let Some((at, _)) = waiting.remove(id)
            {
                said[at].udp = Some(Reply::read(&buffer[..len]));
            }
            waiting.retain(|_, (_, sent)| sent.elapsed() < timeout);
        }
    }
    for (said, query) in said.iter_mut().zip(queries) {
        if matches!(&said.udp, Some(Ok(reply)) if reply.has(TC)) {
            said.tcp = ask_tcp(server, query).map(|reply| Reply::read(&reply));
        }
    }
    Ok(said)
}

/// Sends all of the queries so many times, for which there are replies, and does not look at those.
pub(super) fn repeat(server: SocketAddr, queries: &[&[u8]], times: usize) -> Result<()> {
    /// Fewer than a ring or a socket holds.
    const AT_ONCE: usize = 64;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    for _ in 0..times {
        for chunk in queries.chunks(AT_ONCE) {
            for query in chunk {
                socket.send(query)?;
            }
            for _ in chunk {
                if socket.recv(&mut [0]).is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Asks over TCP on a connection of its own; `None` if no whole reply comes.
fn ask_tcp(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    message::exchange(&mut stream, query).ok()
}
