//! Heimdall's own cache as one of the policies.

use heimdall_user::{
    cache::{Cache, Key},
    dns::{Answer, TtlLimits},
};

use crate::policies::{Name, Policy};

/// A name of eight hexadecimal digits under example.com, type A, class IN.
const QUESTION: [u8; 26] = *b"\x0800000000\x07example\x03com\0\0\x01\0\x01";

/// The cache, and one answer for all names, whose names are all pointers to
/// the question.
pub(crate) struct Heimdall {
    cache: Cache,
    answer: Answer,
}

impl Heimdall {
    pub(crate) fn new(bytes: usize) -> Self {
        let message = [
            b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0",
            &QUESTION[..],
            b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\x01\x02\x03",
        ];
        Self {
            cache: Cache::new(bytes).unwrap(),
            answer: Answer::from_response(&message.concat(), &QUESTION, 0, &TtlLimits::default())
                .unwrap(),
        }
    }

    /// Entries that a cache of `bytes` octets holds.
    pub(crate) fn capacity(bytes: usize) -> usize {
        let mut filled = Self::new(bytes);
        // Requested several times, so that the queue for popular entries is filled, too.
        for name in 0..(bytes / 32) as Name {
            for _ in 0..4 {
                filled.access(name);
            }
        }
        assert!(filled.cache.evictions() > 0, "not full");
        filled.cache.entries() as usize
    }
}

/// The number's digits in its question, and a hash that does not depend on a seed.
fn question(name: Name) -> ([u8; QUESTION.len()], u64) {
    let mut question = QUESTION;
    for (i, digit) in question[1..9].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(name >> (4 * i)) as usize & 15];
    }
    let mut hash = u64::from(name).wrapping_add(1);
    for _ in 0..2 {
        hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    (question, hash ^ (hash >> 32))
}

impl Policy for Heimdall {
    fn access(&mut self, name: Name) -> bool {
        let (question, hash) = question(name);
        let key = Key {
            hash,
            question: &question,
            flags: 0,
        };
        let hit = self.cache.get(&key, 0).is_some();
        if !hit {
            self.cache.insert(&key, &self.answer, 0);
        }
        hit
    }
}
