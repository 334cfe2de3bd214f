//! The hot tier, kept in agreement with the policy, the interfaces and the settings.
//!
//! The tier (`crate::tier`) holds answers and knows no policy. This module decides on which interfaces it
//! answers, which clients, and when it must not answer at all; a reload and a flush go through it, so that
//! nothing is answered that a worker would not answer at that moment.

mod clients;
mod interface;
mod plan;
mod report;
mod returned;

use std::{
    fmt, io, mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tracing::info;

use super::{cores::CoreFactory, threads::Threads};
use crate::{
    answer::policy::{NonRecursive, Policy},
    config::{self, Config},
    maintenance::Scope,
    packet::SourceFilter,
    tier::{Nominator, Tier, TierRules},
    xdp::TierMaps,
};
pub(super) use interface::InterfaceTier;
pub(super) use plan::tier_size;
pub(super) use report::TierState;

/// The hot tier of a running server.
pub(super) struct HotTier {
    tier: Tier,
    /// Answers that it holds at most.
    capacity: u32,
    policy: Arc<ArcSwap<Policy>>,
    /// The settings that a reload does not change.
    fixed: Fixed,
    followed: Mutex<Followed>,
}

#[derive(Clone, Copy)]
struct Fixed {
    udp_size: u16,
    trust_ad: bool,
    verify_checksums: bool,
}

/// What the rules were last made of, besides the policy.
#[derive(Default)]
struct Followed {
    /// Prefixes of senders that no reply may go to.
    senders: Vec<(IpAddr, u8)>,
    /// Why the tier must not answer, if it must not.
    obstacle: Option<&'static str>,
    /// Interfaces that it answers on.
    interfaces: usize,
}

impl fmt::Debug for HotTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotTier").finish_non_exhaustive()
    }
}

impl HotTier {
    /// By what another worker nominates answers.
    pub(super) fn nominator(&self) -> Nominator {
        self.tier.nominator()
    }

    /// Starts it, without an interface.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub(super) fn start(config: &Config, cores: &CoreFactory) -> io::Result<Arc<Self>> {
        let lost = "the hot tier takes no new answers";
        let on_exit = Threads::auxiliary("hot tier", lost);
        let observations = cores.observations();
        let count_hits = move |question: &[u8], hits| observations.add_unsampled(question, hits);
        let hot = Arc::new(Self {
            tier: Tier::start(plan::settings(config), cores.clock(), count_hits, on_exit)?,
            capacity: config.tier.entries,
            policy: cores.policy(),
            fixed: Fixed {
                udp_size: config.max_udp_size,
                trust_ad: config.forward.trust_ad,
                verify_checksums: config.xdp.verify_checksums,
            },
            followed: Mutex::default(),
        });
        hot.follow(&mut hot.followed());
        Ok(hot)
    }

    /// Has it answer on an interface.
    fn attach(&self, interface: &str, mtu: u32, maps: TierMaps) {
        self.followed().interfaces += 1;
        self.tier.attach(interface, mtu, maps);
    }

    /// Ends that. The program answers nothing from the return on.
    fn detach(&self, interface: &str) {
        self.tier.detach(interface);
        self.followed().interfaces -= 1;
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the senders that no reply may go to.
    fn set_senders(&self, filter: &SourceFilter) {
        let senders = filter.refused().collect();
        let mut followed = self.followed();
        if followed.senders != senders {
            followed.senders = senders;
            self.follow(&mut followed);
        }
    }

    /// Replaces the policy by `store`. Until the tier has the rules of the new one it answers nothing, and
    /// nothing that was cached under the old one gets into it: a worker reads the tier's epoch first when it offers an
    /// answer, and then offers none unless its policy is the one that is shared.
    pub(super) fn replace_policy(&self, store: impl FnOnce()) {
        let _suspension = self.tier.suspend();
        store();
        self.follow(&mut self.followed());
    }

    /// Executes a flush of the caches, of the entries in `scope`. These are gone from the tier before it, and none comes
    /// back out of a cache that has not been flushed yet.
    pub(super) fn flush(&self, scope: &Scope, flush: impl FnOnce() -> u64) -> u64 {
        if *scope == Scope::All {
            let _suspension = self.tier.suspend();
            return flush();
        }
        let _forgetting = self.tier.forget(|question| scope.holds(question));
        flush()
    }

    /// Whether it holds an answer to a question, in wire form, for queries with these flags of the cache's key.
    pub(super) fn contains(&self, question: &[u8], flags: u8) -> bool {
        self.tier.contains(question, flags)
    }

    /// Makes the rules of the policy and the senders.
    fn follow(&self, followed: &mut Followed) {
        let policy = self.policy.load();
        self.tier.set_rules(TierRules {
            clients: clients::clients(&policy.access, &followed.senders),
            refuse_non_recursive: policy.non_recursive == NonRecursive::Refuse,
            trust_ad: self.fixed.trust_ad,
            udp_size: self.fixed.udp_size,
            verify_checksums: self.fixed.verify_checksums,
        });
        let obstacle = obstacle(&policy);
        self.tier.set_enabled(match obstacle {
            Some(why) => Err(why.to_owned()),
            None => Ok(()),
        });
        match (mem::replace(&mut followed.obstacle, obstacle), obstacle) {
            (before, Some(why)) if before != obstacle => info!("hot tier off: {why}"),
            (Some(_), None) => info!("hot tier on again"),
            _ => {}
        }
    }
}

/// What in a policy the tier cannot do.
fn obstacle(policy: &Policy) -> Option<&'static str> {
    if policy.limit.per_second > 0 {
        return Some(config::RATE_LIMIT);
    }
    let cookies = policy.cookies.as_ref();
    cookies
        .is_some_and(|cookies| cookies.demand_above > 0)
        .then_some(config::COOKIES)
}

#[cfg(test)]
mod tests;
