//! An answer made from an upstream's response.
//!
//! An upstream is a resolver, and its response is checked nevertheless. A record whose data do not have
//! the form of their type makes the whole response a broken one. Records that do not belong to the
//! question ([`scope`]) and duplicates are left out. The answer is a positive one if the queried type is
//! present at the end of the aliases. All of it takes time in proportion to the message's length.
//!
//! Nearly always all records up to the OPT record are kept, and their octets are copied. Otherwise the
//! kept ones are [rewritten](rewrite).

mod names;
#[cfg(test)]
mod oracle;
pub(super) mod rdata;
mod rewrite;
mod scope;
mod ttl;

use thiserror::Error;

use super::{
    Answer, CLASS_IN, KEY_FLAG_DO,
    answer::AnswerFields,
    cursor::Cursor,
    header::{self, Header, rcode},
    options,
    record::{Record, Records, Section},
    rrtype, same_question, u16_at,
};
use names::{Name, NameId, Names};
use rdata::Data;
pub use ttl::TtlLimits;

/// Why an upstream's response gives no answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadResponse {
    /// It ends too early, or is not a response.
    #[error("malformed response")]
    Malformed,
    /// It answers the question, and is wrong: a name or data that do not have the form that they
    /// must have (RFC 9267), or an alias loop.
    #[error("invalid answer")]
    InvalidAnswer,
    /// It answers another question.
    #[error("response to another question")]
    Question,
    /// TC is set: the whole answer has to be fetched over TCP.
    #[error("truncated response")]
    Truncated,
    /// A response code that is no answer: FORMERR, SERVFAIL, NOTIMP, REFUSED, or an extended one.
    #[error("response code {0}")]
    Rcode(u16),
}

impl Answer {
    /// The answer in an upstream's response to `question` (wire form, any letter case, class IN), which
    /// was asked with the DO and CD bits of `key_flags`.
    ///
    /// Records that do not belong to the question are left out, and so are duplicates (RFC 2181
    /// section 5) and the OPT record, of which the Extended DNS Error is kept. An RRset gets the least
    /// of its TTLs, within the limits, and the answer's TTL is the least of all; a negative answer
    /// without a SOA record has a TTL of 0 (RFC 2308 section 5), and so have response codes above
    /// REFUSED, which are passed on without records, except for the aliases of YXDOMAIN (RFC 6672
    /// section 2.2).
    ///
    /// # Errors
    /// [`BadResponse`]; the caller has already matched the ID and the sender.
    pub fn from_response(
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
    ) -> Result<Self, BadResponse> {
        let Header { flags, counts } = Header::read(msg).ok_or(BadResponse::Malformed)?;
        let [1, counts @ ..] = counts else {
            return Err(BadResponse::Malformed);
        };
        if flags & (header::QR | header::OPCODE) != header::QR {
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
        let (mut records, opt) =
            read_records(&mut names, Records::new(Cursor::new(msg, start), counts))?;
        if opt.rcode != 0 {
            let code = u16::from(opt.rcode) << 4 | u16::from(code);
            return Err(BadResponse::Rcode(code));
        }
        scope::mark(&names, &mut records, &asked).ok_or(BadResponse::InvalidAnswer)?;
        let is_error = !matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
        records.retain(|record| match record.wire.section {
            Section::Answer => record.kept && (!is_error || code == rcode::YXDOMAIN),
            _ => record.kept && !is_error,
        });
        ttl::unite_rrsets(&mut records);

        let answered = (records.iter()).any(|record| {
            record.wire.section == Section::Answer && record.wire.rtype == asked.qtype
        });
        let denied = code == rcode::NXDOMAIN || !answered;
        let (ttls, ttl) = ttl::bounded(&records, denied, limits);
        let (mut body, ttl_offsets) =
            rewrite::body(msg, start, asked.qname, &records).ok_or(BadResponse::InvalidAnswer)?;
        for (offset, ttl) in ttl_offsets.iter().zip(ttls) {
            let field = (body.get_mut(usize::from(*offset)..)).and_then(<[u8]>::first_chunk_mut);
            *field.ok_or(BadResponse::InvalidAnswer)? = ttl.to_be_bytes();
        }
        let in_section = |section| {
            let of_section = (records.iter()).filter(|record| record.wire.section == section);
            of_section.count() as u16
        };
        Ok(Self::new(&AnswerFields {
            rcode: code,
            counts: Section::ALL.map(in_section),
            body: &body,
            ttl_offsets: &ttl_offsets,
            ttl: if is_error { 0 } else { ttl },
            authentic: flags & header::AD != 0,
            ede: opt.ede,
        }))
    }
}

/// The question of a response.
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
        let mut cursor = Cursor::new(names.msg(), header::LEN);
        cursor.name()?;
        let (qtype, qclass) = (cursor.u16()?, cursor.u16()?);
        (cursor.at() == end && qclass == CLASS_IN).then_some(Self {
            qname,
            qtype,
            dnssec_ok: key_flags & KEY_FLAG_DO != 0,
        })
    }
}

/// A record of the response, which may become one of the answer.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    wire: Record<'a>,
    /// The owner name.
    owner: NameId,
    /// Seconds. With the top bit set it counts as 0 (RFC 2181 section 8).
    ttl: u32,
    data: Data,
    /// The type that a signature covers; 0 in other records.
    covers: u16,
    /// It belongs to the question.
    kept: bool,
}

impl Candidate<'_> {
    /// The key of its RRset. Signatures form one for each type that they cover (RFC 4035 section 2.2).
    fn rrset(&self) -> (Section, NameId, u16, u16) {
        (self.wire.section, self.owner, self.wire.rtype, self.covers)
    }
}

/// The response's OPT record.
#[derive(Clone, Copy, Debug, Default)]
struct Opt {
    /// The upper eight bits of the response code.
    rcode: u8,
    /// Info-code of an Extended DNS Error.
    ede: Option<u16>,
}

/// Reads all records but OPT.
fn read_records<'a>(
    names: &mut Names<'a>,
    records: Records<'a>,
) -> Result<(Vec<Candidate<'a>>, Opt), BadResponse> {
    let mut candidates = Vec::new();
    let mut opt = None;
    for record in records {
        let record = record.ok_or(BadResponse::Malformed)?;
        if record.rtype != rrtype::OPT {
            candidates.push(read_record(names, record).ok_or(BadResponse::InvalidAnswer)?);
            continue;
        }
        if record.section != Section::Additional || opt.is_some() {
            return Err(BadResponse::Malformed);
        }
        let [rcode, ..] = record.ttl.to_be_bytes();
        let ede = options::extended_error_in(record.rdata);
        opt = Some(Opt { rcode, ede });
    }
    Ok((candidates, opt.unwrap_or_default()))
}

/// Reads the names and data of a record. `None`: they do not have the form that they must have.
fn read_record<'a>(names: &mut Names<'a>, wire: Record<'a>) -> Option<Candidate<'a>> {
    names.add_ttl(wire.ttl_at());
    let owner = names.read(wire.owner)?.id;
    // Records of other classes are not kept, and their data have other forms.
    let data = match wire.class {
        CLASS_IN => rdata::read(names, wire.rtype, wire.rdata)?,
        _ => Data::default(),
    };
    Some(Candidate {
        wire,
        owner,
        ttl: if wire.ttl > i32::MAX as u32 {
            0
        } else {
            wire.ttl
        },
        data,
        covers: match wire.rtype {
            rrtype::RRSIG => u16_at(wire.rdata.rest(), 0).unwrap_or_default(),
            _ => 0,
        },
        kept: false,
    })
}

#[cfg(test)]
mod tests;
