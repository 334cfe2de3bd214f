//! recvmmsg(2) and sendmmsg(2) for a batch's slots and buffers.
//!
//! The headers hold raw pointers. Those of one call are made from one borrow, which lasts until the
//! call has returned.

use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc};

use super::{BATCH, BUFFER_LEN, ControlMessages, Lengths, Slot, SocketName};

#[cfg(miri)]
use super::loopback::{recvmmsg, sendmmsg};
#[cfg(not(miri))]
use libc::{recvmmsg, sendmmsg};

/// Receives datagrams into slots and buffers, from the first on, [`BATCH`] at most. Returns how
/// many.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    slots: &mut [Slot],
    buffers: &mut [[u8; BUFFER_LEN]],
) -> Result<usize, Errno> {
    let mut iovecs = [NO_IOVEC; BATCH];
    let mut headers = [no_header(); BATCH];
    let datagrams = slots.iter_mut().zip(buffers);
    let mut count = 0;
    for ((slot, buffer), (header, iovec)) in datagrams.zip(headers.iter_mut().zip(&mut iovecs)) {
        slot.lengths = Lengths::WHOLE;
        *iovec = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: BUFFER_LEN,
        };
        *header = header_of(&mut slot.name, &mut slot.control, iovec, slot.lengths);
        count += 1;
    }
    // SAFETY: the first `count` headers point to an iovec each, and the two to the name, the control
    // message and the buffer of one datagram, with their sizes; any octets may be written there. The
    // mutable borrows of all of these last: nothing else uses them before the call returns.
    let result = unsafe {
        recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let received = Errno::result(result)? as usize;
    for (slot, header) in slots.iter_mut().zip(&headers).take(received) {
        slot.lengths = Lengths {
            name: header.msg_hdr.msg_namelen as _,
            control: header.msg_hdr.msg_controllen as _,
            message: header.msg_len as _,
        };
    }
    Ok(received)
}

/// Sends datagrams, [`BATCH`] at most, until one fails; the error is that of the first. Returns how
/// many were sent.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a Slot, &'a [u8; BUFFER_LEN])>,
) -> Result<usize, Errno> {
    let mut iovecs = [NO_IOVEC; BATCH];
    let mut headers = [no_header(); BATCH];
    let mut count = 0;
    for ((slot, buffer), (header, iovec)) in datagrams.zip(headers.iter_mut().zip(&mut iovecs)) {
        // The kernel takes pointers to mutable data, and only reads.
        *iovec = libc::iovec {
            iov_base: buffer.as_ptr().cast_mut().cast(),
            iov_len: slot.lengths.message.min(BUFFER_LEN),
        };
        let name = ptr::from_ref(&slot.name).cast_mut();
        let control = ptr::from_ref(&slot.control).cast_mut();
        *header = header_of(name, control, iovec, slot.lengths);
        count += 1;
    }
    // SAFETY: the first `count` headers point to an iovec each, and the two to the name, the control
    // message and the buffer of one datagram, with lengths within these. The kernel does not write to
    // the three, and their shared borrows last until the call returns; to the headers it writes, and
    // they and the iovecs are this function's own.
    let result = unsafe {
        sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
        )
    };
    Ok(Errno::result(result)? as usize)
}

/// The header of a datagram. No length is beyond its part's end.
fn header_of(
    name: *mut SocketName,
    control: *mut ControlMessages,
    iovec: *mut libc::iovec,
    lengths: Lengths,
) -> libc::mmsghdr {
    let mut header = no_header();
    let parts = &mut header.msg_hdr;
    parts.msg_iov = iovec;
    parts.msg_iovlen = 1;
    parts.msg_name = name.cast();
    parts.msg_namelen = lengths.name.min(size_of::<SocketName>()) as _;
    parts.msg_control = control.cast();
    parts.msg_controllen = lengths.control.min(size_of::<ControlMessages>()) as _;
    header
}

const NO_IOVEC: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

/// A header that points nowhere.
fn no_header() -> libc::mmsghdr {
    // SAFETY: its fields are integers and raw pointers, for which zero is a valid value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}
