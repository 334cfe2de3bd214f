//! Shedding: which look-ups are ended when the table is full.
//!
//! One client, one zone whose servers do not respond, or one upstream that does not, can fill the table. Quotas apply only
//! when it is full. If [more than a half](UPSTREAM_QUOTA) waits for one of several upstreams, only look-ups that do are ended, so that one
//! that is dead does not take the table from those that work. Of these, of the client prefix that holds most of the scarce
//! resource, if that is more than [a part](QUOTA), and in it of the zone that holds most, the oldest look-ups are ended. If no
//! holder has that much, the oldest look-ups of all.
//!
//! A slot of the table is held by the client that asked first: those who ask the same meanwhile take none. They take a
//! place at their front, which each holds itself.
//!
//! A zone here is a name of at least two labels that many of the look-ups have in common: a forwarder
//! does not know the zone cuts. Names that share only a top-level domain share no servers.
//!
//! Look-ups are ended [a batch](BATCH) at a time, so that the walk over the table, spread over the new
//! look-ups, costs each less than its system calls. Nothing is counted while there is room.

use hashbrown::HashMap;

use super::{Request, inflight::InFlight};
use crate::{
    answer::prefix::Prefix,
    dns::{NameHasher, name::parent},
};

/// When the table is full, a holder may have one in `QUOTA` of its entries.
const QUOTA: usize = 8;

/// The same for the look-ups that wait for one of several upstreams.
const UPSTREAM_QUOTA: usize = 2;

/// One in `BATCH` of the whole is freed at a time.
const BATCH: usize = 16;

/// Labels of the deepest zone that is looked for; it bounds the walks over the table.
const MAX_LABELS: usize = 8;

/// The resource that is exhausted, by which the holders are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scarce {
    /// Slots of the table: each look-up has one.
    Lookups,
    /// The queries that this front may have waiting: each of its waiters is one.
    Front(u16),
}

/// What to end, and why.
#[derive(Debug)]
pub(super) struct Shedding<'a> {
    /// The position of the upstream for which more than its quota waits.
    pub(super) upstream: Option<usize>,
    /// The client prefix that holds more than its quota.
    pub(super) client: Option<Prefix>,
    /// The zone that holds more than its quota, of those look-ups or of all: its name in wire form.
    pub(super) zone: Option<&'a [u8]>,
    /// How much of the resource they hold.
    pub(super) held: usize,
    /// How much all hold.
    pub(super) total: usize,
    /// The look-ups, the oldest first.
    pub(super) slots: Vec<usize>,
}

/// A unit of what is scarce, and the look-up that holds it.
struct Unit<'a> {
    slot: usize,
    /// Look-ups that began later have higher ones.
    serial: u64,
    request: &'a Request,
    client: Prefix,
    upstream: Option<usize>,
}

impl InFlight {
    /// Chooses the look-ups to end to free what is `scarce`; `several`: there are several upstreams. `None`: there are no
    /// look-ups.
    pub(super) fn shedding(
        &self,
        scarce: Scarce,
        several: bool,
        hasher: &NameHasher,
    ) -> Option<Shedding<'_>> {
        let mut units = self.units(scarce);
        let total = units.len();
        let mut held = total;
        let mut upstream = None;
        if several
            && let Some((index, count)) =
                largest(&units, total / UPSTREAM_QUOTA, |unit| unit.upstream)
        {
            units.retain(|unit| unit.upstream == Some(index));
            (upstream, held) = (Some(index), count);
        }
        let quota = total / QUOTA;
        let mut client = None;
        if let Some((prefix, count)) = largest(&units, quota, |unit| Some(unit.client)) {
            units.retain(|unit| unit.client == prefix);
            (client, held) = (Some(prefix), count);
        }
        let mut zone = None;
        for labels in 2..=MAX_LABELS {
            let ancestor =
                |unit: &Unit<'_>| Some(hasher.hash(last_labels(unit.request.name(), labels)?, 0));
            let Some((hash, count)) = largest(&units, quota, ancestor) else {
                break;
            };
            units.retain(|unit| ancestor(unit) == Some(hash));
            held = count;
            zone = (units.first()).and_then(|unit| last_labels(unit.request.name(), labels));
        }
        units.sort_unstable_by_key(|unit| unit.serial);
        let freed = units.iter().take((total / BATCH).max(1));
        let mut slots: Vec<_> = freed.map(|unit| unit.slot).collect();
        // Those of one look-up follow each other.
        slots.dedup();
        (!slots.is_empty()).then_some(Shedding {
            upstream,
            client,
            zone,
            held,
            total,
            slots,
        })
    }

    /// What is held of the scarce resource.
    fn units(&self, scarce: Scarce) -> Vec<Unit<'_>> {
        let mut units = Vec::new();
        for (slot, lookup) in self.iter() {
            let unit = |client| Unit {
                slot,
                serial: lookup.serial,
                request: &lookup.request,
                client,
                upstream: (lookup.sent(lookup.current)).map(|sent| sent.target.upstream),
            };
            match scarce {
                Scarce::Lookups => units.push(unit(lookup.request.client)),
                Scarce::Front(front) => {
                    let waiters = lookup.waiters.iter().filter(|waiter| waiter.front == front);
                    units.extend(waiters.map(|waiter| unit(waiter.client)));
                }
            }
        }
        units
    }
}

