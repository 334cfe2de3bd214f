//! An upstream that follows a script, over UDP and TCP, or TLS: in the lab's server namespace, or on
//! loopback.
//!
//! A script is a function from a query to the [`Step`]s that the upstream takes: it replies with
//! any octets, waits, or closes the connection; no step at all is silence. It can be replaced while
//! the upstream runs, and every query is recorded. [`by_label()`] is the script that most tests need.

mod by_label;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
pub use by_label::by_label;
use hickory_proto::op::Message;
use nix::{
    libc::linger,
    sys::socket::{setsockopt, sockopt::Linger},
};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Lab, message};

/// How long a thread of the upstream waits before it looks whether to stop.
const TICK: Duration = Duration::from_millis(10);

/// A query as the upstream received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The message.
    pub msg: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
    /// Over TCP or TLS, not UDP.
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
    /// Over a connection, sends these octets without their length before them.
    SendRaw(Vec<u8>),
    /// Over UDP, sends this message from another port.
    FromOtherPort(Vec<u8>),
    /// Over UDP, sends this message from 127.0.0.2 and the upstream's port, if that is on IPv4 loopback.
    FromOtherAddress(Vec<u8>),
    /// Does nothing for a time; other queries are served meanwhile.
    Wait(Duration),
    /// Closes the connection, if the query came over one.
    Close,
    /// Resets the connection, if the query came over one.
    Reset,
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
    /// Of TLS: each connection has the next one. None: without TLS.
    sessions: Vec<Arc<ServerConfig>>,
    stop: AtomicBool,
}

/// What it listens on and sends from.
struct Sockets {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
    other_port: UdpSocket,
    other_address: Option<UdpSocket>,
}

