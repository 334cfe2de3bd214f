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
    net::{TcpListener, UdpSocket},
    unix::SourceFd,
};
use slab::Slab;

use super::{
    Listeners, SocketCounters, datagrams::Datagrams, holders::Holders, pending::Origin,
    service::Service, tcp::Connection,
};
use crate::{
    answer::Core,
    clock::Clock,
    exit::OnExit,
    forward::{Handle, Mailbox},
    maintenance::{Maintenance, Status},
};

/// How often idle connections are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// Largest message.
const MAX_MESSAGE: usize = u16::MAX as usize;

const STOP: Token = Token(0);
const MAILBOX: Token = Token(1);
/// Listeners' tokens: UDP even, TCP odd.
pub(super) const LISTENERS: usize = 2;

/// What the socket front owns.
#[derive(Debug)]
pub struct Parts {
    /// The answer core.
    pub core: Core,
    /// Of the core's cache. It rings `mailbox`.
    pub maintenance: Maintenance,
    /// The way to the forwarder.
    pub forwarder: Handle,
    /// The way back. It has room for `max_pending` outcomes.
    pub mailbox: Arc<Mailbox>,
    /// The place of `mailbox` among those that the forwarder was started with.
    pub front: u16,
    /// Queries that may wait for the forwarder. When that many do, further ones that the cache
    /// cannot answer get SERVFAIL.
    pub max_pending: usize,
    /// Dropped when the thread has ended.
    pub on_exit: OnExit,
}

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
    /// # Errors
    /// The thread, its epoll instance or a registration with it is not to be had.
    pub fn start(listeners: Listeners, mut parts: Parts, clock: Clock) -> io::Result<Self> {
        let on_exit = std::mem::take(&mut parts.on_exit);
        let counters = Arc::<SocketCounters>::default();
        let service = Service::new(parts, clock, counters.clone());
        let stop = Arc::<AtomicBool>::default();
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        let front = Loop::new(listeners, service, poll, stop.clone(), counters.clone())?;
        let thread = thread::Builder::new()
            .name("sockets".into())
            .spawn(move || {
                let _on_exit = on_exit;
                front.run();
            })?;
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

pub(super) struct Loop {
    pub(super) poll: Poll,
    stop: Arc<AtomicBool>,
    pub(super) service: Service,
    pub(super) counters: Arc<SocketCounters>,
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) connections: Slab<Connection>,
    /// Who holds them.
    pub(super) holders: Holders,
    /// Of the last connection.
    pub(super) serial: u64,
    /// A listener could not accept for want of descriptors; it is tried again at the next sweep.
    pub(super) starved: bool,
    pub(super) swept: Instant,
    pub(super) datagrams: Datagrams,
    /// A message and then its reply.
    pub(super) buf: Box<[u8]>,
    /// Octets on their way from a stream.
    pub(super) scratch: Box<[u8]>,
}

/// The loop.
impl Loop {
    pub(super) fn new(
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
            holders: Holders::default(),
            serial: 0,
            starved: false,
            swept: Instant::now(),
            datagrams: Datagrams::new(),
            buf: vec![0; MAX_MESSAGE].into(),
            scratch: vec![0; 16 << 10].into(),
        })
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut maintenance = Status::Idle;
        self.service.populate();
        let first_connection = LISTENERS + 2 * self.udp.len();
        while !self.stop.load(Ordering::SeqCst) {
            let sweep = (self.starved || !self.connections.is_empty()).then_some(SWEEP);
            let timeout = maintenance.timeout().or(sweep);
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
            maintenance = self.service.maintain();
            self.service.end();
        }
    }

    fn outcomes(&mut self, now: Instant) {
        let mailbox = self.service.mailbox.clone();
        // Before the queue is emptied: what is put in later rings again.
        mailbox.silence();
        while let Some(outcome) = mailbox.take() {
            let Some((waiting, len)) = self.service.outcome(outcome, &mut self.buf) else {
                continue;
            };
            match waiting.origin {
                Origin::Udp { listener, path } => self.post(listener, path, waiting.query, len),
                Origin::Tcp {
                    connection, serial, ..
                } => {
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
        self.send_posted();
    }
}
