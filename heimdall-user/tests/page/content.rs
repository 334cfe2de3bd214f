//! What the page shows of ordinary documents.

use lab::{Availability, Sample};
use serde_json::{Value, json};

use crate::{SAMPLE, Viewer};

#[test]
fn the_overview_shows_what_the_document_has() {
    let Some(mut viewer) = Viewer::open("the_overview_shows_what_the_document_has") else {
        return;
    };
    viewer.wait_for("document.getElementById('state').dataset.state === 'wait'");
    viewer.show(SAMPLE, [100, 101]);
    viewer.wait_for("document.getElementById('state-text').textContent === 'Live'");

    let received = |uptime| {
        let document = Sample { uptime, ..SAMPLE }.document();
        let workers = document["workers"].as_array().unwrap().iter();
        workers
            .map(|worker| worker["received"].as_u64().unwrap())
            .sum::<u64>()
    };
    let rate = received(101) - received(100);
    let xdp = format!("{},{:03}/s", rate / 1000, rate % 1000);
    let tiles = viewer.text("document.getElementById('tiles').innerText");
    for part in [
        "Queries",
        "/s",
        &xdp,
        "UDP\n",
        "Hit ratio",
        "98.",
        "%",
        "11.5",
        "µs",
        "34.5",
        "ms",
        "2 of 3 usable",
    ] {
        assert!(tiles.contains(part), "{part}: {tiles}");
    }
    let queues = viewer.rows("Queues");
    assert_eq!(queues.len(), 4, "{queues:?}");
    assert_eq!(
        queues[3][..4],
        ["eth0:3", "3", "zero-copy", "running"],
        "{queues:?}"
    );
    let rate: f64 = queues[3][4].replace(',', "").parse().unwrap();
    assert!((8_000.0..22_000.0).contains(&rate), "{queues:?}");

    // What is zero is left out.
    assert_eq!(
        viewer.first_cells("Dropped, by reason"),
        ["Response", "Bad checksum"]
    );
    assert_eq!(
        viewer.first_cells("Lost before a worker saw them"),
        Vec::<String>::new()
    );
    assert!(
        viewer
            .text("document.body.innerText")
            .contains("None since the start.")
    );
    let upstreams = viewer.rows("Upstreams");
    assert_eq!(
        upstreams[0][..3],
        ["9.9.9.9:53", "up", "8.41 ms"],
        "{upstreams:?}"
    );
    assert_eq!(
        upstreams[2][..2],
        ["[2620:fe::fe]:53", "failed\nit does not respond"]
    );
    let errors = upstreams[0].last().unwrap();
    assert!(errors.contains("\nSERVFAIL "), "{errors}");
    assert_eq!(
        viewer.rows("Popular names")[0][..2],
        ["www.example.com.", "7.1 %"]
    );
    assert_eq!(
        viewer.first_cells("Busiest clients")[2],
        "2001:db8:20:4::/64"
    );
    assert_eq!(
        viewer.first_cells("Queries by type")[..3],
        ["A", "AAAA", "HTTPS"]
    );
    assert!(
        viewer
            .first_cells("Packets, by the XDP program’s verdict")
            .contains(&"Not served".to_owned())
    );
    let process = viewer.rows("Process");
    let fact = |title: &str| {
        process
            .iter()
            .find(|row| row[0] == title)
            .map(|row| row[1].as_str())
    };
    assert_eq!(fact("Version"), Some("0.1.0, b1cd257"));
    assert_eq!(fact("Up for"), Some("1 min 41 s"));
    assert_eq!(fact("Resident memory"), Some("659 MiB"));
    assert!(fact("CPU").unwrap().ends_with("% of a core"), "{process:?}");
    assert_eq!(fact("Log lines lost"), None);

    // A click sorts, another one the other way round.
    let sort = "[...document.querySelectorAll('table[aria-label=Queues] thead button')][4].click()";
    viewer.value(sort);
    let falling = viewer.first_cells("Queues");
    viewer.value(sort);
    let rising = viewer.first_cells("Queues");
    assert_eq!(rising, falling.iter().rev().cloned().collect::<Vec<_>>());
    assert_ne!(rising, ["eth0:0", "eth0:1", "eth0:2", "eth0:3"]);
    assert_eq!(
        viewer.text("document.querySelector('[aria-sort]').textContent"),
        "Queries/s"
    );

    // The chart tells its values to a pointer and to keys.
    viewer.show(SAMPLE, 102..110);
    viewer.value("document.querySelector('svg').focus()");
    viewer.browser.press("ArrowLeft").unwrap();
    let readout = viewer.text("document.querySelector('.feet').innerText");
    let parts = readout
        .lines()
        .nth(1)
        .and_then(|readout| readout.split_once(": queries "));
    assert!(
        parts.is_some_and(|(_, rate)| rate.ends_with("/s")),
        "{readout}"
    );
    viewer.assert_no_problems();
}

