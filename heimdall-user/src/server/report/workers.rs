//! The workers in the document, each with its queues.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{add_counts, insert, insert_core};
use crate::{
    server::cores::CoreCounters,
    worker::{QueueCounters, WorkerCounters},
};

/// A worker that has or had queues.
pub(in crate::server) struct WorkerReport {
    pub(in crate::server) number: usize,
    pub(in crate::server) cpu: Option<usize>,
    pub(in crate::server) counters: Arc<WorkerCounters>,
    pub(in crate::server) core: CoreCounters,
    /// What was counted for queues that do not exist any more.
    pub(in crate::server) earlier: Vec<(&'static str, u64)>,
    pub(in crate::server) queues: Vec<QueueReport>,
}

pub(in crate::server) struct QueueReport {
    pub(in crate::server) interface: String,
    pub(in crate::server) queue: u32,
    /// `running`, `stuck`, `restarting` or `gone`.
    pub(in crate::server) state: &'static str,
    /// Why it is not served.
    pub(in crate::server) reason: Option<String>,
    /// How often it was served again.
    pub(in crate::server) restarts: u64,
    /// `zero-copy` or `copy`.
    pub(in crate::server) mode: Option<&'static str>,
    /// Why it has this worker: `interrupt`, `node` or `load`.
    pub(in crate::server) placement: &'static str,
    pub(in crate::server) counters: Arc<QueueCounters>,
}

/// States, from the one that most needs attention on. That of a worker is the first that one of its queues has; but one
/// with a queue that is served is not gone.
const STATES: [&str; 4] = ["stuck", "restarting", "running", "gone"];

impl WorkerReport {
    /// Whether a queue of it is served.
    pub(super) fn serves(&self) -> bool {
        self.queues.iter().any(|queue| queue.state == "running")
    }

    /// Packets received from all its queues.
    pub(super) fn received(&self) -> u64 {
        let counts = self.counts().into_iter();
        counts
            .filter(|(name, _)| *name == "received")
            .map(|(_, count)| count)
            .sum()
    }

    /// What is counted for queues, summed.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut sums = QueueCounters::default().list();
        add_counts(&mut sums, self.earlier.clone());
        for queue in &self.queues {
            add_counts(&mut sums, queue.counters.list());
        }
        sums
    }

    /// The state of the whole, and the reason of the first queue that has it.
    pub(in crate::server) fn state(&self) -> (&'static str, Option<&str>) {
        let of = |state: &str| self.queues.iter().find(|queue| queue.state == state);
        let Some(queue) = STATES.iter().find_map(|state| of(state)) else {
            return ("gone", None);
        };
        (queue.state, queue.reason.as_deref())
    }

    /// The mode of all queues that are served; `mixed` if they differ.
    fn mode(&self) -> Option<&'static str> {
        let mut modes = self.queues.iter().filter_map(|queue| queue.mode);
        let first = modes.next()?;
        Some(match modes.all(|mode| mode == first) {
            true => first,
            false => "mixed",
        })
    }

    pub(super) fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("worker".to_owned(), json!(self.number));
        if let [only] = self.queues.as_slice() {
            fields.insert("interface".to_owned(), json!(only.interface));
            fields.insert("queue".to_owned(), json!(only.queue));
        }
        let (state, reason) = self.state();
        let restarts: u64 = self.queues.iter().map(|queue| queue.restarts).sum();
        fields.insert("state".to_owned(), json!(state));
        fields.insert("reason".to_owned(), json!(reason));
        fields.insert("restarts".to_owned(), json!(restarts));
        fields.insert("mode".to_owned(), json!(self.mode()));
        fields.insert("cpu".to_owned(), json!(self.cpu));
        insert_counts(&mut fields, self.counts());
        insert(&mut fields, self.counters.list(), |_| None);
        insert_core(&mut fields, &[&self.core]);
        let queues: Vec<Value> = self.queues.iter().map(QueueReport::json).collect();
        fields.insert("queues".to_owned(), json!(queues));
        Value::Object(fields)
    }
}

