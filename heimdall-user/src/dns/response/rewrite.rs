//! The body of an answer: the records of a response that are kept, as they follow the question.

use std::collections::HashMap;

use super::{
    Candidate,
    names::{Name, NameId},
    rdata::{self, Field},
};
use crate::dns::{
    header,
    name::{POINTER_LEN, decompressed, pointer_to},
    record::field,
};

/// The octets of `records` behind the question, which ends at `start`, and the offsets of the TTL
/// fields in them.
///
/// `None`: no message can hold them.
pub(super) fn body(
    msg: &[u8],
    start: usize,
    qname: Name,
    records: &[Candidate<'_>],
) -> Option<(Vec<u8>, Vec<u16>)> {
    copied(msg, start, records).or_else(|| rewritten(msg, start, qname, records))
}

/// The octets as they are, if the records follow each other and the question: names point backwards, so
/// what follows can be left out.
fn copied(msg: &[u8], start: usize, records: &[Candidate<'_>]) -> Option<(Vec<u8>, Vec<u16>)> {
    let mut end = start;
    let mut ttl_offsets = Vec::with_capacity(records.len());
    for record in records {
        if record.wire.owner != end {
            return None;
        }
        ttl_offsets.push(u16::try_from(record.wire.ttl_at() - start).ok()?);
        end = record.wire.end();
    }
    Some((msg.get(start..end)?.to_vec(), ttl_offsets))
}

/// The records rewritten, since names may point into some that are left out. Names in data are written
/// uncompressed, as they may be in any type (RFC 3597 section 4); an owner that was written before is a
/// pointer.
#[cold]
fn rewritten(
    msg: &[u8],
    start: usize,
    qname: Name,
    records: &[Candidate<'_>],
) -> Option<(Vec<u8>, Vec<u16>)> {
    let mut writer = Writer {
        msg,
        start,
        body: Vec::new(),
        owners: HashMap::from([(qname.id, pointer_to(header::LEN)?)]),
    };
    let mut ttl_offsets = Vec::with_capacity(records.len());
    for record in records {
        let wire = &record.wire;
        writer.owner(wire.owner, record.owner)?;
        let fixed = writer.body.len();
        ttl_offsets.push(u16::try_from(fixed + field::TTL.start).ok()?);
        // With the RDLENGTH of before, which is set below.
        writer.octets(msg.get(wire.fixed..wire.fixed + field::RDATA)?)?;
        rdata::fields(wire.rtype, wire.rdata, |field| match field {
            Field::Name(name) => writer.name(name.at()),
            Field::Octets(octets) => writer.octets(octets),
        })?;
        let rdlength = u16::try_from(writer.body.len() - fixed - field::RDATA).ok()?;
        let rdlength_at = fixed + field::RDLENGTH.start;
        *writer.body.get_mut(rdlength_at..)?.first_chunk_mut()? = rdlength.to_be_bytes();
    }
    Some((writer.body, ttl_offsets))
}

struct Writer<'a> {
    msg: &'a [u8],
    /// The body's offset in the message.
    start: usize,
    body: Vec<u8>,
    /// Owners so far, and pointers to them.
    owners: HashMap<NameId, [u8; POINTER_LEN]>,
}

impl Writer<'_> {
    /// Writes the owner name at `at` of the message.
    fn owner(&mut self, at: usize, id: NameId) -> Option<()> {
        if let Some(pointer) = self.owners.get(&id).copied() {
            return self.octets(&pointer);
        }
        if let Some(pointer) = pointer_to(self.start + self.body.len()) {
            self.owners.insert(id, pointer);
        }
        self.name(at)
    }

    /// Writes the name at `at` of the message uncompressed.
    fn name(&mut self, at: usize) -> Option<()> {
        self.octets(&decompressed(self.msg, at)?)
    }

    fn octets(&mut self, octets: &[u8]) -> Option<()> {
        let len = self.start + self.body.len() + octets.len();
        (len <= usize::from(u16::MAX)).then(|| self.body.extend_from_slice(octets))
    }
}
