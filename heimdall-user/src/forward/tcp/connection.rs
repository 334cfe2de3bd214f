//! A connection to an upstream, which carries many queries at once.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem,
    time::{Duration, Instant},
};

use mio::net::TcpStream;
use nix::{
    setsockopt_impl,
    sys::socket::{setsockopt, sockopt::SetBool},
};
use rustls::{ClientConnection, HandshakeKind};

use super::{
    CLOSED,
    framing::{self, Framing},
    pipeline::{Pending, Pipeline},
};
use crate::forward::{tls, udp::Outstanding};

/// Time for which a connection stays open unused, if the upstream does not say how long it keeps it (RFC 7828). Known
/// servers keep them for 10 s or longer.
const IDLE: Duration = Duration::from_secs(9);

/// The longest time, whatever the upstream says.
const MAX_IDLE: Duration = Duration::from_secs(120);

/// The upstream closes a connection once its time is over; a query that is on the way then is lost.
const MARGIN: Duration = Duration::from_millis(500);

/// TCP_QUICKACK of [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html), which nix does not have.
#[derive(Clone, Copy, Debug)]
struct QuickAck;

setsockopt_impl!(
    QuickAck,
    libc::IPPROTO_TCP,
    libc::TCP_QUICKACK,
    bool,
    SetBool
);

/// What a socket has.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::forward) enum Received {
    /// Octets, and perhaps more of them.
    More,
    /// Nothing more for now.
    Nothing,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Between the stream and the messages, over TLS.
    session: Option<Box<ClientConnection>>,
    /// Why the TLS handshake has failed.
    problem: Option<String>,
    /// The upstream will send nothing more.
    closed: bool,
    /// The upstream's position in the list.
    upstream: usize,
    pipeline: Pipeline,
    output: Vec<u8>,
    /// Its output waits for the end of the turn.
    pub(super) queued: bool,
    pub(super) input: Framing,
    /// Octets have arrived since they were last acknowledged.
    unacknowledged: bool,
    /// The upstream has accepted it; over TLS, the handshake is over.
    established: bool,
    /// Queries that it carried, and those that got a response.
    used: u32,
    answered: u32,
    opened: Instant,
    /// When the last response arrived.
    heard: Option<Instant>,
    /// When it was used last: for a query or a response.
    active: Instant,
    idle: Duration,
    retired: bool,
    /// One of the queries that it carries may make the upstream close it.
    apart: bool,
}

impl Connection {
    /// A connection that is being established.
    pub(super) fn new(
        stream: TcpStream,
        session: Option<Box<ClientConnection>>,
        upstream: usize,
        now: Instant,
    ) -> Self {
        Self {
            stream,
            session,
            problem: None,
            closed: false,
            upstream,
            pipeline: Pipeline::default(),
            output: Vec::new(),
            queued: false,
            input: Framing::new(),
            unacknowledged: false,
            established: false,
            used: 0,
            answered: 0,
            opened: now,
            heard: None,
            active: now,
            idle: IDLE,
            retired: false,
            apart: false,
        }
    }

    pub(super) fn upstream(&self) -> usize {
        self.upstream
    }

    /// Whether the upstream has accepted it.
    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// When it was opened.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Queries whose responses are awaited.
    pub(super) fn load(&self) -> usize {
        self.pipeline.awaited()
    }

    /// Queries that it carried.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Queries that got a response.
    pub(super) fn answered(&self) -> u32 {
        self.answered
    }

