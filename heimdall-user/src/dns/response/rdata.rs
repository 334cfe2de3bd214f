//! What the data of a record are made of, by its type.
//!
//! Data of a type that is listed here have that form, or the response is broken; data of other types
//! are octets (RFC 3597 section 3). So are values within a field: flags, algorithms, digests, the values of
//! service parameters, which clients judge themselves (RFC 9460 section 4.3).

use core::hash::Hasher;

use super::names::{NameId, Names};
use crate::dns::cursor::Cursor;

/// A kind of field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// This many octets.
    Octets(usize),
    /// A domain name of a type of RFC 1035: it may be compressed.
    Name,
    /// A domain name of an older type that some servers compress nevertheless. It is read, and passed on
    /// uncompressed (RFC 3597 section 4).
    Expanded,
    /// A domain name that is never compressed: clients may not be able to read it.
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
use Kind::{Bitmap, Counted, Expanded, Name as Domain, Octets, Params, PlainName, Rest, Strings};

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
        17 => &[Expanded, Expanded], // RP
        18 => &[Octets(2), Expanded], // AFSDB
        19 => &[Counted(0)], // X25
        20 => &[Strings], // ISDN
        21 => &[Octets(2), Expanded], // RT
        24 => &[Octets(18), Expanded, Rest(1)], // SIG
        25 => &[Octets(4), Rest(0)], // KEY
        26 => &[Octets(2), Expanded, Expanded], // PX
        27 => &[Counted(0), Counted(0), Counted(0)], // GPOS
        28 => &[Octets(16)], // AAAA
        29 => &[Octets(16)], // LOC
        30 => &[Expanded, Rest(0)], // NXT
        33 => &[Octets(6), Expanded], // SRV
        35 => &[Octets(4), Counted(0), Counted(0), Counted(0), Expanded], // NAPTR
        36 => &[Octets(2), PlainName], // KX
        37 => &[Octets(5), Rest(1)], // CERT
        39 => &[PlainName], // DNAME
        43 => &[Octets(4), Rest(1)], // DS
        44 => &[Octets(2), Rest(1)], // SSHFP
        46 => &[Octets(18), PlainName, Rest(1)], // RRSIG
        47 => &[PlainName, Bitmap], // NSEC
        48 => &[Octets(4), Rest(1)], // DNSKEY
        50 => &[Octets(4), Counted(0), Counted(1), Bitmap], // NSEC3
        51 => &[Octets(4), Counted(0)], // NSEC3PARAM
        52 => &[Octets(3), Rest(1)], // TLSA
        53 => &[Octets(3), Rest(1)], // SMIMEA
        59 => &[Octets(4), Rest(1)], // CDS
        60 => &[Octets(4), Rest(1)], // CDNSKEY
        61 => &[Rest(1)], // OPENPGPKEY
        62 => &[Octets(6), Bitmap], // CSYNC
        63 => &[Octets(6), Rest(12)], // ZONEMD
        64 => &[Octets(2), PlainName, Params], // SVCB
        65 => &[Octets(2), PlainName, Params], // HTTPS
        66 => &[Octets(5), PlainName], // DSYNC
        99 => &[Strings], // SPF
        104 => &[Octets(10)], // NID
        105 => &[Octets(6)], // L32
        106 => &[Octets(10)], // L64
        107 => &[Octets(2), PlainName], // LP
        108 => &[Octets(6)], // EUI48
        109 => &[Octets(8)], // EUI64
        256 => &[Octets(4), Rest(1)], // URI
        257 => &[Octets(1), Counted(1), Rest(0)], // CAA
        258 => &[Strings], // AVC
        261 => &[Strings], // RESINFO
        262 => &[Strings], // WALLET
        32_768 => &[Octets(4), Rest(1)], // TA
        32_769 => &[Octets(4), Rest(1)], // DLV
        _ => &[Rest(0)],
    }
}

/// A field of a record's data.
#[derive(Clone, Copy, Debug)]
pub(in crate::dns) enum Field<'a> {
    /// A name.
    Name(Embedded<'a>),
    /// Anything else.
    Octets(&'a [u8]),
}

/// A name in a record's data.
#[derive(Clone, Copy, Debug)]
pub(in crate::dns) struct Embedded<'a> {
    /// Its start.
    pub(in crate::dns) start: Cursor<'a>,
    /// The offset where its own octets end.
    pub(in crate::dns) end: usize,
    /// It is compressed, and must not be passed on so.
    pub(in crate::dns) expand: bool,
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
        let start = data;
        let expand = match kind {
            Expanded => data.name()?.is_some(),
            _ => {
                kind.pass(&mut data)?;
                false
            }
        };
        take(match kind {
            Domain | Expanded | PlainName => Field::Name(Embedded {
                start,
                end: data.at(),
                expand,
            }),
            _ => Field::Octets(data.since(start.at())?),
        })?;
    }
    data.is_empty().then_some(())
}

impl Kind {
    /// Moves the cursor past the field at its position, in data that end with its octets.
    fn pass(self, data: &mut Cursor<'_>) -> Option<()> {
        match self {
            Octets(len) => pass_octets(data, len),
            Domain | Expanded => data.name().map(|_| ()),
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

/// What was read of a record's data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Data {
    /// The first name in them.
    pub(super) name: Option<NameId>,
    /// They hold a name that is compressed and must not be passed on so.
    pub(super) expand: bool,
}

/// Reads the data of a record of class IN in the message `msg`. `None`: they do not have the form that the
/// type's data have.
pub(super) fn read(names: &mut Names, msg: &[u8], rtype: u16, data: Cursor<'_>) -> Option<Data> {
    let mut read = Data::default();
    fields(rtype, data, |field| {
        if let Field::Name(name) = field {
            let id = names.read(msg, name.start.at(), name.end)?;
            read.name = read.name.or(Some(id));
            read.expand |= name.expand;
        }
        Some(())
    })?;
    Some(read)
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
            Field::Name(Embedded { start, end, .. }) => {
                hasher.write_u32(names.read(msg, start.at(), end)?.number());
            }
            Field::Octets(octets) => hasher.write(octets),
        }
        Some(())
    })
}
