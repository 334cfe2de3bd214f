//! The policy: the operator's rules for clients and names.
//!
//! It is immutable. A reload builds another one and replaces it as a whole; cores use the old one until
//! their next batch.

use super::{
    access::Access,
    blocklist::{BlockAction, Blocklists},
    cookie::CookieMaker,
    identity::{Identity, minimal_any},
    limit::LimitSettings,
    local::LocalData,
    special::SpecialNames,
};
use crate::{
    digest::Digest,
    dns::{Answer, AnswerRef, QUESTION_FIXED, aliases},
};

/// The policy of all cores.
#[derive(Debug)]
pub struct Policy {
    /// Which clients are answered.
    pub access: Access,
    /// How many replies a client prefix gets.
    pub limit: LimitSettings,
    /// DNS cookies, unless they are off.
    pub cookies: Option<Cookies>,
    /// The server's version and identifier.
    pub identity: Identity,
    /// Names with records of the operator.
    pub local: LocalData,
    /// Special-use names and routes without upstreams, which are not forwarded.
    pub special: SpecialNames,
    /// The least generation of the forwarder's routes whose answers may be cached: those of earlier ones may be of other
    /// upstreams.
    pub routes: u64,
    /// Names that do not get an upstream's answer.
    pub blocklists: Blocklists,
    /// The targets of aliases are looked up in the blocklists, too.
    pub blocklist_aliases: bool,
    /// The handling of queries without RD.
    pub non_recursive: NonRecursive,
    /// The answer to ANY.
    pub any: Answer,
    /// Of the settings and the files that it was made of.
    pub digest: Digest,
}

/// The handling of queries of class IN without RD (recursion desired, RFC 1034 section 4.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonRecursive {
    /// An answer from the cache or the policy, or else REFUSED.
    #[default]
    Cache,
    /// REFUSED.
    Refuse,
    /// The same as queries with RD.
    Forward,
}

/// DNS cookies.
#[derive(Debug)]
pub struct Cookies {
    /// Makes and checks them.
    pub maker: CookieMaker,
    /// Queries a second, of one thread, above which clients that send cookies need a valid server
    /// cookie. 0: never.
    pub demand_above: u32,
}

impl Default for Policy {
    /// Private clients only, no limits, no cookies, no rules for names.
    fn default() -> Self {
        Self {
            access: Access::default(),
            limit: LimitSettings::default(),
            cookies: None,
            identity: Identity::default(),
            local: LocalData::default(),
            special: SpecialNames::default(),
            routes: 0,
            blocklists: Blocklists::default(),
            blocklist_aliases: true,
            non_recursive: NonRecursive::default(),
            any: minimal_any(),
            digest: Digest::default(),
        }
    }
}

/// The part of the policy that has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnsweredBy {
    /// Local data.
    Local,
    /// A blocklist.
    Blocklist,
    /// The special-use names.
    Special,
    /// A route without upstreams.
    Route,
}

impl Policy {
    /// The policy's answer to a question of class IN, if it has one. Local data come before blocklists,
    /// and both before special-use names.
    pub(crate) fn decide(&self, qname: &[u8], qtype: u16) -> Option<(&Answer, AnsweredBy)> {
        if let Some(answer) = self.local.lookup(qname, qtype) {
            return Some((answer, AnsweredBy::Local));
        }
        let Some(action) = self.blocklists.lookup(qname) else {
            return self.special.lookup(qname, qtype);
        };
        let answer = self.blocklists.answer(action, qtype)?;
        Some((answer, AnsweredBy::Blocklist))
    }

    /// The answer that replaces an upstream's `answer` to `question` (wire form, class IN) if that has an
    /// alias of a blocked name. The first blocked name of the chain decides. If the question's name is
    /// allowed, so are the targets of its aliases.
    pub(super) fn decide_aliases(&self, question: &[u8], answer: AnswerRef<'_>) -> Option<&Answer> {
        self.find_blocked_alias(question, answer, |_, answer| answer)
    }

    /// As [`decide_aliases`](Self::decide_aliases): what `found` makes of the blocked name, in wire form, and the
    /// answer that replaces the upstream's.
    pub(crate) fn find_blocked_alias<'a, T>(
        &'a self,
        question: &[u8],
        answer: AnswerRef<'_>,
        found: impl Fn(&[u8], &'a Answer) -> T,
    ) -> Option<T> {
        if !self.blocklist_aliases || self.blocklists.is_empty() {
            return None;
        }
        let (qname, [t0, t1, _, _]) = question.split_last_chunk::<QUESTION_FIXED>()?;
        let qtype = u16::from_be_bytes([*t0, *t1]);
        let blocked = aliases::find_target(question, answer, |target| {
            let action = self.blocklists.lookup(target)?;
            let answer = self.blocklists.answer(action, qtype)?;
            Some(found(target, answer))
        })?;
        (self.blocklists.lookup(qname) != Some(BlockAction::Allow)).then_some(blocked)
    }
}

#[cfg(test)]
mod tests;
