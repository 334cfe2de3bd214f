//! Answering on the control socket.

use std::{
    io::{self, BufWriter, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
    unistd::dup3,
};
use serde_json::json;
use tracing::{debug, warn};

use super::{Answers, Control, ControlCommand, SocketFile};
use crate::{
    exit::{OnExit, OwnedThread},
    heartbeat,
};

/// Longest request, its newline included, in octets. The longest name has some 1,300 in JSON.
pub(super) const MAX_REQUEST: usize = 4096;

/// How long a client may take to send its request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may leave a part of its answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// Clients at once, each with a thread. One more closes the one that has been silent for longest.
const MAX_CLIENTS: usize = 16;

/// Milliseconds between two checks whether a client's thread has ended, when there are as many as may
/// be.
const FULL_PAUSE: u16 = 1;

/// Milliseconds after which the server tries again to accept a client when it could not.
const ERROR_PAUSE: u16 = 500;

/// Descriptors kept for clients: a process that has no others left still answers some.
const RESERVED: usize = 4;

/// How long clients may read their answers when the server stops.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// The thread that answers on the control socket. Dropping this ends it and removes the socket;
/// clients that have sent a command may read their answers for half a second.
#[derive(Debug)]
pub(crate) struct ControlServer {
    listener: OwnedFd,
    file: SocketFile,
    _thread: OwnedThread,
}

/// What answers commands.
pub(super) trait Respond: Send + Sync {
    /// Writes the answer to a command.
    fn respond(&self, command: ControlCommand, to: &mut dyn Write) -> io::Result<()>;

    /// Gives a command and its client to the server's owner.
    fn to_owner(&self, command: ControlCommand, client: UnixStream);
}

impl<R, O> Respond for Answers<R, O>
where
    R: Fn(ControlCommand, &mut dyn Write) -> io::Result<()> + Send + Sync,
    O: Fn(ControlCommand, UnixStream) + Send + Sync,
{
    fn respond(&self, command: ControlCommand, to: &mut dyn Write) -> io::Result<()> {
        (self.respond)(command, to)
    }

    fn to_owner(&self, command: ControlCommand, client: UnixStream) {
        (self.to_owner)(command, client);
    }
}

impl ControlServer {
    pub(super) fn start(
        control: Control,
        on_exit: OnExit,
        respond: impl Respond + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let seen = Arc::clone(&stop);
        let stop = move || {
            // EAGAIN: it is readable already.
            let _ = stop.write(1);
        };
        let listener = control.duplicate()?;
        let file = control.file.clone();
        let thread = OwnedThread::start("control", on_exit, stop, move || {
            run(&control, &seen, Arc::new(respond));
        })?;
        Ok(Self {
            listener,
            file,
            _thread: thread,
        })
    }

    /// A duplicate of the listener, for a successor.
    ///
    /// # Errors
    /// No descriptor is free.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone()
    }

    /// The socket's file belongs to this server from now on, and gets the mode and group of its settings: its predecessor has
    /// ended.
    pub(crate) fn own(&self) {
        self.file.own();
    }

    /// Ends as a drop does, but leaves the socket's file to a successor.
    pub(crate) fn release(self) {
        self.file.is_own.store(false, Ordering::SeqCst);
    }
}

/// A client and its thread, which owns the connection: it is closed when the thread ends.
struct ControlClient {
    connection: Weak<Connection>,
    thread: JoinHandle<()>,
}

impl ControlClient {
    fn waiting(&self) -> Option<Instant> {
        self.connection.upgrade()?.waiting()
    }

    /// Ends the thread's reads and writes.
    fn close(&self, how: Shutdown) {
        if let Some(connection) = self.connection.upgrade() {
            // Closed by the client already: they end as well.
            let _ = connection.stream.shutdown(how);
        }
    }
}

struct Connection {
    stream: UnixStream,
    /// Since when the server has been waiting for the client to write or to read, if it is.
    waiting: Mutex<Option<Instant>>,
}

