//! The hot tier: the layouts of the maps from which the program answers popular questions itself.
//!
//! Userspace writes, the program reads. [`Config`], [`Bucket`]s and [`Entry`]s are in maps that
//! userspace has mapped into its memory. A question's [`Key`] is hashed; the hash gives a bucket and a
//! tag, the bucket's [`Slot`] with that tag an entry. An entry is written while no slot leads to it, and
//! published by one store of a slot. It is not written again before each program that can
//! have read that slot has ended (RCU's grace period), so the program never sees half an entry.

mod key;
mod outcome;

pub use key::{Key, MAX_NAME, fold_case, mix, unfolded};
pub use outcome::Outcome;

/// Name of the array whose one value is the [`Config`].
pub const TIER_CONFIG_MAP: &str = "TIER_CONFIG";

/// Name of the array of [`Bucket`]s.
pub const TIER_BUCKETS_MAP: &str = "TIER_BUCKETS";

/// Name of the array of [`Entry`]s.
pub const TIER_ENTRIES_MAP: &str = "TIER_ENTRIES";

/// Name of the array of `u64` that counts the replies by entry: those of entry `e` on CPU `c` at `c` × (number
/// of entries) + `e`.
pub const TIER_HITS_MAP: &str = "TIER_HITS";

/// Name of the LPM trie of the clients: [`ClientKey`] → [`CLIENT_ANSWERED`] or [`CLIENT_PASSED`].
pub const TIER_CLIENTS_MAP: &str = "TIER_CLIENTS";

/// Name of the per-CPU array of `u64` counters: by [`Outcome`], and behind those by [`hit_counter`].
pub const TIER_COUNTERS_MAP: &str = "TIER_COUNTERS";

/// Name of the program's constant for the number of buckets, a power of two. 0: there is no tier, and the
/// verifier removes its code.
pub const TIER_BUCKETS_GLOBAL: &str = "TIER_BUCKET_COUNT";

/// Name of the program's constant for the number of entries.
pub const TIER_ENTRIES_GLOBAL: &str = "TIER_ENTRY_COUNT";

/// Most prefixes in [`TIER_CLIENTS_MAP`]. Memory is taken for those that are in it.
pub const MAX_CLIENT_PREFIXES: u32 = 131_072;

/// Values of [`TIER_CLIENTS_MAP`]. A client without a prefix is passed on, too.
pub const CLIENT_PASSED: u8 = 0;
/// See [`CLIENT_PASSED`].
pub const CLIENT_ANSWERED: u8 = 1;

/// Of so many hits one, at random, is passed on instead of being answered, so that the cache behind the tier sees
/// that its entry is popular. A power of two.
pub const SAMPLE_INTERVAL: u32 = 1024;

/// Types of questions that are counted apart, from 1 on; 0 is for the others.
pub const TYPES: usize = 15;

/// The number of counters in [`TIER_COUNTERS_MAP`].
pub const COUNTERS: usize = Outcome::COUNT + 2 * TYPES;

/// The counter of replies with NOERROR, or with NXDOMAIN, to questions of a type: an index in
/// [`TIER_COUNTERS_MAP`]. `kind` is below [`TYPES`].
pub const fn hit_counter(kind: usize, nxdomain: bool) -> u16 {
    (Outcome::COUNT + 2 * kind + nxdomain as usize) as u16
}

/// What the program needs to know beside the entries.
///
/// The program reads the fields one by one, while userspace may be writing: a change that must not be
/// seen in part is made while [`generation`](Self::generation) is [`OFF`](Self::OFF), and after a grace
/// period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Config {
    /// The generation of the entries that may be used; [`OFF`](Self::OFF): none.
    pub generation: u32,
    /// [`VERIFY_CHECKSUMS`](Self::VERIFY_CHECKSUMS) and the other constants.
    pub flags: u32,
    /// The seed of the keys' hash.
    pub seed: u64,
    /// See [`clock_zero`](Self::clock_zero).
    pub clock_zero: u64,
    /// Largest IP packet of a reply, in octets.
    pub mtu: u32,
    /// The server's UDP payload size: in OPT records, and the limit of replies.
    pub udp_size: u32,
    /// Padding, always 0.
    pub zero: [u64; 4],
}

