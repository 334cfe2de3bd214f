//! Datagrams sent and received, many with one system call.

use std::{
    fmt,
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use mio::net::UdpSocket;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};

use super::Socket;
use crate::dns::header::{self, field};

const BATCH: usize = Batch::LEN;

/// Octets for a response. Upstreams are told that 1,232 are received; one that is longer than this is
/// taken for truncated, and fetched over TCP. With whole pages, the same octet of all messages would
/// fall into the same few sets of the processor's caches.
const BUFFER_LEN: usize = 4096 + 64;

/// Memory for system calls. It holds pointers, so it is created by the thread that uses it.
pub(in crate::forward) struct Batch {
    sent: MultiHeaders<()>,
    /// For each family one, as the length of an address stays that of the last one received.
    received: [MultiHeaders<SockaddrStorage>; 2],
    buffers: Box<[[u8; BUFFER_LEN]; BATCH]>,
    lengths: [Length; BATCH],
}

#[derive(Clone, Copy)]
struct Length {
    octets: usize,
    from_upstream: bool,
}

/// A datagram that was received.
pub(in crate::forward) struct Datagram<'a> {
    pub(in crate::forward) message: &'a [u8],
    /// The sender's address and port are the upstream's. The kernel drops others, but for those that came
    /// before the socket was connected.
    pub(in crate::forward) from_upstream: bool,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl Batch {
    /// Datagrams of one system call, at most.
    pub(in crate::forward) const LEN: usize = 64;

    pub(in crate::forward) fn new() -> Self {
        let headers = || MultiHeaders::preallocate(BATCH, None);
        let buffers = vec![[0; BUFFER_LEN]; BATCH].into_boxed_slice();
        Self {
            sent: MultiHeaders::preallocate(BATCH, None),
            received: [headers(), headers()],
            buffers: buffers.try_into().unwrap_or_else(|_| unreachable!()),
            lengths: [Length {
                octets: 0,
                from_upstream: false,
            }; BATCH],
        }
    }

    /// Sends messages, [`LEN`](Self::LEN) at most, until one fails; the error is that of the first. Returns how many
    /// were sent.
    pub(super) fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, Errno> {
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        let mut count = 0;
        for (slice, message) in slices.iter_mut().zip(messages) {
            *slice = [IoSlice::new(message)];
            count += 1;
        }
        let slices = slices.iter().take(count);
        let flags = MsgFlags::MSG_DONTWAIT;
        let to = [None; BATCH];
        sendmmsg(socket.as_raw_fd(), &mut self.sent, slices, to, [], flags)
            .map(|results| results.count())
    }

    /// Receives the datagrams that are ready on a socket. Fewer than [`LEN`](Self::LEN) means that there were no more.
    ///
    /// # Errors
    /// EAGAIN if there is nothing; an ICMP error that the socket got.
    pub(in crate::forward) fn receive(&mut self, socket: &Socket) -> Result<usize, Errno> {
        let upstream = socket.upstream();
        let [v4, v6] = &mut self.received;
        let headers = if upstream.is_ipv4() { v4 } else { v6 };
        let mut slices = self.buffers.each_mut().map(|buf| [IoSliceMut::new(buf)]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let results = recvmmsg(socket.io().as_raw_fd(), headers, &mut slices, flags, None)?;
        let mut truncated = [false; BATCH];
        let mut count = 0;
        let places = self.lengths.iter_mut().zip(&mut truncated);
        for ((length, truncated), result) in places.zip(results) {
            *length = Length {
                octets: result.bytes,
                from_upstream: (result.address).is_some_and(|from| is_endpoint(&from, upstream)),
            };
            *truncated = result.flags.contains(MsgFlags::MSG_TRUNC);
            count += 1;
        }
        for (buffer, _) in self
            .buffers
            .iter_mut()
            .zip(truncated)
            .filter(|(_, cut)| *cut)
        {
            if let Some(flags) = buffer.get_mut(field::FLAGS) {
                *flags |= (header::TC >> 8) as u8;
            }
        }
        Ok(count)
    }

    /// A datagram that was received last.
    pub(in crate::forward) fn datagram(&self, at: usize) -> Option<Datagram<'_>> {
        let length = self.lengths.get(at)?;
        Some(Datagram {
            message: self.buffers.get(at)?.get(..length.octets)?,
            from_upstream: length.from_upstream,
        })
    }
}

/// Whether the kernel's form of an address is that of `upstream`, apart from flow labels and scopes, which the kernel
/// adds.
fn is_endpoint(address: &SockaddrStorage, upstream: SocketAddr) -> bool {
    let v4 = address.as_sockaddr_in();
    let v4 = v4.map(|v4| (IpAddr::from(v4.ip()), v4.port()));
    let v6 = address.as_sockaddr_in6();
    let endpoint = v4.or(v6.map(|v6| (IpAddr::from(v6.ip()), v6.port())));
    endpoint == Some((upstream.ip(), upstream.port()))
}
