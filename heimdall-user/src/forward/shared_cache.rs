//! The second-level cache of a forwarder thread: upstreams' answers, shared by all fronts.
//!
//! An answer is cached under its question, but NXDOMAIN under its name and class alone, as it
//! holds for every type (RFC 2308 section 5). Expired answers stay for some time, to be served stale
//! when no upstream gives a newer one (RFC 8767).

use std::{io, sync::Arc};

use super::{ForwardOptions, Request, answers::Answers};
use crate::{
    cache::{Cache, Hit, Key, Record, Visit, Walk},
    dns::{
        Answer, MAX_QUESTION, NameHasher, QUESTION_FIXED, denial, header::rcode, key_hash,
        name::parent, question_hash,
    },
    maintenance::{Maintenance, Scope, Status},
};

/// In [`Key::flags`], beside DO and CD: the entry is for all types.
const ANY_TYPE: u8 = 0x80;

/// The cache of one thread. Times are in seconds, on one clock.
#[derive(Debug)]
pub(super) struct SharedCache {
    cache: Cache,
    /// For the names that no front has hashed.
    hasher: NameHasher,
    cut: bool,
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

/// Which other questions a denial of the name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// None: other types of the name have another route.
    No,
    /// All types of the name, and names below it, of the route's zone, whose name has so many octets.
    Within(usize),
}

/// A name that is cached without a type.
struct AnyType {
    hash: u64,
    flags: u8,
    len: usize,
    question: [u8; MAX_QUESTION],
}

impl AnyType {
    /// The key of the request's name.
    fn of(hasher: &NameHasher, request: &Request) -> Option<Self> {
        let name = request.key().name_hash(hasher);
        let mut any = Self::unhashed(request.name(), request)?;
        any.hash = key_hash(hasher, name, any.key().question, any.flags);
        Some(any)
    }

    /// The key of a name above the request's, in wire form.
    fn of_ancestor(hasher: &NameHasher, name: &[u8], request: &Request) -> Option<Self> {
        let mut any = Self::unhashed(name, request)?;
        any.hash = question_hash(hasher, any.key().question, any.flags);
        Some(any)
    }

    /// A key with the class and the flags of `request`. Its hash is that of any key, as a snapshot's
    /// records are restored under it.
    fn unhashed(name: &[u8], request: &Request) -> Option<Self> {
        let [class_high, class_low] = *request.question().last_chunk()?;
        let mut question = [0; MAX_QUESTION];
        let len = name.len() + QUESTION_FIXED;
        question.get_mut(..name.len())?.copy_from_slice(name);
        let [_, _, high, low] = question.get_mut(..len)?.last_chunk_mut()?;
        [*high, *low] = [class_high, class_low];
        Some(Self {
            hash: 0,
            flags: request.flags | ANY_TYPE,
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
        })
    }

    /// The answer to `request` as it is at `now`, if it is fresh; for a refresh, only if it is not
    /// about to expire.
    pub(super) fn lookup(
        &mut self,
        request: &Request,
        shared: Shared,
        now: u32,
        answers: &mut Answers,
    ) -> Option<(Found, Arc<Answer>)> {
        if let Some(hit) = self.fresh(request, &request.key(), now) {
            return Some((Found::Question, answers.aged(hit)));
        }
        let Shared::Within(zone) = shared else {
            return None;
        };
        let any = AnyType::of(&self.hasher, request)?;
        if let Some(hit) = self.fresh(request, &any.key(), now) {
            return Some((Found::Name, answers.aged(hit)));
        }
        if !self.cut {
            return None;
        }
        // At most 127 labels, most often three or four.
        let mut ancestor = parent(request.name())?;
        while ancestor.len() > 1 && ancestor.len() >= zone {
            let any = AnyType::of_ancestor(&self.hasher, ancestor, request)?;
            if let Some(hit) = self.fresh(request, &any.key(), now) {
                let from = ancestor.len() + QUESTION_FIXED;
                let denial = hit.answer.aged(hit.age);
                let moved =
                    denial::for_descendant(denial.as_ref(), from, request.question().len())?;
                return Some((Found::Ancestor, Arc::new(moved)));
            }
            ancestor = parent(ancestor)?;
        }
        None
    }

    fn fresh(&mut self, request: &Request, key: &Key<'_>, now: u32) -> Option<Hit<'_>> {
        let hit = self.cache.get(key, now);
        hit.filter(|hit| !(request.is_refresh() && hit.refresh_due))
    }

    /// The last answer to `request`, as it is served stale.
    pub(super) fn stale(&mut self, request: &Request, shared: Shared, now: u32) -> Option<Answer> {
        if shared == Shared::No {
            let hit = self.cache.get_stale(&request.key(), now)?;
            return Some(hit.answer.stale());
        }
        let any = AnyType::of(&self.hasher, request)?;
        let named = self.cache.get_stale(&any.key(), now);
        let named = named.map(|hit| (hit.age, hit.answer.stale()));
        match (self.cache.get_stale(&request.key(), now), named) {
            (Some(hit), Some((age, named))) if age < hit.age => Some(named),
            (Some(hit), _) => Some(hit.answer.stale()),
            (None, named) => named.map(|(_, answer)| answer),
        }
    }

    /// Whether [`stale`](Self::stale) has an answer.
    pub(super) fn has_stale(&mut self, request: &Request, shared: Shared, now: u32) -> bool {
        self.cache.get_stale(&request.key(), now).is_some()
            || shared != Shared::No
                && AnyType::of(&self.hasher, request)
                    .is_some_and(|any| self.cache.get_stale(&any.key(), now).is_some())
    }

    /// Caches an upstream's answer. It replaces the cached one even if it may not be cached
    /// itself. An answer with another code than NOERROR or NXDOMAIN refreshes nothing
    /// (RFC 8767): what was cached before stays.
    pub(super) fn store(&mut self, request: &Request, shared: Shared, answer: &Answer, now: u32) {
        if !matches!(answer.as_ref().rcode(), rcode::NOERROR | rcode::NXDOMAIN) {
            return;
        }
        let Some(any) = AnyType::of(&self.hasher, request) else {
            return;
        };
        let (kept, gone) = match shared {
            Shared::No => (request.key(), None),
            Shared::Within(_) if denies_name(answer) => (any.key(), Some(request.key())),
            Shared::Within(_) => (request.key(), Some(any.key())),
        };
        if let Some(gone) = gone {
            self.cache.remove(&gone);
        }
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

    /// Inserts an answer of a snapshot.
    pub(super) fn restore(&mut self, key: &Key<'_>, record: &Record<'_>, age: u32, now: u32) {
        self.cache.restore(key, record.answer, age, now);
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self, now: u32) {
        self.cache.invalidate(now);
    }

    /// Removes the entries of which `is` holds, among the next ones of a walk. Whether there may be more.
    ///
    /// A turn of the thread writes fewer than these, so a walk with one step a turn comes to an end.
    pub(super) fn remove_some(
        &mut self,
        walk: &mut Walk,
        now: u32,
        is: impl Fn(&Record<'_>) -> bool,
    ) -> bool {
        /// Some hundred microseconds' work.
        const STEP: usize = 1024;
        self.cache.walk(walk, STEP, now, |record| match is(record) {
            true => Visit::Remove,
            false => Visit::Keep,
        })
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
