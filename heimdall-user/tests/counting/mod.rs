//! An allocator that counts. Several test programs include this file, and each uses a part of it.
#![allow(dead_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

struct Counting;

static OF_ALL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
    static IS_LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_LEFT_OUT.get() {
            OWN.set(OWN.get() + 1);
            OF_ALL.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations so far of all threads but those that were left out.
pub(crate) fn of_all_threads() -> u64 {
    OF_ALL.load(Ordering::SeqCst)
}

/// Allocations of this thread for some work.
pub(crate) fn of_this_thread(work: impl FnOnce()) -> u64 {
    let before = OWN.get();
    work();
    OWN.get() - before
}

/// This thread's allocations are not counted from now on.
pub(crate) fn leave_this_thread_out() {
    IS_LEFT_OUT.set(true);
}
