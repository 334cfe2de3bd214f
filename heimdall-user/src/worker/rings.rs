//! The rings of a queue, and where each of its frames is.
//!
//! A frame is in one place at any time: in the fill ring, in the tx ring, parked with a query that
//! waits for the forwarder, in one of the lists here, or with the caller for the length of a turn.
//! The sum is asserted every turn in debug builds, and `frames_missing` shows it in all builds.

use std::{io, mem, os::fd::BorrowedFd, sync::Arc};

use super::{QueueCounters, counters::KERNEL_COUNTERS};
use crate::{
    front,
    stats::Counter,
    xdp::xsk::{BATCH, BindMode, Frame, Xsk},
};

// What is received fits into the engine's batch, which then allocates nothing.
const _: () = assert!(BATCH <= front::BATCH);

/// Flushes with nothing new after which the kernel is woken again for what it has not taken.
const IDLE_FLUSHES: u32 = 16;

/// An AF_XDP socket with its frames: receive, then [`send`](Self::send) or [`free`](Self::free) each
/// frame, then [`flush`](Self::flush).
#[derive(Debug)]
pub(super) struct Rings {
    xsk: Xsk,
    /// Frames in all.
    total: usize,
    /// Frames in the fill ring, or received and not yet taken from the rx ring.
    filled: usize,
    /// Frames in the tx ring, or sent and not yet taken from the completion ring.
    sending: usize,
    /// Frames for the fill ring.
    free: Vec<Frame>,
    /// Frames for the tx ring.
    outgoing: Vec<Frame>,
    /// Packets that the kernel had not taken from the tx ring after the last flush.
    unsent: u32,
    /// It had some time to take them.
    stalled: bool,
    /// Flushes without anything new since then.
    idle_flushes: u32,
    counters: Arc<QueueCounters>,
    /// The kernel's counts of earlier sockets on this queue.
    earlier: [u64; KERNEL_COUNTERS],
}

impl Rings {
    /// The rings of `xsk`, of whose UMEM `frames` are all frames.
    ///
    /// Fills the fill ring: a packet that is steered to a socket without frames is lost.
    pub(super) fn new(xsk: Xsk, frames: Vec<Frame>, counters: Arc<QueueCounters>) -> Self {
        counters.frames_total.set(frames.len() as u64);
        let mut rings = Self {
            xsk,
            total: frames.len(),
            filled: 0,
            sending: 0,
            free: frames,
            outgoing: Vec::with_capacity(2 * BATCH),
            unsent: 0,
            stalled: false,
            idle_flushes: 0,
            earlier: counters.kernel().map(Counter::get),
            counters,
        };
        rings.refill();
        rings
    }

    /// Takes back the frames that were sent, gives free ones to the kernel, and receives up to
    /// [`BATCH`] packets into `batch`. Returns how many packets it received.
    ///
    /// # Errors
    /// The kernel cannot be woken.
    #[inline]
    pub(super) fn receive(&mut self, batch: &mut Vec<Frame>) -> io::Result<usize> {
        let mut reaped = 0;
        loop {
            let count = self.xsk.reap(&mut self.free);
            reaped += count;
            if count < BATCH {
                break;
            }
        }
        self.sending -= reaped;
        self.refill();
        self.wake_fill()?;
        let received = self.xsk.receive(batch);
        self.filled -= received;
        if received > 0 {
            self.counters.received.add(received as u64);
        }
        Ok(received)
    }

    /// Wakes the kernel to look at the fill ring, if it has to be woken. Until then it receives nothing: a driver may have said so
    /// since the last call, so this is to be called before a sleep, too.
    ///
    /// # Errors
    /// The kernel cannot be woken.
    #[inline]
    pub(super) fn wake_fill(&mut self) -> io::Result<()> {
        if self.xsk.fill_needs_wakeup() {
            self.counters.fill_wakeups.add(1);
            self.xsk.wake_fill()?;
        }
        Ok(())
    }

    #[inline]
    fn refill(&mut self) {
        if !self.free.is_empty() {
            self.filled += self.xsk.refill(&mut self.free);
        }
    }

