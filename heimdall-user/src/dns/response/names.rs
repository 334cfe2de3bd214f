//! The names of one response, each octet read once.
//!
//! A name can lead through compression pointers to labels that many other names share (RFC 1035
//! section 4.1.4). What was found about the name at an offset is therefore kept: reading all names of a
//! message takes time in proportion to its length, however they point at each other. Each different name
//! is a node in a tree, below the name without its first label, so comparing two of them takes one step,
//! and so does a property of a name.
//!
//! The tables keep their memory from one message to the next.

use core::ops::Range;

use crate::dns::{
    NameHasher, header,
    name::{LabelOrPointer, MAX_NAME, POINTER_LEN, eq_ignore_case},
};

/// Most pointers in one name. Encoders need one or two; Go's resolver gives up after ten, miekg/dns
/// after 126, unbound after 256.
const MAX_POINTERS: u8 = 16;

/// Most labels in one name, the root not counted (RFC 1035 section 2.3.4).
const MAX_LABELS: usize = MAX_NAME / 2;

/// Most labels and pointers in one name.
const MAX_PATH: usize = MAX_LABELS + MAX_POINTERS as usize;

/// Octets of a message for each list of nodes that it gets.
const OCTETS_A_LIST: usize = 16;

/// A name's identity within its message: two names have the same one if they are equal except for ASCII
/// case, and only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NameId(u32);

impl NameId {
    /// The root.
    pub(super) const ROOT: Self = Self(0);

    /// The identity as a number.
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// A different name.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Seeded, of the first label and `parent`.
    hash: u64,
    /// Offset of the first label.
    at: u32,
    /// The name without its first label.
    parent: NameId,
    /// The next node of its list.
    next: NameId,
    /// Of the whole name.
    octets: u8,
    /// Properties of the name, for the caller.
    marks: u8,
    /// The pointer to where it was written.
    written: Option<[u8; POINTER_LEN]>,
}

const ROOT: Node = Node {
    hash: 0,
    at: 0,
    parent: NameId::ROOT,
    next: NameId::ROOT,
    octets: 1,
    marks: 0,
    written: None,
};

/// What was found about the name that begins at an offset.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The message in which it was found, by [`Names::message`].
    message: u32,
    id: u32,
    pointers: u8,
}

/// The names of a message.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Seeded: those who choose the names must not be able to choose long lists.
    hasher: NameHasher,
    /// Counts messages: what was found in earlier ones is no longer valid.
    message: u32,
    /// By offset.
    known: Vec<Known>,
    /// By identity.
    nodes: Vec<Node>,
    /// The first node of each list; the root, which is in none, ends one. The number is a power of two.
    lists: Vec<NameId>,
    /// Offsets of the fields so far, of four octets each and in ascending order, that no name may have octets in.
    excluded: Vec<usize>,
    /// Offsets of the labels and pointers of the name that is being read, and the labels' ends.
    path: Vec<(usize, Option<usize>)>,
    /// Labels and pointers looked at.
    #[cfg(test)]
    steps: usize,
}

impl Names {
    /// Begins a message of `octets` octets, of which no name has been read.
    pub(super) fn begin(&mut self, octets: usize) {
        self.message = self.message.wrapping_add(1);
        if self.message == 0 {
            self.known.clear();
            self.message = 1;
        }
        if self.known.len() < octets {
            self.known.resize(octets, Known::default());
        }
        self.nodes.clear();
        self.nodes.push(ROOT);
        self.lists.clear();
        let lists = (octets / OCTETS_A_LIST).max(1).next_power_of_two();
        self.lists.resize(lists, NameId::ROOT);
        self.excluded.clear();
    }

    /// Excludes the four octets at `at`, which are behind all that were excluded before, from names: a TTL, which
    /// changes as the answer ages, or the question's type and class, behind which an answer's body begins.
    pub(super) fn exclude(&mut self, at: usize) {
        self.excluded.push(at);
    }

