//! One connection: reads the request, writes the response, and closes in a way that the client can read it.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown},
    sync::Arc,
    time::Instant,
};

use super::{MAX_HEAD, Timeouts, hosts::Hosts, request, request::Request, response::Response};

/// Octets that a client may send after its request. A close with unread octets would be a reset, which may
/// take the response away from the client (RFC 9112 section 9.6), so up to this many are read.
const MAX_DRAINED: usize = 64 << 10;

/// Octets read at once.
const CHUNK: usize = 2048;

/// A connection.
pub(super) struct Connection<S> {
    stream: S,
    /// The client's address.
    peer: IpAddr,
    phase: Phase,
    /// When the phase began.
    since: Instant,
}

enum Phase {
    /// The client sends its request.
    Request(Vec<u8>),
    /// The client reads the response.
    Response(Pending),
    /// The client reads events as they come. No pending one: until the next.
    Events(Option<Pending>),
    /// The client closes the connection. It may send this many octets before.
    Close(usize),
}

/// Octets that are being written.
struct Pending {
    octets: Arc<[u8]>,
    written: usize,
}

/// What a connection needs next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The client has to do something.
    Wait,
    /// To be dropped.
    Drop,
    /// The response to this.
    Respond(Result<Request, Response>),
}

/// A stream whose reads and writes do not block.
pub(super) trait Stream: Read + Write {
    /// Ends the sending direction.
    fn finish(&self) -> io::Result<()>;
}

impl Stream for mio::net::TcpStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, peer: IpAddr, now: Instant) -> Self {
        Self {
            stream,
            peer,
            phase: Phase::Request(Vec::new()),
            since: now,
        }
    }

    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// When its phase began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether it is a stream of events.
    pub(super) fn is_events(&self) -> bool {
        matches!(self.phase, Phase::Events(_))
    }

    /// Whether it is a stream of events that has written all that it got.
    pub(super) fn wants_event(&self) -> bool {
        matches!(self.phase, Phase::Events(None))
    }

    /// Whether the request has not arrived.
    pub(super) fn is_requesting(&self) -> bool {
        matches!(self.phase, Phase::Request(_))
    }

    /// Whether a request with the method HEAD is there, or a part of one.
    pub(super) fn is_head(&self) -> bool {
        matches!(&self.phase, Phase::Request(octets) if request::is_head(octets))
    }

    /// When it is to be closed unless the client does what it has to before.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        let time = match self.phase {
            Phase::Request(_) => timeouts.request,
            Phase::Response(_) | Phase::Events(Some(_)) => timeouts.response,
            Phase::Events(None) => return None,
            Phase::Close(_) => timeouts.close,
        };
        Some(self.since + time)
    }

    /// Begins a response, which ends the connection.
    pub(super) fn respond(&mut self, octets: Vec<u8>, now: Instant) {
        self.begin(Phase::Response(Pending::new(octets.into())), now);
    }

    /// Begins a stream of events with these octets, or continues it with an event.
    pub(super) fn send_event(&mut self, octets: Arc<[u8]>, now: Instant) {
        self.begin(Phase::Events(Some(Pending::new(octets))), now);
    }

    fn begin(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// Goes on as far as the client lets it.
    pub(super) fn proceed(&mut self, hosts: &Hosts, now: Instant) -> Next {
        match self.try_proceed(hosts, now) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Wait,
            // The client has reset the connection, most likely.
            Err(_) => Next::Drop,
        }
    }

    fn try_proceed(&mut self, hosts: &Hosts, now: Instant) -> io::Result<Next> {
        loop {
            match &mut self.phase {
                Phase::Request(octets) => {
                    let mut chunk = [0; CHUNK];
                    let read = read(&mut self.stream, &mut chunk)?;
                    if read == 0 {
                        return Ok(Next::Drop);
                    }
                    // At most one chunk beyond the limit, which `request` enforces.
                    octets.extend(chunk.iter().take(read));
                    if let Some(request) = request::read(octets, hosts) {
                        return Ok(Next::Respond(request));
                    }
                    debug_assert!(octets.len() < MAX_HEAD);
                }
                Phase::Response(pending) => {
                    pending.write_to(&mut self.stream)?;
                    self.stream.finish()?;
                    self.begin(Phase::Close(MAX_DRAINED), now);
                }
                Phase::Events(pending) => {
                    if let Some(event) = pending {
                        event.write_to(&mut self.stream)?;
                        *pending = None;
                    }
                    // The client has nothing more to say: it has closed the connection, or breaks the rules.
                    read(&mut self.stream, &mut [0; 1])?;
                    return Ok(Next::Drop);
                }
                Phase::Close(left) => {
                    let mut chunk = [0; CHUNK];
                    let read = read(&mut self.stream, &mut chunk)?;
                    if read == 0 || read > *left {
                        return Ok(Next::Drop);
                    }
                    *left -= read;
                }
            }
        }
    }
}