impl Connection {
    /// Waits for the client in `call`.
    fn wait<T>(&self, call: impl FnOnce(&UnixStream) -> T) -> T {
        self.set_waiting(Some(Instant::now()));
        let outcome = call(&self.stream);
        self.set_waiting(None);
        outcome
    }

    fn set_waiting(&self, since: Option<Instant>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn waiting(&self) -> Option<Instant> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Descriptors that are there to be closed, each for a client to be accepted in its place. All are
/// duplicates of `any`.
struct Reserve {
    descriptors: Mutex<Vec<OwnedFd>>,
    any: Arc<EventFd>,
}

impl Reserve {
    fn descriptors(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.descriptors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what is missing, as far as there are descriptors.
    fn fill(&self) {
        let mut descriptors = self.descriptors();
        while descriptors.len() < RESERVED
            && let Ok(descriptor) = self.any.as_fd().try_clone_to_owned()
        {
            descriptors.push(descriptor);
        }
    }

    /// Frees a descriptor, if the error is the lack of one. Whether it did.
    fn release_for(&self, error: &io::Error) -> bool {
        let lacking = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        lacking && self.descriptors().pop().is_some()
    }

    /// Closes a connection, and keeps its descriptor if one is missing: no other thread opens a file with it meanwhile.
    fn close(&self, connection: Arc<Connection>) {
        let mut descriptors = self.descriptors();
        if descriptors.len() < RESERVED
            && let Some(connection) = Arc::into_inner(connection)
        {
            let mut descriptor = OwnedFd::from(connection.stream);
            if dup3(&*self.any, &mut descriptor, OFlag::O_CLOEXEC).is_ok() {
                descriptors.push(descriptor);
            }
        }
    }
}

fn run(control: &Control, stop: &Arc<EventFd>, respond: Arc<impl Respond + 'static>) {
    let mut clients = Clients(Vec::new());
    let reserve = Arc::new(Reserve {
        descriptors: Mutex::default(),
        any: Arc::clone(stop),
    });
    let longest = PollTimeout::try_from(heartbeat::MAX_SLEEP).unwrap_or(PollTimeout::MAX);
    loop {
        heartbeat::beat();
        reserve.fill();
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(control.listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, longest) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                warn!("the control socket is closed: poll: {error}");
                break;
            }
        }
        let [stopped, _] = &fds;
        if stopped.any().unwrap_or(false) {
            break;
        }
        clients.0.retain(|client| !client.thread.is_finished());
        let pause = if clients.0.len() < MAX_CLIENTS {
            let mut accepted = accept(control, &respond, &reserve);
            while let Err(error) = &accepted
                && reserve.release_for(error)
            {
                accepted = accept(control, &respond, &reserve);
            }
            match accepted {
                Ok(client) => {
                    clients.0.extend(client);
                    continue;
                }
                Err(error) => {
                    // Out of descriptors or threads, most likely: the listener stays readable.
                    warn!("a control client cannot be accepted: {error}");
                    ERROR_PAUSE
                }
            }
        } else {
            clients.close_silent();
            FULL_PAUSE
        };
        let mut stopped = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut stopped, pause);
    }
}

/// Accepts a client, if one is waiting, and starts its thread.
fn accept(
    control: &Control,
    respond: &Arc<impl Respond + 'static>,
    reserve: &Arc<Reserve>,
) -> io::Result<Option<ControlClient>> {
    let stream = match control.listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    let connection = Arc::new(Connection {
        stream,
        waiting: Mutex::new(Some(Instant::now())),
    });
    let client = Arc::downgrade(&connection);
    let (respond, reserve) = (Arc::clone(respond), Arc::clone(reserve));
    let thread = thread::Builder::new()
        .name("control client".to_owned())
        .spawn(move || {
            if let Err(error) = answer(&connection, &*respond) {
                debug!("a control client got no complete answer: {error}");
            }
            reserve.close(connection);
        })?;
    Ok(Some(ControlClient {
        connection: client,
        thread,
    }))
}

