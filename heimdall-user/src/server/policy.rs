//! Builds the policy from the settings and the files that they name, at the start and at every reload.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tracing::{info, warn};

use super::tier::HotTier;
use crate::{
    answer::{
        blocklist::Blocklists,
        cookie::{CookieMaker, Secrets},
        identity::{Identity, minimal_any},
        local::{LocalData, LocalError},
        policy::{Cookies, Policy},
        special::SpecialNames,
    },
    blocklist,
    config::{Config, ConfigError, Location, Settings},
    file,
};

/// Longest hosts file, in octets.
pub(super) const MAX_HOSTS: u64 = 64 << 20;

/// Longest blocklist, in octets: some forty million names.
pub(super) const MAX_BLOCKLIST: u64 = 1 << 30;

/// Why a policy cannot be built. One line each.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("{location}cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// Where it is named.
        location: Location,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record is invalid.
    #[error("{location}{error}")]
    Record {
        /// Where it is.
        location: Location,
        /// The error.
        error: LocalError,
    },
    /// Local data contradict each other.
    #[error("[local]: {0}")]
    Local(LocalError),
    /// The blocklists cannot be built.
    #[error("cannot make the table of blocked names: {0}; is there room for temporary files?")]
    Blocklists(io::Error),
}

/// Builds policies. Keeps the state that has to outlive a reload: the secrets of the cookies, so that those of
/// clients stay valid.
#[derive(Debug)]
pub struct PolicyLoader {
    secrets: Secrets,
}

impl Default for PolicyLoader {
    fn default() -> Self {
        Self {
            secrets: Secrets::random(),
        }
    }
}

impl PolicyLoader {
    /// Builds the policy of these settings. Lists of millions of names take some seconds.
    ///
    /// # Errors
    /// A file cannot be read, or local data are invalid.
    pub fn load(&self, config: &Config) -> Result<Policy, PolicyError> {
        let local = local(config)?;
        let special = match config.local.special_names {
            true => SpecialNames::new(&config.local.special_names_except, &local),
            false => SpecialNames::default(),
        };
        Ok(Policy {
            access: config.access.access(),
            limit: config.rate_limit.limits(),
            cookies: self.cookies(config),
            identity: Identity::new(
                config.identity.version.as_deref(),
                config.identity.server_id.as_deref(),
            ),
            local,
            special,
            blocklists: blocklists(config)?,
            blocklist_aliases: config.local.blocklist_aliases,
            non_recursive: config.access.non_recursive,
            any: minimal_any(),
        })
    }
}

/// What the current policy was made of.
pub(super) struct Origin {
    pub(super) config: Config,
    /// Its files as they were when they were read.
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// Tells a file from another one at the same path, and from itself after a change: device, inode, length, and
/// the times of the last change of its contents and of the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    /// `None`: there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self([
            found.dev() as i64,
            found.ino() as i64,
            found.size() as i64,
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ]))
    }
}

impl Origin {
    /// To be called before the policy is made: what changes after that has changed.
    fn of(config: &Config) -> Self {
        let lists = config.blocklists.iter().map(|list| &list.file);
        let paths = lists.chain(&config.local.hosts);
        Self {
            files: paths.map(|path| (path.clone(), Stamp::of(path))).collect(),
            config: config.clone(),
        }
    }

    /// Whether a file is not the one any more that the policy was made of.
    pub(super) fn has_changed(&self, path: &Path) -> bool {
        let known = self.files.iter().find(|(known, _)| known == path);
        known.is_none_or(|(_, stamp)| stamp.is_none() || *stamp != Stamp::of(path))
    }
}

