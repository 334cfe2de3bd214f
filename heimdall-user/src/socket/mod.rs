//! The kernel-socket front: UDP and TCP listeners.
//!
//! It answers the queries that the XDP program passes on (TCP, fragments, IP options) and everything where
//! there is no XDP, through the same [engine](crate::front) as the AF_XDP workers. One thread with
//! an epoll loop serves all listeners; it never waits for anything but its sockets.
//!
//! Its caller binds the [`Listeners`] first, so that a taken port is found before anything else
//! is started, and then starts the [`SocketFront`].

mod batch;
mod connections;
mod counters;
mod datagrams;
mod front;
mod holders;
mod listeners;
mod mtu;
mod origin;
mod path;
mod sockets;
mod tcp;

pub(crate) use connections::MAX_CONNECTIONS;
pub(crate) use counters::SocketCounters;
pub use front::SocketFront;
pub use listeners::Listeners;
pub(crate) use listeners::SocketError;

#[cfg(test)]
mod tests;
