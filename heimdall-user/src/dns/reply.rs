//! Replies, written over the query that they answer.
//!
//! The query's ID and question stay where they are, in the client's name case; the header
//! is rewritten around them and the sections follow, in the same buffer.

use super::{
    AnswerRef, Edns, Options, Query,
    edns::OPT_LEN,
    header::{self, field},
    options::opt_record,
};
use crate::checksum;

/// A reply that was written to its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its octets.
    pub len: usize,
    /// Their sum, for UDP's checksum ([`checksum::add`]). That of a cached answer is put together
    /// from the sums of its parts: reading back what was just written in smaller stores would be a
    /// store-forwarding stall.
    pub sum: u64,
}

impl Reply {
    /// The reply in the first `len` octets of `buf`.
    fn new(buf: &[u8], len: usize) -> Option<Self> {
        let sum = checksum::add(0, buf.get(..len)?);
        Some(Self { len, sum })
    }
}

/// The fields of every reply that depend on the settings alone.
#[derive(Clone, Copy, Debug)]
pub struct ReplySettings {
    udp_size: u16,
    trust_ad: bool,
    /// The OPT record of replies: its first octets, without flags, and the sum of all.
    pub(super) opt: [u8; 8],
    pub(super) opt_sum: u16,
}

impl ReplySettings {
    /// `udp_size` is the largest UDP reply in octets, and the payload size in OPT records;
    /// `trust_ad`: the upstream's AD bit is passed on to clients that ask for it.
    pub fn new(udp_size: u16, trust_ad: bool) -> Self {
        let [first @ .., _, _, _] = Edns::record(udp_size, false, 0);
        Self {
            udp_size,
            trust_ad,
            opt: first,
            opt_sum: u16::from_ne_bytes(checksum::fold(checksum::of_words(&first))),
        }
    }
}

/// Largest reply, in octets, that may be sent to a query which came by UDP: the client's payload
/// size, 512 without EDNS (RFC 6891 section 6.2.3), and at most the server's own.
#[inline(always)]
pub(crate) fn udp_limit(query: &Query, server: &ReplySettings) -> usize {
    usize::from(query.edns.map_or(512, Edns::udp_size).min(server.udp_size))
}

/// What a reply holds, beside what comes from the query.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The answer.
    pub answer: AnswerRef<'a>,
    /// Seconds since it was received.
    pub age: u32,
    /// The sum of the question in the query's name case ([`checksum::add`]), if it is known.
    pub question_sum: Option<u64>,
}

impl<'a> From<AnswerRef<'a>> for Content<'a> {
    /// An answer that was just received.
    fn from(answer: AnswerRef<'a>) -> Self {
        Self {
            answer,
            age: 0,
            question_sum: None,
        }
    }
}

/// Writes an answer as the reply to the query in `buf`; at most `limit` octets.
///
/// What does not fit is left out: first the additional section, then an authority section that the
/// client can do without; if that is not enough, all records, and TC is set (RFC 2181 section 9).
/// `None` if `buf` cannot even hold the question and an OPT record.
pub fn answer(
    buf: &mut [u8],
    query: &Query,
    content: Content<'_>,
    limit: usize,
    server: &ReplySettings,
    options: Option<&Options<'_>>,
) -> Option<Reply> {
    let rcode = content.answer.rcode();
    whole_answer(buf, query, content, rcode, limit, server, options)
        .or_else(|| shortened(buf, query, content, limit, server, options))
        .or_else(|| truncated(buf, query, rcode, server, options))
}

/// Writes what the client needs of an answer that does not fit whole. `None`: that does not fit
/// either.
#[cold]
fn shortened(
    buf: &mut [u8],
    query: &Query,
    content: Content<'_>,
    limit: usize,
    server: &ReplySettings,
    options: Option<&Options<'_>>,
) -> Option<Reply> {
    let start = usize::from(query.question_end);
    let rest = start + opt_len(query, options);
    let room = limit.min(buf.len()).checked_sub(rest)?;
    let shortened = content.answer.shortened(start, query.qtype(), room)?;
    let answer = shortened.as_ref();
    let content = Content { answer, ..content };
    whole_answer(buf, query, content, answer.rcode(), limit, server, options)
}

/// Octets of the reply's OPT record.
#[inline(always)]
fn opt_len(query: &Query, options: Option<&Options<'_>>) -> usize {
    match query.edns {
        Some(_) => OPT_LEN + options.map_or(0, Options::len),
        None => 0,
    }
}

