//! An answer made from an upstream's response.
//!
//! An upstream is a resolver, and its response is checked nevertheless. A record whose data do not have
//! the form of their type makes the whole response a broken one. Records that do not belong to the
//! question ([`scope`]) and duplicates are left out. The answer is a positive one if the queried type is
//! present at the end of the aliases. All of it takes time in proportion to the message's length, except
//! that the records are sorted to find RRsets and duplicates.
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
    record::{Record, Records, Section, field},
    rrtype, same_question, u16_at,
};
use names::{NameId, Names};
use ttl::RrSets;
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
    /// The answer in an upstream's response: [`ResponseReader::read`] with memory of its own.
    ///
    /// # Errors
    /// As there.
    pub fn from_response(
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
    ) -> Result<Self, BadResponse> {
        let mut answer = Self::default();
        ResponseReader::default().read(msg, question, key_flags, limits, &mut answer)?;
        Ok(answer)
    }
}

/// Makes answers of upstreams' responses. It keeps its memory from one to the next: once that is as large
/// as the largest response needs, nothing is allocated.
#[derive(Debug, Default)]
pub struct ResponseReader {
    names: Names,
    records: Vec<Candidate>,
    rrsets: RrSets,
    /// For [`scope`].
    scratch: Vec<u64>,
    ttl_offsets: Vec<u16>,
    /// Records that were rewritten.
    body: Vec<u8>,
}

impl ResponseReader {
    /// Makes `answer` the answer in an upstream's response to `question` (wire form, any name case,
    /// class IN), which was asked with the DO and CD bits of `key_flags`.
    ///
    /// Records that do not belong to the question are left out, and so are duplicates (RFC 2181
    /// section 5) and the OPT record, of which the Extended DNS Error is kept. An RRset gets the least
    /// of its TTLs, within the limits, and the answer's TTL is the least of all; a negative answer
    /// without a SOA record has a TTL of 0 (RFC 2308 section 5), and so have response codes above
    /// REFUSED, which are passed on without records, except for the aliases of YXDOMAIN (RFC 6672
    /// section 2.2).
    ///
    /// # Errors
    /// [`BadResponse`], and `answer` is what it was; the caller has already matched the ID and the sender.
    pub fn read(
        &mut self,
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
        answer: &mut Answer,
    ) -> Result<(), BadResponse> {
        self.read_as(Form::AsReceived, msg, question, key_flags, limits, answer)
    }

    /// As [`read`](Self::read), but of a message that was [composed](super::compose), whose names are not
    /// compressed: owners in the answer are, and TTLs stay as they are.
    ///
    /// # Errors
    /// As there.
    pub fn read_composed(
        &mut self,
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        answer: &mut Answer,
    ) -> Result<(), BadResponse> {
        let limits = TtlLimits {
            min: 0,
            max: u32::MAX,
            max_negative: u32::MAX,
        };
        self.read_as(Form::Rewritten, msg, question, key_flags, &limits, answer)
    }

    fn read_as(
        &mut self,
        form: Form,
        msg: &[u8],
        question: &[u8],
        key_flags: u8,
        limits: &TtlLimits,
        answer: &mut Answer,
    ) -> Result<(), BadResponse> {
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
        self.names.begin(msg.len());
        let asked = self
            .read_question(msg, start, key_flags, code)
            .ok_or(BadResponse::Question)?;
        let opt = self.read_records(msg, Records::new(Cursor::new(msg, start), counts))?;
        if opt.rcode != 0 {
            let code = u16::from(opt.rcode) << 4 | u16::from(code);
            return Err(BadResponse::Rcode(code));
        }
        let invalid = BadResponse::InvalidAnswer;
        scope::mark(
            &mut self.names,
            msg,
            &mut self.records,
            &mut self.scratch,
            &asked,
        )
        .ok_or(invalid)?;
        let is_error = !matches!(code, rcode::NOERROR | rcode::NXDOMAIN);
        self.records.retain(|record| match record.section {
            Section::Answer => record.kept && (!is_error || code == rcode::YXDOMAIN),
            _ => record.kept && !is_error,
        });
        (self.rrsets)
            .unite(&mut self.names, msg, &mut self.records)
            .ok_or(invalid)?;
        self.records.retain(|record| record.kept);

        let answered = (self.records.iter())
            .any(|record| record.section == Section::Answer && record.rtype == asked.qtype);
        let denied = code == rcode::NXDOMAIN || !answered;
        let ttl = ttl::bound(msg, &mut self.records, denied, limits);
        let counts = Section::ALL.map(|section| {
            let of_section = (self.records.iter()).filter(|record| record.section == section);
            of_section.count() as u16
        });
        let copied = match form {
            Form::AsReceived => rewrite::copied(msg, start, &self.records, &mut self.ttl_offsets),
            Form::Rewritten => None,
        };
        let body = match copied {
            Some(body) => body,
            None => {
                self.rewrite(msg, start, asked.qname).ok_or(invalid)?;
                &self.body
            }
        };
        let fields = AnswerFields {
            rcode: code,
            counts,
            body,
            ttl_offsets: &self.ttl_offsets,
            ttl: if is_error { 0 } else { ttl },
            authentic: flags & header::AD != 0,
            ede: opt.ede,
        };
        answer.write(&fields, self.records.iter().map(|record| record.ttl));
        Ok(())
    }