impl QueueReport {
    fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("interface".to_owned(), json!(self.interface));
        fields.insert("queue".to_owned(), json!(self.queue));
        fields.insert("state".to_owned(), json!(self.state));
        fields.insert("reason".to_owned(), json!(self.reason));
        fields.insert("restarts".to_owned(), json!(self.restarts));
        fields.insert("mode".to_owned(), json!(self.mode));
        fields.insert("placement".to_owned(), json!(self.placement));
        insert_counts(&mut fields, self.counters.list());
        Value::Object(fields)
    }
}

/// Inserts what is counted for queues.
fn insert_counts(fields: &mut Map<String, Value>, counts: Vec<(&'static str, u64)>) {
    insert(fields, counts, |name| match name {
        // From XDP_STATISTICS.
        "rx_dropped"
        | "rx_ring_full"
        | "rx_fill_ring_empty_descs"
        | "rx_invalid_descs"
        | "tx_invalid_descs"
        | "tx_ring_empty_descs" => Some(("ring", name)),
        _ => name
            .strip_prefix("frames_")
            .map(|counter| ("frames", counter)),
    });
}

#[cfg(test)]
impl WorkerReport {
    pub(in crate::server) fn of(
        number: usize,
        core: CoreCounters,
        queues: Vec<QueueReport>,
    ) -> Self {
        Self {
            number,
            cpu: Some(number),
            counters: Arc::default(),
            core,
            earlier: Vec::new(),
            queues,
        }
    }
}

#[cfg(test)]
impl QueueReport {
    pub(in crate::server) fn running(interface: &str, queue: u32, mode: &'static str) -> Self {
        Self {
            interface: interface.to_owned(),
            queue,
            state: "running",
            reason: None,
            restarts: 0,
            mode: Some(mode),
            placement: "load",
            counters: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn a_worker_with_one_queue_has_its_name_and_one_with_several_their_sums() {
        let queues = || {
            let queue = |number, mode| QueueReport::running("eth0", number, mode);
            let queues = [queue(0, "zero-copy"), queue(1, "copy")];
            for (queue, received) in queues.iter().zip([3, 5]) {
                queue.counters.received.add(received);
                queue.counters.rx_ring_full.add(received);
                queue.counters.frames_fill.set(received);
            }
            queues
        };
        let [one, other] = queues();
        let worker = WorkerReport::of(4, CoreCounters::default(), vec![one]).json();
        assert_eq!(
            [&worker["worker"], &worker["interface"], &worker["queue"]],
            [&json!(4), &json!("eth0"), &json!(0)]
        );
        assert_eq!(worker["mode"], "zero-copy");
        let mut worker = WorkerReport::of(4, CoreCounters::default(), queues().into());
        worker.counters.sleeps.add(7);
        // A third one that is gone for good.
        add_counts(&mut worker.earlier, other.counters.list());
        assert_eq!(worker.received(), 13);
        let document = worker.json();
        assert!(document.get("interface").is_none() && document.get("queue").is_none());
        assert_eq!(document["mode"], "mixed");
        assert_eq!(document["received"], 13);
        assert_eq!(document["sleeps"], 7);
        assert_eq!(document["ring"]["rx_ring_full"], 13);
        assert_eq!(document["queues"][1]["received"], 5);
        assert_eq!(document["queues"][1]["frames"]["fill"], 5);
        assert_eq!(document["queues"][1]["placement"], "load");
    }

    #[test]
    fn a_workers_state_is_the_worst_of_its_queues() {
        let worker = |states: &[&'static str]| {
            let queue = |state: &&'static str| QueueReport {
                state,
                reason: Some(format!("it is {state}")),
                ..QueueReport::running("eth0", 0, "copy")
            };
            WorkerReport::of(
                0,
                CoreCounters::default(),
                states.iter().map(queue).collect(),
            )
        };
        for (states, expected) in [
            (&["running", "restarting", "gone"][..], "restarting"),
            (&["stuck", "restarting"], "stuck"),
            (&["gone", "running"], "running"),
            (&["gone"], "gone"),
        ] {
            let worker = worker(states);
            assert_eq!(worker.state().0, expected, "{states:?}");
            assert_eq!(worker.state().1, Some(format!("it is {expected}").as_str()));
        }
        assert_eq!(worker(&[]).state(), ("gone", None));
    }
}
