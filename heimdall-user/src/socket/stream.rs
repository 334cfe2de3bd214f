//! The stream of a connection: a socket's octets as they are, or a TLS session over it.
//!
//! [`Connection`](super::tcp::Connection) reads and writes messages, and does not know which it is. The session of rustls
//! has no I/O of its own: this file moves its records.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
};

use mio::net::TcpStream;
use rustls::{HandshakeKind, ServerConnection};

use super::tls::Failure;

/// Octets that a client may send before its handshake is over. The largest part is a ClientHello of 1 to 2 KiB.
const MAX_HANDSHAKE: usize = 16 << 10;

/// Octets that a client may send afterwards without one of a message among them: two of the longest records (RFC 8446
/// section 5.2). rustls ends a session for too many empty records or key updates, but not for both in turn, and keeps up to
/// 64 KiB of a handshake message that is not whole.
const MAX_EMPTY: usize = 32 << 10;

/// A stream, without blocking.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Tls {
    session: ServerConnection,
    /// Octets that the client has sent during the handshake; afterwards, since the last octet of a message.
    empty: usize,
    /// Why the handshake has failed.
    failure: Option<Failure>,
}

/// What a read gave.
pub(super) struct Received {
    /// Octets of messages. Over TLS there may be none although the client has sent something.
    pub(super) len: usize,
    /// Octets taken from the socket: the measure of the work.
    pub(super) octets: usize,
    /// The socket had no more, and nothing is left here.
    pub(super) drained: bool,
    /// The client sends no more.
    pub(super) ended: bool,
}

impl Stream {
    /// A stream over a connection that was accepted; with a session, over TLS.
    pub(super) fn new(socket: TcpStream, session: Option<ServerConnection>) -> Self {
        let tls = session.map(|session| {
            Box::new(Tls {
                session,
                empty: 0,
                failure: None,
            })
        });
        Self { socket, tls }
    }

    /// Whether it is over TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether its TLS handshake is not over.
    pub(super) fn is_handshaking(&self) -> bool {
        let tls = self.tls.as_ref();
        tls.is_some_and(|tls| tls.session.is_handshaking())
    }

    /// How the handshake went, once it is over.
    pub(super) fn handshake(&self) -> Option<HandshakeKind> {
        let tls = self.tls.as_ref().filter(|_| !self.is_handshaking());
        tls.and_then(|tls| tls.session.handshake_kind())
    }

    /// Why the handshake has failed, if the client was the cause.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.tls.as_ref().and_then(|tls| tls.failure)
    }

    /// Reads the socket once at most. `ending`: epoll has reported that the client sends no more.
    ///
    /// A read of the socket that leaves room has taken all that it has (epoll(7), on EPOLLET), and epoll reports what
    /// comes later. Only the end of the stream may be behind it, which takes another read.
    ///
    /// # Errors
    /// Those of read(2); [`ErrorKind::InvalidData`]: the client broke the rules of TLS, or sends only what has no content.
    pub(super) fn read(&mut self, to: &mut [u8], ending: bool) -> io::Result<Received> {
        let Some(tls) = &mut self.tls else {
            let len = self.socket.read(to)?;
            return Ok(Received {
                len,
                octets: len,
                drained: len < to.len() && !ending,
                ended: len == 0,
            });
        };
        let (mut received, mut drained) = (0, false);
        let mut read = tls.session.reader().read(to);
        if would_block(&read) {
            (received, drained) = tls.receive(&mut self.socket)?;
            read = tls.session.reader().read(to);
        }
        let (len, ended) = match read {
            Ok(len) => (len, len == 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (0, false),
            // It has ended without an alert that says so, which is common.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => (0, true),
            Err(error) => return Err(error),
        };
        Ok(Received {
            len,
            octets: received,
            drained: drained && len < to.len() && !ending,
            ended,
        })
    }

    /// Sends octets: as many as the socket takes, or over TLS as a session encrypts at once (64 KiB), and these only
    /// when all earlier ones are sent.
    ///
    /// # Errors
    /// Those of write(2).
    pub(super) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.write(octets);
        };
        tls.send(&mut self.socket)?;
        if tls.session.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = tls.session.writer().write(octets)?;
        tls.send(&mut self.socket)?;
        Ok(len)
    }

    /// Sends what TLS has to send, as much as the socket takes. How many octets.
    ///
    /// # Errors
    /// Those of write(2), but that it would block.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.send(&mut self.socket),
            None => Ok(0),
        }
    }

    /// Whether TLS has nothing to send.
    pub(super) fn is_flushed(&self) -> bool {
        let tls = self.tls.as_ref();
        tls.is_none_or(|tls| !tls.session.wants_write())
    }

    /// Reads octets that nobody wants.
    ///
    /// # Errors
    /// Those of read(2).
    pub(super) fn discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        self.socket.read(scratch)
    }

    /// Tells the client that nothing more comes, in TLS's words as well, and reads on.
    pub(super) fn end(&mut self) {
        self.send_close_notify();
        // It fails if the client has reset the connection, which a read finds.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Tells the client that nothing more comes (RFC 7858 section 3.4), if there is room for that.
    pub(super) fn send_close_notify(&mut self) {
        if let Some(tls) = &mut self.tls
            && !tls.session.is_handshaking()
            && !tls.session.wants_write()
        {
            tls.session.send_close_notify();
            let _ = tls.send(&mut self.socket);
        }
    }
}

impl Tls {
    /// Reads records once, and replies to those of the handshake. How many octets, and whether the socket had no more.
    fn receive(&mut self, socket: &mut TcpStream) -> io::Result<(usize, bool)> {
        let was_handshaking = self.session.is_handshaking();
        let mut reader = Reader {
            socket,
            wanted: 0,
            got: 0,
        };
        let read = self.session.read_tls(&mut reader);
        let drained = reader.got < reader.wanted;
        let len = reader.got;
        if let Err(error) = read {
            // A reset, most often.
            let ended = !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
            if was_handshaking && ended {
                self.failure = Some(Failure::Closed);
            }
            return Err(error);
        }
        let processed = self.session.process_new_packets();
        let is_over = was_handshaking && !self.session.is_handshaking();
        self.empty = match &processed {
            Ok(state) if is_over || state.plaintext_bytes_to_read() > 0 => 0,
            _ => self.empty + len,
        };
        let too_much = match was_handshaking {
            true => self.empty > MAX_HANDSHAKE,
            false => self.empty > MAX_EMPTY,
        };
        if was_handshaking {
            self.failure = match &processed {
                Err(error) => Some(Failure::of(error)),
                Ok(_) if is_over => None,
                Ok(_) if len == 0 => Some(Failure::Closed),
                Ok(_) if too_much => Some(Failure::Malformed),
                Ok(_) => None,
            };
        }
        // Of an error, the alert that says why.
        let sent = self.send(socket);
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        if self.failure.is_some() || too_much {
            return Err(ErrorKind::InvalidData.into());
        }
        sent.map(|_| (len, drained))
    }

    /// Sends as much as the socket takes. How many octets.
    fn send(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        let mut sent = 0;
        while self.session.wants_write() {
            match self.session.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}

fn would_block(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// A socket that is read once, and what came of it.
struct Reader<'a> {
    socket: &'a mut TcpStream,
    wanted: usize,
    got: usize,
}

impl Read for Reader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.wanted = to.len();
        self.got = self.socket.read(to)?;
        Ok(self.got)
    }
}
