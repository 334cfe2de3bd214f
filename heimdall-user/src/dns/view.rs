//! A zero-copy view of a DNS query.

use super::{
    Edns, QUESTION_FIXED,
    cursor::Cursor,
    header::{self, Header},
    name::end_of_question_name,
    record::{Records, Section},
    rrtype,
};

/// Why a message is not a query that can be answered, and the reply that it gets.
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
    /// [`Malformed`], the worst fault first.
    pub fn parse(msg: &'a [u8]) -> Result<Self, Malformed> {
        let Some((mut view, rest)) = Self::question_first(msg) else {
            return Self::parse_without_question(msg);
        };
        let end = msg.len() - rest.len();
        let malformed = Malformed::Records(end as u16);
        let [_, counts @ ..] = Header::read(msg).ok_or(malformed)?.counts;
        view.edns = find_opt(msg, end, counts).map_err(|BadRecords| malformed)?;
        Ok(view)
    }

    /// As [`parse`](Self::parse), for what most messages are: a question, and then nothing, or an OPT
    /// record without options. `None`: it is something else.
    ///
    /// Each hit takes this path, so it compares the four counts and the OPT record's fixed part as
    /// words, without the iterator over records.
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

    /// Reads the header and the one question of a query; gives what follows them as well.
    #[inline(always)]
    fn question_first(msg: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, body) = msg.split_first_chunk::<{ header::LEN }>()?;
        let [_, _, f0, f1, q0, q1, ..] = *head;
        let flags = u16::from_be_bytes([f0, f1]);
        if flags & (header::QR | header::OPCODE) != 0 || [q0, q1] != [0, 1] {
            return None;
        }
        let name_end = end_of_question_name(body, 0)?;
        let (question, rest) = body.split_at_checked(name_end + QUESTION_FIXED)?;
        let view = Self {
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
    fn parse_without_question(msg: &'a [u8]) -> Result<Self, Malformed> {
        let Header { flags, counts } = Header::read(msg).ok_or(Malformed::Runt)?;
        if flags & header::QR != 0 {
            return Err(Malformed::Response);
        }
        if flags & header::OPCODE != 0 {
            return Err(Malformed::Opcode);
        }
        let [0, counts @ ..] = counts else {
            return Err(Malformed::Question);
        };
        let edns = find_opt(msg, header::LEN, counts)
            .map_err(|BadRecords| Malformed::Question)?
            .filter(|edns| edns.has_cookie())
            .ok_or(Malformed::Question)?;
        Ok(Self {
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

/// Reads the records from `start` on, after the question, for the one OPT record that the additional
/// section may hold (RFC 6891 section 6.1.1).
#[inline(never)]
fn find_opt(msg: &[u8], start: usize, counts: [u16; 3]) -> Result<Option<Edns>, BadRecords> {
    let mut edns = None;
    for record in Records::new(Cursor::new(msg, start), counts) {
        let record = record.ok_or(BadRecords)?;
        if record.rtype == rrtype::OPT {
            let is_misplaced = record.section != Section::Additional || !record.has_root_owner();
            if is_misplaced || edns.is_some() {
                return Err(BadRecords);
            }
            edns = Some(Edns::read(&record).ok_or(BadRecords)?);
        }
    }
    Ok(edns)
}

/// Field access.
impl<'a> DnsPacketView<'a> {
    /// The header's flags word, opcode and response code included.
    pub(super) fn flags(&self) -> u16 {
        self.flags
    }

    /// The queried name in wire form, in the client's name case.
    #[inline(always)]
    pub fn qname(&self) -> &'a [u8] {
        let name = self.question.len().saturating_sub(QUESTION_FIXED);
        self.question.get(..name).unwrap_or_default()
    }

    /// The question section, unchanged: name, type, class.
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

    /// The queried type, on top, and the queried class.
    #[inline(always)]
    pub(super) fn kind(&self) -> u32 {
        self.kind
    }

    /// The OPT record, if there is one.
    pub fn edns(&self) -> Option<Edns> {
        self.edns
    }
}
