//! What the operator has decided about clients and names.
//!
//! One value that never changes; a reload makes another one and swaps it in whole, while the
//! cores go on with the old one until their next round.

use super::{
    access::Access,
    blocklist::{Action, Blocklists},
    cookie::CookieMaker,
    identity::{Identity, minimal_any},
    limit::LimitSettings,
    local::LocalData,
    special::SpecialNames,
};
use crate::dns::{Answer, AnswerRef, QUESTION_FIXED, aliases};

/// The policy of all cores.
#[derive(Debug)]
pub struct Policy {
    /// Who may ask.
    pub access: Access,
    /// How much a client prefix may ask for.
    pub limit: LimitSettings,
    /// DNS cookies, unless they are off.
    pub cookies: Option<Cookies>,
    /// What the server tells about itself.
    pub identity: Identity,
    /// Names that are answered from here.
    pub local: LocalData,
    /// Special-use names that are answered from here.
    pub special: SpecialNames,
    /// Names that are not answered as the world would.
    pub blocklists: Blocklists,
    /// The blocklists are also asked for the names that aliases lead to.
    pub blocklist_aliases: bool,
    /// What queries without RD get.
    pub non_recursive: NonRecursive,
    /// What stands in for all records of a name.
    pub any: Answer,
}

/// What queries of class IN without RD (recursion desired) get (RFC 1034 section 4.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonRecursive {
    /// What is in the cache or in the policy, or else REFUSED.
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
    /// Queries a second, of one thread, above which a client that knows cookies has to show one of
    /// ours. 0: never.
    pub demand_above: u32,
}

impl Default for Policy {
    /// Private clients only, no limits, no cookies, no names of our own.
    fn default() -> Self {
        Self {
            access: Access::default(),
            limit: LimitSettings::default(),
            cookies: None,
            identity: Identity::default(),
            local: LocalData::default(),
            special: SpecialNames::default(),
            blocklists: Blocklists::default(),
            blocklist_aliases: true,
            non_recursive: NonRecursive::default(),
            any: minimal_any(),
        }
    }
}

/// Which part of the policy has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Local data, or a special-use name.
    Local,
    /// A blocklist.
    Blocklist,
}

impl Policy {
    /// The policy's own answer to a question of the Internet class, if it has one. Local data come
    /// before blocklists, and what the operator says of a name before what is special about it.
    pub fn decide(&self, qname: &[u8], qtype: u16) -> Option<(&Answer, Source)> {
        if let Some(answer) = self.local.lookup(qname, qtype) {
            return Some((answer, Source::Local));
        }
        let Some(action) = self.blocklists.lookup(qname) else {
            let answer = self.special.lookup(qname, qtype)?;
            return Some((answer, Source::Local));
        };
        let answer = self.blocklists.answer(action, qtype)?;
        Some((answer, Source::Blocklist))
    }

    /// What `question` (wire form, class IN) gets instead of `answer`, an upstream's, which leads by
    /// aliases to a blocked name. The first blocked name of the chain decides. A list that allows the
    /// question's name allows all that its aliases lead to.
    pub fn decide_aliases(&self, question: &[u8], answer: AnswerRef<'_>) -> Option<&Answer> {
        if !self.blocklist_aliases || self.blocklists.is_empty() {
            return None;
        }
        let targets = aliases::targets(question, answer);
        let (qname, [t0, t1, _, _]) = question.split_last_chunk::<QUESTION_FIXED>()?;
        if targets.is_empty() || self.blocklists.lookup(qname) == Some(Action::Allow) {
            return None;
        }
        let qtype = u16::from_be_bytes([*t0, *t1]);
        targets.iter().find_map(|target| {
            let action = self.blocklists.lookup(target)?;
            self.blocklists.answer(action, qtype)
        })
    }
}

#[cfg(test)]
mod tests;
