//! Datagrams in and out, many with one system call.
//!
//! All memory is allocated once, and a reply is written over the query that it answers. (nix has
//! wrappers of these calls. They do not give the kernel back the room for names and control
//! messages: what one datagram lacked, the next one in its place would lack, too.)

use std::{
    mem::{self, MaybeUninit},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc};

use super::path::{Control, Name, Path};

/// Datagrams in a batch.
pub(super) const BATCH: usize = 64;

/// Room for a message: the largest reply that can be configured, at least. A longer query arrives
/// cut. Were it whole pages, equal places of all messages would compete for the same few lines of
/// the processor's caches.
pub(super) const ROOM: usize = 4096 + 64;

/// A datagram beside its message: the kernel's form of its ends, and the lengths.
#[derive(Clone, Copy)]
struct Slot {
    name: Name,
    control: Control,
    name_len: usize,
    control_len: usize,
    len: usize,
}

impl Slot {
    const EMPTY: Self = Self {
        name: Name::EMPTY,
        control: Control::EMPTY,
        name_len: 0,
        control_len: 0,
        len: 0,
    };

    /// Makes all the room ready to receive into.
    fn clear(&mut self) {
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

/// Where the kernel finds the parts of a datagram. No length is beyond its part's end.
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
    /// The messages, one a slot. They lie apart, so that what the kernel is told about all slots
    /// at each call is found in few lines of memory.
    rooms: Box<[[u8; ROOM]]>,
    received: usize,
    /// The slots that hold a reply, in order.
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

    /// Receives what the socket, which does not block, has ready. Less than [`BATCH`] means that
    /// there was no more.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.received = 0;
        self.replies.clear();
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers = [no_header(); BATCH];
        let slots = self.slots.iter_mut().zip(&mut self.rooms);
        for ((slot, room), (place, iovec)) in slots.zip(headers.iter_mut().zip(&mut iovecs)) {
            slot.clear();
            *place = header(slot, room, iovec);
        }
        // SAFETY: there are BATCH headers. Each points to a live iovec, and the two to a name, a
        // control message and a room, with no more than their sizes. All of these are but one
        // header's, nothing else uses them until the call returns, and they hold any octets.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
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

    /// Has the first `len` octets of a slot's room sent back along `path`, which is that of the
    /// datagram in the slot. To be called at most once a slot.
    pub(super) fn reply(&mut self, slot: usize, len: usize, path: &Path) {
        if let Some(reply) = self.slots.get_mut(slot) {
            reply.len = len;
            reply.control_len = reply.control.encode(&path.local);
            self.replies.push(slot);
        }
    }

    /// Has a message sent along `path`, from the next slot: the slots have to be all posted, or all
    /// received. Whether there was room for it.
    pub(super) fn post(&mut self, msg: &[u8], path: &Path) -> bool {
        let at = self.replies.len();
        let Some(slot) = self.slots.get_mut(at) else {
            return false;
        };
        slot.name_len = slot.name.encode(path.peer);
        let Some(room) = self.room(at).get_mut(..msg.len()) else {
            return false;
        };
        room.copy_from_slice(msg);
        self.reply(at, msg.len(), path);
        true
    }

    /// Whether all slots hold replies.
    pub(super) fn is_full(&self) -> bool {
        self.replies.len() == self.slots.len()
    }

    /// Sends the replies. What one fails of does not stop the others. For one that is too large
    /// for its path, `shorten` may write another over it, and says how long that is.
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

    /// Takes the new length of a reply, if it is shorter than before.
    fn cut(&mut self, slot: usize, len: usize) -> bool {
        let reply = self.slots.get_mut(slot).filter(|reply| len < reply.len);
        reply.map(|reply| reply.len = len).is_some()
    }

    /// Sends replies from the one at `at` on, until one fails; the error is that of the first.
    fn send_from(&mut self, socket: BorrowedFd<'_>, at: usize) -> Result<usize, Errno> {
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers = [no_header(); BATCH];
        let mut places = headers.iter_mut().zip(&mut iovecs);
        let mut count = 0;
        for &reply in self.replies.iter().skip(at) {
            if let Some(slot) = self.slots.get_mut(reply)
                && let Some(room) = self.rooms.get_mut(reply)
                && let Some((place, iovec)) = places.next()
            {
                *place = header(slot, room, iovec);
                count += 1;
            }
        }
        // SAFETY: the first `count` headers were filled in. Each points to a live iovec, and the
        // two to a name, a control message and a room, with no more than their sizes, which the
        // kernel reads. Nothing else uses them until the call returns.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
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
