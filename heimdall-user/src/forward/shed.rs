//! Which look-ups are ended when there is no room for another one.
//!
//! One client, or one zone whose servers are silent, can hold as many look-ups as there may be.
//! Nobody has a quota as long as there is room. When there is none, whoever holds more than
//! [a part](QUOTA) of what is scarce makes room for everybody else: the client prefix that holds
//! most, and of its look-ups those below the zone that holds most. If nobody holds that much, it is
//! the oldest look-ups of all.
//!
//! A zone here is a name of at least two labels that many of the look-ups have in common: where the
//! zone cuts are, a forwarder does not know. Names below a top-level domain have no server in
//! common.
//!
//! Look-ups are ended [a batch](BATCH) at a time, so that the walk over the table costs each new
//! look-up no more than the system calls that it needs anyway, and nothing is counted while there is
//! room.

use hashbrown::HashMap;

use super::{Request, inflight::InFlight};
use crate::{answer::prefix::Prefix, dns::NameHasher};

/// The part of the whole, one in so many, that a holder may have when there is no more room.
const QUOTA: usize = 8;

/// The part of the whole, one in so many, that is freed at a time.
const BATCH: usize = 16;

/// Labels of the deepest zone that is looked for; it bounds the walks over the table.
const MAX_LABELS: usize = 8;

/// What is scarce, and so what the holders are weighed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scarce {
    /// Places in the table: each look-up has one.
    Lookups,
    /// Descriptors of this process: each look-up has one for each of its exchanges.
    Descriptors,
    /// Local ports, of which each exchange has one, too.
    Ports,
    /// The queries that this front may have under way: each of its waiting requests is one.
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
    /// What they hold of what is scarce.
    pub(super) held: usize,
    /// What all hold.
    pub(super) total: usize,
    /// The look-ups, the oldest first.
    pub(super) slots: Vec<usize>,
}

/// A look-up that may have to go.
struct Candidate<'a> {
    slot: usize,
    /// Look-ups that began later have higher ones.
    serial: u64,
    request: &'a Request,
    weight: usize,
}

impl InFlight {
    /// Chooses the look-ups to end for want of what is `scarce`; `spare` is not among them. `None`:
    /// there are no others.
    pub(super) fn shedding(
        &self,
        scarce: Scarce,
        spare: Option<usize>,
        hasher: &NameHasher,
    ) -> Option<Shedding<'_>> {
        let mut candidates: Vec<_> = self
            .iter()
            .filter(|(slot, _)| Some(*slot) != spare)
            .map(|(slot, lookup)| Candidate {
                slot,
                serial: lookup.serial,
                request: &lookup.request,
                weight: match scarce {
                    Scarce::Lookups => 1,
                    Scarce::Descriptors | Scarce::Ports => lookup.exchanges.len(),
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

/// Which of the holders that `key` tells apart holds most, and how much, if that is more than
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

/// The name of the last so many labels of `name`, the root's not counted. `None`: it has fewer.
pub(super) fn last_labels(name: &[u8], labels: usize) -> Option<&[u8]> {
    let suffixes = || std::iter::successors(Some(name), |name| super::memory::parent(name));
    // The root is the last of them.
    let count = suffixes().count() - 1;
    suffixes().nth(count.checked_sub(labels)?)
}
