//! A thread of the socket front: its loop over listeners, connections and the mailbox.
//!
//! epoll reports each change once (mio is edge-triggered). A socket that is left unread for the sake
//! of fairness is registered again, which makes epoll report it again.

use std::{
    io::{self, ErrorKind},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{
    Listeners, SocketCounters,
    origin::{Message, Parked},
    sockets::{LISTENERS, Sockets},
};
use crate::{
    exit::{OnExit, OwnedThread},
    front::{BATCH, Batch, Engine, Resources},
    maintenance::Status,
};

/// How often idle connections are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

const STOP: Token = Token(0);
const MAILBOX: Token = Token(1);
const _: () = assert!(LISTENERS == 2, "tokens of their own");

/// A running thread of the socket front. Dropping it ends the thread and closes its sockets; queries that still
/// wait get no reply.
#[derive(Debug)]
pub struct SocketFront {
    counters: Arc<SocketCounters>,
    _thread: OwnedThread,
}

impl SocketFront {
    /// Starts the thread, under this name. `on_exit` is called if it ends without having been stopped.
    ///
    /// # Errors
    /// The thread or its epoll instance cannot be created, or a registration with that fails.
    pub fn start(
        name: &str,
        listeners: Listeners,
        resources: Resources,
        on_exit: OnExit,
    ) -> io::Result<Self> {
        let counters = Arc::<SocketCounters>::default();
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let engine = Engine::new(resources);
        let front = Loop::new(listeners, engine, poll, Arc::clone(&counters))?;
        let stopped = Arc::<AtomicBool>::default();
        let stopping = Arc::clone(&stopped);
        let stop = move || {
            stopping.store(true, Ordering::SeqCst);
            // Writing to an eventfd fails only if it is readable already.
            let _ = waker.wake();
        };
        let thread = OwnedThread::start(name, on_exit, stop, move || front.run(&stopped))?;
        Ok(Self {
            counters,
            _thread: thread,
        })
    }

    /// The thread's counters.
    pub(crate) fn counters(&self) -> Arc<SocketCounters> {
        Arc::clone(&self.counters)
    }
}

/// What the thread owns, and its loop.
pub(super) struct Loop {
    poll: Poll,
    pub(super) engine: Engine<Parked>,
    pub(super) batch: Batch<Message>,
    pub(super) sockets: Sockets,
}

impl Loop {
    pub(super) fn new(
        listeners: Listeners,
        engine: Engine<Parked>,
        poll: Poll,
        counters: Arc<SocketCounters>,
    ) -> io::Result<Self> {
        let sockets = Sockets::new(listeners, poll.registry().try_clone()?, counters)?;
        let event = engine.event().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&event), MAILBOX, Interest::READABLE)?;
        Ok(Self {
            poll,
            engine,
            batch: Batch::new(),
            sockets,
        })
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut events = Events::with_capacity(256);
        let mut maintenance = Status::Busy;
        while !stop.load(Ordering::SeqCst) {
            let sweep = self.sockets.needs_sweep().then_some(SWEEP);
            let timeout = match self.engine.prepare_to_sleep() {
                true => maintenance.timeout().or(sweep),
                false => Some(Duration::ZERO),
            };
            let polled = self.poll.poll(&mut events, timeout);
            self.engine.awake();
            if let Err(error) = polled
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "the socket thread cannot wait for events");
                return;
            }
            self.sockets.now = Instant::now();
            self.engine.begin();
            for event in &events {
                match event.token() {
                    STOP => {}
                    MAILBOX => self.engine.silence(),
                    token => self.ready(token, event.is_read_closed()),
                }
            }
            self.complete();
            self.sockets.sweep();
            self.engine.end();
            let waiting = self.engine.waiting();
            self.sockets.counters.pending.set(waiting as u64);
            maintenance = self.engine.maintain();
        }
    }

    /// Serves a listener or a connection. `closing`: whoever is at its other end sends no more.
    fn ready(&mut self, token: Token, closing: bool) {
        match token.0.checked_sub(self.sockets.connections.first_token) {
            Some(connection) => {
                if closing {
                    self.sockets.connections.note_closing(connection);
                }
                self.serve(connection);
            }
            None => {
                let listener = (token.0 - LISTENERS) / 2;
                if token.0.is_multiple_of(2) {
                    self.datagrams(listener);
                } else {
                    self.sockets.accept(listener);
                }
            }
        }
    }

    /// Replies to the queries whose outcomes have arrived.
    fn complete(&mut self) {
        loop {
            let completed = self.engine.complete(&mut self.sockets);
            self.send_datagrams();
            self.sockets.connections.write_resumed(self.sockets.now);
            self.engine.sent();
            while let Some(connection) = self.sockets.connections.next_resumed() {
                self.serve(connection);
            }
            if completed < BATCH {
                return;
            }
        }
    }
}
