//! An upstream that follows a script, over UDP and TCP: in the lab's server namespace, or on
//! loopback.
//!
//! A script is a function from a query to the [`Step`]s that the upstream takes: it replies with
//! any octets, waits, or closes the connection; no step at all is silence. It can be replaced while
//! the upstream runs, and every query is recorded. [`by_label`] is the script that most tests need.

use std::{
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

use super::{
    Lab,
    message::{self, read_framed},
};

/// How long a thread of the upstream waits before it looks whether to stop.
const TICK: Duration = Duration::from_millis(10);
/// How long the rest of a message on a connection may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of the OPT record that Heimdall adds to a reply.
const OPT_LEN: usize = 11;

/// A query as the upstream received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The message.
    pub msg: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
    /// Over TCP, not UDP.
    pub tcp: bool,
}

impl Received {
    /// The message as hickory-proto reads it; `None` if it cannot be read.
    pub fn message(&self) -> Option<Message> {
        Message::from_vec(&self.msg).ok()
    }

    /// The queried name in lower case, without the last dot: `a.example`.
    pub fn name(&self) -> Option<String> {
        let message = self.message()?;
        Some(message::lower_case(message.queries.first()?.name()))
    }
}

/// What an upstream does about a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Sends this message.
    Send(Vec<u8>),
    /// Does nothing for a time; other queries are served meanwhile.
    Wait(Duration),
    /// Closes the connection, if the query came over one.
    Close,
}

impl From<Vec<u8>> for Step {
    fn from(message: Vec<u8>) -> Self {
        Self::Send(message)
    }
}

type Script = Arc<dyn Fn(&Received) -> Vec<Step> + Send + Sync>;

/// A running upstream; it ends when this is dropped.
pub struct ScriptedUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    listener: Mutex<Option<TcpListener>>,
    stop: AtomicBool,
}

impl ScriptedUpstream {
    /// Starts one at an address in the lab's server namespace, with the script [`by_label`].
    pub fn start(lab: &Lab, address: &str) -> Result<Self> {
        Self::with_script(lab, address, by_label)
    }

    /// Starts one at an address in the lab's server namespace.
    pub fn with_script<S: Into<Step>>(
        lab: &Lab,
        address: &str,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = address.parse()?;
        Ok(Self::serve(lab.in_server(|| bind(address))??, script))
    }

    /// As [`start`](Self::start), in the client's namespace.
    pub fn in_client(lab: &Lab, address: &str) -> Result<Self> {
        let address = address.parse()?;
        Ok(Self::serve(lab.in_client(|| bind(address))??, by_label))
    }

    /// Starts one on this process's own loopback interface; port 0 means any.
    pub fn on_loopback<S: Into<Step>>(
        address: &str,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self::serve(bind(address.parse()?)?, script))
    }

    fn serve<S: Into<Step>>(
        (udp, tcp, address): (UdpSocket, TcpListener, SocketAddr),
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(boxed(script)),
            received: Mutex::default(),
            listener: Mutex::new(Some(tcp)),
            stop: AtomicBool::new(false),
        });
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            thread::spawn(move || for_udp.serve_udp(&udp)),
            thread::spawn(move || for_tcp.serve_tcp()),
        ];
        Self {
            address,
            shared,
            threads,
        }
    }

    /// Follows another script from now on.
    pub fn set_script<S: Into<Step>>(
        &self,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) {
        *lock(&self.shared.script) = boxed(script);
    }

    /// Refuses connections from now on.
    pub fn refuse_tcp(&self) {
        *lock(&self.shared.listener) = None;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The queries so far, in the order of their arrival.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// How many of the queries so far were for a name, written as `a.example`, whatever the type
    /// and the transport.
    pub fn queries(&self, name: &str) -> u64 {
        let received = lock(&self.shared.received);
        let named = |query: &&Received| query.name().as_deref() == Some(name);
        received.iter().filter(named).count() as u64
    }

    /// Forgets the queries so far, so that a long run takes no memory for them.
    pub fn forget(&self) {
        lock(&self.shared.received).clear();
    }
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(
                joined.is_ok() || thread::panicking(),
                "the upstream's script panicked"
            );
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Records a query, and asks the script.
    fn steps(&self, query: Received) -> Vec<Step> {
        // The script may take its time, and may be replaced meanwhile.
        let script = lock(&self.script).clone();
        let received = query.clone();
        lock(&self.received).push(received);
        script(&query)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 65_535];
        thread::scope(|scope| {
            while !self.stopped() {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let steps = self.steps(Received {
                    msg: buffer[..len].to_vec(),
                    from,
                    tcp: false,
                });
                let waits = steps.iter().any(|step| matches!(step, Step::Wait(_)));
                let reply = move || {
                    self.take(steps, |msg| socket.send_to(msg, from).map(drop));
                };
                if waits {
                    scope.spawn(reply);
                } else {
                    reply();
                }
            }
        });
    }

    fn serve_tcp(&self) {
        thread::scope(|scope| {
            while !self.stopped() {
                let accepted = lock(&self.listener).as_ref().map(TcpListener::accept);
                match accepted {
                    Some(Ok((stream, from))) => {
                        scope.spawn(move || self.serve_stream(stream, from));
                    }
                    _ => thread::sleep(TICK),
                }
            }
        });
    }

    /// Serves a connection until the client or the script closes it, or something fails.
    fn serve_stream(&self, mut stream: TcpStream, from: SocketAddr) -> Option<()> {
        stream.set_nonblocking(false).ok()?;
        loop {
            stream.set_read_timeout(Some(TICK)).ok()?;
            loop {
                match stream.peek(&mut [0]) {
                    Ok(0) => return None,
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock && !self.stopped() => {}
                    Err(_) => return None,
                }
            }
            stream.set_read_timeout(Some(READ_TIMEOUT)).ok()?;
            let msg = read_framed(&mut stream).ok()?;
            let steps = self.steps(Received {
                msg,
                from,
                tcp: true,
            });
            let sent = self.take(steps, |msg| {
                let framed = [&(msg.len() as u16).to_be_bytes()[..], msg].concat();
                // In pieces, as a network would.
                let mut pieces = framed.chunks(1500);
                pieces.try_for_each(|piece| stream.write_all(piece))
            });
            if !sent {
                return None;
            }
        }
    }

    /// Takes the steps; false if it is to close, or cannot send.
    fn take(&self, steps: Vec<Step>, mut send: impl FnMut(&[u8]) -> std::io::Result<()>) -> bool {
        steps.into_iter().all(|step| match step {
            Step::Send(message) => send(&message).is_ok(),
            Step::Wait(time) => {
                let end = Instant::now() + time;
                while Instant::now() < end && !self.stopped() {
                    thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
                }
                true
            }
            Step::Close => false,
        })
    }
}

