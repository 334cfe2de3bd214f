//! The index: a hash table of cache-line buckets that point into the log.

use std::io;

use super::{
    cpu,
    memory::{self, Array, Zeroed},
};

/// Slots in a bucket.
const SLOTS: usize = 12;

/// Octets of budget for which the index has one bucket: some five small entries, so that less
/// than half of the slots are in use and a full bucket is rare.
const BUDGET_PER_BUCKET: usize = 512;

/// Largest value of an entry's frequency counter.
const MAX_FREQUENCY: u8 = 3;

/// One cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Bits of the hashes that do not choose the bucket.
    tags: [u8; SLOTS],
    /// Two bits a slot: how often it was hit, up to [`MAX_FREQUENCY`].
    frequencies: u32,
    /// Offsets in the log plus 1, so that 0 is a free slot.
    offsets: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

// SAFETY: all fields are integers and arrays of them, so zeros are a bucket: an empty one; 64 is less
// than a page.
unsafe impl Zeroed for Bucket {}

impl Bucket {
    const EMPTY: &Self = &Self {
        tags: [0; SLOTS],
        frequencies: 0,
        offsets: [0; SLOTS],
    };

    /// The slots that have `tag`, a bit each.
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.tags;
        let low = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let high = u64::from_le_bytes([i, j, k, l, 0, 0, 0, 0]);
        let all = (1 << SLOTS) - 1;
        cpu::equal_octets(low, high, tag) & all
    }

    #[inline(always)]
    fn frequency(&self, slot: usize) -> u8 {
        (self.frequencies >> (2 * slot)) as u8 & MAX_FREQUENCY
    }

    fn set_frequency(&mut self, slot: usize, frequency: u8) {
        let shift = 2 * slot;
        let others = self.frequencies & !(u32::from(MAX_FREQUENCY) << shift);
        self.frequencies = others | u32::from(frequency) << shift;
    }
}

/// A slot of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    bucket: usize,
    slot: usize,
}

impl Slot {
    /// A number for it. An index of the largest cache has 2^27 buckets.
    #[inline(always)]
    pub(super) fn pack(self) -> u32 {
        (self.bucket << 4 | self.slot) as u32
    }

    #[inline(always)]
    pub(super) fn unpack(number: u32) -> Self {
        Self {
            bucket: (number >> 4) as usize,
            slot: number as usize % 16,
        }
    }
}

/// The slots of a bucket that may hold an entry, one after another.
pub(super) struct Candidates<'a> {
    bucket: &'a Bucket,
    position: usize,
    /// Those that are left, a bit each.
    slots: u32,
}

impl Iterator for Candidates<'_> {
    type Item = (Slot, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        while self.slots != 0 {
            let slot = self.slots.trailing_zeros() as usize;
            self.slots &= self.slots - 1;
            if let Some(offset) = self.bucket.offsets.get(slot)?.checked_sub(1) {
                let bucket = self.position;
                return Some((Slot { bucket, slot }, offset));
            }
        }
        None
    }
}

/// A slot that points to an entry, to be written.
#[derive(Debug)]
pub(super) struct SlotMut<'a> {
    bucket: &'a mut Bucket,
    slot: usize,
}

impl SlotMut<'_> {
    /// Counts a hit; returns the frequency before it. Writes only until the counter is at its
    /// largest.
    #[inline(always)]
    pub(super) fn touch(self) -> u8 {
        let frequency = self.bucket.frequency(self.slot);
        if frequency < MAX_FREQUENCY {
            self.bucket.frequencies += 1 << (2 * self.slot);
        }
        frequency
    }
}

#[derive(Debug)]
pub(super) struct Index {
    buckets: Array<Bucket>,
}

impl Index {
    /// An index for a cache of `budget` octets in all.
    ///
    /// # Errors
    /// Not enough memory.
    pub(super) fn for_budget(budget: usize) -> io::Result<Self> {
        let bytes = memory::whole_pages(budget / BUDGET_PER_BUCKET * size_of::<Bucket>());
        let count = bytes / size_of::<Bucket>();
        Ok(Self {
            buckets: Array::new(count.max(1))?,
        })
    }

    /// Octets that the index itself takes.
    pub(super) fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    pub(super) fn populate_step(&mut self) -> io::Result<bool> {
        self.buckets.populate_step()
    }