impl ScriptedUpstream {
    /// Starts one at an address in the lab's server namespace, with the script [`by_label()`].
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
        let sockets = lab.in_server(|| bind(address))??;
        Ok(Self::serve(sockets, Vec::new(), script))
    }

    /// As [`with_script`](Self::with_script), with TLS on its connections: the first has the first of these sessions, and so on
    /// in turn. Servers that were made separately cannot resume each other's sessions.
    pub fn over_tls<S: Into<Step>>(
        lab: &Lab,
        address: &str,
        sessions: Vec<Arc<ServerConfig>>,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = address.parse()?;
        let sockets = lab.in_server(|| bind(address))??;
        Ok(Self::serve(sockets, sessions, script))
    }

    /// As [`start`](Self::start), in the client's namespace.
    pub fn in_client(lab: &Lab, address: &str) -> Result<Self> {
        Self::in_client_with_script(lab, address, by_label)
    }

    /// As [`with_script`](Self::with_script), in the client's namespace.
    pub fn in_client_with_script<S: Into<Step>>(
        lab: &Lab,
        address: &str,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = address.parse()?;
        let sockets = lab.in_client(|| bind(address))??;
        Ok(Self::serve(sockets, Vec::new(), script))
    }

    /// Starts one on this process's own loopback interface; port 0 means any.
    pub fn on_loopback<S: Into<Step>>(
        address: &str,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self::serve(bind(address.parse()?)?, Vec::new(), script))
    }

    fn serve<S: Into<Step>>(
        sockets: Sockets,
        sessions: Vec<Arc<ServerConfig>>,
        script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static,
    ) -> Self {
        let Sockets {
            address,
            udp,
            tcp,
            other_port,
            other_address,
        } = sockets;
        let shared = Arc::new(Shared {
            script: Mutex::new(boxed(script)),
            received: Mutex::default(),
            listener: Mutex::new(Some(tcp)),
            sessions,
            stop: AtomicBool::new(false),
        });
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            thread::spawn(move || for_udp.serve_udp(&udp, &other_port, other_address.as_ref())),
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

    fn serve_udp(
        &self,
        socket: &UdpSocket,
        other_port: &UdpSocket,
        other_address: Option<&UdpSocket>,
    ) {
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
                    self.take(steps, |step| {
                        let (socket, msg) = match &step {
                            Step::Send(msg) | Step::SendRaw(msg) => (Some(socket), msg),
                            Step::FromOtherPort(msg) => (Some(other_port), msg),
                            Step::FromOtherAddress(msg) => (other_address, msg),
                            Step::Wait(_) | Step::Close | Step::Reset => return false,
                        };
                        let socket = socket.expect("an upstream on IPv4 loopback");
                        socket.send_to(msg, from).is_ok()
                    });
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
            let mut sessions = self.sessions.iter().cycle();
            while !self.stopped() {
                let accepted = lock(&self.listener).as_ref().map(TcpListener::accept);
                match accepted {
                    Some(Ok((stream, from))) => {
                        let session = sessions.next();
                        scope.spawn(move || self.serve_connection(stream, from, session));
                    }
                    _ => thread::sleep(TICK),
                }
            }
        });
    }

    fn serve_connection(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        session: Option<&Arc<ServerConfig>>,
    ) -> Option<()> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(TICK)).ok()?;
        let socket = stream.try_clone().ok()?;
        let Some(session) = session else {
            return self.serve_stream(&mut stream, &socket, from);
        };
        let session = ServerConnection::new(Arc::clone(session)).ok()?;
        let mut stream = StreamOwned::new(session, stream);
        let served = self.serve_stream(&mut stream, &socket, from);
        stream.conn.send_close_notify();
        let _ = stream.flush();
        served
    }

    /// Serves a connection until the client or the script closes it, or something fails.
    fn serve_stream(
        &self,
        stream: &mut (impl Read + Write),
        socket: &TcpStream,
        from: SocketAddr,
    ) -> Option<()> {
        loop {
            let mut len = [0; 2];
            self.read(stream, &mut len)?;
            let mut msg = vec![0; usize::from(u16::from_be_bytes(len))];
            self.read(stream, &mut msg)?;
            let steps = self.steps(Received {
                msg,
                from,
                tcp: true,
            });
            let mut send = |octets: &[u8]| {
                // In pieces, as a network would.
                let mut pieces = octets.chunks(1500);
                let sent = pieces.try_for_each(|piece| stream.write_all(piece));
                sent.and_then(|()| stream.flush()).is_ok()
            };
            let goes_on = self.take(steps, |step| match step {
                Step::Send(msg) => send(&[&(msg.len() as u16).to_be_bytes()[..], &msg].concat()),
                Step::SendRaw(octets) => send(&octets),
                Step::Reset => {
                    // Closed so, it has nothing to wait for.
                    let at_once = linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    setsockopt(socket, Linger, &at_once).expect("SO_LINGER");
                    false
                }
                Step::Close => false,
                step => panic!("over a connection there is no {step:?}"),
            });
            if !goes_on {
                return None;
            }
        }
    }

    /// Fills a buffer, for as long as the upstream runs.
    fn read(&self, stream: &mut impl Read, octets: &mut [u8]) -> Option<()> {
        const AGAIN: [ErrorKind; 2] = [ErrorKind::WouldBlock, ErrorKind::Interrupted];
        let mut filled = 0;
        while filled < octets.len() {
            match stream.read(&mut octets[filled..]) {
                Ok(0) => return None,
                Ok(len) => filled += len,
                Err(error) if AGAIN.contains(&error.kind()) && !self.stopped() => {}
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// Takes the steps, waits itself and others by `step`, until that gives false. Whether it never did.
    fn take(&self, steps: Vec<Step>, mut step: impl FnMut(Step) -> bool) -> bool {
        steps.into_iter().all(|next| match next {
            Step::Wait(time) => {
                let end = Instant::now() + time;
                while Instant::now() < end && !self.stopped() {
                    thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
                }
                true
            }
            next => step(next),
        })
    }
}

fn boxed<S: Into<Step>>(script: impl Fn(&Received) -> Vec<S> + Send + Sync + 'static) -> Script {
    Arc::new(move |query| script(query).into_iter().map(Into::into).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds its sockets: UDP and TCP to the same port.
fn bind(address: SocketAddr) -> Result<Sockets> {
    let mut attempts = if address.port() == 0 { 100 } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        udp.set_read_timeout(Some(TICK))?;
        let bound = udp.local_addr()?;
        attempts -= 1;
        match TcpListener::bind(bound) {
            Ok(tcp) => {
                tcp.set_nonblocking(true)?;
                return sockets(bound, udp, tcp)
                    .with_context(|| format!("cannot bind sockets beside {bound}"));
            }
            // Another process may have this port of TCP.
            Err(_) if attempts > 0 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot listen at {bound}")),
        }
    }
}

fn sockets(address: SocketAddr, udp: UdpSocket, tcp: TcpListener) -> io::Result<Sockets> {
    let mut elsewhere = address;
    elsewhere.set_port(0);
    let is_loopback = address.is_ipv4() && address.ip().is_loopback();
    let other_address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), address.port()));
    Ok(Sockets {
        address,
        udp,
        tcp,
        other_port: UdpSocket::bind(elsewhere)?,
        // Another process may have that.
        other_address: (is_loopback)
            .then(|| UdpSocket::bind(other_address).ok())
            .flatten(),
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;

    fn ask(upstream: &ScriptedUpstream, name: &str) {
        let query = message::octets(&message::query(7, name, RecordType::A));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(upstream.address()).unwrap();
        let patience = Duration::from_secs(5);
        socket.set_read_timeout(Some(patience)).unwrap();
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
