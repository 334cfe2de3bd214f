//! The index: a hash table of cache-line buckets that point into the log.

use std::io;

use super::memory::{self, Array, Plain};

/// Entries in a bucket.
const WAYS: usize = 12;

/// Octets of budget for which the index has one bucket: some five small entries, so that less
/// than half of the ways are in use and a full bucket is rare.
const BUDGET_PER_BUCKET: usize = 512;

/// Largest count of an entry's uses.
pub(super) const MAX_USES: u8 = 3;

/// One cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Bits of the hashes that do not choose the bucket.
    tags: [u8; WAYS],
    /// Two bits a way: how often it was asked for, up to [`MAX_USES`].
    uses: u32,
    /// Places in the log plus 1, so that 0 is a free way.
    offsets: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

// SAFETY: integers without padding between them (the sizes above add up to 64).
unsafe impl Plain for Bucket {}

impl Bucket {
    const EMPTY: &Self = &Self {
        tags: [0; WAYS],
        uses: 0,
        offsets: [0; WAYS],
    };

    /// The ways that have `tag`, a bit each.
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.tags;
        let low = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let high = u64::from_le_bytes([i, j, k, l, 0, 0, 0, 0]);
        let all = (1 << WAYS) - 1;
        equal_octets(low, high, tag) & all
    }

    #[inline(always)]
    fn uses(&self, way: usize) -> u8 {
        (self.uses >> (2 * way)) as u8 & MAX_USES
    }

    fn set_uses(&mut self, way: usize, uses: u8) {
        let shift = 2 * way;
        self.uses = self.uses & !(u32::from(MAX_USES) << shift) | u32::from(uses) << shift;
    }
}

/// Which of sixteen octets are `octet`, a bit each.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
fn equal_octets(low: u64, high: u64, octet: u8) -> u32 {
    use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};

    #[inline]
    #[target_feature(enable = "sse2")]
    fn compare(low: u64, high: u64, octet: u8) -> u32 {
        let octets = _mm_set_epi64x(high as i64, low as i64);
        _mm_movemask_epi8(_mm_cmpeq_epi8(octets, _mm_set1_epi8(octet as i8))) as u32
    }
    // SAFETY: this is compiled only for targets on which all processors have SSE2.
    unsafe { compare(low, high, octet) }
}

/// Which of sixteen octets are `octet`, a bit each.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
#[inline(always)]
fn equal_octets(low: u64, high: u64, octet: u8) -> u32 {
    let octets = [low.to_le_bytes(), high.to_le_bytes()];
    let bits = octets.as_flattened().iter().enumerate();
    bits.fold(0, |found, (at, other)| {
        found | u32::from(*other == octet) << at
    })
}

/// One way of one bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    bucket: usize,
    way: usize,
}

impl Slot {
    /// A number for it. An index of the largest cache has 2^27 buckets.
    #[inline(always)]
    pub(super) fn pack(self) -> u32 {
        (self.bucket << 4 | self.way) as u32
    }

    #[inline(always)]
    pub(super) fn unpack(number: u32) -> Self {
        Self {
            bucket: (number >> 4) as usize,
            way: number as usize % 16,
        }
    }
}

/// The ways of a bucket that may hold an entry, one after another.
pub(super) struct Candidates<'a> {
    bucket: &'a Bucket,
    place: usize,
    ways: u32,
}

impl Iterator for Candidates<'_> {
    type Item = (Slot, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        while self.ways != 0 {
            let way = self.ways.trailing_zeros() as usize;
            self.ways &= self.ways - 1;
            if let Some(offset) = self.bucket.offsets.get(way)?.checked_sub(1) {
                let bucket = self.place;
                return Some((Slot { bucket, way }, offset));
            }
        }
        None
    }
}

/// A way that points to an entry.
#[derive(Debug)]
pub(super) struct Way<'a> {
    bucket: &'a mut Bucket,
    way: usize,
}

