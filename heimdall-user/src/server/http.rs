//! What the HTTP listener shows: metrics, health, and the documents of the status page.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tracing::{info, warn};

use super::{
    ServerError, metrics, policy::Reloader, readiness::Readiness, report::Report, retry::retry,
    threads::Threads,
};
use crate::{
    config::{Config, Zoned},
    doctor::{self, Finding},
    http::{Families, HttpListener, Source},
};

/// Listens for HTTP, if the settings say where.
pub(super) fn open(config: &Config) -> Result<Option<HttpListener>, ServerError> {
    let Some(address) = config.metrics.listen else {
        return Ok(None);
    };
    let listener = retry(
        || HttpListener::bind(address, config.metrics.names.clone()),
        |error| error.kind() == io::ErrorKind::AddrInUse,
    )
    .map_err(|source| ServerError::Metrics { address, source })?;
    let shown = Zoned(address);
    if address.ip().is_loopback() {
        info!("metrics and the status page: http://{shown}/");
    } else {
        warn!(
            "metrics and the status page are on http://{shown}/ for all who reach that address, without \
             authentication; they show popular names and clients, so let a firewall decide who does"
        );
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
        threads: &Arc<Threads>,
        config: &Config,
    ) -> Self {
        let readiness = Readiness::new(Arc::clone(&report), Arc::clone(threads));
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
        self.reloader.running().json()
    }

    fn doctor(&mut self) -> Value {
        let now = Instant::now();
        let is_recent = |at: &Instant| now.duration_since(*at) < EXAMINED_FOR;
        match &self.examined {
            Some((at, findings)) if is_recent(at) => findings.clone(),
            _ => {
                let findings = doctor::findings(&self.config);
                let findings: Value = findings.iter().map(Finding::json).collect();
                self.examined = Some((now, findings.clone()));
                findings
            }
        }
    }

    fn ready(&mut self) -> Result<(), String> {
        self.readiness.check(Instant::now())
    }
}