/// Which of the holders that `key` distinguishes holds most, and how much, if that is more than
/// `quota`.
fn largest<K: Copy + Eq + std::hash::Hash>(
    units: &[Unit<'_>],
    quota: usize,
    key: impl Fn(&Unit<'_>) -> Option<K>,
) -> Option<(K, usize)> {
    let mut holders = HashMap::new();
    for key in units.iter().filter_map(key) {
        *holders.entry(key).or_insert(0) += 1;
    }
    let largest = holders.into_iter().max_by_key(|(_, count)| *count);
    largest.filter(|(_, count)| *count > quota)
}

/// The name of the last `labels` labels of `name`, without counting the root's. `None`: it has fewer.
pub(super) fn last_labels(name: &[u8], labels: usize) -> Option<&[u8]> {
    let suffixes = || std::iter::successors(Some(name), |name| parent(name));
    // The root is the last of them.
    let count = suffixes().count() - 1;
    suffixes().nth(count.checked_sub(labels)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;
    use crate::{
        dns::{DnsPacketView, Query},
        forward::{
            exchange::{Exchange, Sent, Target, Transport},
            routes::RouteId,
            testing::question,
        },
    };

    fn request(client: &str, name: &str, token: u64) -> Request {
        let msg = question(9, name);
        let query = Query::new(&DnsPacketView::parse(&msg).unwrap(), &NameHasher::default());
        Request::new(&query, &msg, client.parse().unwrap(), 0, token).unwrap()
    }

    /// A table with look-ups that wait for an upstream each: client, name, upstream.
    fn table(lookups: impl Iterator<Item = (String, String, usize)>) -> InFlight {
        let mut table = InFlight::new(1024);
        for (serial, (client, name, upstream)) in (1..).zip(lookups) {
            let request = request(&client, &name, serial);
            let slot = table.begin(request, RouteId::default(), serial, Instant::now());
            let lookup = table.get_mut(slot.unwrap()).unwrap();
            lookup.current = serial;
            lookup.exchanges.push(Exchange {
                sent: Sent {
                    target: Target {
                        upstream,
                        plain: false,
                        bare: false,
                        tcp: false,
                    },
                    serial,
                    id: 0,
                    at: Instant::now(),
                    waited: false,
                    letters: None,
                    cookie: None,
                },
                transport: Transport::Udp(0),
                rejected: 0,
                moved: false,
                sampled: false,
            });
        }
        table
    }

    /// A client and a zone of its own for each look-up.
    fn spread(number: usize) -> (String, String) {
        let client = format!("10.{}.{}.1", number / 256, number % 256);
        (client, format!("www.z{number}.example.n{number}"))
    }

    #[test]
    fn one_upstream_does_not_take_the_table_from_others() {
        // The oldest wait for an upstream that works.
        let table = table((0..160).map(|number| {
            let (client, name) = spread(number);
            (client, name, usize::from(number >= 40))
        }));
        let shedding = table
            .shedding(Scarce::Lookups, true, &NameHasher::default())
            .unwrap();
        assert_eq!(
            (shedding.upstream, shedding.held, shedding.total),
            (Some(1), 120, 160)
        );
        assert_eq!((shedding.client, shedding.zone), (None, None));
        assert_eq!(shedding.slots, (40..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_single_upstream_or_a_half_is_not_held_against_anyone() {
        for upstreams in [1, 2] {
            let table = table((0..160).map(|number| {
                let (client, name) = spread(number);
                (client, name, number % upstreams)
            }));
            let shedding = table
                .shedding(Scarce::Lookups, upstreams > 1, &NameHasher::default())
                .unwrap();
            assert_eq!(shedding.upstream, None);
            assert_eq!(shedding.slots, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn of_an_upstreams_look_ups_those_of_the_largest_client_are_ended() {
        let table = table((0..160).map(|number| {
            let (client, name) = spread(number);
            match number {
                0..40 => (client, name, 0),
                // Few of the attacker's wait for the upstream that works.
                40..60 => ("192.0.2.1".to_owned(), name, number % 2),
                60..100 => ("192.0.2.1".to_owned(), name, 1),
                _ => (client, name, 1),
            }
        }));
        let shedding = table
            .shedding(Scarce::Lookups, true, &NameHasher::default())
            .unwrap();
        assert_eq!(shedding.upstream, Some(1));
        assert_eq!(shedding.client, "192.0.2.0/24".parse().ok());
        assert_eq!(shedding.held, 50);
        assert!(shedding.slots.iter().all(|slot| (41..100).contains(slot)));
    }

    /// Who asks for what another client has asked for holds places at the front, and no look-up.
    #[test]
    fn places_at_a_front_are_held_by_those_who_wait() {
        let mut table = table((0..64).map(|number| {
            let (_, name) = spread(number);
            ("192.0.2.1".to_owned(), name, 0)
        }));
        for token in 0..100 {
            let waiter = request("198.51.100.7", "www.z63.example.n63", 1000 + token).waiter();
            assert!(table.join(63, waiter, 1000));
        }
        let hasher = NameHasher::default();
        let of_front = table.shedding(Scarce::Front(0), false, &hasher).unwrap();
        assert_eq!(of_front.client, "198.51.100.0/24".parse().ok());
        assert_eq!((of_front.held, of_front.total), (100, 164));
        assert_eq!(of_front.slots, [63]);
        let of_table = table.shedding(Scarce::Lookups, false, &hasher).unwrap();
        assert_eq!(of_table.client, "192.0.2.0/24".parse().ok());
        assert_eq!(of_table.total, 64);
    }
}
