//! Answering on the control socket.

use std::{
    io::{self, BufWriter, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
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

/// Longest request, its newline included, in octets.
const MAX_REQUEST: usize = 2048;

/// How long one client may take to ask, and then to read each part of its answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The thread that answers on the control socket.
#[derive(Debug)]
pub struct ControlServer {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl ControlServer {
    pub(super) fn start(
        control: Control,
        respond: impl Fn(Request, &mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || run(&control, &seen, respond))?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread and removes the socket. A client that is being answered is answered.
    pub fn stop(self) {
        // EAGAIN: it is readable as can be.
        let _ = self.stop.write(1);
        if self.thread.join().is_err() {
            warn!("the control thread had panicked");
        }
    }
}

fn run(
    control: &Control,
    stop: &EventFd,
    respond: impl Fn(Request, &mut dyn Write) -> io::Result<()>,
) {
    loop {
        let mut fds = [
            PollFd::new(control.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                warn!("the control socket is closed: poll: {error}");
                return;
            }
        }
        let [_, stopped] = &fds;
        if stopped.any().unwrap_or(false) {
            return;
        }
        match control.listener.accept() {
            Ok((client, _)) => {
                if let Err(error) = answer(&client, &respond) {
                    debug!("a control client went unanswered: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors, most likely: the listener stays readable, so do not spin.
                warn!("a control client cannot be accepted: {error}");
                thread::sleep(PATIENCE);
            }
        }
    }
}

fn answer(
    client: &UnixStream,
    respond: &impl Fn(Request, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut buf = [0; MAX_REQUEST];
    let line = read_line(client, &mut buf, deadline)?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut to = BufWriter::with_capacity(64 << 10, Patient(client));
    match Request::parse(line) {
        Ok(request) => respond(request, &mut to)?,
        Err(error) => writeln!(to, "{}", json!({ "error": error }))?,
    }
    to.flush()
}

/// Reads up to the newline, which is left out.
fn read_line<'a>(
    mut client: &UnixStream,
    buf: &'a mut [u8; MAX_REQUEST],
    deadline: Instant,
) -> io::Result<&'a [u8]> {
    let mut len = 0;
    loop {
        client.set_read_timeout(Some(left(deadline)?))?;
        let room = buf.get_mut(len..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "request too long",
            ));
        }
        match client.read(room) {
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

/// Writes to a client that has to take some of it, each time, before the patience ends.
struct Patient<'a>(&'a UnixStream);

impl Write for Patient<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
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