    /// Rewrites the records: `body` and `ttl_offsets` are then theirs. `None`: no message can hold them.
    #[cold]
    fn rewrite(&mut self, msg: &[u8], start: usize, qname: NameId) -> Option<()> {
        rewrite::rewritten(
            &mut self.names,
            msg,
            start,
            qname,
            &self.records,
            &mut self.body,
            &mut self.ttl_offsets,
        )
    }

    /// Reads the question, which ends at `end`. `None`: it is not of class IN, the only one that is
    /// forwarded and of which the forms of data are known.
    fn read_question(&mut self, msg: &[u8], end: usize, key_flags: u8, rcode: u8) -> Option<Asked> {
        let mut cursor = Cursor::new(msg, header::LEN);
        cursor.uncompressed_name()?;
        let qname = self.names.read(msg, header::LEN, cursor.at())?;
        self.names.exclude(cursor.at());
        let (qtype, qclass) = (cursor.u16()?, cursor.u16()?);
        (cursor.at() == end && qclass == CLASS_IN).then_some(Asked {
            qname,
            qtype,
            dnssec_ok: key_flags & KEY_FLAG_DO != 0,
            rcode,
        })
    }

    /// Reads all records but OPT.
    fn read_records(&mut self, msg: &[u8], records: Records<'_>) -> Result<Opt, BadResponse> {
        self.records.clear();
        let mut opt = None;
        for record in records {
            let record = record.ok_or(BadResponse::Malformed)?;
            if record.rtype != rrtype::OPT {
                let read = Candidate::read(&mut self.names, msg, record);
                self.records.push(read.ok_or(BadResponse::InvalidAnswer)?);
                continue;
            }
            if record.section != Section::Additional || opt.is_some() {
                return Err(BadResponse::Malformed);
            }
            let [rcode, ..] = record.ttl.to_be_bytes();
            let ede = options::extended_error_in(record.rdata);
            opt = Some(Opt { rcode, ede });
        }
        Ok(opt.unwrap_or_default())
    }
}

/// Whether the octets of records are taken over where that is possible.
#[derive(Clone, Copy, Debug)]
enum Form {
    AsReceived,
    Rewritten,
}

/// The question of a response, and its response code.
#[derive(Clone, Copy, Debug)]
struct Asked {
    qname: NameId,
    qtype: u16,
    /// RRSIG, NSEC and NSEC3 records are wanted (RFC 4035 section 3.2.1).
    dnssec_ok: bool,
    rcode: u8,
}

/// The response's OPT record.
#[derive(Clone, Copy, Debug, Default)]
struct Opt {
    /// The upper eight bits of the response code.
    rcode: u8,
    /// Info-code of an Extended DNS Error.
    ede: Option<u16>,
}

/// A record of the response, which may become one of the answer.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Offset of the owner name in the message.
    owner_at: u32,
    /// Offset of what follows the owner name.
    fixed: u32,
    /// Offset of what follows the record.
    end: u32,
    /// Seconds. With the top bit set it counts as 0 (RFC 2181 section 8).
    ttl: u32,
    owner: NameId,
    /// The first name in the data.
    name: Option<NameId>,
    rtype: u16,
    class: u16,
    /// The type that a signature covers; 0 in other records.
    covers: u16,
    section: Section,
    /// It belongs to the question.
    kept: bool,
    /// It must not be passed on as it is: a name in its data is compressed.
    expand: bool,
}

impl Candidate {
    /// Reads the names and data of a record. `None`: they do not have the form that they must have.
    fn read(names: &mut Names, msg: &[u8], wire: Record<'_>) -> Option<Self> {
        let owner = names.read(msg, wire.owner, wire.fixed)?;
        // No octet of the owner is behind it.
        names.exclude(wire.ttl_at());
        // Records of other classes are not kept, and their data have other forms.
        let rdata::Data { name, expand } = match wire.class {
            CLASS_IN => rdata::read(names, msg, wire.rtype, wire.rdata)?,
            _ => rdata::Data::default(),
        };
        Some(Self {
            owner_at: wire.owner as u32,
            fixed: wire.fixed as u32,
            end: wire.end() as u32,
            ttl: if wire.ttl > i32::MAX as u32 {
                0
            } else {
                wire.ttl
            },
            owner,
            name,
            rtype: wire.rtype,
            class: wire.class,
            covers: match wire.rtype {
                rrtype::RRSIG => u16_at(wire.rdata.rest(), 0).unwrap_or_default(),
                _ => 0,
            },
            section: wire.section,
            kept: false,
            expand,
        })
    }

    fn owner_at(&self) -> usize {
        self.owner_at as usize
    }

    fn fixed(&self) -> usize {
        self.fixed as usize
    }

    fn ttl_at(&self) -> usize {
        self.fixed() + field::TTL.start
    }

    fn end(&self) -> usize {
        self.end as usize
    }

    /// The data.
    fn data<'a>(&self, msg: &'a [u8]) -> Option<Cursor<'a>> {
        let record = msg.get(..self.end())?;
        Some(Cursor::new(record, self.fixed() + field::RDATA))
    }

    /// The key of its RRset. Signatures form one for each type that they cover (RFC 4035 section 2.2).
    fn rrset(&self) -> u128 {
        u128::from(self.signed_as(self.rtype)) << 16 | u128::from(self.covers)
    }

    /// Its section and owner, and `rtype`: the same for an RRset and its signatures.
    fn signed_as(&self, rtype: u16) -> u64 {
        let owner = u64::from(self.owner.number());
        (self.section as u64) << 48 | owner << 16 | u64::from(rtype)
    }
}

#[cfg(test)]
mod tests;
