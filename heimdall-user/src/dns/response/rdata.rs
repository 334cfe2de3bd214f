//! What the data of a record are made of, by its type.
//!
//! Data of a type that is listed here have that form, or the response is broken; data of other types
//! are octets (RFC 3597 section 3).

use core::hash::Hasher;

use super::names::{NameId, Names};
use crate::dns::cursor::Cursor;

/// A kind of field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// This many octets.
    Octets(usize),
    /// A domain name. Senders may compress only those of RFC 1035 (RFC 3597 section 4); some compress
    /// in other types, too, and those are read as well.
    Name,
    /// A domain name that is never compressed.
    PlainName,
    /// An octet of length, and as many octets as it says, at least this many.
    Counted(usize),
    /// Character-strings to the end, at least one (RFC 1035 section 3.3.14).
    Strings,
    /// Blocks of a type bitmap to the end (RFC 4034 section 4.1.2).
    Bitmap,
    /// Parameters to the end, their keys ascending (RFC 9460 section 2.2).
    Params,
    /// Octets to the end, at least this many.
    Rest(usize),
}
use Kind::{Bitmap, Counted, Name as Domain, Octets, Params, PlainName, Rest, Strings};

/// The form of the data of a type, in class IN.
#[rustfmt::skip] // one line per form
fn form(rtype: u16) -> &'static [Kind] {
    match rtype {
        1 => &[Octets(4)], // A
        2 => &[Domain], // NS
        3 => &[Domain], // MD
        4 => &[Domain], // MF
        5 => &[Domain], // CNAME
        6 => &[Domain, Domain, Octets(20)], // SOA
        7 => &[Domain], // MB
        8 => &[Domain], // MG
        9 => &[Domain], // MR
        11 => &[Octets(5), Rest(0)], // WKS
        12 => &[Domain], // PTR
        13 => &[Counted(0), Counted(0)], // HINFO
        14 => &[Domain, Domain], // MINFO
        15 => &[Octets(2), Domain], // MX
        16 => &[Strings], // TXT
        17 => &[Domain, Domain], // RP
        18 => &[Octets(2), Domain], // AFSDB
        19 => &[Counted(0)], // X25
        20 => &[Strings], // ISDN
        21 => &[Octets(2), Domain], // RT
        26 => &[Octets(2), Domain, Domain], // PX
        28 => &[Octets(16)], // AAAA
        29 => &[Octets(16)], // LOC
        33 => &[Octets(6), Domain], // SRV
        35 => &[Octets(4), Counted(0), Counted(0), Counted(0), Domain], // NAPTR
        36 => &[Octets(2), Domain], // KX
        37 => &[Octets(5), Rest(1)], // CERT
        39 => &[Domain], // DNAME
        43 => &[Octets(4), Rest(1)], // DS
        44 => &[Octets(2), Rest(1)], // SSHFP
        46 => &[Octets(18), Domain, Rest(1)], // RRSIG
        47 => &[Domain, Bitmap], // NSEC
        48 => &[Octets(4), Rest(1)], // DNSKEY
        50 => &[Octets(4), Counted(0), Counted(1), Bitmap], // NSEC3
        51 => &[Octets(4), Counted(0)], // NSEC3PARAM
        52 => &[Octets(3), Rest(1)], // TLSA
        53 => &[Octets(3), Rest(1)], // SMIMEA
        59 => &[Octets(4), Rest(1)], // CDS
        60 => &[Octets(4), Rest(1)], // CDNSKEY
        62 => &[Octets(6), Bitmap], // CSYNC
        63 => &[Octets(6), Rest(12)], // ZONEMD
        64 => &[Octets(2), PlainName, Params], // SVCB
        65 => &[Octets(2), PlainName, Params], // HTTPS
        99 => &[Strings], // SPF
        108 => &[Octets(6)], // EUI48
        109 => &[Octets(8)], // EUI64
        256 => &[Octets(4), Rest(1)], // URI
        257 => &[Octets(1), Counted(1), Rest(0)], // CAA
        _ => &[Rest(0)],
    }
}

/// A field of a record's data.
#[derive(Clone, Copy, Debug)]
pub(in crate::dns) enum Field<'a> {
    /// A name; the cursor is at its start. Its own octets end at this offset.
    Name(Cursor<'a>, usize),
    /// Anything else.
    Octets(&'a [u8]),
}

/// Gives `take` the fields of `data`, until it gives `None`. Pointers in names are not followed.
///
/// `None` if the data do not have the form that the type's data have.
pub(in crate::dns) fn fields<'a>(
    rtype: u16,
    mut data: Cursor<'a>,
    mut take: impl FnMut(Field<'a>) -> Option<()>,
) -> Option<()> {
    for kind in form(rtype) {
        let field = data;
        kind.pass(&mut data)?;
        take(match kind {
            Domain | PlainName => Field::Name(field, data.at()),
            _ => Field::Octets(data.since(field.at())?),
        })?;
    }
    data.is_empty().then_some(())
}

impl Kind {
    /// Moves the cursor past the field at its position, in data that end with its octets.
    fn pass(self, data: &mut Cursor<'_>) -> Option<()> {
        match self {
            Octets(len) => pass_octets(data, len),
            Domain => data.name().map(|_| ()),
            PlainName => data.uncompressed_name(),
            Counted(least) => {
                let len = usize::from(data.u8()?);
                (len >= least).then_some(())?;
                pass_octets(data, len)
            }
            Strings => loop {
                Counted(0).pass(data)?;
                if data.is_empty() {
                    return Some(());
                }
            },
            Bitmap => {
                let mut least = 0;
                while !data.is_empty() {
                    let (window, len) = (u16::from(data.u8()?), data.u8()?);
                    if window < least || !(1..=32).contains(&len) {
                        return None;
                    }
                    least = window + 1;
                    pass_octets(data, len.into())?;
                }
                Some(())
            }
            Params => {
                let mut least = 0;
                while !data.is_empty() {
                    let key = u32::from(data.u16()?);
                    if key < least {
                        return None;
                    }
                    least = key + 1;
                    let len = data.u16()?;
                    pass_octets(data, len.into())?;
                }
                Some(())
            }
            Rest(least) => {
                let len = data.rest().len();
                (len >= least).then_some(())?;
                pass_octets(data, len)
            }
        }
    }
}

fn pass_octets(data: &mut Cursor<'_>, len: usize) -> Option<()> {
    data.take(len).map(|_| ())
}

/// Reads the data of a record of class IN in the message `msg`; gives the first name in them, if they
/// hold one. `None`: they do not have the form that the type's data have.
pub(super) fn read(
    names: &mut Names,
    msg: &[u8],
    rtype: u16,
    data: Cursor<'_>,
) -> Option<Option<NameId>> {
    let mut first = None;
    fields(rtype, data, |field| {
        if let Field::Name(name, end) = field {
            let name = names.read(msg, name.at(), end)?;
            first = first.or(Some(name));
        }
        Some(())
    })?;
    Some(first)
}

/// Hashes data that were read: equal ones hash alike, their names compressed or not and in any name
/// case.
pub(super) fn hash(
    hasher: &mut impl Hasher,
    names: &mut Names,
    msg: &[u8],
    rtype: u16,
    data: Cursor<'_>,
) -> Option<()> {
    fields(rtype, data, |field| {
        match field {
            Field::Name(name, end) => hasher.write_u32(names.read(msg, name.at(), end)?.number()),
            Field::Octets(octets) => hasher.write(octets),
        }
        Some(())
    })
}
