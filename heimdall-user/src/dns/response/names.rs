//! The names of one response, each octet read once.
//!
//! A name can lead through compression pointers to labels that many other names share (RFC 1035
//! section 4.1.4). The result for a label that was read is therefore memoised by its offset: reading all
//! names of a message takes time in proportion to its length, however they point at each other, and
//! comparing two of them takes one step.

use core::{
    hash::{BuildHasher, Hasher},
    num::NonZero,
    ops::Range,
};
use std::hash::RandomState;

use crate::dns::{
    cursor::Cursor,
    header,
    name::{LabelOrPointer, MAX_NAME, POINTER_LEN, for_each_label},
};

/// Most pointers in one name. Encoders need one or two; Go's resolver gives up after ten, miekg/dns
/// after 126, unbound after 256.
const MAX_POINTERS: u8 = 16;

/// Most labels in one name, the root not counted (RFC 1035 section 2.3.4).
const MAX_LABELS: usize = MAX_NAME / 2;

/// Most labels and pointers in one name.
const MAX_PATH: usize = MAX_LABELS + MAX_POINTERS as usize;

/// A name's identity: a keyed hash of its labels (SipHash) with letters folded. Two names of a message
/// share one with a probability of 2^-64, and no upstream knows the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameId(u64);

impl NameId {
    /// The root.
    pub(super) const ROOT: Self = Self(0);
}

/// A name in the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// Its offset.
    pub(super) at: usize,
    pub(super) id: NameId,
}

/// What was found about the name that begins at an offset.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: NameId,
    octets: NonZero<u8>,
    pointers: u8,
}

const ROOT: Known = Known {
    id: NameId::ROOT,
    octets: NonZero::<u8>::MIN,
    pointers: 0,
};

/// The names of a message.
#[derive(Debug)]
pub(super) struct Names<'a> {
    msg: &'a [u8],
    keys: RandomState,
    /// By offset.
    known: Vec<Option<Known>>,
    /// Offsets of the TTL fields so far, in ascending order.
    ttls: Vec<usize>,
    /// Offsets of the labels and pointers of the name that is being read, and the labels.
    path: Vec<(usize, Option<&'a [u8]>)>,
    /// Labels and pointers looked at.
    #[cfg(test)]
    steps: usize,
}

impl<'a> Names<'a> {
    /// The names of `msg`, none of which has been read.
    pub(super) fn new(msg: &'a [u8]) -> Self {
        Self {
            msg,
            keys: RandomState::new(),
            known: vec![None; msg.len()],
            ttls: Vec::new(),
            path: Vec::with_capacity(MAX_LABELS),
            #[cfg(test)]
            steps: 0,
        }
    }

