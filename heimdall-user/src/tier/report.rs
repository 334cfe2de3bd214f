//! What is told of the tier.

use heimdall_ebpf::tier::{Outcome, TYPES, hit_counter};

use super::interfaces::Counts;
use crate::stats::{Described, counters};

counters! {
    /// What the promoter counts. All of it is written under the lock of the state.
    pub(super) struct TierCounters {
        /// Answers now in the hot tier.
        entries: gauge,
        /// Octets of the answers that are now in the hot tier, with their questions.
        bytes: gauge,
        /// Answers that were promoted to the hot tier.
        promotions,
        /// Answers in the hot tier that were replaced by a newer one to the same question.
        replacements,
        /// Answers that left the hot tier because they expired, were not queried, or made room for a more popular one.
        demotions,
        /// Answers that workers nominated for the hot tier.
        nominations,
        /// Nominations that were dropped because too many waited.
        nominations_dropped,
        /// Nominations that were dropped because a flush or a new policy came in between, or the tier was off.
        nominations_outdated,
    }
}

/// A copy of the tier's state.
#[derive(Clone, Debug)]
pub(crate) struct TierReport {
    /// Why it answers nothing. `None`: it does, except for the moments of a flush or a reload.
    pub(crate) off: Option<String>,
    /// What the promoter counts.
    pub(crate) counters: Vec<Described>,
    counts: Counts,
}

impl TierReport {
    pub(super) fn new(off: Option<String>, counters: &TierCounters, counts: Counts) -> Self {
        Self {
            off,
            counters: counters.described(),
            counts,
        }
    }

    /// Queries answered.
    pub(crate) fn hits(&self) -> u64 {
        self.types().sum()
    }

    /// Queries answered by type: one number for each [`stats::type_index`](crate::stats::type_index), in order.
    pub(crate) fn types(&self) -> impl Iterator<Item = u64> {
        (0..TYPES).map(|kind| self.hits_of(kind, false) + self.hits_of(kind, true))
    }

    /// Queries answered with NOERROR, or with NXDOMAIN.
    pub(crate) fn rcode(&self, nxdomain: bool) -> u64 {
        (0..TYPES).map(|kind| self.hits_of(kind, nxdomain)).sum()
    }

    /// Queries that were passed on, by the reason.
    pub(crate) fn passed(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome, self.count(outcome as usize)))
    }

    fn hits_of(&self, kind: usize, nxdomain: bool) -> u64 {
        self.count(hit_counter(kind, nxdomain).into())
    }

    fn count(&self, counter: usize) -> u64 {
        self.counts.get(counter).copied().unwrap_or_default()
    }
}
