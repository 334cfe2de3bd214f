//! What all outputs have in common.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tracing::{info, warn};

/// How often an output that failed is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// How long the end of the server waits for what is queued to be written.
pub(super) const LAST_WAIT: Duration = Duration::from_millis(500);

/// Where records go. None of its functions waits for who reads them, except for [`close`](Self::close), and that
/// for [`LAST_WAIT`] at most.
pub(super) trait Output: Send {
    /// Queues a record, after writing what is queued if it does not fit, or drops and counts it.
    fn push(&mut self, record: &[u8]);

    /// Writes what can be written now, and tries what is due again.
    fn tick(&mut self, now: Instant);

    /// Whether records wait for the reader to take more.
    fn is_blocked(&self) -> bool;

    /// Writes what is queued, and ends the output.
    fn close(&mut self);
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// It is not configured.
    #[default]
    Off,
    Open,
    /// It cannot be written to, for this reason.
    Waiting(String),
}

/// How an output fares: set by the observer, read by the statistics.
#[derive(Debug, Default)]
pub(super) struct OutputStatus {
    written: AtomicU64,
    dropped: AtomicU64,
    state: Mutex<State>,
}

impl OutputStatus {
    pub(super) fn add_written(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn add_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    /// Notes that `what` can be written to, and logs that if it is new.
    pub(super) fn opened(&self, what: &str) {
        if *self.state() != State::Open {
            *self.state() = State::Open;
            info!("{what}: open");
        }
    }

    /// Notes that `what` cannot be written to, and logs that unless it was so before, whatever the reason.
    pub(super) fn failed(&self, what: &str, why: &str) {
        let mut state = self.state();
        if !matches!(*state, State::Waiting(_)) {
            warn!(
                "{what}: {why}; trying again each second, and counting what is dropped meanwhile"
            );
        }
        *state = State::Waiting(why.to_owned());
    }

    /// For the statistics; `missed` samples did not come so far.
    pub(super) fn json(&self, missed: u64) -> Value {
        let (state, reason) = match &*self.state() {
            State::Off => ("off", None),
            State::Open => ("open", None),
            State::Waiting(why) => ("waiting", Some(why.clone())),
        };
        let (written, dropped) = self.counts();
        json!({
            "state": state,
            "reason": reason,
            "written": written,
            "dropped": dropped + missed,
        })
    }

    /// Records written, and dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = [&self.written, &self.dropped];
        let [written, dropped] = counts.map(|count| count.load(Ordering::Relaxed));
        (written, dropped)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
