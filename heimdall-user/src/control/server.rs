//! Answering on the control socket.

use std::{
    io::{self, BufWriter, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use serde_json::json;
use tracing::{debug, warn};

use super::{Control, ControlCommand};
use crate::exit::{OnExit, OwnedThread};

/// Longest command line, its newline included, in octets.
const MAX_COMMAND: usize = 2048;

/// How long a client may take to send its command.
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

/// How long clients may read their answers when the server stops.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// The thread that answers on the control socket. Dropping this ends it and removes the socket;
/// clients that have sent a command may read their answers for half a second.
#[derive(Debug)]
pub(crate) struct ControlServer {
    _thread: OwnedThread,
}

/// The function that writes the answer to a command.
pub(super) trait Respond:
    Fn(ControlCommand, &mut dyn Write) -> io::Result<()> + Send + Sync
{
}

impl<F: Fn(ControlCommand, &mut dyn Write) -> io::Result<()> + Send + Sync> Respond for F {}

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
        let thread = OwnedThread::start("control", on_exit, stop, move || {
            run(&control, &seen, Arc::new(respond));
        })?;
        Ok(Self { _thread: thread })
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

fn run(control: &Control, stop: &EventFd, respond: Arc<impl Respond + 'static>) {
    let mut clients = Clients(Vec::new());
    loop {
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(control.listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
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
            match accept(control, &respond) {
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
    let respond = Arc::clone(respond);
    let thread = thread::Builder::new()
        .name("control client".to_owned())
        .spawn(move || {
            if let Err(error) = answer(&connection, &*respond) {
                debug!("a control client got no complete answer: {error}");
            }
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

fn answer(client: &Connection, respond: &impl Respond) -> io::Result<()> {
    let mut buf = [0; MAX_COMMAND];
    let line = read_line(client, &mut buf, Instant::now() + READ_TIMEOUT)?;
    client.stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut to = BufWriter::with_capacity(64 << 10, ClientWriter(client));
    match ControlCommand::parse(line) {
        Ok(command) => respond(command, &mut to)?,
        Err(error) => writeln!(to, "{}", json!({ "error": error }))?,
    }
    to.flush()
}

/// Reads up to the newline, which is left out.
fn read_line<'a>(
    client: &Connection,
    buf: &'a mut [u8; MAX_COMMAND],
    deadline: Instant,
) -> io::Result<&'a [u8]> {
    let mut len = 0;
    loop {
        client.stream.set_read_timeout(Some(left(deadline)?))?;
        let room = buf.get_mut(len..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "command too long",
            ));
        }
        match client.wait(|mut stream| stream.read(room)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
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
fn left(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}
