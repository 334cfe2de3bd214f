//! One response made of the answers to several questions along an alias chain.
//!
//! An upstream gives the aliases to a name that it does not resolve, and another answer has the rest. Their
//! records, with names in full, make up a message which [`ResponseReader::read_composed`] reads as any response
//! to the first question: so there is one place that decides what belongs to it, and an alias loop is found there.
//!
//! [`ResponseReader::read_composed`]: super::ResponseReader::read_composed

use super::{
    AnswerRef, Edns,
    aliases::{self, FullName},
    edns::option,
    header,
    name::{LabelOrPointer, eq_ignore_case, for_each_label_of, parent},
    record::{Record, Section, field},
    response::rdata::{self, Field},
    rrtype, u16_at,
};

/// The records so far.
#[derive(Debug, Default)]
pub struct Composition {
    /// With names in full.
    answers: Vec<u8>,
    /// The proofs that belong to the aliases (RFC 4035 section 3.1.3.3).
    authorities: Vec<u8>,
    counts: [u16; 2],
    /// An answer was not authentic.
    unproved: bool,
    /// The first Extended DNS Error.
    ede: Option<u16>,
}

impl Composition {
    /// Adds the aliases in `answer` to `question` up to `target`, one of their targets, with their signatures and proofs.
    /// What the answer has about `target` and names behind it is left out.
    ///
    /// `None`: they cannot be read, or no message can hold them.
    pub(crate) fn add_aliases(
        &mut self,
        question: &[u8],
        answer: AnswerRef<'_>,
        target: &[u8],
    ) -> Option<()> {
        let mut owners = Vec::new();
        aliases::follow(question, answer, |owner, next| {
            owners.push(*owner);
            eq_ignore_case(next.octets(), target).then_some(())
        })?;
        let octets = Octets::new(question, answer);
        for record in answer.records(octets.start()) {
            let record = record?;
            let rtype = match record.rtype {
                rrtype::RRSIG => u16_at(record.rdata.rest(), 0)?,
                other => other,
            };
            let belongs = match (record.section, rtype) {
                (Section::Answer, rrtype::CNAME | rrtype::DNAME) => {
                    let owner = octets.name(octets.start() + record.owner)?;
                    owners.iter().any(|alias| match rtype {
                        rrtype::CNAME => eq_ignore_case(alias.octets(), owner.octets()),
                        _ => is_below(alias.octets(), owner.octets()),
                    })
                }
                (Section::Authority, rrtype::NSEC | rrtype::NSEC3) => true,
                _ => false,
            };
            let out = match record.section {
                Section::Answer => &mut self.answers,
                _ => &mut self.authorities,
            };
            if belongs {
                octets.write(&record, out)?;
                *self.counts.get_mut(record.section as usize)? += 1;
            }
        }
        self.note(answer);
        Some(())
    }

    /// The response to `question` that has the records so far and all of `answer`, the one to the last target,
    /// which is `asked`.
    ///
    /// `None`: that answer cannot be read, or no message can hold it all.
    pub fn finish(
        mut self,
        question: &[u8],
        asked: &[u8],
        answer: AnswerRef<'_>,
    ) -> Option<Vec<u8>> {
        self.note(answer);
        let [answers, authorities] = self.counts;
        let [more_answers, more_authorities, mut additionals] = answer.section_counts();
        let octets = Octets::new(asked, answer);
        let mut additional = Vec::new();
        for record in answer.records(octets.start()) {
            let record = record?;
            let out = match record.section {
                Section::Answer => &mut self.answers,
                Section::Authority => &mut self.authorities,
                Section::Additional => &mut additional,
            };
            octets.write(&record, out)?;
        }
        if let Some(code) = self.ede {
            additionals = additionals.checked_add(1)?;
            let [high, low] = code.to_be_bytes();
            additional.extend_from_slice(&Edns::record(0, false, 6));
            additional.extend_from_slice(&[0, option::EDE as u8, 0, 2, high, low]);
        }
        let ad = if self.unproved { 0 } else { header::AD };
        let flags = header::QR | ad | u16::from(answer.rcode());
        let counts = [
            1,
            answers.checked_add(more_answers)?,
            authorities.checked_add(more_authorities)?,
            additionals,
        ];
        let head = [0, flags].into_iter().chain(counts);
        let head: Vec<u8> = head.flat_map(u16::to_be_bytes).collect();
        let msg = [
            &head,
            question,
            &self.answers,
            &self.authorities,
            &additional,
        ]
        .concat();
        (msg.len() <= usize::from(u16::MAX)).then_some(msg)
    }

    fn note(&mut self, answer: AnswerRef<'_>) {
        self.unproved |= !answer.authentic();
        self.ede = self.ede.or(answer.ede());
    }
}

/// Whether `name` is below `zone`, both in wire form.
fn is_below(name: &[u8], zone: &[u8]) -> bool {
    let mut above = parent(name);
    while let Some(name) = above {
        if eq_ignore_case(name, zone) {
            return true;
        }
        above = parent(name);
    }
    false
}

/// The octets of a reply to `question`: the question and the answer's body are not in one piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Octets<'a> {
    question: &'a [u8],
    body: &'a [u8],
}

impl<'a> Octets<'a> {
    pub(super) fn new(question: &'a [u8], answer: AnswerRef<'a>) -> Self {
        Self {
            question,
            body: answer.body(),
        }
    }

    /// Offset of the body.
    pub(super) fn start(&self) -> usize {
        header::LEN + self.question.len()
    }

    fn element(&self, at: usize) -> Option<LabelOrPointer<'a>> {
        match at.checked_sub(self.start()) {
            Some(at) => LabelOrPointer::read(self.body, at),
            None => LabelOrPointer::read(self.question, at.checked_sub(header::LEN)?),
        }
    }

    /// The name at an offset of the reply. `None`: it cannot be read.
    pub(super) fn name(&self, at: usize) -> Option<FullName> {
        let mut name = FullName::default();
        for_each_label_of(|at| self.element(at), at, |_, label| name.push(label))?;
        Some(name)
    }

    /// Writes a record of the body, with its names in full.
    fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) -> Option<()> {
        out.extend_from_slice(self.name(self.start() + record.owner)?.octets());
        let fixed = out.len();
        out.extend_from_slice(self.body.get(record.fixed..)?.get(..field::RDATA)?);
        rdata::fields(record.rtype, record.rdata, |field| {
            match field {
                Field::Name(name) => {
                    let name = self.name(self.start() + name.start.at())?;
                    out.extend_from_slice(name.octets());
                }
                Field::Octets(octets) => out.extend_from_slice(octets),
            }
            (out.len() <= usize::from(u16::MAX)).then_some(())
        })?;
        let len = u16::try_from(out.len() - fixed - field::RDATA).ok()?;
        let place = out.get_mut(fixed + field::RDLENGTH.start..)?;
        *place.first_chunk_mut()? = len.to_be_bytes();
        Some(())
    }
}

#[cfg(test)]
mod tests;
