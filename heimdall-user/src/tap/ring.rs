//! The samples of one thread, on their way to the observer and back.

use crossbeam_queue::ArrayQueue;

use super::{rate::CONSUMERS, sample::Sample};
use crate::stats::Counter;

/// Samples of a thread that may wait for the observer, or for the reply: those of 51 ms at a million queries a
/// second, of which one in a hundred is sampled.
pub(super) const SAMPLES: usize = 512;

/// A fixed number of samples: those that are unused, and those that wait for the observer.
#[derive(Debug)]
pub(super) struct Ring {
    unused: ArrayQueue<Box<Sample>>,
    full: ArrayQueue<Box<Sample>>,
    /// Samples that were dropped because all were in use, by consumer. The thread alone adds to them.
    dropped: [Counter; CONSUMERS],
}

impl Ring {
    /// A ring whose samples have space for so many octets of messages.
    pub(super) fn new(space: usize) -> Self {
        let unused = ArrayQueue::new(SAMPLES);
        for _ in 0..SAMPLES {
            // There is room for all of them.
            let _ = unused.push(Box::new(Sample::new(space)));
        }
        Self {
            unused,
            full: ArrayQueue::new(SAMPLES),
            dropped: Default::default(),
        }
    }

    /// Counts a sample that these consumers do not get. Only the owning thread may call this.
    pub(super) fn count_dropped(&self, consumers: u8) {
        for (consumer, dropped) in self.dropped.iter().enumerate() {
            dropped.add(u64::from(consumers >> consumer & 1));
        }
    }

    /// The samples that were dropped, by consumer.
    pub(super) fn dropped(&self) -> [u64; CONSUMERS] {
        self.dropped.each_ref().map(Counter::get)
    }

    /// An unused sample. `None`: all wait.
    pub(super) fn take_unused(&self) -> Option<Box<Sample>> {
        self.unused.pop()
    }

    /// Hands a sample to the observer.
    pub(super) fn push(&self, sample: Box<Sample>) {
        // There is room for all that there are.
        let _ = self.full.push(sample);
    }

    /// The next sample for the observer.
    pub(super) fn pop(&self) -> Option<Box<Sample>> {
        self.full.pop()
    }

    /// Whether no sample waits for the observer.
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    /// Takes a sample back.
    pub(super) fn give_back(&self, sample: Box<Sample>) {
        let _ = self.unused.push(sample);
    }
}
