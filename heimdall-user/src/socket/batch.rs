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

/// Room for a message: the largest reply that can be configured. A longer query arrives cut.
pub(super) const ROOM: usize = 4096;

/// A datagram: the kernel's form of its ends, and the message.
///
/// The size is no multiple of a page. If it were, equal places of all datagrams would compete for
/// the same few lines of the processor's caches.
struct Slot {
    name: Name,
    name_len: usize,
    control: Control,
    control_len: usize,
    len: usize,
    room: [u8; ROOM],
}

const _: () = assert!(mem::size_of::<Slot>() % 4096 != 0);

impl Slot {
    const EMPTY: Self = Self {
        name: Name::EMPTY,
        name_len: 0,
        control: Control::EMPTY,
        control_len: 0,
        len: 0,
        room: [0; ROOM],
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

    /// Where the kernel finds the parts of this datagram. The lengths are within the parts:
    /// they are set by [`clear`](Self::clear), or taken from a received datagram, or from a
    /// reply that stands in the room, and cut to size here.
    fn header(&mut self, iovec: &mut libc::iovec) -> libc::mmsghdr {
        iovec.iov_base = self.room.as_mut_ptr().cast();
        iovec.iov_len = self.len.min(ROOM);
        let mut header = no_header();
        let parts = &mut header.msg_hdr;
        parts.msg_iov = iovec;
        parts.msg_iovlen = 1;
        parts.msg_name = (&raw mut self.name).cast();
        parts.msg_namelen = self.name_len.min(mem::size_of::<Name>()) as _;
        parts.msg_control = (&raw mut self.control).cast();
        parts.msg_controllen = self.control_len.min(mem::size_of::<Control>()) as _;
        header
    }
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
    received: usize,
    /// The slots that hold a reply, in order.
    replies: Vec<usize>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..BATCH).map(|_| Slot::EMPTY).collect(),
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
        let parts = headers.iter_mut().zip(&mut iovecs);
        for (slot, (header, iovec)) in self.slots.iter_mut().zip(parts) {
            slot.clear();
            *header = slot.header(iovec);
        }
        // SAFETY: there are BATCH headers. Each points to one live iovec, and, as that does, to
        // a part of its own of a slot, with that part's whole length; none is used otherwise before
        // the call returns. Any octets that the kernel may write are valid in them.
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
            slot.len = header.msg_len as usize;
            slot.name_len = header.msg_hdr.msg_namelen as usize;
            slot.control_len = header.msg_hdr.msg_controllen as usize;
        }
        Ok(self.received)
    }

    /// The received datagrams: where they came from and went to, and the message.
    pub(super) fn received(&self) -> impl Iterator<Item = (Option<Path>, &[u8])> {
        let received = self.slots.iter().take(self.received);
        received.map(|slot| (slot.path(), slot.room.get(..slot.len).unwrap_or(&slot.room)))
    }

    /// The message in a slot, and the room for a reply.
    pub(super) fn room(&mut self, slot: usize) -> &mut [u8] {
        match self.slots.get_mut(slot) {
            Some(slot) => &mut slot.room,
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
        let Some(room) = slot.room.get_mut(..msg.len()) else {
            return false;
        };
        room.copy_from_slice(msg);
        slot.name_len = slot.name.encode(path.peer);
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
                    let shorter = self
                        .slots
                        .get_mut(first)
                        .filter(|_| error == Errno::EMSGSIZE)
                        .is_some_and(|slot| match shorten(first, &mut slot.room) {
                            Some(len) if len < slot.len => {
                                slot.len = len;
                                true
                            }
                            _ => false,
                        });
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

    /// Sends replies from the one at `at` on, until one fails; the error is that of the first.
    fn send_from(&mut self, socket: BorrowedFd<'_>, at: usize) -> Result<usize, Errno> {
        let mut iovecs = [NO_IOVEC; BATCH];
        let mut headers = [no_header(); BATCH];
        let mut parts = headers.iter_mut().zip(&mut iovecs);
        let mut count = 0;
        for &reply in self.replies.iter().skip(at) {
            if let Some(slot) = self.slots.get_mut(reply)
                && let Some((header, iovec)) = parts.next()
            {
                *header = slot.header(iovec);
                count += 1;
            }
        }
        // SAFETY: `count` headers were filled in. Each points to one live iovec, and, as that does,
        // to parts of a slot, with no more than their lengths; the kernel only reads them.
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