/// The clients that are connected.
struct Clients(Vec<ControlClient>);

impl Clients {
    /// Closes the client that has been silent for longest, if one is.
    fn close_silent(&self) {
        let clients = self.0.iter();
        let waiting = clients.filter_map(|client| Some((client.waiting()?, client)));
        if let Some((_, client)) = waiting.min_by_key(|(since, _)| *since) {
            client.close(Shutdown::Both);
        }
    }
}

impl Drop for Clients {
    /// Waits for the clients' threads, except for none longer than [`STOP_WAIT`].
    fn drop(&mut self) {
        for client in &self.0 {
            // Commands that were received are answered.
            client.close(Shutdown::Read);
        }
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline && self.0.iter().any(|one| !one.thread.is_finished()) {
            thread::sleep(Duration::from_millis(5));
        }
        for client in self.0.drain(..) {
            client.close(Shutdown::Both);
            // A thread that is still busy with a long command, such as a reload, cannot be
            // interrupted: it ends with its command, or with the process.
            if client.thread.is_finished() {
                // A panic has been logged by the hook.
                let _ = client.thread.join();
            }
        }
    }
}

/// Why there is no request.
enum NoRequest {
    /// The client gets the reason.
    Refused(String),
    /// There is no client any more.
    Gone(io::Error),
}

impl From<io::Error> for NoRequest {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn answer(client: &Connection, respond: &impl Respond) -> io::Result<()> {
    let mut buf = [0; MAX_REQUEST];
    let line = read_line(client, &mut buf, Instant::now() + READ_TIMEOUT);
    let command = line.and_then(|line| ControlCommand::parse(line).map_err(NoRequest::Refused));
    client.stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut to = BufWriter::with_capacity(64 << 10, ClientWriter(client));
    match command {
        Ok(command) if command.is_for_owner() => {
            // A duplicate: this thread ends, and with it the connection.
            respond.to_owner(command, client.stream.try_clone()?);
            return Ok(());
        }
        Ok(command) => respond.respond(command, &mut to)?,
        Err(NoRequest::Refused(error)) => writeln!(to, "{}", json!({ "error": error }))?,
        Err(NoRequest::Gone(error)) => return Err(error),
    }
    to.flush()
}

/// Reads up to the newline, which is left out.
fn read_line<'a>(
    client: &Connection,
    buf: &'a mut [u8; MAX_REQUEST],
    deadline: Instant,
) -> Result<&'a [u8], NoRequest> {
    let refused = |why: String| Err(NoRequest::Refused(why));
    let mut len = 0;
    loop {
        let Some(left) = left(deadline) else {
            return refused(format!("no request within {} s", READ_TIMEOUT.as_secs()));
        };
        client.stream.set_read_timeout(Some(left))?;
        let rest = buf.get_mut(len..).unwrap_or_default();
        if rest.is_empty() {
            return refused(format!("a request has at most {MAX_REQUEST} octets"));
        }
        match client.wait(|mut stream| stream.read(rest)) {
            Ok(0) if len == 0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(0) => return refused("the request does not end with a newline".to_owned()),
            Ok(read) => len += read,
            // A time-out, after which no time is left, or a signal.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error.into()),
        }
        let end = buf.iter().take(len).position(|octet| *octet == b'\n');
        if let Some(end) = end {
            return Ok(buf.get(..end).unwrap_or_default());
        }
    }
}

/// Writes to a client that has to read some of it within [`WRITE_TIMEOUT`] each time.
struct ClientWriter<'a>(&'a Connection);

impl Write for ClientWriter<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.wait(|mut stream| stream.write(octets))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Time left, never zero: a timeout of zero would mean none.
fn left(deadline: Instant) -> Option<Duration> {
    let left = deadline.checked_duration_since(Instant::now())?;
    (!left.is_zero()).then_some(left)
}
