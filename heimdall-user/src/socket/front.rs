//! The socket front's thread: its loop over listeners, connections and the mailbox.
//!
//! epoll reports each change once (mio is edge-triggered). Whatever is left unread for the sake
//! of fairness is registered anew, which makes epoll report it again.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream, UdpSocket},
    unix::SourceFd,
};
use slab::Slab;

use super::{
    Listeners, SocketCounters,
    pending::Client,
    service::Service,
    tcp::{Connection, Input},
    udp::{self, Control},
};
use crate::{
    answer::{Core, Transport, Verdict},
    clock::Clock,
    forward::{Handle, Mailbox},
};

/// Datagrams taken from one socket before others get their turn.
const UDP_BATCH: usize = 64;

/// Connections accepted before others get their turn.
const ACCEPT_BATCH: usize = 64;

/// Connections at a time. When there are more, the one that was idle longest is closed.
const MAX_CONNECTIONS: usize = 1024;

/// Time for which a connection may be idle (RFC 7766 section 6.2.3 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Largest message.
const MAX_MESSAGE: usize = u16::MAX as usize;

const STOP: Token = Token(0);
const MAILBOX: Token = Token(1);
/// Listeners' tokens: UDP even, TCP odd.
const LISTENERS: usize = 2;

/// The running socket front.
#[derive(Debug)]
pub struct SocketFront {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    counters: Arc<SocketCounters>,
    thread: JoinHandle<()>,
}

impl SocketFront {
    /// Starts the thread.
    ///
    /// `front` is the place of `mailbox` among those that the forwarder was started with, and the
    /// mailbox holds at least `max_pending` outcomes. When that many queries wait, further ones
    /// that the cache cannot answer get SERVFAIL.
    ///
    /// # Errors
    /// The thread, its epoll instance or a registration with it is not to be had.
    pub fn start(
        listeners: Listeners,
        core: Core,
        forwarder: Handle,
        mailbox: Arc<Mailbox>,
        front: u16,
        max_pending: usize,
        clock: Clock,
    ) -> io::Result<Self> {
        let counters = Arc::<SocketCounters>::default();
        let service = Service::new(
            core,
            forwarder,
            mailbox,
            front,
            max_pending,
            clock,
            counters.clone(),
        );
        let stop = Arc::<AtomicBool>::default();
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        let front = Loop::new(listeners, service, poll, stop.clone(), counters.clone())?;
        let thread = thread::Builder::new()
            .name("sockets".into())
            .spawn(move || front.run())?;
        Ok(Self {
            stop,
            waker,
            counters,
            thread,
        })
    }

    /// The thread's counters.
    pub fn counters(&self) -> Arc<SocketCounters> {
        self.counters.clone()
    }

    /// Ends the thread and closes all sockets. Queries that still wait get no reply.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake the socket thread");
            return;
        }
        if self.thread.join().is_err() {
            tracing::error!("the socket thread had panicked");
        }
    }
}

struct Loop {
    poll: Poll,
    stop: Arc<AtomicBool>,
    service: Service,
    counters: Arc<SocketCounters>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    connections: Slab<Connection>,
    /// Of the last connection.
    serial: u64,
    /// A listener could not accept for want of descriptors; it is tried again at the next sweep.
    starved: bool,
    swept: Instant,
    control: Control,
    /// A message and then its reply.
    buf: Box<[u8]>,
    /// Octets on their way from a stream.
    scratch: Box<[u8]>,
}

