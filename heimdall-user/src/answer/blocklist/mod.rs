//! Names that are not answered as the world would: lists of millions of them.
//!
//! All lists become one finite state transducer in a file of our own, mapped into memory. Its keys
//! are names with their labels from the root down, each after its length, so that the key of a
//! name's parent is the beginning of its own: one walk finds the most specific entry. What an entry
//! says of the name itself and of what is below it is told apart.

mod list;
mod mapped;

use std::io::{self, BufWriter};

use fst::{Map, MapBuilder, raw::Output};
use memmap2::Mmap;

use super::body::{Body, NEGATIVE_TTL, QUESTION};
use crate::dns::{Answer, CLASS_IN, edns::ede, header::rcode, name::MAX_NAME};

pub use list::Report;

/// What the names of a list get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// NXDOMAIN.
    NxDomain,
    /// The address 0.0.0.0 or ::, no data for other types.
    NullAddress,
    /// REFUSED.
    Refused,
    /// The answer that they have, whatever other lists say.
    Allow,
}

impl Action {
    const ALL: [Self; 4] = [
        Self::NxDomain,
        Self::NullAddress,
        Self::Refused,
        Self::Allow,
    ];

    /// In a map's value: 1 to 4; 0 is none.
    fn code(self) -> u64 {
        1 + self as u64
    }

    /// What counts for a name once another list says this, too.
    fn after(self, earlier: Option<Self>) -> Option<Self> {
        match earlier {
            Some(first) if self != Self::Allow => Some(first),
            _ => Some(self),
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        Self::ALL.get((code & 7).checked_sub(1)? as usize).copied()
    }
}

/// The lists.
#[derive(Debug)]
pub struct Blocklists {
    map: Option<Map<Mmap>>,
    answers: Answers,
}

/// What blocked names are answered with, whatever they are called.
#[derive(Debug)]
struct Answers {
    nxdomain: Answer,
    null_v4: Answer,
    null_v6: Answer,
    no_data: Answer,
    refused: Answer,
}

impl Default for Blocklists {
    /// No lists.
    fn default() -> Self {
        Self {
            map: None,
            answers: Answers::new(),
        }
    }
}

impl Blocklists {
    /// Puts lists together, each a text and what its names get. Of entries for one name the first
    /// list's counts, but [`Action::Allow`] before all. What a list says, and how many of its lines
    /// say nothing, is told for each.
    ///
    /// Takes some seconds for millions of names, and some 30 octets a name while it lasts.
    ///
    /// # Errors
    /// A temporary file cannot be written or mapped.
    pub fn build<'a>(
        lists: impl IntoIterator<Item = (&'a [u8], Action)>,
    ) -> io::Result<(Self, Vec<Report>)> {
        let mut names = Names::default();
        let reports = lists
            .into_iter()
            .map(|(text, action)| list::read(text, |key, below| names.add(key, action, below)))
            .collect();
        if names.entries.is_empty() {
            return Ok((Self::default(), reports));
        }
        let mut builder =
            MapBuilder::new(BufWriter::new(tempfile::tempfile()?)).map_err(io::Error::other)?;
        names.sorted(|key, value| builder.insert(key, value).map_err(io::Error::other))?;
        let file = builder.into_inner().map_err(io::Error::other)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let map = Map::new(mapped::private(&file)?).map_err(io::Error::other)?;
        let lists = Self {
            map: Some(map),
            answers: Answers::new(),
        };
        Ok((lists, reports))
    }

    /// Whether no name is on any list.
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// Octets of the map.
    pub fn bytes(&self) -> usize {
        self.map
            .as_ref()
            .map_or(0, |map| map.as_fst().as_bytes().len())
    }

