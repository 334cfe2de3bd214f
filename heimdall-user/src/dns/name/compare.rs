//! Names and questions compared and hashed, ASCII case ignored (RFC 4343).
//!
//! Length octets are at most 63 and so are never mistaken for letters: the whole wire form can be folded
//! as one string of octets, 32 at a time.

use core::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use super::fold::Block;
use crate::dns::QUESTION_FIXED;

/// A name or a question of 16 to 32 octets, as most are: its first 16 octets and its last 16, which may
/// overlap. Names of different lengths can give the same block.
///
/// No branch depends on the length: a mispredicted one takes longer than all the work on the octets.
#[inline(always)]
fn ends(octets: &[u8]) -> Option<Block> {
    match (octets.first_chunk(), octets.last_chunk()) {
        (Some(first), Some(last)) if octets.len() <= 32 => Some(Block::new(first, last)),
        _ => None,
    }
}

/// The octets of a name or a question as blocks of 32, the last of which may overlap the one before.
/// Fewer than 32 are one block: [`ends`], or for fewer than 16 one that is padded with zeros.
fn blocks(octets: &[u8]) -> (&[[u8; 32]], Block) {
    let all_but_one = octets.split_last().map_or(octets, |(_, rest)| rest);
    let (before, _) = all_but_one.as_chunks::<32>();
    let last = match octets.last_chunk() {
        Some(last) => block(last),
        None => ends(octets).unwrap_or_else(|| short_block(octets)),
    };
    (before, last)
}

#[inline(always)]
fn block(octets: &[u8; 32]) -> Block {
    match octets.as_chunks() {
        ([low, high], _) => Block::new(low, high),
        _ => Block::new(&[0; 16], &[0; 16]),
    }
}

/// Fewer than 16 octets.
fn short_block(octets: &[u8]) -> Block {
    let [first, second] = match (octets.first_chunk(), octets.last_chunk()) {
        (Some(first), Some(last)) => [*first, *last].map(u64::from_le_bytes),
        _ => [short_word(octets), 0],
    };
    Block::new(&pair(first, second).to_le_bytes(), &[0; 16])
}

/// Fewer than eight octets.
#[inline(always)]
fn short_word(octets: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        u64::from(u32::from_le_bytes(*last)) << 32 | u64::from(u32::from_le_bytes(*first))
    } else if let (Some(first), Some(last)) = (octets.first(), octets.last()) {
        let middle = octets.get(octets.len() / 2).unwrap_or(last);
        u64::from(*last) << 16 | u64::from(*middle) << 8 | u64::from(*first)
    } else {
        0
    }
}

