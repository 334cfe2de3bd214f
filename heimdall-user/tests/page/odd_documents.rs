//! Documents with markup in their names, and documents that lack something.

use lab::{Browser, Sample};
use serde_json::{Value, json};

use crate::{SAMPLE, VIEWS, Viewer};

/// Ends in an error and, if it were markup, would run a script.
const MARKUP: &str = r#"<img src=x onerror="window.owned = true">"#;

/// Replaces every text in a document.
fn with_markup(value: &Value) -> Value {
    match value {
        Value::String(_) => json!(MARKUP),
        Value::Array(items) => items.iter().map(with_markup).collect(),
        Value::Object(fields) => {
            let named = |(name, value): (&String, &Value)| (name.clone(), with_markup(value));
            let mut fields: serde_json::Map<_, _> = fields.iter().map(named).collect();
            fields.insert(MARKUP.to_owned(), json!(1));
            Value::Object(fields)
        }
        other => other.clone(),
    }
}

#[test]
fn markup_in_names_stays_text() {
    if !Browser::available("markup_in_names_stays_text") {
        return;
    }
    let mut findings = with_markup(&Sample::findings());
    findings[0]["level"] = json!("bad");
    let mut viewer = Viewer::with(&with_markup(&Sample::configuration()), &findings);
    for uptime in [100, 101] {
        viewer.send(&with_markup(&Sample { uptime, ..SAMPLE }.document()));
    }
    for view in VIEWS {
        viewer.view(view);
        let shown =
            format!("document.getElementById('view-{view}').textContent.includes('<img src=x')");
        viewer.wait_for(&shown);
    }
    assert_eq!(
        viewer.value("document.querySelectorAll('img').length"),
        json!(0)
    );
    assert_eq!(viewer.value("window.owned ?? null"), Value::Null);
    viewer.assert_no_problems();
    // If a script made markup of a name after all, the browser would refuse.
    let refused = viewer.browser.evaluate("document.body.innerHTML = '<b>'");
    assert!(refused.is_err(), "{refused:?}");
}

/// Documents that each lack a value, or have one of another type in its place.
fn variations(document: &Value) -> Vec<Value> {
    let mut pointers = Vec::new();
    collect(document, String::new(), &mut pointers);
    let mut all = Vec::new();
    for pointer in pointers {
        for odd in [json!(null), json!("odd"), json!([null, 1]), json!({})] {
            let mut varied = document.clone();
            *varied.pointer_mut(&pointer).unwrap() = odd;
            all.push(varied);
        }
        let mut lacking = document.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match lacking.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.remove(name)),
            Value::Array(items) => drop(items.remove(name.parse().unwrap())),
            _ => unreachable!(),
        }
        all.push(lacking);
    }
    all
}

fn collect(value: &Value, pointer: String, into: &mut Vec<String>) {
    let children: Vec<_> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, value)| (i.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    for (name, value) in children {
        let pointer = format!("{pointer}/{name}");
        into.push(pointer.clone());
        collect(value, pointer, into);
    }
}

#[test]
fn fields_may_be_missing_or_of_another_type() {
    let Some(mut viewer) = Viewer::open("fields_may_be_missing_or_of_another_type") else {
        return;
    };
    let sample = Sample {
        queues: 1,
        ..SAMPLE
    };
    let varied = variations(&sample.document());
    assert!(varied.len() > 700, "{}", varied.len());
    // The list of all values does not depend on what a field is for.
    for (view, step) in [("overview", 1), ("values", 9)] {
        viewer.view(view);
        let some: Vec<_> = varied.iter().step_by(step).collect();
        for documents in some.chunks(50) {
            for varied in documents {
                viewer.server.send(varied);
            }
            viewer.show(sample, [200]);
        }
        for text in ["", "{", "null", "[]", "7", "{}"] {
            viewer.server.send_text(text);
        }
        viewer.show(sample, [201]);
        viewer.assert_no_problems();
    }
    viewer.view("overview");
    assert_eq!(viewer.rows("Queues").len(), 1);

    // Sections that a version does not have are not shown, and the rest is.
    let mut document = Sample {
        uptime: 202,
        ..sample
    }
    .document();
    let fields = document.as_object_mut().unwrap();
    fields.retain(|name, _| ["sockets", "uptime"].contains(&name.as_str()));
    viewer.send(&document);
    let text = viewer.text("document.getElementById('view-overview').innerText");
    assert!(text.contains("Kernel sockets"), "{text}");
    for absent in [
        "Queues",
        "Upstreams",
        "Popular names",
        "Latency",
        "Forwarder",
        "Interfaces",
    ] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    viewer.server.set("/config.json", &json!([1, null]));
    viewer.server.set("/doctor.json", &json!({ "odd": [null] }));
    viewer.view("configuration");
    viewer.view("doctor");
    viewer.wait_for("document.getElementById('doctor-about').textContent.startsWith('0 bad')");
    viewer.server.set(
        "/doctor.json",
        &json!([null, 3, {}, { "level": 7, "check": [], "fix": {} }]),
    );
    viewer.value("loadDoctor()");
    viewer.wait_for("document.querySelectorAll('.finding').length === 2");
    viewer.assert_no_problems();
}