impl Config {
    /// The generation that no entry has: nothing is answered.
    pub const OFF: u32 = 0;

    /// Packets are answered only if their checksums are right.
    pub const VERIFY_CHECKSUMS: u32 = 1;
    /// Queries without RD are passed on.
    pub const PASS_NON_RECURSIVE: u32 = 1 << 1;
    /// The answers' AD bit is passed on to clients that ask for it.
    pub const TRUST_AD: u32 = 1 << 2;

    /// The time, in nanoseconds of CLOCK_MONOTONIC modulo 2⁶⁴, at which the clock that entries' times are of
    /// was 0, if it was `seconds` at `monotonic`.
    pub const fn clock_zero(monotonic: u64, seconds: u32) -> u64 {
        monotonic.wrapping_sub(seconds as u64 * NANOSECONDS)
    }
}

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Slots of a bucket.
pub const SLOTS: usize = 8;

/// A cache line of slots: the entries of the questions whose hash leads here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Bucket(pub [Slot; SLOTS]);

/// Where an entry is: a tag, the lower half of its key's hash, in the upper half; in the lower half the entry's index
/// plus 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Slot(pub u64);

impl Slot {
    /// A slot that leads nowhere.
    pub const EMPTY: Self = Self(0);

    /// The slot of the entry at `index`, below `u32::MAX`, whose key has this hash.
    pub const fn new(hash: u64, index: u32) -> Self {
        Self(hash << 32 | (index as u64 + 1))
    }

    /// Whether an entry for a key with this hash may be here.
    #[inline(always)]
    pub const fn has_tag_of(self, hash: u64) -> bool {
        (self.0 >> 32) as u32 == hash as u32 && self.0 as u32 != 0
    }

    /// The entry's index. Of an empty slot, it is beyond all entries.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        (self.0 as u32).wrapping_sub(1)
    }
}

/// The bucket of a key with this hash, among `buckets`, a power of two: the hash's top bits, which depend on all
/// octets of the last word.
#[inline(always)]
pub const fn bucket_of(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * buckets as u64) >> 32) as u32
}

/// The index of the entry in which the answer to a key with this hash is, if that was free, of so many: the processor loads
/// it while it loads the bucket. Of the hash, the half that [`bucket_of`] does not use.
#[inline(always)]
pub const fn home_of(hash: u64, entries: u32) -> u32 {
    (((hash & 0xffff_ffff) * entries as u64) >> 32) as u32
}

/// Longest body of an entry.
pub const MAX_BODY: usize = 400;

/// Shortest body of an entry: the program copies words of eight octets. The shortest record has 11.
pub const MIN_BODY: usize = 8;

/// Most TTLs of an entry.
pub const MAX_TTLS: usize = 8;

/// An answer and its question.
///
/// Numbers are in the byte order of the host unless noted. What most replies need is in the first two cache lines: a
/// name of up to 64 octets, and the first record of most answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Entry {
    /// Used only while it is [`Config::generation`].
    pub generation: u32,
    /// The second of the clock from which on the entry is not used.
    pub until: u32,
    /// The second of the clock at which the answer was received: its TTLs are lower by the seconds since.
    pub received: u32,
    /// The counter of its replies: [`hit_counter`].
    pub counter: u16,
    /// Octets of the body: [`MIN_BODY`] to [`MAX_BODY`].
    pub body_len: u16,
    /// Offsets of the TTLs in the body, in ascending order.
    pub ttl_offsets: [u16; MAX_TTLS],
    /// How many `ttl_offsets` there are.
    pub ttl_count: u8,
    /// Records in the reply's answer, authority and additional section, its OPT record not counted. A body has no room
    /// for 256.
    pub counts: [u8; 3],
    /// The response code, below 16.
    pub rcode: u8,
    /// 1 if the upstream set AD, else 0.
    pub authentic: u8,
    /// The body's sum (RFC 1071), folded, as in a checksum field but not complemented, in memory order.
    pub body_sum: u16,
    /// The question.
    pub key: Key,
    /// What follows the question in the reply, OPT record excluded; padded with anything.
    pub body: [u8; MAX_BODY],
}

