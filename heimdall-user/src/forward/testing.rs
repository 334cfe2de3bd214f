//! An upstream on loopback that does as it is told, for tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::dns::name::end_of_question_name;

const PATIENCE: Duration = Duration::from_millis(10);

/// A query as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) msg: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) tcp: bool,
}

/// Messages to send back for a query, the second one some time after the first.
pub(crate) type Script = dyn Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync;

/// A UDP and TCP server, which ends when dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn start(script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(script), true)
    }

    /// As [`start`](Self::start), but connections are refused.
    pub(crate) fn without_tcp(
        script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Arc::new(script), false)
    }

    fn new(script: Arc<Script>, with_tcp: bool) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let stop = Arc::<AtomicBool>::default();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = with_tcp.then_some(tcp);
        let threads = vec![
            thread::spawn({
                let (seen, stop, script) = (seen.clone(), stop.clone(), script.clone());
                move || {
                    let mut buf = [0; 2048];
                    while !stop.load(Ordering::SeqCst) {
                        let Ok((len, from)) = udp.recv_from(&mut buf) else {
                            continue;
                        };
                        let query = Seen {
                            msg: buf[..len].to_vec(),
                            from,
                            tcp: false,
                        };
                        seen.lock().unwrap().push(query.clone());
                        for reply in script(&query) {
                            udp.send_to(&reply, from).unwrap();
                        }
                    }
                }
            }),
            thread::spawn({
                let (seen, stop) = (seen.clone(), stop.clone());
                move || {
                    let Some(tcp) = tcp else { return };
                    while !stop.load(Ordering::SeqCst) {
                        let (mut stream, from) = match tcp.accept() {
                            Ok(accepted) => accepted,
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                                thread::sleep(PATIENCE);
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        };
                        stream.set_nonblocking(false).unwrap();
                        stream
                            .set_read_timeout(Some(Duration::from_secs(5)))
                            .unwrap();
                        let mut len = [0; 2];
                        if stream.read_exact(&mut len).is_err() {
                            continue;
                        }
                        let mut msg = vec![0; usize::from(u16::from_be_bytes(len))];
                        stream.read_exact(&mut msg).unwrap();
                        let query = Seen {
                            msg,
                            from,
                            tcp: true,
                        };
                        seen.lock().unwrap().push(query.clone());
                        for reply in script(&query) {
                            let frame = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                            // In pieces, as a network would.
                            for piece in frame.chunks(1500) {
                                let _ = stream.write_all(piece);
                            }
                        }
                    }
                }
            }),
        ];
        Self {
            address,
            seen,
            stop,
            threads,
        }
    }

    /// What has arrived so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(
                joined.is_ok() || thread::panicking(),
                "the upstream panicked"
            );
        }
    }
}

/// An address where nothing listens: a datagram to it is refused.
pub(crate) fn closed_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A query for TXT records.
pub(crate) fn query(id: u16, label: &str, edns_size: Option<u16>) -> Vec<u8> {
    let mut msg = id.to_be_bytes().to_vec();
    msg.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns_size.is_some())]);
    msg.push(label.len() as u8);
    msg.extend_from_slice(label.as_bytes());
    msg.extend_from_slice(&[4, b't', b'e', b's', b't', 0, 0, 16, 0, 1]);
    if let Some(size) = edns_size {
        msg.extend_from_slice(&[0, 0, 41]);
        msg.extend_from_slice(&size.to_be_bytes());
        msg.extend_from_slice(&[0; 6]);
    }
    msg
}

/// A query for TXT records of a name with any labels, written as `a.example`.
pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    let mut msg = id.to_be_bytes().to_vec();
    msg.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        msg.push(label.len() as u8);
        msg.extend_from_slice(label.as_bytes());
    }
    msg.extend_from_slice(&[0, 0, 16, 0, 1]);
    msg
}

/// The response to `query`, which asks for TXT or SPF, with `fill` octets of text and a TTL of 300.
pub(crate) fn response(query: &[u8], fill: usize) -> Vec<u8> {
    let end = end_of_question_name(query, 12).unwrap() + 4;
    let mut msg = query[..2].to_vec();
    msg.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    msg.extend_from_slice(&query[12..end]);
    msg.extend_from_slice(&[0xc0, 12]);
    msg.extend_from_slice(&query[end - 4..end]);
    msg.extend_from_slice(&[0, 0, 1, 44]);
    let text: Vec<u8> = vec![b'x'; fill]
        .chunks(255)
        .flat_map(|chunk| [&[chunk.len() as u8][..], chunk].concat())
        .collect();
    msg.extend_from_slice(&(text.len() as u16).to_be_bytes());
    msg.extend_from_slice(&text);
    msg
}

/// The response to `query` that has only flags and the question.
pub(crate) fn bare(query: &[u8], flags: u16) -> Vec<u8> {
    let end = end_of_question_name(query, 12).unwrap() + 4;
    let mut msg = query[..end].to_vec();
    msg[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    msg[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    msg
}

/// `query` for another type.
pub(crate) fn of_type(mut query: Vec<u8>, qtype: u8) -> Vec<u8> {
    let end = query.len();
    query[end - 3] = qtype;
    query
}

/// The response to `query` that the name does not exist, of `ttl` seconds.
pub(crate) fn denial(query: &[u8], ttl: u8) -> Vec<u8> {
    let mut msg = bare(query, 3);
    msg[9] = 1;
    // The SOA of `test.`, at the end of the question's name.
    let owner = (msg.len() - 4 - 6) as u8;
    msg.extend_from_slice(&[0xc0, owner, 0, 6, 0, 1, 0, 0, 0, ttl, 0, 24]);
    msg.extend_from_slice(&[0xc0, owner, 0xc0, owner]);
    msg.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, ttl]);
    msg
}
