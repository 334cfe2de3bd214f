//! Records that wait to be written to who may not take them.

use std::{collections::VecDeque, io};

/// Octets that may wait.
const MAX_OCTETS: usize = 256 << 10;

/// A bounded queue of whole records. One that does not fit is refused; none is dropped half-written, unless the
/// output is lost.
#[derive(Debug, Default)]
pub(super) struct Queue {
    octets: VecDeque<u8>,
    /// Lengths of the records; of the first, what is left of it.
    records: VecDeque<usize>,
    /// Some of the first record has been written.
    begun: bool,
    /// The last write left some, as no more was taken.
    blocked: bool,
}

impl Queue {
    /// Adds a record. Whether there is room for it.
    #[must_use]
    pub(super) fn push(&mut self, record: &[u8]) -> bool {
        let fits = self.octets.len() + record.len() <= MAX_OCTETS;
        if fits {
            self.octets.extend(record);
            self.records.push_back(record.len());
        }
        fits
    }

    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Whether the last write left some, as no more was taken then.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Writes until the queue is empty, or `write`, which returns how much it took, takes no more. Returns how many
    /// records were finished.
    ///
    /// # Errors
    /// That of `write`, except for [`WouldBlock`](io::ErrorKind::WouldBlock). What was not written stays.
    pub(super) fn write(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> (u64, io::Result<()>) {
        let mut finished = 0;
        self.blocked = false;
        while !self.octets.is_empty() {
            let (octets, _) = self.octets.as_slices();
            match write(octets) {
                Ok(0) => return (finished, Err(io::ErrorKind::WriteZero.into())),
                Ok(len) => finished += self.written(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (finished, Err(error)),
            }
        }
        (finished, Ok(()))
    }

    /// Removes octets from the front. Returns how many records that finishes.
    fn written(&mut self, mut len: usize) -> u64 {
        self.octets.drain(..len.min(self.octets.len()));
        let mut finished = 0;
        while let Some(first) = self.records.front_mut()
            && len > 0
        {
            if len < *first {
                *first -= len;
                self.begun = true;
                break;
            }
            len -= *first;
            self.records.pop_front();
            self.begun = false;
            finished += 1;
        }
        finished
    }

    /// Drops the rest of a record that was written in part, because its output is lost. Returns how many records
    /// that is: one, or none.
    pub(super) fn abandon_begun(&mut self) -> u64 {
        if !self.begun {
            return 0;
        }
        self.begun = false;
        let rest = self.records.pop_front().unwrap_or_default();
        self.octets.drain(..rest.min(self.octets.len()));
        1
    }

    /// Drops all records. Returns how many.
    pub(super) fn clear(&mut self) -> u64 {
        let records = self.records.len() as u64;
        *self = Self::default();
        records
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However little is taken at a time, the octets are those of the records that were accepted, and all of
        /// them are counted.
        #[test]
        fn records_come_out_as_they_went_in(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..40),
            takes in prop::collection::vec(0..700usize, 0..80),
            lose_at in 0..80usize,
        ) {
            let mut queue = Queue::default();
            let mut expected = Vec::new();
            for record in &records {
                prop_assert!(queue.push(record));
                expected.extend_from_slice(record);
            }
            let mut out = Vec::new();
            let mut finished = 0;
            for (at, take) in takes.iter().enumerate() {
                let mut left = *take;
                let (count, result) = queue.write(|octets| match left.min(octets.len()) {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    len => {
                        left -= len;
                        out.extend_from_slice(&octets[..len]);
                        Ok(len)
                    }
                });
                prop_assert!(result.is_ok());
                finished += count;
                if at == lose_at {
                    let lost = queue.abandon_begun();
                    let whole: usize = records.iter().take((finished + lost) as usize).map(Vec::len).sum();
                    if lost == 0 {
                        prop_assert_eq!(out.len(), whole);
                    }
                    finished += lost;
                    out = expected[..whole].to_vec();
                }
                prop_assert_eq!(&out[..], &expected[..out.len()]);
            }
            let whole: usize = records.iter().take(finished as usize).map(Vec::len).sum();
            prop_assert!(whole <= out.len());
            let left = queue.clear();
            prop_assert_eq!(finished + left, records.len() as u64);
            prop_assert!(queue.is_empty());
        }
    }

    #[test]
    fn it_is_bounded_and_keeps_what_an_error_left() {
        let mut queue = Queue::default();
        let record = [1; 1000];
        let accepted = (0..1000).filter(|_| queue.push(&record)).count();
        assert_eq!(accepted, MAX_OCTETS / 1000);
        let (finished, result) = queue.write(|_| Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert_eq!((finished, result.is_err()), (0, true));
        let (finished, result) = queue.write(|_| Ok(0));
        assert_eq!((finished, result.is_err()), (0, true));
        let (finished, result) = queue.write(|octets| Ok(octets.len()));
        assert_eq!((finished, result.is_ok()), (accepted as u64, true));
    }
}
