#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::json;

use super::{testing::*, *};

#[test]
fn a_view_has_what_was_counted_in_its_period() {
    let view = View::new(&period());
    assert_eq!((view.seconds, view.is_since_start), (2.0, false));
    assert_eq!(view.server, "heimdall 0.1.0");
    assert_eq!(view.uptime, 202.0);
    let transports = |xdp, udp, tcp| Transports {
        tier: 0,
        xdp,
        udp,
        tcp,
        tls: 0,
    };
    assert_eq!(view.queries, transports(20_000, 3_600, 400));
    assert_eq!(view.replies, transports(19_850, 3_560, 390));
    assert_eq!((view.hits, view.misses), (23_205, 595));
    assert_eq!(view.rate(view.queries.all()), 12_000.0);
    // Entries are those of now, insertions those of the period.
    let cache = Cache {
        entries: 142_123,
        insertions: 590,
        evictions: 60,
    };
    assert_eq!(view.cache, cache);
    let names = |counts: &[Count]| -> Vec<(String, u64)> {
        let counts = counts.iter();
        counts
            .map(|count| (count.name.clone(), count.count))
            .collect()
    };
    let expected = [("bad_checksum", 100), ("rate_limited", 80), ("runt", 20)];
    assert_eq!(
        names(&view.dropped),
        expected.map(|(name, n)| (name.to_owned(), n))
    );
    assert_eq!(names(&view.types)[0], ("a".to_owned(), 19_000));
    assert_eq!(view.lost, 32);
    assert_eq!(view.latency_of_hits.and_then(|hits| hits.p99), Some(50.0));
    let fronts: Vec<_> = view
        .fronts
        .iter()
        .map(|front| front.name.as_str())
        .collect();
    assert_eq!(fronts, ["eth0:0", "eth0:1", "sockets"]);
    assert_eq!((view.fronts[0].core, view.fronts[1].core), (Some(2), None));
    assert_eq!((view.fronts[0].waiting, view.fronts[2].waiting), (7, 3));
    assert_eq!((view.forwarder.sent, view.forwarder.shed), (640, 7));
    assert_eq!(view.forwarder.cache_hits, 62);
    assert_eq!(view.upstreams[0].queries, 600);
    assert_eq!(view.upstreams[1].rtt_us, None);
    assert!(view.upstreams[0].latency.is_some());
    let popular = view.popular.unwrap();
    assert_eq!(popular.queries, 10_000);
    assert_eq!(popular.names[0].count, 2_500);
    assert_eq!(popular.names[1].name, "\\027[2J\\007evil.example.");
}

#[test]
fn what_the_hot_tier_answers_counts_like_other_hits() {
    let [before, now] = [100, 101].map(|times| Reading::new(with_tier(document(times), times)));
    let without = View::new(&period());
    let view = View::new(&now.since(Some(&before)));
    assert_eq!(view.queries.tier, 5_000);
    assert_eq!(view.queries.all(), without.queries.all() + 5_000);
    assert_eq!(view.replies.all(), without.replies.all() + 5_000);
    assert_eq!(view.hits, without.hits + 5_000);
    assert_eq!(view.misses, without.misses);
    let of_type = |view: &View| view.types.iter().find(|one| one.name == "a").unwrap().count;
    assert_eq!(of_type(&view), of_type(&without) + 4_000);
    let of_rcode = |view: &View| {
        view.rcodes
            .iter()
            .find(|one| one.name == "noerror")
            .unwrap()
            .count
    };
    assert_eq!(of_rcode(&view), of_rcode(&without) + 4_900);
    // Entries are those of now.
    assert_eq!(view.tier.unwrap().entries, 812);
    assert_eq!(view.interfaces[0].tier.as_deref(), Some("on"));
}

