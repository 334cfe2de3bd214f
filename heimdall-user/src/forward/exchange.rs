//! One query to one upstream, over UDP or TCP, and the checks on its response.

use std::{io, sync::Arc, time::Instant};

use nix::libc;

use super::{ForwardCounters, answers::Answers, udp::MAX_REJECTED};
use crate::dns::{
    Answer, BadResponse, ClientSubnet, TtlLimits,
    edns::option,
    header::{self, field, rcode},
    options, u16_at,
};

/// Why a query could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// This host is out of descriptors or memory; another upstream would not help.
    Resources,
    /// This host has no address to ask this upstream from, no port left, or does not let the query out; another
    /// upstream may be asked.
    Address,
    /// The upstream cannot be reached.
    Upstream,
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC) => {
                Self::Resources
            }
            Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL) => Self::Address,
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
    /// The upstream responded, with an error.
    Error(ErrorResponse),
    /// The upstream cannot be reached.
    Unreachable,
    /// Connections that the upstream had accepted broke, the last one with this query alone on it.
    Broken,
}

/// An upstream's error response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ErrorResponse {
    /// The code of those that do not know EDNS, or not the version (RFC 6891 sections 6.1.3 and
    /// 7): FORMERR, NOTIMP or BADVERS.
    pub(super) no_edns: bool,
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
    pub(super) tcp: bool,
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
        match check_response(msg, self.sent.id, expected, answers, counters) {
            Checked::Answer(answer) => ExchangeStatus::Answer(answer),
            Checked::Error(error) => ExchangeStatus::Error(error),
            // Nothing better will follow.
            Checked::Truncated(_) | Checked::Rejected => {
                ExchangeStatus::Error(ErrorResponse::default())
            }
        }
    }

    /// Checks a datagram that has its ID. `None`: it was rejected, and another one may follow.
    pub(super) fn check_datagram(
        &mut self,
        msg: &[u8],
        expected: &Expected<'_>,
        answers: &mut Answers,
        counters: &ForwardCounters,
    ) -> Option<ExchangeStatus> {
        match check_response(msg, self.sent.id, expected, answers, counters) {
            Checked::Answer(answer) => Some(ExchangeStatus::Answer(answer)),
            Checked::Truncated(code) => Some(ExchangeStatus::Truncated(code)),
            Checked::Error(error) => Some(ExchangeStatus::Error(error)),
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
    id: u16,
    expected: &Expected<'_>,
    answers: &mut Answers,
    counters: &ForwardCounters,
) -> Checked {
    let got = u16_at(msg, field::ID);
    if got.is_some_and(|got| got != id) {
        counters.rejected_id.add(1);
        return Checked::Rejected;
    }
    if let Some(subnet) = expected.subnet
        && options::find(msg, option::CLIENT_SUBNET).is_some_and(|data| !subnet.is_echoed(data))
    {
        counters.rejected_subnet.add(1);
        return Checked::Rejected;
    }
    match answers.read(msg, expected.question, expected.flags, expected.limits) {
        Ok(answer) => Checked::Answer(answer),
        Err(BadResponse::Truncated) => match low_rcode(msg) {
            // Such a response has no records that TCP could bring.
            code @ (rcode::FORMERR | rcode::SERVFAIL | rcode::NOTIMP | rcode::REFUSED) => {
                Checked::Error(error_response(msg, code.into()))
            }
            code => Checked::Truncated(code),
        },
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
        no_edns: NO_EDNS.map(u16::from).contains(&code),
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
        assert_eq!(error(libc::ENETUNREACH), SendError::Upstream);
        assert_eq!(error(libc::ECONNREFUSED), SendError::Upstream);
    }
}
