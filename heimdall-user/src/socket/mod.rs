//! The kernel-socket front: UDP and TCP listeners.
//!
//! It answers the queries that the XDP program passes on (TCP, fragments, IP options) and everything where
//! there is no XDP, through the same [engine](crate::front) as the AF_XDP workers. A thread with
//! an epoll loop serves its listeners; it never waits for anything but its sockets. Several threads have
//! listeners of their own on the same addresses, and share nothing.
//!
//! Its caller binds the [`Listeners`] first, so that a taken port is found before anything else
//! is started, and then starts a [`SocketFront`] for each thread.

mod batch;
mod connections;
mod counters;
mod datagrams;
mod front;
mod group;
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
