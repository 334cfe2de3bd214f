//! The self-test: a question to the server at its own address, over UDP and TCP.
//!
//! The question (id.server, class CHAOS, RFC 4892) is answered or refused without an upstream. It comes from the
//! loopback address; any response to it will do.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use super::Obstacle;
use crate::heartbeat;

/// Time for a response.
const TIMEOUT: Duration = Duration::from_millis(500);

/// id.server. CH TXT, with RD clear: the octets after the ID.
const QUESTION: &[u8] = b"\0\0\0\x01\0\0\0\0\0\0\x02id\x06server\0\0\x10\0\x03";

/// Octets of a DNS header.
const HEADER: usize = 12;

/// Asks at each address.
///
/// # Errors
/// Where no response came.
pub(super) fn test(served: &[SocketAddr]) -> Result<(), Obstacle> {
    for &address in served {
        heartbeat::beat();
        for (transport, asked) in [("UDP", udp(address)), ("TCP", tcp(address))] {
            asked.map_err(|error| {
                let error = match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timeout".to_owned(),
                    io::ErrorKind::UnexpectedEof => "closed without a reply".to_owned(),
                    _ => error.to_string(),
                };
                Obstacle::Passing(format!(
                    "the self-test got no response from {address} over {transport}: {error}"
                ))
            })?;
        }
    }
    Ok(())
}

fn query() -> ([u8; 2], Vec<u8>) {
    let id = fastrand::u16(..).to_be_bytes();
    (id, [&id, QUESTION].concat())
}

/// Whether a message is a response with this ID.
fn responds(message: &[u8], id: [u8; 2]) -> bool {
    message.len() >= HEADER
        && message.starts_with(&id)
        && message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

fn udp(address: SocketAddr) -> io::Result<()> {
    let own: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(address)?;
    let (id, query) = query();
    socket.send(&query)?;
    let end = Instant::now() + TIMEOUT;
    let mut message = [0; 512];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut message)?;
        if responds(message.get(..length).unwrap_or_default(), id) {
            return Ok(());
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let (id, query) = query();
    let length = u16::try_from(query.len()).unwrap_or_default();
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat())?;
    let mut message = [0; 2 + HEADER];
    stream.read_exact(&mut message)?;
    match responds(message.get(2..).unwrap_or_default(), id) {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]

    use std::{net::TcpListener, thread};

    use hickory_proto::{op::Message, rr::RecordType};

    use super::*;

    #[test]
    fn the_question_is_well_formed() {
        let (id, query) = query();
        let message = Message::from_vec(&query).unwrap();
        assert_eq!(message.metadata.id.to_be_bytes(), id);
        let question = &message.queries[0];
        assert_eq!(question.name().to_string(), "id.server.");
        assert_eq!(question.query_type(), RecordType::TXT);
        assert!(!responds(&query, id), "a query is no response");
    }

    #[test]
    fn a_server_has_to_respond_over_both_transports() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let silent = test(&[address]).unwrap_err().to_string();
        assert!(silent.contains("over UDP: timeout"), "{silent}");
        let turn_round = |query: &[u8]| {
            let mut reply = query.to_vec();
            reply[2] |= 0x80;
            reply
        };
        let answering = thread::spawn(move || {
            // The first is left over from above; a wrong ID is ignored.
            let mut message = [0; 512];
            for _ in 0..4 {
                let (length, client) = udp.recv_from(&mut message).unwrap();
                let mut reply = turn_round(&message[..length]);
                udp.send_to(&reply, client).unwrap();
                reply[0] ^= 1;
                udp.send_to(&reply, client).unwrap();
            }
        });
        let closed = test(&[address]).unwrap_err().to_string();
        assert!(closed.contains("over TCP: Connection refused"), "{closed}");
        let tcp = TcpListener::bind(address).unwrap();
        let accepting = thread::spawn(move || {
            // As of a client that is to be dropped. All is read, or else the connection would be reset.
            let mut stream = tcp.accept().unwrap().0;
            stream.read_exact(&mut [0; 2 + 2 + QUESTION.len()]).unwrap();
            drop(stream);
            let mut stream = tcp.accept().unwrap().0;
            let mut query = [0; 2 + HEADER];
            stream.read_exact(&mut query).unwrap();
            let reply = [&query[..2], &turn_round(&query[2..])].concat();
            stream.write_all(&reply).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        let dropped = test(&[address]).unwrap_err().to_string();
        assert!(
            dropped.contains("over TCP: closed without a reply"),
            "{dropped}"
        );
        assert_eq!(test(&[address]), Ok(()));
        answering.join().unwrap();
        accepting.join().unwrap();
    }
}
