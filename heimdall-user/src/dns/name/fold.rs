//! Case folding of 32 octets at a time (RFC 4343): of ASCII letters only.
//!
//! With SSE2, which every x86-64 processor has, or with plain arithmetic; both give the same
//! results. AVX2 would have to be detected first, and gains nothing on names of usual lengths.

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(super) use plain::Block;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
pub(super) use sse2::Block;

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
mod plain {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    const CASE: u64 = 0x20 * ONES;

    /// 32 octets, as little-endian words.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Block([u64; 4]);

    impl Block {
        #[inline(always)]
        pub(in super::super) fn new(low: &[u8; 16], high: &[u8; 16]) -> Self {
            let [low, high] = [low, high].map(|half| u128::from_le_bytes(*half));
            Self([
                low as u64,
                (low >> 64) as u64,
                high as u64,
                (high >> 64) as u64,
            ])
        }

        /// The octets in lower case, as four little-endian words.
        #[inline(always)]
        pub(in super::super) fn fold(self) -> [u64; 4] {
            self.0.map(|word| word | case_bits(word, b'A'))
        }

        /// Whether the octets are the same, case and all.
        #[inline(always)]
        pub(in super::super) fn equals(self, other: Self) -> bool {
            self.0 == other.0
        }

        /// Whether the octets are the same except for case.
        #[inline(always)]
        pub(in super::super) fn same(self, other: Self) -> bool {
            self.0
                .iter()
                .zip(other.0)
                .all(|(a, b)| (a ^ b) & !case_bits(a | CASE, b'a') == 0)
        }
    }

