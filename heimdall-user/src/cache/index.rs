//! The index: a hash table of cache-line buckets that point into the log.

use std::io;

/// Entries in a bucket.
const WAYS: usize = 10;

/// Octets of budget for which the index has one bucket, at most: about five small entries, so
/// that half of the ways are in use and a full bucket is rare.
const BUDGET_PER_BUCKET: usize = 512;

/// One cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Places in the log plus 1, so that 0 is a free way.
    offsets: [u32; WAYS],
    /// Bits of the hashes that do not choose the bucket.
    tags: [u16; WAYS],
    /// One bit a way: asked for since it was last looked at.
    marks: u16,
    _unused: u16,
}

const _: () = assert!(size_of::<Bucket>() == 64);

const EMPTY: &Bucket = &Bucket {
    offsets: [0; WAYS],
    tags: [0; WAYS],
    marks: 0,
    _unused: 0,
};

/// One way of one bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    bucket: usize,
    way: usize,
}

#[derive(Debug)]
pub(super) struct Index {
    /// A power of two of buckets.
    buckets: Box<[Bucket]>,
}

impl Index {
    /// An index for a cache of `budget` octets in all.
    ///
    /// # Errors
    /// Not enough memory.
    pub(super) fn for_budget(budget: usize) -> io::Result<Self> {
        let count = (budget / BUDGET_PER_BUCKET).max(1).next_power_of_two();
        let mut buckets = Vec::new();
        buckets
            .try_reserve_exact(count)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        buckets.resize(count, Bucket::default());
        Ok(Self {
            buckets: buckets.into_boxed_slice(),
        })
    }

    /// Octets that the index itself takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn tag(hash: u64) -> u16 {
        (hash >> 48) as u16
    }

    /// Asks the processor for the line that holds `hash`.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.place(hash)) {
            super::prefetch::read(bucket);
        }
    }

    /// The entries that may be the one for `hash`.
    #[inline]
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = (Slot, u32)> {
        let place = self.place(hash);
        let tag = Self::tag(hash);
        let bucket = self.buckets.get(place).unwrap_or(EMPTY);
        let ways = bucket.offsets.iter().zip(&bucket.tags).enumerate();
        ways.filter_map(move |(way, (&stored, &stored_tag))| {
            let offset = stored.checked_sub(1)?;
            (stored_tag == tag).then_some((Slot { bucket: place, way }, offset))
        })
    }

    /// The way that points to `offset`, if one still does.
    pub(super) fn find_offset(&self, hash: u64, offset: u32) -> Option<Slot> {
        self.candidates(hash)
            .find(|(_, candidate)| *candidate == offset)
            .map(|(slot, _)| slot)
    }

    /// Remembers that the entry was asked for. Writes only the first time.
    #[inline]
    pub(super) fn mark(&mut self, slot: Slot) {
        if let Some(bucket) = self.buckets.get_mut(slot.bucket) {
            let bit = 1 << slot.way;
            if bucket.marks & bit == 0 {
                bucket.marks |= bit;
            }
        }
    }

    /// Forgets that the entry was asked for; tells whether it was.
    pub(super) fn unmark(&mut self, slot: Slot) -> bool {
        self.buckets.get_mut(slot.bucket).is_some_and(|bucket| {
            let bit = 1 << slot.way;
            let marked = bucket.marks & bit != 0;
            bucket.marks &= !bit;
            marked
        })
    }

    /// Points a way to another place in the log.
    pub(super) fn set(&mut self, slot: Slot, offset: u32) {
        if let Some(way) = self
            .buckets
            .get_mut(slot.bucket)
            .and_then(|bucket| bucket.offsets.get_mut(slot.way))
        {
            *way = offset + 1;
        }
    }

    /// Frees a way.
    pub(super) fn clear(&mut self, slot: Slot) {
        self.unmark(slot);
        if let Some(way) = self
            .buckets
            .get_mut(slot.bucket)
            .and_then(|bucket| bucket.offsets.get_mut(slot.way))
        {
            *way = 0;
        }
    }

    /// Puts an entry into a free way. In a full bucket it takes the place of one that was not
    /// asked for, or else of the first; the answer tells whether it had to.
    pub(super) fn insert(&mut self, hash: u64, offset: u32) -> bool {
        let place = self.place(hash);
        let Some(bucket) = self.buckets.get_mut(place) else {
            return false;
        };
        let free = bucket.offsets.iter().position(|stored| *stored == 0);
        let way = free.unwrap_or_else(|| {
            let unmarked = (0..WAYS).find(|way| bucket.marks & 1 << way == 0);
            unmarked.unwrap_or_default()
        });
        bucket.marks &= !(1 << way);
        if let (Some(stored), Some(tag)) = (bucket.offsets.get_mut(way), bucket.tags.get_mut(way)) {
            *stored = offset + 1;
            *tag = Self::tag(hash);
        }
        free.is_none()
    }
}
