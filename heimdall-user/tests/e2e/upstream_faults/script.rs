//! Scripts of upstreams, and messages for them.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use lab::{Received, Step, message};

/// What an upstream does about a query.
pub(super) type Script = fn(&Query<'_>) -> Vec<Step>;

/// A query that an upstream received.
pub(super) struct Query<'a> {
    pub(super) received: &'a Received,
    pub(super) message: Message,
    /// The queried name in lower case.
    pub(super) name: String,
    /// It is the nth query for this name.
    pub(super) nth: usize,
    /// The time-out of its transport.
    pub(super) timeout: Duration,
}

/// The right response: 192.0.2.1.
pub(super) fn good(query: &Query<'_>) -> Step {
    Step::Send(good_message(query))
}

/// The right response's octets.
pub(super) fn good_message(query: &Query<'_>) -> Vec<u8> {
    message::address(&query.message, 300, [192, 0, 2, 1])
}

/// What an attacker would have the server believe: 192.0.2.66, otherwise as the right response.
pub(super) fn forged(query: &Query<'_>) -> Vec<u8> {
    message::address(&query.message, 300, [192, 0, 2, 66])
}

/// The forged response with another ID: the difference is `bits`.
pub(super) fn wrong_id(query: &Query<'_>, bits: u16) -> Step {
    let mut msg = forged(query);
    let id = u16::from_be_bytes([msg[0], msg[1]]) ^ bits;
    msg[..2].copy_from_slice(&id.to_be_bytes());
    Step::Send(msg)
}

/// The forged response to a question for another name.
pub(super) fn wrong_question(query: &Query<'_>) -> Step {
    let mut msg = forged(query);
    // The name's first letter: behind header and length, and again behind the question unless it is compressed.
    msg[13] ^= 1;
    Step::Send(msg)
}

/// A response without records that has this code.
pub(super) fn code(query: &Query<'_>, code: u16) -> Step {
    let mut response = message::response(&query.message);
    response.metadata.response_code = ResponseCode::from((code >> 4) as u8, (code & 15) as u8);
    if code > 15 {
        response.edns = Some(message::edns(1232));
    }
    Step::Send(message::octets(&response))
}

/// The header of a response with this code, and nothing else.
pub(super) fn bare(query: &Query<'_>, code: u8) -> Step {
    let [high, low] = query.message.id.to_be_bytes();
    Step::Send(vec![high, low, 0x81, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Octets that are no message: their beginning has the query's ID.
pub(super) fn garbage(query: &Query<'_>) -> Vec<u8> {
    let [high, low] = query.message.id.to_be_bytes();
    let mut octets = vec![high, low];
    octets.extend((0..70_u8).map(|at| at.wrapping_mul(197) ^ 0xa5));
    octets
}

/// An answer that says that it is not whole.
pub(super) fn truncated(query: &Query<'_>) -> Step {
    Step::Send(message::truncated(&query.message))
}

pub(super) fn silent(_: &Query<'_>) -> Vec<Step> {
    vec![]
}
