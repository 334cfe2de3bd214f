//! Zones below which no name can be resolved (RFC 9520 section 3.2).
//!
//! If all servers of a zone are dead, each new name below it costs a look-up that takes all its time.
//! So failures are counted for the ancestors of a name, too. A zone is dead when [this
//! many](THRESHOLD) different names directly below it, or names below those, have failed, and nothing
//! below it was answered since the first of them, but something elsewhere was. Then new names below
//! it fail at once, except for one look-up at a time, the probe, after a pause that each failed probe
//! doubles. Any answer below the zone ends this.
//!
//! Names with a stale answer are exempt: they are looked up whatever the state of the zone, limited
//! only by failures of their own. So a flood of failing names below a zone that works in part cannot
//! prevent the refresh of its cached names.
//!
//! Failures of A, AAAA, HTTPS and other queries are counted separately: some servers, and firewalls in
//! front of them, drop queries for types that they do not know (RFC 4074, RFC 8906 section 3.1.2),
//! while the addresses of their names can be resolved.
//!
//! One dead child counts once, however many names below it fail, so it never makes its parent dead.
//! The root, top-level domains and names of the form of a registry's [second level](is_registry) are
//! never dead: the zones below them share no servers, and an attacker who knows enough lame domains
//! could make all the others fail.

use std::time::{Duration, Instant};

use hashbrown::{HashTable, hash_table::Entry};

use super::{Request, failures::BOUNDS, shed::last_labels};
use crate::dns::{
    KEY_FLAG_CD, NameHasher,
    name::{eq_ignore_case, parent},
    rrtype,
};

/// Different children that have to fail before a zone is dead.
const THRESHOLD: usize = 16;

/// Capacity of a thread's table of zones: a megabyte or two at most.
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
    /// The value of [`Zones::uses`] when it was last used.
    used: u64,
}

/// The outcomes of queries of one kind below a zone.
#[derive(Debug, Default)]
struct State {
    /// Hashes of the names directly below it that failed, or below which names failed.
    failed: Vec<u64>,
    /// Only look-ups that began after this one count: it was the latest when the first failed, when one
    /// was answered, or when the zone became dead or a probe failed. 0: none has failed yet.
    since: u64,
    back_off: Option<BackOff>,
}

#[derive(Clone, Copy, Debug)]
struct BackOff {
    /// When the next probe may be made.
    until: Instant,
    seconds: u32,
}

/// The zones with failures. Serial numbers are those of look-ups.
#[derive(Debug)]
pub(super) struct Zones {
    table: HashTable<Zone>,
    hasher: NameHasher,
    capacity: usize,
    /// Seconds between probes, at most.
    max: u32,
    /// Time that a probe takes.
    probe: Duration,
    /// How many states have a back-off.
    dead: usize,
    /// The last look-up that had begun when one was answered, below any zone.
    answered: u64,
    uses: u64,
}

impl Zones {
    /// An empty table. Probes, which take the time `probe`, are at most `max` seconds apart.
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

    /// Probes take this time from now on.
    pub(super) fn set_probe(&mut self, probe: Duration) {
        self.probe = probe;
    }

    /// Whether the request's name may be looked up. If it is below a dead zone whose pause is over, its
    /// look-up is the probe.
    ///
    /// # Errors
    /// The time left until the next probe.
    pub(super) fn admit(&mut self, request: &Request, now: Instant) -> Result<(), Duration> {
        if self.dead == 0 {
            return Ok(());
        }
        self.uses += 1;
        let left = self.dead_zone(request, now).map(|(_, left)| left);
        let probe = self.probe;
        for labels in 2..=MAX_LABELS {
            // Used, whether it is the probe's or not.
            if let Some(back_off) = self.back_off(request, labels)
                && left.is_none()
            {
                back_off.until = now + probe;
            }
        }
        left.map_or(Ok(()), Err)
    }

    /// The dead zone that the request's name is below, if it is not the time for a probe: the one whose next
    /// probe is last, and the time until that.
    pub(super) fn dead_zone<'a>(
        &self,
        request: &'a Request,
        now: Instant,
    ) -> Option<(&'a [u8], Duration)> {
        let dead = (2..=MAX_LABELS).filter_map(|labels| {
            let (name, _) = zone_and_child(request, labels)?;
            let hash = self.hash(name, request);
            let zone = self.table.find(hash, |zone| zone.is(hash, name))?;
            let back_off = zone.states.get(kind(request))?.back_off?;
            let left = back_off.until.checked_duration_since(now)?;
            (!left.is_zero()).then_some((name, left))
        });
        dead.max_by_key(|(_, left)| *left)
    }

    /// Notes that the look-up with the number `serial` failed, when `last` was the last one begun.
    /// Returns the zone that became dead by this, if one did: its name in wire form.
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
            // If upstreams fail every question, that is not the zone's failure.
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

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.dead = 0;
    }

    /// The zone with this many labels above the request's name, if it is in the table.
    fn find(&mut self, request: &Request, labels: usize) -> Option<&mut Zone> {
        let (name, _) = zone_and_child(request, labels)?;
        let hash = self.hash(name, request);
        let uses = self.uses;
        let zone = self.table.find_mut(hash, |zone| zone.is(hash, name))?;
        zone.used = uses;
        Some(zone)
    }

    /// The back-off of the zone with this many labels above the request's name.
    fn back_off(&mut self, request: &Request, labels: usize) -> Option<&mut BackOff> {
        let state = self.find(request, labels)?.states.get_mut(kind(request))?;
        state.back_off.as_mut()
    }

    /// A question that can be resolved with CD set may fail without (a bogus zone), so they are separate.
    fn hash(&self, name: &[u8], request: &Request) -> u64 {
        self.hasher.hash(name, (request.flags & KEY_FLAG_CD).into())
    }

    /// Removes the least recently used half of a full table.
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

/// Whether names directly below this one, which has this many labels, are likely to belong to
/// different owners: `co.uk` and the like, and the reverse zones that are larger than an IPv4 /16 or
/// an IPv6 /32. A zone that is taken for a registry by mistake is still limited by its quota of
/// look-ups (`shed`).
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

/// Kinds of queries: a zone can be dead for one and not for another.
const KINDS: usize = 4;

/// The kind of a query, as a log line names it.
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

/// The zone with this many labels above the request's name, and the name directly below it.
fn zone_and_child(request: &Request, labels: usize) -> Option<(&[u8], &[u8])> {
    let child = last_labels(request.name(), labels + 1)?;
    Some((parent(child)?, child))
}

#[cfg(test)]
mod tests;
