//! How settings differ, and how a reload applies that.

use serde_json::json;

use super::*;
use crate::config::{Applied, Change};

fn load(text: &str) -> Config {
    from_file(&format!("upstream = [\"192.0.2.2\"]\n{text}")).unwrap()
}

fn changes(old: &str, new: &str) -> Vec<(String, Applied)> {
    let changes = load(old).changes(&load(new));
    let described = changes.iter();
    described
        .map(|change| (change.to_string(), change.applied))
        .collect()
}

fn change(text: &str, applied: Applied) -> (String, Applied) {
    (text.to_owned(), applied)
}

#[test]
fn each_changed_key_says_how_it_is_applied() {
    assert_eq!(changes("", "forward.threads = 1"), [], "the default");
    let old = "log.level = \"info\"";
    let new = "stop-timeout = 9\ncontrol = \"/run/other.sock\"\nmax-udp-size = 1400\nlisten = [\"192.0.2.1:53\"]\n\
        [cache]\nmin-ttl = 3\nsize = \"32M\"\n[log]\nformat = \"json\"\n[identity]\nversion = \"7\"";
    let (in_place, take_over, restart) = (Applied::InPlace, Applied::TakeOver, Applied::Restart);
    assert_eq!(
        changes(old, new),
        [
            change(
                "listen: [\"0.0.0.0:53\", \"[::]:53\"] -> [\"192.0.2.1:53\"]",
                take_over
            ),
            change(
                "control: \"/run/heimdall/control.sock\" -> \"/run/other.sock\"",
                restart
            ),
            change("max-udp-size: 1232 -> 1400", take_over),
            change("stop-timeout: 5 -> 9", in_place),
            change("cache.size: \"64M\" -> \"32M\"", take_over),
            change("cache.min-ttl: 0 -> 3", in_place),
            change(
                "log.level: \"info\" -> the environment variable RUST_LOG, or else info",
                in_place
            ),
            change("log.format: \"text\" -> \"json\"", restart),
            change("identity.version: REFUSED -> \"7\"", in_place),
        ]
    );
}

#[test]
fn repeated_tables_are_added_removed_and_moved() {
    let corp = "[[route]]\nzone = \"corp\"\nupstream = [\"192.0.2.4\"]\n";
    let lab = "[[route]]\nzone = \"lab\"\nanswer = \"refused\"\n";
    let (corp_text, lab_text) = (
        "{ zone = \"corp\", upstream = [\"192.0.2.4:53\"] }",
        "{ zone = \"lab\", answer = \"refused\" }",
    );
    let is = |text: String| [(text, Applied::InPlace)];
    assert_eq!(
        changes("", corp),
        is(format!("[[route]]: absent -> {corp_text}"))
    );
    assert_eq!(
        changes(&format!("{corp}{lab}"), corp),
        is(format!("[[route]]: {lab_text} -> absent"))
    );
    assert_eq!(
        changes(&format!("{corp}{lab}"), &format!("{lab}{corp}")),
        is(format!(
            "[[route]]: [{corp_text}, {lab_text}] -> [{lab_text}, {corp_text}]"
        ))
    );
}

#[test]
fn changes_are_values_for_programs_and_hide_secrets() {
    let json = |old: &str, new: &str| {
        let changes = load(old).changes(&load(new));
        changes.iter().map(Change::json).collect::<Vec<_>>()
    };
    assert_eq!(
        json("", "[metrics]\nlisten = \"9453\""),
        [json!({
            "key": "metrics.listen",
            "old": null,
            "new": "127.0.0.1:9453",
            "applied": "take-over",
            "text": "metrics.listen: none (they are not served) -> \"127.0.0.1:9453\"",
        })]
    );
    let route = "[[route]]\nzone = \"corp\"\nupstream = [\"192.0.2.4\"]";
    assert_eq!(
        json(route, ""),
        [json!({
            "key": "[[route]]",
            "old": { "zone": "corp", "upstream": ["192.0.2.4:53"] },
            "new": null,
            "applied": "in place",
            "text": "[[route]]: { zone = \"corp\", upstream = [\"192.0.2.4:53\"] } -> absent",
        })]
    );
    let secret = |digit: &str| format!("[cookies]\nsecrets = [\"{}\"]", digit.repeat(32));
    assert_eq!(
        json(&secret("1"), &secret("2")),
        [json!({
            "key": "cookies.secrets",
            "old": null,
            "new": null,
            "applied": "in place",
            "text": "cookies.secrets: [(secret)] -> [(secret)]",
        })]
    );
    assert_eq!(json(&secret("1"), "").len(), 1);
    assert!(json(&secret("1"), &secret("1")).is_empty());
}

#[test]
fn what_needs_a_restart_stays_as_it_was() {
    let old = load("max-udp-size = 1400\n[log]\nformat = \"json\"");
    let mut new = load("control = \"/run/other.sock\"\n[cache]\nmax-ttl = 60");
    let fixed = old.changes(&new);
    new.keep_fixed(&old);
    assert_eq!(new.control, old.control);
    assert_eq!(new.log.format, old.log.format);
    assert_eq!((new.max_udp_size, new.cache.max_ttl), (1232, 60));
    let shown = new.settings.json();
    assert_eq!(shown["log"]["format"], "json");
    assert_eq!(shown["cache"]["max-ttl"], 60);
    // The rest would be applied.
    let left = old.changes(&new);
    assert_eq!((fixed.len(), left.len()), (4, 2));
    assert!(left.iter().all(|change| change.applied != Applied::Restart));
}
