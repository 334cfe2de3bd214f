//! An upstream that does as the name asks, to see how its client takes it.
//!
//! The first label says how to behave:
//!
//! | label | behaviour |
//! |---|---|
//! | `len-N` | a TXT record such that the reply, with an OPT record of 11 octets added, has N octets |
//! | `drop` | no reply |
//! | `slow-MS` | replies after so many milliseconds |
//! | `wrongid` | first a reply with another ID, then the right one |
//! | `wrongquestion` | first a reply to another question, then the right one |
//! | `servfail`, `refused`, `formerr` | that response code |
//! | `truncate` | TC over UDP, the whole answer over TCP |
//! | `cut` | first a reply that ends too soon, then the right one |
//! | anything else | one A record, 192.0.2.1, TTL 300; no record to a question for TXT |

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{Lab, enter};

const HEADER: usize = 12;
const OPT_LEN: usize = 11;

/// A running fake upstream; it stops when this is dropped.
#[derive(Debug)]
pub struct FakeUpstream {
    counts: Counts,
    stop: Arc<AtomicBool>,
}

type Counts = Arc<Mutex<HashMap<String, u64>>>;

/// What an upstream sends back for a message, over TCP or not.
type Respond = Arc<dyn Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync>;

impl FakeUpstream {
    /// Starts one at an address in the lab's server namespace.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(lab: &Lab, address: &str) -> Result<Self> {
        Self::asking_names(Some(lab.server.clone()), address)
    }

    /// Starts one in the lab's server namespace that sends back what `respond` makes of a message,
    /// given whether it came over TCP. It does not count.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn answering(
        lab: &Lab,
        address: &str,
        respond: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = Some(lab.server.clone());
        Self::start_in(namespace, address, Counts::default(), Arc::new(respond))
    }

    /// Starts one in this process's own namespace.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn on_loopback(address: &str) -> Result<Self> {
        Self::asking_names(None, address)
    }

    /// Starts one that does as the names say.
    fn asking_names(namespace: Option<String>, address: &str) -> Result<Self> {
        let counts = Counts::default();
        let respond = {
            let counts = counts.clone();
            move |message: &[u8], over_tcp: bool| {
                Query::read(message, &counts)
                    .map(|query| query.replies(over_tcp))
                    .unwrap_or_default()
            }
        };
        Self::start_in(namespace, address, counts, Arc::new(respond))
    }

    fn start_in(
        namespace: Option<String>,
        address: &str,
        counts: Counts,
        respond: Respond,
    ) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let upstream = Self {
            counts,
            stop: Arc::default(),
        };
        let (ready, started) = mpsc::channel();
        thread::spawn({
            let stop = upstream.stop.clone();
            move || {
                let bound = || -> Result<(UdpSocket, TcpListener)> {
                    if let Some(namespace) = namespace {
                        enter(&namespace)?;
                    }
                    let udp = UdpSocket::bind(address)
                        .with_context(|| format!("cannot bind {address}"))?;
                    udp.set_read_timeout(Some(Duration::from_millis(50)))?;
                    let tcp = TcpListener::bind(address)?;
                    tcp.set_nonblocking(true)?;
                    Ok((udp, tcp))
                };
                match bound() {
                    Ok((udp, tcp)) => {
                        let _ = ready.send(Ok(()));
                        let (tcp_respond, tcp_stop) = (respond.clone(), stop.clone());
                        thread::spawn(move || serve_tcp(&tcp, &tcp_respond, &tcp_stop));
                        serve_udp(&udp, &respond, &stop);
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            }
        });
        started
            .recv()
            .context("the fake upstream's thread died")??;
        Ok(upstream)
    }

    /// Queries so far for a name, written as `a.example`, whatever the type and the transport.
    pub fn queries(&self, name: &str) -> u64 {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
            .unwrap_or_default()
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve_udp(socket: &UdpSocket, respond: &Respond, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let (respond, query) = (respond.clone(), buffer[..len].to_vec());
        let socket = socket.try_clone();
        // Only the slow ones need a thread of their own.
        let reply = move || {
            for message in respond(&query, false) {
                let _ = socket.as_ref().map(|socket| socket.send_to(&message, from));
            }
        };
        if buffer[..len].windows(5).any(|octets| octets == b"slow-") {
            thread::spawn(reply);
        } else {
            reply();
        }
    }
}

fn serve_tcp(listener: &TcpListener, respond: &Respond, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let respond = respond.clone();
                thread::spawn(move || serve_stream(stream, &respond));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn serve_stream(mut stream: TcpStream, respond: &Respond) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    loop {
        let mut len = [0; 2];
        stream.read_exact(&mut len).ok()?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut message).ok()?;
        for reply in respond(&message, true) {
            stream.write_all(&(reply.len() as u16).to_be_bytes()).ok()?;
            stream.write_all(&reply).ok()?;
        }
    }
}

