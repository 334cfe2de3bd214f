//! The second-level cache of a forwarder thread: upstreams' answers, shared by all fronts.
//!
//! An answer is cached under its question, but NXDOMAIN under its name and class alone, as it
//! holds for every type (RFC 2308 section 5). Expired answers stay for some time, to be served stale
//! when no upstream gives a newer one (RFC 8767).

use std::io;

use super::{ForwardOptions, Request};
use crate::{
    cache::{Cache, Key, Record},
    dns::{
        Answer, MAX_QUESTION, NameHasher, QUESTION_FIXED, denial, header::rcode, name::parent,
        question_hash,
    },
    maintenance::{Maintenance, Scope, Status},
};

/// In [`Key::flags`], beside DO and CD: the entry is for all types.
const ANY_TYPE: u8 = 0x80;

/// The cache of one thread. Times are in seconds, on one clock.
#[derive(Debug)]
pub(super) struct SharedCache {
    cache: Cache,
    /// For the keys that no front has hashed.
    hasher: NameHasher,
    cut: bool,
    /// Bound on TTLs, in seconds.
    max_ttl: u32,
}

/// Where an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Under the question.
    Question,
    /// Under the name: it does not exist.
    Name,
    /// Under a name above it, which does not exist.
    Ancestor,
}

/// A name that is cached without a type.
struct AnyType {
    hash: u64,
    flags: u8,
    len: usize,
    question: [u8; MAX_QUESTION],
}

impl AnyType {
    /// The key of `name`, in wire form, under the class and the flags of `request`.
    fn new(hasher: &NameHasher, name: &[u8], request: &Request) -> Option<Self> {
        let [class_high, class_low] = *request.question().last_chunk()?;
        let mut question = [0; MAX_QUESTION];
        let len = name.len() + QUESTION_FIXED;
        question.get_mut(..name.len())?.copy_from_slice(name);
        let [_, _, high, low] = question.get_mut(..len)?.last_chunk_mut()?;
        [*high, *low] = [class_high, class_low];
        let flags = request.flags | ANY_TYPE;
        Some(Self {
            // As for any key: a snapshot's records are restored under it.
            hash: question_hash(hasher, question.get(..len)?, flags),
            flags,
            len,
            question,
        })
    }

    fn key(&self) -> Key<'_> {
        Key {
            hash: self.hash,
            question: self.question.get(..self.len).unwrap_or_default(),
            flags: self.flags,
        }
    }
}

impl SharedCache {
    /// Reserves memory.
    ///
    /// # Errors
    /// It is not available.
    pub(super) fn new(options: &ForwardOptions, hasher: NameHasher) -> io::Result<Self> {
        let bytes = options.cache_bytes;
        let cache = Cache::with_grace(bytes, options.stale_max_age).map_err(|error| {
            let reason = format!("{bytes} octets for the forwarder's cache: {error}");
            io::Error::new(error.kind(), reason)
        })?;
        Ok(Self {
            cache,
            hasher,
            cut: options.nxdomain_cut,
            max_ttl: options.limits.max,
        })
    }

    /// The answer to `request` as it is at `now`, if it is fresh; for a refresh, only if it is not
    /// about to expire.
    pub(super) fn lookup(&mut self, request: &Request, now: u32) -> Option<(Found, Answer)> {
        if let Some(answer) = self.fresh(request, &request.key(), now) {
            return Some((Found::Question, answer));
        }
        let name = request.name();
        if let Some(answer) = self.denial(request, name, now) {
            return Some((Found::Name, answer));
        }
        if !self.cut {
            return None;
        }
        // At most 127 labels, most often three or four.
        let mut ancestor = parent(name)?;
        while ancestor.len() > 1 {
            if let Some(answer) = self.denial(request, ancestor, now) {
                let from = ancestor.len() + QUESTION_FIXED;
                let moved =
                    denial::for_descendant(answer.as_ref(), from, request.question().len())?;
                return Some((Found::Ancestor, moved));
            }
            ancestor = parent(ancestor)?;
        }
        None
    }

