//! A client's connection (RFC 7766), plain or over TLS (RFC 7858): any number of pipelined queries, and their
//! replies in any order.
//!
//! Only octets are handled here; its [`Stream`] sends them, and the engine answers the messages. A connection whose replies are
//! not read, or with many waiting queries, is not read from until that changes, so that its
//! buffers stay bounded.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    time::Instant,
};

use super::{holders::Hold, stream::Stream};
use crate::dns::u16_at;

/// Octets of replies that may wait to be read before no more queries are taken.
const MAX_OUTPUT: usize = 128 << 10;

/// Octets of replies that may wait to be read at all: queries that the forwarder had when the client
/// stopped reading are answered beyond [`MAX_OUTPUT`]. A client that leaves more is closed.
const MAX_UNREAD: usize = 4 * MAX_OUTPUT;

/// Queries of one connection that may wait for the forwarder.
const MAX_PENDING: usize = 128;

/// Octets read from one connection before the next one is served. Over TLS they are those of records: what these contain
/// may be far less.
const READ_AT_ONCE: usize = 64 << 10;

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// There is no more for now.
    Drained,
    /// There may be more.
    More,
}

/// What is still read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Queries.
    Open,
    /// Nothing: it goes to a successor, or ends, once all that was read is answered.
    Stopped,
    /// What comes is discarded until the client closes: it was told that nothing more is sent. To close at once would reset
    /// the connection if the client still sends, and replies that are under way would be lost.
    Ended,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) stream: Stream,
    /// The client's address.
    pub(super) peer: IpAddr,
    pub(super) serial: u64,
    /// Its entry among the holders of connections.
    pub(super) hold: Hold,
    /// A whole message has come.
    pub(super) used: bool,
    /// It waits for its turn of the TLS handshake.
    pub(super) queued: bool,
    /// Queries that wait for the forwarder.
    pub(super) pending: usize,
    /// When its handshake was over, a query was last completed or a reply was last taken. Single octets do not
    /// count, or a client could hold a connection with very few.
    pub(super) last_used: Instant,
    /// epoll has reported that the client sends no more: [`read`](Self::read) finds the end of the stream.
    pub(super) closing: bool,
    /// The end of the stream was read.
    pub(super) ended: bool,
    /// It will be closed: the client leaves too much unread, it cannot be written to, or a message of
    /// it gets no reply.
    pub(super) failed: bool,
    input: Vec<u8>,
    /// Octets of `input` that were taken.
    taken: usize,
    output: Vec<u8>,
    /// Octets of `output` that were sent.
    sent: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream, peer: IpAddr, serial: u64, hold: Hold, now: Instant) -> Self {
        Self {
            phase: Phase::Open,
            stream,
            peer,
            serial,
            hold,
            used: false,
            queued: false,
            pending: 0,
            last_used: now,
            closing: false,
            ended: false,
            failed: false,
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
            sent: 0,
        }
    }

    /// A connection of a predecessor, with the octets that this has received of a message.
    pub(super) fn continued(mut self, unread: Vec<u8>) -> Self {
        self.input = unread;
        // It may have none behind it: then it gets the longer time for it.
        self.used = true;
        self
    }

    /// Its parts, and the octets received of a message that is not complete.
    pub(super) fn into_parts(mut self) -> (Stream, Hold, Vec<u8>) {
        self.input.drain(..self.taken);
        (self.stream, self.hold, self.input)
    }

    /// Tells the client that nothing more is sent. From now on the connection waits for the client to close it.
    pub(super) fn end(&mut self, now: Instant) {
        self.stream.end();
        self.phase = Phase::Ended;
        self.last_used = now;
    }

    /// Whether more queries may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.unread() <= MAX_OUTPUT && self.pending < MAX_PENDING
    }

    /// Whether the socket is to be read. Not while a message waits to be taken: a client could have any number of them kept.
    pub(super) fn wants_input(&self) -> bool {
        self.phase == Phase::Open && !self.ended && self.has_room() && !self.has_message()
    }

    /// Whether a whole message was read and not taken.
    pub(super) fn has_message(&self) -> bool {
        let input = self.input.get(self.taken..).unwrap_or_default();
        u16_at(input, 0).is_some_and(|len| input.len() >= 2 + usize::from(len))
    }

    /// Whether the client waits for nothing: it has had a reply, and is not amid its next query.
    pub(super) fn is_served(&self) -> bool {
        self.used && self.is_quiet() && self.taken == self.input.len()
    }

    /// Octets of replies that the client has not taken.
    fn unread(&self) -> usize {
        self.output.len() - self.sent
    }

    /// No query is under way, and all replies were sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending == 0 && self.sent == self.output.len() && self.stream.is_flushed()
    }

    /// Reads the octets that have arrived, up to a bound.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> io::Result<Input> {
        let mut total = 0;
        while total < READ_AT_ONCE {
            match self.stream.read(scratch, self.closing) {
                Ok(read) => {
                    total += read.octets;
                    self.input
                        .extend_from_slice(scratch.get(..read.len).unwrap_or_default());
                    self.ended = read.ended;
                    if read.drained || read.ended {
                        return Ok(Input::Drained);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Input::Drained),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Input::More)
    }

    /// Reads and discards what has arrived. Whether the client may send more.
    pub(super) fn discard(&mut self, scratch: &mut [u8]) -> bool {
        let mut total = 0;
        while total < READ_AT_ONCE {
            match self.stream.discard(scratch) {
                Ok(0) => return false,
                Ok(len) => total += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }

    /// Takes the next whole message: copies it to the start of `buf`, and gives its length.
    pub(super) fn message(&mut self, buf: &mut [u8]) -> Option<usize> {
        let input = self.input.get(self.taken..)?;
        let whole = u16_at(input, 0).map(usize::from).and_then(|len| {
            let msg = input.get(2..2 + len)?;
            buf.get_mut(..len)?.copy_from_slice(msg);
            Some(len)
        });
        match whole {
            Some(len) => self.taken += 2 + len,
            None => {
                self.input.drain(..self.taken);
                self.taken = 0;
            }
        }
        whole
    }

    /// Queues a reply. Sends what the client takes if more is queued than may wait.
    pub(super) fn reply(&mut self, msg: &[u8], now: Instant) {
        self.output
            .extend_from_slice(&(msg.len() as u16).to_be_bytes());
        self.output.extend_from_slice(msg);
        if self.unread() > MAX_OUTPUT {
            self.failed |= self.write(now).is_err() || self.unread() > MAX_UNREAD;
        }
    }

    /// Sends what the client takes of the replies.
    pub(super) fn write(&mut self, now: Instant) -> io::Result<()> {
        // Replies that TLS has encrypted earlier, once there are any.
        if self.stream.flush()? > 0 && self.used {
            self.last_used = now;
        }
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.sent += len;
                    self.last_used = now;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        } else if self.sent >= MAX_OUTPUT {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}
