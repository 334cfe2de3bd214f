//! A reload: what differs between the settings in force and those of now, how it is applied, and the part of it that the
//! running server does in place. What takes another server is done by its owner (`succession`).

mod origin;
mod outcome;

use std::{
    fmt, io,
    net::TcpListener,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::{
    PolicyError, forward_options,
    policy::{PolicyLoader, log_access},
    preflight,
    tier::HotTier,
    tls::{self, Tls},
    warnings,
};
use crate::{
    answer::policy::Policy,
    config::{Change, Config, ConfigError, Zoned},
    forward::Plans,
    handover::State,
    privileges,
};
pub(super) use origin::Origin;
use outcome::unserved;
pub(super) use outcome::{Difference, Outcome, Refusal, ReloadError, document};

/// Reads the settings again.
pub type Source = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A policy that can be reloaded while it is in use.
pub(super) struct Reloader {
    shared: Arc<ArcSwap<Policy>>,
    origin: ArcSwap<Origin>,
    loader: PolicyLoader,
    /// Held during a reload: of two at once, the earlier must not overwrite the later. Whether another server has taken
    /// over from this one.
    replaced: Mutex<bool>,
    /// Another server is taking over.
    refuses_changes: AtomicBool,
    /// Set once it has started, if there is one.
    tier: OnceLock<Arc<HotTier>>,
    /// Set once the forwarder has started.
    forwarder: OnceLock<Plans>,
    /// The same for TLS.
    tls: OnceLock<Arc<Tls>>,
    settings: Source,
    /// How many queues of each interface AF_XDP could serve at the start.
    queues: Vec<usize>,
    /// Whether interfaces that can be served later are served without a reload.
    is_supervised: AtomicBool,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

/// Why settings are refused: a file that can be read by its permissions may be closed by the sandbox.
fn refusal(error: ConfigError) -> Refusal {
    match &error {
        ConfigError::Unreadable { path, source }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            privileges::unreadable(path).map_or_else(|| error.into(), Refusal::Forbidden)
        }
        _ => error.into(),
    }
}

/// Held during a reload. What it holds becomes true when another server has taken over.
pub(super) type Reloading<'a> = MutexGuard<'a, bool>;

impl Reloader {
    /// Loads the first policy, with the state of a predecessor. `settings` reads the settings again. AF_XDP can serve
    /// so many `queues` of each interface.
    pub(super) fn start(
        config: &Config,
        settings: Source,
        state: &State,
        queues: Vec<usize>,
    ) -> Result<Self, PolicyError> {
        let loader = PolicyLoader::inherit(state);
        let origin = ArcSwap::from_pointee(Origin::of(config));
        let policy = loader.load(config)?;
        log_access(&policy);
        Ok(Self {
            shared: Arc::new(ArcSwap::from_pointee(policy)),
            origin,
            loader,
            replaced: Mutex::new(false),
            refuses_changes: AtomicBool::new(false),
            tier: OnceLock::new(),
            forwarder: OnceLock::new(),
            tls: OnceLock::new(),
            settings,
            queues,
            is_supervised: AtomicBool::new(false),
        })
    }

    /// Leaves interfaces that can be served later to the supervisor.
    pub(super) fn set_supervised(&self) {
        self.is_supervised.store(true, Ordering::Relaxed);
    }

    /// The current policy, which the cores share.
    pub(super) fn policy(&self) -> &Arc<ArcSwap<Policy>> {
        &self.shared
    }

    /// Has reloads go through the hot tier.
    pub(super) fn set_tier(&self, tier: Arc<HotTier>) {
        // There is one a server.
        let _ = self.tier.set(tier);
    }

    /// Has reloads replace the forwarder's routes and upstreams.
    pub(super) fn set_forwarder(&self, plans: Plans) {
        // There is one a server.
        let _ = self.forwarder.set(plans);
    }

    /// Has reloads read the certificate again.
    pub(super) fn set_tls(&self, tls: Arc<Tls>) {
        let _ = self.tls.set(tls);
    }

    /// What the current policy was made of.
    pub(super) fn origin(&self) -> Arc<Origin> {
        self.origin.load_full()
    }

    /// The addresses and the certificate of TLS, if there is any.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.get().map(Arc::as_ref)
    }

    /// Reads the settings again.
    pub(super) fn settings(&self) -> Source {
        Arc::clone(&self.settings)
    }

    /// What a successor needs for clients' sake.
    pub(super) fn state(&self) -> State {
        self.loader.state()
    }

    /// Whether another server is taking over, which would not have what is changed here.
    pub(super) fn refuses_changes(&self) -> bool {
        self.refuses_changes.load(Ordering::SeqCst)
    }

    /// Sets that.
    pub(super) fn refuse_changes(&self, refuse: bool) {
        self.refuses_changes.store(refuse, Ordering::SeqCst);
    }

    /// Begins a reload, once no other is under way.
    pub(super) fn begin(&self) -> Result<Reloading<'_>, Refusal> {
        let replaced = self.replaced.lock();
        let replaced = replaced.unwrap_or_else(PoisonError::into_inner);
        match *replaced || self.refuses_changes() {
            true => Err(Refusal::Replaced),
            false => Ok(replaced),
        }
    }

    /// Reads the settings, and compares them with those in force.
    pub(super) fn compare(&self) -> Result<Difference, Refusal> {
        let mut config = (self.settings)().map_err(refusal)?;
        let running = self.origin();
        let changes = running.config.changes(&config);
        config.keep_fixed(&running.config);
        let mut warnings = warnings::of_settings(&config);
        for forbidden in privileges::forbidden(&config) {
            let concerns = |change: &Change| forbidden.concerns(&change.key);
            if forbidden.concerns_all() || changes.iter().any(concerns) {
                return Err(Refusal::Forbidden(forbidden));
            }
            warnings.push(forbidden.to_string());
        }
        let files = running.changed_files(&config);
        let gains = self.gains(&config, &running.config);
        Ok(Difference {
            config,
            changes,
            files,
            gains,
            warnings,
        })
    }

    /// What could not be served when the server started, and can be now.
    fn gains(&self, config: &Config, running: &Config) -> Vec<String> {
        let unserved = self.tls().into_iter().flat_map(|tls| &tls.unserved);
        let mut free: Vec<String> = unserved
            .filter(|(address, _)| TcpListener::bind(address).is_ok())
            .map(|(address, _)| format!("the port of {} is free now", Zoned(*address)))
            .collect();
        let is_supervised = self.is_supervised.load(Ordering::Relaxed);
        if !is_supervised && config.interfaces == running.interfaces {
            let now = preflight::queues(config);
            let queues = now.iter().zip(&self.queues);
            let found = config.interfaces.iter().zip(queues);
            let found = found.filter(|(_, (now, then))| **now > 0 && **then == 0);
            free.extend(
                found.map(|(interface, _)| format!("{} can be served now", interface.name)),
            );
        }
        free
    }

    /// Reloads in place. `None`: nothing was done, as it takes another server.
    pub(super) fn reload_in_place(&self) -> Option<Result<Outcome, ReloadError>> {
        let outcome = self.begin().and_then(|_alone| {
            let difference = self.compare()?;
            let in_place = !difference.needs_successor();
            Ok(in_place.then(|| self.apply(difference)))
        });
        let outcome = match outcome {
            Ok(outcome) => outcome?,
            Err(refusal) => Err(refusal.into()),
        };
        log_outcome(&outcome);
        Some(outcome)
    }

    /// Puts the policy, the routes and the upstreams in force, then the certificate.
    ///
    /// The forwarder comes first: once its threads have the new routes and no answer of the former ones, the new policy is
    /// shared. A front that has it begins with an empty cache, and caches no answer of a former route that was still on its
    /// way.
    pub(super) fn apply(&self, difference: Difference) -> Result<Outcome, ReloadError> {
        let config = &difference.config;
        let origin = Origin::of(config);
        let mut policy = self.loader.load(config).map_err(Refusal::from)?;
        let plans = self.forwarder.get();
        let plan = plans.map(|plans| plans.prepare(&forward_options(config)));
        let plan = plan.transpose().map_err(|error| Refusal::Roots {
            location: config.settings.location("forward.tls-roots"),
            error,
        })?;
        log_access(&policy);
        let adopted = plans.zip(plan.flatten());
        let are_routes_new = adopted.is_some();
        if let Some((plans, plan)) = adopted {
            plans.adopt(plan);
        }
        policy.routes = plans.map_or(0, |plans| plans.current().generation());
        let store = || self.shared.store(Arc::new(policy));
        match self.tier.get() {
            Some(tier) => tier.replace_policy(store),
            None => store(),
        }
        difference.apply_log_level();
        self.origin.store(Arc::new(origin));
        // Last: lists and access rules do not wait until a certificate is in order.
        let certificate = self.tls().map_or(Ok(None), |tls| tls.reload(config));
        let (certificate, error) = match certificate {
            Ok(certificate) => (certificate, None),
            Err(error) => (None, Some(error)),
        };
        let is_certificate_new = certificate.is_some() || error.is_some();
        let in_force = match (are_routes_new, is_certificate_new) {
            (true, _) => "reloaded: the new policy, routes and upstreams are in force",
            (false, false) if difference.is_empty() => "reloaded: nothing has changed",
            (false, _) => "reloaded: the new settings are in force",
        };
        let notes = certificate.into_iter().chain(unserved(self.tls()));
        let outcome = difference.outcome(in_force, notes);
        match error {
            None => Ok(outcome),
            Some(error) => {
                outcome.log();
                Err(error.into())
            }
        }
    }

    /// Checks what would keep a successor with these settings from replacing this server, before anything is begun.
    pub(super) fn check_successor(&self, difference: &Difference) -> Result<(), Refusal> {
        let config = &difference.config;
        preflight::additions(config, &self.origin().config, |key| difference.changes(key))?;
        match self.tls() {
            Some(tls) if !config.listen_tls.is_empty() => {
                tls.acceptable(config)?;
            }
            _ if !config.listen_tls.is_empty() => {
                tls::check(config)?;
            }
            _ => {}
        }
        preflight::room_beside(config).map_err(|finding| Refusal::Memory {
            location: config.settings.location("cache.size"),
            finding,
        })
    }

    /// What a reload would do. All files are read, and nothing is changed.
    pub(super) fn preview(&self) -> Result<Outcome, Refusal> {
        let _alone = self.begin()?;
        info!("a dry run of a reload: nothing will be changed");
        let difference = self.compare()?;
        let config = &difference.config;
        if difference.needs_successor() {
            self.check_successor(&difference)?;
            preflight::preflight(config)?;
        }
        self.loader.load(config)?;
        let would = match difference.needs_successor() {
            true => "another server in the same process would take over",
            false if difference.is_empty() => "nothing would change",
            false => "the running server would change in place",
        };
        Ok(difference.outcome(would, unserved(self.tls())))
    }
}

/// Logs what a reload did, or why it did nothing.
pub(super) fn log_outcome(outcome: &Result<Outcome, ReloadError>) {
    match outcome {
        Ok(outcome) => outcome.log(),
        Err(error) => warn!("{error}"),
    }
}

#[cfg(test)]
mod tests;
