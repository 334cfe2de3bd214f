//! The sockets of the front, as the engine sees them.

use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use mio::{
    Interest, Registry, Token,
    net::{TcpListener, UdpSocket},
};

use super::{
    Listeners, SocketCounters,
    connections::Connections,
    datagrams::Datagrams,
    joined::Joined,
    listeners::{has_larger_buffer, set_receive_buffer},
    origin::{Message, Origin, Parked},
    tls::TlsServer,
};
use crate::{
    answer::{Client, Verdict},
    dns::{Query, reply::Reply},
    front::Messages,
};

/// Largest message.
const MAX_MESSAGE: usize = u16::MAX as usize;

/// Octets of a waiting query whose memory is kept. As many are kept as have waited at the same time.
const MAX_SPARE: usize = 512;

/// Tokens of listeners: from this one on those of UDP, then those of streams. Connections follow.
pub(super) const LISTENERS: usize = 2;

/// All sockets, and the messages in their buffers.
pub(super) struct Sockets {
    pub(super) registry: Registry,
    pub(super) counters: Arc<SocketCounters>,
    pub(super) udp: Vec<UdpSocket>,
    /// Some of these have a receive buffer that was made larger for the time before this process.
    has_larger_buffers: bool,
    /// Those for plain TCP, and then those for TLS.
    pub(super) tcp: Vec<TcpListener>,
    /// How many of these are for plain TCP.
    pub(super) plain: usize,
    /// The token of the first of them.
    pub(super) first_stream: usize,
    pub(super) tls: Option<Arc<TlsServer>>,
    joined: Joined,
    pub(super) datagrams: Datagrams,
    pub(super) connections: Connections,
    /// A message from a stream, and then its reply.
    pub(super) buf: Box<[u8]>,
    /// Memory of queries that have waited, for those to come.
    spare: Vec<Vec<u8>>,
    /// When the events of this round were reported.
    pub(super) now: Instant,
}

impl Sockets {
    /// Registers the listeners.
    pub(super) fn new(
        listeners: Listeners,
        registry: Registry,
        counters: Arc<SocketCounters>,
    ) -> io::Result<Self> {
        let max_connections = listeners.max_connections;
        let udp: Vec<_> = listeners.udp.into_iter().map(UdpSocket::from_std).collect();
        let plain = listeners.tcp.len();
        let streams = listeners.tcp.into_iter().chain(listeners.tls);
        let tcp: Vec<_> = streams.map(TcpListener::from_std).collect();
        let first_stream = LISTENERS + udp.len();
        let now = Instant::now();
        let mut sockets = Self {
            connections: Connections::new(first_stream + tcp.len(), max_connections, now),
            registry,
            counters,
            has_larger_buffers: udp.iter().any(has_larger_buffer),
            udp,
            tcp,
            plain,
            first_stream,
            tls: listeners.tls_server,
            joined: listeners.joined,
            datagrams: Datagrams::new(),
            buf: vec![0; MAX_MESSAGE].into(),
            spare: Vec::new(),
            now,
        };
        sockets.register()?;
        Ok(sockets)
    }

    /// Gives receive buffers their usual size. To be called when the listeners' queues are empty: a full one would drop what
    /// comes.
    pub(super) fn settle(&mut self) {
        if mem::take(&mut self.has_larger_buffers) {
            self.udp.iter().for_each(set_receive_buffer);
        }
    }

