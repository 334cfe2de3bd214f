//! Datagrams in and out, many with one system call.
//!
//! All memory is allocated once, and a reply is written over the query that it answers. (nix wraps
//! these calls, but does not reset the lengths of the buffers for names and control messages: a
//! short one would limit the next datagram in its slot.)

use std::{
    mem::{self, MaybeUninit},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use nix::{errno::Errno, libc};

use super::path::{Control, Name, Path};
use crate::front::BATCH;

/// Room for a message: the largest reply that can be configured, at least. A longer query arrives
/// cut. It is no multiple of the page size, or equal offsets of all messages would compete for the
/// same few sets of the processor's caches.
pub(super) const ROOM: usize = 4096 + 64;

/// A datagram without its message: its ends in the kernel's form, and the lengths.
#[derive(Clone, Copy)]
struct Slot {
    name: Name,
    control: Control,
    name_len: usize,
    control_len: usize,
    len: usize,
    /// The index of its socket.
    socket: usize,
}

impl Slot {
    const EMPTY: Self = Self {
        name: Name::EMPTY,
        control: Control::EMPTY,
        name_len: 0,
        control_len: 0,
        len: 0,
        socket: 0,
    };

    /// Prepares it to receive a datagram of whatever size.
    fn clear(&mut self, socket: usize) {
        self.socket = socket;
        self.name_len = mem::size_of::<Name>();
        self.control_len = mem::size_of::<Control>();
        self.len = ROOM;
    }

    fn path(&self) -> Option<Path> {
        Some(Path {
            peer: self.name.decode(self.name_len)?,
            local: self.control.decode(self.control_len),
        })
    }
}

/// Where the kernel finds the parts of a datagram. No length exceeds its part.
fn header(slot: &mut Slot, room: &mut [u8; ROOM], iovec: &mut libc::iovec) -> libc::mmsghdr {
    iovec.iov_base = room.as_mut_ptr().cast();
    iovec.iov_len = slot.len.min(ROOM);
    let mut header = no_header();
    let parts = &mut header.msg_hdr;
    parts.msg_iov = iovec;
    parts.msg_iovlen = 1;
    parts.msg_name = (&raw mut slot.name).cast();
    parts.msg_namelen = slot.name_len.min(mem::size_of::<Name>()) as _;
    parts.msg_control = (&raw mut slot.control).cast();
    parts.msg_controllen = slot.control_len.min(mem::size_of::<Control>()) as _;
    header
}

/// What became of a batch of replies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) sent: usize,
    pub(super) failed: usize,
}

