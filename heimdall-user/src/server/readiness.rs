//! Whether queries can be answered: for load balancers, and for daemons that announce an anycast address.
//!
//! A server that is not ready gets no queries that would tell whether an upstream works again, but the forwarder's probes
//! do.

use std::sync::Arc;

use super::{
    report::Report,
    threads::Threads,
    upstreams::{UpstreamReport, UpstreamState},
};
use crate::{anycast::Obstacle, config::Upstream, heartbeat};

/// Answers the question whether queries can be answered.
#[derive(Clone)]
pub(super) struct Readiness {
    report: Arc<Report>,
    threads: Arc<Threads>,
}

impl Readiness {
    pub(super) fn new(report: Arc<Report>, threads: Arc<Threads>) -> Self {
        Self { report, threads }
    }

    /// # Errors
    /// Why queries cannot be answered.
    pub(super) fn check(&self) -> Result<(), Obstacle> {
        self.threads_work()?;
        self.an_upstream_works()
    }

    /// # Errors
    /// A thread that is needed for all queries does not work.
    pub(super) fn threads_work(&self) -> Result<(), Obstacle> {
        if let Some(thread) = self.threads.failed() {
            return Err(Obstacle::Serious(format!("the {thread} thread has ended")));
        }
        match heartbeat::stuck().iter().find(|thread| thread.essential) {
            Some(thread) => Err(Obstacle::Serious(format!(
                "the {} thread makes no progress",
                thread.name
            ))),
            None => Ok(()),
        }
    }

    /// # Errors
    /// Most queries get no answer but a cached one.
    pub(super) fn an_upstream_works(&self) -> Result<(), Obstacle> {
        let upstreams = self.upstreams();
        let may_work = |upstream: &UpstreamReport| upstream.state() != UpstreamState::Failed;
        if upstreams.is_empty() || upstreams.iter().any(may_work) {
            return Ok(());
        }
        Err(no_upstream("no upstream responds", &upstreams))
    }

    /// As [`an_upstream_works`](Self::an_upstream_works), where that has to be seen before it counts.
    ///
    /// # Errors
    /// No upstream has responded so far, or none does any more.
    pub(super) fn an_upstream_has_responded(&self) -> Result<(), Obstacle> {
        self.an_upstream_works()?;
        let upstreams = self.upstreams();
        if upstreams.is_empty() || upstreams.iter().any(UpstreamReport::has_responded) {
            return Ok(());
        }
        Err(no_upstream("no upstream has responded yet", &upstreams))
    }

    /// The upstreams without which most queries get no answer: those of the default route, or all if it has none.
    fn upstreams(&self) -> Vec<UpstreamReport> {
        let mut upstreams = (self.report.upstreams)();
        let is_default =
            |upstream: &UpstreamReport| upstream.zones.iter().any(|zone| **zone == [0]);
        if upstreams.iter().any(is_default) {
            upstreams.retain(is_default);
        }
        upstreams
    }
}

fn no_upstream(what: &str, upstreams: &[UpstreamReport]) -> Obstacle {
    let list: Vec<_> = upstreams
        .iter()
        .map(|upstream| Upstream(&upstream.address).to_string())
        .collect();
    Obstacle::Passing(format!("{what}: {}", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        time::Duration,
    };

    use super::*;
    use crate::forward::UpstreamMetrics;

    #[test]
    fn a_server_is_ready_unless_all_its_upstreams_are_set_aside() {
        let metrics = Arc::<UpstreamMetrics>::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
        let report = Report::of_upstream(address, Arc::clone(&metrics));
        let readiness = Readiness::new(Arc::new(report), Threads::new(|| ()));
        assert_eq!(readiness.check(), Ok(()), "nothing is known");
        let text = "no upstream has responded yet: 127.0.0.1:5300".to_owned();
        assert_eq!(
            readiness.an_upstream_has_responded(),
            Err(Obstacle::Passing(text))
        );
        metrics.latency.record(Duration::from_millis(3), 1);
        assert_eq!(readiness.an_upstream_has_responded(), Ok(()), "a probe");
        metrics.counters.queries.add(3);
        assert_eq!(readiness.check(), Ok(()));
        metrics.set_problem(Some("its port is closed".to_owned()));
        let failed = Err(Obstacle::Passing(
            "no upstream responds: 127.0.0.1:5300".to_owned(),
        ));
        assert_eq!(readiness.check(), failed);
        assert_eq!(readiness.an_upstream_has_responded(), failed);
        metrics.set_problem(None);
        assert_eq!(readiness.check(), Ok(()));
    }
}
