//! A zero-copy view of a DNS query.

use super::{
    CLASS_IN, Edns, QUESTION_FIXED,
    header::{self, field},
    name::{end_of_question_name, end_of_record_name},
    rrtype, u16_at,
};

/// Why a message cannot be taken as a query, and so what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a header: nothing to answer to. Dropped.
    Runt,
    /// QR is set: answering a response can start a loop. Dropped.
    Response,
    /// An opcode other than QUERY. NOTIMP, header only.
    Opcode,
    /// No question that can be read, or more than one (RFC 9619). FORMERR, header only.
    Question,
    /// The question, which ends at this offset, can be read, what follows it cannot, or breaks
    /// the rules for OPT. FORMERR with the question.
    Records(u16),
}

/// A query, checked once: if [`parse`](Self::parse) returned `Ok`, every accessor is within
/// bounds and cannot panic.
///
/// Octets after the last record are tolerated (some clients pad).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsPacketView<'a> {
    id: u16,
    question: &'a [u8],
    flags: u16,
    kind: u32,
    edns: Option<Edns>,
}

/// Creation.
impl<'a> DnsPacketView<'a> {
    /// Checks a message and finds its question and its OPT record.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong, worst first.
    pub fn parse(msg: &'a [u8]) -> Result<Self, Malformed> {
        let Some((mut view, rest)) = Self::question_first(msg) else {
            return Self::parse_others(msg);
        };
        let end = msg.len() - rest.len();
        view.edns = read_records(msg, end).map_err(|BadRecords| Malformed::Records(end as u16))?;
        Ok(view)
    }

    /// As [`parse`](Self::parse), for what most messages are: a question, and then nothing, or an OPT
    /// record without options. `None`: it is something else.
    #[inline(always)]
    pub fn parse_plain(msg: &'a [u8]) -> Option<Self> {
        let (mut view, rest) = Self::question_first(msg)?;
        let (_, counts) = msg.first_chunk::<{ header::LEN }>()?.split_last_chunk()?;
        match u64::from_be_bytes(*counts) {
            ONLY_QUESTION => {}
            WITH_OPT => view.edns = Some(Edns::read_bare(rest)?),
            _ => return None,
        }
        Some(view)
    }

    /// A query's one question, and what stands behind it.
    #[inline(always)]
    fn question_first(msg: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, body) = msg.split_first_chunk::<{ header::LEN }>()?;
        let [i0, i1, f0, f1, q0, q1, ..] = *head;
        let flags = u16::from_be_bytes([f0, f1]);
        if flags & (header::QR | header::OPCODE) != 0 || [q0, q1] != [0, 1] {
            return None;
        }
        let name_end = end_of_question_name(body, 0)?;
        let (question, rest) = body.split_at_checked(name_end + QUESTION_FIXED)?;
        let view = Self {
            id: u16::from_be_bytes([i0, i1]),
            question,
            flags,
            kind: u32::from_be_bytes(*question.last_chunk()?),
            edns: None,
        };
        Some((view, rest))
    }

    /// A message that does not begin with a question is taken if it has none, and a COOKIE option: its
    /// sender wants a server cookie and nothing else (RFC 7873 section 5.4).
    #[cold]
    fn parse_others(msg: &'a [u8]) -> Result<Self, Malformed> {
        let head = msg.first_chunk::<{ header::LEN }>();
        let [_, _, f0, f1, ..] = *head.ok_or(Malformed::Runt)?;
        let flags = u16::from_be_bytes([f0, f1]);
        if flags & header::QR != 0 {
            return Err(Malformed::Response);
        }
        if flags & header::OPCODE != 0 {
            return Err(Malformed::Opcode);
        }
        let count = |at| u16_at(msg, at).ok_or(Malformed::Runt);
        if count(field::QDCOUNT)? != 0 {
            return Err(Malformed::Question);
        }
        let edns = read_records(msg, header::LEN)
            .map_err(|BadRecords| Malformed::Question)?
            .filter(|edns| edns.has_cookie())
            .ok_or(Malformed::Question)?;
        Ok(Self {
            id: count(field::ID)?,
            question: &[],
            flags,
            kind: 0,
            edns: Some(edns),
        })
    }
}

/// QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT of a message that has a question and nothing else.
const ONLY_QUESTION: u64 = 1 << 48;

/// Those of one that has one more record, in the additional section.
const WITH_OPT: u64 = ONLY_QUESTION + 1;

struct BadRecords;

/// Walks the records from `start` on, after the question, for the one OPT that the additional section may hold
/// (RFC 6891 section 6.1.1). Each record takes at least 11 octets, so the walk is bounded by the
/// message whatever the counts say.
#[inline(never)]
fn read_records(msg: &[u8], start: usize) -> Result<Option<Edns>, BadRecords> {
    let count = |at| u16_at(msg, at).map(u32::from).ok_or(BadRecords);
    let before = count(field::ANCOUNT)? + count(field::NSCOUNT)?;
    let mut at = start;
    let mut edns = None;
    for index in 0..before + count(field::ARCOUNT)? {
        let fixed = end_of_record_name(msg, at).ok_or(BadRecords)?;
        let rtype = u16_at(msg, fixed).ok_or(BadRecords)?;
        let rdlen = usize::from(u16_at(msg, fixed + 8).ok_or(BadRecords)?);
        let rdata = msg.get(fixed + 10..fixed + 10 + rdlen).ok_or(BadRecords)?;
        if rtype == rrtype::OPT {
            let root_owner = fixed == at + 1;
            if !root_owner || index < before || edns.is_some() {
                return Err(BadRecords);
            }
            edns = Some(Edns::read(msg, fixed, rdata).ok_or(BadRecords)?);
        }
        at = fixed + 10 + rdlen;
    }
    Ok(edns)
}

