//! How long an answer is fresh: the TTLs of its records, and their bounds.

use std::collections::{HashMap, HashSet};

use super::{Candidate, Section};
use crate::dns::{rrtype, u32_at};

/// Bounds on TTLs, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlLimits {
    /// TTLs below this are raised to it. 0: none are raised; TTL 0 never is.
    pub min: u32,
    /// TTLs above this are lowered to it (RFC 2181 section 8 allows any cap).
    pub max: u32,
    /// The same for negative answers (RFC 2308 section 5).
    pub max_negative: u32,
}

impl Default for TtlLimits {
    fn default() -> Self {
        Self {
            min: 0,
            max: 86_400,
            max_negative: 3_600,
        }
    }
}

/// Gives the records of an RRset one TTL, the least (RFC 2181 section 5.2), and drops duplicates
/// (section 5).
pub(super) fn unite_rrsets(records: &mut Vec<Candidate<'_>>) {
    if records.len() < 2 {
        return;
    }
    let mut least = HashMap::with_capacity(records.len());
    for record in records.iter() {
        let ttl = least.entry(record.rrset()).or_insert(record.ttl);
        *ttl = record.ttl.min(*ttl);
    }
    let mut seen = HashSet::with_capacity(records.len());
    records.retain_mut(|record| {
        record.ttl = least.get(&record.rrset()).copied().unwrap_or_default();
        seen.insert((record.rrset(), record.data.id))
    });
}

/// The TTLs of `records` within the limits, in seconds, and the least of them: how long the answer that
/// they make up is fresh.
///
/// A negative answer (`denied`) is fresh for the lesser of the SOA record's TTL and its MINIMUM;
/// without one it must not be cached (RFC 2308 sections 2.2 and 5): 0 seconds. The aliases before it keep
/// their own TTLs. Clients see TTLs as long as the answer is cached; 0 stays 0.
pub(super) fn bounded(
    records: &[Candidate<'_>],
    denied: bool,
    limits: &TtlLimits,
) -> (Vec<u32>, u32) {
    let mut soas = (records.iter()).filter(|record| {
        record.wire.section == Section::Authority && record.wire.rtype == rrtype::SOA
    });
    let minimum = soas.next().and_then(soa_minimum);
    let negative_cap = (minimum.unwrap_or(u32::MAX)).min(limits.max_negative);
    let bounded = |record: &Candidate<'_>| {
        let cap = match record.wire.section {
            Section::Authority | Section::Additional if denied => negative_cap.min(limits.max),
            _ => limits.max,
        };
        match record.ttl.min(cap) {
            0 => 0,
            ttl => ttl.max(limits.min),
        }
    };
    let ttls: Vec<u32> = records.iter().map(bounded).collect();
    let least = match ttls.iter().min() {
        Some(least) if !denied || minimum.is_some() => *least,
        _ => 0,
    };
    (ttls, least)
}

/// The last field of a SOA record's data (RFC 1035 section 3.3.13).
fn soa_minimum(soa: &Candidate<'_>) -> Option<u32> {
    let data = soa.wire.rdata.rest();
    u32_at(data, data.len().checked_sub(4)?)
}
