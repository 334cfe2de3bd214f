//! The ghosts: names that left the small queue without having been asked for again. One that comes
//! back is not new.

use std::io;

use super::memory::{Array, Plain};

/// Octets of budget for which there is one row: so there are about as many ghosts as entries.
const BUDGET_PER_ROW: usize = 1280;

/// Fingerprints of eight names, the latest first. 0: none.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Row([u16; 8]);

// SAFETY: integers without padding.
unsafe impl Plain for Row {}

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

    /// Octets that they take.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    pub(super) fn populate(&self) {
        self.rows.populate();
    }

    fn row(&mut self, hash: u64) -> Option<&mut Row> {
        let place = (u64::from(hash as u32) * self.rows.len() as u64) >> 32;
        self.rows.get_mut(place as usize)
    }

    fn fingerprint(hash: u64) -> u16 {
        ((hash >> 32) as u16).max(1)
    }

    /// Remembers a name; the row's oldest is forgotten.
    pub(super) fn insert(&mut self, hash: u64) {
        let fingerprint = Self::fingerprint(hash);
        if let Some(Row(row)) = self.row(hash) {
            row.rotate_right(1);
            if let Some(first) = row.first_mut() {
                *first = fingerprint;
            }
        }
    }

    /// Whether the name is remembered. Forgets it.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        let fingerprint = Self::fingerprint(hash);
        let Some(Row(row)) = self.row(hash) else {
            return false;
        };
        let found = row.iter_mut().find(|stored| **stored == fingerprint);
        found.map(|stored| *stored = 0).is_some()
    }
}
