//! Datagrams received and sent, many with one system call.
//!
//! All memory is allocated once, and a reply is written over the query that it answers. (nix's
//! wrappers of these calls do not give the kernel back the room for names and control messages:
//! what was too short for one datagram stays too short for the next one in its slot.)

mod syscalls;

use std::{mem, os::fd::BorrowedFd};

use nix::errno::Errno;

use super::path::{Control, Name, Path};

/// Datagrams in a batch.
pub(super) const BATCH: usize = 64;

/// Octets for a message: at least the largest reply that can be configured. A longer query arrives
/// truncated. With whole pages, the same octet of all messages would fall into the same few sets of
/// the processor's caches.
pub(super) const ROOM: usize = 4096 + 64;

/// A datagram without its message: the kernel's form of its addresses, and the lengths.
#[derive(Clone, Copy)]
struct Slot {
    name: Name,
    control: Control,
    lengths: Lengths,
}

/// What is used, or may be written to, of a datagram's parts.
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
        name: mem::size_of::<Name>(),
        control: mem::size_of::<Control>(),
        message: ROOM,
    };
}

impl Slot {
    const EMPTY: Self = Self {
        name: Name::EMPTY,
        control: Control::EMPTY,
        lengths: Lengths::NONE,
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
pub(super) struct Batch {
    slots: Box<[Slot]>,
    /// The messages, one a slot. Apart from the slots, so that those, all of which each call reads, are
    /// few cache lines.
    buffers: Box<[[u8; ROOM]]>,
    received: usize,
    /// The slots that hold a reply, in order.
    replies: Vec<usize>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::EMPTY; BATCH].into(),
            buffers: vec![[0; ROOM]; BATCH].into(),
            received: 0,
            replies: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what the socket, which does not block, has ready. Fewer than [`BATCH`] means that
    /// there were no more.
    ///
    /// # Errors
    /// EAGAIN if there is nothing, and those of recvmmsg(2).
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.received = 0;
        self.replies.clear();
        self.received = syscalls::receive(socket, &mut self.slots, &mut self.buffers)?;
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

    /// The buffer of a slot, with the message, [`ROOM`] octets.
    pub(super) fn room(&mut self, slot: usize) -> &mut [u8] {
        match self.buffers.get_mut(slot) {
            Some(buffer) => buffer,
            None => &mut [],
        }
    }

    /// Queues the first `len` octets of a slot's buffer as the reply along `path`, which is that of
    /// the datagram in the slot. To be called at most once a slot.
    pub(super) fn reply(&mut self, slot: usize, len: usize, path: &Path) {
        if let Some(reply) = self.slots.get_mut(slot) {
            reply.lengths.message = len;
            reply.lengths.control = reply.control.encode(&path.local);
            self.replies.push(slot);
        }
    }

    /// Queues a copy of a message along `path`, in the next slot. Not to be mixed with replies to
    /// received datagrams. Returns whether it fits.
    pub(super) fn post(&mut self, msg: &[u8], path: &Path) -> bool {
        let at = self.replies.len();
        let Some(slot) = self.slots.get_mut(at) else {
            return false;
        };
        slot.lengths.name = slot.name.encode(path.peer);
        let Some(buffer) = self.room(at).get_mut(..msg.len()) else {
            return false;
        };
        buffer.copy_from_slice(msg);
        self.reply(at, msg.len(), path);
        true
    }

    /// Whether all slots hold replies.
    pub(super) fn is_full(&self) -> bool {
        self.replies.len() == self.slots.len()
    }

    /// Sends the replies. One that fails does not stop the others. For one that is too large for its
    /// path, `shorten` may write a shorter one over it, and returns that one's length.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        mut shorten: impl FnMut(usize, &mut [u8]) -> Option<usize>,
    ) -> Sent {
        let mut result = Sent::default();
        let mut at = 0;
        while let Some(&first) = self.replies.get(at) {
            match self.send_from(socket, at) {
                Ok(sent) => {
                    result.sent += sent;
                    at += sent;
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    // The error is the first reply's; later ones were not tried.
                    let shorter = error == Errno::EMSGSIZE
                        && shorten(first, self.room(first))
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

    /// Sends replies from the one at `at` on, until one fails; the error is that of the first.
    fn send_from(&self, socket: BorrowedFd<'_>, at: usize) -> Result<usize, Errno> {
        let replies = self.replies.iter().skip(at);
        let datagrams =
            replies.filter_map(|&slot| Some((self.slots.get(slot)?, self.buffers.get(slot)?)));
        syscalls::send(socket, datagrams)
    }
}

#[cfg(miri)]
mod loopback;
#[cfg(all(test, not(miri)))]
mod tests;
