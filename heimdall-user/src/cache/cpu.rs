//! Processor instructions that safe Rust does not offer: prefetching, and comparison of 16 octets.

/// Prefetches the cache line of `value`: a hint, without an effect that a program can see.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching never faults, and the address is a valid reference's.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Prefetches the first two cache lines of `octets`.
#[inline]
pub(super) fn prefetch_two_lines(octets: &[u8; 128]) {
    let (first, second) = octets.split_at(64);
    for line in [first, second] {
        if let Some(octet) = line.first() {
            prefetch(octet);
        }
    }
}

/// Which of sixteen octets are `octet`, a bit each.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
pub(super) fn equal_octets(low: u64, high: u64, octet: u8) -> u32 {
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
pub(super) fn equal_octets(low: u64, high: u64, octet: u8) -> u32 {
    let octets = [low.to_le_bytes(), high.to_le_bytes()];
    let bits = octets.as_flattened().iter().enumerate();
    bits.fold(0, |found, (at, other)| {
        found | u32::from(*other == octet) << at
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_is_compared() {
        for at in 0..16 {
            for octet in [0u8, 1, 0x7f, 0x80, 0xff] {
                let mut octets = [octet ^ 0x55; 16];
                if let Some(equal) = octets.get_mut(at) {
                    *equal = octet;
                }
                let number = u128::from_le_bytes(octets);
                let (low, high) = (number as u64, (number >> 64) as u64);
                assert_eq!(equal_octets(low, high, octet), 1 << at);
            }
        }
    }
}
