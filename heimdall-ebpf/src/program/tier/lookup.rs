//! From a query to its entry.

use core::ptr;

use heimdall_ebpf::tier::{Entry, Key, MAX_BODY, MAX_NAME, bucket_of, fold_case, mix, unfolded};

use super::{
    super::{
        checksum,
        frame::{Frame, opaque},
        wire::dns,
    },
    TIER_BUCKETS, TIER_ENTRIES,
    query::Query,
    touch,
};

/// The hash of the query's key, as `Key::hash` computes it.
#[inline(always)]
pub(super) fn hash(frame: Frame, query: &Query, seed: u64) -> Option<u64> {
    let mut hash = mix(seed, head(query));
    for word in 0..MAX_NAME / 8 {
        let at = 8 * word;
        if query.name_len < at + 8 {
            break;
        }
        hash = mix(hash, unfolded(frame.load(query.name + at)?));
    }
    Some(mix(
        hash,
        unfolded(rest(frame, query.name, query.name_len)?),
    ))
}

/// See [`Key::head`].
#[inline(always)]
fn head(query: &Query) -> u64 {
    let dnssec_ok = if query.dnssec_ok() { Key::DO } else { 0 };
    let checking_disabled = if query.flags & dns::CD != 0 {
        Key::CD
    } else {
        0
    };
    Key::head(
        query.kind,
        query.name_len as u64,
        dnssec_ok | checking_disabled,
    )
}

/// The octets of a name after its whole words, padded with zeros: a part of its last eight octets, which
/// begin in the message's header if the name is shorter.
#[inline(always)]
fn rest(frame: Frame, name: usize, name_len: usize) -> Option<u64> {
    let last: u64 = frame.from(name - 8 + name_len).load(0)?;
    // In two shifts, the first by one bit: a single one could be by 64, which is not defined.
    Some(last >> 1 >> (63 - 8 * (name_len % 8)))
}

/// Has the processor load the bucket of `hash`.
#[inline(always)]
pub(super) fn touch_bucket(hash: u64, buckets: u32) {
    if let Some(bucket) = TIER_BUCKETS.get(bucket_of(hash, buckets)) {
        touch(bucket);
    }
}

/// The entry in the bucket of `hash` that has its tag, and its index.
#[inline(always)]
pub(super) fn find(hash: u64, buckets: u32) -> Option<(Held, u32)> {
    let bucket = TIER_BUCKETS.get(bucket_of(hash, buckets))?;
    for slot in &bucket.0 {
        // SAFETY: it is a reference. Userspace may store the slot at any time; this load is of its whole word.
        let slot = unsafe { ptr::read_volatile(slot) };
        if slot.has_tag_of(hash) {
            return Some((Held::at(slot.index())?, slot.index()));
        }
    }
    None
}

/// An entry that a slot leads to.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) entry: &'static Entry,
}

impl Held {
    /// The entry at `index`.
    #[inline(always)]
    pub(super) fn at(index: u32) -> Option<Self> {
        let entry = TIER_ENTRIES.get(index)?;
        Some(Self { entry })
    }

    /// Has the processor load what most replies need of the entry.
    #[inline(always)]
    pub(super) fn touch(self) {
        touch(self.entry);
        touch(&self.entry.body);
    }

    /// The sum of the question in the query's letter case, if it is this entry's question.
    #[inline(always)]
    pub(super) fn matches(self, frame: Frame, query: &Query) -> Option<u64> {
        let key = &self.entry.key;
        // SAFETY: a key begins with two words of four octets, and is aligned to eight. In little-endian memory, which
        // this program is built for, they are what `Key::head` gives.
        let head = unsafe { *(&raw const *key).cast::<u64>() };
        if head != self::head(query) {
            return None;
        }
        let name_len = self.name_len();
        let mut sum = 0;
        for (index, held) in key.name.iter().enumerate() {
            let at = 8 * index;
            if name_len < at + 8 {
                break;
            }
            let word = frame.load(query.name + at)?;
            if fold_case(word) != *held {
                return None;
            }
            sum += checksum::of_word(word);
        }
        if name_len % 8 != 0 {
            let word = rest(frame, query.name, name_len)?;
            if fold_case(word) != key.name[name_len / 8 % (MAX_NAME / 8)] {
                return None;
            }
            sum += checksum::of_word(word);
        }
        Some(sum + checksum::at(name_len, query.kind.into()))
    }

    /// Octets of the name, read again; at most 127, as far as the verifier can tell.
    #[inline(always)]
    pub(super) fn name_len(self) -> usize {
        // SAFETY: it is a reference.
        let len = unsafe { ptr::read_volatile(&self.entry.key.name_len) };
        usize::from(len & 0x7f)
    }

    /// Octets of the body, read again.
    #[inline(always)]
    pub(super) fn body_len(self) -> Option<usize> {
        // SAFETY: it is a reference.
        let len = usize::from(unsafe { ptr::read_volatile(&self.entry.body_len) });
        // Not the smaller of two numbers, which the verifier would follow both.
        (len <= MAX_BODY).then_some(opaque(len))
    }
}
