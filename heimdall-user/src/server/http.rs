//! What the HTTP listener shows: metrics, health, and the documents of the status page.

use std::{sync::Arc, time::Instant};

use serde_json::Value;

use super::{metrics, policy::Reloader, readiness::Readiness, report::Report, threads::Threads};
use crate::{
    config::Config,
    doctor::{self, Finding},
    http::{Families, Source},
};

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
