//! One query to one upstream, over UDP or TCP, and the checks on its response.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use mio::{Registry, Token};
use nix::libc;

use super::{ForwardCounters, answers::Answers, udp::MAX_REJECTED, upstreams::Reason};
use crate::dns::{
    Answer, BadResponse, ClientSubnet, CookieEcho, Letters, TtlLimits,
    edns::option,
    header::{self, field, rcode},
    options, same_question, u16_at,
};

/// Where a socket or a connection for a query leads, if one has to be opened.
#[derive(Clone, Copy)]
pub(super) struct Destination<'a> {
    /// It is registered here, with the token that `token` makes of its number.
    pub(super) registry: &'a Registry,
    pub(super) token: fn(usize) -> Token,
    /// The upstream's position in the list.
    pub(super) upstream: usize,
    pub(super) address: SocketAddr,
    pub(super) now: Instant,
}

/// Why a query could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// This host is out of descriptors or memory; another upstream would not help.
    Resources,
    /// This host has no address to ask this upstream from, no port left, or does not let the query out; another
    /// upstream may be asked.
    Address,
    /// This host has no route to this upstream.
    Route,
    /// The upstream refuses connections.
    Refused,
    /// The upstream cannot be reached.
    Upstream,
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC) => {
                Self::Resources
            }
            // The latter two: a filter's rule.
            Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EPERM | libc::EACCES) => {
                Self::Address
            }
            Some(libc::ENETUNREACH | libc::ENETDOWN) => Self::Route,
            Some(libc::ECONNREFUSED) => Self::Refused,
            _ => Self::Upstream,
        }
    }
}

/// What became of an exchange.
#[derive(Debug)]
pub(super) enum ExchangeStatus {
    Answer(Arc<Answer>),
    /// The answer, which has this response code, does not fit in a datagram.
    Truncated(u8),
    /// Too many datagrams were rejected on its socket, or of those with its ID.
    Forged,
    /// A response came that is the upstream's by all but this.
    Unproven(Doubt),
    /// The upstream responded, with an error.
    Error(ErrorResponse),
    /// The upstream wants the query again, with the server cookie that came with this response.
    BadCookie,
    /// The upstream cannot be reached.
    Unreachable(Reason),
    /// Connections that the upstream had accepted broke, the last one with this query alone on it.
    Broken,
}

/// What a response lacks that its query asked for, so that it may be forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The letters of its question are those of the query, but their case is not.
    Letters,
    /// It has no cookie, and the upstream gave one before (RFC 7873 section 5.3).
    Cookie,
}

/// An upstream's error response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErrorResponse {
    /// Its response code. NOERROR and NXDOMAIN: what it holds is no answer.
    pub(super) code: u16,
    /// The code of those that do not know EDNS, or not the version (RFC 6891 sections 6.1.3 and
    /// 7): FORMERR, NOTIMP or BADVERS.
    pub(super) no_edns: bool,
    /// SERVFAIL without an OPT record: the upstream may not know EDNS.
    pub(super) maybe_no_edns: bool,
    /// Info-code of the Extended DNS Error that came with it.
    pub(super) ede: Option<u16>,
}

/// Properties of the query that its response has to match, and bounds for the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) question: &'a [u8],
    /// DO and CD.
    pub(super) flags: u8,
    pub(super) subnet: Option<&'a ClientSubnet>,
    /// Bounds on the TTL of the answer.
    pub(super) limits: &'a TtlLimits,
}

/// Which upstream a query goes to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The upstream's position in the list.
    pub(super) upstream: usize,
    /// Without an OPT record.
    pub(super) plain: bool,
    /// Without random letters and a cookie.
    pub(super) bare: bool,
    pub(super) tcp: bool,
}

/// The cookie of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentCookie {
    pub(super) client: [u8; 8],
    /// With a server cookie, which the upstream has given before: its response has to have a cookie.
    pub(super) expected: bool,
}

/// A query that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) target: Target,
    /// Distinguishes this exchange from others of the same look-up, for its deadline.
    pub(super) serial: u64,
    pub(super) id: u16,
    pub(super) at: Instant,
    /// It had to wait until its connection was established.
    pub(super) waited: bool,
    /// The case of the name's letters, if that was chosen at random.
    pub(super) letters: Option<Letters>,
    pub(super) cookie: Option<SentCookie>,
}

