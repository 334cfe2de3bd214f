//! Taking an upstream's response: what of it becomes an answer.

use super::{
    Answer, TtlLimits,
    answer::{BadResponse, Parts, same_question},
    header::{self, field, rcode},
    name::{end_of_record_name, is_whole},
    rewrite, rrtype, u16_at,
    view::KEY_FLAG_DO,
};

impl Answer {
    /// Takes an upstream's response to `question` (wire form, any letter case), asked with the DO
    /// and CD bits of `key_flags`.
    ///
    /// TTLs with the top bit set count as 0 (RFC 2181 section 8); all are lowered to the limits.
    /// Without a SOA record a negative answer has no life (RFC 2308 section 5). The OPT record is
    /// left out, and with it whatever follows it in the additional section.
    ///
    /// # Errors
    /// [`BadResponse`]; the caller has already matched the ID and the sender.
    pub fn from_response(
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
    ) -> Result<Self, BadResponse> {
        let flags = u16_at(msg, field::FLAGS).ok_or(BadResponse::Malformed)?;
        let count = |at| u16_at(msg, at).ok_or(BadResponse::Malformed);
        let counts = [
            count(field::ANCOUNT)?,
            count(field::NSCOUNT)?,
            count(field::ARCOUNT)?,
        ];
        if flags & header::QR == 0 || flags & header::OPCODE != 0 || count(field::QDCOUNT)? != 1 {
            return Err(BadResponse::Malformed);
        }
        let body_start = header::LEN + question.len();
        if !msg
            .get(header::LEN..body_start)
            .is_some_and(|echoed| same_question(echoed, question))
        {
            return Err(BadResponse::Question);
        }
        if flags & header::TC != 0 {
            return Err(BadResponse::Truncated);
        }
        let code = (flags & header::RCODE) as u8;
        if code != rcode::NOERROR && code != rcode::NXDOMAIN {
            return Err(BadResponse::Rcode(code.into()));
        }
        // DNSSEC's records are only for those who asked for them (RFC 4035 section 3.2.1).
        let qtype = question
            .last_chunk::<4>()
            .map_or(0, |[t0, t1, _, _]| u16::from_be_bytes([*t0, *t1]));
        let dnssec_ok = key_flags & KEY_FLAG_DO != 0;
        let unwanted = |rtype| !dnssec_ok && rtype != qtype && rrtype::DNSSEC.contains(&rtype);
        let records = Records::read(msg, body_start, counts, qtype, unwanted)?;
        if records.unwanted {
            let rest = rewrite::only(msg, body_start, |rtype| !unwanted(rtype));
            let rest = rest.ok_or(BadResponse::Malformed)?;
            return Self::from_response(&rest, question, key_flags, limits);
        }
        if records.extended_rcode != 0 {
            return Err(BadResponse::Rcode(
                u16::from(records.extended_rcode) << 4 | u16::from(code),
            ));
        }
        // Also when aliases lead to a name that has nothing (RFC 2308 section 2.2).
        let nothing = counts[0] == 0 || (!records.answered && records.soa_minimum.is_some());
        let negative = code == rcode::NXDOMAIN || nothing;
        let body = msg
            .get(body_start..records.end)
            .ok_or(BadResponse::Malformed)?;
        let ad = flags & header::AD != 0;
        Ok(Self::pack(body, &records, negative, code, ad, limits))
    }

