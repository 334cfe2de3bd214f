//! Bounds-checked reading of a message, or of an answer's body, from front to back.

use super::{
    QUESTION_FIXED,
    name::{LabelOrPointer, MAX_NAME, POINTER_LEN, end_of_question_name},
};

/// A position in octets that come from the network.
///
/// Every read is checked, moves the cursor behind what was read, and gives `None` past the end.
/// The position after a failed read is unspecified. Offsets count from the start of the
/// octets, which is `base` octets behind the start of their message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    octets: &'a [u8],
    at: usize,
    base: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at offset `at` of a message.
    pub(super) fn new(message: &'a [u8], at: usize) -> Self {
        Self {
            octets: message,
            at,
            base: 0,
        }
    }

    /// A cursor at the start of `body`, which begins at offset `base` of its message.
    pub(super) fn in_body(body: &'a [u8], base: usize) -> Self {
        Self {
            octets: body,
            at: 0,
            base,
        }
    }

    /// The offset of what is read next.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether nothing is left to read.
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.octets.len()
    }

    /// The same octets, read from offset `at` on.
    pub(super) fn moved_to(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// The octets from offset `start` to the cursor.
    pub(super) fn since(&self, start: usize) -> Option<&'a [u8]> {
        self.octets.get(start..self.at)
    }

    /// The octets that are left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.octets.get(self.at..).unwrap_or_default()
    }

    /// The next octet.
    pub(super) fn u8(&mut self) -> Option<u8> {
        let [octet] = self.array()?;
        Some(octet)
    }

    /// The next two octets, a big-endian number.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let octets = *self.octets.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(octets)
    }

    /// The next `len` octets.
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let start = self.at;
        self.at = start.checked_add(len)?;
        self.since(start)
    }

    /// The next `len` octets, as a cursor that ends where they do.
    pub(super) fn take_cursor(&mut self, len: usize) -> Option<Self> {
        let start = self.at;
        self.take(len)?;
        let octets = self.octets.get(..self.at)?;
        Some(Self { octets, ..*self }.moved_to(start))
    }

    /// Passes a name, which may be compressed. Gives the offset in the message that its compression
    /// pointer holds, if it ends in one; the pointer is not followed.
    ///
    /// `None` also if the name is longer than 255 octets, has a label of an unknown type, or its
    /// pointer does not lead backwards (RFC 1035 section 4.1.4, "a prior occurrence").
    pub(super) fn name(&mut self) -> Option<Option<usize>> {
        let start = self.at;
        loop {
            match LabelOrPointer::read(self.octets, self.at)? {
                LabelOrPointer::Pointer(target) => {
                    let is_prior = target < self.base + self.at;
                    self.at += POINTER_LEN;
                    return is_prior.then_some(Some(target));
                }
                LabelOrPointer::Label(label) => {
                    self.at += label.len();
                    if self.at - start > MAX_NAME {
                        return None;
                    }
                    if label == [0] {
                        return Some(None);
                    }
                }
            }
        }
    }

    /// Passes a name that must not be compressed.
    pub(super) fn uncompressed_name(&mut self) -> Option<()> {
        self.at = end_of_question_name(self.octets, self.at)?;
        Some(())
    }

    /// Passes an entry of the question section (RFC 1035 section 4.1.2).
    pub(super) fn question(&mut self) -> Option<()> {
        self.name()?;
        self.take(QUESTION_FIXED).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use hickory_proto::{
        rr::Name,
        serialize::binary::{BinDecodable, BinDecoder},
    };
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Reads give the octets in their order, all of them and no more.
        #[test]
        fn reads_add_up_to_the_octets(octets: Vec<u8>, sizes in prop::collection::vec(0..6usize, 0..80)) {
            let mut cursor = Cursor::new(&octets, 0);
            let mut read = Vec::new();
            for size in sizes {
                let before = cursor.at();
                let got = match size {
                    0 => cursor.u8().map(|n| n.to_be_bytes().to_vec()),
                    1 => cursor.u16().map(|n| n.to_be_bytes().to_vec()),
                    len => cursor.take(len).map(<[u8]>::to_vec),
                };
                let len = [1, 2].get(size).copied().unwrap_or(size);
                prop_assert_eq!(got.is_some(), before + len <= octets.len());
                let Some(got) = got else { return Ok(()) };
                prop_assert_eq!(cursor.since(before), Some(&got[..]));
                read.extend(got);
                prop_assert_eq!([&read[..], cursor.rest()].concat(), &octets[..]);
                prop_assert_eq!(cursor.is_empty(), cursor.rest().is_empty());
            }
        }

        /// A part that was taken has the length that was given, whatever follows.
        #[test]
        fn a_part_ends(octets: Vec<u8>, at: prop::sample::Index, len in 0..300usize) {
            let at = at.index(octets.len() + 1);
            let mut cursor = Cursor::new(&octets, at);
            match cursor.take_cursor(len) {
                Some(part) => {
                    prop_assert_eq!((part.at(), cursor.at()), (at, at + len));
                    prop_assert_eq!(part.rest(), &octets[at..at + len]);
                }
                None => prop_assert!(at + len > octets.len()),
            }
        }

        /// A name ends where the oracle says that it ends, and no read fails where the oracle's does not.
        #[test]
        fn names_end_where_the_oracle_says(
            octets in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xc0), 0..80u8, any::<u8>()], 0..80),
            at: prop::sample::Index,
        ) {
            let at = at.index(octets.len() + 1);
            let mut cursor = Cursor::new(&octets, at);
            let name = cursor.name();
            let mut decoder = BinDecoder::new(&octets).clone(u16::try_from(at).unwrap());
            if Name::read(&mut decoder).is_ok() {
                prop_assert!(name.is_some());
                prop_assert_eq!(cursor.at(), decoder.index());
                match name.flatten() {
                    Some(target) => {
                        let pointer = cursor.moved_to(cursor.at() - POINTER_LEN).u16();
                        prop_assert_eq!(pointer, Some(0xc000 | target as u16));
                    }
                    None => prop_assert_eq!(octets[cursor.at() - 1], 0),
                }
            }
            let mut plain = Cursor::new(&octets, at);
            if plain.uncompressed_name().is_some() {
                prop_assert_eq!(name, Some(None));
                prop_assert_eq!(plain.at(), cursor.at());
            }
        }
    }

    /// In a body, pointers count from the start of the message.
    #[test]
    fn pointers_lead_backwards_in_the_message() {
        for (base, target, is_good) in
            [(0, 0, false), (1, 0, true), (19, 18, true), (19, 19, false)]
        {
            let body = [0xc0, target];
            let expected = is_good.then_some(Some(usize::from(target)));
            assert_eq!(Cursor::in_body(&body, base).name(), expected);
        }
    }
}
