//! AF_XDP sockets: one for a queue, with its UMEM and four rings, through xsk-rs.
//!
//! A frame of the UMEM is a [`Frame`], a move-only token: its owner alone may access the frame's
//! memory. Giving it to a ring consumes it, and a ring gives it back. The soundness of the unsafe
//! calls below rests on this. No other module uses AF_XDP unsafely.
//!
//! The fill and completion rings, and rx and tx, have as many entries as the UMEM has frames. Even
//! so a ring can seem full for a moment: the kernel gives a packet to the rx ring before it says
//! that it has taken the frame from the fill ring (`xsk_flush`).
//!
//! See <https://docs.kernel.org/networking/af_xdp.html>. Needs Linux 5.11.

mod error;

use std::{
    fmt, io,
    num::NonZeroU32,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicU32, Ordering},
};

pub(crate) use error::XskError;
use error::{advice, os_error, umem_advice, why_no_zero_copy};
use heimdall_ebpf::MAX_STEERED;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

/// Octets of a frame for the usual MTU: half a page.
const SMALL_FRAME: u32 = 2048;

/// Octets of a frame for a larger MTU: a page, the most that the kernel takes without reserved huge pages.
const LARGE_FRAME: u32 = 4096;

// The program steers what the smaller frame holds behind XDP's headroom.
const _: () = assert!(MAX_STEERED as u32 == SMALL_FRAME - 256);

/// Octets of a frame for packets of an interface with this MTU. Queries fit either one; replies are as long as MTU and frame
/// allow, and some drivers have zero-copy only for frames that hold every packet.
pub(crate) const fn frame_size(mtu: u32) -> u32 {
    if mtu <= largest_mtu(SMALL_FRAME) {
        SMALL_FRAME
    } else {
        LARGE_FRAME
    }
}

/// Largest MTU of which a frame of this size holds every packet: the frame less XDP's headroom, and the Ethernet header with
/// two tags.
const fn largest_mtu(frame_size: u32) -> u32 {
    frame_size - 256 - 22
}

/// Frames handled in one batch.
pub const BATCH: usize = 64;

/// How a socket is bound: how packets get from the NIC to the UMEM and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindMode {
    /// The NIC accesses the UMEM by DMA (`XDP_ZEROCOPY`).
    ZeroCopy,
    /// The kernel copies (`XDP_COPY`).
    Copy,
}

impl BindMode {
    /// The mode's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a socket is not to be bound in zero-copy mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoZeroCopy {
    /// The reason, as text.
    pub(crate) why: String,
    /// It holds for all queues of the interface: another attempt would only take time, as each has a UMEM of its own.
    pub(crate) of_device: bool,
}

impl NoZeroCopy {
    /// For this reason on any queue.
    pub(crate) fn device(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            of_device: true,
        }
    }

    pub(crate) fn queue(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            of_device: false,
        }
    }
}

/// One frame of one socket's UMEM: the right to read and write its memory.
#[derive(Debug)]
pub struct Frame {
    desc: FrameDesc,
    /// Id of the socket to whose UMEM it belongs. It must not reach another one's memory.
    owner: u32,
}

/// The kernel's ring statistics (`XDP_STATISTICS`).
pub(crate) use xsk_rs::socket::XdpStatistics;

/// An AF_XDP socket, bound to one queue.
#[derive(Debug)]
pub struct Xsk {
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    frames: u32,
    frame_size: u32,
    id: u32,
    mode: BindMode,
    why_not_zero_copy: Option<NoZeroCopy>,
    /// Descriptors while they are moved to or from a ring.
    scratch: [FrameDesc; BATCH],
}

