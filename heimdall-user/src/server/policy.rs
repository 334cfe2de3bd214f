//! Builds the policy from the settings and the files that they name, at the start and at every reload.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::{info, warn};

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
    config::{Config, Location},
    digest::Digester,
    file,
    handover::State,
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

/// Builds policies. Keeps the state that has to outlive reloads and take-overs: the secrets of the cookies, so that those
/// of clients stay valid.
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
    /// With the state of a predecessor.
    pub(super) fn inherit(state: &State) -> Self {
        match state.cookie_key {
            Some(key) => Self {
                secrets: Secrets::derived(key),
            },
            None => Self::default(),
        }
    }

    /// The state for a successor.
    pub(super) fn state(&self) -> State {
        State {
            cookie_key: self.secrets.key(),
            ..State::default()
        }
    }

    /// Builds the policy of these settings. Lists of millions of names take some seconds.
    ///
    /// # Errors
    /// A file cannot be read, or local data are invalid.
    pub fn load(&self, config: &Config) -> Result<Policy, PolicyError> {
        let mut digester = config.digester();
        let local = local(config, &mut digester)?;
        let exceptions = &*config.local.special_names_except;
        let routes = config.routes.iter();
        let special = SpecialNames::new(
            config.local.special_names.then_some(exceptions),
            routes.map(|route| (&*route.zone.0, route.local_only)),
            &local,
        );
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
            routes: 0,
            blocklists: blocklists(config, &mut digester)?,
            blocklist_aliases: config.local.blocklist_aliases,
            non_recursive: config.access.non_recursive,
            any: minimal_any(),
            digest: digester.finish(),
        })
    }
}

/// Logs that only clients with private addresses are answered, if that is so: a start or a reload warns of others.
pub(super) fn log_access(policy: &Policy) {
    if policy.access.public().is_empty() {
        info!(
            "answering clients with private and local addresses only; others are refused unless \
             `allow` in [access] or --allow names them"
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

fn local(config: &Config, digester: &mut Digester) -> Result<LocalData, PolicyError> {
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
        let text = read(location, path, MAX_HOSTS)?;
        digester.add(&text);
        let report = data.hosts(&text);
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

fn blocklists(config: &Config, digester: &mut Digester) -> Result<Blocklists, PolicyError> {
    let mut texts = Vec::new();
    for (item, list) in config.blocklists.iter().enumerate() {
        let location = config.settings.item_location("blocklist.file", item);
        let text = read(location, &list.file, MAX_BLOCKLIST)?;
        digester.add(&text);
        texts.push(text);
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
