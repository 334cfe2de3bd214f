//! Which entry of the maps has which answer.
//!
//! A cell stands for an entry of the maps. It is free, live, or retired: not published any more, but programs that
//! run may still read it. Each question has one cell that is its home ([`home_of`]), where the program finds its answer
//! sooner. An answer gets another cell if that is not free, and moves there later ([`Table::move_home`]).

use heimdall_ebpf::tier::{Bucket, Entry, Key, SLOTS, Slot, bucket_of, home_of};

use super::interfaces::Interfaces;
use crate::xdp::{TierMaps, TierSize};

/// Live cells among which the coldest is looked for.
const SAMPLE: usize = 8;

#[derive(Debug)]
pub(super) struct Table {
    seed: u64,
    /// `None`: it is free.
    cells: Box<[Option<Box<Cell>>]>,
    /// Most cells that may be live.
    limit: u32,
    live: u32,
    buckets: Box<[Bucket]>,
    /// The cell from which on a free one is looked for next.
    next: usize,
    /// In the order in which they were retired.
    retired: Vec<u32>,
    /// How often retired cells were freed.
    reclaims: u64,
    /// The cell from which on the coldest is looked for next.
    hand: usize,
}

/// An entry of the maps.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// A copy of the entry.
    pub(super) entry: Entry,
    /// Where it is published. `None`: it is not live.
    place: Option<Place>,
    /// The entry's hits since it was written, when they were read last.
    pub(super) hits: u64,
    /// Hits in the last window; before that is known, what the nominations promise.
    pub(super) recent: u64,
    /// A whole window was begun since the entry was published.
    pub(super) measured: bool,
}

impl Cell {
    /// A cell that is not live yet, with so many recent hits.
    fn new(entry: &Entry, recent: u64) -> Self {
        Self {
            entry: *entry,
            place: None,
            hits: 0,
            recent,
            measured: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    bucket: u32,
    slot: usize,
}

/// Cells that were retired at a moment.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) cells: Vec<u32>,
    /// [`Table::reclaims`] at that moment.
    reclaims: u64,
}

/// What became of an entry that was to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It is live.
    Yes,
    /// It is live, in the place of a colder one.
    Displacing,
    /// No cell is free, its bucket is full of hotter ones, or a hotter one has its tag.
    No,
}

/// Creation and state.
impl Table {
    /// An empty table for so many live entries, in so many buckets, a power of two. Memory for cells is taken while they
    /// are used.
    pub(super) fn new(seed: u64, limit: u32, buckets: u32) -> Self {
        Self {
            seed,
            cells: vec![None; TierSize::new(limit).entries() as usize].into(),
            limit,
            live: 0,
            buckets: vec![Bucket([Slot::EMPTY; SLOTS]); buckets as usize].into(),
            next: 0,
            retired: Vec::new(),
            reclaims: 0,
            hand: 0,
        }
    }

    /// Live entries.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Whether no more entries may be live.
    pub(super) fn is_full(&self) -> bool {
        self.live >= self.limit
    }

