//! The questions in flight, and the waiters of each.

use std::{mem, time::Instant};

use hashbrown::HashTable;
use slab::Slab;

use super::{
    Request,
    exchange::{Exchange, Sent},
    routes::RouteId,
    shard::Chain,
    upstreams::Tried,
};
use crate::{
    answer::prefix::Prefix,
    dns::{edns::ede, same_question},
};

/// A front's query that waits for a question in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    /// The prefix of the client that asked.
    pub(super) client: Prefix,
    pub(super) front: u16,
    pub(super) token: u64,
}

/// A question in flight.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The request that started it; its name case goes upstream.
    pub(super) request: Request,
    pub(super) waiters: Vec<Waiter>,
    /// Whose upstreams are asked.
    pub(super) route: RouteId,
    /// The current one, and those of earlier attempts that timed out: an answer that comes late is
    /// accepted as well. At most one for each attempt. Each has a place in [`Udp`](super::udp::Udp)
    /// or [`Tcp`](super::tcp::Tcp), too.
    pub(super) exchanges: Vec<Exchange>,
    /// Serial number of the exchange that has a deadline.
    pub(super) current: u64,
    /// The upstreams that were asked.
    pub(super) tried: Tried,
    pub(super) hedge: Hedge,
    /// It is a probe: no request waits for it.
    pub(super) is_probe: bool,
    /// Attempts begun, the current one included, without those over UDP that ended with an error.
    pub(super) attempts: u32,
    /// Attempts that an upstream ended with an error.
    pub(super) errors: usize,
    /// A query of it was repeated over UDP, after a flood of wrong datagrams or BADCOOKIE; see
    /// [`may_repeat`](Self::may_repeat).
    pub(super) repeated: bool,
    /// Response code of a truncated answer that has not come whole over TCP yet.
    pub(super) truncated: Option<u8>,
    /// An upstream sent an error, or did not respond; else none could be reached.
    pub(super) heard: bool,
    /// This host could not send a query: it has no route, port or address for that, or a filter rejects it.
    pub(super) not_sent: bool,
    /// Info-code of an upstream's Extended DNS Error (RFC 8914); see [`explain`](Self::explain).
    pub(super) ede: Option<u16>,
    /// The client response timer has fired: the waiters got a stale answer, and so do requests that
    /// join later.
    pub(super) stale_served: bool,
    /// What it knows of the aliases before the name that is asked for now, if that is not the client's.
    pub(super) chain: Option<Box<Chain>>,
    /// Increases with each look-up: distinguishes it from earlier ones in the same slot.
    pub(super) serial: u64,
    pub(super) began: Instant,
}

/// A second query, sent before the first one has timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hedge {
    /// There is none.
    No,
    /// The deadline of this exchange is the time for one; the exchange itself times out later.
    Due { exchange: u64, until: Instant },
    /// The serial number of the first query, when that times out, and the lowest serial number of the second and what
    /// repeats it.
    Sent {
        first: u64,
        until: Instant,
        second: u64,
    },
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

    /// Whether a query may be repeated over UDP, from another port or with another cookie: once in a look-up.
    pub(super) fn may_repeat(&mut self) -> bool {
        !mem::replace(&mut self.repeated, true)
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
    /// Look-ups that are probes.
    probes: usize,
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
            probes: 0,
            spare: Vec::new(),
        }
    }

    /// How many there are, without probes.
    pub(super) fn len(&self) -> usize {
        self.lookups.len() - self.probes
    }

    /// The look-up of the request's question, if there is one under the same routes.
    pub(super) fn find(&self, request: &Request) -> Option<usize> {
        let slot = self.index.find(request.hash, |&slot| {
            self.lookups.get(slot).is_some_and(|lookup| {
                lookup.request.hash == request.hash
                    && lookup.request.flags == request.flags
                    && lookup.request.generation == request.generation
                    && same_question(lookup.request.question(), request.question())
            })
        });
        slot.copied()
    }

    /// All look-ups but probes, and their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Lookup)> {
        let lookups = self.lookups.iter();
        lookups.filter(|(_, lookup)| !lookup.is_probe)
    }

    /// All probes, and their slots.
    pub(super) fn probes(&self) -> impl Iterator<Item = (usize, &Lookup)> {
        let lookups = self.lookups.iter().filter(|_| self.probes > 0);
        lookups.filter(|(_, lookup)| lookup.is_probe)
    }

    /// Whether the table is full.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity
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
    pub(super) fn begin(
        &mut self,
        request: Request,
        route: RouteId,
        serial: u64,
        now: Instant,
    ) -> Option<usize> {
        if self.is_full() {
            return None;
        }
        let slot = self.insert(request, route, serial, now);
        if let Some(lookup) = self.lookups.get_mut(slot) {
            lookup.waiters.push(request.waiter());
        }
        let lookups = &self.lookups;
        self.index.insert_unique(request.hash, slot, |&slot| {
            lookups.get(slot).map_or(0, |lookup| lookup.request.hash)
        });
        Some(slot)
    }

    /// Makes a look-up that is a probe. No request joins it. There is one for each upstream at most.
    pub(super) fn begin_probe(&mut self, request: Request, serial: u64, now: Instant) -> usize {
        let slot = self.insert(request, RouteId::default(), serial, now);
        if let Some(lookup) = self.lookups.get_mut(slot) {
            lookup.is_probe = true;
            self.probes += 1;
        }
        slot
    }

    fn insert(&mut self, request: Request, route: RouteId, serial: u64, now: Instant) -> usize {
        let (waiters, exchanges) = self.spare.pop().unwrap_or_default();
        self.lookups.insert(Lookup {
            request,
            waiters,
            route,
            exchanges,
            current: 0,
            tried: Tried::default(),
            hedge: Hedge::No,
            is_probe: false,
            attempts: 0,
            errors: 0,
            repeated: false,
            truncated: None,
            heard: false,
            not_sent: false,
            ede: None,
            stale_served: false,
            chain: None,
            serial,
            began: now,
        })
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
        if lookup.is_probe {
            self.probes -= 1;
        } else if let Ok(entry) = self
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
        self.probes = 0;
        self.lookups.drain().collect()
    }
}
