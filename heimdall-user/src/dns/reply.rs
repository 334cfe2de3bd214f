//! Replies, written over the query that they answer.
//!
//! The query's ID and question stay where they are, in the client's own letter case; the header
//! is rewritten around them and the sections follow. One buffer holds first the one, then the
//! other.

use super::{
    AnswerRef, Options, Query,
    edns::OPT_LEN,
    header::{self, field},
    options::opt_record,
};

/// What the server says of itself in every reply.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Largest UDP reply in octets, and the payload size in our OPT records.
    pub udp_size: u16,
    /// Pass the upstream's AD bit on to clients that ask for it.
    pub trust_ad: bool,
}

/// Largest reply, in octets, that may be sent to a query which came by UDP: the client's payload
/// size, 512 without EDNS (RFC 6891 section 6.2.3), and at most the server's own.
#[inline]
pub fn udp_limit(query: &Query, server: &Server) -> usize {
    usize::from(
        query
            .edns
            .map_or(512, |edns| edns.udp_size)
            .min(server.udp_size),
    )
}

/// Writes `answer`, `age` seconds old, as the reply to the query in `buf`; at most `limit` octets.
///
/// An answer that does not fit is left out and TC set (RFC 2181 section 9). Returns the reply's
/// length, or `None` if `buf` cannot even hold the question and an OPT record.
#[inline]
pub fn answer(
    buf: &mut [u8],
    query: &Query,
    answer: AnswerRef<'_>,
    age: u32,
    limit: usize,
    server: &Server,
    options: &Options<'_>,
) -> Option<usize> {
    let start = usize::from(query.question_end);
    let end = start + answer.body().len();
    let opt_len = match query.edns {
        Some(_) => OPT_LEN + options.len(),
        None => 0,
    };
    if end + opt_len > limit.min(buf.len()) {
        return truncated(buf, query, answer.rcode(), server, options);
    }
    let mut flags = base_flags(query) | u16::from(answer.rcode() & 0xf);
    // AD only for those who asked to see it (RFC 6840 section 5.8).
    let asked_ad = query.flags & header::AD != 0 || query.dnssec_ok();
    if server.trust_ad && asked_ad && answer.authentic() {
        flags |= header::AD;
    }
    let body = buf.get_mut(start..end)?;
    body.copy_from_slice(answer.body());
    if age > 0 {
        answer.age_ttls(body, age);
    }
    let [a0, a1, n0, n1, _, _] = answer.counts();
    let additional = answer.additional() + u16::from(query.edns.is_some());
    let [r0, r1] = additional.to_be_bytes();
    write_header(buf, flags, [0, 1, a0, a1, n0, n1, r0, r1])?;
    match query.edns {
        Some(edns) => edns.reply(buf, end, server.udp_size, answer.rcode(), options),
        None => Some(end),
    }
}

/// Writes a reply that has no records: an error, with the question and, for a client that sent
/// one, an OPT record. `rcode` may be an extended one.
#[inline]
pub fn error(
    buf: &mut [u8],
    query: &Query,
    rcode: u8,
    server: &Server,
    options: &Options<'_>,
) -> Option<usize> {
    let flags = base_flags(query) | u16::from(rcode & 0xf);
    write(buf, query, flags, rcode, server, options)
}

/// Writes a reply that tells the client to ask over TCP for an answer with this response code.
pub fn truncated(
    buf: &mut [u8],
    query: &Query,
    rcode: u8,
    server: &Server,
    options: &Options<'_>,
) -> Option<usize> {
    let flags = base_flags(query) | header::TC | u16::from(rcode & 0xf);
    write(buf, query, flags, rcode, server, options)
}

/// Cuts the reply in `buf` down to its question and its OPT record, and tells the client to ask
/// over TCP.
pub fn cut(buf: &mut [u8], query: &Query) -> Option<usize> {
    let opt = opt_record(buf);
    let flags = super::u16_at(buf, field::FLAGS)? & !header::AD | header::TC;
    let additional = u8::from(opt.is_some());
    let opt = opt.unwrap_or_default();
    let end = usize::from(query.question_end);
    buf.get(opt.clone())?;
    let len = end + opt.len();
    buf.get(..len)?;
    buf.copy_within(opt, end);
    write_header(
        buf,
        flags,
        [0, u8::from(query.has_question()), 0, 0, 0, 0, 0, additional],
    )?;
    Some(len)
}

/// Writes a reply to a query whose question, if `question_end` is given, can be read, and nothing
/// beyond it: FORMERR or NOTIMP, without an OPT record (RFC 6891 section 7).
pub fn unreadable(buf: &mut [u8], question_end: Option<u16>, rcode: u8) -> Option<usize> {
    let flags = super::u16_at(buf, field::FLAGS)?;
    let flags = header::QR | (flags & (header::OPCODE | header::RD)) | u16::from(rcode & 0xf);
    let questions = u8::from(question_end.is_some());
    write_header(buf, flags, [0, questions, 0, 0, 0, 0, 0, 0])?;
    Some(question_end.map_or(header::LEN, usize::from))
}

/// The flags of every reply: RD and CD come back as they were sent.
#[inline]
fn base_flags(query: &Query) -> u16 {
    header::QR | header::RA | (query.flags & (header::RD | header::CD))
}

fn write(
    buf: &mut [u8],
    query: &Query,
    flags: u16,
    rcode: u8,
    server: &Server,
    options: &Options<'_>,
) -> Option<usize> {
    let end = usize::from(query.question_end);
    let questions = u8::from(query.has_question());
    let additional = u8::from(query.edns.is_some());
    write_header(buf, flags, [0, questions, 0, 0, 0, 0, 0, additional])?;
    match query.edns {
        Some(edns) => edns.reply(buf, end, server.udp_size, rcode, options),
        None => Some(end),
    }
}

#[inline]
fn write_header(buf: &mut [u8], flags: u16, counts: [u8; 8]) -> Option<()> {
    let head: &mut [u8; header::LEN] = buf.first_chunk_mut()?;
    let [id0, id1, ..] = *head;
    let [f0, f1] = flags.to_be_bytes();
    let [q0, q1, a0, a1, n0, n1, r0, r1] = counts;
    *head = [id0, id1, f0, f1, q0, q1, a0, a1, n0, n1, r0, r1];
    Some(())
}