    /// The index of a live question.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        let hash = key.hash(self.seed);
        let Bucket(slots) = self.bucket(bucket_of(hash, self.buckets.len() as u32))?;
        let slots = slots.iter().filter(|slot| slot.has_tag_of(hash));
        let mut indices = slots.map(|slot| slot.index());
        indices.find(|index| self.cell(*index).is_some_and(|cell| cell.entry.key == *key))
    }

    /// A cell.
    pub(super) fn cell(&self, index: u32) -> Option<&Cell> {
        self.cells.get(index as usize)?.as_deref()
    }

    /// A cell, for its counts to be changed.
    pub(super) fn cell_mut(&mut self, index: u32) -> Option<&mut Cell> {
        self.cells.get_mut(index as usize)?.as_deref_mut()
    }

    /// The live cells whose index is `first`, or greater by a multiple of `step`.
    pub(super) fn live_cells(&self, first: usize, step: usize) -> impl Iterator<Item = u32> {
        let indices = (first..self.cells.len()).step_by(step);
        let indices = indices.map(|index| index as u32);
        indices.filter(|index| self.is_live(*index))
    }

    /// The indices of all cells that are not free, with them.
    pub(super) fn cells_mut(&mut self) -> impl Iterator<Item = (u32, &mut Cell)> {
        let cells = self.cells.iter_mut().enumerate();
        cells.filter_map(|(index, cell)| Some((index as u32, cell.as_deref_mut()?)))
    }

    fn is_live(&self, index: u32) -> bool {
        self.cell(index).is_some_and(|cell| cell.place.is_some())
    }

    /// The cells that are retired now.
    pub(super) fn retired(&self) -> Retired {
        Retired {
            cells: self.retired.clone(),
            reclaims: self.reclaims,
        }
    }

    /// Of some live cells, others each time, the coldest.
    pub(super) fn coldest(&mut self, maps: &Interfaces) -> Option<u32> {
        let len = self.cells.len();
        let order = (0..len).map(|distance| ((self.hand + distance) % len) as u32);
        let live = order.filter(|index| self.is_live(*index));
        let sample: Vec<u32> = live.take(SAMPLE).collect();
        self.hand = sample.last().map_or(0, |last| *last as usize + 1);
        sample
            .into_iter()
            .min_by_key(|index| self.warmth(*index, maps))
    }

    /// Hits of a live cell in the last window, or since, whatever is more.
    pub(super) fn warmth(&self, index: u32, maps: &Interfaces) -> u64 {
        let of = |cell: &Cell| cell.recent.max(maps.hits(index).saturating_sub(cell.hits));
        self.cell(index).map_or(u64::MAX, of)
    }

    fn bucket(&self, bucket: u32) -> Option<&Bucket> {
        self.buckets.get(bucket as usize)
    }
}

/// Changes.
impl Table {
    /// Inserts an entry whose question is not live, with so many hits expected in a window. `is_colder`: whether a live
    /// entry of this [`warmth`](Self::warmth) may be displaced if the bucket is full, or if it has the same tag there:
    /// the program looks only at the first slot with a query's tag.
    pub(super) fn insert(
        &mut self,
        entry: &Entry,
        expected: u64,
        is_colder: impl Fn(u64) -> bool,
        to: &mut Interfaces,
    ) -> Inserted {
        let hash = entry.key.hash(self.seed);
        let bucket = bucket_of(hash, self.buckets.len() as u32);
        let Some(Bucket(slots)) = self.bucket(bucket) else {
            return Inserted::No;
        };
        let is_tag_held = slots.iter().any(|slot| slot.has_tag_of(hash));
        let empty = slots.iter().position(|slot| *slot == Slot::EMPTY);
        let empty = empty.filter(|_| !is_tag_held);
        let coldest = || {
            let slots = slots.iter().enumerate();
            let slots = slots.filter(|(_, slot)| !is_tag_held || slot.has_tag_of(hash));
            let warmths = slots.map(|(at, slot)| (at, self.warmth(slot.index(), to)));
            let coldest = warmths.min_by_key(|(_, warmth)| *warmth);
            coldest.filter(|(_, warmth)| is_colder(*warmth))
        };
        let Some(slot) = empty.or_else(|| coldest().map(|(slot, _)| slot)) else {
            return Inserted::No;
        };
        let Some(index) = self.free_cell(hash) else {
            return Inserted::No;
        };
        self.fill(
            index,
            Cell::new(entry, expected),
            Place { bucket, slot },
            to,
        );
        if empty.is_some() {
            Inserted::Yes
        } else {
            Inserted::Displacing
        }
    }

    /// Replaces the live entry at `index` by another one for its question, which inherits its recent hits: half of
    /// them if it never had any, so that an answer that is replaced again and again but never given cools. Returns whether
    /// a cell was free for it.
    pub(super) fn replace(&mut self, index: u32, entry: &Entry, to: &mut Interfaces) -> bool {
        let old = self
            .cell(index)
            .and_then(|cell| Some((cell.place?, cell.recent)));
        let Some((place, recent)) = old else {
            return false;
        };
        let recent = match to.hits(index) {
            0 => recent / 2,
            _ => recent,
        };
        let Some(free) = self.free_cell(entry.key.hash(self.seed)) else {
            return false;
        };
        self.fill(free, Cell::new(entry, recent), place, to);
        true
    }