    /// The packet in a frame.
    #[inline(always)]
    pub(super) fn packet<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.xsk.packet(frame)
    }

    /// Calls `edit` with a frame's memory, from the packet's start to the frame's end, and sets the
    /// packet's length to what it returns, if anything.
    #[inline(always)]
    pub(super) fn edit(&self, frame: &mut Frame, edit: impl FnOnce(&mut [u8]) -> Option<usize>) {
        self.xsk.edit(frame, edit);
    }

    /// Sends the packet in a frame at the next [`flush`](Self::flush).
    #[inline(always)]
    pub(super) fn send(&mut self, frame: Frame) {
        self.outgoing.push(frame);
    }

    /// Takes a frame back whose packet is done with.
    #[inline(always)]
    pub(super) fn free(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Gives packets to the kernel, and wakes it to send them if it has to be woken: once for what it
    /// is given, and once more for what it has not taken after [some time](Self::note_pause) or some flushes, as other queues
    /// may keep the worker from sleeping. Packets that the tx ring has no room for stay here until the next call.
    ///
    /// # Errors
    /// Sending failed for good, for instance because the interface is gone.
    #[inline]
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut given = 0;
        if !self.outgoing.is_empty() {
            given = self.xsk.send(&mut self.outgoing);
            self.sending += given;
            self.counters.answered.add(given as u64);
            self.idle_flushes = 0;
        } else if self.unsent > 0 {
            self.idle_flushes += 1;
            if self.idle_flushes >= IDLE_FLUSHES {
                self.note_pause();
            }
        }
        if given > 0 || mem::take(&mut self.stalled) {
            self.kick()?;
        }
        Ok(())
    }

    /// Wakes the kernel to send. A driver takes the packets later, and is not woken again for them; in
    /// copy mode the call itself takes them, before Linux 6.17 at most 32, and is repeated while it does.
    fn kick(&mut self) -> io::Result<()> {
        let mut before = u32::MAX;
        self.unsent = self.xsk.unsent();
        while self.unsent > 0 && self.unsent < before && self.xsk.kick()? {
            self.counters.tx_wakeups.add(1);
            before = match self.xsk.mode() {
                BindMode::Copy => self.unsent,
                BindMode::ZeroCopy => 0,
            };
            self.unsent = self.xsk.unsent();
        }
        Ok(())
    }

    /// Whether the kernel had packets to send after the last [`flush`](Self::flush). It takes none while
    /// the interface is down.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Whether the kernel has no frame to receive into before it is done with sending some. No event tells
    /// when that is.
    pub(super) fn is_starved(&self) -> bool {
        self.filled == 0 && self.sending > 0
    }

    /// Notes that time has passed since the last [`flush`](Self::flush). If the kernel still has packets to
    /// send, the next flush wakes it again. (In poll(2) the kernel sends some, too: one batch in copy mode.)
    #[cold]
    pub(super) fn note_pause(&mut self) {
        self.idle_flushes = 0;
        self.unsent = self.xsk.unsent();
        self.stalled = self.unsent > 0;
    }

    /// Whether nothing is left to send. In zero-copy the NIC reads the packets from the frames until the driver reports
    /// them as sent; in copy mode the kernel has copies of those that it has taken.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub(super) fn finish_sending(&mut self) -> io::Result<bool> {
        // Should some be left, the next flush wakes the kernel again.
        self.note_pause();
        Ok(match self.xsk.mode() {
            BindMode::Copy => self.outgoing.is_empty() && self.unsent == 0,
            BindMode::ZeroCopy => {
                if self.sending > 0 {
                    self.counters.tx_wakeups.add(1);
                    self.xsk.wake_tx()?;
                }
                self.outgoing.is_empty() && self.sending == 0
            }
        })
    }

    /// Has the kernel poll the NIC on this thread, if the socket was opened for that.
    ///
    /// # Errors
    /// The socket failed, for instance because the interface is gone.
    pub(super) fn busy_poll(&mut self) -> io::Result<()> {
        self.counters.busy_polls.add(1);
        self.xsk.busy_poll()
    }

    /// Whether a frame is one of these, and not of an earlier socket.
    pub(super) fn owns(&self, frame: &Frame) -> bool {
        self.xsk.owns(frame)
    }

    /// The socket, readable when packets have arrived.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.xsk.as_fd()
    }

    /// Frames that are nowhere, if `parked` wait for the forwarder: 0, or there is a bug.
    pub(super) fn missing(&self, parked: usize) -> usize {
        let here = self.free.len() + self.outgoing.len();
        self.total
            .abs_diff(self.filled + self.sending + here + parked)
    }

    /// Updates the gauges of frames and the kernel's counters; `parked` frames wait for the
    /// forwarder.
    #[cold]
    pub(super) fn account(&self, parked: usize) {
        let counters = &self.counters;
        counters.frames_fill.set(self.filled as u64);
        counters.frames_tx.set(self.sending as u64);
        counters.frames_pending.set(parked as u64);
        counters.frames_free.set(self.free.len() as u64);
        counters.frames_missing.set(self.missing(parked) as u64);
        if let Ok(kernel) = self.xsk.statistics() {
            let counts = [
                kernel.rx_dropped(),
                kernel.rx_ring_full(),
                kernel.rx_fill_ring_empty_descs(),
                kernel.rx_invalid_descs(),
                kernel.tx_invalid_descs(),
                kernel.tx_ring_empty_descs(),
            ];
            let earlier = self.earlier;
            for ((counter, earlier), count) in counters.kernel().iter().zip(earlier).zip(counts) {
                counter.set(earlier + count);
            }
        }
    }
}

impl Drop for Rings {
    /// The frames are unmapped with the socket.
    fn drop(&mut self) {
        let counters = &self.counters;
        for gauge in [
            &counters.frames_total,
            &counters.frames_fill,
            &counters.frames_tx,
            &counters.frames_pending,
            &counters.frames_free,
        ] {
            gauge.set(0);
        }
    }
}
