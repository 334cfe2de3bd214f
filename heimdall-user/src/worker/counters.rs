//! What a worker and its queues count.

use crate::stats::{Counter, counters};

counters! {
    /// What a worker counts, in addition to its queues and its answer core.
    pub struct WorkerCounters {
        /// Times that the worker found nothing to do and slept.
        sleeps,
    }
}

counters! {
    /// What a worker counts for one of its queues.
    pub struct QueueCounters {
        /// Packets received from the rx ring.
        received,
        /// Replies given to the tx ring.
        answered,
        /// Queries that got SERVFAIL because too many wait for the forwarder, or its queue is full.
        overflow,
        /// System calls that woke the kernel to send.
        tx_wakeups,
        /// System calls that woke the kernel because the fill ring has frames again.
        fill_wakeups,
        /// System calls that polled the NIC.
        busy_polls,
        /// Frames in all.
        frames_total: gauge,
        /// Frames that the kernel has, to receive into.
        frames_fill: gauge,
        /// Frames that the kernel has, to send.
        frames_tx: gauge,
        /// Frames of queries that wait for the forwarder.
        frames_pending: gauge,
        /// Frames that are unused.
        frames_free: gauge,
        /// Frames that are in none of these places: always 0.
        frames_missing: gauge,
        /// Packets that the kernel dropped for lack of a frame or of memory.
        rx_dropped,
        /// Packets that the kernel dropped because the rx ring was full.
        rx_ring_full,
        /// Times that the kernel found the fill ring empty.
        rx_fill_ring_empty_descs,
        /// Descriptors in the fill ring that the kernel refused: always 0.
        rx_invalid_descs,
        /// Descriptors in the tx ring that the kernel refused: always 0.
        tx_invalid_descs,
        /// Times that the kernel was woken to send and found the tx ring empty.
        tx_ring_empty_descs,
    }
}

/// Counters that the kernel keeps for each socket.
pub(super) const KERNEL_COUNTERS: usize = 6;

impl QueueCounters {
    /// The counters that come from the kernel.
    pub(super) fn kernel(&self) -> [&Counter; KERNEL_COUNTERS] {
        [
            &self.rx_dropped,
            &self.rx_ring_full,
            &self.rx_fill_ring_empty_descs,
            &self.rx_invalid_descs,
            &self.tx_invalid_descs,
            &self.tx_ring_empty_descs,
        ]
    }
}
