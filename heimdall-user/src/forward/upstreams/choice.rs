//! Which upstream a look-up asks first, and which next.

use std::{hash::BuildHasher as _, time::Instant};

use foldhash::fast::FixedState;

use super::{Rtt, Upstream, Upstreams};
use crate::dns::name::{MAX_NAME, lower_case};

/// Of so many look-ups, with [`Policy::Fastest`], one goes to the upstream whose time is known for longest.
const EXPLORE: usize = 32;

/// What a hedge costs, in percent of a look-up.
const HEDGE: u32 = 100;

/// Hedges in a row that a group may have saved up for.
const MAX_HEDGES: u32 = 10;

/// The order in which a group's upstreams are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In the operator's order.
    #[default]
    Sequential,
    /// Each look-up begins with the next one.
    RoundRobin,
    /// The one with the shortest smoothed round-trip time. One look-up of 32 measures another one.
    Fastest,
    /// By the name, whatever its type: an upstream gets the same names as long as it works, and if one fails, only its names
    /// move to others (rendezvous hashing).
    Hash,
}

impl Policy {
    /// Its name in the settings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::RoundRobin => "round-robin",
            Self::Fastest => "fastest",
            Self::Hash => "hash",
        }
    }
}

/// Upstreams that a look-up may ask, in the operator's order.
#[derive(Debug)]
pub(in crate::forward) struct Group {
    /// Indices in [`Upstreams`]. At most [`Tried::CAPACITY`] of them are used.
    members: Vec<usize>,
    policy: Policy,
    /// Look-ups that began.
    turn: usize,
    /// Hedges for so many look-ups, in percent.
    hedge: u32,
    /// What was saved for hedges, in percent of a look-up.
    saved: u32,
}

impl Group {
    /// `hedge` is the largest share of look-ups that ask a second upstream early, in percent.
    pub(in crate::forward) fn new(members: Vec<usize>, policy: Policy, hedge: u32) -> Self {
        Self {
            members,
            policy,
            turn: 0,
            hedge,
            saved: 0,
        }
    }

    pub(in crate::forward) fn len(&self) -> usize {
        self.members.len()
    }

    /// The indices of its members.
    pub(in crate::forward) fn indices(&self) -> &[usize] {
        &self.members
    }

    /// Whether look-ups may ask a second upstream early.
    pub(in crate::forward) fn hedges(&self) -> bool {
        self.hedge > 0 && self.members.len() > 1
    }

    /// Whether one look-up more may do so now, which counts it.
    pub(in crate::forward) fn take_hedge(&mut self) -> bool {
        let left = self.saved.checked_sub(HEDGE);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }

    /// A look-up begins.
    fn begin(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.saved = (self.saved + self.hedge).min(MAX_HEDGES * HEDGE);
    }

    /// Position and index of each member that can be used.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, usize)> {
        let members = self.members.iter().copied();
        members.take(Tried::CAPACITY).enumerate()
    }
}

/// The members of its group that a look-up has asked.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::forward) struct Tried {
    /// A bit for each, by its position in the group.
    members: u64,
    /// The position of the last one.
    last: Option<u8>,
}

impl Tried {
    /// Members that can be told apart.
    pub(in crate::forward) const CAPACITY: usize = 64;

    pub(super) fn contains(self, position: usize) -> bool {
        self.members & (1 << position) != 0
    }

    pub(super) fn add(&mut self, position: usize) {
        self.members |= 1 << position;
        self.last = Some(position as u8);
    }
}

impl Upstreams {
    /// The upstream that a look-up for `name` asks next, or first if it has asked none: if possible one that is not set
    /// aside, and not the one asked last; of those, one that was not asked yet; of those, by the group's policy. If all are set
    /// aside, the one that responded last is first.
    pub(in crate::forward) fn choose(
        &self,
        group: &mut Group,
        name: &[u8],
        tried: &mut Tried,
        now: Instant,
    ) -> usize {
        if tried.last.is_none() {
            group.begin();
        }
        let (position, index) = self.best(group, group.turn, name, *tried, now);
        tried.add(position);
        index
    }

    /// The upstream that [`choose`](Self::choose) would choose first for `name`. Nothing changes.
    pub(in crate::forward) fn first(&self, group: &Group, name: &[u8], now: Instant) -> usize {
        let turn = group.turn.wrapping_add(1);
        self.best(group, turn, name, Tried::default(), now).1
    }

    /// Whether a member of the group other than `index` is not set aside.
    pub(in crate::forward) fn others_work(&self, group: &Group, index: usize) -> bool {
        let mut others = group.members().filter(|(_, other)| *other != index);
        others.any(|(_, other)| !self.is_aside(other))
    }

    /// Position and index of the best one.
    fn best(
        &self,
        group: &Group,
        turn: usize,
        name: &[u8],
        tried: Tried,
        now: Instant,
    ) -> (usize, usize) {
        if let [only] = group.members.as_slice() {
            return (0, *only);
        }
        let last = tried.last.map(usize::from);
        let mut buf = [0; MAX_NAME];
        let name = match group.policy {
            Policy::Hash => lower_case(name, &mut buf).unwrap_or_default(),
            _ => &[],
        };
        let members = group.members();
        let others = members.filter(|(position, _)| last != Some(*position));
        let ranked = others.filter_map(|(position, index)| {
            let upstream = self.list.get(index)?;
            let aside = upstream.health.is_aside();
            let rank = match group.policy {
                _ if aside && last.is_none() => upstream.silence(now),
                Policy::Fastest if last.is_none() && turn.is_multiple_of(EXPLORE) => {
                    u64::MAX - upstream.silence(now)
                }
                Policy::Fastest => upstream.rtt.map_or(u64::MAX, Rtt::cost),
                Policy::Hash => u64::MAX - FixedState::with_seed(upstream.key).hash_one(name),
                Policy::Sequential => rotated(position, last.map_or(0, |last| last + 1), group),
                Policy::RoundRobin => rotated(position, last.map_or(turn, |last| last + 1), group),
            };
            Some((aside, tried.contains(position), rank, position, index))
        });
        let best = ranked.min().map(|(.., position, index)| (position, index));
        best.unwrap_or_default()
    }
}

impl Upstream {
    /// Nanoseconds since it last responded; as many as there can be before it has done so.
    fn silence(&self, now: Instant) -> u64 {
        let heard = self.health.heard();
        heard.map_or(u64::MAX, |heard| {
            now.saturating_duration_since(heard).as_nanos() as u64
        })
    }
}

/// The place of a position in the order that begins at `start`, and goes around.
fn rotated(position: usize, start: usize, group: &Group) -> u64 {
    let len = group.members.len().max(1);
    ((position + len - start % len) % len) as u64
}
