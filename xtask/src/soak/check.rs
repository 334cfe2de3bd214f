//! Whether a reply is right.

use std::time::Duration;

use super::upstream::{self, Ledger, Question, SERVFAIL};
use crate::differ::normal::Reply;

/// The largest UDP reply of a server with default settings.
const MAX_UDP_SIZE: usize = 1232;
const OPT_LEN: usize = 11;
/// TTL of an answer whose life is over.
const STALE_TTL: u32 = 30;
const TC: u16 = 0x0200;
const QR: u16 = 0x8000;

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

/// What a reply that is not wrong says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    Right,
    /// Cut, as it does not fit.
    Cut,
    /// Right, but its life is over.
    Stale,
    /// No upstream gave an answer.
    Failed,
}

/// Judges a reply; the error says what is wrong with it.
pub(super) fn judge(sent: &Sent, reply: &[u8], ledger: &Ledger) -> Result<Verdict, String> {
    if reply.get(..2) != sent.message.get(..2) {
        return Err("another ID".to_owned());
    }
    let right = upstream::right_reply(&sent.message).unwrap_or_default();
    let (said, right) = (Reply::read(reply)?, Reply::read(&right)?);
    if said.flags & QR == 0 {
        return Err("not a response".to_owned());
    }
    // Octet by octet: in the letter case that was sent.
    if said.question != right.question {
        return Err("another question".to_owned());
    }
    let len = right.len + if sent.edns { OPT_LEN } else { 0 };
    let fits = sent
        .limit
        .is_none_or(|limit| len <= limit.clamp(512, MAX_UDP_SIZE));
    if said.rcode == SERVFAIL {
        return Ok(Verdict::Failed);
    }
    if said.rcode != right.rcode {
        return Err(format!("rcode {} instead of {}", said.rcode, right.rcode));
    }
    match (said.flags & TC != 0, fits) {
        (true, false) => return Ok(Verdict::Cut),
        (true, true) => return Err(format!("cut, although it has {len} octets")),
        (false, false) => return Err(format!("not cut, although it has {len} octets")),
        (false, true) => {}
    }
    ages(sent, &said, &right, ledger)
}

/// Compares the records: the same data, and TTLs that the upstream's last answer allows.
fn ages(sent: &Sent, said: &Reply, right: &Reply, ledger: &Ledger) -> Result<Verdict, String> {
    // The last time that the upstream was asked, no later than the reply. Seconds are whole.
    let rank = sent.question.rank();
    let asked = rank.map(|rank| ledger.asked(rank));
    let age = asked.map_or(0, |asked| sent.time.saturating_sub(asked).as_secs() as u32);
    let mut stale = false;
    for (said, right) in said.sections.iter().zip(&right.sections) {
        if said.len() != right.len() {
            return Err(format!("{} records instead of {}", said.len(), right.len()));
        }
        for (said, right) in said.iter().zip(right) {
            if (&said.owner, said.rtype, &said.data) != (&right.owner, right.rtype, &right.data) {
                return Err(format!("record {said:?} instead of {right:?}"));
            }
            let most = (right.ttl + 1).saturating_sub(age).min(right.ttl);
            if said.ttl == STALE_TTL && said.ttl > most {
                stale = true;
            } else if said.ttl > most {
                return Err(format!(
                    "TTL {} of {}, {age} s after the upstream was asked",
                    said.ttl, right.ttl
                ));
            }
        }
    }
    // What was on its way when the name was flushed may be kept.
    let slack = Duration::from_secs(2);
    if asked.is_some_and(|asked| asked + slack < sent.flushed) {
        return Err("older than the flush of its name".to_owned());
    }
    Ok(if stale {
        Verdict::Stale
    } else {
        Verdict::Right
    })
}
