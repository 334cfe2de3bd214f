//! What the HTTP listener shows: metrics, health, and the documents of the status page.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};

use super::{metrics, policy::Reloader, readiness::Readiness, report::Report, threads::Threads};
use crate::http::{Families, Source};

/// The server, as the HTTP listener sees it.
pub(super) struct Site {
    report: Arc<Report>,
    reloader: Arc<Reloader>,
    readiness: Readiness,
}

impl Site {
    pub(super) fn new(
        report: Arc<Report>,
        reloader: Arc<Reloader>,
        threads: &Arc<Threads>,
    ) -> Self {
        let readiness = Readiness::new(Arc::clone(&report), Arc::clone(threads));
        Self {
            report,
            reloader,
            readiness,
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
        json!([])
    }

    fn ready(&mut self) -> Result<(), String> {
        self.readiness.check(Instant::now())
    }
}
