//! Domain names: bounds, case folding, hashing and comparison (RFC 1035 section 3.1, RFC 4343).
//!
//! A name in a question is a run of labels that ends with the root's zero octet. Its length
//! octets are at most 63 and so never look like letters: the whole wire form can be folded as
//! one string of octets, eight at a time.

use core::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

/// Longest name on the wire, length octets and root included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;

/// Longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: u8 = 63;

/// Finds where the uncompressed name at `start` ends: the offset after its root label.
///
/// `None` if it runs past the message or 255 octets, or holds a compression pointer or a label of
/// another type (RFC 1035 section 4.1.4, RFC 6891 section 5).
#[inline]
pub fn end_of_question_name(msg: &[u8], start: usize) -> Option<usize> {
    end_of_name(msg, start, false)
}

/// Finds where the possibly compressed name at `start` ends in the message.
///
/// A pointer ends the name; it must point backwards (RFC 1035 section 4.1.4, "a prior
/// occurrence"), and is not followed. `None` as for [`end_of_question_name`].
pub fn end_of_record_name(msg: &[u8], start: usize) -> Option<usize> {
    end_of_name(msg, start, true)
}

/// Whether the name at `start` is a name, with all that its compression pointers lead to, and has
/// no octets in a TTL field, which changes as time passes. `is_ttl` tells of a place whether it is.
pub(super) fn is_whole(msg: &[u8], start: usize, is_ttl: impl Fn(usize) -> bool) -> bool {
    let mut stays = true;
    let whole = walk(msg, start, |at, label| {
        stays &= !(at..at + label.len()).any(&is_ttl);
    });
    whole.is_some() && stays
}

/// Gives `take` every label of the name at `start`, its length before it, the root's included, with
/// its place in the message. `None` if the name does not come to an end.
///
/// Each pointer leads before the part of the name that it ends, and behind the header, which holds
/// no names and changes on the way through (RFC 1035 section 4.1.4); so the walk comes to an end.
pub(super) fn walk(msg: &[u8], start: usize, mut take: impl FnMut(usize, &[u8])) -> Option<()> {
    let (mut at, mut part, mut octets) = (start, start, 0);
    loop {
        let len = *msg.get(at)?;
        if len > MAX_LABEL {
            let pointer = super::u16_at(msg, at)?;
            let target = usize::from(pointer & 0x3fff);
            if pointer < 0xc000 || target >= part || target < super::header::LEN {
                return None;
            }
            (at, part) = (target, target);
            continue;
        }
        let label = msg.get(at..=at + usize::from(len))?;
        octets += label.len();
        if octets > MAX_NAME {
            return None;
        }
        take(at, label);
        if len == 0 {
            return Some(());
        }
        at += label.len();
    }
}

#[inline(always)]
fn end_of_name(msg: &[u8], start: usize, may_be_compressed: bool) -> Option<usize> {
    let mut at = start;
    loop {
        let len = *msg.get(at)?;
        if len > MAX_LABEL {
            let pointer = super::u16_at(msg, at)?;
            let backwards = pointer >= 0xc000 && usize::from(pointer & 0x3fff) < at;
            return (may_be_compressed && backwards).then_some(at + 2);
        }
        at += 1 + usize::from(len);
        if at - start > MAX_NAME {
            return None;
        }
        if len == 0 {
            return Some(at);
        }
    }
}

/// Folds the ASCII capitals among eight octets to small letters, leaving all others (RFC 4343).
#[inline]
const fn fold8(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let low7 = word & !HIGH;
    // Adding makes the top bit of an octet say ≥ 'A', and > 'Z'; seven bits cannot carry over.
    let at_least_a = low7 + (0x80 - b'A' as u64) * ONES;
    let beyond_z = low7 + (0x80 - b'Z' as u64 - 1) * ONES;
    let capital = at_least_a & !beyond_z & !word & HIGH;
    word | (capital >> 2)
}

/// The octets of `bytes` as words of eight, the last one filled up with zeros.
#[inline]
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let tail = (!rest.is_empty()).then(|| {
        rest.iter()
            .rev()
            .fold(0, |word, octet| word << 8 | u64::from(*octet))
    });
    whole
        .iter()
        .map(|chunk| u64::from_le_bytes(*chunk))
        .chain(tail)
}

/// Whether two names are the same but for ASCII case.
#[inline]
pub fn eq_ignore_case(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && words(a).zip(words(b)).all(|(a, b)| fold8(a) == fold8(b))
}

/// Hashes questions. Seeded at random once a process: an attacker chooses the names, and must not
/// be able to choose their places in a table.
#[derive(Clone, Debug, Default)]
pub struct NameHasher(RandomState);

impl NameHasher {
    /// Hash of a name (wire form, case ignored) and of `rest`, whatever else makes up the key.
    #[inline]
    pub fn hash(&self, name: &[u8], rest: u64) -> u64 {
        let mut hasher = self.0.build_hasher();
        for word in words(name) {
            hasher.write_u64(fold8(word));
        }
        hasher.write_u64(rest);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folds_exactly_the_ascii_capitals() {
        for octet in 0..=255u8 {
            for lane in 0..8 {
                let mut word = [0xffu8; 8];
                word[lane] = octet;
                let mut expected = [0xffu8; 8];
                expected[lane] = octet.to_ascii_lowercase();
                assert_eq!(
                    fold8(u64::from_le_bytes(word)),
                    u64::from_le_bytes(expected)
                );
            }
        }
    }

    #[test]
    fn bounds_of_names() {
        assert_eq!(end_of_question_name(b"\0", 0), Some(1));
        assert_eq!(end_of_question_name(b"\x01a\0", 0), Some(3));
        assert_eq!(end_of_question_name(b"\x01a", 0), None);
        assert_eq!(end_of_question_name(b"", 0), None);
        assert_eq!(end_of_question_name(b"\xc0\x0c", 0), None);
        assert_eq!(end_of_question_name(b"\x40a\0", 0), None);
        let longest = [
            [&[62u8][..], &[b'x'; 62]].concat().repeat(4),
            vec![1, b'y', 0],
        ]
        .concat();
        assert_eq!(longest.len(), 255);
        assert_eq!(end_of_question_name(&longest, 0), Some(255));
        let longer = [
            [&[62u8][..], &[b'x'; 62]].concat().repeat(4),
            vec![2, b'y', b'y', 0],
        ]
        .concat();
        assert_eq!(end_of_question_name(&longer, 0), None);
        assert_eq!(end_of_record_name(b"\x01a\xc0\x00", 0), Some(4));
        assert_eq!(end_of_record_name(b"\xc0\x00", 0), None, "points at itself");
        assert_eq!(end_of_record_name(b"\xc0\x09", 0), None, "points forward");
    }

    proptest! {
        #[test]
        fn equality_and_hash_agree_with_plain_code(a: Vec<u8>, flip: u64, rest: u64) {
            let hasher = NameHasher::default();
            let b: Vec<u8> = a.iter().enumerate().map(|(i, octet)| {
                if flip >> (i % 64) & 1 == 1 { octet.to_ascii_uppercase() } else { octet.to_ascii_lowercase() }
            }).collect();
            prop_assert!(eq_ignore_case(&a, &b));
            prop_assert_eq!(hasher.hash(&a, rest), hasher.hash(&b, rest));
        }

        #[test]
        fn differing_names_differ(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(eq_ignore_case(&a, &b), a.eq_ignore_ascii_case(&b));
        }
    }
}