impl Way<'_> {
    /// Notes that the entry was asked for; tells how often it had been before. Writes only until
    /// the count is at its largest.
    #[inline(always)]
    pub(super) fn touch(self) -> u8 {
        let uses = self.bucket.uses(self.way);
        if uses < MAX_USES {
            self.bucket.uses += 1 << (2 * self.way);
        }
        uses
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

    pub(super) fn populate(&self) {
        self.buckets.populate();
    }

    /// The hash's upper half, scaled to the number of buckets.
    #[inline(always)]
    fn place(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn tag(hash: u64) -> u8 {
        hash as u8
    }

    /// Asks the processor for the line that holds `hash`.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.place(hash)) {
            super::prefetch::read(bucket);
        }
    }

    /// The entries that may be the one for `hash`.
    #[inline(always)]
    pub(super) fn candidates(&self, hash: u64) -> Candidates<'_> {
        let place = self.place(hash);
        let bucket = self.buckets.get(place).unwrap_or(Bucket::EMPTY);
        Candidates {
            bucket,
            place,
            ways: bucket.matches(Self::tag(hash)),
        }
    }

    /// A way in use, and where it points to.
    #[inline(always)]
    pub(super) fn way(&mut self, slot: Slot) -> Option<(Way<'_>, u32)> {
        let bucket = self.buckets.get_mut(slot.bucket)?;
        let offset = bucket.offsets.get(slot.way)?.checked_sub(1)?;
        let way = slot.way;
        Some((Way { bucket, way }, offset))
    }

    /// The way that points to `offset`, if one still does.
    pub(super) fn find_offset(&self, hash: u64, offset: u32) -> Option<Slot> {
        self.candidates(hash)
            .find(|(_, candidate)| *candidate == offset)
            .map(|(slot, _)| slot)
    }

    /// Notes that the entry was asked for.
    pub(super) fn touch(&mut self, slot: Slot) {
        if let Some((way, _)) = self.way(slot) {
            way.touch();
        }
    }

    /// How often the entry was asked for.
    pub(super) fn uses(&self, slot: Slot) -> u8 {
        self.buckets
            .get(slot.bucket)
            .map_or(0, |bucket| bucket.uses(slot.way))
    }

    /// Sets how often the entry counts as asked for, [`MAX_USES`] at most.
    pub(super) fn set_uses(&mut self, slot: Slot, uses: u8) {
        if let Some(bucket) = self.buckets.get_mut(slot.bucket) {
            bucket.set_uses(slot.way, uses.min(MAX_USES));
        }
    }

    /// Points a way to another place in the log.
    pub(super) fn set(&mut self, slot: Slot, offset: u32) {
        self.write(slot, offset + 1);
    }

    /// Frees a way.
    pub(super) fn clear(&mut self, slot: Slot) {
        self.set_uses(slot, 0);
        self.write(slot, 0);
    }

    fn write(&mut self, slot: Slot, stored: u32) {
        if let Some(way) = self
            .buckets
            .get_mut(slot.bucket)
            .and_then(|bucket| bucket.offsets.get_mut(slot.way))
        {
            *way = stored;
        }
    }

    /// Puts an entry into a free way. In a full bucket it takes the place of the one with the least
    /// `worth`, given its offset and how often it was asked for; the answer tells whether it had
    /// to.
    pub(super) fn insert<W: Ord>(
        &mut self,
        hash: u64,
        offset: u32,
        worth: impl Fn(u32, u8) -> W,
    ) -> bool {
        let place = self.place(hash);
        let Some(bucket) = self.buckets.get_mut(place) else {
            return false;
        };
        let free = bucket.offsets.iter().position(|stored| *stored == 0);
        let worths = bucket.offsets.iter().enumerate();
        let worths = worths.map(|(way, stored)| (worth(*stored - 1, bucket.uses(way)), way));
        let way = free.or_else(|| worths.min().map(|(_, way)| way));
        let way = way.unwrap_or_default();
        bucket.set_uses(way, 0);
        if let (Some(stored), Some(tag)) = (bucket.offsets.get_mut(way), bucket.tags.get_mut(way)) {
            *stored = offset + 1;
            *tag = Self::tag(hash);
        }
        free.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_is_compared() {
        for at in 0..16 {
            for octet in [0u8, 1, 0x7f, 0x80, 0xff] {
                let mut octets = [octet ^ 0x55; 16];
                if let Some(place) = octets.get_mut(at) {
                    *place = octet;
                }
                let number = u128::from_le_bytes(octets);
                let (low, high) = (number as u64, (number >> 64) as u64);
                assert_eq!(equal_octets(low, high, octet), 1 << at);
            }
        }
        let bucket = Bucket {
            tags: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3],
            ..*Bucket::EMPTY
        };
        assert_eq!(bucket.matches(3), 1 << 3 | 1 << 11);
        assert_eq!(bucket.matches(12), 0);
    }
}