impl Entry {
    /// An entry that answers nothing.
    pub const EMPTY: Self = Self {
        generation: Config::OFF,
        until: 0,
        received: 0,
        counter: 0,
        body_len: 0,
        ttl_offsets: [0; MAX_TTLS],
        ttl_count: 0,
        counts: [0; 3],
        rcode: 0,
        authentic: 0,
        body_sum: 0,
        key: Key::EMPTY,
        body: [0; MAX_BODY],
    };
}

/// A client's address, or a prefix of addresses, in the trie: the version of IP, 4 or 6, then the address as on
/// the wire, of which IPv4 has the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ClientKey(pub [u32; 5]);

impl ClientKey {
    /// Bits in front of the address: a prefix of N bits has this many more in the trie.
    pub const VERSION_BITS: u32 = 32;

    /// An IPv4 address, as on the wire.
    #[inline(always)]
    pub const fn v4(address: [u8; 4]) -> Self {
        Self([4, u32::from_ne_bytes(address), 0, 0, 0])
    }

    /// An IPv6 address, as on the wire.
    #[inline(always)]
    pub const fn v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [u8; 16]) -> Self {
        Self([
            6,
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }
}

const _: () = {
    assert!(size_of::<Config>() == 64);
    assert!(size_of::<Bucket>() == 64);
    assert!(size_of::<Entry>() == 512);
    assert!(size_of::<ClientKey>() == 20);
    assert!(core::mem::offset_of!(Entry, key) == 40);
    assert!(core::mem::offset_of!(Entry, body) == 112);
};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_tag_and_index() {
        let hash = 0x89ab_cdef_0123_4567;
        let slot = Slot::new(hash, 7);
        assert!(slot.has_tag_of(hash) && slot.has_tag_of(hash ^ 1 << 32));
        assert!(!slot.has_tag_of(hash ^ 1) && !slot.has_tag_of(hash ^ 1 << 31));
        assert_eq!(slot.index(), 7);
        assert!(!Slot::EMPTY.has_tag_of(0), "tag 0 is one like others");
        assert!(Slot::new(0, 0).has_tag_of(0));
    }

    #[test]
    fn names_that_differ_in_two_digits_are_spread() {
        // The digits are at each place of a word.
        for len in 2..=17 {
            let mut buckets = [0; 64];
            for number in 0..100 {
                let mut question = [b'n'; 17 + 10];
                let digits = len - 1;
                question[0] = len as u8;
                question[digits..=len].copy_from_slice(&[b'0' + number / 10, b'0' + number % 10]);
                question[len + 1..len + 10].copy_from_slice(b"\x03net\0\0\x01\0\x01");
                let key = Key::new(&question[..len + 10], 0).unwrap();
                buckets[bucket_of(key.hash(7), 64) as usize] += 1;
            }
            // As many as a bucket holds, where two are expected.
            assert!(buckets.iter().all(|count| *count <= SLOTS), "{buckets:?}");
        }
        assert_eq!(bucket_of(u64::MAX, 64), 63);
        assert_eq!(bucket_of(u64::MAX, 1), 0);
    }

    #[test]
    fn counters_do_not_overlap() {
        let mut used = [false; COUNTERS];
        let outcomes = Outcome::ALL.into_iter().map(|outcome| outcome as usize);
        let hits = (0..TYPES).flat_map(|kind| {
            [false, true].map(|nxdomain| usize::from(hit_counter(kind, nxdomain)))
        });
        for counter in outcomes.chain(hits) {
            assert!(!used[counter], "{counter}");
            used[counter] = true;
        }
        assert_eq!(used, [true; COUNTERS]);
    }

    #[test]
    fn the_clock_counts_from_its_zero() {
        let (monotonic, seconds) = (5_300_000_000, 1 << 28);
        let zero = Config::clock_zero(monotonic, seconds);
        let now = |later| u64::wrapping_sub(monotonic + later, zero) / NANOSECONDS;
        assert_eq!(now(0), 1 << 28);
        assert_eq!(now(999_999_999), 1 << 28);
        assert_eq!(now(1_000_000_000), (1 << 28) + 1);
    }
}