#[test]
fn what_the_hot_tier_answers_is_among_the_queries_and_hits() {
    let Some(mut viewer) = Viewer::open("what_the_hot_tier_answers_is_among_the_queries_and_hits")
    else {
        return;
    };
    for (uptime, hits) in [(100, 0), (101, 400_000)] {
        let mut document = Sample { uptime, ..SAMPLE }.document();
        document["tier"] = json!({
            "state": "off", "reason": "a reason", "entries": 812, "capacity": 10_000, "bytes": 415_744,
            "hits": hits, "types": { "a": hits }, "rcodes": { "noerror": hits }, "promotions": 20,
            "passed": { "not_held": 7, "due": 0 },
        });
        document["interfaces"][0]["tier"] = json!({ "state": "off", "reason": "a veth" });
        viewer.send(&document);
    }
    let queries = viewer.text("document.querySelector('#tiles .value').innerText");
    let queries: f64 = queries
        .trim_end_matches("/s")
        .trim()
        .replace(',', "")
        .parse()
        .unwrap();
    assert!((400_000.0..500_000.0).contains(&queries), "{queries}");
    let tiles = viewer.text("document.getElementById('tiles').innerText");
    assert!(tiles.contains("400,000/s"), "{tiles}");
    let expected = ["Answered", "Promoted", "Left: not in it"];
    assert_eq!(viewer.first_cells("Hot tier"), expected);
    let page = viewer.text("document.body.innerText");
    assert!(
        page.contains("off, a reason, 812 of 10,000 answers"),
        "{page}"
    );
    assert!(
        viewer.rows("Interfaces")[0]
            .iter()
            .any(|cell| cell == "off\na veth")
    );
    viewer.assert_no_problems();
}

#[test]
fn latencies_are_of_the_last_seconds() {
    let Some(mut viewer) = Viewer::open("latencies_are_of_the_last_seconds") else {
        return;
    };
    let tile = "document.querySelectorAll('#tiles .value')[2].innerText";
    let mut send = |uptime, pid, latency: Value| {
        let mut document = Sample { uptime, ..SAMPLE }.document();
        document["pid"] = json!(pid);
        document["latency"]["hits"] = latency;
        viewer.send(&document);
        (viewer.text(tile), viewer.rows("Latency"))
    };
    let fast = json!({ "count": 1000, "mean_us": 10, "p50_us": 10, "p99_us": 10, "max_us": 10, "buckets": [[10, 1000]] });
    let slow = json!({
        "count": 1100, "mean_us": 20, "p50_us": 10, "p99_us": 200, "max_us": 15_000_000,
        "buckets": [[10, 1000], [50, 60], [200, 39], [null, 1]],
    });
    let (p99, rows) = send(100, 1, fast.clone());
    assert_eq!(p99, "10.0 µs");
    assert_eq!(rows[0][0], "Hits\nsince the start");
    let (p99, rows) = send(101, 1, slow.clone());
    assert_eq!(p99, "200 µs");
    let last: Vec<_> = rows[0].iter().map(String::as_str).collect();
    assert_eq!(
        last,
        [
            "Hits\nlast 10 s",
            "120 µs",
            "50.0 µs",
            "200 µs",
            "200 µs",
            "15.0 s",
            "15.0 s"
        ]
    );
    assert_eq!(
        rows[1][..3],
        ["Hits\nsince the start", "20.0 µs", "10.0 µs"]
    );
    // Nothing in the last ten seconds.
    send(111, 1, slow.clone());
    let (p99, rows) = send(112, 1, slow.clone());
    assert_eq!(
        (p99.trim(), rows[0][0].as_str()),
        ("–", "Hits\nsince the start")
    );
    // Another server's times are not compared with this one's.
    let (p99, _) = send(1, 2, slow);
    assert_eq!(p99, "200 µs");
    // A version without buckets.
    let mut plain = fast;
    plain.as_object_mut().unwrap().remove("buckets");
    let (p99, rows) = send(2, 2, plain);
    assert_eq!(
        (p99.as_str(), rows[0][0].as_str()),
        ("10.0 µs", "Hits\nsince the start")
    );
    viewer.assert_no_problems();
}