/// Field access.
impl<'a> DnsPacketView<'a> {
    /// Transaction ID.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The header's flags word, opcode and response code included.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// The queried name in wire form, in the client's letter case.
    #[inline(always)]
    pub fn qname(&self) -> &'a [u8] {
        let name = self.question.len().saturating_sub(QUESTION_FIXED);
        self.question.get(..name).unwrap_or_default()
    }

    /// The question section as it stands in the message: name, type, class.
    #[inline(always)]
    pub fn question(&self) -> &'a [u8] {
        self.question
    }

    /// The queried type.
    pub fn qtype(&self) -> u16 {
        (self.kind >> 16) as u16
    }

    /// The queried class.
    pub fn qclass(&self) -> u16 {
        self.kind as u16
    }

    /// What the OPT record says, if there is one.
    pub fn edns(&self) -> Option<Edns> {
        self.edns
    }
}

/// DO in [`Query::key_flags`].
pub const KEY_FLAG_DO: u8 = 1;

/// CD in [`Query::key_flags`].
pub const KEY_FLAG_CD: u8 = 2;

/// What the answer core keeps of a query once the view is gone: no borrow, so that a batch of
/// them can be held while the frames are written to.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Hash of the key: name, type, class, DO, CD.
    pub hash: u64,
    /// Offset after the question, 17 to 271; 12 for a query without one, which asks for a cookie.
    pub question_end: u16,
    /// The header's flags word.
    pub flags: u16,
    /// The queried type, on top, and the queried class.
    kind: u32,
    /// What the OPT record says, if there is one.
    pub edns: Option<Edns>,
}

#[inline(always)]
fn key_rest(kind: u32, flags: u8) -> u64 {
    u64::from(kind) << 8 | u64::from(flags)
}

/// The hash under which the answer to a question, in wire form, is kept: [`Query::hash`].
pub fn question_hash(hasher: &super::NameHasher, question: &[u8], flags: u8) -> u64 {
    let kind = *question.last_chunk().unwrap_or(&[0; QUESTION_FIXED]);
    hasher.hash(question, key_rest(u32::from_be_bytes(kind), flags))
}

impl Query {
    /// Takes a view's findings and hashes its key.
    #[inline(always)]
    pub fn new(view: &DnsPacketView<'_>, hasher: &super::NameHasher) -> Self {
        let mut query = Self {
            hash: 0,
            question_end: (header::LEN + view.question.len()) as u16,
            flags: view.flags,
            kind: view.kind,
            edns: view.edns,
        };
        let rest = key_rest(query.kind, query.key_flags());
        query.hash = hasher.hash(view.question, rest);
        query
    }

    /// Whether it has no OPT record, or one that asks for nothing beside DO, of the version that is
    /// ours.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.edns.is_none_or(Edns::is_plain)
    }

    /// The queried type.
    #[inline(always)]
    pub fn qtype(&self) -> u16 {
        (self.kind >> 16) as u16
    }

    /// The queried class.
    #[inline(always)]
    pub fn qclass(&self) -> u16 {
        self.kind as u16
    }

    /// The client wants DNSSEC records.
    #[inline(always)]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(Edns::dnssec_ok)
    }

    /// The client does the checking itself.
    #[inline(always)]
    pub fn checking_disabled(&self) -> bool {
        self.flags & header::CD != 0
    }

    /// The part of the key beside name, type and class: [`KEY_FLAG_DO`] and [`KEY_FLAG_CD`]. Answers
    /// for DO and for CD are kept apart (RFC 4035 sections 3.2.1 and 3.2.2).
    #[inline(always)]
    pub fn key_flags(&self) -> u8 {
        let dnssec_ok = if self.dnssec_ok() { KEY_FLAG_DO } else { 0 };
        let checking_disabled = if self.checking_disabled() {
            KEY_FLAG_CD
        } else {
            0
        };
        dnssec_ok | checking_disabled
    }

    /// Octets at the message's start without which no reply can be written: to the end of the
    /// question, and of the cookie.
    pub fn needed(&self) -> usize {
        let cookie = self.edns.map_or(0, Edns::end_of_cookie);
        cookie.max(usize::from(self.question_end))
    }

    /// Whether there is a question at all.
    #[inline(always)]
    pub fn has_question(&self) -> bool {
        usize::from(self.question_end) > header::LEN
    }

    /// Whether this is a query that a cache or an upstream may answer: Internet class, and a type
    /// that stands for records.
    #[inline(always)]
    pub fn is_forwardable(&self) -> bool {
        // Nearly all types that are asked for are less than OPT.
        let has_records = |qtype| (1..rrtype::OPT).contains(&qtype) || is_type_of_records(qtype);
        self.qclass() == CLASS_IN && has_records(self.qtype())
    }
}

/// Whether a type stands for records: it is not reserved, nor OPT's, nor for queries only.
#[inline(never)]
fn is_type_of_records(rtype: u16) -> bool {
    !matches!(rtype, rrtype::RESERVED | rrtype::OPT) && !rrtype::QUERY.contains(&rtype)
}
