//! The samples of one thread, on their way to the observer and back.

use crossbeam_queue::ArrayQueue;

use super::sample::Sample;

/// Samples of a thread that may wait for the observer, or for the reply: those of 51 ms at a million queries a
/// second, of which one in a hundred is sampled.
pub(super) const SAMPLES: usize = 512;

/// A fixed number of samples: those that are unused, and those that wait for the observer.
#[derive(Debug)]
pub(super) struct Ring {
    unused: ArrayQueue<Box<Sample>>,
    full: ArrayQueue<Box<Sample>>,
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
        }
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

    /// Takes a sample back.
    pub(super) fn give_back(&self, sample: Box<Sample>) {
        let _ = self.unused.push(sample);
    }
}
