//! Zones below which no name can be resolved (RFC 9520 section 3.2).
//!
//! The servers of a zone that is dead answer for none of its names, and each new name costs a
//! look-up that takes all its time. So failures are counted for the ancestors of a name, too. When
//! [so many](THRESHOLD) different names directly below one have failed, or names below those, and
//! nothing below it was answered since the first of them, but something else was, new names below it
//! fail at once. Then one
//! look-up at a time is let through as a probe, after a time that each probe that fails doubles. Any
//! answer below the zone ends this.
//!
//! Names with a stale answer do not take part: they were answered once, so they are looked up whatever
//! the state of the zone, at the pace that failures of their own allow. So a flood of names that fail
//! below a zone of which a part works cannot keep its known names from being refreshed.
//!
//! Failures of address, HTTPS and other queries are counted apart: some servers, and firewalls in
//! front of them, drop queries for types that they do not know (RFC 4074, RFC 8906 section 3.1.2), and
//! the addresses of their names can be resolved all the same.
//!
//! One dead child counts once, however many names below it fail, so it never condemns its parent.
//! The root, the top-level domains and what looks like the second level of [a registry](is_registry)
//! are never condemned: what is below them has no server in common, and whoever knows enough lame
//! domains could have all the others fail.

use std::time::{Duration, Instant};

use hashbrown::{HashTable, hash_table::Entry};

use super::{Request, failures::BOUNDS, shed::last_labels};
use crate::dns::{NameHasher, name::eq_ignore_case, rrtype, view::KEY_FLAG_CD};

/// Different children that have to fail.
const THRESHOLD: usize = 16;

/// Zones that one thread knows of: a megabyte or two at most.
const CAPACITY: usize = 4096;

/// Labels of the deepest zone that is kept, which bounds what a long name can cost. The reverse zone of
/// an IPv6 /32 has as many; those of sites are known by that.
const MAX_LABELS: usize = 10;

#[derive(Debug)]
struct Zone {
    hash: u64,
    name: Box<[u8]>,
    /// By [`kind`] of query.
    states: [State; KINDS],
    /// When it was last of use, in [`Zones::uses`].
    used: u64,
}

/// What became of queries of one kind below a zone.
#[derive(Debug, Default)]
struct State {
    /// Hashes of the names directly below it that failed, or have names below them that did.
    failed: Vec<u64>,
    /// Only look-ups that began after this one count: it was the last one when the first failed, when
    /// one was answered, or when the zone was put off. 0: none has failed yet.
    since: u64,
    back_off: Option<BackOff>,
}

#[derive(Clone, Copy, Debug)]
struct BackOff {
    /// When the next probe may be made.
    until: Instant,
    seconds: u32,
}

/// What is known of zones. Serial numbers are those of look-ups.
#[derive(Debug)]
pub(super) struct Zones {
    table: HashTable<Zone>,
    hasher: NameHasher,
    capacity: usize,
    /// Seconds between probes, at most.
    max: u32,
    /// Time that a probe takes.
    probe: Duration,
    /// States with a back-off.
    dead: usize,
    /// The last look-up that had begun when one was answered, below any zone.
    answered: u64,
    uses: u64,
}

