//! What is told of the tier.

use std::sync::Arc;

use crate::{stats::counters, xdp::TierCounts};

counters! {
    /// What the promoter counts. All of it is written under the lock of the state.
    pub(crate) struct TierCounters {
        /// Answers now in the hot tier.
        entries: gauge,
        /// Octets that these take in the XDP program's maps, once for each interface.
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
    pub(crate) counters: Arc<TierCounters>,
    /// What the programs of all interfaces have counted, those that were detached included.
    pub(crate) counts: TierCounts,
}
