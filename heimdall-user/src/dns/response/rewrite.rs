//! The body of an answer: the records of a response that are kept, as they follow the question.

use super::{
    Candidate,
    names::{NameId, Names},
    rdata::{self, Field},
};
use crate::dns::{
    header,
    name::{for_each_label, pointer_to},
    record::field,
};

/// The octets as they are, if the records follow each other and the question, which ends at `start`, and
/// none has names to expand: names point backwards, so what follows can be left out. Gives the offsets of the
/// TTL fields in them to `ttl_offsets`.
pub(super) fn copied<'a>(
    msg: &'a [u8],
    start: usize,
    records: &[Candidate],
    ttl_offsets: &mut Vec<u16>,
) -> Option<&'a [u8]> {
    let mut end = start;
    ttl_offsets.clear();
    for record in records {
        if record.owner_at() != end || record.expand {
            return None;
        }
        ttl_offsets.push(u16::try_from(record.ttl_at() - start).ok()?);
        end = record.end();
    }
    msg.get(start..end)
}

/// The records rewritten to `body`: names may point into some that are left out, or be compressed where they
/// must not be. Names in data are
/// written uncompressed, as they may be in any type (RFC 3597 section 4); an owner that was written before
/// is a pointer.
///
/// `None`: no message can hold them.
pub(super) fn rewritten(
    names: &mut Names,
    msg: &[u8],
    start: usize,
    qname: NameId,
    records: &[Candidate],
    body: &mut Vec<u8>,
    ttl_offsets: &mut Vec<u16>,
) -> Option<()> {
    names.set_written(qname, pointer_to(header::LEN)?);
    body.clear();
    ttl_offsets.clear();
    let mut writer = Writer { msg, start, body };
    for record in records {
        match names.written(record.owner) {
            Some(pointer) => writer.octets(&pointer)?,
            None => {
                if let Some(pointer) = pointer_to(start + writer.body.len()) {
                    names.set_written(record.owner, pointer);
                }
                writer.name(record.owner_at())?;
            }
        }
        let fixed = writer.body.len();
        ttl_offsets.push(u16::try_from(fixed + field::TTL.start).ok()?);
        // With the RDLENGTH of before, which is set below.
        writer.octets(msg.get(record.fixed()..)?.get(..field::RDATA)?)?;
        rdata::fields(record.rtype, record.data(msg)?, |field| match field {
            Field::Name(name) => writer.name(name.start.at()),
            Field::Octets(octets) => writer.octets(octets),
        })?;
        let rdlength = u16::try_from(writer.body.len() - fixed - field::RDATA).ok()?;
        let rdlength_at = fixed + field::RDLENGTH.start;
        *writer.body.get_mut(rdlength_at..)?.first_chunk_mut()? = rdlength.to_be_bytes();
    }
    Some(())
}

struct Writer<'a> {
    msg: &'a [u8],
    /// The body's offset in the message.
    start: usize,
    body: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// Writes the name at `at` of the message uncompressed.
    fn name(&mut self, at: usize) -> Option<()> {
        for_each_label(self.msg, at, |_, label| self.body.extend_from_slice(label))?;
        self.octets(&[])
    }

    fn octets(&mut self, octets: &[u8]) -> Option<()> {
        let len = self.start + self.body.len() + octets.len();
        (len <= usize::from(u16::MAX)).then(|| self.body.extend_from_slice(octets))
    }
}
