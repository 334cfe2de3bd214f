//! The questions in flight, and the waiters of each.

use std::time::Instant;

use hashbrown::HashTable;
use slab::Slab;

use super::{
    Request,
    exchange::{Exchange, Sent},
};
use crate::dns::{edns::ede, same_question};

/// A front's query that waits for a question in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) front: u16,
    pub(super) token: u64,
}

/// A question in flight.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The request that started it; its name case goes upstream.
    pub(super) request: Request,
    pub(super) waiters: Vec<Waiter>,
    /// The current one, and those of earlier attempts that timed out: an answer that comes late is
    /// accepted as well. At most one for each attempt. Each has a place in [`Udp`](super::udp::Udp)
    /// or [`Tcp`](super::tcp::Tcp), too.
    pub(super) exchanges: Vec<Exchange>,
    /// Serial number of the exchange that has a deadline.
    pub(super) current: u64,
    /// The upstream that the next attempt asks, by its position in the list.
    pub(super) upstream: usize,
    /// Attempts begun, the current one included, without those over UDP that ended with an error.
    pub(super) attempts: u32,
    /// Attempts that an upstream ended with an error.
    pub(super) errors: usize,
    /// Response code of a truncated answer that has not come whole over TCP yet.
    pub(super) truncated: Option<u8>,
    /// An upstream sent an error, or did not respond; else none could be reached.
    pub(super) heard: bool,
    /// Info-code of an upstream's Extended DNS Error (RFC 8914); see [`explain`](Self::explain).
    pub(super) ede: Option<u16>,
    /// The client response timer has fired: the waiters got a stale answer, and so do requests that
    /// join later.
    pub(super) stale_served: bool,
    /// Increases with each look-up: distinguishes it from earlier ones in the same slot.
    pub(super) serial: u64,
    pub(super) began: Instant,
}

impl Lookup {
    /// The query of the current exchange, if that has this serial number.
    pub(super) fn sent(&self, serial: u64) -> Option<Sent> {
        let mut exchanges = self.exchanges.iter().map(|exchange| exchange.sent);
        exchanges.find(|sent| sent.serial == serial && serial == self.current)
    }

    /// Counts an exchange that ended with an error. Over TCP in place of UDP that counts only if it was to bring
    /// the whole of a truncated answer; else the upstream is yet to be asked again over UDP.
    pub(super) fn note_error(&mut self, in_place_of_udp: bool) {
        if !in_place_of_udp || self.truncated.is_some() {
            self.errors += 1;
        }
    }

    /// Keeps the info-code of an upstream's error: the first that is more specific than that there
    /// was one.
    pub(super) fn explain(&mut self, code: Option<u16>) {
        const VAGUE: [u16; 4] = [
            ede::OTHER,
            ede::CACHED_ERROR,
            ede::NO_REACHABLE_AUTHORITY,
            ede::NETWORK_ERROR,
        ];
        if self.ede.is_none_or(|known| VAGUE.contains(&known)) {
            self.ede = code.or(self.ede);
        }
    }

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

/// The table of look-ups. The key is the question, in any name case, with DO and CD; its hash
/// comes with the request, seeded and computed once by the front (foldhash).
#[derive(Debug)]
pub(super) struct InFlight {
    lookups: Slab<Lookup>,
    index: HashTable<usize>,
    capacity: usize,
    /// Empty lists of look-ups that have ended, for later ones.
    spare: Vec<(Vec<Waiter>, Vec<Exchange>)>,
}

/// Waiters of a look-up for whose list memory is kept. Most have one.
const MAX_SPARE_WAITERS: usize = 16;

impl InFlight {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            lookups: Slab::new(),
            // Twice: a table that is half empty is rehashed in place.
            index: HashTable::with_capacity(2 * capacity),
            capacity,
            spare: Vec::new(),
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

    /// Whether the table is full.
    pub(super) fn is_full(&self) -> bool {
        self.lookups.len() >= self.capacity
    }

    /// Adds a waiter to a look-up, unless it has `max` already. Whether it did.
    pub(super) fn join(&mut self, slot: usize, waiter: Waiter, max: usize) -> bool {
        self.lookups.get_mut(slot).is_some_and(|lookup| {
            let room = lookup.waiters.len() < max;
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
        let (mut waiters, exchanges) = self.spare.pop().unwrap_or_default();
        waiters.push(request.waiter());
        let slot = self.lookups.insert(Lookup {
            request,
            waiters,
            exchanges,
            current: 0,
            upstream: 0,
            attempts: 0,
            errors: 0,
            truncated: None,
            heard: false,
            ede: None,
            stale_served: false,
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

    /// Removes the exchange with this serial number from a look-up.
    pub(super) fn take_exchange(&mut self, slot: usize, serial: u64) -> Option<Exchange> {
        let exchanges = &mut self.get_mut(slot)?.exchanges;
        let mut all = exchanges.iter();
        let index = all.position(|exchange| exchange.sent.serial == serial)?;
        Some(exchanges.swap_remove(index))
    }

    /// Removes a look-up.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Lookup> {
        let lookup = self.lookups.try_remove(slot)?;
        if let Ok(entry) = self
            .index
            .find_entry(lookup.request.hash, |&other| other == slot)
        {
            entry.remove();
        }
        Some(lookup)
    }

    /// Keeps the memory of a look-up that has ended.
    pub(super) fn recycle(&mut self, lookup: Lookup) {
        let (mut waiters, mut exchanges) = (lookup.waiters, lookup.exchanges);
        if waiters.capacity() <= MAX_SPARE_WAITERS && self.spare.len() < self.capacity {
            waiters.clear();
            exchanges.clear();
            self.spare.push((waiters, exchanges));
        }
    }

    /// Ends all look-ups.
    pub(super) fn end_all(&mut self) -> Vec<Lookup> {
        self.index.clear();
        self.lookups.drain().collect()
    }
}