fn boxed<S: Into<Step>>(script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static) -> Script {
    Arc::new(move |query| script(query).into_iter().map(Into::into).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds both sockets, to the same port.
fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr)> {
    let mut attempts = if address.port() == 0 { 100 } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        udp.set_read_timeout(Some(TICK))?;
        let bound = udp.local_addr()?;
        attempts -= 1;
        match TcpListener::bind(bound) {
            Ok(tcp) => {
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp, bound));
            }
            // Another process may have this port of TCP.
            Err(_) if attempts > 0 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot listen at {bound}")),
        }
    }
}

/// The script that does as the first label of the queried name says:
///
/// | label | behaviour |
/// |---|---|
/// | `len-N` | a TXT record such that the reply, with an OPT record of 11 octets added, has N octets |
/// | `drop` | no reply |
/// | `slow-MS` | replies after MS milliseconds |
/// | `wrongid` | first a reply with another ID, then the right one |
/// | `wrongquestion` | first a reply to another question, then the right one |
/// | `servfail`, `refused`, `formerr` | that response code |
/// | `truncate` | TC over UDP, the whole answer over TCP |
/// | `cut` | first a reply that ends too soon, then the right one |
/// | anything else | one A record, 192.0.2.1, TTL 300; no record to a question for TXT |
pub fn by_label(query: &Received) -> Vec<Step> {
    let (Some(message), Some(name)) = (query.message(), query.name()) else {
        return vec![];
    };
    let label = name.split('.').next().unwrap_or_default();
    let (kind, number) = label.split_once('-').unwrap_or((label, ""));
    let number: usize = number.parse().unwrap_or_default();
    let reply = |rtype, data: &[u8]| {
        let mut reply = message::response(&message);
        let owner = message.queries[0].name();
        reply.add_answer(message::record(owner, rtype, 300, data));
        message::octets(&reply)
    };
    let empty = |code| {
        let mut reply = message::response(&message);
        reply.metadata.response_code = code;
        message::octets(&reply)
    };
    let good = message::address(&message, 300, [192, 0, 2, 1]);
    let replies = match kind {
        "len" => {
            let fixed = reply(RecordType::TXT, &[0]).len() - 1 + OPT_LEN;
            let text = message::text(number.saturating_sub(fixed).max(1));
            vec![reply(RecordType::TXT, &text)]
        }
        "drop" => vec![],
        "slow" => {
            let wait = Duration::from_millis(number as u64);
            return vec![Step::Wait(wait), good.into()];
        }
        "wrongid" if !query.tcp => {
            let mut wrong = good.clone();
            wrong[0] ^= 0xff;
            vec![wrong, good]
        }
        "wrongquestion" if !query.tcp => {
            // The name's first letter.
            let mut wrong = good.clone();
            wrong[13] ^= 1;
            vec![wrong, good]
        }
        "cut" if !query.tcp => vec![good[..good.len() - 3].to_vec(), good],
        "servfail" => vec![empty(ResponseCode::ServFail)],
        "refused" => vec![empty(ResponseCode::Refused)],
        "formerr" => vec![empty(ResponseCode::FormErr)],
        "truncate" if !query.tcp => vec![message::truncated(&message)],
        "truncate" => vec![reply(RecordType::TXT, &message::text(3000))],
        _ if message.queries[0].query_type() == RecordType::TXT => {
            vec![empty(ResponseCode::NoError)]
        }
        _ => vec![good],
    };
    replies.into_iter().map(Step::Send).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(upstream: &ScriptedUpstream, name: &str) {
        let query = message::octets(&message::query(7, name, RecordType::A));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(upstream.address()).unwrap();
        socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        socket.send(&query).unwrap();
        socket.recv(&mut [0; 512]).unwrap();
    }

    #[test]
    fn waits_for_one_query_and_serves_the_next() {
        let upstream = ScriptedUpstream::on_loopback("127.0.0.1:0", by_label).unwrap();
        thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let start = Instant::now();
                ask(&upstream, "slow-300.x");
                start.elapsed()
            });
            while upstream.queries("slow-300.x") == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            ask(&upstream, "fast.x");
            assert!(!slow.is_finished(), "the fast one was first");
            assert!(slow.join().unwrap() >= Duration::from_millis(300));
        });
    }
}
