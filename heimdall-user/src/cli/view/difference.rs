//! Arithmetic with documents: their difference, and the sum of their parts.

use serde_json::{Map, Value};

use super::latency;

/// Numbers and objects that describe the moment instead of counting since the start.
const MOMENTARY: [&str; 30] = [
    "version",
    "pid",
    "started",
    "time",
    "uptime",
    "program_id",
    "worker",
    "queue",
    "thread",
    "cpu",
    "restarts",
    "frames",
    "entries",
    "capacity",
    "bytes",
    "pending",
    "in_flight",
    "connections",
    "tcp_open",
    "tls_open",
    "not_before",
    "not_after",
    "problem",
    "rtt_us",
    "popular",
    "hit_ratio",
    "resident_bytes",
    "open_files",
    "threads",
    "system_calls",
];

/// Whether a field of this name is a count since the start.
pub(in crate::cli) fn is_count(name: &str) -> bool {
    !MOMENTARY.contains(&name)
}

/// What identifies an item of a list.
const IDENTITY: [&str; 5] = ["interface", "queue", "thread", "name", "address"];

/// The document with the counts that were added since an earlier one. A count that is lower than before was reset.
pub(super) fn difference(now: &Value, before: &Value) -> Value {
    if latency::is_distribution(now) {
        return latency::difference(now, before);
    }
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => {
            let field = |(name, now): (&String, &Value)| {
                let before = before.get(name).filter(|_| is_count(name));
                let value = before.map_or_else(|| now.clone(), |before| difference(now, before));
                (name.clone(), value)
            };
            Value::Object(now.iter().map(field).collect())
        }
        (Value::Array(now), Value::Array(before)) => {
            let item = |now: &Value| {
                let before = before.iter().find(|before| is_same(now, before));
                before.map_or_else(|| now.clone(), |before| difference(now, before))
            };
            Value::Array(now.iter().map(item).collect())
        }
        (Value::Number(now), Value::Number(before)) => subtract(now, before),
        (now, _) => now.clone(),
    }
}

fn subtract(now: &serde_json::Number, before: &serde_json::Number) -> Value {
    if let (Some(now), Some(before)) = (now.as_u64(), before.as_u64()) {
        return now.checked_sub(before).unwrap_or(now).into();
    }
    match (now.as_f64(), before.as_f64()) {
        (Some(now), Some(before)) if now >= before => (now - before).into(),
        _ => now.clone().into(),
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    // A worker has the name of its queue, too, as long as it has one.
    if let (Some(one), Some(other)) = (one.get("worker"), other.get("worker")) {
        return one == other;
    }
    IDENTITY.iter().all(|name| one.get(name) == other.get(name))
}

/// The sums of what objects count, by name, in nested objects, too. What is no number is left out.
pub(super) fn sum<'a>(objects: impl IntoIterator<Item = &'a Value>) -> Value {
    let mut sums = Map::new();
    for object in objects {
        add(&mut sums, object);
    }
    Value::Object(sums)
}

fn add(sums: &mut Map<String, Value>, object: &Value) {
    for (name, value) in object.as_object().into_iter().flatten() {
        if let Some(count) = value.as_u64() {
            let sum = sums.get(name).and_then(Value::as_u64).unwrap_or_default();
            sums.insert(name.clone(), sum.saturating_add(count).into());
        } else if value.is_object() {
            let nested = sums.entry(name.clone());
            let nested = nested.or_insert_with(|| Value::Object(Map::new()));
            if let Some(nested) = nested.as_object_mut() {
                add(nested, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_subtracted_and_states_kept() {
        let before = json!({
            "uptime": 10.5,
            "workers": [
                { "interface": "eth0", "queue": 0, "cpu": 2, "hits": 5, "frames": { "free": 9 } },
                { "interface": "eth0", "queue": 1, "hits": 100, "state": "running" },
                { "worker": 2, "interface": "eth2", "queue": 0, "hits": 1 },
            ],
            "process": { "cpu_seconds": 1.5, "open_files": 30 },
            "forwarder": { "in_flight": 7, "rejected": { "id": 3 } },
            "popular": { "sampled": 5 },
        });
        let now = json!({
            "uptime": 12.5,
            "workers": [
                { "interface": "eth0", "queue": 1, "hits": 60, "state": "gone" },
                { "interface": "eth0", "queue": 0, "cpu": 3, "hits": 9, "frames": { "free": 4 } },
                { "interface": "eth1", "queue": 0, "hits": 8 },
                { "worker": 2, "hits": 5, "queues": [{ "interface": "eth2", "queue": 0, "received": 7 }] },
            ],
            "process": { "cpu_seconds": 1.75, "open_files": 31 },
            "forwarder": { "in_flight": 2, "rejected": { "id": 4, "new": 2 } },
            "popular": { "sampled": 9 },
            "added": { "later": 1 },
        });
        // The count of queue 1 was reset, eth1 was not there before, and worker 2 has got another queue.
        let expected = json!({
            "uptime": 12.5,
            "workers": [
                { "interface": "eth0", "queue": 1, "hits": 60, "state": "gone" },
                { "interface": "eth0", "queue": 0, "cpu": 3, "hits": 4, "frames": { "free": 4 } },
                { "interface": "eth1", "queue": 0, "hits": 8 },
                { "worker": 2, "hits": 4, "queues": [{ "interface": "eth2", "queue": 0, "received": 7 }] },
            ],
            "process": { "cpu_seconds": 0.25, "open_files": 31 },
            "forwarder": { "in_flight": 2, "rejected": { "id": 1, "new": 2 } },
            "popular": { "sampled": 9 },
            "added": { "later": 1 },
        });
        assert_eq!(difference(&now, &before), expected);
        // Whatever kinds of values meet.
        assert_eq!(
            difference(&json!({ "a": null }), &json!({ "a": 1 })),
            json!({ "a": null })
        );
        assert_eq!(difference(&json!([1]), &json!({})), json!([1]));
    }

    #[test]
    fn sums_are_of_all_that_is_counted() {
        let parts = [
            json!({ "state": "up", "hits": 1, "types": { "a": 2 } }),
            json!({ "hits": u64::MAX, "types": { "a": 3, "mx": 1 }, "reason": null }),
            json!("no object"),
        ];
        let expected = json!({ "hits": u64::MAX, "types": { "a": 5, "mx": 1 } });
        assert_eq!(sum(&parts), expected);
    }
}