/// As [`answer`], but `None` if the answer does not fit. `rcode` is the answer's: a caller for which it
/// is a constant saves the steps for others.
#[inline(always)]
pub(crate) fn whole_answer(
    buf: &mut [u8],
    query: &Query,
    content: Content<'_>,
    rcode: u8,
    limit: usize,
    server: &ReplySettings,
    options: Option<&Options<'_>>,
) -> Option<Reply> {
    let Content {
        answer,
        age,
        question_sum,
    } = content;
    let start = usize::from(query.question_end);
    let end = start + answer.body().len();
    if end + opt_len(query, options) > limit.min(buf.len()) {
        return None;
    }
    let mut flags = base_flags(query) | u16::from(rcode & 0xf);
    // AD only for clients that requested it (RFC 6840 section 5.8).
    if server.trust_ad && answer.authentic() {
        let wants_ad = query.flags & header::AD != 0 || query.dnssec_ok();
        flags |= if wants_ad { header::AD } else { 0 };
    }
    let mut sum = match question_sum {
        Some(sum) => sum,
        None => checksum::add(0, buf.get(header::LEN..start)?),
    };
    let body = buf.get_mut(start..)?;
    answer.copy_body(body)?;
    let mut body_sum = answer.sum();
    if age > 0 {
        body_sum += answer.age_ttls(body, age);
    }
    sum += checksum::at(start, body_sum);
    sum += write_header(buf, flags, answer.reply_counts(query.edns.is_some()))?;
    let Some(edns) = query.edns else {
        return Some(Reply { len: end, sum });
    };
    let opt = edns.reply(buf, end, server, rcode, options)?;
    Some(Reply {
        len: opt.len,
        sum: sum + checksum::at(end, opt.sum),
    })
}

/// Writes a reply that has no records: an error, with the question and, for a client that sent
/// one, an OPT record. `rcode` may be an extended one.
#[inline]
pub(crate) fn error(
    buf: &mut [u8],
    query: &Query,
    rcode: u8,
    server: &ReplySettings,
    options: Option<&Options<'_>>,
) -> Option<Reply> {
    let flags = base_flags(query) | u16::from(rcode & 0xf);
    write(buf, query, flags, rcode, server, options)
}

/// Writes a truncated reply with this response code: the client repeats the query over TCP.
pub(crate) fn truncated(
    buf: &mut [u8],
    query: &Query,
    rcode: u8,
    server: &ReplySettings,
    options: Option<&Options<'_>>,
) -> Option<Reply> {
    let flags = base_flags(query) | header::TC | u16::from(rcode & 0xf);
    write(buf, query, flags, rcode, server, options)
}

/// Truncates the reply in `buf` to its question and its OPT record, and sets TC: the client asks again
/// over TCP.
pub(crate) fn truncate(buf: &mut [u8], query: &Query) -> Option<usize> {
    let opt = opt_record(buf).map(|opt| opt.owner..opt.end());
    let flags = super::u16_at(buf, field::FLAGS)? & !header::AD | header::TC;
    let opt_count = u16::from(opt.is_some());
    let opt = opt.unwrap_or_default();
    let end = usize::from(query.question_end);
    buf.get(opt.clone())?;
    let len = end + opt.len();
    buf.get(..len)?;
    buf.copy_within(opt, end);
    write_header(buf, flags, counts(query.has_question(), opt_count))?;
    Some(len)
}

/// Writes a reply to a query whose question, if `question_end` is given, can be read, and nothing
/// beyond it: FORMERR or NOTIMP, without an OPT record (RFC 6891 section 7).
pub(crate) fn unreadable(buf: &mut [u8], question_end: Option<u16>, rcode: u8) -> Option<Reply> {
    let flags = super::u16_at(buf, field::FLAGS)?;
    let flags = header::QR | (flags & (header::OPCODE | header::RD)) | u16::from(rcode & 0xf);
    write_header(buf, flags, counts(question_end.is_some(), 0))?;
    Reply::new(buf, question_end.map_or(header::LEN, usize::from))
}

/// The flags of every reply: RD and CD are the query's.
#[inline(always)]
fn base_flags(query: &Query) -> u16 {
    header::QR | header::RA | (query.flags & (header::RD | header::CD))
}

fn write(
    buf: &mut [u8],
    query: &Query,
    flags: u16,
    rcode: u8,
    server: &ReplySettings,
    options: Option<&Options<'_>>,
) -> Option<Reply> {
    let end = usize::from(query.question_end);
    let opt_count = u16::from(query.edns.is_some());
    write_header(buf, flags, counts(query.has_question(), opt_count))?;
    let len = match query.edns {
        Some(edns) => edns.reply(buf, end, server, rcode, options)?.len,
        None => end,
    };
    Reply::new(buf, len)
}

/// QDCOUNT to ARCOUNT of a message whose only records are `additional` ones in the additional section.
fn counts(question: bool, additional: u16) -> u64 {
    u64::from(question) << 48 | u64::from(additional)
}

/// Writes all of the header but its ID; `counts` are QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT, the
/// first on top. Returns the header's sum.
#[inline(always)]
fn write_header(buf: &mut [u8], flags: u16, counts: u64) -> Option<u64> {
    let (first, rest) = buf.split_first_chunk_mut::<4>()?;
    let [id0, id1, _, _] = *first;
    let id = u32::from(u16::from_be_bytes([id0, id1]));
    *first = (id << 16 | u32::from(flags)).to_be_bytes();
    *rest.first_chunk_mut()? = counts.to_be_bytes();
    let first = u32::from_ne_bytes(*first);
    Some(checksum::add(first.into(), &counts.to_be_bytes()))
}
