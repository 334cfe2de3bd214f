//! Whether a reply is right.

use std::time::Duration;

use super::{
    answers::{Ledger, Question},
    clients::Count,
};
use crate::differ::reply::{Reply, same_records};

/// The largest UDP reply of a server with default settings.
const MAX_UDP_SIZE: usize = 1232;
const OPT_LEN: usize = 11;
/// TTL of a stale answer; it is counted down, too.
const STALE_TTL: u32 = 30;
/// The option for Extended DNS Errors (RFC 8914), and its codes for Stale Answer and Stale NXDOMAIN.
const EDE: u16 = 15;
const STALE: [[u8; 2]; 2] = [[0, 3], [0, 19]];
const SERVFAIL: u16 = 2;
const TC: u16 = 0x0200;
/// Flags that are the same in every reply: all but TC and the response code.
const FIXED: u16 = !(TC | 0x000f);

/// A query that waits for its reply, or had it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) message: Vec<u8>,
    pub(super) question: Question,
    /// The payload size in its OPT record; `None` over TCP, which has no bound.
    pub(super) limit: Option<usize>,
    pub(super) edns: bool,
    /// When it was sent, since the ledger's start.
    pub(super) time: Duration,
    /// When the name was last flushed before.
    pub(super) flushed: Duration,
}

/// Judges a reply: right, truncated, stale or failed. The error says what is wrong with it.
pub(super) fn judge(sent: &Sent, reply: &[u8], ledger: &Ledger) -> Result<Count, String> {
    if reply.get(..2) != sent.message.get(..2) {
        return Err("another ID".to_owned());
    }
    let right = sent.question.right_reply(&sent.message);
    let (said, right) = (Reply::read(reply)?, Reply::read(&right)?);
    if said.flags & FIXED != right.flags & FIXED {
        return Err(format!("flags {:#06x}", said.flags));
    }
    // Octet by octet: in the letter case that was sent.
    if said.question != right.question {
        return Err("another question".to_owned());
    }
    if said.opt.is_some() != sent.edns {
        return Err("OPT is there, or missing, unasked".to_owned());
    }
    if said.rcode == SERVFAIL {
        return Ok(Count::Failed);
    }
    if said.rcode != right.rcode {
        return Err(format!("rcode {} instead of {}", said.rcode, right.rcode));
    }
    let len = right.len + if sent.edns { OPT_LEN } else { 0 };
    let limit = sent.limit.map(|limit| limit.clamp(512, MAX_UDP_SIZE));
    let fits = limit.is_none_or(|limit| len <= limit);
    match (said.has(TC), fits) {
        (true, false) if said.sections.iter().all(Vec::is_empty) => Ok(Count::Truncated),
        (true, false) => Err("truncated, but not all of it".to_owned()),
        (true, true) => Err(format!("truncated, although it has {len} octets")),
        (false, false) => Err(format!("not truncated, although it has {len} octets")),
        (false, true) => ages(sent, &said, &right, ledger),
    }
}