fn read(stream: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(to) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl Pending {
    fn new(octets: Arc<[u8]>) -> Self {
        Self { octets, written: 0 }
    }

    /// Writes the rest.
    fn write_to(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while let Some(rest) = self
            .octets
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{cell::Cell, collections::VecDeque, net::Ipv4Addr};

    use super::*;

    /// A client: what it sends, in pieces, and how much it reads at a time. With nothing left it blocks.
    #[derive(Default)]
    struct Client {
        sends: VecDeque<Vec<u8>>,
        reads: VecDeque<usize>,
        got: Vec<u8>,
        finished: Cell<bool>,
    }

    impl Read for Client {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let mut piece = self.sends.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
            let rest = piece.split_off(piece.len().min(to.len()));
            to.get_mut(..piece.len()).unwrap().copy_from_slice(&piece);
            if !rest.is_empty() {
                self.sends.push_front(rest);
            }
            Ok(piece.len())
        }
    }

    impl Write for Client {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let room = self.reads.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
            let written = octets.len().min(room);
            self.got.extend_from_slice(octets.get(..written).unwrap());
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Client {
        fn finish(&self) -> io::Result<()> {
            self.finished.set(true);
            Ok(())
        }
    }

    fn connection(sends: &[&[u8]], reads: &[usize]) -> (Connection<Client>, Instant) {
        let now = Instant::now();
        let client = Client {
            sends: sends.iter().map(|piece| piece.to_vec()).collect(),
            reads: reads.to_vec().into(),
            ..Client::default()
        };
        let peer = Ipv4Addr::LOCALHOST.into();
        (Connection::new(client, peer, now), now)
    }

    #[test]
    fn a_request_in_pieces_is_answered_in_pieces() {
        let pieces: [&[u8]; 3] = [b"GET /x HTTP/1.1\r\nHo", b"st: localhost\r\n", b"\r\nmore"];
        let (mut connection, now) = connection(&pieces, &[3, 2]);
        let hosts = Hosts::default();
        let Next::Respond(Ok(request)) = connection.proceed(&hosts, now) else {
            panic!("no request")
        };
        assert_eq!(request.path, "/x");
        connection.respond(b"a response".to_vec(), now);
        assert_eq!(connection.proceed(&hosts, now), Next::Wait);
        assert_eq!(connection.stream.got, b"a res");
        assert!(!connection.stream.finished.get());
        connection.stream.reads.push_back(100);
        assert_eq!(connection.proceed(&hosts, now), Next::Wait);
        assert_eq!(connection.stream.got, b"a response");
        assert!(connection.stream.finished.get());
        connection.stream.sends.push_back(Vec::new());
        assert_eq!(connection.proceed(&hosts, now), Next::Drop);
    }

    #[test]
    fn a_client_that_sends_on_after_the_response_is_dropped() {
        let (mut connection, now) = connection(&[], &[100]);
        connection.respond(b"a response".to_vec(), now);
        let piece = vec![0; MAX_DRAINED];
        connection.stream.sends.extend([piece, vec![0]]);
        assert_eq!(connection.proceed(&Hosts::default(), now), Next::Drop);
    }

    #[test]
    fn an_event_is_wanted_once_the_last_one_is_written() {
        let (mut connection, now) = connection(&[], &[2]);
        let hosts = Hosts::default();
        connection.send_event(Arc::from(*b"one"), now);
        assert_eq!(connection.proceed(&hosts, now), Next::Wait);
        assert!(connection.is_events() && !connection.wants_event());
        assert!(connection.deadline(&Timeouts::default()).is_some());
        connection.stream.reads.push_back(10);
        assert_eq!(connection.proceed(&hosts, now), Next::Wait);
        assert!(connection.wants_event());
        assert_eq!(connection.deadline(&Timeouts::default()), None);
        connection.stream.sends.push_back(Vec::new());
        assert_eq!(connection.proceed(&hosts, now), Next::Drop);
    }
}
