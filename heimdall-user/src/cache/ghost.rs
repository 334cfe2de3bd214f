//! The ghosts: fingerprints of the entries that were evicted from the small queue. A name that comes
//! back goes to the main queue at once (S3-FIFO).

use std::io;

use super::memory::Array;

/// Octets of budget for which there is one row: so there are about as many ghosts as entries.
const BUDGET_PER_ROW: usize = 1280;

/// Fingerprints of eight hashes, the latest first. 0: none.
type Row = [u16; 8];

#[derive(Debug)]
pub(super) struct Ghosts {
    rows: Array<Row>,
}

impl Ghosts {
    /// Ghosts for a cache of `budget` octets in all.
    ///
    /// # Errors
    /// Not enough memory.
    pub(super) fn for_budget(budget: usize) -> io::Result<Self> {
        Ok(Self {
            rows: Array::new((budget / BUDGET_PER_ROW).max(1))?,
        })
    }

    /// Octets of memory.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    pub(super) fn populate_step(&mut self) -> io::Result<bool> {
        self.rows.populate_step()
    }

    fn row(&mut self, hash: u64) -> Option<&mut Row> {
        let number = (u64::from(hash as u32) * self.rows.len() as u64) >> 32;
        self.rows.get_mut(number as usize)
    }

    fn fingerprint(hash: u64) -> u16 {
        ((hash >> 32) as u16).max(1)
    }

    /// Adds a hash; it replaces the oldest of its row.
    pub(super) fn insert(&mut self, hash: u64) {
        let fingerprint = Self::fingerprint(hash);
        if let Some(row) = self.row(hash) {
            row.rotate_right(1);
            if let Some(first) = row.first_mut() {
                *first = fingerprint;
            }
        }
    }

    /// Removes a hash. Returns whether it was there.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        let fingerprint = Self::fingerprint(hash);
        let Some(row) = self.row(hash) else {
            return false;
        };
        let found = row.iter_mut().find(|stored| **stored == fingerprint);
        found.map(|stored| *stored = 0).is_some()
    }
}
