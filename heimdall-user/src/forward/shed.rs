//! Shedding: which look-ups are ended when the table is full.
//!
//! One client, or one zone whose servers do not respond, can fill the table. Quotas apply only when
//! it is full: of the client prefix that holds most of the scarce resource, if that is more than [a
//! part](QUOTA), and in it of the zone that holds most, the oldest look-ups are ended. If no holder
//! has that much, the oldest look-ups of all.
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
    /// The client prefix that holds more than its quota.
    pub(super) client: Option<Prefix>,
    /// The zone that holds more than its quota, of that client's look-ups or of all: its name in
    /// wire form.
    pub(super) zone: Option<&'a [u8]>,
    /// How much of the resource they hold.
    pub(super) held: usize,
    /// How much all hold.
    pub(super) total: usize,
    /// The look-ups, the oldest first.
    pub(super) slots: Vec<usize>,
}

/// A look-up that may be shed.
struct Candidate<'a> {
    slot: usize,
    /// Look-ups that began later have higher ones.
    serial: u64,
    request: &'a Request,
    weight: usize,
}

impl InFlight {
    /// Chooses the look-ups to end to free what is `scarce`. `None`: there are none.
    pub(super) fn shedding(&self, scarce: Scarce, hasher: &NameHasher) -> Option<Shedding<'_>> {
        let mut candidates: Vec<_> = self
            .iter()
            .map(|(slot, lookup)| Candidate {
                slot,
                serial: lookup.serial,
                request: &lookup.request,
                weight: match scarce {
                    Scarce::Lookups => 1,
                    Scarce::Front(front) => {
                        let waiters = lookup.waiters.iter();
                        waiters.filter(|waiter| waiter.front == front).count()
                    }
                },
            })
            .filter(|candidate| candidate.weight > 0)
            .collect();
        let total = candidates.iter().map(|candidate| candidate.weight).sum();
        let quota = total / QUOTA;
        let mut held = total;
        let mut client = None;
        if let Some((prefix, weight)) = heaviest(&candidates, quota, |request| Some(request.client))
        {
            candidates.retain(|candidate| candidate.request.client == prefix);
            (client, held) = (Some(prefix), weight);
        }
        let mut zone = None;
        for labels in 2..=MAX_LABELS {
            let ancestor =
                |request: &Request| Some(hasher.hash(last_labels(request.name(), labels)?, 0));
            let Some((hash, weight)) = heaviest(&candidates, quota, ancestor) else {
                break;
            };
            candidates.retain(|candidate| ancestor(candidate.request) == Some(hash));
            held = weight;
            let first = candidates.first();
            zone = first.and_then(|candidate| last_labels(candidate.request.name(), labels));
        }
        candidates.sort_unstable_by_key(|candidate| candidate.serial);
        let mut freed = 0;
        let slots: Vec<_> = candidates
            .iter()
            .take_while(|candidate| {
                let goes_on = freed < (total / BATCH).max(1);
                freed += candidate.weight;
                goes_on
            })
            .map(|candidate| candidate.slot)
            .collect();
        (!slots.is_empty()).then_some(Shedding {
            client,
            zone,
            held,
            total,
            slots,
        })
    }
}

/// Which of the holders that `key` distinguishes holds most, and how much, if that is more than
/// `quota`.
fn heaviest<K: Copy + Eq + std::hash::Hash>(
    candidates: &[Candidate<'_>],
    quota: usize,
    key: impl Fn(&Request) -> Option<K>,
) -> Option<(K, usize)> {
    let mut holders = HashMap::new();
    for candidate in candidates {
        if let Some(key) = key(candidate.request) {
            *holders.entry(key).or_insert(0) += candidate.weight;
        }
    }
    let heaviest = holders.into_iter().max_by_key(|(_, weight)| *weight);
    heaviest.filter(|(_, weight)| *weight > quota)
}

/// The name of the last `labels` labels of `name`, without counting the root's. `None`: it has fewer.
pub(super) fn last_labels(name: &[u8], labels: usize) -> Option<&[u8]> {
    let suffixes = || std::iter::successors(Some(name), |name| parent(name));
    // The root is the last of them.
    let count = suffixes().count() - 1;
    suffixes().nth(count.checked_sub(labels)?)
}
