#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};

use super::{text::render, *};
use crate::cli::view::testing::{document, period, with_tier};

/// The text is that of a file, which `UPDATE=1` writes, to be looked at.
fn assert_is(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/cli/stats")
        .join(file);
    if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
        fs::write(&path, text).unwrap();
        return;
    }
    let command = "UPDATE=1 cargo test -p heimdall-user --lib stats::";
    let expected = fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "\nif it is to be so: {command}\n{text}");
}

#[test]
fn counts_since_the_start_are_in_words() {
    assert_is(
        "counts.txt",
        &render(&Reading::new(document(1)).since(None)),
    );
}

#[test]
fn rates_of_a_period_are_in_words() {
    assert_is("rates.txt", &render(&period()));
}

#[test]
fn a_hot_tier_is_in_words() {
    let text = render(&Reading::new(with_tier(document(1), 1)).since(None));
    for line in [
        "  in the kernel (hot tier)                       5,000    17.2 %\n",
        "  of the hits by the hot tier                    5,000\n",
        "  answers in it now                                812\n",
        "  not in it                                        900    99.8 %\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    // All of it has words.
    assert!(!text.contains("\n  tier "), "{text}");
}

#[test]
fn the_certificate_has_dates() {
    let with = |not_after: u64| {
        let mut document = document(1);
        let certificate = json!({"not_before": 1_700_000_000, "not_after": not_after});
        let fields = document.as_object_mut().unwrap();
        fields.insert("tls".to_owned(), json!({"certificate": certificate}));
        render(&Reading::new(document).since(None))
    };
    let text = with(1_800_000_000);
    let line = "  certificate valid until             Fri, 15 Jan 2027 08:00:00 GMT\n";
    assert!(text.contains(line), "{text}");
    assert!(
        !text.contains("not after") && !text.contains("not before"),
        "{text}"
    );
    // What is no date is none.
    for not_after in [0, 253_402_300_800, u64::MAX] {
        assert!(!with(not_after).contains("valid until"));
    }
}

#[test]
fn threads_that_are_stuck_are_named() {
    let mut document = document(1);
    for (threads, line) in [
        (json!([]), None),
        (
            json!(["sockets", "forward-0"]),
            Some("\nSTUCK, without progress for 10 s: sockets, forward-0\n"),
        ),
    ] {
        document["stuck"] = threads;
        let text = render(&Reading::new(document.clone()).since(None));
        assert_eq!(text.contains("STUCK"), line.is_some(), "{text}");
        assert!(line.is_none_or(|line| text.contains(line)), "{text}");
    }
}

#[test]
fn whether_service_addresses_are_announced_is_said() {
    let mut document = document(1);
    let fields = json!({"announced": false, "reason": "no upstream responds: 192.0.2.1:53", "interface": "lo", "changes": 0});
    document["anycast"] = fields;
    let text = render(&Reading::new(document.clone()).since(None));
    let line = "\nservice addresses  withdrawn: no upstream responds: 192.0.2.1:53\n";
    assert!(text.contains(line), "{text}");
    document["anycast"]["announced"] = json!(true);
    document["anycast"]["reason"] = Value::Null;
    let text = render(&Reading::new(document.clone()).since(None));
    assert!(text.contains("\nservice addresses  announced\n"), "{text}");
    document["anycast"] = Value::Null;
    let text = render(&Reading::new(document).since(None));
    assert!(!text.contains("service addresses"), "{text}");
}

#[test]
fn queues_that_share_a_worker_have_a_table() {
    let mut document = document(1);
    assert!(!render(&Reading::new(document.clone()).since(None)).contains("OF SHARED WORKERS"));
    let queue = |number: u64| {
        json!({
            "interface": "eth0", "queue": number, "state": "running", "reason": null, "mode": "copy",
            "placement": "interrupt", "received": 1000 + number,
        })
    };
    let worker = document["workers"][0].as_object_mut().unwrap();
    worker.remove("interface");
    worker.insert("worker".to_owned(), json!(7));
    worker.insert("queues".to_owned(), json!([queue(4), queue(5)]));
    let text = render(&Reading::new(document).since(None));
    let table = "QUEUES OF SHARED WORKERS\n  \
                 queue   worker    placed by  mode  state    received\n  \
                 eth0:4  worker-7  interrupt  copy  running     1,004\n  \
                 eth0:5  worker-7  interrupt  copy  running     1,005\n";
    assert!(text.contains(table), "{text}");
    assert!(text.contains("  worker-7 (2 queues)  "), "{text}");
}

#[test]
fn a_server_without_figures_has_a_text() {
    let text = render(&Reading::new(json!({})).since(None));
    assert!(text.starts_with("heimdall, backend , up 0 s\n"), "{text}");
}

#[test]
fn the_beginning_is_a_time_or_a_file() {
    let time = |text: &str| matches!(since(text), Ok(Since::Now(_)));
    let file = |text: &str| matches!(since(text), Ok(Since::File(_)));
    assert!(time("10") && time("2min") && time("0.5s"));
    assert!(file("before.json") && file("./10") && file("2026-11-26.json"));
    assert!(since("0").is_err() && since("10d").is_err());
}

#[test]
fn a_file_has_to_be_a_document() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("before.json");
    let error = |file: &Path| read(file).unwrap_err().to_string();
    assert!(error(&file).starts_with("cannot read "), "{}", error(&file));
    for text in ["", "{}", "[1]", "\"uptime\""] {
        fs::write(&file, text).unwrap();
        assert!(error(&file).ends_with("save one with `heimdall stats --json`"));
    }
    fs::write(&file, document(1).to_string()).unwrap();
    assert_eq!(read(&file).unwrap().document(), &document(1));
}