/// The loop.
impl Loop {
    fn new(
        listeners: Listeners,
        service: Service,
        poll: Poll,
        stop: Arc<AtomicBool>,
        counters: Arc<SocketCounters>,
    ) -> io::Result<Self> {
        let registry = poll.registry();
        let mut udp: Vec<_> = listeners.udp.into_iter().map(UdpSocket::from_std).collect();
        let mut tcp: Vec<_> = listeners
            .tcp
            .into_iter()
            .map(TcpListener::from_std)
            .collect();
        for (index, socket) in udp.iter_mut().enumerate() {
            registry.register(socket, Token(LISTENERS + 2 * index), Interest::READABLE)?;
        }
        for (index, listener) in tcp.iter_mut().enumerate() {
            registry.register(
                listener,
                Token(LISTENERS + 2 * index + 1),
                Interest::READABLE,
            )?;
        }
        let event = service.mailbox.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&event), MAILBOX, Interest::READABLE)?;
        Ok(Self {
            poll,
            stop,
            service,
            counters,
            udp,
            tcp,
            connections: Slab::new(),
            serial: 0,
            starved: false,
            swept: Instant::now(),
            control: Control::new(),
            buf: vec![0; MAX_MESSAGE].into(),
            scratch: vec![0; 16 << 10].into(),
        })
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let first_connection = LISTENERS + 2 * self.udp.len();
        while !self.stop.load(Ordering::SeqCst) {
            let timeout = (self.starved || !self.connections.is_empty()).then_some(SWEEP);
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "the socket thread cannot wait for events");
                return;
            }
            let now = Instant::now();
            self.service.begin();
            for event in &events {
                match event.token() {
                    STOP => {}
                    MAILBOX => self.outcomes(now),
                    Token(token) if token >= first_connection => {
                        self.serve(token - first_connection, now);
                    }
                    Token(token) if token % 2 == 0 => self.datagrams((token - LISTENERS) / 2),
                    Token(token) => self.accept((token - LISTENERS) / 2, now),
                }
            }
            self.sweep(now);
            self.service.end();
        }
    }

    fn outcomes(&mut self, now: Instant) {
        let mailbox = self.service.mailbox.clone();
        // Before the queue is emptied: what is put in later rings again.
        mailbox.silence();
        while let Some(outcome) = mailbox.take() {
            let Some((client, len)) = self.service.outcome(outcome, &mut self.buf) else {
                continue;
            };
            match client {
                Client::Udp { listener, path } => self.send(listener, len, &path),
                Client::Tcp { connection, serial } => {
                    let Some(open) = self
                        .connections
                        .get_mut(connection)
                        .filter(|open| open.serial == serial)
                    else {
                        continue;
                    };
                    open.pending -= 1;
                    open.last_used = now;
                    if len > 0 {
                        open.reply(self.buf.get(..len).unwrap_or_default());
                        self.counters.tcp_answered.add(1);
                    }
                    self.serve(connection, now);
                }
            }
        }
    }
}

/// Datagrams.
impl Loop {
    fn datagrams(&mut self, listener: usize) {
        for _ in 0..UDP_BATCH {
            let Some(socket) = self.udp.get(listener) else {
                return;
            };
            let (len, path) = match udp::receive(socket, &mut self.buf, &mut self.control) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Whatever the kernel has to say about one datagram, the next may be fine.
                Err(_) => continue,
            };
            self.counters.udp_received.add(1);
            let transport = Transport::Udp {
                source_port: path.peer.port(),
            };
            let client = Client::Udp { listener, path };
            if let Verdict::Reply(len) = self.service.ask(&mut self.buf, len, transport, client) {
                self.send(listener, len, &path);
            }
        }
        let token = Token(LISTENERS + 2 * listener);
        if let Some(socket) = self.udp.get_mut(listener)
            && let Err(error) = self
                .poll
                .registry()
                .reregister(socket, token, Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a UDP socket anew");
        }
    }

    fn send(&self, listener: usize, len: usize, path: &udp::Path) {
        let (Some(socket), Some(msg)) = (self.udp.get(listener), self.buf.get(..len)) else {
            return;
        };
        if msg.is_empty() {
            return;
        }
        match udp::send(socket.as_raw_fd(), msg, path) {
            Ok(()) => self.counters.udp_answered.add(1),
            Err(_) => self.counters.udp_send_failed.add(1),
        }
    }
}