    /// Moves a live entry to its home if that is free.
    pub(super) fn move_home(&mut self, index: u32, to: &mut Interfaces) {
        let Some(cell) = self.cell(index) else {
            return;
        };
        let home = self.home(cell.entry.key.hash(self.seed));
        if let Some(place) = cell.place
            && self.is_free(home)
        {
            let moved = Cell {
                measured: cell.measured,
                ..Cell::new(&cell.entry, cell.recent)
            };
            self.fill(home, moved, place, to);
        }
    }

    /// Removes a live entry.
    pub(super) fn remove(&mut self, index: u32, to: &mut Interfaces) {
        if let Some(place) = self.cell(index).and_then(|cell| cell.place) {
            self.publish(place, Slot::EMPTY, to);
        }
    }

    /// Removes the live entries that `which` is true of. Returns their number.
    pub(super) fn remove_all(
        &mut self,
        which: impl Fn(&Entry) -> bool,
        to: &mut Interfaces,
    ) -> u64 {
        let indices: Vec<u32> = self
            .live_cells(0, 1)
            .filter(|index| self.cell(*index).is_some_and(|cell| which(&cell.entry)))
            .collect();
        for index in &indices {
            self.remove(*index, to);
        }
        indices.len() as u64
    }

    /// Whether these cells are all still retired. If some were freed since, they may be in use, or retired again.
    pub(super) fn are_retired(&self, retired: &Retired) -> bool {
        self.reclaims == retired.reclaims
    }

    /// Frees retired cells, unless some of them were freed meanwhile: a grace period has begun and passed since
    /// [`retired`](Self::retired) returned them.
    pub(super) fn reclaim(&mut self, retired: &Retired) {
        if self.are_retired(retired) {
            self.reclaims += 1;
            for index in self.retired.drain(..retired.cells.len()) {
                if let Some(cell) = self.cells.get_mut(index as usize) {
                    *cell = None;
                }
            }
        }
    }

    /// Writes all that is live to maps that hold nothing yet.
    pub(super) fn write_to(&self, maps: &mut TierMaps) {
        for (index, cell) in self.cells.iter().enumerate() {
            if let Some(cell) = cell
                && let Some(Place { bucket, slot }) = cell.place
            {
                let index = index as u32;
                maps.write(index, &cell.entry);
                maps.publish(
                    bucket,
                    slot,
                    Slot::new(cell.entry.key.hash(self.seed), index),
                );
            }
        }
    }

    /// The home of questions with this hash.
    fn home(&self, hash: u64) -> u32 {
        home_of(hash, self.cells.len() as u32)
    }

    fn is_free(&self, index: u32) -> bool {
        self.cells.get(index as usize).is_some_and(Option::is_none)
    }

    /// A free cell for an answer to a question with this hash: its home, if that is free.
    fn free_cell(&mut self, hash: u64) -> Option<u32> {
        let home = self.home(hash);
        if self.is_free(home) {
            return Some(home);
        }
        let len = self.cells.len();
        let mut order = (0..len).map(|distance| ((self.next + distance) % len) as u32);
        let found = order.find(|index| self.is_free(*index))?;
        self.next = found as usize + 1;
        Some(found)
    }

    /// Makes the free cell at `index` a live one.
    fn fill(&mut self, index: u32, cell: Cell, place: Place, to: &mut Interfaces) {
        if let Some(free) = self.cells.get_mut(index as usize) {
            to.write(index, &cell.entry);
            let hash = cell.entry.key.hash(self.seed);
            *free = Some(Box::new(cell));
            self.publish(place, Slot::new(hash, index), to);
        }
    }

    /// Stores a slot. The cell that it led to is retired; the one that it leads to becomes live.
    fn publish(&mut self, place: Place, value: Slot, to: &mut Interfaces) {
        let bucket = self.buckets.get_mut(place.bucket as usize);
        let Some(slot) = bucket.and_then(|Bucket(slots)| slots.get_mut(place.slot)) else {
            return;
        };
        let old = std::mem::replace(slot, value);
        to.publish(place.bucket, place.slot, value);
        if let Some(cell) = self.cell_mut(old.index()) {
            cell.place = None;
            self.live -= 1;
            self.retired.push(old.index());
        }
        if let Some(cell) = self.cell_mut(value.index()) {
            cell.place = Some(place);
            self.live += 1;
        }
    }
}