/// A policy that can be reloaded while it is in use.
pub(super) struct Reloader {
    shared: Arc<ArcSwap<Policy>>,
    origin: ArcSwap<Origin>,
    loader: PolicyLoader,
    /// The settings that the server runs with, those of the last reload included.
    running: ArcSwap<Settings>,
    /// Held during a reload: of two at once, the earlier must not overwrite the later.
    reloading: Mutex<()>,
    /// Set once it has started, if there is one.
    tier: OnceLock<Arc<HotTier>>,
    settings: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

/// Why a reload failed; the old policy stays.
#[derive(Debug, Error)]
pub(crate) enum ReloadError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files that they name.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Reloader {
    /// Loads the first policy. `settings` reads the settings again.
    pub(super) fn start(
        config: &Config,
        settings: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, PolicyError> {
        let loader = PolicyLoader::default();
        let origin = ArcSwap::from_pointee(Origin::of(config));
        let policy = loader.load(config)?;
        log_access(&policy);
        Ok(Self {
            shared: Arc::new(ArcSwap::from_pointee(policy)),
            origin,
            loader,
            running: ArcSwap::from_pointee(config.settings.clone()),
            reloading: Mutex::default(),
            tier: OnceLock::new(),
            settings: Box::new(settings),
        })
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

    /// The settings in force.
    pub(super) fn running(&self) -> Arc<Settings> {
        self.running.load_full()
    }

    /// What the current policy was made of.
    pub(super) fn origin(&self) -> Arc<Origin> {
        self.origin.load_full()
    }

    /// Reloads the policy. Returns a description of the new one.
    fn reload(&self) -> Result<String, ReloadError> {
        let _alone = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let config = (self.settings)()?;
        let origin = Origin::of(&config);
        let policy = self.loader.load(&config)?;
        log_access(&policy);
        let store = || self.shared.store(Arc::new(policy));
        match self.tier.get() {
            Some(tier) => tier.replace_policy(store),
            None => store(),
        }
        self.origin.store(Arc::new(origin));
        let running = self.running.load();
        let changed: Vec<&str> = running.need_restart(&config.settings).collect();
        self.running
            .store(Arc::new(running.reloaded(&config.settings)));
        Ok(match changed.as_slice() {
            [] => "reloaded: the new policy is in force".to_owned(),
            keys => format!(
                "reloaded: the new policy is in force; other settings have changed, too, and need a restart: {}",
                keys.join(", ")
            ),
        })
    }
}

impl Reloader {
    /// As [`reload`](Self::reload), and logs the outcome.
    pub(super) fn reload_and_log(&self) -> Result<String, ReloadError> {
        let outcome = self.reload();
        match &outcome {
            Ok(done) => info!("{done}"),
            Err(error) => warn!("not reloaded, the old policy stays: {error}"),
        }
        outcome
    }
}

/// Logs which clients are answered, so that an open resolver is not run by accident.
fn log_access(policy: &Policy) {
    let public = policy.access.public();
    if public.is_empty() {
        info!(
            "answering clients with private and local addresses only; others are refused unless \
             `allow` in [access] or --allow names them"
        );
    } else {
        let list: Vec<String> = public.iter().map(ToString::to_string).collect();
        warn!(
            "answering clients with PUBLIC addresses: {}; if that is the whole world, this is an \
             open resolver, and it will be used for attacks: set responses-per-second in \
             [rate-limit]",
            list.join(", ")
        );
    }
}

impl PolicyLoader {
    fn cookies(&self, config: &Config) -> Option<Cookies> {
        let cookies = &config.cookies;
        let secrets = match cookies.secrets.as_slice() {
            [] => self.secrets.clone(),
            given => Secrets::configured(given),
        };
        cookies.enabled.then(|| Cookies {
            maker: CookieMaker::new(secrets),
            demand_above: cookies.demand_above,
        })
    }
}

fn read(location: Location, path: &Path, max: u64) -> Result<Vec<u8>, PolicyError> {
    file::read(path, max).map_err(|source| PolicyError::Unreadable {
        location,
        path: path.to_owned(),
        source,
    })
}

fn local(config: &Config) -> Result<LocalData, PolicyError> {
    let mut data = LocalData::builder();
    let settings = &config.settings;
    let bad_record = |record, error| PolicyError::Record {
        location: settings.item_location("local.records", record),
        error,
    };
    for (item, record) in config.local.records.iter().enumerate() {
        data.record(record)
            .map_err(|error| bad_record(item, error))?;
    }
    for (item, path) in config.local.hosts.iter().enumerate() {
        let location = settings.item_location("local.hosts", item);
        let report = data.hosts(&read(location, path, MAX_HOSTS)?);
        if let Some((line, why)) = report.first {
            warn!(
                "hosts file {}: skipped {} line(s), in whole or in part; the first is line {line}: {why}",
                path.display(),
                report.skipped
            );
        }
    }
    let data = data.build().map_err(|conflict| match conflict.record {
        Some(record) => bad_record(record, conflict.error),
        None => PolicyError::Local(conflict.error),
    })?;
    if data.names() > 0 {
        info!("local data: {} names", data.names());
    }
    Ok(data)
}

fn blocklists(config: &Config) -> Result<Blocklists, PolicyError> {
    let mut texts = Vec::new();
    for (item, list) in config.blocklists.iter().enumerate() {
        let location = config.settings.item_location("blocklist.file", item);
        texts.push(read(location, &list.file, MAX_BLOCKLIST)?);
    }
    let actions = config.blocklists.iter().map(|list| list.action);
    let lists = texts.iter().map(Vec::as_slice).zip(actions);
    let (blocklists, reports) = blocklist::build(lists).map_err(PolicyError::Blocklists)?;
    for (list, report) in config.blocklists.iter().zip(&reports) {
        let path = list.file.display();
        info!("blocklist {path}: {} names", report.names);
        if let Some(line) = report.first_skipped {
            let count = report.skipped;
            warn!("blocklist {path}: {count} lines contain no name, the first is line {line}");
        }
    }
    Ok(blocklists)
}