/// Connections.
impl Loop {
    fn token(&self, connection: usize) -> Token {
        Token(LISTENERS + 2 * self.udp.len() + connection)
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            let Some(socket) = self.tcp.get(listener) else {
                return;
            };
            match socket.accept() {
                Ok((stream, _)) => self.open(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // Out of descriptors or memory: an idle connection gives back some.
                    self.close_oldest();
                    self.starved = true;
                    return;
                }
            }
        }
        let token = Token(LISTENERS + 2 * listener + 1);
        if let Some(socket) = self.tcp.get_mut(listener)
            && let Err(error) = self
                .poll
                .registry()
                .reregister(socket, token, Interest::READABLE)
        {
            tracing::error!(%error, "cannot register a TCP listener anew");
        }
    }

    fn open(&mut self, mut stream: TcpStream, now: Instant) {
        self.counters.tcp_connections.add(1);
        if self.connections.len() >= MAX_CONNECTIONS && !self.close_oldest() {
            return;
        }
        let connection = self.connections.vacant_key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = self.token(connection);
        // Replies are written whole, and the next one should not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        if self
            .poll
            .registry()
            .register(&mut stream, token, interest)
            .is_ok()
        {
            self.serial += 1;
            self.connections
                .insert(Connection::new(stream, self.serial, now));
        }
    }

    /// Does what can be done for a connection: reads, answers, writes, and closes it at its end.
    fn serve(&mut self, connection: usize, now: Instant) {
        match self.exchange(connection, now) {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                self.connections.try_remove(connection);
            }
        }
    }

    /// Whether the connection stays open.
    fn exchange(&mut self, connection: usize, now: Instant) -> io::Result<bool> {
        let token = self.token(connection);
        let Some(open) = self.connections.get_mut(connection) else {
            return Ok(true);
        };
        loop {
            let had_room = open.has_room();
            let input = if had_room && !open.ended {
                open.read(&mut self.scratch)?
            } else {
                Input::Drained
            };
            while open.has_room() {
                let Some(len) = open.message(&mut self.buf) else {
                    break;
                };
                self.counters.tcp_received.add(1);
                open.last_used = now;
                let serial = open.serial;
                let client = Client::Tcp { connection, serial };
                match self.service.ask(&mut self.buf, len, Transport::Tcp, client) {
                    Verdict::Reply(len) => {
                        open.reply(self.buf.get(..len).unwrap_or_default());
                        self.counters.tcp_answered.add(1);
                    }
                    Verdict::Miss => open.pending += 1,
                    // Not DNS, or a response: there is no use in listening on.
                    Verdict::Drop => return Ok(false),
                }
                if !open.has_room() {
                    open.write(now)?;
                }
            }
            open.write(now)?;
            if input == Input::More {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll
                    .registry()
                    .reregister(&mut open.stream, token, interest)?;
                return Ok(true);
            }
            if had_room || !open.has_room() {
                return Ok(!(open.ended && open.is_quiet()));
            }
        }
    }

    /// Closes the connection that was idle longest, if one is idle at all.
    fn close_oldest(&mut self) -> bool {
        let oldest = self
            .connections
            .iter()
            .filter(|(_, open)| open.pending == 0)
            .min_by_key(|(_, open)| open.last_used)
            .map(|(connection, _)| connection);
        let Some(connection) = oldest else {
            return false;
        };
        self.connections.try_remove(connection);
        self.counters.tcp_closed_idle.add(1);
        true
    }

    /// Closes idle connections, and accepts again where that had failed.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let counters = &self.counters;
        self.connections.retain(|_, open| {
            let idle = open.pending == 0 && now.saturating_duration_since(open.last_used) >= IDLE;
            if idle {
                counters.tcp_closed_idle.add(1);
            }
            !idle
        });
        if std::mem::take(&mut self.starved) {
            for listener in 0..self.tcp.len() {
                self.accept(listener, now);
            }
        }
    }
}

/// Errors of accept(2) that concern the connection, not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ENOBUFS | nix::libc::ENOMEM)
    )
}
