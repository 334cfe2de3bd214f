//! Taking an upstream's response: what of it becomes an answer.
//!
//! An upstream is a resolver, and its response is checked all the same. A record whose data do not have
//! the form of their type makes the whole response a broken one. Records that do not belong to the
//! question ([`scope`]) and duplicates are left out. The answer is a positive one if the asked type is
//! there at the end of the aliases. All of it takes time in proportion to the message's length.
//!
//! Nearly always all records up to the OPT record are kept, and their octets are copied. Otherwise those
//! that are kept are [written again](rewrite).

mod names;
#[cfg(test)]
mod oracle;
mod rdata;
mod rewrite;
mod scope;

use core::ops::Range;
use std::collections::{HashMap, HashSet};

use super::{
    Answer, CLASS_IN, QUESTION_FIXED, TtlLimits,
    answer::{BadResponse, Parts, same_question},
    header::{self, field, rcode},
    name::end_of_record_name,
    options, rrtype, u16_at, u32_at,
    view::KEY_FLAG_DO,
};
use names::{Name, NameId, Names};
use rdata::Data;

impl Answer {
    /// Takes an upstream's response to `question` (wire form, any letter case, class IN), asked with the
    /// DO and CD bits of `key_flags`.
    ///
    /// Records that do not belong to the question are left out, and so are duplicates (RFC 2181
    /// section 5) and the OPT record, of which the Extended DNS Error is kept. An RRset gets the least
    /// of its TTLs, within the limits, and the answer's life is the least of all; a negative answer
    /// without a SOA record has none (RFC 2308 section 5). Response codes above REFUSED are passed on
    /// with a life of 0, without records, but for the aliases of YXDOMAIN (RFC 6672 section 2.2).
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
        let start = header::LEN + question.len();
        if !msg
            .get(header::LEN..start)
            .is_some_and(|echoed| same_question(echoed, question))
        {
            return Err(BadResponse::Question);
        }
        if flags & header::TC != 0 {
            return Err(BadResponse::Truncated);
        }
        let code = (flags & header::RCODE) as u8;
        if rcode::FAILURES.contains(&code) {
            return Err(BadResponse::Rcode(code.into()));
        }
        let mut names = Names::new(msg);
        let asked = Asked::read(&mut names, start, key_flags).ok_or(BadResponse::Question)?;
        let (mut records, opt) = read_records(&mut names, start, counts)?;
        if opt.rcode != 0 {
            let code = u16::from(opt.rcode) << 4 | u16::from(code);
            return Err(BadResponse::Rcode(code));
        }
        scope::mark(&names, &mut records, &asked).ok_or(BadResponse::Broken)?;
        let is_error = !matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
        records.retain(|record| match record.section {
            Section::Answer => record.kept && (!is_error || code == rcode::YXDOMAIN),
            _ => record.kept && !is_error,
        });
        unite_rrsets(&mut records);

        let answered = (records.iter())
            .any(|record| record.section == Section::Answer && record.rtype == asked.qtype);
        let denied = code == rcode::NXDOMAIN || !answered;
        let (ttls, life) = lives(msg, &records, denied, limits);
        let (mut body, ttl_offsets) =
            rewrite::body(msg, start, asked.qname, &records).ok_or(BadResponse::Broken)?;
        for (offset, ttl) in ttl_offsets.iter().zip(ttls) {
            let field = (body.get_mut(usize::from(*offset)..)).and_then(<[u8]>::first_chunk_mut);
            *field.ok_or(BadResponse::Broken)? = ttl.to_be_bytes();
        }
        let in_section = |section| {
            let of_section = records.iter().filter(|record| record.section == section);
            of_section.count() as u16
        };
        Ok(Self::new(&Parts {
            rcode: code,
            counts: SECTIONS.map(in_section),
            body: &body,
            ttl_offsets: &ttl_offsets,
            life: if is_error { 0 } else { life },
            authentic: flags & header::AD != 0,
            ede: opt.ede,
        }))
    }
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    qname: Name,
    qtype: u16,
    /// RRSIG, NSEC and NSEC3 records are wanted (RFC 4035 section 3.2.1).
    dnssec_ok: bool,
}

impl Asked {
    /// Reads the question, which ends at `end`. `None`: it is not of class IN, the only one that is
    /// forwarded and of which the forms of data are known.
    fn read(names: &mut Names<'_>, end: usize, key_flags: u8) -> Option<Self> {
        let qname = names.read(header::LEN)?;
        let (qtype, qclass) = (
            u16_at(names.msg(), qname.end)?,
            u16_at(names.msg(), qname.end + 2)?,
        );
        (qname.end + QUESTION_FIXED == end && qclass == CLASS_IN).then_some(Self {
            qname,
            qtype,
            dnssec_ok: key_flags & KEY_FLAG_DO != 0,
        })
    }
}

/// A section of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Section {
    Answer,
    Authority,
    Additional,
}

const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];

/// A record of the response.
#[derive(Clone, Copy, Debug)]
struct Record {
    section: Section,
    owner: Name,
    rtype: u16,
    class: u16,
    /// Seconds. With the top bit set it counts as 0 (RFC 2181 section 8).
    ttl: u32,
    /// Its data's octets.
    rdata: (usize, usize),
    data: Data,
    /// The type that a signature covers; 0 in other records.
    covers: u16,
    /// It belongs to the question.
    kept: bool,
}

