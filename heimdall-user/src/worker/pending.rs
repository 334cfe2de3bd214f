//! Queries that wait for the forwarder, each in the frame that brought it.

use crate::{dns::Query, packet::Layout, xdp::xsk::Frame};

/// A query that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The frame, the query still in it.
    pub(super) frame: Frame,
    /// Where its headers are.
    pub(super) layout: Layout,
    /// What was asked.
    pub(super) query: Query,
}

/// A table of fixed size. A token is a place in it and the number of times that the place has
/// been used, so that a late outcome never meets another query.
#[derive(Debug)]
pub(super) struct Pending {
    places: Vec<(u32, Option<Waiting>)>,
    unused: Vec<u32>,
}

impl Pending {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity as u32;
        Self {
            places: (0..capacity).map(|_| (0, None)).collect(),
            unused: (0..capacity).rev().collect(),
        }
    }

    /// Queries that wait now.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.unused.len()
    }

    /// The token under which the next query will be kept, unless the table is full.
    pub(super) fn next_token(&self) -> Option<u64> {
        let index = *self.unused.last()?;
        let (uses, _) = self.places.get(index as usize)?;
        Some(u64::from(*uses) << 32 | u64::from(index))
    }

    /// Keeps a query under the token that [`next_token`](Self::next_token) gave. Gives it back if
    /// the token is another one.
    pub(super) fn insert(&mut self, token: u64, waiting: Waiting) -> Option<Waiting> {
        if self.next_token() != Some(token) {
            return Some(waiting);
        }
        match self
            .unused
            .pop()
            .and_then(|index| self.places.get_mut(index as usize))
        {
            Some((_, place)) => {
                *place = Some(waiting);
                None
            }
            None => Some(waiting),
        }
    }

    /// Takes out the query with this token, if it still waits.
    pub(super) fn remove(&mut self, token: u64) -> Option<Waiting> {
        let index = token as u32;
        let (uses, place) = self.places.get_mut(index as usize)?;
        if u64::from(*uses) != token >> 32 {
            return None;
        }
        let waiting = place.take()?;
        *uses = uses.wrapping_add(1);
        self.unused.push(index);
        Some(waiting)
    }
}
