//! What the data of a record are made of, by its type.
//!
//! Data of a type that is listed here have that form, or the response is broken; data of other types
//! are octets (RFC 3597 section 3).

use core::{
    hash::{Hash, Hasher},
    ops::Range,
};

use super::names::{Name, Names};
use crate::dns::{
    name::{end_of_question_name, end_of_record_name},
    u16_at,
};

/// A part of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// So many octets.
    Octets(usize),
    /// A domain name. Senders may compress only those of RFC 1035 (RFC 3597 section 4); some compress
    /// others, and they can be read as well.
    Name,
    /// A domain name that is never compressed.
    PlainName,
    /// An octet of length, and as many octets, at least so many.
    Counted(usize),
    /// Character-strings to the end, at least one (RFC 1035 section 3.3.14).
    Strings,
    /// Blocks of a type bitmap to the end (RFC 4034 section 4.1.2).
    Bitmap,
    /// Parameters to the end, their keys ascending (RFC 9460 section 2.2).
    Params,
    /// Octets to the end, at least so many.
    Rest(usize),
}
use Field::{Bitmap, Counted, Name as Domain, Octets, Params, PlainName, Rest, Strings};

/// The types, in ascending order.
#[rustfmt::skip] // a line a form
const FORMS: &[(u16, &[Field])] = &[
    (1, &[Octets(4)]), // A
    (2, &[Domain]), // NS
    (3, &[Domain]), // MD
    (4, &[Domain]), // MF
    (5, &[Domain]), // CNAME
    (6, &[Domain, Domain, Octets(20)]), // SOA
    (7, &[Domain]), // MB
    (8, &[Domain]), // MG
    (9, &[Domain]), // MR
    (11, &[Octets(5), Rest(0)]), // WKS
    (12, &[Domain]), // PTR
    (13, &[Counted(0), Counted(0)]), // HINFO
    (14, &[Domain, Domain]), // MINFO
    (15, &[Octets(2), Domain]), // MX
    (16, &[Strings]), // TXT
    (17, &[Domain, Domain]), // RP
    (18, &[Octets(2), Domain]), // AFSDB
    (19, &[Counted(0)]), // X25
    (20, &[Strings]), // ISDN
    (21, &[Octets(2), Domain]), // RT
    (26, &[Octets(2), Domain, Domain]), // PX
    (28, &[Octets(16)]), // AAAA
    (29, &[Octets(16)]), // LOC
    (33, &[Octets(6), Domain]), // SRV
    (35, &[Octets(4), Counted(0), Counted(0), Counted(0), Domain]), // NAPTR
    (36, &[Octets(2), Domain]), // KX
    (37, &[Octets(5), Rest(1)]), // CERT
    (39, &[Domain]), // DNAME
    (43, &[Octets(4), Rest(1)]), // DS
    (44, &[Octets(2), Rest(1)]), // SSHFP
    (46, &[Octets(18), Domain, Rest(1)]), // RRSIG
    (47, &[Domain, Bitmap]), // NSEC
    (48, &[Octets(4), Rest(1)]), // DNSKEY
    (50, &[Octets(4), Counted(0), Counted(1), Bitmap]), // NSEC3
    (51, &[Octets(4), Counted(0)]), // NSEC3PARAM
    (52, &[Octets(3), Rest(1)]), // TLSA
    (53, &[Octets(3), Rest(1)]), // SMIMEA
    (59, &[Octets(4), Rest(1)]), // CDS
    (60, &[Octets(4), Rest(1)]), // CDNSKEY
    (62, &[Octets(6), Bitmap]), // CSYNC
    (63, &[Octets(6), Rest(12)]), // ZONEMD
    (64, &[Octets(2), PlainName, Params]), // SVCB
    (65, &[Octets(2), PlainName, Params]), // HTTPS
    (99, &[Strings]), // SPF
    (108, &[Octets(6)]), // EUI48
    (109, &[Octets(8)]), // EUI64
    (256, &[Octets(4), Rest(1)]), // URI
    (257, &[Octets(1), Counted(1), Rest(0)]), // CAA
];

/// The form of the data of a type, in class IN.
fn form(rtype: u16) -> &'static [Field] {
    FORMS
        .binary_search_by_key(&rtype, |(rtype, _)| *rtype)
        .ok()
        .and_then(|index| FORMS.get(index))
        .map_or(&[Rest(0)], |(_, form)| form)
}

/// A part of a record's data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// A name, at this offset of the message.
    Name(usize),
    /// Anything else.
    Octets(&'a [u8]),
}

/// Gives `take` the parts of the data that stand at `data` in the message, until it gives `None`. Names
/// are not followed.
///
/// `None` if the data do not have the form that the type's data have.
pub(crate) fn parts<'a>(
    msg: &'a [u8],
    rtype: u16,
    data: Range<usize>,
    mut take: impl FnMut(Part<'a>) -> Option<()>,
) -> Option<()> {
    let msg = msg.get(..data.end)?;
    let mut at = data.start;
    for field in form(rtype) {
        let next = field.end(msg, at)?;
        let octets = msg.get(at..next)?;
        take(match field {
            Domain | PlainName => Part::Name(at),
            _ => Part::Octets(octets),
        })?;
        at = next;
    }
    (at == data.end).then_some(())
}

impl Field {
    /// Where the part that starts at `at` ends, in data that end where `msg` does, or behind them.
    fn end(self, msg: &[u8], mut at: usize) -> Option<usize> {
        match self {
            Octets(len) => Some(at + len),
            Domain => end_of_record_name(msg, at),
            PlainName => end_of_question_name(msg, at),
            Counted(least) => {
                let len = usize::from(*msg.get(at)?);
                (len >= least).then_some(at + 1 + len)
            }
            Strings => loop {
                at += 1 + usize::from(*msg.get(at)?);
                if at >= msg.len() {
                    return Some(at);
                }
            },
            Bitmap => {
                let mut least = 0;
                while let Some(window) = msg.get(at) {
                    let len = usize::from(*msg.get(at + 1)?);
                    if u16::from(*window) < least || !(1..=32).contains(&len) {
                        return None;
                    }
                    least = u16::from(*window) + 1;
                    at += 2 + len;
                }
                Some(at)
            }
            Params => {
                let mut least = 0;
                while at < msg.len() {
                    let key = u16_at(msg, at)?;
                    if u32::from(key) < least {
                        return None;
                    }
                    least = u32::from(key) + 1;
                    at += 4 + usize::from(u16_at(msg, at + 2)?);
                }
                Some(at)
            }
            Rest(least) => (at + least <= msg.len()).then_some(msg.len()),
        }
    }
}

/// What a record's data say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Data {
    /// The first name in them.
    pub(super) name: Option<Name>,
    /// The same for data that say the same, their names compressed or not and in any letter case: a keyed
    /// hash.
    pub(super) id: u64,
}

/// Reads the data of a record of class IN. `None`: they do not have the form that the type's data have.
pub(super) fn read(names: &mut Names<'_>, rtype: u16, data: Range<usize>) -> Option<Data> {
    let mut hasher = names.hasher();
    let mut first = None;
    parts(names.msg(), rtype, data, |part| {
        match part {
            Part::Name(at) => {
                let name = names.read(at)?;
                name.id.hash(&mut hasher);
                first = first.or(Some(name));
            }
            Part::Octets(octets) => hasher.write(octets),
        }
        Some(())
    })?;
    Some(Data {
        name: first,
        id: hasher.finish(),
    })
}
