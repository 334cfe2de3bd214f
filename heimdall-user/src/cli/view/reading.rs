//! The server's document at a moment, and what was counted between two.

use std::path::Path;

use serde_json::Value;

use super::{difference, float, number};
use crate::control::{self, ControlCommand, ControlError};

/// The server's document at a moment.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Reading(Value);

/// What was counted between two readings, or since the server's start.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Period {
    /// The document of its end, with the counts of the period in place of those since the start.
    pub(in crate::cli) document: Value,
    pub(in crate::cli) seconds: f64,
    pub(in crate::cli) is_since_start: bool,
}

impl Reading {
    /// Asks the server behind the control socket.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(in crate::cli) fn ask(path: &Path) -> Result<Self, ControlError> {
        control::ask(path, &ControlCommand::Stats).map(Self)
    }

    /// The ids of the XDP programs of the server behind the control socket, none if there is no server. `None`: it does not tell.
    pub(in crate::cli) fn programs(path: &Path) -> Option<Vec<u32>> {
        // It is asked first, as a server that is stuck is not waited for long then.
        let asked = control::ask(path, &ControlCommand::Ready).and_then(|_| Self::ask(path));
        match asked {
            Ok(reading) => reading.program_ids(),
            Err(ControlError::NotRunning(_)) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// `None`: those of another version, which does not tell them.
    fn program_ids(&self) -> Option<Vec<u32>> {
        let interfaces = super::items(&self.0, "/interfaces");
        let attached = interfaces.filter(|one| one.get("attach").is_some_and(|it| !it.is_null()));
        let ids = attached.map(|one| one.get("program_id")?.as_u64()?.try_into().ok());
        ids.collect()
    }

    /// A document that was received or saved.
    pub(in crate::cli) fn new(document: Value) -> Self {
        Self(document)
    }

    pub(in crate::cli) fn document(&self) -> &Value {
        &self.0
    }

    /// Seconds since the server's start.
    pub(in crate::cli) fn uptime(&self) -> Option<f64> {
        float(&self.0, "/uptime")
    }

    /// Whether it is a later reading of the same process.
    pub(in crate::cli) fn continues(&self, before: &Self) -> bool {
        let process = |reading: &Self| (number(&reading.0, "/pid"), float(&reading.0, "/started"));
        process(self) == process(before) && self.uptime() > before.uptime()
    }

    /// What was counted since another reading. If that is of another process, or there is none: since the server's
    /// start, when all counts were zero.
    pub(in crate::cli) fn since(&self, before: Option<&Self>) -> Period {
        let uptime = self.uptime().unwrap_or_default();
        match before.filter(|before| self.continues(before)) {
            Some(before) => Period {
                document: difference::difference(&self.0, &before.0),
                seconds: uptime - before.uptime().unwrap_or_default(),
                is_since_start: false,
            },
            None => Period {
                document: self.0.clone(),
                seconds: uptime,
                is_since_start: true,
            },
        }
    }
}

impl Period {
    /// The counts of all workers, of the sockets, and of the hot tier those that fronts have, too, summed.
    pub(in crate::cli) fn fronts(&self) -> Value {
        let sockets = self.document.pointer("/sockets");
        let of_tier = ["hits", "types", "rcodes"].map(|name| {
            let value = self.document.pointer(&format!("/tier/{name}"));
            (name.to_owned(), value.cloned().unwrap_or_default())
        });
        let tier = Value::Object(of_tier.into_iter().collect());
        let workers = super::items(&self.document, "/workers");
        difference::sum(workers.chain(sockets).chain([&tier]))
    }

    /// The counts of all workers, summed.
    pub(in crate::cli) fn workers(&self) -> Value {
        difference::sum(super::items(&self.document, "/workers"))
    }

    /// The counts of all interfaces, summed.
    pub(in crate::cli) fn interfaces(&self) -> Value {
        difference::sum(super::items(&self.document, "/interfaces"))
    }
}