impl Zones {
    /// Knows nothing. Between probes, which take the time `probe`, are at most `max` seconds.
    pub(super) fn new(max: u32, probe: Duration, hasher: NameHasher) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
            capacity: CAPACITY,
            max: max.clamp(BOUNDS.0, BOUNDS.1),
            probe,
            dead: 0,
            answered: 0,
            uses: 0,
        }
    }

    /// Whether the request's name may be looked up. If it is below a zone whose time has come, its
    /// look-up is the probe.
    ///
    /// # Errors
    /// The time left until the next probe.
    pub(super) fn admit(&mut self, request: &Request, now: Instant) -> Result<(), Duration> {
        if self.dead == 0 {
            return Ok(());
        }
        self.uses += 1;
        let mut left = Duration::ZERO;
        for labels in 2..=MAX_LABELS {
            if let Some(back_off) = self.back_off(request, labels) {
                left = left.max(back_off.until.saturating_duration_since(now));
            }
        }
        if !left.is_zero() {
            return Err(left);
        }
        let probe = self.probe;
        for labels in 2..=MAX_LABELS {
            if let Some(back_off) = self.back_off(request, labels) {
                back_off.until = now + probe;
            }
        }
        Ok(())
    }

    /// Notes that the look-up with the number `serial` failed, when `last` was the last one begun.
    /// The zone that is found dead by this, if one is: its name in wire form.
    pub(super) fn failed<'a>(
        &mut self,
        request: &'a Request,
        serial: u64,
        last: u64,
        now: Instant,
    ) -> Option<&'a [u8]> {
        let mut died = None;
        self.uses += 1;
        let (uses, max, answered) = (self.uses, self.max, self.answered);
        for labels in 2..=MAX_LABELS {
            let Some((name, child)) = zone_and_child(request, labels) else {
                break;
            };
            if is_registry(name, labels) {
                continue;
            }
            let hash = self.hash(name, request);
            let child = self.hash(child, request);
            self.make_room();
            let entry = self
                .table
                .entry(hash, |zone| zone.is(hash, name), |zone| zone.hash);
            let zone = match entry {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry
                    .insert(Zone {
                        hash,
                        name: name.into(),
                        states: Default::default(),
                        used: uses,
                    })
                    .into_mut(),
            };
            zone.used = uses;
            let Some(state) = zone.states.get_mut(kind(request)) else {
                break;
            };
            if state.since == 0 {
                state.since = last;
                continue;
            }
            if serial <= state.since {
                continue;
            }
            if !state.failed.contains(&child) && state.failed.len() < THRESHOLD {
                state.failed.push(child);
            }
            if state.failed.len() < THRESHOLD {
                continue;
            }
            // Upstreams that fail every question say nothing about the zone.
            let is_outage = answered <= state.since;
            let seconds = match state.back_off {
                None if is_outage => continue,
                Some(back_off) if is_outage => back_off.seconds,
                None => {
                    self.dead += 1;
                    died = Some(name);
                    BOUNDS.0
                }
                Some(back_off) => back_off.seconds.saturating_mul(2).min(max),
            };
            state.since = last;
            state.back_off = Some(BackOff {
                until: now + Duration::from_secs(seconds.into()),
                seconds,
            });
        }
        died
    }

    /// Notes that a look-up was answered, when `last` was the last one begun.
    pub(super) fn answered(&mut self, request: &Request, last: u64) {
        self.answered = last;
        if self.table.is_empty() {
            return;
        }
        let mut revived = 0;
        for labels in 2..=MAX_LABELS {
            let zone = self.find(request, labels);
            for state in zone.into_iter().flat_map(|zone| &mut zone.states) {
                state.failed.clear();
                state.since = last;
                revived += usize::from(state.back_off.take().is_some());
            }
        }
        self.dead -= revived;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.dead = 0;
    }

    /// The zone of so many labels above the request's name, if it is known.
    fn find(&mut self, request: &Request, labels: usize) -> Option<&mut Zone> {
        let (name, _) = zone_and_child(request, labels)?;
        let hash = self.hash(name, request);
        let uses = self.uses;
        let zone = self.table.find_mut(hash, |zone| zone.is(hash, name))?;
        zone.used = uses;
        Some(zone)
    }

    /// The back-off of the zone of so many labels above the request's name.
    fn back_off(&mut self, request: &Request, labels: usize) -> Option<&mut BackOff> {
        let state = self.find(request, labels)?.states.get_mut(kind(request))?;
        state.back_off.as_mut()
    }

    /// What is resolved with CD set may not be without.
    fn hash(&self, name: &[u8], request: &Request) -> u64 {
        self.hasher.hash(name, (request.flags & KEY_FLAG_CD).into())
    }

    /// Drops the half that was not of use for longest, if there is no room for another zone.
    fn make_room(&mut self) {
        if self.table.len() < self.capacity {
            return;
        }
        let mut uses: Vec<_> = self.table.iter().map(|zone| zone.used).collect();
        let (_, &mut median, _) = uses.select_nth_unstable(self.capacity / 2);
        self.table.retain(|zone| zone.used > median);
        let states = self.table.iter().flat_map(|zone| &zone.states);
        self.dead = states.filter(|state| state.back_off.is_some()).count();
    }
}

impl Zone {
    fn is(&self, hash: u64, name: &[u8]) -> bool {
        self.hash == hash && eq_ignore_case(&self.name, name)
    }
}

/// Whether names directly below this one, which has so many labels, are likely to belong to
/// different people: `co.uk` and the like, and the reverse zones that are larger than an IPv4 /16 or an
/// IPv6 /32.
/// A zone that is taken for a registry by mistake still has its quota of look-ups.
fn is_registry(zone: &[u8], labels: usize) -> bool {
    let Some(top) = last_labels(zone, 1) else {
        return true;
    };
    if eq_ignore_case(top, b"\x04arpa\0") {
        let is_ip6 = last_labels(zone, 2)
            .is_some_and(|reverse| eq_ignore_case(reverse, b"\x03ip6\x04arpa\0"));
        return labels < if is_ip6 { 10 } else { 4 };
    }
    // Its length, two letters, and the root.
    let is_country = top.len() == 4;
    labels == 2 && is_country && zone.first().is_some_and(|len| *len <= 3)
}

/// Kinds of queries of which a zone can be dead for one and not for another.
const KINDS: usize = 4;

/// Which queries those are that `request` is one of, in words.
pub(super) fn queries(request: &Request) -> &'static str {
    const NAMES: [&str; KINDS] = ["A", "AAAA", "HTTPS", "other"];
    NAMES.get(kind(request)).copied().unwrap_or_default()
}

/// The kind of a query, below [`KINDS`].
fn kind(request: &Request) -> usize {
    match request.qtype() {
        rrtype::A => 0,
        rrtype::AAAA => 1,
        rrtype::HTTPS => 2,
        _ => 3,
    }
}

/// The zone of so many labels above the request's name, and the name directly below it.
fn zone_and_child(request: &Request, labels: usize) -> Option<(&[u8], &[u8])> {
    let child = last_labels(request.name(), labels + 1)?;
    Some((super::shared_cache::parent(child)?, child))
}

#[cfg(test)]
mod tests;
