//! Datagrams received and sent, many with one system call.
//!
//! All memory is allocated once, and a reply is written over the query that it answers. (nix's
//! wrappers of these calls do not reset the lengths of names and control messages: a length that
//! was too short for one datagram stays so for the next one in its slot.)

mod syscalls;

use std::{mem, net::SocketAddr, os::fd::AsFd};

use nix::errno::Errno;

use super::path::{ControlMessages, Path, SocketName};
use crate::front::BATCH;

/// Octets for a message: at least the largest reply that can be configured. A longer query arrives
/// truncated. With whole pages, the same octet of all messages would fall into the same few sets of
/// the processor's caches.
pub(super) const BUFFER_LEN: usize = 4096 + 64;

/// A datagram without its message: the kernel's form of its addresses, and the lengths.
#[derive(Clone, Copy)]
struct Slot {
    name: SocketName,
    control: ControlMessages,
    lengths: Lengths,
    /// The index of its socket.
    socket: usize,
}

/// Lengths of a datagram's parts: used, or available to the kernel.
#[derive(Clone, Copy)]
struct Lengths {
    name: usize,
    control: usize,
    message: usize,
}

impl Lengths {
    const NONE: Self = Self {
        name: 0,
        control: 0,
        message: 0,
    };

    /// To receive into.
    const WHOLE: Self = Self {
        name: mem::size_of::<SocketName>(),
        control: mem::size_of::<ControlMessages>(),
        message: BUFFER_LEN,
    };
}

impl Slot {
    const EMPTY: Self = Self {
        name: SocketName::EMPTY,
        control: ControlMessages::EMPTY,
        lengths: Lengths::NONE,
        socket: 0,
    };

    fn path(&self) -> Option<Path> {
        Some(Path {
            peer: self.name.decode(self.lengths.name)?,
            local: self.control.decode(self.lengths.control),
        })
    }
}

/// How many replies were sent, and how many were not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) sent: usize,
    pub(super) failed: usize,
}

/// Datagrams that were received together, and their replies.
pub(super) struct DatagramBatch {
    slots: Box<[Slot]>,
    /// The messages, one a slot. Apart from the slots, so that those, all of which each call reads, are
    /// few cache lines.
    buffers: Box<[[u8; BUFFER_LEN]]>,
    received: usize,
    /// The slots that hold a reply, in ascending order.
    replies: Vec<usize>,
}

impl DatagramBatch {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::EMPTY; BATCH].into(),
            buffers: vec![[0; BUFFER_LEN]; BATCH].into(),
            received: 0,
            replies: Vec::with_capacity(BATCH),
        }
    }

    /// Receives the datagrams that are ready on `socket`, which does not block and has this index among the sockets.
    /// Fewer than [`BATCH`] means that there were no more.
    ///
    /// # Errors
    /// EAGAIN if there is nothing, and those of recvmmsg(2).
    pub(super) fn receive(&mut self, socket: impl AsFd, index: usize) -> Result<usize, Errno> {
        self.received = 0;
        self.replies.clear();
        self.received = syscalls::receive(socket.as_fd(), &mut self.slots, &mut self.buffers)?;
        for slot in self.slots.iter_mut().take(self.received) {
            slot.socket = index;
        }
        Ok(self.received)
    }

    /// The received datagrams, and their addresses: `None` if the peer's is of an unknown kind.
    pub(super) fn received(&self) -> impl Iterator<Item = (Option<Path>, &[u8])> {
        let received = self.slots.iter().zip(&self.buffers).take(self.received);
        received.map(|(slot, buffer)| {
            let message = buffer.get(..slot.lengths.message).unwrap_or(buffer);
            (slot.path(), message)
        })
    }

    /// The buffer of a slot, with the message, [`BUFFER_LEN`] octets.
    pub(super) fn buffer(&mut self, slot: usize) -> &mut [u8] {
        match self.buffers.get_mut(slot) {
            Some(buffer) => buffer,
            None => &mut [],
        }
    }

    /// Queues the first `len` octets of a slot's buffer as the reply along `path`, which is that of
    /// the datagram in the slot. To be called in ascending order of slots.
    pub(super) fn reply(&mut self, slot: usize, len: usize, path: &Path) {
        if self.replies.last().is_some_and(|last| *last >= slot) {
            debug_assert!(false, "slot {slot} out of order");
            return;
        }
        if let Some(reply) = self.slots.get_mut(slot) {
            reply.lengths.message = len;
            reply.lengths.control = reply.control.encode(&path.local);
            self.replies.push(slot);
        }
    }

    /// Prepares the next slot for a message to `peer`, over the socket with the index `socket`; the
    /// message is written into its buffer and queued by [`reply`](Self::reply). A batch is either
    /// received or composed; [`BATCH`] messages fit into it.
    pub(super) fn compose(&mut self, socket: usize, peer: SocketAddr) -> usize {
        let next = self.replies.last().map_or(0, |last| last + 1);
        if let Some(slot) = self.slots.get_mut(next) {
            slot.socket = socket;
            slot.lengths.name = slot.name.encode(peer);
        }
        next
    }

    /// Sends the replies, each over its socket. One that fails does not stop the others. For one that is too large for its
    /// path, `shorten` may write a shorter one over it, and returns that one's length.
    pub(super) fn send(
        &mut self,
        sockets: &[impl AsFd],
        mut shorten: impl FnMut(usize, &mut [u8]) -> Option<usize>,
    ) -> Sent {
        let mut result = Sent::default();
        let mut at = 0;
        while let Some(&first) = self.replies.get(at) {
            match self.send_from(sockets, at) {
                Ok(sent) => {
                    result.sent += sent;
                    at += sent;
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    // The error is the first reply's; later ones were not tried.
                    let shorter = error == Errno::EMSGSIZE
                        && shorten(first, self.buffer(first))
                            .is_some_and(|len| self.shorten(first, len));
                    if !shorter {
                        result.failed += 1;
                        at += 1;
                    }
                }
            }
        }
        self.replies.clear();
        result
    }

    /// Sets the length of a reply, if it is less than before. Returns whether it is.
    fn shorten(&mut self, slot: usize, len: usize) -> bool {
        let reply = self
            .slots
            .get_mut(slot)
            .filter(|reply| len < reply.lengths.message);
        reply.map(|reply| reply.lengths.message = len).is_some()
    }

    /// Sends the replies from index `at` on, as far as they have the same socket, until one fails.
    /// Returns how many were sent, one at least; the error is that of the first.
    fn send_from(&self, sockets: &[impl AsFd], at: usize) -> Result<usize, Errno> {
        let replies = self.replies.iter().skip(at);
        let mut slots = replies
            .filter_map(|&slot| Some((self.slots.get(slot)?, self.buffers.get(slot)?)))
            .peekable();
        let socket = slots.peek().map(|(slot, _)| slot.socket);
        let descriptor = socket.and_then(|socket| sockets.get(socket));
        let descriptor = descriptor.ok_or(Errno::EBADF)?;
        let datagrams = slots.take_while(|(slot, _)| Some(slot.socket) == socket);
        syscalls::send(descriptor.as_fd(), datagrams)
    }
}

#[cfg(miri)]
mod loopback;
#[cfg(all(test, not(miri)))]
mod tests;