/// Compares the records: the same data, and TTLs that the upstream's last answer allows.
fn ages(sent: &Sent, said: &Reply, right: &Reply, ledger: &Ledger) -> Result<Count, String> {
    // The last time that the upstream was asked, no later than the reply. Seconds are whole.
    let asked = sent.question.rank().map(|rank| ledger.asked(rank));
    let age = asked.map_or(0, |asked| sent.time.saturating_sub(asked).as_secs() as u32);
    // A client that knows EDNS is told.
    let told = |(code, data): &(u16, Vec<u8>)| {
        *code == EDE && STALE.iter().any(|info| data.starts_with(info))
    };
    let may_be_stale = said.opt.is_none() || said.options().iter().any(told);
    let mut count = Count::Right;
    for (said, right) in said.sections.iter().zip(&right.sections) {
        if !same_records(said, right) {
            return Err(format!("records {said:?} instead of {right:?}"));
        }
        for (said, right) in said.iter().zip(right) {
            let most = (right.ttl + 1).saturating_sub(age).min(right.ttl);
            if said.ttl <= most && age <= right.ttl + 1 {
                continue;
            }
            if !may_be_stale || said.ttl > STALE_TTL {
                return Err(format!(
                    "TTL {} of {}, {age} s after the upstream was asked",
                    said.ttl, right.ttl
                ));
            }
            count = Count::Stale;
        }
    }
    // What was in flight when the name was flushed may be kept.
    let slack = Duration::from_secs(2);
    if asked.is_some_and(|asked| asked + slack < sent.flushed) {
        return Err("older than the flush of its name".to_owned());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use lab::{Received, message};

    use super::{super::clients::popular_name, *};

    /// A query for the first popular name that has a positive answer of such a size, asked and
    /// sent at once.
    fn sent(size: Range<usize>, ledger: &Ledger) -> Sent {
        let queries = (0..).map(|rank| {
            let question = Question::new(popular_name(rank));
            let query = message::query(258, &question.name, question.qtype);
            (question, message::octets(&query))
        });
        let fits = |(question, message): &(Question, Vec<u8>)| {
            let reply = question.right_reply(message);
            size.contains(&reply.len()) && reply[7] > 0
        };
        let (question, message) = queries.into_iter().find(fits).unwrap();
        let received = Received {
            msg: message.clone(),
            from: ([127, 0, 0, 1], 5300).into(),
            tcp: false,
        };
        assert!(!ledger.responses(&received).is_empty());
        Sent {
            message,
            question,
            limit: Some(512),
            edns: false,
            time: ledger.now(),
            flushed: Duration::ZERO,
        }
    }

    fn right(sent: &Sent) -> Vec<u8> {
        sent.question.right_reply(&sent.message)
    }

    #[test]
    fn the_right_reply_is_right() {
        let ledger = Ledger::new();
        let sent = sent(0..512, &ledger);
        assert_eq!(judge(&sent, &right(&sent), &ledger), Ok(Count::Right));
    }

    #[test]
    fn any_octet_that_changes_is_seen() {
        let ledger = Ledger::new();
        let sent = sent(0..512, &ledger);
        let right = right(&sent);
        // The count of additional records is not compared.
        for at in (0..10).chain(12..right.len()) {
            let mut wrong = right.clone();
            wrong[at] ^= 0x40;
            let judged = judge(&sent, &wrong, &ledger);
            assert!(
                !matches!(judged, Ok(Count::Right | Count::Stale)),
                "octet {at}: {judged:?}"
            );
        }
    }

    #[test]
    fn a_reply_is_truncated_if_and_only_if_it_does_not_fit() {
        let ledger = Ledger::new();
        for (size, expected) in [(0..512, None), (600..9000, Some(Count::Truncated))] {
            let sent = sent(size, &ledger);
            let mut empty = right(&sent)[..sent.message.len()].to_vec();
            empty[2] |= 0x02;
            empty[7] = 0;
            assert_eq!(judge(&sent, &empty, &ledger).ok(), expected);
            let whole = judge(&sent, &right(&sent), &ledger);
            assert_eq!(whole.is_ok(), expected.is_none());
        }
    }

    #[test]
    fn an_answer_that_is_too_old_or_was_flushed_is_seen() {
        let ledger = Ledger::new();
        let mut sent = sent(0..512, &ledger);
        let reply = right(&sent);
        sent.flushed = Duration::from_secs(3);
        assert_ne!(judge(&sent, &reply, &ledger), Ok(Count::Right));
        sent.flushed = Duration::ZERO;
        sent.time += Duration::from_secs(2);
        assert_ne!(judge(&sent, &reply, &ledger), Ok(Count::Right));
        // Counted down, and still served.
        sent.time += Duration::from_secs(60);
        let mut old = reply.clone();
        let ttl = sent.message.len() + 6;
        old[ttl..ttl + 4].fill(0);
        assert_ne!(judge(&sent, &old, &ledger), Ok(Count::Right));
    }
}
