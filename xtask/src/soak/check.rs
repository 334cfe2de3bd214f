//! Whether a reply is right.

use std::time::Duration;

use super::upstream::{self, Ledger, Question, SERVFAIL};
use crate::differ::reply::{Reply, same_records};

/// The largest UDP reply of a server with default settings.
const MAX_UDP_SIZE: usize = 1232;
const OPT_LEN: usize = 11;
/// TTL of an answer whose life is over; it is counted down, too.
const STALE_TTL: u32 = 30;
/// The option for Extended DNS Errors (RFC 8914), and its codes for Stale Answer and Stale NXDOMAIN.
const EDE: u16 = 15;
const STALE: [u16; 2] = [3, 19];
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
    if said.flags & FIXED != right.flags & FIXED {
        return Err(format!("flags {:#06x}", said.flags));
    }
    // Octet by octet: in the letter case that was sent.
    if said.question != right.question {
        return Err("another question".to_owned());
    }
    if said.opt.is_some() != sent.edns {
        return Err("OPT comes, or is missing, unasked".to_owned());
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
        (true, false) if said.sections.iter().all(Vec::is_empty) => return Ok(Verdict::Cut),
        (true, false) => return Err("cut, but not all of it".to_owned()),
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
    // A client that knows EDNS is told.
    let told = |(code, data): &(u16, Vec<u8>)| {
        let info = data.first_chunk().map(|info| u16::from_be_bytes(*info));
        *code == EDE && info.is_some_and(|info| STALE.contains(&info))
    };
    let may_be_stale = said.opt.is_none() || said.options().iter().any(told);
    let mut stale = false;
    for (said, right) in said.sections.iter().zip(&right.sections) {
        if !same_records(said, right) {
            return Err(format!("records {said:?} instead of {right:?}"));
        }
        for (said, right) in said.iter().zip(right) {
            let most = (right.ttl + 1).saturating_sub(age).min(right.ttl);
            if said.ttl <= most && age <= right.ttl + 1 {
                continue;
            }
            if may_be_stale && said.ttl <= STALE_TTL {
                stale = true;
            } else {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for the first popular name that has a whole answer of this size or more, asked and
    /// sent at once.
    fn sent(least: usize, ledger: &Ledger) -> Sent {
        let popular = (0..upstream::POPULAR).map(|rank| format!("w{rank}.popular.soak.example"));
        let queries = popular.map(|name| {
            let question = Question::new(name);
            let mut message = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            message.extend(upstream::wire_name(&question.name));
            message.extend(question.qtype.to_be_bytes());
            message.extend([0, 1]);
            (question, message)
        });
        let fits = |message: &[u8]| {
            let reply = upstream::right_reply(message).unwrap();
            reply.len() >= least && reply[7] > 0
        };
        let (question, message) = queries.into_iter().find(|(_, query)| fits(query)).unwrap();
        assert!(!ledger.replies(&message, false).is_empty());
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
        upstream::right_reply(&sent.message).unwrap()
    }

    #[test]
    fn the_right_reply_is_right() {
        let ledger = Ledger::new();
        let sent = sent(0, &ledger);
        assert_eq!(judge(&sent, &right(&sent), &ledger), Ok(Verdict::Right));
    }

    #[test]
    fn any_octet_that_changes_is_seen() {
        let ledger = Ledger::new();
        let sent = sent(0, &ledger);
        let right = right(&sent);
        // The count of additional records is not compared.
        for at in (0..10).chain(12..right.len()) {
            let mut wrong = right.clone();
            wrong[at] ^= 0x40;
            let verdict = judge(&sent, &wrong, &ledger);
            assert!(
                !matches!(verdict, Ok(Verdict::Right | Verdict::Stale)),
                "octet {at}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_reply_is_cut_if_and_only_if_it_does_not_fit() {
        let ledger = Ledger::new();
        for (least, verdict) in [(0, None), (600, Some(Verdict::Cut))] {
            let sent = sent(least, &ledger);
            let mut cut = right(&sent)[..sent.message.len()].to_vec();
            cut[2] |= 0x02;
            cut[7] = 0;
            assert_eq!(judge(&sent, &cut, &ledger).ok(), verdict);
            let whole = judge(&sent, &right(&sent), &ledger);
            assert_eq!(whole.is_ok(), verdict.is_none());
        }
    }

    #[test]
    fn an_answer_that_is_too_old_or_was_flushed_is_seen() {
        let ledger = Ledger::new();
        let mut sent = sent(0, &ledger);
        let reply = right(&sent);
        sent.flushed = Duration::from_secs(3);
        assert_ne!(judge(&sent, &reply, &ledger), Ok(Verdict::Right));
        sent.flushed = Duration::ZERO;
        sent.time += Duration::from_secs(2);
        assert_ne!(judge(&sent, &reply, &ledger), Ok(Verdict::Right));
        // Counted down, but then given on.
        sent.time += Duration::from_secs(60);
        let mut old = reply.clone();
        let ttl = sent.message.len() + 6;
        old[ttl..ttl + 4].fill(0);
        assert_ne!(judge(&sent, &old, &ledger), Ok(Verdict::Right));
    }
}