    /// What the lists say of a name (wire form, any case).
    pub fn lookup(&self, qname: &[u8]) -> Option<Action> {
        let fst = self.map.as_ref()?.as_fst();
        let mut starts = [0u8; MAX_NAME];
        let labels = label_starts(qname, &mut starts)?;
        let mut node = fst.root();
        let mut output = Output::zero();
        let mut found = 0;
        for (left, start) in (0..labels.len()).rev().zip(labels.iter().rev()) {
            let (len, rest) = qname.get(usize::from(*start)..)?.split_first()?;
            let label = rest.get(..usize::from(*len))?;
            for octet in std::iter::once(*len).chain(label.iter().map(u8::to_ascii_lowercase)) {
                let Some(next) = node.find_input(octet) else {
                    return Action::from_code(found);
                };
                let transition = node.transition(next);
                output = output.cat(transition.out);
                node = fst.node(transition.addr);
            }
            if node.is_final() {
                let value = output.cat(node.final_output()).value();
                let says = if left == 0 { value & 7 } else { value >> 3 };
                if says != 0 {
                    found = says;
                }
            }
        }
        Action::from_code(found)
    }

    /// What a blocked name is answered with; nothing if it is not blocked after all.
    pub fn answer(&self, action: Action, qtype: u16) -> Option<&Answer> {
        let answers = &self.answers;
        match (action, qtype) {
            (Action::NxDomain, _) => Some(&answers.nxdomain),
            (Action::NullAddress, A) => Some(&answers.null_v4),
            (Action::NullAddress, AAAA) => Some(&answers.null_v6),
            (Action::NullAddress, _) => Some(&answers.no_data),
            (Action::Refused, _) => Some(&answers.refused),
            (Action::Allow, _) => None,
        }
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;

impl Answers {
    fn new() -> Self {
        let blocked = Some(ede::BLOCKED);
        let null = |rtype, address: &[u8]| {
            let mut body = Body::default();
            body.answer(QUESTION, rtype, CLASS_IN, NEGATIVE_TTL, address);
            body.into_small_answer(rcode::NOERROR, blocked)
        };
        let nothing = |code| {
            let mut body = Body::default();
            body.soa(QUESTION);
            body.into_small_answer(code, blocked)
        };
        Self {
            nxdomain: nothing(rcode::NXDOMAIN),
            null_v4: null(A, &[0; 4]),
            null_v6: null(AAAA, &[0; 16]),
            no_data: nothing(rcode::NOERROR),
            refused: Answer::failure(rcode::REFUSED, blocked, NEGATIVE_TTL),
        }
    }
}

/// Where the labels of a name start, the root's left out.
fn label_starts<'a>(name: &[u8], starts: &'a mut [u8; MAX_NAME]) -> Option<&'a [u8]> {
    let (mut at, mut count) = (0, 0);
    loop {
        let len = usize::from(*name.get(at)?);
        if len == 0 {
            return starts.get(..count);
        }
        *starts.get_mut(count)? = u8::try_from(at).ok()?;
        at += 1 + len;
        count += 1;
    }
}

/// Names that are being gathered: one run of octets, and where in it they are.
#[derive(Default)]
struct Names {
    octets: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    len: u8,
    action: Action,
    below: bool,
}

impl Names {
    fn add(&mut self, key: &[u8], action: Action, below: bool) {
        self.entries.push(Entry {
            start: self.octets.len(),
            len: key.len() as u8,
            action,
            below,
        });
        self.octets.extend_from_slice(key);
    }

    /// Gives each name once, in order, with what all of its entries come to.
    fn sorted(mut self, mut give: impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
        let octets = &self.octets;
        let key = |entry: &Entry| {
            let end = entry.start + usize::from(entry.len);
            octets.get(entry.start..end).unwrap_or_default()
        };
        // Entries of one name stay in the order of their lists, which is that of their places.
        self.entries
            .sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.start.cmp(&b.start)));
        for same in self.entries.chunk_by(|a, b| key(a) == key(b)) {
            let (mut own, mut below) = (None, None);
            for entry in same {
                own = entry.action.after(own);
                if entry.below {
                    below = entry.action.after(below);
                }
            }
            let code = |action: Option<Action>| action.map_or(0, Action::code);
            if let Some(entry) = same.first() {
                give(key(entry), code(own) | code(below) << 3)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
