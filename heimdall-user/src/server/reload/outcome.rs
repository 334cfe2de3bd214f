//! What a reload finds, does, and says.

use std::{io, path::PathBuf};

use serde_json::{Value, json};
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    config::{Applied, Change, Config, ConfigError, Location},
    log,
    privileges::Forbidden,
    server::{
        PolicyError, ServerError,
        tls::{Tls, TlsError},
    },
};

/// Why a reload failed.
#[derive(Debug, Error)]
pub(in crate::server) enum ReloadError {
    /// Nothing was applied.
    #[error("not reloaded, all stays as it was: {0}")]
    Refused(#[from] Refusal),
    /// The certificate of TLS. All else was reloaded.
    #[error(
        "the new policy is in force, but the certificate was not reloaded, TLS goes on as before: {0}"
    )]
    Tls(#[from] TlsError),
}

/// Why a reload does nothing.
#[derive(Debug, Error)]
pub(in crate::server) enum Refusal {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The process has given up what they need.
    #[error("{0}")]
    Forbidden(Forbidden),
    /// The files that they name.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The root certificates for upstreams over TLS.
    #[error("{location}{error}")]
    Roots {
        /// Where they are given.
        location: Location,
        /// Why they cannot be used.
        error: io::Error,
    },
    /// The certificate, which a successor could not show.
    #[error(transparent)]
    Certificate(#[from] TlsError),
    /// There is no room for the caches of two servers.
    #[error(
        "{location}the caches of the old and the new server have to fit beside each other for a moment: {finding}; or \
         restart"
    )]
    Memory {
        /// Where their size is given.
        location: Location,
        /// What they take, and what there is.
        finding: String,
    },
    /// The running server cannot say what another one is to take over.
    #[error("the running server cannot be taken over: {0}")]
    Offer(io::Error),
    /// The successor does not start.
    #[error(transparent)]
    Successor(#[from] ServerError),
    /// A change would be lost.
    #[error("another server is taking over from this one; reload again when it has")]
    Replaced,
}

/// What a reload did, or would do.
#[derive(Debug)]
pub(in crate::server) struct Outcome {
    /// In a line.
    pub(in crate::server) summary: String,
    pub(super) changes: Vec<Change>,
    /// Files whose contents are not those any more that were read last.
    files: Vec<PathBuf>,
    /// What is to be said of the settings.
    pub(super) warnings: Vec<String>,
}

impl Outcome {
    /// For the control socket: `summary` is the field `name`.
    pub(in crate::server) fn json(&self, name: &str) -> Value {
        let mut document = json!({
            "changes": self.changes.iter().map(Change::json).collect::<Vec<_>>(),
            "files": self.files,
            "warnings": self.warnings,
        });
        if let Some(fields) = document.as_object_mut() {
            fields.insert(name.to_owned(), json!(self.summary));
        }
        document
    }

    /// Logs what was done, and the warnings.
    pub(super) fn log(&self) {
        info!("{}", self.summary);
        for warning in &self.warnings {
            warn!("{warning}");
        }
    }
}

/// The answer to a reload, for the control socket.
pub(in crate::server) fn document(outcome: &Result<Outcome, ReloadError>) -> Value {
    match outcome {
        Ok(outcome) => outcome.json("reloaded"),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// The settings of now, compared with those in force.
pub(in crate::server) struct Difference {
    /// As they would be in force: what needs a restart is as it was.
    pub(in crate::server) config: Config,
    pub(super) changes: Vec<Change>,
    pub(super) files: Vec<PathBuf>,
    /// What another server could serve besides, without a change of the settings.
    pub(super) gains: Vec<String>,
    /// What is to be said of the settings.
    pub(super) warnings: Vec<String>,
}

impl Difference {
    /// Has the log, which is the process's, take what these settings say.
    pub(in crate::server) fn apply_log_level(&self) {
        if self.changes("log.level") {
            log::set_filter(log::filter(self.config.log.level.as_deref()));
        }
    }

    /// Whether a key has another value.
    pub(super) fn changes(&self, key: &str) -> bool {
        self.changes.iter().any(|change| change.key == key)
    }

    /// Whether the settings, and the files that they name, are as they were.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.files.is_empty()
    }

    /// Whether another server has to take over.
    pub(in crate::server) fn needs_successor(&self) -> bool {
        let mut changes = self.changes.iter();
        !self.gains.is_empty() || changes.any(|change| change.applied == Applied::TakeOver)
    }

    /// The keys of changes.
    fn keys(&self, wanted: impl Fn(Applied) -> bool) -> Option<String> {
        let changes = self.changes.iter().filter(|change| wanted(change.applied));
        let mut keys: Vec<&str> = changes.map(|change| change.key.as_str()).collect();
        keys.dedup();
        (!keys.is_empty()).then(|| keys.join(", "))
    }

    /// What was done, or would be done, in a line that begins with `done`.
    pub(super) fn outcome(self, done: &str, notes: impl IntoIterator<Item = String>) -> Outcome {
        let mut summary = done.to_owned();
        let mut add = |text: String| summary.push_str(&format!("; {text}"));
        if let Some(keys) = self.keys(|applied| applied != Applied::Restart) {
            add(format!("changed: {keys}"));
        }
        if let files @ [_, ..] = self.files.as_slice() {
            let files: Vec<_> = files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            add(format!("changed files: {}", files.join(", ")));
        }
        if let Some(keys) = self.keys(|applied| applied == Applied::Restart) {
            add(format!(
                "other settings have changed, too, and need a restart: {keys}"
            ));
        }
        self.gains.into_iter().chain(notes).for_each(add);
        Outcome {
            summary,
            changes: self.changes,
            files: self.files,
            warnings: self.warnings,
        }
    }

    /// The outcome of a take-over.
    pub(in crate::server) fn taken_over(self, tls: Option<&Tls>) -> Outcome {
        self.outcome(
            "reloaded: another server with the new settings has taken over",
            unserved(tls),
        )
    }
}

/// What is to be said of addresses for TLS that are not served.
pub(super) fn unserved(tls: Option<&Tls>) -> Option<String> {
    let unserved = tls?.unserved.iter().map(|(_, why)| why.as_str());
    let unserved: Vec<&str> = unserved.collect();
    (!unserved.is_empty()).then(|| unserved.join("; "))
}
