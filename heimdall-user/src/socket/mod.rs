//! The kernel-socket front: UDP, TCP and TLS listeners.
//!
//! It answers the queries that the XDP program passes on (TCP, fragments, IP options) and everything where
//! there is no XDP, through the same [engine](crate::front) as the AF_XDP workers. A thread with
//! an epoll loop serves its listeners; it never waits for anything but its sockets. Several threads have
//! listeners of their own on the same addresses, and share nothing.
//!
//! Its caller binds the [`Listeners`] first, so that a taken port is found before anything else
//! is started, and then starts a [`SocketFront`] for each thread. A front that is to end retires first
//! (`SocketFront::retire`): its sockets and connections go to a successor, or are drained.

mod batch;
mod connections;
mod counters;
mod datagrams;
mod error;
mod front;
mod group;
mod holders;
mod inherited;
mod joined;
mod listeners;
mod mtu;
mod origin;
mod path;
mod retirement;
mod sockets;
mod stream;
mod tcp;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

pub(crate) use connections::MAX_CONNECTIONS;
pub(crate) use counters::SocketCounters;
pub(crate) use error::SocketError;
pub use front::SocketFront;
pub use listeners::Listeners;
pub(crate) use retirement::Ending;
pub(crate) use tls::{Certificate, PairError, TlsPair, TlsServer, Validity};

#[cfg(test)]
mod tests;
