//! The questions that are with an upstream now, and who waits for each.

use std::time::Instant;

use hashbrown::HashTable;
use slab::Slab;

use super::{Request, exchange::Exchange};
use crate::dns::{answer::same_question, edns::ede};

/// Whom to tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) front: u16,
    pub(super) token: u64,
}

/// A question on its way.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The request that started it; its letter case goes upstream.
    pub(super) request: Request,
    pub(super) waiters: Vec<Waiter>,
    /// The try under way.
    pub(super) exchange: Option<Exchange>,
    /// The upstream asked, by its place in the list.
    pub(super) upstream: usize,
    /// Tries begun, the present one included.
    pub(super) tries: u32,
    /// Tries that an upstream ended with an error.
    pub(super) errors: usize,
    /// The upstream could not read the query with EDNS, and is asked without.
    pub(super) plain: bool,
    /// An upstream sent an error, or was silent; else none could be reached.
    pub(super) heard: bool,
    /// What an upstream said of its error (RFC 8914), the last one that did.
    pub(super) ede: Option<u16>,
    /// The client response timer has fired: its requests got an answer whose life is over, as
    /// those get that are yet to come.
    pub(super) late: bool,
    /// Tells this look-up from earlier ones in the same slot, and from which it came after.
    pub(super) serial: u64,
    pub(super) began: Instant,
}

impl Lookup {
    /// The Extended DNS Error of its failure.
    pub(super) fn failure(&self) -> u16 {
        let ours = if self.heard {
            ede::NO_REACHABLE_AUTHORITY
        } else {
            ede::NETWORK_ERROR
        };
        self.ede.unwrap_or(ours)
    }
}

/// The table of look-ups. The key is the question, in any letter case, with DO and CD; its hash
/// comes with the request, seeded and computed once by the front (foldhash).
#[derive(Debug)]
pub(super) struct InFlight {
    lookups: Slab<Lookup>,
    index: HashTable<usize>,
    capacity: usize,
}

impl InFlight {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            lookups: Slab::new(),
            index: HashTable::new(),
            capacity,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lookups.len()
    }

    /// The look-up of the request's question, if there is one.
    pub(super) fn find(&self, request: &Request) -> Option<usize> {
        let slot = self.index.find(request.hash, |&slot| {
            self.lookups.get(slot).is_some_and(|lookup| {
                lookup.request.hash == request.hash
                    && lookup.request.flags == request.flags
                    && same_question(lookup.request.question(), request.question())
            })
        });
        slot.copied()
    }

    /// All look-ups, and their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Lookup)> {
        self.lookups.iter()
    }

    /// Whether there is no room for another look-up.
    pub(super) fn is_full(&self) -> bool {
        self.lookups.len() >= self.capacity
    }

    /// Adds to those who wait for a look-up, unless those are `most` already. Whether it did.
    pub(super) fn join(&mut self, slot: usize, waiter: Waiter, most: usize) -> bool {
        self.lookups.get_mut(slot).is_some_and(|lookup| {
            let room = lookup.waiters.len() < most;
            if room {
                lookup.waiters.push(waiter);
            }
            room
        })
    }

    /// Makes a look-up for `request`, whose question has none. `None`: too many are in flight.
    pub(super) fn begin(&mut self, request: Request, serial: u64, now: Instant) -> Option<usize> {
        if self.is_full() {
            return None;
        }
        let slot = self.lookups.insert(Lookup {
            request,
            waiters: vec![request.waiter()],
            exchange: None,
            upstream: 0,
            tries: 0,
            errors: 0,
            plain: false,
            heard: false,
            ede: None,
            late: false,
            serial,
            began: now,
        });
        let lookups = &self.lookups;
        self.index.insert_unique(request.hash, slot, |&slot| {
            lookups.get(slot).map_or(0, |lookup| lookup.request.hash)
        });
        Some(slot)
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Lookup> {
        self.lookups.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Lookup> {
        self.lookups.get_mut(slot)
    }

    /// Ends a look-up. Its socket closes when it is dropped.
    pub(super) fn end(&mut self, slot: usize) -> Option<Lookup> {
        let lookup = self.lookups.try_remove(slot)?;
        if let Ok(entry) = self
            .index
            .find_entry(lookup.request.hash, |&other| other == slot)
        {
            entry.remove();
        }
        Some(lookup)
    }

    /// Ends all look-ups.
    pub(super) fn end_all(&mut self) -> Vec<Lookup> {
        self.index.clear();
        self.lookups.drain().collect()
    }
}
