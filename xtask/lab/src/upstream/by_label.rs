//! The script that most tests need.

use std::time::Duration;

use hickory_proto::{op::ResponseCode, rr::RecordType};

use super::{Received, Step};
use crate::message;

/// Octets of the OPT record that Heimdall adds to a reply.
const OPT_LEN: usize = 11;

/// The script that does as the first label of the queried name says:
///
/// | label | behaviour |
/// |---|---|
/// | `len-N` | a TXT record such that the reply, with an OPT record of 11 octets added, has N octets; over TCP alone if these are more than 1232 |
/// | `drop` | no reply |
/// | `slow-MS` | replies after MS milliseconds |
/// | `wrongid` | first a reply with another ID, then the right one |
/// | `wrongquestion` | first a reply to another question, then the right one |
/// | `servfail`, `refused`, `formerr` | that response code |
/// | `truncate` | TC over UDP, the whole answer over TCP |
/// | `cut` | first a reply that ends too soon, then the right one |
/// | anything else | one A record, 192.0.2.1, TTL 300; no record to a question for TXT |
pub fn by_label(query: &Received) -> Vec<Step> {
    let (Some(message), Some(name)) = (query.message(), query.name()) else {
        return vec![];
    };
    let label = name.split('.').next().unwrap_or_default();
    let (kind, number) = label.split_once('-').unwrap_or((label, ""));
    let number: usize = number.parse().unwrap_or_default();
    let reply = |rtype, data: &[u8]| {
        let mut reply = message::response(&message);
        let owner = message.queries[0].name();
        reply.add_answer(message::record(owner, rtype, 300, data));
        message::octets(&reply)
    };
    let empty = |code| {
        let mut reply = message::response(&message);
        reply.metadata.response_code = code;
        message::octets(&reply)
    };
    let good = message::address(&message, 300, [192, 0, 2, 1]);
    let replies = match kind {
        "len" if number > 1232 && !query.tcp => vec![message::truncated(&message)],
        "len" => {
            let fixed = reply(RecordType::TXT, &[0]).len() - 1 + OPT_LEN;
            let text = message::text(number.saturating_sub(fixed).max(1));
            vec![reply(RecordType::TXT, &text)]
        }
        "drop" => vec![],
        "slow" => {
            let wait = Duration::from_millis(number as u64);
            return vec![Step::Wait(wait), good.into()];
        }
        "wrongid" if !query.tcp => {
            let mut wrong = good.clone();
            wrong[0] ^= 0xff;
            vec![wrong, good]
        }
        "wrongquestion" if !query.tcp => {
            // The name's first letter.
            let mut wrong = good.clone();
            wrong[13] ^= 1;
            vec![wrong, good]
        }
        "cut" if !query.tcp => vec![good[..good.len() - 3].to_vec(), good],
        // As a server that knows EDNS.
        "servfail" => {
            let mut reply = message::response(&message);
            reply.metadata.response_code = ResponseCode::ServFail;
            reply.edns = message.edns.as_ref().map(|_| message::edns(1232));
            vec![message::octets(&reply)]
        }
        "refused" => vec![empty(ResponseCode::Refused)],
        "formerr" => vec![empty(ResponseCode::FormErr)],
        "truncate" if !query.tcp => vec![message::truncated(&message)],
        "truncate" => vec![reply(RecordType::TXT, &message::text(3000))],
        _ if message.queries[0].query_type() == RecordType::TXT => {
            vec![empty(ResponseCode::NoError)]
        }
        _ => vec![good],
    };
    replies.into_iter().map(Step::Send).collect()
}
