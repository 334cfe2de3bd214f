//! Case folding of 32 octets at a time (RFC 4343): exactly the ASCII letters, all others stay.
//!
//! With SSE2, which every x86-64 processor has, or with plain arithmetic; both give the same
//! results. AVX2 would have to be asked for first, and gains nothing on names of usual lengths.

/// 32 octets as little-endian words.
pub(super) type Block = [u64; 4];

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(super) use plain::{fold, same};
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
pub(super) use sse2::{fold, same};

/// Two words as one, the first in the lower half.
#[inline(always)]
pub(super) fn pair(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
mod plain {
    use super::{Block, pair};

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    const CASE: u64 = 0x20 * ONES;

    /// The case bit of every octet that lies in the 26 from `first` on, an ASCII letter.
    #[inline(always)]
    fn case_bits(word: u64, first: u8) -> u64 {
        let low7 = word & !HIGH;
        // Adding makes the top bit of an octet say whether it is at least so much; seven bits
        // cannot carry over.
        let at_least_first = low7 + u64::from(0x80 - first) * ONES;
        let beyond_last = low7 + u64::from(0x80 - first - 26) * ONES;
        (at_least_first & !beyond_last & !word & HIGH) >> 2
    }

    /// The octets with the capitals among them made small, as two halves.
    #[inline(always)]
    pub(in super::super) fn fold(block: Block) -> [u128; 2] {
        let [a, b, c, d] = block.map(|word| word | case_bits(word, b'A'));
        [pair(a, b), pair(c, d)]
    }

    /// Whether the octets are the same but for case.
    #[inline(always)]
    pub(in super::super) fn same(a: Block, b: Block) -> bool {
        a.iter()
            .zip(b)
            .all(|(a, b)| (a ^ b) & !case_bits(a | CASE, b'a') == 0)
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod sse2 {
    use core::arch::x86_64::{
        __m128i, _mm_add_epi8, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8,
        _mm_cvtsi128_si64, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
        _mm_setzero_si128, _mm_unpackhi_epi64, _mm_xor_si128,
    };

    use super::{Block, pair};

    /// The octets with the capitals among them made small, as two halves.
    #[inline(always)]
    pub(in super::super) fn fold(block: Block) -> [u128; 2] {
        // SAFETY: this module is compiled only for targets on which all processors have SSE2.
        unsafe { fold_halves(block) }
    }

    /// Whether the octets are the same but for case.
    #[inline(always)]
    pub(in super::super) fn same(a: Block, b: Block) -> bool {
        // SAFETY: this module is compiled only for targets on which all processors have SSE2.
        unsafe { same_halves(a, b) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn fold_halves(block: Block) -> [u128; 2] {
        halves(block).map(|half| {
            let folded = _mm_or_si128(half, case_bits(half, b'A'));
            pair(
                _mm_cvtsi128_si64(folded) as u64,
                _mm_cvtsi128_si64(_mm_unpackhi_epi64(folded, folded)) as u64,
            )
        })
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn same_halves(a: Block, b: Block) -> bool {
        let [a_low, a_high] = halves(a);
        let [b_low, b_high] = halves(b);
        let differences = _mm_or_si128(difference(a_low, b_low), difference(a_high, b_high));
        let zero = _mm_cmpeq_epi8(differences, _mm_setzero_si128());
        _mm_movemask_epi8(zero) == 0xffff
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn halves([a, b, c, d]: Block) -> [__m128i; 2] {
        [
            _mm_set_epi64x(b as i64, a as i64),
            _mm_set_epi64x(d as i64, c as i64),
        ]
    }

    /// The bits in which two halves differ, but for the case of letters.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn difference(a: __m128i, b: __m128i) -> __m128i {
        let small = _mm_or_si128(a, _mm_set1_epi8(0x20));
        _mm_andnot_si128(case_bits(small, b'a'), _mm_xor_si128(a, b))
    }

    /// The case bit of every octet that lies in the 26 from `first` on, an ASCII letter.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn case_bits(half: __m128i, first: u8) -> __m128i {
        // The comparison is of signed octets: `first` becomes the least of them.
        let moved = _mm_add_epi8(half, _mm_set1_epi8((0x80 - first) as i8));
        let letters = _mm_cmplt_epi8(moved, _mm_set1_epi8(i8::MIN + 26));
        _mm_and_si128(letters, _mm_set1_epi8(0x20))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn block(octets: [u8; 32]) -> Block {
        [0, 8, 16, 24].map(|at| u64::from_le_bytes(core::array::from_fn(|i| octets[at + i])))
    }

    fn halves(octets: [u8; 32]) -> [u128; 2] {
        [0, 16].map(|at| u128::from_le_bytes(core::array::from_fn(|i| octets[at + i])))
    }

    #[test]
    fn folds_exactly_the_ascii_capitals_in_each_place() {
        for filler in [0, b'a' - 1, b'Z', 0xff] {
            for place in 0..32 {
                for octet in 0..=255 {
                    let mut octets = [filler; 32];
                    octets[place] = octet;
                    let expected = halves(octets.map(|octet| octet.to_ascii_lowercase()));
                    assert_eq!(fold(block(octets)), expected);
                    assert_eq!(plain::fold(block(octets)), expected);
                }
            }
        }
    }

    #[test]
    fn compares_all_pairs_of_octets() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let expected = a.eq_ignore_ascii_case(&b);
                assert_eq!(same(block([a; 32]), block([b; 32])), expected);
                assert_eq!(plain::same(block([a; 32]), block([b; 32])), expected);
            }
        }
    }

    #[test]
    fn compares_the_octets_in_each_place() {
        for place in 0..32 {
            for octet in 0..=255u8 {
                for bit in 0..8 {
                    let (mut a, mut b) = ([b'x'; 32], [b'X'; 32]);
                    (a[place], b[place]) = (octet, octet ^ 1 << bit);
                    let expected = a.eq_ignore_ascii_case(&b);
                    assert_eq!(same(block(a), block(b)), expected);
                    assert_eq!(plain::same(block(a), block(b)), expected);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn all_forms_agree(a: [u8; 32], b: [u8; 32]) {
            let expected = halves(a.map(|octet| octet.to_ascii_lowercase()));
            prop_assert_eq!(fold(block(a)), expected);
            prop_assert_eq!(plain::fold(block(a)), expected);
            prop_assert_eq!(same(block(a), block(b)), a.eq_ignore_ascii_case(&b));
            prop_assert_eq!(plain::same(block(a), block(b)), a.eq_ignore_ascii_case(&b));
        }
    }
}
