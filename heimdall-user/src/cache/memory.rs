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

/// What [`Array::populate_step`] populates at once: while it does, every thread of this process that
/// maps memory waits. A smaller piece would still be a huge page.
const STEP: usize = HUGE_PAGE;

/// Types that fresh memory holds values of.
///
/// # Safety
/// Octets of zero are a value of the type, and its alignment is at most that of a page, 4096.
pub(super) unsafe trait Zeroed: Copy {}

// SAFETY: 0 is a u8, aligned to 1.
unsafe impl Zeroed for u8 {}

// SAFETY: zeros are an array of u16, aligned to 2.
unsafe impl Zeroed for [u16; 8] {}

/// An array in a mapping of its own, of zeros at first.
#[derive(Debug)]
pub(super) struct Array<T> {
    /// At least `len` items long.
    map: MmapMut,
    /// It is in huge pages that the operator has reserved.
    reserved: bool,
    /// Octets of the mapping that were populated.
    populated: usize,
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

impl<T: Zeroed> Array<T> {
    /// Reserves room for `len` items. Pages are allocated when they are first written to, or by
    /// [`populate_step`](Self::populate_step).
    ///
    /// # Errors
    /// The address space is exhausted or limited.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let huge = Self::reserved_huge(bytes);
        let reserved = huge.is_some();
        Ok(Self {
            map: huge.map_or_else(|| Self::transparent(bytes), Ok)?,
            reserved,
            populated: 0,
            len,
            items: PhantomData,
        })
    }

    /// In pages that the operator has reserved (`vm.nr_hugepages`), if enough are left.
    fn reserved_huge(bytes: usize) -> Option<MmapMut> {
        let whole = bytes > 0 && bytes.is_multiple_of(HUGE_PAGE);
        let huge = || {
            MmapOptions::new()
                .len(bytes)
                .huge(Some(HUGE_PAGE.ilog2() as u8))
                .map_anon()
        };
        // Miri's mmap has no huge pages.
        (whole && !cfg!(miri)).then(huge)?.ok()
    }

    fn transparent(bytes: usize) -> io::Result<MmapMut> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        // A hint: a kernel without them gives plain pages. Miri has no `madvise`.
        if !cfg!(miri) {
            let _ = map.advise(Advice::HugePage);
        }
        Ok(map)
    }

    /// Populates the next pages, 2 MiB at most, so that no look-up waits for one later; their contents
    /// stay. Returns whether there were any.
    ///
    /// # Errors
    /// Memory is short, or the kernel is older than 5.14: pages are then allocated as they are used.
    pub(super) fn populate_step(&mut self) -> io::Result<bool> {
        let start = self.populated;
        let len = STEP.min(self.map.len() - start);
        if len == 0 {
            return Ok(false);
        }
        self.populated += len;
        // Miri has no `madvise`.
        if !cfg!(miri) {
            self.map.advise_range(Advice::PopulateWrite, start, len)?;
        }
        Ok(true)
    }

    /// Whether it is in huge pages that the operator has reserved.
    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }

    /// Octets of the array.
    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: Zeroed> Deref for Array<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` has made the mapping as long as `len` items; it is page-aligned, and lives
        // as long as `self`. It holds zeros, which are a T (Zeroed), or what was written as a T.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl<T: Zeroed> DerefMut for Array<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the mapping is writable, and `&mut self` borrows it exclusively.
        unsafe { slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    #[test]
    fn arrays_hold_what_is_written_up_to_their_last_item() {
        let lengths: &[usize] = if cfg!(miri) {
            &[1, 300]
        } else {
            &[1, 1000, HUGE_PAGE, 2 * HUGE_PAGE + 1]
        };
        for &len in lengths {
            let mut array = Array::<[u16; 8]>::new(len).unwrap();
            assert_eq!((array.len(), array.bytes()), (len, 16 * len));
            assert!(array.as_flattened().iter().all(|number| *number == 0));
            array[0][0] = 1;
            array[len - 1][7] = 2;
            while array.populate_step().unwrap() {}
            assert_eq!((array[0][0], array[len - 1][7]), (1, 2));
        }
        assert!(Array::<[u16; 8]>::new(usize::MAX / 2).is_err());
        assert!(Array::<u8>::new(0).unwrap().is_empty());
    }

    /// Pages of an array that are in memory.
    fn resident(array: &Array<u8>) -> usize {
        let pages = File::open("/proc/self/pagemap").unwrap();
        let mut entries = vec![[0; 8]; array.len() / 4096];
        let first = array.as_ptr() as u64 / 4096 * 8;
        pages
            .read_exact_at(entries.as_flattened_mut(), first)
            .unwrap();
        let present = |entry: &&[u8; 8]| entry[7] & 0x80 != 0;
        entries.iter().filter(present).count()
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn populating_proceeds_in_steps_to_the_last_page() {
        let mut array = Array::<u8>::new(8 * STEP - 4096).unwrap();
        assert_eq!(resident(&array), 0);
        assert!(array.populate_step().unwrap());
        let step = resident(&array);
        // Two, if its huge pages are not aligned as the steps are.
        assert!((STEP / 4096..=2 * STEP / 4096).contains(&step), "{step}");
        let steps = (0..).take_while(|_| array.populate_step().unwrap()).count();
        assert_eq!((steps, resident(&array)), (7, array.len() / 4096));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri limits no address space")]
    fn memory_that_does_not_exist_is_an_error() {
        assert!(Array::<u8>::new(usize::MAX / 2).is_err());
    }

    #[test]
    fn lengths_are_rounded_only_where_it_pays() {
        assert_eq!(whole_pages(1000), 1000);
        assert_eq!(whole_pages(WORTH_ROUNDING + 1), WORTH_ROUNDING);
    }
}
