//! Builds the answers of the policy, record by record.

use crate::dns::{Answer, CLASS_IN, answer::AnswerFields, rrtype};

/// A compression pointer to the question's name, as the owner of a record.
pub(super) const QUESTION: &[u8] = &[0xc0, 12];

/// TTL of the SOA record of a negative answer, and its MINIMUM, in seconds.
pub(super) const NEGATIVE_TTL: u32 = 60;

/// Largest body, in octets: header, question and OPT record take the rest of a message.
const MAX_BODY: usize = 65_000;

/// The records of an answer, those of the answer section first.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    octets: Vec<u8>,
    ttl_offsets: Vec<u16>,
    counts: [u16; 3],
    least_ttl: Option<u32>,
}

impl Body {
    /// Adds a record to the answer section.
    pub(super) fn answer(&mut self, owner: &[u8], rtype: u16, class: u16, ttl: u32, rdata: &[u8]) {
        let [answers, ..] = &mut self.counts;
        *answers += 1;
        self.add(owner, rtype, class, ttl, rdata);
    }

    /// Adds the SOA record that makes a negative answer cacheable (RFC 2308 section 5).
    pub(super) fn soa(&mut self, owner: &[u8]) {
        // MNAME and RNAME are the root: there is no zone.
        let mut rdata = vec![0, 0];
        for number in [1, 3_600, 600, 86_400, NEGATIVE_TTL] {
            rdata.extend_from_slice(&u32::to_be_bytes(number));
        }
        self.authority(owner, rrtype::SOA, NEGATIVE_TTL, &rdata);
    }

    /// Adds a record of class IN to the authority section.
    pub(super) fn authority(&mut self, owner: &[u8], rtype: u16, ttl: u32, rdata: &[u8]) {
        let [_, authorities, _] = &mut self.counts;
        *authorities += 1;
        self.add(owner, rtype, CLASS_IN, ttl, rdata);
    }

    fn add(&mut self, owner: &[u8], rtype: u16, class: u16, ttl: u32, rdata: &[u8]) {
        self.octets.extend_from_slice(owner);
        self.octets.extend_from_slice(&rtype.to_be_bytes());
        self.octets.extend_from_slice(&class.to_be_bytes());
        self.ttl_offsets.push(self.octets.len() as u16);
        self.octets.extend_from_slice(&ttl.to_be_bytes());
        self.octets
            .extend_from_slice(&(rdata.len() as u16).to_be_bytes());
        self.octets.extend_from_slice(rdata);
        self.least_ttl = Some(self.least_ttl.map_or(ttl, |least| least.min(ttl)));
    }

    /// As [`into_answer`](Self::into_answer), for a body that is known to fit: one or two records.
    pub(super) fn into_small_answer(self, rcode: u8, ede: Option<u16>) -> Answer {
        let ttl = self.least_ttl.unwrap_or(NEGATIVE_TTL);
        self.into_answer(rcode, ede)
            .unwrap_or_else(|| Answer::failure(rcode, ede, ttl))
    }

    /// The answer with this response code and Extended DNS Error. `None`: it does not fit in a message.
    pub(super) fn into_answer(self, rcode: u8, ede: Option<u16>) -> Option<Answer> {
        (self.octets.len() <= MAX_BODY).then(|| {
            Answer::new(&AnswerFields {
                rcode,
                counts: self.counts,
                body: &self.octets,
                ttl_offsets: &self.ttl_offsets,
                ttl: self.least_ttl.unwrap_or(NEGATIVE_TTL),
                authentic: false,
                ede,
            })
        })
    }
}
