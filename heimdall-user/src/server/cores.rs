//! The answer cores of the process: one for each front, made alike.

use std::{cell::Cell, fs, sync::Arc};

use arc_swap::ArcSwap;
use tracing::info;

use super::ServerError;
use crate::{
    answer::{Core, policy::Policy},
    cache::Cache,
    clock::Clock,
    config::{Config, Size},
    dns::{NameHasher, reply},
    doctor::TRANSPARENT,
    latency::FrontLatency,
    stats::{AnswerCounters, DropCounters},
    tap::{Observations, Tap},
};

/// Makes answer cores. They share the policy, the clock and the seed that names are hashed with.
pub(super) struct CoreFactory {
    hasher: NameHasher,
    server: reply::ReplySettings,
    policy: Arc<ArcSwap<Policy>>,
    cache_bytes: usize,
    clock: Clock,
    observations: Arc<Observations>,
    /// The kind of pages that the caches are in has been logged.
    logged_pages: Cell<bool>,
}

/// What a core, and the engine that has it, count.
#[derive(Clone, Debug, Default)]
pub(super) struct CoreCounters {
    pub(super) answers: Arc<AnswerCounters>,
    pub(super) drops: Arc<DropCounters>,
    pub(super) latency: Arc<FrontLatency>,
}

impl CoreFactory {
    pub(super) fn new(
        config: &Config,
        policy: Arc<ArcSwap<Policy>>,
        observations: Arc<Observations>,
    ) -> Self {
        Self {
            hasher: NameHasher::default(),
            server: reply::ReplySettings::new(config.max_udp_size, config.forward.trust_ad),
            policy,
            cache_bytes: config.cache.bytes,
            clock: Clock::start(),
            observations,
            logged_pages: Cell::new(false),
        }
    }

    /// A core with a cache of its own.
    ///
    /// # Errors
    /// The memory for the cache is not available.
    pub(super) fn core(&self, counters: &CoreCounters) -> Result<Core, ServerError> {
        let bytes = self.cache_bytes;
        let cache = Cache::new(bytes).map_err(|source| ServerError::Cache { bytes, source })?;
        if !self.logged_pages.replace(true) {
            log_pages(&cache, bytes);
        }
        Ok(Core::new(
            cache,
            self.hasher.clone(),
            self.server,
            Arc::clone(&self.policy),
            Arc::clone(&counters.answers),
            Arc::clone(&counters.drops),
        ))
    }

    /// Octets of a core's cache.
    pub(super) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// The policy that the cores share.
    pub(super) fn policy(&self) -> Arc<ArcSwap<Policy>> {
        Arc::clone(&self.policy)
    }

    /// What the fronts' samples go to.
    pub(super) fn observations(&self) -> Arc<Observations> {
        Arc::clone(&self.observations)
    }

    /// The cores' hasher of names.
    pub(super) fn hasher(&self) -> NameHasher {
        self.hasher.clone()
    }

    /// A sampler for the front of a core.
    pub(super) fn tap(&self) -> Tap {
        self.observations.taps().front()
    }

    /// The clock that the cores' entries age by.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }
}

/// Logs the kind of pages that a cache of this size got.
fn log_pages(cache: &Cache, bytes: usize) {
    let size = Size(bytes);
    if cache.is_in_reserved_pages() {
        info!("caches: {size} a thread, in reserved huge pages");
    } else if fs::read_to_string(TRANSPARENT).is_ok_and(|text| !text.contains("[never]")) {
        info!("caches: {size} a thread, in transparent huge pages");
    } else {
        info!(
            "caches: {size} a thread, in plain pages: every look-up costs a little more; `echo \
             madvise > {TRANSPARENT}` lets the kernel use huge ones"
        );
    }
}
