//! Memory of a fixed size, reserved once: in huge pages where the host has some.

use std::{
    io,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    slice,
};

use memmap2::{Advice, MmapMut, MmapOptions};

/// Size of a huge page, the common one of x86-64 and aarch64.
const HUGE_PAGE: usize = 2 << 20;

/// Lengths from this on are rounded to whole huge pages: below, too much would be lost.
const WORTH_ROUNDING: usize = 4 * HUGE_PAGE;

/// What may stand in fresh memory.
///
/// # Safety
/// Every pattern of octets is a value of the type, and it needs no drop.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: an octet.
unsafe impl Plain for u8 {}

/// An array in a mapping of its own, of zeros at first.
#[derive(Debug)]
pub(super) struct Array<T> {
    map: MmapMut,
    /// It is in huge pages that were set aside.
    reserved: bool,
    len: usize,
    items: PhantomData<T>,
}

/// The largest length, in octets, up to `bytes` that makes good use of huge pages.
pub(super) fn whole_pages(bytes: usize) -> usize {
    if bytes < WORTH_ROUNDING {
        bytes
    } else {
        bytes / HUGE_PAGE * HUGE_PAGE
    }
}

impl<T: Plain> Array<T> {
    /// Reserves room for `len` items. The kernel may still have to find the pages, see
    /// [`populate`](Self::populate).
    ///
    /// # Errors
    /// The address space is not to be had.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let huge = Self::reserved_huge(bytes);
        let reserved = huge.is_some();
        Ok(Self {
            map: huge.map_or_else(|| Self::transparent(bytes), Ok)?,
            reserved,
            len,
            items: PhantomData,
        })
    }

    /// In pages that the operator has set aside (`vm.nr_hugepages`), if enough are left.
    fn reserved_huge(bytes: usize) -> Option<MmapMut> {
        let whole = bytes > 0 && bytes.is_multiple_of(HUGE_PAGE);
        let huge = || {
            MmapOptions::new()
                .len(bytes)
                .huge(Some(HUGE_PAGE.ilog2() as u8))
                .map_anon()
        };
        whole.then(huge)?.ok()
    }

    fn transparent(bytes: usize) -> io::Result<MmapMut> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        // A kernel without them gives plain pages.
        let _ = map.advise(Advice::HugePage);
        Ok(map)
    }

    /// Has the kernel find all pages now, so that no look-up waits for one later. Kernels before
    /// 5.14 find them as they are used.
    pub(super) fn populate(&self) {
        let _ = self.map.advise(Advice::PopulateWrite);
    }

    /// Whether it is in huge pages that were set aside.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }

    /// Octets of the array.
    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: Plain> Deref for Array<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is readable, page-aligned, as long as `len` items and lives as long
        // as `self`; any octets are a T (Plain).
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Array<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; it is writable, and borrowed alone through `&mut self`.
        unsafe { slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn arrays_hold_what_is_put_in_up_to_their_last_item() {
        for len in [1, 1000, HUGE_PAGE, 2 * HUGE_PAGE + 1] {
            let mut array = Array::<u8>::new(len).unwrap();
            assert_eq!((array.len(), array.bytes()), (len, len));
            assert!(array.iter().all(|octet| *octet == 0));
            array[0] = 1;
            array[len - 1] = 2;
            array.populate();
            let last = if len == 1 { 2 } else { 1 };
            assert_eq!((array[0], array[len - 1]), (last, 2));
        }
        assert!(Array::<u8>::new(usize::MAX / 2).is_err());
        assert!(Array::<u8>::new(0).unwrap().is_empty());
    }

    #[test]
    fn lengths_are_rounded_only_where_it_pays() {
        assert_eq!(whole_pages(1000), 1000);
        assert_eq!(whole_pages(WORTH_ROUNDING + 1), WORTH_ROUNDING);
    }
}