    /// The bucket of a hash: its upper half, scaled to the number of buckets.
    #[inline(always)]
    fn position(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn tag(hash: u64) -> u8 {
        hash as u8
    }

    /// Prefetches the bucket of `hash`.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.position(hash)) {
            cpu::prefetch(bucket);
        }
    }

    /// The entries that may be the one for `hash`.
    #[inline(always)]
    pub(super) fn candidates(&self, hash: u64) -> Candidates<'_> {
        let position = self.position(hash);
        let bucket = self.buckets.get(position).unwrap_or(Bucket::EMPTY);
        Candidates {
            bucket,
            position,
            slots: bucket.matches(Self::tag(hash)),
        }
    }

    /// A slot in use, and the offset in it.
    #[inline(always)]
    pub(super) fn slot_mut(&mut self, slot: Slot) -> Option<(SlotMut<'_>, u32)> {
        let bucket = self.buckets.get_mut(slot.bucket)?;
        let slot = slot.slot;
        let offset = bucket.offsets.get(slot)?.checked_sub(1)?;
        Some((SlotMut { bucket, slot }, offset))
    }

    /// The slot that points to `offset`, if one still does.
    pub(super) fn find_offset(&self, hash: u64, offset: u32) -> Option<Slot> {
        self.candidates(hash)
            .find(|(_, candidate)| *candidate == offset)
            .map(|(slot, _)| slot)
    }

    /// Counts a hit of the slot's entry.
    pub(super) fn touch(&mut self, slot: Slot) {
        if let Some((slot, _)) = self.slot_mut(slot) {
            slot.touch();
        }
    }

    /// How often the slot's entry was hit, [`MAX_FREQUENCY`] at most.
    pub(super) fn frequency(&self, slot: Slot) -> u8 {
        self.buckets
            .get(slot.bucket)
            .map_or(0, |bucket| bucket.frequency(slot.slot))
    }

    /// Sets the frequency of the slot's entry, [`MAX_FREQUENCY`] at most.
    pub(super) fn set_frequency(&mut self, slot: Slot, frequency: u8) {
        if let Some(bucket) = self.buckets.get_mut(slot.bucket) {
            bucket.set_frequency(slot.slot, frequency.min(MAX_FREQUENCY));
        }
    }

    /// Points a slot to another offset in the log.
    pub(super) fn set(&mut self, slot: Slot, offset: u32) {
        self.write(slot, offset + 1);
    }

    /// Frees a slot.
    pub(super) fn clear(&mut self, slot: Slot) {
        self.set_frequency(slot, 0);
        self.write(slot, 0);
    }

    fn write(&mut self, slot: Slot, stored: u32) {
        let bucket = self.buckets.get_mut(slot.bucket);
        if let Some(offset) = bucket.and_then(|bucket| bucket.offsets.get_mut(slot.slot)) {
            *offset = stored;
        }
    }

    /// Puts an entry into a free slot. In a full bucket it replaces the one with the least `worth`,
    /// given its offset and frequency. Returns whether it had to.
    pub(super) fn insert<W: Ord>(
        &mut self,
        hash: u64,
        offset: u32,
        worth: impl Fn(u32, u8) -> W,
    ) -> bool {
        let position = self.position(hash);
        let Some(bucket) = self.buckets.get_mut(position) else {
            return false;
        };
        let free = bucket.offsets.iter().position(|stored| *stored == 0);
        let worths = bucket.offsets.iter().enumerate();
        let worths =
            worths.map(|(slot, stored)| (worth(*stored - 1, bucket.frequency(slot)), slot));
        let slot = free.or_else(|| worths.min().map(|(_, slot)| slot));
        let slot = slot.unwrap_or_default();
        bucket.set_frequency(slot, 0);
        if let (Some(stored), Some(tag)) = (bucket.offsets.get_mut(slot), bucket.tags.get_mut(slot))
        {
            *stored = offset + 1;
            *tag = Self::tag(hash);
        }
        free.is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn tags_are_compared_with_those_of_slots_only() {
        let bucket = Bucket {
            tags: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3],
            ..*Bucket::EMPTY
        };
        assert_eq!(bucket.matches(3), 1 << 3 | 1 << 11);
        assert_eq!(bucket.matches(12), 0);
        assert_eq!(bucket.matches(0), 1, "nothing behind the last slot");
    }

    #[test]
    fn fresh_memory_is_an_empty_index() {
        let index = Index::for_budget(1 << 18).unwrap();
        assert!(index.buckets.len() > 1);
        assert!(index.buckets.iter().all(|bucket| bucket.frequencies == 0));
        assert_eq!(index.candidates(0).count(), 0, "tag 0 is no entry");
    }

    #[test]
    fn a_full_bucket_replaces_the_entry_of_least_worth() {
        let mut index = Index::for_budget(1 << 18).unwrap();
        let worth = |offset, frequency| (frequency, offset);
        for offset in 0..SLOTS as u32 {
            assert!(!index.insert(7, offset, worth));
            let slot = index.find_offset(7, offset).unwrap();
            index.set_frequency(slot, (offset % 2) as u8);
        }
        assert!(index.insert(7, 100, worth), "full");
        assert_eq!(index.find_offset(7, 0).map(Slot::pack), None);
        let slot = index.find_offset(7, 100).unwrap();
        assert_eq!(index.frequency(slot), 0);
        for before in [0, 1, 2, 3, 3] {
            let (slot, _) = index.slot_mut(slot).unwrap();
            assert_eq!(slot.touch(), before);
        }
        index.clear(slot);
        assert!(index.slot_mut(slot).is_none());
        assert!(!index.insert(7, 101, worth));
    }
}