    fn pack(
        body: &[u8],
        records: &Records,
        negative: bool,
        code: u8,
        ad: bool,
        limits: &TtlLimits,
    ) -> Self {
        // What is denied lives as long as the SOA record says; the aliases before it are as they
        // are.
        let negative_cap = records
            .soa_minimum
            .unwrap_or(u32::MAX)
            .min(limits.max_negative)
            .min(limits.max);
        let [answers, ..] = records.counts;
        let mut positive = if negative { answers } else { u16::MAX };
        let mut answer = Self::new(&Parts {
            rcode: code,
            counts: records.counts,
            body,
            ttl_offsets: &records.ttl_offsets,
            life: 0,
            authentic: ad,
            ede: None,
        });
        let mut least = limits.max;
        answer.edit_ttls(|mut ttl| {
            if ttl > i32::MAX as u32 {
                ttl = 0;
            }
            let cap = if positive > 0 {
                limits.max
            } else {
                negative_cap
            };
            positive = positive.saturating_sub(1);
            ttl = ttl.min(cap);
            least = least.min(ttl);
            ttl
        });
        answer.set_life(match (negative, records.soa_minimum) {
            (true, None) => 0,
            _ if records.ttl_offsets.is_empty() => 0,
            _ if least == 0 => 0,
            _ => least.max(limits.min),
        });
        answer
    }
}

/// What a walk over a response's records finds.
struct Records {
    /// Offset of the end of the last record that is kept.
    end: usize,
    /// Records kept, by section.
    counts: [u16; 3],
    /// Offsets of the TTL fields from the end of the question.
    ttl_offsets: Vec<u16>,
    /// MINIMUM of the SOA record in the authority section.
    soa_minimum: Option<u32>,
    extended_rcode: u8,
    /// There are records that the client must not get.
    unwanted: bool,
    /// There are records of the type that was asked for.
    answered: bool,
}

impl Records {
    fn read(
        msg: &[u8],
        start: usize,
        sections: [u16; 3],
        qtype: u16,
        unwanted: impl Fn(u16) -> bool,
    ) -> Result<Self, BadResponse> {
        let mut found = Self {
            end: start,
            counts: [0; 3],
            ttl_offsets: Vec::new(),
            soa_minimum: None,
            extended_rcode: 0,
            unwanted: false,
            answered: false,
        };
        let mut at = start;
        let mut opt_seen = false;
        for (section, (count, kept)) in sections.into_iter().zip(&mut found.counts).enumerate() {
            for _ in 0..count {
                let fixed = end_of_record_name(msg, at).ok_or(BadResponse::Malformed)?;
                let rtype = u16_at(msg, fixed).ok_or(BadResponse::Malformed)?;
                let rdlen = u16_at(msg, fixed + 8).ok_or(BadResponse::Malformed)?;
                let next = fixed + 10 + usize::from(rdlen);
                let rdata = msg.get(fixed + 10..next).ok_or(BadResponse::Malformed)?;
                if rtype == rrtype::OPT {
                    if section != 2 || opt_seen {
                        return Err(BadResponse::Malformed);
                    }
                    opt_seen = true;
                    found.extended_rcode = *msg.get(fixed + 4).ok_or(BadResponse::Malformed)?;
                } else if !opt_seen {
                    found.unwanted |= unwanted(rtype);
                    found.answered |= section == 0 && rtype == qtype;
                    if rtype == rrtype::SOA && section == 1 {
                        let minimum = rdata.last_chunk().map(|b| u32::from_be_bytes(*b));
                        found.soa_minimum = minimum.filter(|_| rdata.len() >= 22);
                    }
                    let offset =
                        u16::try_from(fixed + 4 - start).map_err(|_| BadResponse::Malformed)?;
                    found.ttl_offsets.push(offset);
                    // The fields so far, in order: names point backwards.
                    let is_ttl = |place: usize| {
                        let place = place.checked_sub(start);
                        let after = |place| {
                            found
                                .ttl_offsets
                                .partition_point(|at| usize::from(*at) <= place)
                        };
                        let last = |place| found.ttl_offsets.get(after(place).checked_sub(1)?);
                        place.is_some_and(|place| {
                            last(place).is_some_and(|at| place < usize::from(*at) + 4)
                        })
                    };
                    if !is_whole(msg, at, is_ttl)
                        || !rewrite::names_are_whole(msg, rtype, fixed + 10, next, is_ttl)
                    {
                        return Err(BadResponse::Malformed);
                    }
                    *kept += 1;
                    found.end = next;
                }
                at = next;
            }
        }
        Ok(found)
    }
}
