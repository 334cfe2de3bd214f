//! Questions, and their hash.

/// Longest name of a question in the tier, in wire form.
pub const MAX_NAME: usize = 64;

/// Words of eight octets of the longest name.
const WORDS: usize = MAX_NAME / 8;

/// A question, and the flags under which its answer is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Key {
    /// Type and class as on the wire, which are not folded: type 0x41 is not type 0x61.
    pub kind: u32,
    /// Octets of the name: 1 to [`MAX_NAME`].
    pub name_len: u8,
    /// Bit 0: DO, bit 1: CD.
    pub flags: u8,
    /// Padding, always 0.
    pub zero: u16,
    /// The name in wire form and lower case, padded with zeros; words as in memory.
    pub name: [u64; WORDS],
}

impl Key {
    /// DO in [`flags`](Self::flags).
    pub const DO: u8 = 1;
    /// CD in [`flags`](Self::flags).
    pub const CD: u8 = 2;

    /// The key that no question has.
    pub const EMPTY: Self = Self {
        kind: 0,
        name_len: 0,
        flags: 0,
        zero: 0,
        name: [0; WORDS],
    };

    /// The key of a question in wire form, in any letter case: name, type and class. `None`: the name is too
    /// long, or there is none.
    pub fn new(question: &[u8], flags: u8) -> Option<Self> {
        let (name, kind) = question.split_last_chunk::<4>()?;
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        let mut key = Self {
            kind: u32::from_ne_bytes(*kind),
            name_len: name.len() as u8,
            flags,
            ..Self::EMPTY
        };
        for (word, octets) in key.name.iter_mut().zip(name.chunks(8)) {
            let mut padded = [0; 8];
            for (to, from) in padded.iter_mut().zip(octets) {
                *to = from.to_ascii_lowercase();
            }
            *word = u64::from_ne_bytes(padded);
        }
        Some(key)
    }

    /// The key's hash, as the program computes it from a packet: [`Self::head`], the name's whole words,
    /// and one for the rest, which is zero if there is none.
    pub fn hash(&self, seed: u64) -> u64 {
        let whole = usize::from(self.name_len) / 8;
        let words = self.name.iter().take(whole);
        let head = mix(
            seed,
            Self::head(self.kind, self.name_len.into(), self.flags),
        );
        let hash = words.fold(head, |hash, word| mix(hash, unfolded(*word)));
        mix(hash, unfolded(self.name.get(whole).copied().unwrap_or(0)))
    }

    /// Everything but the name as one word.
    #[inline(always)]
    pub const fn head(kind: u32, name_len: u64, flags: u8) -> u64 {
        kind as u64 | name_len << 32 | (flags as u64) << 40
    }
}

/// One step of the hash.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    // Any odd number with its bits well spread: here that of the golden ratio.
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 32
}

/// A word of a name without what tells upper from lower case; other octets fall together as well. It costs
/// the hash less than [`fold_case`], and the keys are compared afterwards.
#[inline(always)]
pub const fn unfolded(word: u64) -> u64 {
    word | ONES << 5
}

/// A 1 in each octet.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The word with the letters A to Z in lower case; all eight octets at once.
#[inline(always)]
pub const fn fold_case(word: u64) -> u64 {
    let low = word & !(ONES << 7);
    // Bit 7 of each octet: it is at least A; it is beyond Z.
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let beyond_z = low + ONES * (0x7f - b'Z' as u64);
    let upper = (from_a ^ beyond_z) & !word & ONES << 7;
    // Bit 7 to bit 5, by which the cases differ.
    word | upper >> 2
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_folded_octet_by_octet() {
        for octet in 0..=u8::MAX {
            for others in [0, b'A', b'Z', b'[', 0x7f, 0x80, 0xff] {
                for at in 0..8 {
                    let mut octets = [others; 8];
                    *octets.get_mut(at).unwrap() = octet;
                    let folded = fold_case(u64::from_ne_bytes(octets)).to_ne_bytes();
                    assert_eq!(folded, octets.map(|octet| octet.to_ascii_lowercase()));
                }
            }
        }
    }

    #[test]
    fn the_case_of_letters_does_not_matter_to_the_hash() {
        let lower = Key::new(b"\x07example\x03com\0\0\x01\0\x01", Key::DO).unwrap();
        let mixed = b"\x07eXAMPLe\x03cOm\0\0\x01\0\x01";
        let mixed = Key::new(mixed, Key::DO).unwrap();
        assert_eq!(lower, mixed);
        let words = lower.name.map(unfolded);
        let upper = lower.name.map(|word| {
            unfolded(u64::from_ne_bytes(
                word.to_ne_bytes().map(|octet| octet.to_ascii_uppercase()),
            ))
        });
        assert_eq!(words, upper);
    }

    #[test]
    fn keys_that_differ_hash_apart() {
        let questions: [&[u8]; 6] = [
            b"\0\0\x02\0\x01",
            b"\x01a\0\0\x01\0\x01",
            b"\x01b\0\0\x01\0\x01",
            b"\x01a\0\0\x1c\0\x01",
            b"\x05abcde\0\0\x01\0\x01",
            b"\x06abcdef\0\0\x01\0\x01",
        ];
        let keys = questions.map(|question| Key::new(question, 0).unwrap());
        let flagged = questions.map(|question| Key::new(question, Key::CD).unwrap());
        let all = keys.iter().chain(&flagged);
        for (at, key) in all.clone().enumerate() {
            for other in all.clone().skip(at + 1) {
                let [one, two] = [key, other].map(|key| key.hash(7));
                assert_ne!(one as u32, two as u32, "{key:?} {other:?}");
                assert_ne!(one >> 32, two >> 32, "{key:?} {other:?}");
            }
            assert_ne!(key.hash(7), key.hash(8));
        }
    }

    #[test]
    fn only_names_that_fit_have_a_key() {
        assert_eq!(Key::new(b"\0\x01\0\x01", 0), None);
        let mut question = [b'a'; MAX_NAME + 5];
        assert_eq!(Key::new(&question, 0), None);
        question = [b'A'; MAX_NAME + 5];
        let key = Key::new(question.get(1..).unwrap(), 0).unwrap();
        assert_eq!(key.name, [u64::from_ne_bytes([b'a'; 8]); WORDS]);
        assert_eq!(usize::from(key.name_len), MAX_NAME);
    }
}
