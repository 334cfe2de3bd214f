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

use super::{Control, Request};
use crate::exit::OnExit;

/// Longest request, its newline included, in octets.
const MAX_REQUEST: usize = 2048;

/// How long a client may take to ask.
const ASK: Duration = Duration::from_secs(5);

/// How long a client may leave a part of its answer unread.
const READ: Duration = Duration::from_millis(500);

/// Clients at once, each with a thread. One more closes the one that has been silent for longest.
const MAX_CLIENTS: usize = 16;

/// Milliseconds after which the server looks again whether a thread of the most clients has ended.
const FULL_PAUSE: u16 = 1;

/// Milliseconds after which the server tries again to accept a client when it could not.
const ERROR_PAUSE: u16 = 500;

/// How long the clients have to take their answers when the server stops.
const STOP: Duration = Duration::from_millis(500);

/// The thread that answers on the control socket.
#[derive(Debug)]
pub struct ControlServer {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

/// What makes the answers.
pub(super) trait Respond:
    Fn(Request, &mut dyn Write) -> io::Result<()> + Send + Sync
{
}

impl<F: Fn(Request, &mut dyn Write) -> io::Result<()> + Send + Sync> Respond for F {}

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
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let _on_exit = on_exit;
                run(&control, &seen, Arc::new(respond));
            })?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread and removes the socket. Clients that have asked may read their answers for
    /// half a second.
    pub fn stop(self) {
        // EAGAIN: it is readable as can be.
        let _ = self.stop.write(1);
        if self.thread.join().is_err() {
            warn!("the control thread had panicked");
        }
    }
}

/// A client and its thread, which owns the connection: it is closed when the thread ends.
struct Client {
    connection: Weak<Connection>,
    thread: JoinHandle<()>,
}

impl Client {
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
    let mut clients: Vec<Client> = Vec::new();
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
        clients.retain(|client| !client.thread.is_finished());
        let pause = if clients.len() < MAX_CLIENTS {
            match accept(control, &respond) {
                Ok(client) => {
                    clients.extend(client);
                    continue;
                }
                Err(error) => {
                    // Out of descriptors or threads, most likely: the listener stays readable.
                    warn!("a control client cannot be accepted: {error}");
                    ERROR_PAUSE
                }
            }
        } else {
            close_silent(&clients);
            FULL_PAUSE
        };
        let mut stopped = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut stopped, pause);
    }
    end(clients);
}

/// Accepts a client, if one is waiting, and starts its thread.
fn accept(control: &Control, respond: &Arc<impl Respond + 'static>) -> io::Result<Option<Client>> {
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
                debug!("a control client went unanswered: {error}");
            }
        })?;
    Ok(Some(Client {
        connection: client,
        thread,
    }))
}

/// Closes the client that has been silent for longest, if one is.
fn close_silent(clients: &[Client]) {
    let waiting = clients
        .iter()
        .filter_map(|client| Some((client.waiting()?, client)));
    if let Some((_, client)) = waiting.min_by_key(|(since, _)| *since) {
        client.close(Shutdown::Both);
    }
}

/// Waits for the threads of all clients, but for no client for long.
fn end(clients: Vec<Client>) {
    for client in &clients {
        // Whoever has asked is answered.
        client.close(Shutdown::Read);
    }
    let deadline = Instant::now() + STOP;
    while Instant::now() < deadline && clients.iter().any(|client| !client.thread.is_finished()) {
        thread::sleep(Duration::from_millis(5));
    }
    for client in clients {
        client.close(Shutdown::Both);
        // One that still makes an answer, like a reload, ends with the process.
        if client.thread.is_finished() && client.thread.join().is_err() {
            warn!("the thread of a control client had panicked");
        }
    }
}

fn answer(client: &Connection, respond: &impl Respond) -> io::Result<()> {
    let mut buf = [0; MAX_REQUEST];
    let line = read_line(client, &mut buf, Instant::now() + ASK)?;
    client.stream.set_write_timeout(Some(READ))?;
    let mut to = BufWriter::with_capacity(64 << 10, Patient(client));
    match Request::parse(line) {
        Ok(request) => respond(request, &mut to)?,
        Err(error) => writeln!(to, "{}", json!({ "error": error }))?,
    }
    to.flush()
}

/// Reads up to the newline, which is left out.
fn read_line<'a>(
    client: &Connection,
    buf: &'a mut [u8; MAX_REQUEST],
    deadline: Instant,
) -> io::Result<&'a [u8]> {
    let mut len = 0;
    loop {
        client.stream.set_read_timeout(Some(left(deadline)?))?;
        let room = buf.get_mut(len..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "request too long",
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

/// Writes to a client that has to read some of it each time before [`READ`] is over.
struct Patient<'a>(&'a Connection);

impl Write for Patient<'_> {
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
