//! How long an answer is fresh: the TTLs of its records, and their bounds.

use core::hash::{BuildHasher, Hasher as _};

use foldhash::quality::RandomState;

use super::{Candidate, Section, names::Names, rdata};
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

/// A record among others.
#[derive(Clone, Copy, Debug)]
struct Place {
    rrset: u128,
    /// Of the data, if there are others in the RRset.
    hash: u64,
    /// In the list of records.
    index: u16,
}

impl Place {
    /// By RRset, in the order of the message.
    fn by_rrset(&self) -> u128 {
        self.rrset << 16 | u128::from(self.index)
    }

    /// By data, in the order of the message.
    fn by_data(&self) -> u128 {
        u128::from(self.hash) << 16 | u128::from(self.index)
    }
}

/// Unites RRsets.
#[derive(Debug, Default)]
pub(super) struct RrSets {
    /// Seeded. Who found two data with one hash could only hide one of an RRset of its own.
    hasher: RandomState,
    places: Vec<Place>,
}

impl RrSets {
    /// Gives the records of an RRset one TTL, the least (RFC 2181 section 5.2), and no longer keeps
    /// duplicates (section 5). `None`: data cannot be read.
    pub(super) fn unite(
        &mut self,
        names: &mut Names,
        msg: &[u8],
        records: &mut [Candidate],
    ) -> Option<()> {
        if records.len() < 2 {
            return Some(());
        }
        self.places.clear();
        let places = (0..).zip(records.iter()).map(|(index, record)| Place {
            rrset: record.rrset(),
            hash: 0,
            index,
        });
        self.places.extend(places);
        self.places.sort_unstable_by_key(Place::by_rrset);
        for places in self.places.chunk_by_mut(|a, b| a.rrset == b.rrset) {
            if places.len() < 2 {
                continue;
            }
            let mut least = u32::MAX;
            for place in places.iter_mut() {
                let record = records.get(usize::from(place.index))?;
                least = least.min(record.ttl);
                let mut hasher = self.hasher.build_hasher();
                let data = record.data(msg)?;
                match record.name {
                    // The same data can be written with other pointers, and in another case.
                    Some(_) => rdata::hash(&mut hasher, names, msg, record.rtype, data)?,
                    None => hasher.write(data.rest()),
                }
                place.hash = hasher.finish();
            }
            // Of equal data the first of the message is kept.
            places.sort_unstable_by_key(Place::by_data);
            let mut before = None;
            for place in places {
                let record = records.get_mut(usize::from(place.index))?;
                record.ttl = least;
                record.kept = before.replace(place.hash) != Some(place.hash);
            }
        }
        Some(())
    }
}

/// Brings the TTLs of `records` within the limits, in seconds, and gives the least of them: how long
/// the answer that they make up is fresh.
///
/// A negative answer (`denied`) is fresh for the lesser of the SOA record's TTL and its MINIMUM;
/// without one it must not be cached (RFC 2308 sections 2.2 and 5): 0 seconds. The aliases before it keep
/// their own TTLs. Clients see TTLs as long as the answer is cached; 0 stays 0.
pub(super) fn bound(
    msg: &[u8],
    records: &mut [Candidate],
    denied: bool,
    limits: &TtlLimits,
) -> u32 {
    let mut soas = (records.iter())
        .filter(|record| record.section == Section::Authority && record.rtype == rrtype::SOA);
    let minimum = soas.next().and_then(|soa| soa_minimum(msg, soa));
    let negative_cap = (minimum.unwrap_or(u32::MAX)).min(limits.max_negative);
    let mut least = None;
    for record in records {
        let cap = match record.section {
            Section::Authority | Section::Additional if denied => negative_cap.min(limits.max),
            _ => limits.max,
        };
        record.ttl = match record.ttl.min(cap) {
            0 => 0,
            ttl => ttl.max(limits.min),
        };
        least = Some(least.unwrap_or(u32::MAX).min(record.ttl));
    }
    match least {
        Some(least) if !denied || minimum.is_some() => least,
        _ => 0,
    }
}

/// The last field of a SOA record's data (RFC 1035 section 3.3.13).
fn soa_minimum(msg: &[u8], soa: &Candidate) -> Option<u32> {
    let data = soa.data(msg)?.rest();
    u32_at(data, data.len().checked_sub(4)?)
}