impl Record {
    /// Where its data stand.
    fn rdata(&self) -> Range<usize> {
        let (start, end) = self.rdata;
        start..end
    }

    /// Tells RRsets apart. Signatures are one for each type that they cover (RFC 4035 section 2.2).
    fn rrset(&self) -> (Section, NameId, u16, u16) {
        (self.section, self.owner.id, self.rtype, self.covers)
    }
}

/// What the OPT record says.
#[derive(Clone, Copy, Debug, Default)]
struct Opt {
    /// The upper eight bits of the response code.
    rcode: u8,
    /// Info-code of an Extended DNS Error.
    ede: Option<u16>,
}

/// Reads all records but OPT. Each takes at least 11 octets, so the message bounds how many there are,
/// whatever the counts say.
fn read_records(
    names: &mut Names<'_>,
    start: usize,
    counts: [u16; 3],
) -> Result<(Vec<Record>, Opt), BadResponse> {
    let msg = names.msg();
    let mut records = Vec::new();
    let mut opt = None;
    let mut at = start;
    for (section, count) in SECTIONS.into_iter().zip(counts) {
        for _ in 0..count {
            let fixed = end_of_record_name(msg, at).ok_or(BadResponse::Malformed)?;
            let (Some(rtype), Some(class), Some(ttl), Some(rdlen)) = (
                u16_at(msg, fixed),
                u16_at(msg, fixed + 2),
                u32_at(msg, fixed + 4),
                u16_at(msg, fixed + 8),
            ) else {
                return Err(BadResponse::Malformed);
            };
            let rdata = fixed + 10..fixed + 10 + usize::from(rdlen);
            let octets = msg.get(rdata.clone()).ok_or(BadResponse::Malformed)?;
            if rtype == rrtype::OPT {
                if section != Section::Additional || opt.is_some() {
                    return Err(BadResponse::Malformed);
                }
                let [rcode, ..] = ttl.to_be_bytes();
                let ede = options::extended_error_in(octets);
                opt = Some(Opt { rcode, ede });
            } else {
                names.add_ttl(fixed + 4);
                let owner = names.read(at).ok_or(BadResponse::Broken)?;
                // Records of other classes are not kept, and their data have other forms.
                let data = match class {
                    CLASS_IN => rdata::read(names, rtype, rdata.clone()),
                    _ => Some(Data::default()),
                };
                records.push(Record {
                    section,
                    owner,
                    rtype,
                    class,
                    ttl: if ttl > i32::MAX as u32 { 0 } else { ttl },
                    rdata: (rdata.start, rdata.end),
                    data: data.ok_or(BadResponse::Broken)?,
                    covers: match rtype {
                        rrtype::RRSIG => u16_at(octets, 0).unwrap_or_default(),
                        _ => 0,
                    },
                    kept: false,
                });
            }
            at = rdata.end;
        }
    }
    Ok((records, opt.unwrap_or_default()))
}

/// Gives the records of an RRset one TTL, the least (RFC 2181 section 5.2), and leaves the first of those that
/// say the same (section 5).
fn unite_rrsets(records: &mut Vec<Record>) {
    if records.len() < 2 {
        return;
    }
    let mut least = HashMap::with_capacity(records.len());
    for record in records.iter() {
        let ttl = least.entry(record.rrset()).or_insert(record.ttl);
        *ttl = record.ttl.min(*ttl);
    }
    let mut seen = HashSet::with_capacity(records.len());
    records.retain_mut(|record| {
        record.ttl = least.get(&record.rrset()).copied().unwrap_or_default();
        seen.insert((record.rrset(), record.data.id))
    });
}

/// The TTLs of `records`, in seconds, and the life of the answer that they make up: the least of them.
///
/// What is `denied` may be believed as long as the SOA record's TTL and its MINIMUM say; without one it
/// must not be kept (RFC 2308 sections 2.2 and 5): a life of 0. The aliases before it keep their own TTLs.
/// All are then brought within the limits, so that clients see TTLs as long as the answer is kept; 0 stays 0.
fn lives(msg: &[u8], records: &[Record], denied: bool, limits: &TtlLimits) -> (Vec<u32>, u32) {
    let mut soas = (records.iter())
        .filter(|record| record.section == Section::Authority && record.rtype == rrtype::SOA);
    let minimum = (soas.next()).and_then(|soa| u32_at(msg, soa.rdata().end.checked_sub(4)?));
    let negative_cap = (minimum.unwrap_or(u32::MAX)).min(limits.max_negative);
    let bounded = |record: &Record| {
        let cap = match record.section {
            Section::Authority | Section::Additional if denied => negative_cap.min(limits.max),
            _ => limits.max,
        };
        match record.ttl.min(cap) {
            0 => 0,
            ttl => ttl.max(limits.min),
        }
    };
    let ttls: Vec<u32> = records.iter().map(bounded).collect();
    let life = match ttls.iter().min() {
        Some(life) if !denied || minimum.is_some() => *life,
        _ => 0,
    };
    (ttls, life)
}

#[cfg(test)]
mod tests;
