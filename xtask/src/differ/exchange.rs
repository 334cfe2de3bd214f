//! Sends the queries to a server and gathers what comes back.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::Result;

/// Queries under way at a time.
const WINDOW: usize = 16;

/// How long a reply is waited for: some messages rightly get none, so this is short at first, and
/// whatever got none is asked again with patience.
const PATIENCE: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(3)];

/// Asks all the questions over UDP; the reply to each, or none. `progress` is called for every
/// question that is done with.
pub(super) fn ask_all(
    server: SocketAddr,
    queries: &[Vec<u8>],
    mut progress: impl FnMut(),
) -> Result<Vec<Option<Vec<u8>>>> {
    let mut replies = vec![None; queries.len()];
    for (round, patience) in PATIENCE.into_iter().enumerate() {
        let open: Vec<usize> = (0..queries.len())
            .filter(|at| replies[*at].is_none())
            .collect();
        // A socket for each round: what comes late for one is not taken for the next.
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let window = if round == 0 { WINDOW } else { 8 * WINDOW };
        let mut waiting: HashMap<[u8; 2], (usize, Instant)> = HashMap::new();
        let mut rest = open.into_iter();
        let mut buffer = vec![0; 65_536];
        loop {
            while waiting.len() < window {
                let Some(at) = rest.next() else { break };
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
                replies[at] = Some(buffer[..len].to_vec());
                progress();
            }
            waiting.retain(|_, (_, sent)| sent.elapsed() < patience);
        }
    }
    Ok(replies)
}

/// Asks over TCP (RFC 7766), on a connection of its own; `None` if no whole reply comes.
pub(super) fn ask_tcp(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    let len = (query.len() as u16).to_be_bytes();
    stream.write_all(&[&len, query].concat()).ok()?;
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut reply).ok()?;
    Some(reply)
}
