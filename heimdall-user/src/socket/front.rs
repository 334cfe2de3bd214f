//! A thread of the socket front: its loop over listeners, connections and the mailbox.
//!
//! epoll reports each change once (mio is edge-triggered). A socket that is left unread for the sake
//! of fairness is registered again, which makes epoll report it again.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{
    Listeners, SocketCounters,
    connections::ACCEPT_BATCH,
    origin::{Message, Parked},
    retirement::{Ending, RESPONSE, State, TICK},
    sockets::{LISTENERS, Sockets},
};
use crate::{
    exit::{OnExit, OwnedThread},
    front::{BATCH, Batch, Engine, Resources},
    handover::Connection,
    heartbeat,
    maintenance::Status,
};

/// How often idle connections are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// Commands that may wait for the thread. Whoever gives it more waits, for a bounded time.
const MAX_COMMANDS: usize = 64;

/// It is to stop, or commands wait.
const WAKEN: Token = Token(0);
const MAILBOX: Token = Token(1);
const _: () = assert!(LISTENERS == 2, "tokens of their own");

/// A running thread of the socket front. Dropping it ends the thread and closes its sockets; queries that still
/// wait get no reply.
#[derive(Debug)]
pub struct SocketFront {
    pub(super) counters: Arc<SocketCounters>,
    /// Connections that were given to the thread, and that it has not looked at.
    pub(super) given: Arc<AtomicU64>,
    commands: SyncSender<Command>,
    waker: Arc<Waker>,
    _thread: OwnedThread,
}

/// What the thread is to do besides serving.
#[derive(Debug)]
pub(super) enum Command {
    /// To end its service by `until`. Connections that are handed over are sent to `to`, which is dropped at the end.
    Retire {
        how: Ending,
        until: Instant,
        to: Sender<Connection>,
    },
    /// To serve again.
    Resume,
    /// To go on with a predecessor's connection.
    Adopt(Connection),
    /// To duplicate the listeners.
    Duplicate(SyncSender<io::Result<Vec<OwnedFd>>>),
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
        let waker = Arc::new(Waker::new(poll.registry(), WAKEN)?);
        let engine = Engine::new(resources);
        let front = Loop::new(listeners, engine, poll, Arc::clone(&counters))?;
        let stopped = Arc::<AtomicBool>::default();
        let stopping = Arc::clone(&stopped);
        let stop = {
            let waker = Arc::clone(&waker);
            move || {
                stopping.store(true, Ordering::SeqCst);
                // Writing to an eventfd fails only if it is readable already.
                let _ = waker.wake();
            }
        };
        let (commands, to_do) = sync_channel(MAX_COMMANDS);
        let given = Arc::<AtomicU64>::default();
        let inbox = Inbox {
            commands: to_do,
            given: Arc::clone(&given),
        };
        let thread = OwnedThread::start(name, on_exit, stop, move || front.run(&stopped, &inbox))?;
        Ok(Self {
            counters,
            given,
            commands,
            waker,
            _thread: thread,
        })
    }

    /// Gives the thread a command. Waits while it has too many, as long as a thread that works may take. Whether it has got it;
    /// that it has ended, its owner learns otherwise.
    pub(super) fn send(&self, mut command: Command) -> bool {
        let end = Instant::now() + RESPONSE;
        loop {
            match self.commands.try_send(command) {
                Ok(()) => {
                    let _ = self.waker.wake();
                    return true;
                }
                Err(TrySendError::Full(same)) if Instant::now() < end => {
                    command = same;
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TrySendError::Full(_)) => {
                    tracing::error!("a thread of the sockets does not respond");
                    return false;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
    }

    /// The thread's counters.
    pub(crate) fn counters(&self) -> Arc<SocketCounters> {
        Arc::clone(&self.counters)
    }
}

/// The thread's commands.
struct Inbox {
    commands: Receiver<Command>,
    given: Arc<AtomicU64>,
}

/// What the thread owns, and its loop.
pub(super) struct Loop {
    poll: Poll,
    pub(super) state: State,
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
            state: State::Serving,
            engine,
            batch: Batch::new(),
            sockets,
        })
    }

    fn run(mut self, stop: &AtomicBool, inbox: &Inbox) {
        let mut events = Events::with_capacity(256);
        let mut maintenance = Status::Busy;
        let mut has_commands = false;
        while !stop.load(Ordering::SeqCst) {
            let sweep = self.sockets.needs_sweep().then_some(SWEEP);
            let has_work = has_commands || self.sockets.connections.has_handshakes();
            let timeout = match self.engine.prepare_to_sleep() {
                true if has_work => Duration::ZERO,
                true if matches!(self.state, State::Retiring(_)) => TICK,
                true => maintenance
                    .timeout()
                    .or(sweep)
                    .unwrap_or(heartbeat::MAX_SLEEP),
                false => Duration::ZERO,
            };
            let polled = self.poll.poll(&mut events, Some(timeout));
            if events.is_empty() {
                self.sockets.settle();
            }
            heartbeat::beat();
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
                    WAKEN => has_commands = true,
                    MAILBOX => self.engine.silence(),
                    token => self.ready(token, event.is_read_closed()),
                }
            }
            self.complete();
            self.serve_handshake();
            has_commands = has_commands && self.execute(inbox);
            self.continue_retirement();
            self.sockets.sweep(&self.engine);
            self.engine.end();
            let waiting = self.engine.waiting();
            self.sockets.counters.pending.set(waiting as u64);
            self.sockets.count_connections();
            maintenance = self.engine.maintain();
        }
    }

    /// Executes commands, up to a bound. Whether there may be more.
    fn execute(&mut self, inbox: &Inbox) -> bool {
        for _ in 0..ACCEPT_BATCH {
            match inbox.commands.try_recv() {
                Ok(Command::Retire { how, until, to }) => self.retire(how, until, to),
                Ok(Command::Resume) => self.resume(),
                Ok(Command::Adopt(connection)) => {
                    self.adopt(connection);
                    self.sockets.count_connections();
                    inbox.given.fetch_sub(1, Ordering::Relaxed);
                }
                // Whoever asked may have given up.
                Ok(Command::Duplicate(to)) => drop(to.try_send(self.sockets.duplicates())),
                Err(_) => return false,
            }
        }
        true
    }

    /// Serves a listener or a connection. `closing`: whoever is at its other end sends no more.
    fn ready(&mut self, token: Token, closing: bool) {
        match token.0.checked_sub(self.sockets.connections.first_token) {
            Some(connection) => {
                if closing {
                    self.sockets.connections.note_closing(connection);
                }
                if !self.sockets.connections.waits_for_handshake(connection) {
                    self.serve(connection);
                }
            }
            None => match token.0.checked_sub(self.sockets.first_stream) {
                Some(listener) => self.sockets.accept(listener, &self.engine),
                None => self.datagrams(token.0 - LISTENERS),
            },
        }
    }

    /// Replies to the queries whose outcomes have arrived.
    pub(super) fn complete(&mut self) {
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