    /// Reads the name at `start` of the message `msg`, which `Cursor::name` has passed, up to `end`.
    ///
    /// `None` if it is not valid: longer than 255 octets, past the end, with labels of other types, with
    /// more than 16 pointers, or with a pointer that leads anywhere but to a name behind the header that
    /// ends before the part with the pointer.
    pub(super) fn read(&mut self, msg: &[u8], start: usize, end: usize) -> Option<NameId> {
        if let Some(known) = self.read_pointer(msg, start, end) {
            return Some(known);
        }
        // Each part of the name is before the one that points to it.
        let (mut at, mut part, mut bound) = (start, start, end);
        self.path.clear();
        let mut known = loop {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            if let Some(known) = self.known(at) {
                break known;
            }
            let step = LabelOrPointer::read(msg, at)?;
            let next = match step {
                LabelOrPointer::Label(label) => at + label.len(),
                LabelOrPointer::Pointer(_) => at + POINTER_LEN,
            };
            if next > bound || self.has_excluded(at..next) || self.path.len() > MAX_PATH {
                return None;
            }
            match step {
                LabelOrPointer::Label([0]) => break self.set_known(at, NameId::ROOT, 0)?,
                LabelOrPointer::Label(_) => {
                    self.path.push((at, Some(next)));
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
        while let Some((at, end)) = self.path.pop() {
            let id = NameId(known.id);
            known = match end {
                Some(end) => {
                    let id = self.below(id, msg, at..end)?;
                    self.set_known(at, id, known.pointers)?
                }
                None => self.set_known(at, id, known.pointers + 1)?,
            };
        }
        Some(NameId(known.id))
    }

    /// As [`read`](Self::read), if the name is a pointer to one that was read, as most owners are.
    fn read_pointer(&mut self, msg: &[u8], start: usize, end: usize) -> Option<NameId> {
        if end != start + POINTER_LEN || self.has_excluded(start..end) {
            return None;
        }
        let LabelOrPointer::Pointer(target) = LabelOrPointer::read(msg, start)? else {
            return None;
        };
        // What is known begins behind the header.
        let known = self.known(target).filter(|_| target < start)?;
        let id = NameId(known.id);
        self.set_known(start, id, known.pointers + 1)?;
        Some(id)
    }

    fn known(&self, at: usize) -> Option<Known> {
        let known = self.known.get(at).copied();
        known.filter(|known| known.message == self.message)
    }

    /// `None`: too many pointers. Then nothing is kept, or the next name that leads here would be valid.
    fn set_known(&mut self, at: usize, NameId(id): NameId, pointers: u8) -> Option<Known> {
        if pointers > MAX_POINTERS {
            return None;
        }
        let known = Known {
            message: self.message,
            id,
            pointers,
        };
        *self.known.get_mut(at)? = known;
        Some(known)
    }

    /// The name of the label at `label`, its length included, and the name `parent`. `None`: it is too
    /// long.
    fn below(&mut self, parent: NameId, msg: &[u8], label: Range<usize>) -> Option<NameId> {
        let at = label.start as u32;
        let label = msg.get(label)?;
        let hash = self.hasher.hash(label, parent.0.into());
        let list = hash as usize & self.lists.len().wrapping_sub(1);
        let list = self.lists.get_mut(list)?;
        let mut next = *list;
        while next != NameId::ROOT {
            let node = self.nodes.get(next.0 as usize)?;
            if node.hash == hash && node.parent == parent {
                let first = msg.get(node.at as usize..)?.get(..label.len());
                if first.is_some_and(|first| eq_ignore_case(first, label)) {
                    return Some(next);
                }
            }
            next = node.next;
        }
        let above = self.nodes.get(parent.0 as usize)?.octets;
        let id = NameId(self.nodes.len() as u32);
        self.nodes.push(Node {
            hash,
            at,
            parent,
            next: *list,
            octets: above.checked_add(u8::try_from(label.len()).ok()?)?,
            marks: 0,
            written: None,
        });
        *list = id;
        Some(id)
    }

    fn has_excluded(&self, octets: Range<usize>) -> bool {
        // Most names are behind all of them.
        if self.excluded.last().is_none_or(|at| at + 4 <= octets.start) {
            return false;
        }
        let before = self.excluded.partition_point(|at| at + 4 <= octets.start);
        self.excluded.get(before).is_some_and(|at| *at < octets.end)
    }
}

/// Properties of names.
impl Names {
    /// Marks a name.
    pub(super) fn mark(&mut self, name: NameId, marks: u8) {
        if let Some(node) = self.nodes.get_mut(name.0 as usize) {
            node.marks |= marks;
        }
    }

    /// Marks a name and those above it, up to the root.
    pub(super) fn mark_with_ancestors(&mut self, mut name: NameId, marks: u8) {
        while let Some(node) = self.nodes.get_mut(name.0 as usize) {
            node.marks |= marks;
            if name == NameId::ROOT {
                return;
            }
            name = node.parent;
        }
    }

    /// The name without its first label; for the root that is the root.
    pub(super) fn parent(&self, name: NameId) -> NameId {
        let node = self.nodes.get(name.0 as usize);
        node.map_or(NameId::ROOT, |node| node.parent)
    }

    /// Whether a name is `zone` or below it.
    pub(super) fn is_within(&self, mut name: NameId, zone: NameId) -> bool {
        while name != zone && name != NameId::ROOT {
            name = self.parent(name);
        }
        name == zone
    }

    /// The first label of a name in `msg`, its length before it. `None` for the root.
    pub(super) fn first_label<'a>(&self, msg: &'a [u8], name: NameId) -> Option<&'a [u8]> {
        if name == NameId::ROOT {
            return None;
        }
        let at = self.nodes.get(name.0 as usize)?.at as usize;
        let len = usize::from(*msg.get(at)?);
        msg.get(at..=at + len)
    }

    /// The pointer to where a name was written, if it was.
    pub(super) fn written(&self, name: NameId) -> Option<[u8; POINTER_LEN]> {
        self.nodes.get(name.0 as usize)?.written
    }

    /// Notes where a name was written.
    pub(super) fn set_written(&mut self, name: NameId, pointer: [u8; POINTER_LEN]) {
        if let Some(node) = self.nodes.get_mut(name.0 as usize) {
            node.written = Some(pointer);
        }
    }

    /// Whether a name has all of these marks.
    pub(super) fn is_marked(&self, name: NameId, marks: u8) -> bool {
        let node = self.nodes.get(name.0 as usize);
        node.is_some_and(|node| node.marks & marks == marks)
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
        let mut names = Names::default();
        names.begin(msg.len());
        let long = names.read(&msg, header::LEN, first).unwrap();
        assert_eq!(names.nodes.len(), MAX_LABELS + 1);
        for i in 0..count {
            let at = first + POINTER_LEN * i;
            let name = names.read(&msg, at, at + POINTER_LEN).unwrap();
            assert_eq!(name == long, i % MAX_LABELS == 0);
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
        let mut names = Names::default();
        names.begin(msg.len());
        for i in 0..end - header::LEN {
            let at = pointers + POINTER_LEN * i;
            names.read(&msg, at, at + POINTER_LEN).unwrap();
        }
        assert!(names.steps <= 3 * end, "{} of {end}", names.steps);
    }

    /// Names are the same if their labels are, in whatever case, and what was found in one message does
    /// not count in the next.
    #[test]
    fn identities_are_those_of_one_message() {
        let messages = [
            (
                &b"............\x01a\x02bc\0\x02BC\0\x01A\xc0\x0e"[..],
                [true, false, true],
            ),
            (
                b"............\x01a\x02bd\0\x02BC\0\x01A\xc0\x12",
                [false, true, false],
            ),
        ];
        let mut names = Names {
            message: u32::MAX - 3,
            ..Names::default()
        };
        for _ in 0..4 {
            for (msg, [parents, other, same]) in messages {
                names.begin(msg.len());
                let [long, short, last] = [(12, 18), (18, 22), (22, 26)]
                    .map(|(at, end)| names.read(msg, at, end).unwrap());
                assert_eq!(names.parent(long) == short, parents);
                assert_ne!(long, short);
                assert_eq!(long != last, other);
                assert_eq!(names.parent(last) == names.parent(long), same);
                names.mark_with_ancestors(last, 1);
                assert!(names.is_marked(short, 1) && names.is_marked(NameId::ROOT, 1));
                assert_eq!(names.is_marked(long, 1), same);
            }
        }
    }
}
