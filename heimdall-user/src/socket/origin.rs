//! The origin of a query, and its state while it waits for the forwarder.

use std::net::IpAddr;

use super::path::Path;
use crate::answer::{Client, Transport};

/// The socket and address that a query came from and its reply goes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Udp {
        /// The listener's index.
        listener: usize,
        path: Path,
    },
    Stream {
        connection: usize,
        /// Distinguishes the connection from a later one with the same index.
        serial: u64,
        /// The client's address.
        address: IpAddr,
        over_tls: bool,
    },
}

impl Origin {
    /// The client, for the answer core.
    pub(super) fn client(&self) -> Client {
        match self {
            Self::Udp { path, .. } => Client::new(
                path.peer.ip(),
                Transport::Udp {
                    source_port: path.peer.port(),
                },
            ),
            Self::Stream {
                address, over_tls, ..
            } => {
                let transport = match over_tls {
                    true => Transport::Tls,
                    false => Transport::Tcp,
                };
                Client::new(*address, transport)
            }
        }
    }
}

/// A query between its receipt and its reply. A datagram is in a slot of the batch, a message from a
/// stream in the buffer that all streams share.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) origin: Origin,
    /// The datagram's slot.
    pub(super) slot: usize,
    /// Octets of the message; once there is a reply, of that.
    pub(super) len: usize,
}

/// A query that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) origin: Origin,
    /// The message's start, as much as the reply needs.
    pub(super) head: Vec<u8>,
}