    /// The case bit of every octet in the 26 from `first` on, an ASCII letter.
    #[inline(always)]
    fn case_bits(word: u64, first: u8) -> u64 {
        let low7 = word & !HIGH;
        // The addition sets the top bit of each octet that is at least `first`; seven bits cannot
        // carry into the next octet.
        let at_least_first = low7 + u64::from(0x80 - first) * ONES;
        let beyond_last = low7 + u64::from(0x80 - first - 26) * ONES;
        (at_least_first & !beyond_last & !word & HIGH) >> 2
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod sse2 {
    use core::arch::x86_64::{
        __m128i, _mm_add_epi8, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8,
        _mm_cvtsi128_si64, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
        _mm_setzero_si128, _mm_unpackhi_epi64, _mm_xor_si128,
    };

    /// 32 octets, as two halves.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Block([__m128i; 2]);

    impl Block {
        #[inline(always)]
        pub(in super::super) fn new(low: &[u8; 16], high: &[u8; 16]) -> Self {
            // SAFETY: all processors of this target have SSE2; a reference's 16 octets can be read,
            // and the load needs no alignment.
            Self([low, high].map(|half| unsafe { _mm_loadu_si128(half.as_ptr().cast()) }))
        }

        /// The octets in lower case, as four little-endian words.
        #[inline(always)]
        pub(in super::super) fn fold(self) -> [u64; 4] {
            // SAFETY: this module is compiled only for targets on which all processors have SSE2.
            unsafe { fold_halves(self.0) }
        }

        /// Whether the octets are the same, case and all.
        #[inline(always)]
        pub(in super::super) fn equals(self, other: Self) -> bool {
            // SAFETY: this module is compiled only for targets on which all processors have SSE2.
            unsafe { equal_halves(self.0, other.0) }
        }

        /// Whether the octets are the same except for case.
        #[inline(always)]
        pub(in super::super) fn same(self, other: Self) -> bool {
            // SAFETY: this module is compiled only for targets on which all processors have SSE2.
            unsafe { same_halves(self.0, other.0) }
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn fold_halves([low, high]: [__m128i; 2]) -> [u64; 4] {
        let low = _mm_or_si128(low, case_bits(low, b'A'));
        let high = _mm_or_si128(high, case_bits(high, b'A'));
        [
            low,
            _mm_unpackhi_epi64(low, low),
            high,
            _mm_unpackhi_epi64(high, high),
        ]
        .map(|word| _mm_cvtsi128_si64(word) as u64)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal_halves([a_low, a_high]: [__m128i; 2], [b_low, b_high]: [__m128i; 2]) -> bool {
        let low = _mm_cmpeq_epi8(a_low, b_low);
        _mm_movemask_epi8(_mm_and_si128(low, _mm_cmpeq_epi8(a_high, b_high))) == 0xffff
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn same_halves([a_low, a_high]: [__m128i; 2], [b_low, b_high]: [__m128i; 2]) -> bool {
        let differences = _mm_or_si128(difference(a_low, b_low), difference(a_high, b_high));
        let zero = _mm_cmpeq_epi8(differences, _mm_setzero_si128());
        _mm_movemask_epi8(zero) == 0xffff
    }

    /// The bits in which two halves differ, except for the case of letters.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn difference(a: __m128i, b: __m128i) -> __m128i {
        let lower = _mm_or_si128(a, _mm_set1_epi8(0x20));
        _mm_andnot_si128(case_bits(lower, b'a'), _mm_xor_si128(a, b))
    }

    /// The case bit of every octet in the 26 from `first` on, an ASCII letter.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn case_bits(half: __m128i, first: u8) -> __m128i {
        // The comparison is signed: moved so that `first` becomes the least value.
        let moved = _mm_add_epi8(half, _mm_set1_epi8((0x80 - first) as i8));
        let letters = _mm_cmplt_epi8(moved, _mm_set1_epi8(i8::MIN + 26));
        _mm_and_si128(letters, _mm_set1_epi8(0x20))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn halves(octets: &[u8; 32]) -> [&[u8; 16]; 2] {
        [octets.first_chunk().unwrap(), octets.last_chunk().unwrap()]
    }

    fn block(octets: [u8; 32]) -> Block {
        let [low, high] = halves(&octets);
        Block::new(low, high)
    }

    fn plain(octets: [u8; 32]) -> plain::Block {
        let [low, high] = halves(&octets);
        plain::Block::new(low, high)
    }

    fn words(octets: [u8; 32]) -> [u64; 4] {
        [0, 8, 16, 24].map(|at| u64::from_le_bytes(core::array::from_fn(|i| octets[at + i])))
    }

    #[test]
    fn folds_exactly_the_ascii_letters_at_each_position() {
        for filler in [0, b'a' - 1, b'Z', 0xff] {
            for place in 0..32 {
                for octet in 0..=255 {
                    let mut octets = [filler; 32];
                    octets[place] = octet;
                    let expected = words(octets.map(|octet| octet.to_ascii_lowercase()));
                    assert_eq!(block(octets).fold(), expected);
                    assert_eq!(plain(octets).fold(), expected);
                }
            }
        }
    }

    #[test]
    fn compares_all_pairs_of_octets() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let expected = a.eq_ignore_ascii_case(&b);
                assert_eq!(block([a; 32]).same(block([b; 32])), expected);
                assert_eq!(plain([a; 32]).same(plain([b; 32])), expected);
            }
        }
    }

    #[test]
    fn compares_the_octets_at_each_position() {
        for place in 0..32 {
            for octet in 0..=255u8 {
                for bit in 0..8 {
                    let (mut a, mut b) = ([b'x'; 32], [b'X'; 32]);
                    (a[place], b[place]) = (octet, octet ^ 1 << bit);
                    let expected = a.eq_ignore_ascii_case(&b);
                    assert_eq!(block(a).same(block(b)), expected);
                    assert_eq!(plain(a).same(plain(b)), expected);
                    assert!(!block(a).equals(block(b)) && block(a).equals(block(a)));
                    assert!(!plain(a).equals(plain(b)) && plain(a).equals(plain(a)));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn all_forms_agree(a: [u8; 32], b: [u8; 32]) {
            let expected = words(a.map(|octet| octet.to_ascii_lowercase()));
            prop_assert_eq!(block(a).fold(), expected);
            prop_assert_eq!(plain(a).fold(), expected);
            prop_assert_eq!(block(a).same(block(b)), a.eq_ignore_ascii_case(&b));
            prop_assert_eq!(plain(a).same(plain(b)), a.eq_ignore_ascii_case(&b));
        }
    }
}
