//! Change without loss: a server takes over from a running one, or from what the service manager has kept.
//!
//! The successor gets an `Inheritance` before it starts, and then drives its predecessor by a `Predecessor`,
//! in this order:
//!
//! 1. It serves the inherited sockets, as its predecessor still does.
//! 2. `Predecessor::sockets_are_served`: the predecessor no longer reads them; it answers what it has read, and hands
//!    over its clients' TCP connections.
//! 3. It replaces the XDP programs by its own, which pass all queries to the sockets at first.
//! 4. `Predecessor::programs_are_replaced`: the predecessor answers what its workers have received, and closes its AF_XDP
//!    sockets.
//! 5. It opens AF_XDP sockets on the queues: queries are steered again.
//! 6. `Predecessor::finish`: the predecessor ends.
//!
//! A successor that fails, or disappears, before the last step is done leaves a predecessor that serves as before
//! (`Retire::resume`). The last step decides: once it is done, the predecessor does not serve again, and if it is not, the
//! successor ends. Only of a predecessor whose process has ended nothing is expected any more: one that is told to end
//! does so at any step, and its successor goes on alone.
//!
//! The predecessor is a server in this process (a reload), or in another one (`heimdall run --take-over`). `server`
//! implements the first; this module implements the second, over the control socket, and the exchange with the service
//! manager. It must not know what the server does with what it inherits.

mod process;
mod remote;
mod store;
mod successor;
mod wire;

use std::{io, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

use crate::anycast::AnycastState;

pub(crate) use remote::Remote;
pub use remote::replay;
pub(crate) use store::{claim_connections, inherited, keep, keep_listeners, leave};
pub(crate) use successor::{Starting, Successor};
pub(crate) use wire::HandOverError;

/// What a server gets from its predecessor, or from the service manager. All descriptors are its own.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    /// Bound sockets: UDP and listening TCP ones. getsockname(2) and SO_TYPE tell which is which.
    pub(crate) sockets: Vec<OwnedFd>,
    /// The bpf_links of XDP programs. `bpf_link_info` tells the interface.
    pub(crate) links: Vec<OwnedFd>,
    /// A snapshot (`crate::snapshot`) of the forwarder's caches in a memory file, from its first octet.
    pub(crate) cache: Option<OwnedFd>,
    /// The listener of the control socket.
    pub(crate) control: Option<OwnedFd>,
    /// The listener of `metrics.listen`.
    pub(crate) metrics: Option<OwnedFd>,
    /// Clients' TCP connections that the service manager has kept; a running predecessor hands them over later.
    pub(crate) connections: Vec<Connection>,
    pub(crate) state: State,
}

/// What clients rely on that is in no descriptor. Other versions may have other fields: one that is missing has its
/// default, one that is unknown is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// The key from which secrets of DNS cookies are derived, unless the settings give secrets: with it, cookies that
    /// clients have stay valid.
    pub(crate) cookie_key: Option<[u8; 16]>,
    /// The service addresses, and whether they are announced.
    #[serde(skip_serializing_if = "AnycastState::is_empty")]
    pub(crate) anycast: AnycastState,
}

/// A client's TCP connection between two messages: none of its queries waits, and all replies were sent. The peer's and the
/// local address are those of the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: OwnedFd,
    /// Octets received and not answered: of a message that is not complete, or of messages; at most 160 KiB.
    pub(crate) unread: Vec<u8>,
}

/// The server that is taken over from, as its successor drives it, in the order of the methods. Dropped before
/// [`finish`](Self::finish), it serves as before.
pub(crate) trait Predecessor: Send {
    /// Has it stop reading sockets and accepting connections. It answers what it has read, and each connection is
    /// given to `adopt`. Returns when all are handed over or closed.
    ///
    /// # Errors
    /// It cannot retire: the successor has to give up.
    fn sockets_are_served(&mut self, adopt: &mut dyn FnMut(Connection)) -> io::Result<()>;

    /// Has it answer what its workers have received, and close its AF_XDP sockets. Returns when they are closed.
    ///
    /// # Errors
    /// It cannot retire: the successor has to give up.
    fn programs_are_replaced(&mut self) -> io::Result<()>;

    /// Has it read its sockets and accept connections again, as the successor has failed: before that stops doing so.
    fn resume_sockets(&mut self) {}

    /// Gives a connection back, as the successor has failed: the predecessor serves it when this is dropped. One that cannot be
    /// given back is closed.
    fn give_back(&mut self, _: Connection) {}

    /// Has it end, without removing the control socket's file.
    ///
    /// # Errors
    /// It serves as before: the successor has to give up.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A running server that can be taken over from: what the implementations of [`Predecessor`] need of it. After each
/// method but the first, [`resume`](Self::resume) has it serve as before.
pub(crate) trait Retire {
    /// Duplicates of its descriptors, a snapshot of its caches, and its state. It serves on.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated, or there is no memory for the snapshot.
    fn offer(&self) -> io::Result<Inheritance>;

    /// Stops reading sockets and accepting connections, answers what was read, and gives each connection of a client to
    /// `sink` when it is between two messages. Returns when all are handed over or closed.
    ///
    /// # Errors
    /// A thread does not respond.
    fn retire_sockets(&mut self, sink: &mut dyn FnMut(Connection)) -> io::Result<()>;

    /// Answers what the workers have received, and closes the AF_XDP sockets.
    ///
    /// # Errors
    /// A thread does not respond.
    fn retire_workers(&mut self) -> io::Result<()>;

    /// Nobody serves after this server until the next process does. Does what takes long while the server still serves, and
    /// bounds the time that the other methods wait for.
    fn expect_gap(&mut self);

    /// Serves again as before the offer.
    fn resume(&mut self);

    /// Serves a connection that it had given away.
    fn adopt(&mut self, connection: Connection);
}

#[cfg(test)]
mod tests;
