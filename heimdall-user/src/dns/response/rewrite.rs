//! The body of an answer: the records of a response that are kept, as they follow the question.

use std::collections::HashMap;

use super::{
    Record,
    names::{Name, NameId},
    rdata::{self, Part},
};
use crate::dns::{header, name::walk};

/// Largest offset that a compression pointer can hold (RFC 1035 section 4.1.4).
const MAX_POINTER: usize = 0x3fff;

/// The octets of `records` behind the question, which ends at `start`, and the offsets of the TTL
/// fields in them.
///
/// `None`: no message can hold them.
pub(super) fn body(
    msg: &[u8],
    start: usize,
    qname: Name,
    records: &[Record],
) -> Option<(Vec<u8>, Vec<u16>)> {
    copied(msg, start, records).or_else(|| written_anew(msg, start, qname, records))
}

/// The octets as they are, if the records follow each other and the question: names point backwards, so
/// what follows can be cut off.
fn copied(msg: &[u8], start: usize, records: &[Record]) -> Option<(Vec<u8>, Vec<u16>)> {
    let mut end = start;
    let mut ttl_offsets = Vec::with_capacity(records.len());
    for record in records {
        if record.owner.at != end {
            return None;
        }
        ttl_offsets.push(u16::try_from(record.owner.end + 4 - start).ok()?);
        end = record.rdata().end;
    }
    Some((msg.get(start..end)?.to_vec(), ttl_offsets))
}

/// The records written again, since names may point into some that have gone. Names in data are written in
/// full, as they may be in any type (RFC 3597 section 4); an owner that was written before is a pointer.
#[cold]
fn written_anew(
    msg: &[u8],
    start: usize,
    qname: Name,
    records: &[Record],
) -> Option<(Vec<u8>, Vec<u16>)> {
    let mut writer = Writer {
        msg,
        start,
        body: Vec::new(),
        owners: HashMap::from([(qname.id, header::LEN as u16)]),
    };
    let mut ttl_offsets = Vec::with_capacity(records.len());
    for record in records {
        writer.owner(record.owner)?;
        ttl_offsets.push(u16::try_from(writer.body.len() + 4).ok()?);
        writer.octets(msg.get(record.owner.end..record.owner.end + 8)?)?;
        let rdlen_at = writer.body.len();
        writer.octets(&[0, 0])?;
        rdata::parts(msg, record.rtype, record.rdata(), |part| match part {
            Part::Name(at) => writer.name(at),
            Part::Octets(octets) => writer.octets(octets),
        })?;
        let rdlen = u16::try_from(writer.body.len() - rdlen_at - 2).ok()?;
        *writer.body.get_mut(rdlen_at..)?.first_chunk_mut()? = rdlen.to_be_bytes();
    }
    Some((writer.body, ttl_offsets))
}

struct Writer<'a> {
    msg: &'a [u8],
    /// The body's offset in the message.
    start: usize,
    body: Vec<u8>,
    /// Owners so far, and where they stand in the message.
    owners: HashMap<NameId, u16>,
}

impl Writer<'_> {
    fn owner(&mut self, owner: Name) -> Option<()> {
        if let Some(at) = self.owners.get(&owner.id) {
            return self.octets(&(0xc000 | at).to_be_bytes());
        }
        let at = self.start + self.body.len();
        if at <= MAX_POINTER {
            self.owners.insert(owner.id, at as u16);
        }
        self.name(owner.at)
    }

    /// Writes the name at `at` of the message in full.
    fn name(&mut self, at: usize) -> Option<()> {
        let mut name = Vec::new();
        walk(self.msg, at, |_, label| name.extend_from_slice(label))?;
        self.octets(&name)
    }

    fn octets(&mut self, octets: &[u8]) -> Option<()> {
        let len = self.start + self.body.len() + octets.len();
        (len <= usize::from(u16::MAX)).then(|| self.body.extend_from_slice(octets))
    }
}
