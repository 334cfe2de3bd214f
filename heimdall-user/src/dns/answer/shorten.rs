//! Leaving sections out of an answer that does not fit whole (RFC 2181 section 9).
//!
//! TC means that something the client needs is missing. The additional section, and most
//! authority sections, only add to the answer: they are left out first. Sections are left out whole, so
//! that no RRset is sent in part or without its signatures.

use super::{AnswerRef, Fixed, field, set};
use crate::{
    checksum,
    dns::{header::rcode, record::Section, rrtype},
};

/// An answer without its last sections.
pub(in crate::dns) struct Shortened<'a> {
    fixed: Fixed,
    body: &'a [u8],
    ttls: &'a [u8],
}

impl Shortened<'_> {
    /// A view of it.
    pub(in crate::dns) fn as_ref(&self) -> AnswerRef<'_> {
        AnswerRef {
            fixed: &self.fixed,
            body: self.body,
            ttls: self.ttls,
        }
    }
}

impl<'a> AnswerRef<'a> {
    /// The answer to a question for `qtype`, which ends at offset `start` of its message, with a
    /// body of at most `room` octets: without the additional section and, if that is not enough,
    /// without the authority section. `None` if what the client needs does not fit.
    ///
    /// The authority section is needed unless the question is answered by records of its type: a
    /// denial has its SOA record there (RFC 2308 section 2), a referral its servers. NSEC and NSEC3
    /// records prove that a wildcard applied (RFC 4035 section 3.1.3.3) and are needed, too.
    pub(in crate::dns) fn shortened(
        &self,
        start: usize,
        qtype: u16,
        room: usize,
    ) -> Option<Shortened<'a>> {
        let [answers, authorities, _] = self.section_counts();
        let (mut answer_end, mut authority_end) = (0, 0);
        let (mut answered, mut proof) = (false, false);
        for record in self.records(start) {
            let record = record?;
            match record.section {
                Section::Answer => {
                    answered |= record.rtype == qtype;
                    answer_end = record.end();
                }
                Section::Authority => {
                    proof |= matches!(record.rtype, rrtype::NSEC | rrtype::NSEC3);
                }
                Section::Additional => break,
            }
            authority_end = record.end();
        }
        let authority_is_extra = answered && !proof && self.rcode() == rcode::NOERROR;
        if authority_end <= room {
            self.first(answers, authorities, authority_end)
        } else if authority_is_extra && answer_end <= room {
            self.first(answers, 0, answer_end)
        } else {
            None
        }
    }

    /// The first records, which end at `end` of the body.
    fn first(&self, answers: u16, authorities: u16, end: usize) -> Option<Shortened<'a>> {
        let records = usize::from(answers) + usize::from(authorities);
        let body = self.body.get(..end)?;
        let ttls = self.ttls.get(..2 * records)?;
        let [a0, a1] = answers.to_be_bytes();
        let [n0, n1] = authorities.to_be_bytes();
        let [body_len, ttl_count] = [body.len(), records].map(|count| (count as u16).to_le_bytes());
        let mut fixed = *self.fixed;
        set(&mut fixed, field::BODY_LEN, body_len);
        set(&mut fixed, field::TTL_COUNT, ttl_count);
        set(&mut fixed, field::COUNTS, [a0, a1, n0, n1, 0, 0]);
        set(
            &mut fixed,
            field::SUM,
            checksum::fold(checksum::add(0, body)),
        );
        Some(Shortened { fixed, body, ttls })
    }
}

#[cfg(test)]
mod tests;
