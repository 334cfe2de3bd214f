//! Answers that are made from others, or without an upstream's response: aged and stale copies,
//! failures.

use super::{Answer, AnswerFields, AnswerRef, FLAG_STALE, FLAG_TC, Fixed, field, set};
use crate::{
    checksum,
    dns::{edns::ede, header::rcode},
};

/// TTL of a stale answer, in seconds (RFC 8767 section 4). After a failure it is cached as long, so that
/// the upstreams are not queried for it more often (section 5, failure recheck).
pub(crate) const STALE_TTL: u32 = 30;

impl Answer {
    /// An answer of no records: an error that is cached for `ttl` seconds.
    pub fn failure(rcode: u8, ede: Option<u16>, ttl: u32) -> Self {
        Self::new(&AnswerFields {
            rcode,
            ttl,
            ede,
            ..AnswerFields::default()
        })
    }

    /// An answer, of no records, that came truncated and could not be fetched over TCP: its reply
    /// has TC set. It must not be cached.
    pub(crate) fn truncated(rcode: u8, ede: u16) -> Self {
        let mut answer = Self::failure(rcode, Some(ede), 0);
        answer.set_flags(FLAG_TC);
        answer
    }

    /// The answer, fresh for `seconds` at most. Its TTLs stay.
    pub(crate) fn for_at_most(mut self, seconds: u32) -> Self {
        let ttl = self.as_ref().ttl();
        self.set_ttl(ttl.min(seconds));
        self
    }

    pub(super) fn edit_fixed(&mut self, edit: impl FnOnce(&mut Fixed)) {
        if let Some(fixed) = self.0.first_chunk_mut() {
            edit(fixed);
        }
    }

    fn set_ttl(&mut self, ttl: u32) {
        self.edit_fixed(|fixed| set(fixed, field::TTL, ttl.to_le_bytes()));
    }

    fn set_flags(&mut self, flags: u8) {
        self.edit_fixed(|fixed| set(fixed, field::FLAGS, [flags]));
    }

    /// Replaces every TTL in the body by what `edit` gives for it.
    fn edit_ttls(&mut self, edit: impl Fn(u32) -> u32) {
        let body_len = self.as_ref().body.len();
        let (body, offsets) = (self.0.get_mut(field::BODY..))
            .and_then(|rest| rest.split_at_mut_checked(body_len))
            .unwrap_or_default();
        for offset in offsets.as_chunks().0 {
            let ttl = body.get_mut(usize::from(u16::from_le_bytes(*offset))..);
            if let Some(ttl) = ttl.and_then(<[u8]>::first_chunk_mut) {
                *ttl = edit(u32::from_be_bytes(*ttl)).to_be_bytes();
            }
        }
        let sum = checksum::fold(checksum::add(0, self.as_ref().body));
        self.edit_fixed(|fixed| set(fixed, field::SUM, sum));
    }
}

impl AnswerRef<'_> {
    fn to_answer(self) -> Answer {
        let mut octets = Vec::with_capacity(self.flat_len());
        self.append_to(&mut octets);
        Answer(octets)
    }

    /// The answer as it is `age` seconds later, with its TTLs lowered.
    pub fn aged(&self, age: u32) -> Answer {
        let mut answer = Answer::default();
        self.aged_into(age, &mut answer);
        answer
    }

    /// As [`aged`](Self::aged), written over `answer`.
    pub(crate) fn aged_into(&self, age: u32, answer: &mut Answer) {
        answer.0.clear();
        answer.0.reserve_exact(self.flat_len());
        self.append_to(&mut answer.0);
        answer.edit_ttls(|ttl| ttl.saturating_sub(age));
        answer.set_ttl(self.ttl().saturating_sub(age));
    }

    /// The answer as it is served when it has expired and no upstream gives a newer one
    /// (RFC 8767): with `STALE_TTL`, the Extended DNS Error 3 or 19, and without AD.
    pub fn stale(&self) -> Answer {
        let stale = match self.rcode() {
            rcode::NXDOMAIN => ede::STALE_NXDOMAIN,
            _ => ede::STALE,
        };
        let mut answer = self.to_answer();
        answer.set_ttl(STALE_TTL);
        answer.edit_ttls(|_| STALE_TTL);
        answer.set_flags(FLAG_STALE);
        answer.edit_fixed(|fixed| set(fixed, field::EDE, (stale + 1).to_le_bytes()));
        answer
    }
}
