//! What the kernel gives to a server's sockets as soon as they are bound, and would give to its predecessor's: a share of a
//! group's datagrams and connections, and the datagrams of an address that the predecessor serves by a wildcard. A server
//! whose start fails has to leave that to the predecessor again before it closes the sockets.

use mio::net::{TcpListener, UdpSocket};

use super::group;

/// What a thread's sockets have joined, by their positions.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// UDP sockets of addresses that the predecessor serves by a wildcard.
    pub(super) addresses: Vec<usize>,
    /// One UDP socket of each group that was made larger, and how many the predecessor has in it. Only one thread has these.
    pub(super) udp: Vec<(usize, usize)>,
    /// The same of listeners for streams.
    pub(super) streams: Vec<(usize, usize)>,
}

impl Joined {
    /// Has the kernel give nothing more to these sockets. What they have can still be read, and they can send.
    pub(super) fn leave(&self, udp: &[UdpSocket], streams: &[TcpListener]) {
        let datagrams = self.udp.iter().map(|(at, count)| {
            let socket = udp.get(*at);
            socket.map_or(Ok(()), |socket| group::distribute(socket, *count))
        });
        let streams = self.streams.iter().map(|(at, count)| {
            let listener = streams.get(*at);
            listener.map_or(Ok(()), |listener| group::distribute(listener, *count))
        });
        for error in datagrams.chain(streams).filter_map(Result::err) {
            tracing::warn!(%error, "queries that arrive in this moment may be lost");
        }
        for socket in self.addresses.iter().filter_map(|at| udp.get(*at)) {
            // A connected socket gets what its peer sends, which is itself here. If that fails, as the host does not have the
            // address, it gets nothing in any case.
            let _ = socket.local_addr().and_then(|local| socket.connect(local));
        }
    }
}
