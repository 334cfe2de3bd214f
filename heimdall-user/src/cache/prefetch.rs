//! The one instruction that safe Rust cannot name.

/// Starts to bring the cache line of `value` near. A hint: no effect that a program could see.
#[inline]
pub(super) fn read<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching is a hint that never faults, and the address is a valid reference's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Starts to bring the first two cache lines of `octets` near.
#[inline]
pub(super) fn two_lines(octets: &[u8; 128]) {
    let (first, second) = octets.split_at(64);
    for line in [first, second] {
        if let Some(octet) = line.first() {
            read(octet);
        }
    }
}
