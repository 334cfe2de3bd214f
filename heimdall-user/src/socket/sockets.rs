//! The sockets of the front, as the engine sees them.

use std::{io, sync::Arc, time::Instant};

use mio::{
    Interest, Registry, Token,
    net::{TcpListener, UdpSocket},
};

use super::{
    Listeners, SocketCounters,
    connections::Connections,
    datagrams::Datagrams,
    origin::{Message, Origin, Parked},
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

/// Tokens of listeners: from this one on, UDP even, TCP odd. Connections follow.
pub(super) const LISTENERS: usize = 2;

/// All sockets, and the messages in their buffers.
pub(super) struct Sockets {
    pub(super) registry: Registry,
    pub(super) counters: Arc<SocketCounters>,
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
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
        let mut udp: Vec<_> = listeners.udp.into_iter().map(UdpSocket::from_std).collect();
        let mut tcp: Vec<_> = listeners
            .tcp
            .into_iter()
            .map(TcpListener::from_std)
            .collect();
        for (index, socket) in udp.iter_mut().enumerate() {
            registry.register(socket, udp_token(index), Interest::READABLE)?;
        }
        for (index, listener) in tcp.iter_mut().enumerate() {
            registry.register(listener, tcp_token(index), Interest::READABLE)?;
        }
        let now = Instant::now();
        Ok(Self {
            connections: Connections::new(LISTENERS + 2 * udp.len(), max_connections, now),
            registry,
            counters,
            udp,
            tcp,
            datagrams: Datagrams::new(),
            buf: vec![0; MAX_MESSAGE].into(),
            spare: Vec::new(),
            now,
        })
    }

    /// The octets of a message, and the space for its reply.
    fn buffer(&mut self, message: &Message) -> &mut [u8] {
        match message.origin {
            Origin::Udp { .. } => self.datagrams.buffer(message.slot),
            Origin::Tcp { .. } => &mut self.buf,
        }
    }
}

/// The token of a UDP listener.
pub(super) fn udp_token(listener: usize) -> Token {
    Token(LISTENERS + 2 * listener)
}

/// The token of a TCP listener.
pub(super) fn tcp_token(listener: usize) -> Token {
    Token(LISTENERS + 2 * listener + 1)
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
            Origin::Tcp {
                connection, serial, ..
            } => {
                if let Some(open) = self.connections.get(connection, serial)
                    && !open.failed
                {
                    let reply = self.buf.get(..message.len).unwrap_or_default();
                    open.reply(reply, self.now);
                    self.counters.tcp_answered.add(1);
                }
            }
        }
    }

    fn discard(&mut self, message: Message) {
        if let Origin::Tcp {
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
        if let Origin::Tcp {
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
            Origin::Tcp {
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
