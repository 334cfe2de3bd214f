//! What the HTTP listener shows: metrics, health, and the documents of the status page.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tracing::info;

use super::{
    ServerError, metrics, readiness::Readiness, reload::Reloader, report::Report, retry::retry,
};
use crate::{
    config::{Config, Zoned},
    doctor::{self, Finding},
    http::{Families, HttpListener, Source},
};

/// Listens for HTTP, if the settings say where: on the listener of a predecessor, if that is there.
pub(super) fn open(
    config: &Config,
    inherited: Option<OwnedFd>,
) -> Result<Option<HttpListener>, ServerError> {
    let Some(address) = config.metrics.listen else {
        return Ok(None);
    };
    let names = || config.metrics.names.clone();
    let adopted = inherited.map(|one| HttpListener::adopt(one, address, names()));
    let listener = match adopted.transpose() {
        Ok(Some(listener)) => listener,
        other => {
            let beside = other.err();
            retry(
                || HttpListener::bind(address, names(), beside.as_ref()),
                |error| error.kind() == io::ErrorKind::AddrInUse,
            )
            .map_err(|source| ServerError::Metrics { address, source })?
        }
    };
    let shown = Zoned(address);
    if address.ip().is_loopback() {
        info!("metrics and the status page: http://{shown}/");
    }
    Ok(Some(listener))
}

/// How long the doctor's findings are shown before the host is examined again, which takes some milliseconds.
const EXAMINED_FOR: Duration = Duration::from_secs(5);

/// The server, as the HTTP listener sees it.
pub(super) struct Site {
    report: Arc<Report>,
    reloader: Arc<Reloader>,
    readiness: Readiness,
    /// As the server was started with.
    config: Config,
    /// The doctor's findings, and when the host was examined.
    examined: Option<(Instant, Value)>,
}

impl Site {
    pub(super) fn new(
        report: Arc<Report>,
        reloader: Arc<Reloader>,
        readiness: Readiness,
        config: &Config,
    ) -> Self {
        Self {
            report,
            reloader,
            readiness,
            config: config.clone(),
            examined: None,
        }
    }
}

impl Source for Site {
    fn metrics(&self) -> Families {
        metrics::families(&self.report)
    }

    fn stats(&self) -> Value {
        self.report.json()
    }

    fn config(&self) -> Value {
        self.reloader.origin().config.settings.json()
    }

    fn doctor(&mut self) -> Value {
        let now = Instant::now();
        let is_recent = |at: &Instant| now.duration_since(*at) < EXAMINED_FOR;
        match &self.examined {
            Some((at, findings)) if is_recent(at) => findings.clone(),
            _ => {
                let programs = programs(&self.report.json());
                let findings = doctor::findings_in_server(&self.config, programs);
                let findings: Value = findings.iter().map(Finding::json).collect();
                self.examined = Some((now, findings.clone()));
                findings
            }
        }
    }

    fn ready(&mut self) -> Result<(), String> {
        self.readiness
            .check()
            .map_err(|obstacle| obstacle.to_string())
    }
}

/// The ids of the server's XDP programs in its report.
fn programs(report: &Value) -> Vec<u32> {
    let interfaces = report.get("interfaces").and_then(Value::as_array);
    let interfaces = interfaces.into_iter().flatten();
    interfaces
        .filter_map(|one| one.get("program_id")?.as_u64()?.try_into().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_programs_of_the_server_are_those_of_its_report() {
        let report = json!({ "interfaces": [
            { "name": "eth0", "program_id": 12 },
            { "name": "eth1", "program_id": null },
        ]});
        assert_eq!(programs(&report), [12]);
        assert!(programs(&json!({})).is_empty());
    }
}