/// A query whose response is awaited.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) sent: Sent,
    pub(super) transport: Transport,
    /// Datagrams with its ID that were rejected. They do not count for the socket: an upstream whose answers about
    /// one zone are malformed does not fail the other queries there.
    pub(super) rejected: u32,
    /// Its query was sent once more, because the connection of the first broke.
    pub(super) moved: bool,
    /// Its query was sampled, and so is its response.
    pub(super) sampled: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    /// Over the [pooled socket](super::udp) with this number.
    Udp(usize),
    /// Over the [connection](super::tcp) with this number.
    Tcp(usize),
}

/// The classification of a received message.
enum Checked {
    Answer(Arc<Answer>),
    Truncated(u8),
    Error(ErrorResponse),
    BadCookie,
    Unproven(Doubt),
    Rejected,
}

impl Exchange {
    /// The number of its socket, over UDP.
    pub(super) fn socket(&self) -> Option<usize> {
        match self.transport {
            Transport::Udp(number) => Some(number),
            Transport::Tcp(_) => None,
        }
    }

    /// Checks a message that came over its connection, and has its ID.
    pub(super) fn check_message(
        &self,
        msg: &[u8],
        expected: &Expected<'_>,
        answers: &mut Answers,
        counters: &ForwardCounters,
    ) -> ExchangeStatus {
        match check_response(
            msg,
            &self.sent,
            CookieEcho::Absent,
            expected,
            answers,
            counters,
        ) {
            Checked::Answer(answer) => ExchangeStatus::Answer(answer),
            Checked::Error(error) => ExchangeStatus::Error(error),
            // Nothing better will follow.
            Checked::Truncated(_)
            | Checked::BadCookie
            | Checked::Unproven(_)
            | Checked::Rejected => ExchangeStatus::Error(ErrorResponse::default()),
        }
    }

    /// What a response says to its query's cookie, if that had one.
    pub(super) fn cookie_echo(&self, msg: &[u8]) -> CookieEcho {
        let cookie = self.sent.cookie;
        cookie.map_or(CookieEcho::Absent, |cookie| {
            CookieEcho::of(msg, cookie.client)
        })
    }

    /// Checks a datagram that has its ID, and says this to its cookie. `None`: it was rejected, and another one may
    /// follow.
    pub(super) fn check_datagram(
        &mut self,
        msg: &[u8],
        echo: CookieEcho,
        expected: &Expected<'_>,
        answers: &mut Answers,
        counters: &ForwardCounters,
    ) -> Option<ExchangeStatus> {
        match check_response(msg, &self.sent, echo, expected, answers, counters) {
            Checked::Answer(answer) => Some(ExchangeStatus::Answer(answer)),
            Checked::Truncated(code) => Some(ExchangeStatus::Truncated(code)),
            Checked::Error(error) => Some(ExchangeStatus::Error(error)),
            Checked::BadCookie => Some(ExchangeStatus::BadCookie),
            Checked::Unproven(doubt) => Some(ExchangeStatus::Unproven(doubt)),
            Checked::Rejected => {
                self.rejected += 1;
                (self.rejected >= MAX_REJECTED).then_some(ExchangeStatus::Forged)
            }
        }
    }
}

/// Checks a message, and counts why it was rejected.
fn check_response(
    msg: &[u8],
    sent: &Sent,
    echo: CookieEcho,
    expected: &Expected<'_>,
    answers: &mut Answers,
    counters: &ForwardCounters,
) -> Checked {
    let got = u16_at(msg, field::ID);
    if got.is_some_and(|got| got != sent.id) {
        counters.rejected_id.add(1);
        return Checked::Rejected;
    }
    if echo == CookieEcho::Wrong {
        counters.rejected_cookie.add(1);
        return Checked::Rejected;
    }
    if let Some(subnet) = expected.subnet
        && options::find(msg, option::CLIENT_SUBNET).is_some_and(|data| !subnet.is_echoed(data))
    {
        counters.rejected_subnet.add(1);
        return Checked::Rejected;
    }
    match read_response(msg, sent.letters, expected, answers, counters) {
        Checked::Rejected => Checked::Rejected,
        checked => match doubt(msg, sent, echo, expected.question) {
            None => checked,
            Some(doubt) => {
                match doubt {
                    Doubt::Letters => counters.rejected_case.add(1),
                    Doubt::Cookie => counters.rejected_cookie.add(1),
                }
                Checked::Unproven(doubt)
            }
        },
    }
}