    /// NXDOMAIN for `name`, if it is cached and fresh.
    fn denial(&mut self, request: &Request, name: &[u8], now: u32) -> Option<Answer> {
        let any = AnyType::new(&self.hasher, name, request)?;
        self.fresh(request, &any.key(), now)
    }

    fn fresh(&mut self, request: &Request, key: &Key<'_>, now: u32) -> Option<Answer> {
        let hit = self.cache.get(key, now)?;
        if request.is_refresh() && hit.refresh_due {
            return None;
        }
        Some(hit.answer.aged(hit.age))
    }

    /// The last answer to `request`, as it is served stale.
    pub(super) fn stale(&mut self, request: &Request, now: u32) -> Option<Answer> {
        let any = AnyType::new(&self.hasher, request.name(), request)?;
        let named = self.cache.get_stale(&any.key(), now);
        let named = named.map(|hit| (hit.age, hit.answer.stale()));
        match (self.cache.get_stale(&request.key(), now), named) {
            (Some(hit), Some((age, named))) if age < hit.age => Some(named),
            (Some(hit), _) => Some(hit.answer.stale()),
            (None, named) => named.map(|(_, answer)| answer),
        }
    }

    /// Whether [`stale`](Self::stale) has an answer.
    pub(super) fn has_stale(&mut self, request: &Request, now: u32) -> bool {
        self.cache.get_stale(&request.key(), now).is_some()
            || AnyType::new(&self.hasher, request.name(), request)
                .is_some_and(|any| self.cache.get_stale(&any.key(), now).is_some())
    }

    /// Caches an upstream's answer. It replaces the cached one even if it may not be cached
    /// itself. An answer with another code than NOERROR or NXDOMAIN refreshes nothing
    /// (RFC 8767): what was cached before stays.
    pub(super) fn store(&mut self, request: &Request, answer: &Answer, now: u32) {
        if !matches!(answer.as_ref().rcode(), rcode::NOERROR | rcode::NXDOMAIN) {
            return;
        }
        let Some(any) = AnyType::new(&self.hasher, request.name(), request) else {
            return;
        };
        let (kept, gone) = if denies_name(answer) {
            (any.key(), request.key())
        } else {
            (request.key(), any.key())
        };
        self.cache.remove(&gone);
        if answer.as_ref().ttl() == 0 {
            self.cache.remove(&kept);
        } else {
            self.cache.insert(&kept, answer, now);
        }
    }

    /// Prefetches the bucket of `key`.
    pub(super) fn prefetch(&self, key: &Key<'_>) {
        self.cache.prefetch(key.hash);
    }

    /// Inserts an answer of a snapshot, unless its TTLs exceed the present limits.
    pub(super) fn restore(&mut self, key: &Key<'_>, record: &Record<'_>, age: u32, now: u32) {
        if record.answer.longest_ttl() <= self.max_ttl {
            self.cache.restore(key, record.answer, age, now);
        }
    }

    /// Executes a step of maintenance; `flushing` is called with the scope of each flush that begins.
    pub(super) fn maintain(
        &mut self,
        maintenance: &mut Maintenance,
        now: u32,
        flushing: impl FnMut(&Scope),
    ) -> Status {
        maintenance.step(&mut self.cache, now, flushing)
    }

    /// Entries now; insertions and evictions so far.
    pub(super) fn counts(&self) -> [u64; 3] {
        [
            self.cache.entries(),
            self.cache.insertions(),
            self.cache.evictions(),
        ]
    }
}

/// Whether the answer denies that the queried name exists: NXDOMAIN after a CNAME is about the
/// CNAME's target.
fn denies_name(answer: &Answer) -> bool {
    let answer = answer.as_ref();
    answer.rcode() == rcode::NXDOMAIN && matches!(answer.counts(), [0, 0, ..])
}

#[cfg(test)]
mod tests;