struct Query {
    label: String,
    /// Header and question.
    head: Vec<u8>,
}

impl Query {
    fn read(message: &[u8], counts: &Counts) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = HEADER;
        loop {
            let len = usize::from(*message.get(at)?);
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + len)?).to_lowercase());
            at += 1 + len;
        }
        let head = message.get(..at + 5)?.to_vec();
        *counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(labels.join("."))
            .or_default() += 1;
        Some(Self {
            label: labels.first().cloned().unwrap_or_default(),
            head,
        })
    }

    /// A reply with this response code, and an answer record of type and data, if any.
    fn reply(&self, code: u8, record: Option<(u16, &[u8])>) -> Vec<u8> {
        let mut reply = self.head.clone();
        reply[2] = 0x80 | (reply[2] & 0x01);
        reply[3] = 0x80 | code;
        reply[6..HEADER].fill(0);
        if let Some((rtype, data)) = record {
            reply[7] = 1;
            reply.extend_from_slice(&[0xc0, HEADER as u8]);
            reply.extend_from_slice(&rtype.to_be_bytes());
            reply.extend_from_slice(&[0, 1, 0, 0, 1, 44]);
            reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
            reply.extend_from_slice(data);
        }
        reply
    }

    fn replies(&self, over_tcp: bool) -> Vec<Vec<u8>> {
        let good = self.reply(0, Some((1, &[192, 0, 2, 1])));
        let (kind, number) = self.label.split_once('-').unwrap_or((&self.label, ""));
        let number: usize = number.parse().unwrap_or_default();
        match kind {
            "len" => {
                let fixed = self.head.len() + 12 + OPT_LEN;
                vec![self.reply(0, Some((16, &text(number.saturating_sub(fixed).max(1)))))]
            }
            "drop" => vec![],
            "slow" => {
                thread::sleep(Duration::from_millis(number as u64));
                vec![good]
            }
            "wrongid" if !over_tcp => {
                let mut wrong = good.clone();
                wrong[0] ^= 0xff;
                vec![wrong, good]
            }
            "wrongquestion" if !over_tcp => {
                let mut wrong = good.clone();
                wrong[HEADER + 1] ^= 1;
                vec![wrong, good]
            }
            "cut" if !over_tcp => vec![good[..good.len() - 3].to_vec(), good],
            "servfail" => vec![self.reply(2, None)],
            "refused" => vec![self.reply(5, None)],
            "formerr" => vec![self.reply(1, None)],
            "truncate" if !over_tcp => {
                let mut cut = self.reply(0, None);
                cut[2] |= 0x02;
                vec![cut]
            }
            "truncate" => vec![self.reply(0, Some((16, &text(3000))))],
            _ if self.head.ends_with(&[0, 16, 0, 1]) => vec![self.reply(0, None)],
            _ => vec![good],
        }
    }
}

/// TXT data of so many octets, at least one.
fn text(len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        let string = (len - data.len() - 1).min(255);
        data.push(string as u8);
        data.extend((0..string).map(|i| b'a' + (i % 26) as u8));
    }
    data
}
