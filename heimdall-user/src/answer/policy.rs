//! What the operator has decided about clients and names.
//!
//! One value that never changes; a reload makes another one and swaps it in whole, while the
//! cores go on with the old one until their next round.

use super::{
    access::Access,
    blocklist::Blocklists,
    cookie::CookieMaker,
    identity::{Identity, minimal_any},
    limit::LimitSettings,
    local::LocalData,
};
use crate::dns::Answer;

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
    /// Names that are not answered as the world would.
    pub blocklists: Blocklists,
    /// What stands in for all records of a name.
    pub any: Answer,
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
            blocklists: Blocklists::default(),
            any: minimal_any(),
        }
    }
}

/// Which part of the policy has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Local data.
    Local,
    /// A blocklist.
    Blocklist,
}

impl Policy {
    /// The policy's own answer to a question of the Internet class, if it has one. What is said
    /// here of a name comes before what a list says.
    pub fn decide(&self, qname: &[u8], qtype: u16) -> Option<(&Answer, Source)> {
        if let Some(answer) = self.local.lookup(qname, qtype) {
            return Some((answer, Source::Local));
        }
        let action = self.blocklists.lookup(qname)?;
        let answer = self.blocklists.answer(action, qtype)?;
        Some((answer, Source::Blocklist))
    }
}