/// Why a response to the question may be forged.
fn doubt(msg: &[u8], sent: &Sent, echo: CookieEcho, question: &[u8]) -> Option<Doubt> {
    if let Some(letters) = sent.letters
        && let Some(echoed) = msg.get(header::LEN..header::LEN + question.len())
        && !letters.are_in(echoed, question)
        // An error may come without the question.
        && same_question(echoed, question)
    {
        return Some(Doubt::Letters);
    }
    let is_expected = sent.cookie.is_some_and(|cookie| cookie.expected);
    (is_expected && echo == CookieEcho::Absent).then_some(Doubt::Cookie)
}

/// Reads a message.
fn read_response(
    msg: &[u8],
    letters: Option<Letters>,
    expected: &Expected<'_>,
    answers: &mut Answers,
    counters: &ForwardCounters,
) -> Checked {
    let Expected {
        question,
        flags,
        limits,
        ..
    } = *expected;
    let read = match letters {
        Some(letters) => answers.read_restored(msg, letters, question, flags, limits),
        None => answers.read(msg, question, flags, limits),
    };
    match read {
        Ok(answer) => Checked::Answer(answer),
        Err(BadResponse::Truncated) => match low_rcode(msg) {
            // Such a response has no records that TCP could bring.
            code @ (rcode::FORMERR | rcode::SERVFAIL | rcode::NOTIMP | rcode::REFUSED) => {
                Checked::Error(error_response(msg, code.into()))
            }
            code => Checked::Truncated(code),
        },
        Err(BadResponse::Rcode(code)) if code == u16::from(rcode::BADCOOKIE) => Checked::BadCookie,
        Err(BadResponse::Rcode(code)) => Checked::Error(error_response(msg, code)),
        Err(BadResponse::Question | BadResponse::Malformed) if is_bare_error(msg) => {
            Checked::Error(error_response(msg, low_rcode(msg).into()))
        }
        Err(BadResponse::InvalidAnswer) => {
            counters.rejected_malformed.add(1);
            Checked::Error(error_response(msg, low_rcode(msg).into()))
        }
        Err(BadResponse::Question) => {
            counters.rejected_question.add(1);
            Checked::Rejected
        }
        Err(BadResponse::Malformed) => {
            counters.rejected_malformed.add(1);
            Checked::Rejected
        }
    }
}

fn error_response(msg: &[u8], code: u16) -> ErrorResponse {
    const NO_EDNS: [u8; 3] = [rcode::FORMERR, rcode::NOTIMP, rcode::BADVERS];
    ErrorResponse {
        code,
        no_edns: NO_EDNS.map(u16::from).contains(&code),
        maybe_no_edns: code == u16::from(rcode::SERVFAIL) && !options::has_opt(msg),
        ede: options::extended_error(msg),
    }
}

/// The response code in the header, without what an OPT record adds to it.
fn low_rcode(msg: &[u8]) -> u8 {
    (u16_at(msg, field::FLAGS).unwrap_or_default() & header::RCODE) as u8
}

/// An error response without a question, as some servers send to what they cannot read; others
/// send nothing but the header, and count the question all the same.
fn is_bare_error(msg: &[u8]) -> bool {
    let flags = u16_at(msg, field::FLAGS).unwrap_or_default();
    let no_question = u16_at(msg, field::QDCOUNT) == Some(0) || msg.len() == header::LEN;
    msg.len() >= header::LEN
        && no_question
        && flags & (header::QR | header::OPCODE) == header::QR
        && !matches!(low_rcode(msg), rcode::NOERROR | rcode::NXDOMAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_or_ports_is_no_upstream_error() {
        let error = |errno| SendError::from(io::Error::from_raw_os_error(errno));
        assert_eq!(error(libc::EMFILE), SendError::Resources);
        assert_eq!(error(libc::EADDRINUSE), SendError::Address);
        assert_eq!(error(libc::EADDRNOTAVAIL), SendError::Address);
        assert_eq!(error(libc::EPERM), SendError::Address);
        assert_eq!(error(libc::ENETUNREACH), SendError::Route);
        assert_eq!(error(libc::EHOSTUNREACH), SendError::Upstream);
        assert_eq!(error(libc::ECONNREFUSED), SendError::Refused);
    }
}