#[test]
fn a_server_that_started_again_is_counted_from_its_start() {
    let [before, now] = readings();
    let mut other = document(3);
    other["pid"] = json!(4712);
    let other = Reading::new(other);
    assert!(now.continues(&before) && !before.continues(&now) && !other.continues(&before));
    for period in [other.since(Some(&now)), other.since(None)] {
        assert!(period.is_since_start);
        let view = View::new(&period);
        assert_eq!(view.rate(view.queries.all()), 12_000.0);
    }
    // In a container all have the same process ID.
    let mut same_pid = document(102);
    same_pid["started"] = json!(1_700_000_000.5);
    assert!(Reading::new(same_pid).since(Some(&now)).is_since_start);
}

#[test]
fn threads_of_the_sockets_are_fronts_of_their_own() {
    let mut document = document(1);
    let thread = document["sockets"].clone();
    document["socket_threads"] = json!([thread, thread]);
    document["socket_threads"][0]["thread"] = json!(0);
    document["socket_threads"][1]["thread"] = json!(1);
    let view = View::new(&Reading::new(document).since(None));
    let fronts: Vec<_> = view
        .fronts
        .iter()
        .map(|front| front.name.as_str())
        .collect();
    assert_eq!(fronts, ["eth0:0", "eth0:1", "sockets:0", "sockets:1"]);
}

#[test]
fn a_worker_with_several_queues_has_them_below_it() {
    let mut document = document(1);
    let worker = &mut document["workers"][0];
    let fields = worker.as_object_mut().unwrap();
    fields.remove("interface");
    fields.remove("queue");
    fields.insert("worker".to_owned(), json!(1));
    let queue = |number: u64, received: u64| {
        json!({
            "interface": "eth0", "queue": number, "state": "running", "reason": null, "mode": "copy",
            "placement": "load", "received": received, "ring": { "rx_ring_full": number },
        })
    };
    fields.insert(
        "queues".to_owned(),
        json!([queue(4, 13_000), queue(5, 1_000)]),
    );
    let view = View::new(&Reading::new(document).since(None));
    let front = &view.fronts[0];
    assert_eq!(front.name, "worker-1 (2 queues)");
    // They are part of the worker's counts.
    assert_eq!(view.queries.xdp, 14_000 + 6_000);
    let rows: Vec<_> = front
        .rows_below()
        .map(|row| (row.name, row.core, row.queries.xdp, row.lost, row.hits))
        .collect();
    let row = |name: &str, received, lost| (name.to_owned(), Some(2), received, lost, 0);
    assert_eq!(rows, [row("eth0:4", 13_000, 4), row("eth0:5", 1_000, 5)]);
    assert_eq!(view.fronts[1].rows_below().count(), 0);
}

#[test]
fn any_document_has_a_view() {
    // Every field in turn is absent, null, or of another kind.
    fn damage(value: &Value, visit: &mut dyn FnMut(Value)) {
        let replacements = [
            json!(null),
            json!("x"),
            json!(-1),
            json!(1e300),
            json!([[]]),
            json!({ "a": {} }),
        ];
        replacements.into_iter().for_each(&mut *visit);
        match value {
            Value::Object(fields) => {
                for name in fields.keys() {
                    let mut without = fields.clone();
                    without.remove(name);
                    visit(Value::Object(without));
                    damage(&fields[name], &mut |value| {
                        let mut with = fields.clone();
                        with.insert(name.clone(), value);
                        visit(Value::Object(with));
                    });
                }
            }
            Value::Array(items) => {
                for at in 0..items.len() {
                    damage(&items[at], &mut |value| {
                        let mut with = items.clone();
                        with[at] = value;
                        visit(Value::Array(with));
                    });
                }
            }
            _ => {}
        }
    }
    let good = Reading::new(with_tier(document(1), 1));
    let mut views = 0;
    damage(good.document(), &mut |document| {
        let damaged = Reading::new(document);
        for period in [
            damaged.since(Some(&good)),
            good.since(Some(&damaged)),
            damaged.since(None),
        ] {
            let view = View::new(&period);
            assert!(view.rate(view.queries.all()).is_finite());
            views += 1;
        }
    });
    assert!(views > 3_000, "{views}");
}