#[test]
fn settings_values_and_findings_can_be_searched_and_copied() {
    let Some(mut viewer) = Viewer::open("settings_values_and_findings_can_be_searched_and_copied")
    else {
        return;
    };
    viewer.show(SAMPLE, [100, 101]);
    // Told in every view, before the findings are opened.
    viewer.wait_for("document.getElementById('doctor-count').textContent === '1 bad'");

    viewer.view("configuration");
    viewer.wait_for("settings.rows.size > 10");
    let rows = viewer.rows("Configuration in force");
    assert!(rows.contains(&vec![
        "listen".to_owned(),
        "192.0.2.53:53, [2001:db8::53]:53".to_owned()
    ]));
    assert!(rows.contains(&vec![
        "forward.client-subnet".to_owned(),
        "not set".to_owned()
    ]));
    assert!(rows.contains(&vec!["access.refuse".to_owned(), "none".to_owned()]));
    viewer.browser.press("/").unwrap();
    for key in ["c", "a", "c", "h", "e"] {
        viewer.browser.press(key).unwrap();
    }
    let found = viewer.first_cells("Configuration in force");
    assert!(
        found.iter().all(|key| key.contains("cache")) && found.len() == 4,
        "{found:?}"
    );

    viewer.view("values");
    viewer.value("document.getElementById('values-search').value = 'eth0:2 hits'; render(true)");
    assert_eq!(viewer.first_cells("All values"), ["workers[eth0:2].hits"]);

    viewer.view("doctor");
    viewer.wait_for("document.querySelectorAll('.finding').length === 4");
    let order = viewer
        .value("[...document.querySelectorAll('.finding strong')].map(check => check.textContent)");
    assert_eq!(
        order,
        json!(["vlan-offload", "rss-hash", "kernel", "bpf-jit"])
    );
    assert_eq!(
        viewer.value("document.getElementById('doctor-good').open"),
        json!(false)
    );
    // The clipboard may be refused; then the command is selected, ready to be copied by the user.
    viewer.value(
        "window.said = []; new MutationObserver(() => said.push(document.querySelector('.fix button').textContent)) \
         .observe(document.querySelector('.fix button'), { childList: true })",
    );
    viewer.value("document.querySelector('.fix button').click()");
    viewer.wait_for("['Copied', 'Press Ctrl+C'].includes(said[0]) && said[1] === 'Copy'");
    viewer.value("Object.defineProperty(navigator, 'clipboard', { value: undefined })");
    viewer.value("document.querySelectorAll('.fix button')[1].click()");
    viewer.wait_for("getSelection().toString() === 'ethtool -N eth0 rx-flow-hash udp4 sdfn'");

    // What cannot be loaded says why; what is there stays.
    viewer.assert_no_problems();
    viewer.server.set_availability(Availability::Refusing);
    viewer.value("loadDoctor()");
    viewer.wait_for("document.getElementById('doctor-about').textContent.includes('503')");
    assert_eq!(
        viewer.value("document.querySelectorAll('.finding').length"),
        json!(4)
    );
}