/// Datagrams that were received together, and their replies.
pub(super) struct Batch {
    slots: Box<[Slot]>,
    /// The messages, one a slot. They are apart from the slots, so that all that the kernel is told
    /// at each call is in few cache lines.
    rooms: Box<[[u8; ROOM]]>,
    received: usize,
    /// The slots that hold a reply, in ascending order.
    replies: Vec<usize>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::EMPTY; BATCH].into(),
            rooms: vec![[0; ROOM]; BATCH].into(),
            received: 0,
            replies: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what `socket`, which does not block and has this index among the sockets, has
    /// ready. Less than [`BATCH`] means that there was no more.
    pub(super) fn receive(&mut self, socket: impl AsFd, index: usize) -> Result<usize, Errno> {
        self.received = 0;
        self.replies.clear();
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers = [no_header(); BATCH];
        let slots = self.slots.iter_mut().zip(&mut self.rooms);
        for ((slot, room), (target, iovec)) in slots.zip(headers.iter_mut().zip(&mut iovecs)) {
            slot.clear(index);
            *target = header(slot, room, iovec);
        }
        // SAFETY: there are BATCH headers. Each points to a live iovec, and the two to a name, a
        // control message and a room, with no more than their sizes. All of these are but one
        // header's, nothing else uses them until the call returns, and they hold any octets.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as _,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        self.received = Errno::result(result)? as usize;
        for (slot, header) in self.slots.iter_mut().zip(&headers).take(self.received) {
            slot.len = header.msg_len as _;
            slot.name_len = header.msg_hdr.msg_namelen as _;
            slot.control_len = header.msg_hdr.msg_controllen as _;
        }
        Ok(self.received)
    }

    /// The received datagrams: where they came from and went to, and the message.
    pub(super) fn received(&self) -> impl Iterator<Item = (Option<Path>, &[u8])> {
        let received = self.slots.iter().zip(&self.rooms).take(self.received);
        received.map(|(slot, room)| (slot.path(), room.get(..slot.len).unwrap_or(room)))
    }

    /// The message in a slot, and the room for a reply.
    pub(super) fn room(&mut self, slot: usize) -> &mut [u8] {
        match self.rooms.get_mut(slot) {
            Some(room) => room,
            None => &mut [],
        }
    }

    /// Queues the first `len` octets of a slot's room as the reply to be sent along `path`, which is
    /// that of the datagram in the slot. To be called in ascending order of slots.
    pub(super) fn reply(&mut self, slot: usize, len: usize, path: &Path) {
        if self.replies.last().is_some_and(|last| *last >= slot) {
            debug_assert!(false, "slot {slot} out of order");
            return;
        }
        if let Some(reply) = self.slots.get_mut(slot) {
            reply.len = len;
            reply.control_len = reply.control.encode(&path.local);
            self.replies.push(slot);
        }
    }

    /// Prepares the next slot for a message to `peer`, over the socket with the index `socket`; the
    /// message is written into its room and queued by [`reply`](Self::reply). A batch is either
    /// received or composed; [`BATCH`] messages fit into it.
    pub(super) fn compose(&mut self, socket: usize, peer: SocketAddr) -> usize {
        let next = self.replies.last().map_or(0, |last| last + 1);
        if let Some(slot) = self.slots.get_mut(next) {
            slot.socket = socket;
            slot.name_len = slot.name.encode(peer);
        }
        next
    }

    /// Sends the replies, each over its socket. One that fails does not stop the others. For one
    /// that is too large for its path, `shorten` may write a shorter one over it, and returns its
    /// length.
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
                        && shorten(first, self.room(first)).is_some_and(|len| self.cut(first, len));
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

    /// Sets the length of a reply, if it is shorter than before.
    fn cut(&mut self, slot: usize, len: usize) -> bool {
        let reply = self.slots.get_mut(slot).filter(|reply| len < reply.len);
        reply.map(|reply| reply.len = len).is_some()
    }

    /// Sends the replies from index `at` on, as far as they have the same socket, until one fails.
    /// Returns how many were sent, one at least; the error is that of the first.
    fn send_from(&mut self, sockets: &[impl AsFd], at: usize) -> Result<usize, Errno> {
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers = [no_header(); BATCH];
        let mut targets = headers.iter_mut().zip(&mut iovecs);
        let mut replies = self.replies.iter().skip(at).peekable();
        let mut socket = None;
        let mut count = 0;
        // Each slot is borrowed once, so that no header's pointers are invalidated by a later one's.
        for (index, (slot, room)) in self.slots.iter_mut().zip(&mut self.rooms).enumerate() {
            if replies.next_if_eq(&&index).is_none() {
                continue;
            }
            if *socket.get_or_insert(slot.socket) != slot.socket {
                break;
            }
            if let Some((target, iovec)) = targets.next() {
                *target = header(slot, room, iovec);
                count += 1;
            }
        }
        let socket = socket.and_then(|socket| sockets.get(socket));
        let socket = socket.ok_or(Errno::EBADF)?;
        // SAFETY: the first `count` headers were filled in. Each points to a live iovec, and the
        // two to a name, a control message and a room, with no more than their sizes, which the
        // kernel reads. Nothing else uses them until the call returns.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
            )
        };
        Ok(Errno::result(result)? as usize)
    }
}

const NO_IOVEC: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

/// A header that points nowhere.
fn no_header() -> libc::mmsghdr {
    // SAFETY: of integers and raw pointers alone, for which zero is a valid value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

#[cfg(test)]
mod tests;
