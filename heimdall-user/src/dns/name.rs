//! Domain names in wire form, [RFC 1035 section 3.1](https://www.rfc-editor.org/rfc/rfc1035#section-3.1):
//! labels, each with its length before it, up to the root's, which is empty. A compression pointer can
//! replace the last labels by their offset
//! ([section 4.1.4](https://www.rfc-editor.org/rfc/rfc1035#section-4.1.4)).
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! | 0  0|     LENGTH      /  LENGTH octets        /  label
//! | 1  1|           OFFSET in the message         |  pointer
//! +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```
//!
//! Labels that begin with the bits 01 or 10 are of types that are not in use (RFC 6891 section 5).

mod compare;
mod fold;

pub(crate) use compare::eq_exactly;
pub use compare::{NameHasher, eq_ignore_case};

use super::{header, u16_at};

/// Longest name on the wire, length octets and root included (RFC 1035 section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;

/// Longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: u8 = 63;

/// Octets of a compression pointer.
pub(super) const POINTER_LEN: usize = 2;

/// Largest offset that a compression pointer can hold.
const MAX_POINTER: usize = 0x3fff;

/// The bits that mark a pointer.
const POINTER: u16 = 0xc000;

/// The compression pointer to `offset`. `None`: it is too large for one.
pub(super) fn pointer_to(offset: usize) -> Option<[u8; POINTER_LEN]> {
    (offset <= MAX_POINTER).then(|| (POINTER | offset as u16).to_be_bytes())
}

/// One element of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelOrPointer<'a> {
    /// A label, its length octet before it. The root's is `[0]`.
    Label(&'a [u8]),
    /// The offset in the message that a compression pointer holds.
    Pointer(usize),
}

impl<'a> LabelOrPointer<'a> {
    /// Reads the element at `at`. `None`: it runs past the end, or is of an unknown type.
    pub(super) fn read(octets: &'a [u8], at: usize) -> Option<Self> {
        let len = *octets.get(at)?;
        if len <= MAX_LABEL {
            return Some(Self::Label(octets.get(at..=at + usize::from(len))?));
        }
        let pointer = u16_at(octets, at)?;
        (pointer >= POINTER).then_some(Self::Pointer(usize::from(pointer ^ POINTER)))
    }
}

/// Finds where the uncompressed name at `start` ends: the offset after its root label.
///
/// `None` if it runs past the message or 255 octets, or holds a compression pointer or a label of
/// another type.
// Each hit takes this loop, so it reads length octets alone, without `LabelOrPointer`.
#[inline(always)]
pub(crate) fn end_of_question_name(msg: &[u8], start: usize) -> Option<usize> {
    // A name that is not too long has its root label among these.
    let octets = msg.get(..start + MAX_NAME).unwrap_or(msg);
    let mut at = start;
    // One comparison a label: zero is out of the range, too.
    while let len @ 1..=MAX_LABEL = *octets.get(at)? {
        at += 1 + usize::from(len);
    }
    (*octets.get(at)? == 0).then_some(at + 1)
}

/// The name (wire form, uncompressed) in lower case, in `buf`. `None`: it is too long for a name.
pub(crate) fn lower_case<'a>(name: &[u8], buf: &'a mut [u8; MAX_NAME]) -> Option<&'a [u8]> {
    let lower = buf.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(lower)
}

/// The name (wire form, uncompressed) without its first label. `None` for the root.
pub(crate) fn parent(name: &[u8]) -> Option<&[u8]> {
    match *name.first()? {
        0 => None,
        len => name.get(1 + usize::from(len)..),
    }
}

/// Gives `take` every label of the name at `start`, its length before it, the root's included, with
/// its offset in the message; pointers are followed.
///
/// `None` if the name is longer than 255 octets or a pointer does not lead to an earlier name: before
/// the part of the name that it ends, and behind the header, which holds no names and changes on the
/// way through. So the walk comes to an end.
pub(super) fn for_each_label(
    msg: &[u8],
    start: usize,
    take: impl FnMut(usize, &[u8]),
) -> Option<()> {
    for_each_label_of(|at| LabelOrPointer::read(msg, at), start, take)
}

/// As [`for_each_label`], with what `element` gives for an offset in the message.
pub(super) fn for_each_label_of<'a>(
    element: impl Fn(usize) -> Option<LabelOrPointer<'a>>,
    start: usize,
    mut take: impl FnMut(usize, &[u8]),
) -> Option<()> {
    let (mut at, mut part, mut octets) = (start, start, 0);
    loop {
        match element(at)? {
            LabelOrPointer::Pointer(target) => {
                if target >= part || target < header::LEN {
                    return None;
                }
                (at, part) = (target, target);
            }
            LabelOrPointer::Label(label) => {
                octets += label.len();
                if octets > MAX_NAME {
                    return None;
                }
                take(at, label);
                if label == [0] {
                    return Some(());
                }
                at += label.len();
            }
        }
    }
}

/// The name at `start` without compression. `None` as for [`for_each_label`].
#[cfg(test)]
fn decompressed(msg: &[u8], start: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    for_each_label(msg, start, |_, label| name.extend_from_slice(label))?;
    Some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use hickory_proto::{
        rr::Name,
        serialize::binary::{BinDecodable, BinDecoder, BinEncodable, DecodeError},
    };
    use proptest::prelude::*;

    use super::*;

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
    }

    #[test]
    fn parents() {
        assert_eq!(parent(b"\x01a\x02bc\0"), Some(&b"\x02bc\0"[..]));
        assert_eq!(parent(b"\x02bc\0"), Some(&b"\0"[..]));
        assert_eq!(parent(b"\0"), None);
        assert_eq!(parent(b""), None);
    }

    proptest! {
        /// A name that is read is the one that the oracle reads; those of other types and lengths, and those
        /// that lead forward or into the header, are refused.
        #[test]
        fn decompresses_as_the_oracle_does(
            octets in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xc0), 0..80u8, any::<u8>()], 12..80),
            at: prop::sample::Index,
        ) {
            let at = at.index(octets.len() + 1);
            let mut decoder = BinDecoder::new(&octets).clone(u16::try_from(at).unwrap());
            let theirs = Name::read(&mut decoder).map(|name| name.to_bytes().unwrap());
            let mut labels = Vec::new();
            let ours = for_each_label(&octets, at, |at, label| labels.push((at, label.to_vec())));
            prop_assert_eq!(decompressed(&octets, at).is_some(), ours.is_some());
            if ours.is_some() {
                for (at, label) in &labels {
                    prop_assert_eq!(&octets[*at..at + label.len()], label);
                }
                let ours: Vec<u8> = labels.into_iter().flat_map(|(_, label)| label).collect();
                prop_assert_eq!(Some(ours.clone()), decompressed(&octets, at));
                match theirs {
                    Ok(theirs) => prop_assert_eq!(ours, theirs),
                    // Not accepted by the oracle: a pointer to a label that reaches into what points to it.
                    Err(error) => prop_assert!(matches!(error, DecodeError::LabelOverlapsWithOther { .. }), "{}", error),
                }
            }
        }

        #[test]
        fn pointers_are_read_as_they_are_written(offset in 0..0x8000usize) {
            let pointer = pointer_to(offset);
            prop_assert_eq!(pointer.is_some(), offset <= MAX_POINTER);
            if let Some(pointer) = pointer {
                prop_assert_eq!(LabelOrPointer::read(&pointer, 0), Some(LabelOrPointer::Pointer(offset)));
            }
        }
    }
}