    /// Whether it may get another query.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired && !self.pipeline.is_full()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.pipeline.awaited() > 0
    }

    /// Gives it no more queries.
    pub(super) fn retire(&mut self) {
        self.retired = true;
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Keeps other queries away while it carries those that it gets now.
    pub(super) fn set_apart(&mut self) {
        self.apart = true;
    }

    pub(super) fn is_apart(&self) -> bool {
        self.apart
    }

    /// Whether a response has arrived since then.
    pub(super) fn heard_since(&self, then: Instant) -> bool {
        self.heard.is_some_and(|heard| heard >= then)
    }

    /// Whether it was open then, and no response has arrived since.
    pub(super) fn is_silent_since(&self, then: Instant) -> bool {
        self.opened <= then && !self.heard_since(then)
    }

    /// Whether it is still open although all of at least `queries` were answered, the last a `while` ago.
    pub(super) fn has_outlived(&self, queries: u32, a_while: Duration, now: Instant) -> bool {
        let heard_last = self.heard.is_some_and(|heard| now >= heard + a_while);
        self.answered >= queries && self.answered == self.used && heard_last
    }

    /// When it is closed unless it is used.
    pub(super) fn idle_until(&self) -> Instant {
        self.active + self.idle
    }

    /// The upstream keeps an unused connection for so long (RFC 7828 section 3.3).
    pub(super) fn set_idle(&mut self, time: Duration) {
        // Zero: it is to be closed once the responses have come.
        self.retired |= time.is_zero();
        self.idle = time.saturating_sub(MARGIN).min(MAX_IDLE);
    }

    /// Draws an ID for an exchange. `None`: it carries too many.
    pub(super) fn assign(&mut self, slot: usize, serial: u64, now: Instant) -> Option<Outstanding> {
        let outstanding = self.pipeline.assign(slot, serial)?;
        self.used += 1;
        self.active = now;
        Some(outstanding)
    }

    /// Queues a query.
    pub(super) fn queue(&mut self, query: &[u8]) {
        framing::append(&mut self.output, query);
    }

    /// Takes the query that a response with this ID belongs to.
    pub(super) fn take(&mut self, id: u16, now: Instant) -> Option<Pending> {
        let pending = self.pipeline.take(id)?;
        self.answered += 1;
        self.heard = Some(now);
        self.active = now;
        self.apart &= self.is_awaited();
        Some(pending)
    }

    /// An exchange has ended without a response.
    pub(super) fn abandon(&mut self, id: u16, serial: u64) {
        self.pipeline.abandon(id, serial);
        self.retired |= self.pipeline.is_clogged();
        self.apart &= self.is_awaited();
    }

    /// Writes what is queued, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            if !self.output.is_empty() {
                session.writer().write_all(&self.output)?;
                self.output.clear();
            }
            return write_records(session, &mut self.stream);
        }
        let mut written = 0;
        while let Some(rest) = self.output.get(written..)
            && !rest.is_empty()
        {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.established = true;
                    written += len;
                }
                // Also while the connection is being established.
                Err(error) if is_pending(&error) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..written);
        Ok(())
    }

    /// Reads once.
    ///
    /// # Errors
    /// It has failed, or the upstream has closed it: [`ErrorKind::UnexpectedEof`].
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        let received = match self.session {
            Some(_) => self.read_records(scratch),
            None => self.read_octets(scratch),
        };
        self.unacknowledged |= matches!(received, Ok(Received::More));
        received
    }

    /// Has the kernel acknowledge what has arrived, if more responses are awaited. By itself it waits up to 40 ms for octets
    /// to send that the acknowledgement can go with, and a server that writes its responses one by one and leaves Nagle's
    /// algorithm on (RFC 9293 section 3.7.4) does not send the rest before. Nothing is sent if that was acknowledged already,
    /// by queries for one.
    pub(super) fn acknowledge(&mut self) {
        if mem::take(&mut self.unacknowledged) && self.is_awaited() {
            // Without it responses come later.
            let _ = setsockopt(&self.stream, QuickAck, &true);
        }
    }

    /// As [`read`](Self::read), without TLS.
    fn read_octets(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        match self.stream.read(scratch) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.input.push(scratch.get(..len).unwrap_or_default());
                Ok(Received::More)
            }
            Err(error) if is_pending(&error) => Ok(Received::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Received::More),
            Err(error) => Err(error),
        }
    }

    /// As [`read`](Self::read), over TLS.
    fn read_records(&mut self, scratch: &mut [u8]) -> io::Result<Received> {
        let Some(session) = &mut self.session else {
            return Ok(Received::Nothing);
        };
        if self.closed {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match session.read_tls(&mut self.stream) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if is_pending(&error) => return Ok(Received::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Received::More),
            Err(error) => return Err(error),
        }
        let processed = session.process_new_packets();
        self.established = !session.is_handshaking();
        // What came before an alert, too. It ends when there is no more for now, or ever.
        while let Ok(len @ 1..) = session.reader().read(scratch) {
            self.input.push(scratch.get(..len).unwrap_or_default());
        }
        match processed {
            Ok(state) => self.closed = state.peer_has_closed(),
            Err(error) => {
                if !self.established {
                    self.problem = Some(tls::problem(&error));
                }
                // The alert that says why.
                let _ = write_records(session, &mut self.stream);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
        write_records(session, &mut self.stream)?;
        Ok(Received::More)
    }

    /// How the handshake went, once it is over.
    pub(super) fn handshake(&self) -> Option<HandshakeKind> {
        let session = self.session.as_ref();
        session?.handshake_kind().filter(|_| self.established)
    }

    /// Why TLS has failed, if the connection ends with this error.
    pub(super) fn take_problem(&mut self, error: Option<&io::Error>) -> Option<String> {
        let is_closed = error.is_some_and(|error| CLOSED.contains(&error.kind()));
        let is_cut_off = self.session.is_some() && !self.established && is_closed;
        let cut_off =
            is_cut_off.then(|| "it closed the connection during the handshake".to_owned());
        self.problem.take().or(cut_off)
    }

    /// Tells the upstream that nothing more comes, over TLS (RFC 7858 section 3.4).
    pub(super) fn say_goodbye(&mut self) {
        if let Some(session) = &mut self.session
            && self.problem.is_none()
        {
            session.send_close_notify();
            // If the socket does not take it, the end of the stream says as much.
            let _ = write_records(session, &mut self.stream);
        }
    }

    /// Closes it. Returns the queries whose responses are awaited.
    pub(super) fn close(self) -> Vec<Outstanding> {
        self.pipeline.into_awaited()
    }
}

/// Writes what TLS has to send, as far as the socket takes it.
fn write_records(session: &mut ClientConnection, stream: &mut TcpStream) -> io::Result<()> {
    while session.wants_write() {
        match session.write_tls(stream) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            // Also while the connection is being established.
            Err(error) if is_pending(&error) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the socket is not ready: it would block, or is not connected yet.
fn is_pending(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}