/// Creation.
impl Xsk {
    /// Opens a socket on `queue` of `interface`, which has this MTU, with a UMEM of `frames` frames (a power of two): in copy
    /// mode if `no_zero_copy` says why, else zero-copy if the driver has it. Returns all frames
    /// of the UMEM as well. They are of 2 KiB, or of 4 KiB if a packet may be larger.
    ///
    /// # Errors
    /// No memory for the UMEM, no privilege, no such queue, or another socket has the queue.
    pub fn open(
        interface: &str,
        queue: u32,
        frames: u32,
        mtu: u32,
        no_zero_copy: Option<NoZeroCopy>,
    ) -> Result<(Self, Vec<Frame>), XskError> {
        let size = (frames, frame_size(mtu));
        let mut why_not = no_zero_copy;
        if why_not.is_none() {
            match Self::bind(interface, queue, size, BindMode::ZeroCopy, None) {
                Ok(opened) => return Ok(opened),
                Err(error) => match why_no_zero_copy(&error, mtu) {
                    Some(why) => why_not = Some(why),
                    None => return Err(error),
                },
            }
        }
        Self::bind(interface, queue, size, BindMode::Copy, why_not)
    }

    fn bind(
        interface: &str,
        queue: u32,
        (frames, frame_size): (u32, u32),
        mode: BindMode,
        why_not_zero_copy: Option<NoZeroCopy>,
    ) -> Result<(Self, Vec<Frame>), XskError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let umem_error = |source: io::Error| XskError::Umem {
            interface: interface.to_owned(),
            queue,
            frames,
            advice: umem_advice(&source),
            source,
        };
        let bind_error = |source: io::Error| XskError::Bind {
            interface: interface.to_owned(),
            queue,
            advice: advice(&source),
            source,
        };
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let count = NonZeroU32::new(frames).ok_or_else(|| umem_error(invalid()))?;
        let ring = QueueSize::new(frames).map_err(|_| umem_error(invalid()))?;
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(frame_size).map_err(|_| umem_error(invalid()))?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|_| umem_error(invalid()))?;
        // Huge pages are tried first; without any reserved the kernel returns ENOMEM.
        let (umem, descs) = Umem::new(umem_config, count, true)
            .or_else(|_| Umem::new(umem_config, count, false))
            .map_err(|error| umem_error(os_error(&error)))?;
        let bind_flag = match mode {
            BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            BindMode::Copy => BindFlags::XDP_COPY,
        };
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            // The XDP program is Heimdall's, not libxdp's.
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(bind_flag | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name = interface
            .parse::<Interface>()
            .map_err(|_| bind_error(invalid()))?;
        // SAFETY: the UMEM was made above and no other socket was created on it.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &name, queue) }
            .map_err(|error| bind_error(os_error(&error)))?;
        let (fill, completion) = rings.ok_or_else(|| bind_error(invalid()))?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mode = match socket_options(rx.fd().as_raw_fd()) {
            Ok(options) if options & libc::XDP_OPTIONS_ZEROCOPY != 0 => BindMode::ZeroCopy,
            _ => BindMode::Copy,
        };
        // One system call then sends a whole batch; before Linux 6.17 it sends at most 32 packets.
        let _ = set_option(
            rx.fd().as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            BATCH as u32,
        );
        let xsk = Self {
            umem,
            rx,
            tx,
            fill,
            completion,
            frames,
            frame_size,
            id,
            mode,
            why_not_zero_copy,
            scratch: [FrameDesc::default(); BATCH],
        };
        Ok((
            xsk,
            descs
                .into_iter()
                .map(|desc| Frame { desc, owner: id })
                .collect(),
        ))
    }

    /// The mode in which the kernel bound the socket (`XDP_OPTIONS`).
    pub(crate) fn mode(&self) -> BindMode {
        self.mode
    }

    /// Octets of a frame: [`frame_size`].
    pub(crate) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Why it is copy mode.
    pub(crate) fn why_not_zero_copy(&self) -> Option<&NoZeroCopy> {
        self.why_not_zero_copy.as_ref()
    }

    /// The socket, for an XSKMAP or for poll.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket in `self` exists.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Has the kernel poll the NIC's queue in this socket's system calls, up to [`BATCH`] packets in each,
    /// and not by interrupts while those are deferred (`SO_PREFER_BUSY_POLL`, Linux 5.11).
    ///
    /// # Errors
    /// The kernel is older, was built without busy polling, or `CAP_NET_ADMIN` is missing.
    pub(crate) fn prefer_busy_poll(&self) -> io::Result<()> {
        let fd = self.rx.fd().as_raw_fd();
        for (name, value) in [
            (libc::SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, BUSY_POLL_MICROS),
            (libc::SO_BUSY_POLL_BUDGET, BATCH as u32),
        ] {
            set_option(fd, libc::SOL_SOCKET, name, value)?;
        }
        Ok(())
    }

    /// The kernel's counters for this socket.
    ///
    /// # Errors
    /// The kernel is older than 5.9.
    pub(crate) fn statistics(&self) -> io::Result<XdpStatistics> {
        self.rx.fd().xdp_statistics()
    }
}