    /// Has epoll report what the listeners get, and what they have already.
    pub(super) fn register(&mut self) -> io::Result<()> {
        let registry = &self.registry;
        for (index, socket) in self.udp.iter_mut().enumerate() {
            registry.register(socket, udp_token(index), Interest::READABLE)?;
        }
        for (index, listener) in self.tcp.iter_mut().enumerate() {
            let token = Token(self.first_stream + index);
            registry.register(listener, token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// Ends the reports on the listeners. Closing would not: a successor has the same sockets.
    pub(super) fn deregister(&mut self) {
        // It fails if they are not registered, which is as well.
        for socket in &mut self.udp {
            let _ = self.registry.deregister(socket);
        }
        for listener in &mut self.tcp {
            let _ = self.registry.deregister(listener);
        }
    }

    /// Leaves to a predecessor's sockets what these have joined.
    pub(super) fn leave_joined(&self) {
        self.joined.leave(&self.udp, &self.tcp);
    }

    /// Duplicates of the listeners.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let udp = self.udp.iter().map(AsFd::as_fd);
        let all = udp.chain(self.tcp.iter().map(AsFd::as_fd));
        all.map(|socket| socket.try_clone_to_owned()).collect()
    }

    /// The token of a listener for streams.
    pub(super) fn tcp_token(&self, listener: usize) -> Token {
        Token(self.first_stream + listener)
    }

    /// Whether a listener for streams is one for TLS.
    pub(super) fn is_tls(&self, listener: usize) -> bool {
        listener >= self.plain
    }

    /// The octets of a message, and the space for its reply.
    fn buffer(&mut self, message: &Message) -> &mut [u8] {
        match message.origin {
            Origin::Udp { .. } => self.datagrams.buffer(message.slot),
            Origin::Stream { .. } => &mut self.buf,
        }
    }
}

/// The token of a UDP listener.
pub(super) fn udp_token(listener: usize) -> Token {
    Token(LISTENERS + listener)
}

impl Messages for Sockets {
    type Message = Message;
    type Parked = Parked;

    fn received_len(&self, message: &Message) -> usize {
        message.len
    }

    #[inline]
    fn edit(
        &mut self,
        message: &mut Message,
        write: impl FnOnce(&mut [u8], Client) -> Verdict,
    ) -> Verdict {
        let client = message.origin.client();
        let verdict = write(self.buffer(message), client);
        if let Verdict::Reply {
            reply: Reply { len, .. },
            ..
        } = verdict
        {
            message.len = len;
        }
        verdict
    }

    #[inline]
    fn reply(&mut self, message: Message, query: Option<&Query>) {
        match message.origin {
            Origin::Udp { path, .. } => {
                self.datagrams
                    .reply(message.slot, message.len, &path, query);
            }
            Origin::Stream {
                connection,
                serial,
                over_tls,
                ..
            } => {
                if let Some(open) = self.connections.get(connection, serial)
                    && !open.failed
                {
                    let reply = self.buf.get(..message.len).unwrap_or_default();
                    open.reply(reply, self.now);
                    match over_tls {
                        true => &self.counters.tls_answered,
                        false => &self.counters.tcp_answered,
                    }
                    .add(1);
                }
            }
        }
    }

    fn discard(&mut self, message: Message) {
        if let Origin::Stream {
            connection, serial, ..
        } = message.origin
            && let Some(open) = self.connections.get(connection, serial)
        {
            // Not a query, or one to which no reply can be sent: no reply will come for the client to wait for.
            open.failed = true;
        }
    }

    fn park(&mut self, message: Message, query: &Query) -> Parked {
        let origin = message.origin;
        if let Origin::Stream {
            connection, serial, ..
        } = origin
            && let Some(open) = self.connections.get(connection, serial)
        {
            open.pending += 1;
        }
        let mut head = self.spare.pop().unwrap_or_default();
        head.clear();
        let octets = self.buffer(&message).get(..query.needed());
        head.extend_from_slice(octets.unwrap_or_default());
        Parked { origin, head }
    }

    fn resume(&mut self, parked: Parked) -> Message {
        let Parked { origin, head } = parked;
        let slot = match origin {
            Origin::Udp { listener, path } => self.datagrams.resume(listener, &path),
            Origin::Stream {
                connection, serial, ..
            } => {
                self.connections.resume(connection, serial, self.now);
                0
            }
        };
        let message = Message {
            origin,
            slot,
            len: 0,
        };
        if let Some(start) = self.buffer(&message).get_mut(..head.len()) {
            start.copy_from_slice(&head);
        }
        if head.capacity() <= MAX_SPARE {
            self.spare.push(head);
        }
        message
    }

    fn count_overflow(&self) {
        self.counters.overflow.add(1);
    }
}
