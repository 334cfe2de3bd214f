//! Queries that wait for the forwarder.

use std::time::Instant;

use crate::{dns::Query, tap::Sample};

/// A query that waits, and what its transport keeps of the message.
#[derive(Debug)]
pub(super) struct Waiter<P> {
    /// When its batch was received.
    pub(super) received: Instant,
    pub(super) query: Query,
    pub(super) parked: P,
    /// Its sample, if it has one.
    pub(super) sample: Option<Box<Sample>>,
}

/// A table of fixed size. A token is a slot's index and, in its upper half, the slot's generation:
/// how often it has been used. So a late outcome never meets another query.
#[derive(Debug)]
pub(super) struct Waiting<P> {
    slots: Vec<(u32, Option<Waiter<P>>)>,
    unused: Vec<u32>,
}

impl<P> Waiting<P> {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity as u32;
        Self {
            slots: (0..capacity).map(|_| (0, None)).collect(),
            unused: (0..capacity).rev().collect(),
        }
    }

    /// Queries that wait now.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.unused.len()
    }

    /// The token of the next query to be inserted; `None`: the table is full.
    pub(super) fn next_token(&self) -> Option<u64> {
        let index = *self.unused.last()?;
        let (generation, _) = self.slots.get(index as usize)?;
        Some(u64::from(*generation) << 32 | u64::from(index))
    }

    /// Inserts a query under the token that [`next_token`](Self::next_token) returns. If there is
    /// none, the query is dropped.
    pub(super) fn insert(&mut self, waiter: Waiter<P>) {
        let slot = self
            .unused
            .pop()
            .and_then(|index| self.slots.get_mut(index as usize));
        if let Some((_, slot)) = slot {
            *slot = Some(waiter);
        }
    }

    /// Removes the query with this token, if it still waits.
    pub(super) fn remove(&mut self, token: u64) -> Option<Waiter<P>> {
        let index = token as u32;
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        if u64::from(*generation) != token >> 32 {
            return None;
        }
        let waiter = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.unused.push(index);
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::dns::{DnsPacketView, NameHasher};

    fn waiter(parked: u8) -> Waiter<u8> {
        let msg = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01x\0\0\x01\0\x01";
        let view = DnsPacketView::parse(msg).unwrap();
        let query = Query::new(&view, &NameHasher::default());
        Waiter {
            received: Instant::now(),
            query,
            parked,
            sample: None,
        }
    }

    #[test]
    fn a_late_token_does_not_find_the_next_query_in_its_slot() {
        let mut waiting = Waiting::new(1);
        let first = waiting.next_token().unwrap();
        waiting.insert(waiter(1));
        assert_eq!(waiting.next_token(), None, "full");
        assert_eq!(waiting.remove(first).unwrap().parked, 1);
        let second = waiting.next_token().unwrap();
        waiting.insert(waiter(2));
        assert!(waiting.remove(first).is_none(), "late");
        assert!(waiting.remove(second + 1).is_none(), "of no slot");
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting.remove(second).unwrap().parked, 2);
        assert!(waiting.remove(second).is_none(), "twice");
        assert_eq!(waiting.len(), 0);
    }
}
