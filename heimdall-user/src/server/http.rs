//! What the HTTP listener shows: metrics, health, and the documents of the status page.

use std::{io, sync::Arc, time::Instant};

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

/// The server, as the HTTP listener sees it.
pub(super) struct Site {
    report: Arc<Report>,
    reloader: Arc<Reloader>,
    readiness: Readiness,
    /// As the server was started with.
    config: Config,
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

    fn doctor(&self) -> Value {
        let findings = doctor::findings(&self.config);
        findings.iter().map(Finding::json).collect()
    }

    fn ready(&mut self) -> Result<(), String> {
        self.readiness.check(Instant::now())
    }
}