/// Frames and rings.
impl Xsk {
    /// Calls `edit` with a frame's memory from the packet's start to the frame's end. Sets the packet's
    /// length to what `edit` returns; `None` leaves it as it is.
    #[inline]
    pub fn edit(&self, frame: &mut Frame, edit: impl FnOnce(&mut [u8]) -> Option<usize>) {
        if frame.owner != self.id {
            return;
        }
        let len = frame.desc.lengths().data();
        // SAFETY: the frame is of this UMEM, and its token, mutably borrowed here, is the only one
        // for its memory; no ring holds the frame while the token exists.
        let mut data = unsafe { self.umem.data_mut(&mut frame.desc) };
        // The position is clamped to the frame's end.
        data.cursor().set_pos(usize::MAX);
        let new_len = edit(data.contents_mut()).unwrap_or(len);
        data.cursor().set_pos(new_len);
    }

    /// Whether a frame is of this socket's UMEM.
    pub(crate) fn owns(&self, frame: &Frame) -> bool {
        frame.owner == self.id
    }

    /// The packet in a frame.
    #[inline]
    pub fn packet<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        if frame.owner != self.id {
            return &[];
        }
        // SAFETY: the frame is of this UMEM, its length was set by the kernel on receipt or by
        // `edit` and lies within it, and while its token is borrowed it is not written to.
        unsafe { self.umem.data(&frame.desc) }.contents()
    }

    /// Receives up to [`BATCH`] packets and appends them to `batch`.
    #[inline]
    pub fn receive(&mut self, batch: &mut Vec<Frame>) -> usize {
        // SAFETY: the descriptors in `scratch` are only written to.
        let count = unsafe { self.rx.consume(&mut self.scratch) };
        self.take(count, batch);
        count
    }

    /// Takes up to [`BATCH`] frames from the completion ring: their packets have been sent.
    #[inline]
    pub fn reap(&mut self, free: &mut Vec<Frame>) -> usize {
        // SAFETY: as in `receive`.
        let count = unsafe { self.completion.consume(&mut self.scratch) };
        self.take(count, free);
        count
    }

    #[inline]
    fn take(&self, count: usize, frames: &mut Vec<Frame>) {
        let owner = self.id;
        frames.extend(
            self.scratch
                .iter()
                .take(count)
                .map(|desc| Frame { desc: *desc, owner }),
        );
    }

    /// Moves free frames to the fill ring; those that do not fit stay in `free`. In aligned
    /// mode the kernel resets their addresses to the start of their chunks (`xp_check_aligned`).
    #[inline]
    pub fn refill(&mut self, free: &mut Vec<Frame>) -> usize {
        let mut given = 0;
        while !free.is_empty() {
            let count = self.stage(free);
            // SAFETY: `stage` consumed the tokens of these frames, so nothing accesses them any more, and
            // they are of this UMEM.
            let taken = unsafe {
                self.fill
                    .produce(self.scratch.get(..count).unwrap_or_default())
            };
            given += taken;
            if taken < count {
                self.unstage(taken, count, free);
                break;
            }
        }
        given
    }

    /// Moves packets to the tx ring; those that do not fit stay in `packets`.
    /// [`kick`](Self::kick) makes the kernel send them.
    #[inline]
    pub fn send(&mut self, packets: &mut Vec<Frame>) -> usize {
        let mut sent = 0;
        while !packets.is_empty() {
            let count = self.stage(packets);
            // SAFETY: as in `refill`.
            let taken = unsafe {
                self.tx
                    .produce(self.scratch.get(..count).unwrap_or_default())
            };
            sent += taken;
            if taken < count {
                self.unstage(taken, count, packets);
                break;
            }
        }
        sent
    }

    /// Returns to `frames` the staged descriptors from `taken` on, which the ring did not take.
    #[cold]
    fn unstage(&self, taken: usize, count: usize, frames: &mut Vec<Frame>) {
        let owner = self.id;
        let left = self.scratch.get(taken..count).unwrap_or_default();
        frames.extend(left.iter().map(|desc| Frame { desc: *desc, owner }));
    }

    /// Moves up to [`BATCH`] descriptors from the end of `frames` to `scratch`, consuming their
    /// tokens. Frames of another socket are dropped.
    #[inline]
    fn stage(&mut self, frames: &mut Vec<Frame>) -> usize {
        let owner = self.id;
        let first = frames.len().saturating_sub(BATCH);
        let mut count = 0;
        for (slot, frame) in self
            .scratch
            .iter_mut()
            .zip(frames.drain(first..).filter(|frame| frame.owner == owner))
        {
            *slot = frame.desc;
            count += 1;
        }
        count
    }

    /// Packets in the tx ring that the kernel has not taken yet.
    #[inline]
    pub fn unsent(&mut self) -> u32 {
        self.frames - self.tx.nb_free_exact()
    }

    /// Wakes the kernel up to send what is in the tx ring, if it needs a wakeup. Returns whether a
    /// system call was made. One call may send a part only.
    ///
    /// # Errors
    /// Sending failed permanently, for instance because the interface is gone.
    #[inline]
    pub fn kick(&mut self) -> io::Result<bool> {
        let needed = self.unsent() > 0 && self.tx.needs_wakeup();
        if needed {
            self.tx.wakeup()?;
        }
        Ok(needed)
    }

    /// Has the kernel look at the tx ring, whether or not it asks for a wakeup: a driver reports on this occasion
    /// what it has sent.
    ///
    /// # Errors
    /// As [`kick`](Self::kick).
    pub(crate) fn wake_tx(&mut self) -> io::Result<()> {
        self.tx.wakeup()
    }

    /// Polls the NIC's queue once, if the socket is set to do so.
    ///
    /// # Errors
    /// The socket failed, for instance because the interface is gone.
    pub(crate) fn busy_poll(&self) -> io::Result<()> {
        match recv(self.as_fd().as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the kernel needs a wakeup to read the fill ring. Until then it receives nothing.
    #[inline]
    pub fn fill_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Wakes the kernel up to read the fill ring.
    ///
    /// # Errors
    /// Polling failed.
    pub fn wake_fill(&mut self) -> io::Result<()> {
        self.fill.wakeup(self.rx.fd_mut(), 0)
    }
}

/// Reads `XDP_OPTIONS` (Linux 5.3).
fn socket_options(fd: RawFd) -> io::Result<u32> {
    let mut options = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` octets to `options`, a structure of one u32
    // (struct xdp_options), and the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(options)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The error of opening an AF_XDP socket, which is closed at once: EAFNOSUPPORT if the kernel has none, or a
/// filter of system calls forbids them; EPERM without CAP_NET_RAW. `None`: it can be opened.
pub(crate) fn open_error() -> Option<i32> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return io::Error::last_os_error().raw_os_error();
    }
    // SAFETY: `fd` is open, and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    None
}

/// How many packets one call sends in copy mode (Linux 6.17).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Turns busy polling on. A call on an AF_XDP socket polls the queue once, however long this is.
const BUSY_POLL_MICROS: u32 = 20;

/// Sets a socket option whose value is a u32.
fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: u32) -> io::Result<()> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` octets from `value`, and the descriptor is open.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_every_packet_of_the_mtu_as_long_as_a_page_does() {
        for (mtu, size) in [
            (68, 2048),
            (1500, 2048),
            (1770, 2048),
            (1771, 4096),
            (3818, 4096),
            (9000, 4096),
            (65_535, 4096),
        ] {
            assert_eq!(frame_size(mtu), size, "{mtu}");
        }
        assert_eq!(largest_mtu(LARGE_FRAME), 3818);
    }
}
