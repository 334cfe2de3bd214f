//! The two system calls for Miri, which has none of them: datagrams that are sent are received by the same
//! thread, and every octet is accessed through the headers' pointers, as the kernel would.
#![allow(clippy::unwrap_used, clippy::multiple_unsafe_ops_per_block)]

use std::{cell::RefCell, collections::VecDeque, ptr, slice};

use nix::{errno::Errno, libc};

use super::{BATCH, BUFFER_LEN, DatagramBatch, Path, Sent};
use crate::socket::path::Local;

/// Messages longer than this are too large for the path.
const MTU: usize = 1280;

/// A name, a control message and a message.
type Parts = [Vec<u8>; 3];

thread_local! {
    static IN_FLIGHT: RefCell<VecDeque<Parts>> = const { RefCell::new(VecDeque::new()) };
}

/// Copies from the network to the whole of a part; returns its new length.
unsafe fn fill(part: *mut libc::c_void, len: usize, octets: &[u8]) -> usize {
    // SAFETY: the caller has `len` octets there, to which no reference exists.
    let part = unsafe { slice::from_raw_parts_mut(part.cast::<u8>(), len) };
    part.fill(0xee);
    let taken = octets.len().min(len);
    part[..taken].copy_from_slice(&octets[..taken]);
    taken
}

unsafe fn copy(part: *const libc::c_void, len: usize) -> Vec<u8> {
    // SAFETY: the caller has `len` octets there, which are not written to meanwhile.
    unsafe { slice::from_raw_parts(part.cast::<u8>(), len) }.to_vec()
}

pub(super) unsafe fn recvmmsg(
    _: i32,
    headers: *mut libc::mmsghdr,
    count: u32,
    _: i32,
    _: *mut libc::timespec,
) -> i32 {
    let mut received = 0;
    while received < count as usize {
        let Some([name, control, message]) = IN_FLIGHT.with_borrow_mut(VecDeque::pop_front) else {
            break;
        };
        // SAFETY: there are `count` headers, each with an iovec.
        unsafe {
            let header = &mut *headers.add(received);
            let iovec = ptr::read(header.msg_hdr.msg_iov);
            let parts = &mut header.msg_hdr;
            header.msg_len = fill(iovec.iov_base, iovec.iov_len, &message) as _;
            parts.msg_namelen = fill(parts.msg_name, parts.msg_namelen as _, &name) as _;
            parts.msg_controllen =
                fill(parts.msg_control, parts.msg_controllen as _, &control) as _;
        }
        received += 1;
    }
    if received == 0 {
        Errno::EAGAIN.set();
        return -1;
    }
    received as _
}

pub(super) unsafe fn sendmmsg(_: i32, headers: *mut libc::mmsghdr, count: u32, _: i32) -> i32 {
    for sent in 0..count as usize {
        // SAFETY: there are `count` headers, each with an iovec.
        let parts = unsafe {
            let header = &mut *headers.add(sent);
            let iovec = ptr::read(header.msg_hdr.msg_iov);
            let parts = &header.msg_hdr;
            header.msg_len = iovec.iov_len as _;
            [
                copy(parts.msg_name, parts.msg_namelen as _),
                copy(parts.msg_control, parts.msg_controllen as _),
                copy(iovec.iov_base, iovec.iov_len),
            ]
        };
        if parts[2].len() > MTU {
            Errno::EMSGSIZE.set();
            return if sent == 0 { -1 } else { sent as _ };
        }
        IN_FLIGHT.with_borrow_mut(|queue| queue.push_back(parts));
    }
    count as _
}

fn path(number: usize) -> Path {
    let local = match number % 3 {
        0 => Local::Bound,
        1 => Local::V4([127, 0, 0, number as u8].into()),
        _ => Local::V6([0xfe80, 0, 0, 0, 0, 0, 0, number as u16].into(), 7),
    };
    Path {
        peer: ([192, 0, 2, number as u8], 53).into(),
        local,
    }
}

#[test]
fn batches_are_sent_and_received() {
    let socket = std::io::stdin();
    let sockets = std::slice::from_ref(&socket);
    let mut batch = DatagramBatch::new();
    assert_eq!(batch.receive(&socket, 0), Err(Errno::EAGAIN));
    for number in 0..BATCH {
        let path = path(number);
        let slot = batch.compose(0, path.peer);
        batch.buffer(slot)[..number].fill(number as u8);
        batch.reply(slot, number, &path);
    }
    let all = Sent {
        sent: BATCH,
        failed: 0,
    };
    assert_eq!(batch.send(sockets, |_, _| None), all);
    assert_eq!(batch.receive(&socket, 0), Ok(BATCH));
    let received: Vec<_> = batch
        .received()
        .map(|(path, message)| (path.unwrap(), message.to_vec()))
        .collect();
    for (number, (from, message)) in received.iter().enumerate() {
        assert_eq!(*from, path(number));
        assert_eq!(*message, vec![number as u8; number]);
    }
    // Every other slot, one of them too large for the path.
    for (number, (path, message)) in received.iter().enumerate().step_by(2) {
        batch.buffer(number).fill(1);
        let len = if number == 32 {
            BUFFER_LEN
        } else {
            message.len()
        };
        batch.reply(number, len, path);
    }
    let sent = batch.send(sockets, |slot, buf| {
        assert_eq!((slot, buf.len()), (32, BUFFER_LEN));
        buf[..9].fill(2);
        Some(9)
    });
    assert_eq!((sent.sent, sent.failed), (BATCH / 2, 0));
    assert_eq!(batch.receive(&socket, 0), Ok(BATCH / 2));
    for ((path, message), number) in batch.received().zip((0..BATCH).step_by(2)) {
        assert_eq!(path, Some(self::path(number)));
        let expected = if number == 32 {
            vec![2; 9]
        } else {
            vec![1; number]
        };
        assert_eq!(message, expected);
    }
}