/// Two words as one, the first in the lower half.
#[inline(always)]
fn pair(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// Whether two names are the same except for ASCII case.
pub fn eq_ignore_case(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let ((a_before, a_last), (b_before, b_last)) = (blocks(a), blocks(b));
    let mut before = a_before.iter().zip(b_before);
    a_last.same(b_last) && before.all(|(a, b)| block(a).same(block(b)))
}

/// Whether two questions are the same, case and all.
#[inline(always)]
pub(crate) fn eq_exactly(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (ends(a), ends(b)) {
        (Some(a), Some(b)) => a.equals(b),
        _ => a == b,
    }
}

/// Hashes names and questions. The seed is random: clients choose the names, and must not be able to choose ones
/// that collide. Clones have the same seed: those that hash questions are clones of one, and each
/// [`ResponseReader`](crate::dns::ResponseReader) has a seed of its own.
#[derive(Clone, Debug, Default)]
pub struct NameHasher(RandomState);

impl NameHasher {
    /// Hash of a name (wire form, case ignored) and of `rest`.
    ///
    /// The halves of the blocks go to two hashers, so that the processor works on both at once. The
    /// last step combines them asymmetrically, so that swapped halves give another hash.
    #[inline(always)]
    pub fn hash(&self, octets: &[u8], rest: u64) -> u64 {
        match ends(octets) {
            Some(ends) => self.hash_blocks(&[], ends, octets.len(), rest),
            None => self.hash_slow(octets, rest),
        }
    }

    /// Hash of the name of a question (wire form, case ignored), the same for all types and classes. A
    /// key's hash is made of it by [`with_rest`](Self::with_rest).
    #[inline(always)]
    pub(in crate::dns) fn hash_name(&self, question: &[u8]) -> u64 {
        match ends(question) {
            Some(ends) => {
                let [a, b, c, d] = ends.fold();
                // Type and class are the last four octets. The second word has some of them in names of
                // fewer than 16 octets, which the other words hold whole.
                let b = if question.len() < 16 + QUESTION_FIXED {
                    0
                } else {
                    b
                };
                self.hash_words([a, b, c, d & 0xffff_ffff], question.len())
            }
            None => self.hash_name_slow(question),
        }
    }

    #[inline(never)]
    fn hash_name_slow(&self, question: &[u8]) -> u64 {
        let name = question.len().saturating_sub(QUESTION_FIXED);
        self.hash_slow(question.get(..name).unwrap_or_default(), 0)
    }

    #[inline(always)]
    fn hash_words(&self, [a, b, c, d]: [u64; 4], len: usize) -> u64 {
        let mut low = self.0.build_hasher();
        let mut high = low.clone();
        low.write_u128(pair(a, b));
        high.write_u128(pair(c, d));
        low.write_u128(pair(0, high.finish() ^ len as u64));
        low.finish()
    }

    /// The hash of a key: `name` is its name's, `rest` the other parts. They are hashed apart and combined
    /// by exclusive or (tabulation hashing), so the same operation gives the name's hash back.
    #[inline(always)]
    pub(in crate::dns) fn with_rest(&self, name: u64, rest: u64) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write_u128(rest.into());
        name ^ hasher.finish()
    }

    #[inline(never)]
    fn hash_slow(&self, octets: &[u8], rest: u64) -> u64 {
        let (before, last) = blocks(octets);
        self.hash_blocks(before, last, octets.len(), rest)
    }

    #[inline(always)]
    fn hash_blocks(&self, before: &[[u8; 32]], last: Block, len: usize, rest: u64) -> u64 {
        let mut low = self.0.build_hasher();
        let mut high = low.clone();
        let mut take = |block: Block| {
            let [a, b, c, d] = block.fold();
            low.write_u128(pair(a, b));
            high.write_u128(pair(c, d));
        };
        before.iter().map(block).for_each(&mut take);
        take(last);
        low.write_u128(pair(rest, high.finish() ^ len as u64));
        low.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    /// A name of any length at any alignment, and the octets in front of it.
    fn name() -> impl Strategy<Value = (Vec<u8>, usize)> {
        (0..=300usize, 0..16usize).prop_flat_map(|(len, start)| {
            let octet = prop_oneof![any::<u8>(), prop::sample::select(&b"azAZ@[`{"[..])];
            (prop::collection::vec(octet, start + len), Just(start))
        })
    }

    #[test]
    fn every_octet_changes_the_hash() {
        let hasher = NameHasher::default();
        for len in 0..=300 {
            let name: Vec<u8> = (0..len).map(|i| i as u8 | 0x80).collect();
            let hash = hasher.hash(&name, 1);
            assert!(eq_ignore_case(&name, &name));
            assert_ne!(hash, hasher.hash(&name, 2), "rest, length {len}");
            for i in 0..len {
                let mut other = name.clone();
                other[i] ^= 0x20;
                assert!(!eq_ignore_case(&name, &other), "octet {i} of {len}");
                assert_ne!(hash, hasher.hash(&other, 1), "octet {i} of {len}");
            }
        }
    }

    #[test]
    fn a_questions_name_is_hashed_alone() {
        let hasher = NameHasher::default();
        let mut seen = std::collections::HashSet::new();
        for len in 1..=255 {
            let mut question: Vec<u8> = (0..len).map(|i| i as u8 | 0x80).collect();
            question.extend([0, 1, 0, 1]);
            let hash = hasher.hash_name(&question);
            assert!(seen.insert(hash), "length {len}");
            for i in 0..len {
                question[i] ^= 1;
                assert_ne!(hash, hasher.hash_name(&question), "octet {i} of {len}");
                question[i] ^= 1;
            }
            for i in len..question.len() {
                question[i] ^= 0xff;
                assert_eq!(hash, hasher.hash_name(&question), "octet {i} of {len}");
            }
            let key = hasher.with_rest(hash, 1 << 24 | 1 << 8);
            assert_ne!(key, hash);
            assert_ne!(key, hasher.with_rest(hash, 1 << 24 | 1 << 8 | 1), "flags");
            assert_ne!(key, hasher.with_rest(hash, 28 << 24 | 1 << 8), "type");
            assert_eq!(hasher.with_rest(key, 1 << 24 | 1 << 8), hash);
        }
    }

    #[test]
    fn length_and_order_change_the_hash() {
        let hasher = NameHasher::default();
        let mut seen = std::collections::HashSet::new();
        for octet in [0, 1, b'a', 0xff] {
            for len in 1..=300 {
                assert!(
                    seen.insert(hasher.hash(&vec![octet; len], 1)),
                    "{len} times {octet}"
                );
            }
        }
        for at in [1, 4, 8, 16, 32] {
            let (a, b) = (vec![b'a'; at], vec![b'b'; at]);
            let (ab, ba) = ([&a[..], &b].concat(), [&b[..], &a].concat());
            assert_ne!(hasher.hash(&ab, 1), hasher.hash(&ba, 1), "halves of {at}");
        }
    }

    proptest! {
        #[test]
        fn case_makes_no_difference((octets, start) in name(), flips: u64, rest: u64) {
            let hasher = NameHasher::default();
            let flip = |(i, octet): (usize, &u8)| match flips >> (i % 64) & 1 {
                0 => octet.to_ascii_lowercase(),
                _ => octet.to_ascii_uppercase(),
            };
            let (name, other) = (&octets[start..], octets[start..].iter().enumerate().map(flip));
            let other: Vec<u8> = other.collect();
            prop_assert!(eq_ignore_case(name, &other));
            prop_assert_eq!(hasher.hash(name, rest), hasher.hash(&other, rest));
        }

        #[test]
        fn equality_agrees_with_plain_code((octets, start) in name(), at: prop::sample::Index, octet: u8) {
            let name = &octets[start..];
            let mut other = name.to_vec();
            if !name.is_empty() {
                other[at.index(name.len())] = octet;
            }
            let expected = name.eq_ignore_ascii_case(&other);
            prop_assert_eq!(eq_ignore_case(name, &other), expected);
            prop_assert_eq!(eq_exactly(name, &other), name == other);
            let hasher = NameHasher::default();
            prop_assert_eq!(hasher.hash(name, 0) == hasher.hash(&other, 0), expected);
        }

        #[test]
        fn any_two_names_compare_as_in_plain_code(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(eq_ignore_case(&a, &b), a.eq_ignore_ascii_case(&b));
            prop_assert_eq!(eq_exactly(&a, &b), a == b);
        }
    }
}