    /// The message.
    pub(super) fn msg(&self) -> &'a [u8] {
        self.msg
    }

    /// A hasher with the key of this message.
    pub(super) fn hasher(&self) -> impl Hasher + use<> {
        self.keys.build_hasher()
    }

    /// Records that a TTL field is at `at`, behind all earlier ones: it changes as the answer ages, so
    /// no name may have octets in it.
    pub(super) fn add_ttl(&mut self, at: usize) {
        self.ttls.push(at);
    }

    /// Reads the name at `start`.
    ///
    /// `None` if it is not valid: longer than 255 octets, past the end, with labels of other types, with
    /// more than 16 pointers, or with a pointer that leads anywhere but to a name behind the header that
    /// ends before the part with the pointer.
    pub(super) fn read(&mut self, start: usize) -> Option<Name> {
        let mut name = Cursor::new(self.msg, start);
        name.name()?;
        let end = name.at();
        // Each part of the name is before the one that points to it.
        let (mut at, mut part, mut bound) = (start, start, end);
        self.path.clear();
        let mut known = loop {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            if let Some(known) = self.known.get(at).copied().flatten() {
                break known;
            }
            let step = LabelOrPointer::read(self.msg, at)?;
            let next = match step {
                LabelOrPointer::Label(label) => at + label.len(),
                LabelOrPointer::Pointer(_) => at + POINTER_LEN,
            };
            if next > bound || self.holds_ttl(at..next) || self.path.len() > MAX_PATH {
                return None;
            }
            match step {
                LabelOrPointer::Label([0]) => {
                    *self.known.get_mut(at)? = Some(ROOT);
                    break ROOT;
                }
                LabelOrPointer::Label(label) => {
                    self.path.push((at, Some(label)));
                    at = next;
                }
                LabelOrPointer::Pointer(target) => {
                    self.path.push((at, None));
                    if target >= part || target < header::LEN {
                        return None;
                    }
                    (at, part, bound) = (target, target, part);
                }
            }
        };
        while let Some((at, label)) = self.path.pop() {
            known = match label {
                Some(label) => Known {
                    id: self.below(known.id, label)?,
                    octets: known.octets.checked_add(u8::try_from(label.len()).ok()?)?,
                    ..known
                },
                None => Known {
                    pointers: known.pointers + 1,
                    ..known
                },
            };
            if known.pointers > MAX_POINTERS {
                return None;
            }
            *self.known.get_mut(at)? = Some(known);
        }
        Some(Name {
            at: start,
            id: known.id,
        })
    }

    /// The identity of `label`, which begins with its length, followed by the name `rest`.
    fn below(&self, rest: NameId, label: &[u8]) -> Option<NameId> {
        let mut folded = [0; 64];
        let folded = folded.get_mut(..label.len())?;
        folded.copy_from_slice(label);
        folded.make_ascii_lowercase();
        let mut hasher = self.hasher();
        hasher.write_u64(rest.0);
        hasher.write(folded);
        Some(NameId(hasher.finish()))
    }

    fn holds_ttl(&self, octets: Range<usize>) -> bool {
        let before = self.ttls.partition_point(|ttl| ttl + 4 <= octets.start);
        self.ttls.get(before).is_some_and(|ttl| *ttl < octets.end)
    }

    /// A name that was read, and the names above it up to the root.
    pub(super) fn with_ancestors(&self, name: Name) -> Vec<NameId> {
        let mut ids = Vec::new();
        let known = |at: usize| self.known.get(at).copied().flatten();
        // Ends early at a pointer into the name itself, which `read` takes if it knows what follows.
        let _ = for_each_label(self.msg, name.at, |at, _| {
            ids.extend(known(at).map(|known| known.id));
        });
        ids
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Names that share their labels, in a message as large as there are, are not read again and again.
    #[test]
    fn the_work_is_bounded_by_the_message() {
        // A name of 127 labels, and names that lead to all of its parts.
        let mut msg = vec![0; header::LEN];
        msg.extend([1, b'x'].repeat(MAX_LABELS));
        msg.push(0);
        let first = msg.len();
        let mut count = 0;
        while msg.len() <= usize::from(u16::MAX) - POINTER_LEN {
            let target = header::LEN + 2 * (count % MAX_LABELS);
            msg.extend_from_slice(&(0xc000 | target as u16).to_be_bytes());
            count += 1;
        }
        let mut names = Names::new(&msg);
        let long = names.read(header::LEN).unwrap();
        assert_eq!(names.with_ancestors(long).len(), MAX_LABELS + 1);
        for i in 0..count {
            let name = names.read(first + POINTER_LEN * i).unwrap();
            assert_eq!(name.id == long.id, i % MAX_LABELS == 0);
        }
        // Two steps a name: the pointer, and what it leads to.
        assert!(names.steps <= MAX_LABELS + 1 + 2 * count);
    }

    /// Labels that overlap, from every octet on: each is looked at once.
    #[test]
    fn overlapping_labels_are_read_once() {
        let mut msg = vec![0; header::LEN];
        // From any octet on labels of one octet, or of two, up to a root label.
        for _ in 0..500 {
            msg.extend([1, 1].repeat(100));
            msg.extend([0, 0]);
        }
        let end = msg.len().min(0x3fff);
        let pointers = msg.len();
        msg.extend((header::LEN..end).flat_map(|at| (0xc000 | at as u16).to_be_bytes()));
        let mut names = Names::new(&msg);
        for i in 0..end - header::LEN {
            names.read(pointers + POINTER_LEN * i).unwrap();
        }
        assert!(names.steps <= 3 * end, "{} of {end}", names.steps);
    }
}
